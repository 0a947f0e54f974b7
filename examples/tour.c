/* A tour of convolutional neural networks: what a convolution computes, how its kernel is learned, and how
   convolutions and pooling make LeNet. Each function below is a section of what the program prints. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define CNN_IMPLEMENTATION
#include "cnn.h"
#include "zoo.h"

static void ok(cnn_status status) {
    if (status == CNN_OK)
        return;
    fprintf(stderr, "tour: %s\n", cnn_last_error());
    exit(1);
}

static void section(const char *title, const char *text) {
    static int number;
    number++;
    printf("%s%d. %s\n\n%s\n", number > 1 ? "\n\n" : "", number, title, text);
}

/* Tensors are drawn side by side on a sheet of text, which show() prints and clears. */
static char sheet[16][128];
static int sheet_width;

/* Draws a tensor to the right of the others, its planes below one another; format is an element's. */
static void draw(const char *name, const char *format, const cnn_tensor *t) {
    const int left = sheet_width + 4;
    int at = (int)strlen(sheet[0]);
    sheet_width = at + sprintf(sheet[0] + at, "%*s%s", left - at, "", name);
    for (int i = 0; i < t->n * t->c * t->h; i++) {
        char *line = sheet[1 + i + i / t->h];
        at = (int)strlen(line);
        at += sprintf(line + at, "%*s[", left - at, "");
        for (int j = 0; j < t->w; j++)
            at += sprintf(line + at, format, (double)t->data[i * t->w + j] + 0.0); /* + 0.0: -0 becomes 0 */
        at += sprintf(line + at, " ]");
        sheet_width = at > sheet_width ? at : sheet_width;
    }
}

static void show(void) {
    int lines = 16;
    while (!sheet[lines - 1][0])
        lines--;
    puts("");
    for (int i = 0; i < lines; i++)
        puts(sheet[i]);
    memset(sheet, 0, sizeof sheet);
    sheet_width = 0;
}

/* Pseudorandom, in -1..1, the same on every machine. */
static float uniform(void) {
    static uint32_t state = 2036;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1.0f;
}

static float counting[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const cnn_tensor x3 = {1, 1, 3, 3, counting};
static const cnn_tensor k2 = {1, 1, 2, 2, counting};

static void cross_correlation(void) {
    section("Cross-correlation and convolution",
            "A kernel slides over an image. At every place the pixels under it are multiplied by its\n"
            "weights and summed: y[i][j] is the sum over a and b of x[i+a][j+b] * kernel[a][b]. The\n"
            "first sum here is 0*0 + 1*1 + 3*2 + 4*3 = 19. In n pixels a kernel of k has n - k + 1 places.");
    cnn_tensor y = {1, 1, 2, 2, (float[4]){0}};
    ok(cnn_corr2d_forward(&x3, &k2, &y));
    draw("x", "%2.0f", &x3);
    draw("kernel", "%2.0f", &k2);
    draw("y", "%3.0f", &y);
    show();
    puts("\nThe convolution of mathematics reads the kernel backwards: it is the cross-correlation with the\n"
         "kernel flipped in both directions. A kernel that is learned would come out flipped and do the\n"
         "same work, so networks use cross-correlation and call it convolution.");
    const cnn_tensor flipped = {1, 1, 2, 2, (float[]){3, 2, 1, 0}};
    cnn_tensor convolved = {1, 1, 2, 2, (float[4]){0}};
    cnn_tensor correlated = {1, 1, 2, 2, (float[4]){0}};
    ok(cnn_convolve2d_forward(&x3, &k2, &convolved));
    ok(cnn_corr2d_forward(&x3, &flipped, &correlated));
    draw("kernel", "%2.0f", &k2);
    draw("x convolved with it", "%3.0f", &convolved);
    draw("flipped kernel", "%2.0f", &flipped);
    draw("x correlated with it", "%3.0f", &correlated);
    show();
}

static float stripe[48], fallen_stripe[48], stripe_edges[42];
static const cnn_tensor image = {1, 1, 6, 8, stripe};
static cnn_tensor edges = {1, 1, 6, 7, stripe_edges};

static void edge_detection(void) {
    section("Edge detection",
            "The kernel [1 -1] takes from each pixel its right neighbour: 1 where ones end, -1 where they\n"
            "begin, 0 where nothing changes. In the image on its side the edges run along the rows, and\n"
            "a kernel that compares left with right sees none of them.");
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 8; j++)
            stripe[i * 8 + j] = fallen_stripe[j * 6 + i] = j < 2 || j > 5 ? 1.0f : 0.0f;
    const cnn_tensor difference = {1, 1, 1, 2, (float[]){1, -1}};
    const cnn_tensor fallen_image = {1, 1, 8, 6, fallen_stripe};
    cnn_tensor fallen_edges = {1, 1, 8, 5, (float[40]){0}};
    ok(cnn_corr2d_forward(&image, &difference, &edges));
    ok(cnn_corr2d_forward(&fallen_image, &difference, &fallen_edges));
    draw("x", "%2.0f", &image);
    draw("kernel", "%3.0f", &difference);
    draw("y", "%3.0f", &edges);
    show();
    draw("x on its side", "%2.0f", &fallen_image);
    draw("y", "%3.0f", &fallen_edges);
    show();
}

/* Gradient descent on the squared error of a kernel, and of a bias unless it is NULL. The edges are those
   that edge_detection() found. */
static void learn(cnn_tensor *kernel, cnn_tensor *bias, float lr, int steps) {
    const cnn_sgd_options sgd = {.lr = lr};
    cnn_tensor y = {1, 1, 6, 7, (float[42]){0}};
    cnn_tensor dy = {1, 1, 6, 7, (float[42]){0}};
    for (int step = 0; step <= steps; step++) {
        cnn_tensor dkernel = {1, 1, 1, 2, (float[2]){0}};
        cnn_tensor dbias = {1, 1, 1, 1, (float[1]){0}};
        double loss;
        ok(cnn_conv2d_forward(&image, kernel, bias, NULL, &y));
        ok(cnn_squared_error_forward(&y, &edges, CNN_SUM, &loss));
        if (step % (steps / 5) == 0) {
            printf("    step %2d   loss %6.3f", step, loss);
            printf("   kernel [ %6.3f %6.3f ]", (double)kernel->data[0], (double)kernel->data[1]);
            if (bias)
                printf("   bias %6.3f", (double)bias->data[0]);
            puts("");
        }
        ok(cnn_squared_error_backward(&y, &edges, CNN_SUM, &dy));
        ok(cnn_conv2d_backward(&image, kernel, &dy, NULL, NULL, &dkernel, bias ? &dbias : NULL));
        ok(cnn_sgd_step(&sgd, kernel->data, dkernel.data, NULL, 2));
        if (bias)
            ok(cnn_sgd_step(&sgd, bias->data, dbias.data, NULL, 1));
    }
}

static void learning(void) {
    section("Learning a kernel",
            "Given the image and its edges, the kernel can be found: start anywhere and follow the gradient\n"
            "of the squared error downhill. The backward pass turns the gradient of the result into that of\n"
            "the kernel. Ten steps of 0.03 times the gradient come near [1 -1].\n");
    cnn_tensor kernel = {1, 1, 1, 2, (float[]){uniform(), uniform()}};
    learn(&kernel, NULL, 0.03f, 10);
    puts("\nWith a bias, a number added to every result, twenty steps of 0.01 find that none is needed.\n");
    cnn_tensor another = {1, 1, 1, 2, (float[]){uniform(), uniform()}};
    cnn_tensor bias = {1, 1, 1, 1, (float[]){0}};
    learn(&another, &bias, 0.01f, 20);
}

static void draw_conv2d(const char *name, const cnn_tensor *x, const cnn_tensor *kernel,
                        const cnn_conv2d_options *options) {
    cnn_tensor y = {.data = (float[16]){0}}; /* room for any result here */
    ok(cnn_conv2d_shape(x, kernel, options, &y));
    ok(cnn_conv2d_forward(x, kernel, NULL, options, &y));
    draw(name, "%4.0f", &y);
}

static void padding_and_stride(void) {
    section("Padding and stride",
            "A convolution shaves rows and columns off its image. Zeros around the image, the padding, keep\n"
            "its size or let it grow; a stride moves the kernel by several pixels and leaves fewer results:\n"
            "(n + 2p - k)/s + 1, rounded down. Kernels are mostly odd because p = (k - 1)/2 then keeps n.");
    const cnn_conv2d_options padded = {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
    cnn_conv2d_options strided = padded;
    strided.stride_h = 3;
    strided.stride_w = 2;
    draw("x", "%2.0f", &x3);
    draw("kernel", "%2.0f", &k2);
    draw_conv2d("padding 1", &x3, &k2, &padded);
    draw_conv2d("padding 1, stride 3x2", &x3, &k2, &strided);
    show();
}

static void channels(void) {
    section("Channels",
            "A color image has three planes, its channels. A kernel then has a plane for each of them, and\n"
            "their cross-correlations are added up: 19 + 37 = 56.");
    static float pixels[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    static float weights[] = {0, 1, 2, 3, 1, 2, 3, 4, 1, 2, 3, 4, 2, 3, 4, 5, 2, 3, 4, 5, 3, 4, 5, 6};
    const cnn_tensor x = {1, 2, 3, 3, pixels};
    const cnn_tensor k0 = {1, 2, 2, 2, weights};
    const cnn_tensor k1 = {1, 2, 2, 2, weights + 8};
    const cnn_tensor all = {3, 2, 2, 2, weights};
    draw("x", "%2.0f", &x);
    draw("kernel", "%2.0f", &k0);
    draw_conv2d("y", &x, &k0, NULL);
    show();
    puts("\nSeveral kernels give several channels, each looking for a pattern of its own. This kernel, the\n"
         "same plus 1 and the same plus 2 make a weight of output channels x input channels x height x\n"
         "width: 3x2x2x2.");
    draw("x", "%2.0f", &x);
    draw("second kernel", "%2.0f", &k1);
    draw_conv2d("y", &x, &all, NULL);
    show();
}

static void one_by_one(void) {
    section("1x1 convolution",
            "A kernel of one pixel sees no neighbours; it mixes the channels of each pixel. With a channel\n"
            "laid out as a row it is a product of matrices: kernel (2x3) times x (3x9) is y (2x9).");
    float pixels[33], *const weights = pixels + 27, difference = 0;
    for (int i = 0; i < 33; i++)
        pixels[i] = uniform();
    const cnn_tensor x = {1, 3, 3, 3, pixels};
    const cnn_tensor kernel = {2, 3, 1, 1, weights};
    cnn_tensor y = {1, 2, 3, 3, (float[18]){0}};
    ok(cnn_conv2d_forward(&x, &kernel, NULL, NULL, &y));
    for (int i = 0; i < 18; i++) {
        const float *row = weights + i / 9 * 3, *column = pixels + i % 9;
        const float product = row[0] * column[0] + row[1] * column[9] + row[2] * column[18];
        difference = fmaxf(difference, fabsf(y.data[i] - product));
    }
    draw("kernel", "%6.2f", &(cnn_tensor){1, 1, 2, 3, weights});
    draw("x", "%6.2f", &(cnn_tensor){1, 1, 3, 9, pixels});
    show();
    draw("y", "%6.2f", &(cnn_tensor){1, 1, 2, 9, y.data});
    show();
    printf("\nLargest difference from the product of the matrices: %.6f\n", (double)difference);
}

static void draw_maxpool(const char *name, const cnn_tensor *x, cnn_pool2d_options options) {
    cnn_tensor y = {.data = (float[16]){0}}; /* room for any result here */
    ok(cnn_pool2d_shape(x, &options, 1, &y));
    ok(cnn_maxpool2d_forward(x, &options, &y, NULL));
    draw(name, "%3.0f", &y);
}

static void pooling(void) {
    section("Pooling",
            "Pooling keeps one number of each window, the greatest or the mean, so that it matters less\n"
            "where exactly a pattern was found. It has no weights, and treats every channel alone.");
    const cnn_pool2d_options window2 = {.kernel_h = 2, .kernel_w = 2, .stride_h = 1, .stride_w = 1};
    const cnn_pool2d_options window3 = {.kernel_h = 3, .kernel_w = 3};
    const cnn_pool2d_options window2x3 = {.kernel_h = 2, .kernel_w = 3, .pad_w = 1};
    cnn_pool2d_options padded = window3;
    padded.stride_h = padded.stride_w = 2;
    padded.pad_h = padded.pad_w = 1;
    cnn_tensor mean = {1, 1, 2, 2, (float[4]){0}};
    ok(cnn_avgpool2d_forward(&x3, &window2, &mean));
    draw("x", "%2.0f", &x3);
    draw_maxpool("maximum, window 2, stride 1", &x3, window2);
    draw("mean, window 2, stride 1", "%3.0f", &mean);
    show();
    puts("\nThe stride is the window's size unless given. Padding never wins a maximum.");
    float pixels[32];
    for (int i = 0; i < 32; i++)
        pixels[i] = counting[i % 16] + (float)(i / 16);
    const cnn_tensor x4 = {1, 1, 4, 4, pixels};
    const cnn_tensor two = {1, 2, 4, 4, pixels};
    draw("x", "%3.0f", &x4);
    draw_maxpool("window 3", &x4, window3);
    draw_maxpool("window 3, padding 1, stride 2", &x4, padded);
    draw_maxpool("window 2x3, padding 0x1", &x4, window2x3);
    show();
    draw("x of two channels", "%3.0f", &two);
    draw_maxpool("window 3, padding 1, stride 2", &two, padded);
    show();
}

static void sight_and_cost(void) {
    section("What a kernel sees and what it costs",
            "A result of the second of two convolutions sees, through those of the first, more of the image\n"
            "than one kernel covers: its receptive field.\n");
    for (int k = 2; k <= 3; k++) {
        const cnn_layer conv = {.kind = CNN_CONV2D, .out = 1, .kernel = k}, stack[] = {conv, conv};
        cnn_layer_info info[2];
        ok(cnn_layers_infer(stack, 2, 1, 28, 28, info));
        printf("    two convolutions of %dx%d see %dx%d\n", k, k, (int)info[1].receptive_h,
               (int)info[1].receptive_w);
    }
    puts("\nFrom 3 channels to 8, for 100x100 results and without a bias, each weight is used once at every\n"
         "place, for a multiplication and an addition. A kernel twice as wide costs four times as much,\n"
         "which is why large kernels gave way to stacks of small ones.\n");
    for (int k = 3; k <= 11; k += 2) {
        const cnn_layer conv = {.kind = CNN_CONV2D, .out = 8, .kernel = k, .no_bias = 1};
        cnn_layer_info info;
        ok(cnn_layers_infer(&conv, 1, 3, 99 + k, 99 + k, &info));
        printf("    kernel %2d   %4d parameters   %8d operations\n", k, (int)info.weights,
               (int)(2 * info.macs));
    }
}

static void lenet(void) {
    section("LeNet",
            "Convolutions find patterns, pooling makes room for more of them, and linear layers judge what\n"
            "was found. A network is a table of layers, and its shapes follow from the table.\n");
    const zoo_entry *const net = zoo_find("lenet");
    cnn_layer_info info[sizeof zoo_lenet / sizeof zoo_lenet[0]];
    int parameters = 0;
    int macs = 0;
    ok(cnn_layers_infer(net->layers, net->count, net->c, net->h, net->w, info));
    printf("    %-10s %3dx%dx%d\n", "image", net->c, net->h, net->w);
    for (int i = 0; i < net->count; i++) {
        printf("    %-10s %3dx%dx%d\n", info[i].name, info[i].c, info[i].h, info[i].w);
        parameters += (int)(info[i].weights + info[i].biases);
        macs += (int)info[i].macs;
    }
    printf("\nIt has %d parameters, and an image costs %d multiplications and additions. How the kernels\n"
           "are learned is no different from the one kernel above; lenet_fashion.c does it.\n",
           parameters, macs);
}

int main(void) {
    cross_correlation();
    edge_detection();
    learning();
    padding_and_stride();
    channels();
    one_by_one();
    pooling();
    sight_and_cost();
    lenet();
    return 0;
}
