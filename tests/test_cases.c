/* Cases with known answers, most of them from textbooks: operators on small integers, output sizes, a kernel
   that is learned, and the shapes, parameters and costs of the classic networks. */
#include "check.h"
#include "cnn.h"
#include "../examples/zoo.h"

enum { MOST = 256 };

#define LENGTH(array) ((int)(sizeof(array) / sizeof(array)[0]))

static cnn_tensor view(float *data, int n, int c, int h, int w) {
    const cnn_tensor t = {n, c, h, w, data};
    return t;
}

static int count_of(const cnn_tensor *t) {
    return t->n * t->c * t->h * t->w;
}

static void check_values(const char *name, const cnn_tensor *got, const float *want) {
    for (int i = 0; i < count_of(got); i++)
        CHECK(check_close((double)got->data[i], (double)want[i], 1e-6, 1e-6),
              "%s: element %d is %.9g, not %.9g", name, i, (double)got->data[i], (double)want[i]);
}

/* channels planes of 0, 1, 2, ..., each one more than the plane before. */
static void count_up(float *data, int channels, int plane) {
    for (int c = 0; c < channels; c++)
        for (int i = 0; i < plane; i++)
            data[c * plane + i] = (float)(c + i);
}

/* ---- convolution --------------------------------------------------------------------------------- */

static void test_corr2d(void) {
    static const float want[] = {19, 25, 37, 43};
    float image[9], weights[] = {0, 1, 2, 3}, flipped[] = {3, 2, 1, 0}, out[4];
    count_up(image, 1, 9);
    cnn_tensor x = view(image, 1, 1, 3, 3);
    cnn_tensor kernel = view(weights, 1, 1, 2, 2);
    cnn_tensor mirror = view(flipped, 1, 1, 2, 2);
    cnn_tensor y = view(out, 1, 1, 2, 2);
    CHECK(cnn_corr2d_forward(&x, &kernel, &y) == CNN_OK, "%s", cnn_last_error());
    check_values("corr2d", &y, want);
    CHECK(cnn_convolve2d_forward(&x, &mirror, &y) == CNN_OK, "%s", cnn_last_error());
    check_values("convolution with the flipped kernel", &y, want);
}

/* Convolutions of the counted image; weights 0 1 2 3, one more for each input and each output channel. */
/* clang-format off */
static const struct {
    const char *name;
    int in, out;
    cnn_conv2d_options options;
    int h, w;
    float want[16];
} conv_cases[] = {
    {"no padding", 1, 1, {0}, 2, 2, {19, 25, 37, 43}},
    {"padding 1", 1, 1, {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1}, 4, 4,
     {0, 3, 8, 4, 9, 19, 25, 10, 21, 37, 43, 16, 6, 7, 8, 0}},
    {"padding 1, stride 3,2", 1, 1,
     {.stride_h = 3, .stride_w = 2, .pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1}, 2, 2,
     {0, 8, 6, 8}},
    {"odd total padding: the extra row on top, the extra column on the left", 1, 1,
     {.pad_top = 1, .pad_left = 1}, 3, 3, {0, 3, 8, 9, 19, 25, 21, 37, 43}},
    {"two inputs", 2, 1, {0}, 2, 2, {56, 72, 104, 120}},
    {"two inputs, three outputs", 2, 3, {0}, 2, 2, {56, 72, 104, 120, 76, 100, 148, 172, 96, 128, 192, 224}},
};
/* clang-format on */

static void test_conv2d(void) {
    for (int k = 0; k < LENGTH(conv_cases); k++) {
        float image[2 * 9], weights[3 * 2 * 4], out[16];
        cnn_tensor x = view(image, 1, conv_cases[k].in, 3, 3);
        cnn_tensor weight = view(weights, conv_cases[k].out, conv_cases[k].in, 2, 2);
        cnn_tensor y = view(out, 0, 0, 0, 0);
        count_up(image, x.c, 9);
        for (int o = 0; o < weight.n; o++)
            for (int i = 0; i < 4 * weight.c; i++)
                weights[o * 4 * weight.c + i] = (float)(o + i / 4 + i % 4);
        CHECK(cnn_conv2d_shape(&x, &weight, &conv_cases[k].options, &y) == CNN_OK, "%s", cnn_last_error());
        CHECK(y.n == 1 && y.c == weight.n && y.h == conv_cases[k].h && y.w == conv_cases[k].w, "%s: %dx%dx%d",
              conv_cases[k].name, y.c, y.h, y.w);
        if (y.c != weight.n || y.h != conv_cases[k].h || y.w != conv_cases[k].w)
            continue;
        CHECK(cnn_conv2d_forward(&x, &weight, NULL, &conv_cases[k].options, &y) == CNN_OK, "%s",
              cnn_last_error());
        check_values(conv_cases[k].name, &y, conv_cases[k].want);
    }
}

/* A 1x1 convolution is a matrix product of the weights, 2x3, and the planes as rows, 3x9. */
static void test_conv1x1(void) {
    uint64_t random = check_seed();
    float image[27], weights[6], out[18], want[18];
    for (int i = 0; i < 27; i++)
        image[i] = check_uniform(&random);
    for (int i = 0; i < 6; i++)
        weights[i] = check_uniform(&random);
    for (int i = 0; i < 18; i++)
        want[i] = weights[i / 9 * 3] * image[i % 9] + weights[i / 9 * 3 + 1] * image[9 + i % 9] +
                  weights[i / 9 * 3 + 2] * image[18 + i % 9];
    const cnn_tensor x = view(image, 1, 3, 3, 3);
    const cnn_tensor weight = view(weights, 2, 3, 1, 1);
    cnn_tensor y = view(out, 1, 2, 3, 3);
    CHECK(cnn_conv2d_forward(&x, &weight, NULL, NULL, &y) == CNN_OK, "%s", cnn_last_error());
    check_values("1x1 convolution", &y, want);
}

/* A 6x8 image of ones with columns 2 to 5 zero, and what the kernel [1, -1] makes of it: the edges. */
static void edge_image(float *image, float *edges) {
    for (int i = 0; i < 6 * 8; i++)
        image[i] = i % 8 < 2 || i % 8 > 5 ? 1.0f : 0.0f;
    for (int i = 0; i < 6 * 7; i++)
        edges[i] = i % 7 == 1 ? 1.0f : i % 7 == 5 ? -1.0f : 0.0f;
}

static void test_edges(void) {
    static const float zeros[8 * 5] = {0};
    float image[48], edges[42], transposed[48], weights[] = {1, -1}, out[42];
    edge_image(image, edges);
    for (int i = 0; i < 48; i++)
        transposed[i] = image[i % 6 * 8 + i / 6];
    cnn_tensor x = view(image, 1, 1, 6, 8);
    cnn_tensor kernel = view(weights, 1, 1, 1, 2);
    cnn_tensor y = view(out, 1, 1, 6, 7);
    CHECK(cnn_corr2d_forward(&x, &kernel, &y) == CNN_OK, "%s", cnn_last_error());
    check_values("edges", &y, edges);
    x = view(transposed, 1, 1, 8, 6);
    y = view(out, 1, 1, 8, 5);
    CHECK(cnn_corr2d_forward(&x, &kernel, &y) == CNN_OK, "%s", cnn_last_error());
    check_values("edges of the transposed image", &y, zeros);
}

/* ---- pooling ------------------------------------------------------------------------------------- */

/* Pools of the counted image. */
/* clang-format off */
static const struct {
    const char *name;
    int max, c, size;
    cnn_pool2d_options options;
    int h, w;
    float want[8];
} pool_cases[] = {
    {"max 2 stride 1", 1, 1, 3, {2, 2, 1, 1, 0, 0, 0, 0, 0, 0}, 2, 2, {4, 5, 7, 8}},
    {"average 2 stride 1", 0, 1, 3, {2, 2, 1, 1, 0, 0, 0, 0, 0, 0}, 2, 2, {2, 3, 5, 6}},
    {"max 3, the stride is the window", 1, 1, 4, {3, 3, 0, 0, 0, 0, 0, 0, 0, 0}, 1, 1, {10}},
    {"max 3 padding 1 stride 2", 1, 1, 4, {3, 3, 2, 2, 1, 1, 0, 0, 0, 0}, 2, 2, {5, 7, 13, 15}},
    {"max 2x3 padding 0,1 stride 2,3", 1, 1, 4, {2, 3, 2, 3, 0, 1, 0, 0, 0, 0}, 2, 2, {5, 7, 13, 15}},
    {"max of two channels", 1, 2, 4, {3, 3, 2, 2, 1, 1, 0, 0, 0, 0}, 2, 2, {5, 7, 13, 15, 6, 8, 14, 16}},
    {"average, padding counted", 0, 1, 4, {3, 3, 2, 2, 1, 1, 0, 0, 0, 0}, 2, 2,
     {10.0f / 9, 24.0f / 9, 51.0f / 9, 10}},
    {"average, padding not counted", 0, 1, 4, {3, 3, 2, 2, 1, 1, 0, 0, 0, 1}, 2, 2, {2.5f, 4, 8.5f, 10}},
};
/* clang-format on */

static void test_pools(void) {
    for (int k = 0; k < LENGTH(pool_cases); k++) {
        float image[2 * 16], out[8];
        cnn_tensor x = view(image, 1, pool_cases[k].c, pool_cases[k].size, pool_cases[k].size);
        cnn_tensor y = view(out, 0, 0, 0, 0);
        const cnn_pool2d_options *options = &pool_cases[k].options;
        count_up(image, x.c, x.h * x.w);
        CHECK(cnn_pool2d_shape(&x, options, pool_cases[k].max, &y) == CNN_OK, "%s", cnn_last_error());
        CHECK(y.n == 1 && y.c == x.c && y.h == pool_cases[k].h && y.w == pool_cases[k].w, "%s: %dx%dx%d",
              pool_cases[k].name, y.c, y.h, y.w);
        if (y.h != pool_cases[k].h || y.w != pool_cases[k].w)
            continue;
        const cnn_status status = pool_cases[k].max ? cnn_maxpool2d_forward(&x, options, &y, NULL)
                                                    : cnn_avgpool2d_forward(&x, options, &y);
        CHECK(status == CNN_OK, "%s", cnn_last_error());
        check_values(pool_cases[k].name, &y, pool_cases[k].want);
    }
}

/* The padding of max pooling is minus infinity, not zero: it never wins. */
static void test_negative_maxpool(void) {
    static const float want[] = {-5, -7, -13, -15};
    float image[] = {-5, -7, -13, -15}, out[4];
    int indices[4];
    const cnn_tensor x = view(image, 1, 1, 2, 2);
    const cnn_pool2d_options options = {2, 2, 2, 2, 1, 1, 0, 0, 0, 0};
    cnn_tensor y = view(out, 1, 1, 2, 2);
    CHECK(cnn_maxpool2d_forward(&x, &options, &y, indices) == CNN_OK, "%s", cnn_last_error());
    check_values("max pooling of negative numbers", &y, want);
    for (int i = 0; i < 4; i++)
        CHECK(indices[i] == i, "maximum of window %d is at %d", i, indices[i]);
}

/* ---- sizes --------------------------------------------------------------------------------------- */

static void test_output_sizes(void) {
    static const struct {
        int size, kernel_h, kernel_w;
        cnn_conv2d_options options;
        int h, w;
    } cases[] = {
        {8, 3, 3, {1, 1, 1, 1, 1, 1, 0, 0, 0, CNN_PAD_ZEROS, 0}, 8, 8},
        {8, 5, 3, {1, 1, 2, 2, 1, 1, 0, 0, 0, CNN_PAD_ZEROS, 0}, 8, 8},
        {8, 3, 3, {2, 2, 1, 1, 1, 1, 0, 0, 0, CNN_PAD_ZEROS, 0}, 4, 4},
        {8, 5, 3, {3, 4, 2, 2, 1, 1, 0, 0, 0, CNN_PAD_ZEROS, 0}, 3, 2},
        {5, 2, 2, {3, 2, 0, 0, 0, 0, 0, 0, 0, CNN_PAD_ZEROS, 0}, 2, 2},
        {8, 2, 2, {1, 1, 1, 0, 1, 0, 0, 0, 0, CNN_PAD_ZEROS, 0}, 8, 8},
        {8, 4, 6, {1, 1, 2, 1, 3, 2, 0, 0, 0, CNN_PAD_ZEROS, 0}, 8, 8},
        {8, 3, 2, {1, 1, 0, 0, 0, 0, 3, 5, 0, CNN_PAD_ZEROS, 0}, 2, 3},
    };
    for (int k = 0; k < LENGTH(cases); k++) {
        const cnn_tensor x = view(NULL, 1, 1, cases[k].size, cases[k].size);
        const cnn_tensor weight = view(NULL, 1, 1, cases[k].kernel_h, cases[k].kernel_w);
        cnn_tensor y = view(NULL, 0, 0, 0, 0);
        CHECK(cnn_conv2d_shape(&x, &weight, &cases[k].options, &y) == CNN_OK, "case %d: %s", k,
              cnn_last_error());
        CHECK(y.n == 1 && y.c == 1 && y.h == cases[k].h && y.w == cases[k].w, "case %d: %dx%d, not %dx%d", k,
              y.h, y.w, cases[k].h, cases[k].w);
    }
}

static void test_receptive_field(void) {
    for (int kernel = 2; kernel <= 3; kernel++) {
        const cnn_layer layers[] = {cnn_conv2d(1, kernel, 1, 0), cnn_conv2d(1, kernel, 1, 0)};
        const uint64_t want = (uint64_t)(2 * kernel - 1);
        cnn_layer_info info[2];
        CHECK(cnn_layers_infer(layers, 2, 1, 9, 9, info) == CNN_OK, "%s", cnn_last_error());
        CHECK(info[0].receptive_h == (uint64_t)kernel && info[0].receptive_w == (uint64_t)kernel,
              "one layer of %d", kernel);
        CHECK(info[1].receptive_h == want && info[1].receptive_w == want, "two layers of %d see %dx%d",
              kernel, (int)info[1].receptive_h, (int)info[1].receptive_w);
    }
}

/* ---- learning a kernel --------------------------------------------------------------------------- */

/* One step of gradient descent on the sum of squared errors over the edge image; the loss before it. The
   kernel has two values, bias is NULL or one. */
static double learning_step(float *kernel, float *bias, float rate) {
    float image[48], edges[42], out[42], error[42], gradient[3] = {0};
    edge_image(image, edges);
    const cnn_tensor x = view(image, 1, 1, 6, 8);
    const cnn_tensor target = view(edges, 1, 1, 6, 7);
    const cnn_tensor weight = view(kernel, 1, 1, 1, 2);
    const cnn_tensor b = view(bias, 1, 1, 1, 1);
    cnn_tensor y = view(out, 1, 1, 6, 7);
    cnn_tensor dy = view(error, 1, 1, 6, 7);
    cnn_tensor dw = view(gradient, 1, 1, 1, 2);
    cnn_tensor db = view(gradient + 2, 1, 1, 1, 1);
    double loss = -1;
    CHECK(cnn_conv2d_forward(&x, &weight, bias ? &b : NULL, NULL, &y) == CNN_OK &&
              cnn_squared_error_forward(&y, &target, CNN_SUM, &loss) == CNN_OK &&
              cnn_squared_error_backward(&y, &target, CNN_SUM, &dy) == CNN_OK &&
              cnn_conv2d_backward(&x, &weight, &dy, NULL, NULL, &dw, bias ? &db : NULL) == CNN_OK,
          "%s", cnn_last_error());
    for (int i = 0; i < 2; i++)
        kernel[i] -= rate * gradient[i];
    if (bias)
        *bias -= rate * gradient[2];
    return loss;
}

/* Let e = kernel - [1, -1]. The pairs of neighbours in a row of the image are (1,1) twice, (1,0) and (0,1)
   once, so the loss of six rows is 6 (2 (e0 + e1)^2 + e0^2 + e1^2) = 15 (e0 + e1)^2 + 3 (e0 - e1)^2. A step
   multiplies the sum of e by 1 - 60*rate and its difference by 1 - 12*rate: where gradient descent ends is
   known exactly. */
static void test_learning(void) {
    static const float starts[][2] = {{0, 0}, {0.5f, 0.3f}, {-0.7f, 0.7f}, {-0.2f, -0.6f}};
    for (int k = 0; k < LENGTH(starts); k++) {
        float kernel[2] = {starts[k][0], starts[k][1]};
        const double sum = ((double)kernel[0] + (double)kernel[1]) * pow(1 - 60 * 0.03, 10);
        const double difference = ((double)kernel[0] - (double)kernel[1] - 2) * pow(1 - 12 * 0.03, 10);
        for (int step = 0; step < 10; step++)
            learning_step(kernel, NULL, 0.03f);
        CHECK(check_close((double)kernel[0], 1 + (sum + difference) / 2, 1e-5, 0) &&
                  check_close((double)kernel[1], -1 + (sum - difference) / 2, 1e-5, 0),
              "kernel %g %g, sum and difference off by %g and %g", (double)kernel[0], (double)kernel[1], sum,
              difference);
        CHECK(check_close((double)kernel[0], 1, 0.1, 0) && check_close((double)kernel[1], -1, 0.1, 0),
              "kernel %g %g is not near 1 -1", (double)kernel[0], (double)kernel[1]);
        const double loss = learning_step(kernel, NULL, 0);
        CHECK(check_close(loss, 15 * sum * sum + 3 * difference * difference, 1e-4, 0), "loss %g", loss);
    }
}

/* With a bias, 20 steps of 0.01; the difference of the kernel shrinks as above, and the loss is mostly its.
 */
static void test_learning_with_bias(void) {
    float kernel[2] = {0.7f, -0.7f};
    float bias = 0.3f;
    double loss = learning_step(kernel, &bias, 0.01f);
    CHECK(loss > 1, "loss %g at the start", loss);
    for (int step = 1; step < 20; step++)
        learning_step(kernel, &bias, 0.01f);
    loss = learning_step(kernel, &bias, 0);
    CHECK(check_close((double)kernel[0], 1, 0.05, 0) && check_close((double)kernel[1], -1, 0.05, 0) &&
              check_close((double)bias, 0, 0.02, 0) && loss < 0.02,
          "kernel %g %g, bias %g, loss %g", (double)kernel[0], (double)kernel[1], (double)bias, loss);
}

/* ---- networks ------------------------------------------------------------------------------------ */

typedef struct shape {
    int c, h, w;
} shape;

/* The outputs of the layers that change the shape, in turn. macs 0: not known. */
/* clang-format off */
static const struct {
    const char *name;
    int c, h, w;
    size_t parameters;
    uint64_t macs;
    shape shapes[16]; /* c of 0 ends them */
} networks[] = {
    {"lenet", 1, 28, 28, 61706, 416520,
     {{6, 28, 28}, {6, 14, 14}, {16, 10, 10}, {16, 5, 5}, {400, 1, 1}, {120, 1, 1}, {84, 1, 1}, {10, 1, 1}}},
    {"lenet-max", 1, 28, 28, 44426, 0,
     {{6, 24, 24}, {6, 12, 12}, {16, 8, 8}, {16, 4, 4}, {256, 1, 1}, {120, 1, 1}, {84, 1, 1}, {10, 1, 1}}},
    {"alexnet", 1, 224, 224, 31310922, 0,
     {{96, 54, 54}, {96, 26, 26}, {256, 26, 26}, {256, 12, 12}, {384, 12, 12}, {384, 12, 12}, {384, 12, 12},
      {256, 12, 12}, {256, 5, 5}, {6400, 1, 1}, {4096, 1, 1}, {10, 1, 1}}},
    {"convnet", 3, 32, 32, 36039434, 0,
     {{64, 34, 34}, {64, 16, 16}, {384, 18, 18}, {384, 8, 8}, {384, 6, 6}, {256, 4, 4}, {4096, 1, 1},
      {4096, 1, 1}, {4096, 1, 1}, {10, 1, 1}}},
};
/* clang-format on */

static int keeps_shape(cnn_layer_kind kind) {
    return kind == CNN_SIGMOID || kind == CNN_TANH || kind == CNN_RELU || kind == CNN_SOFTMAX ||
           kind == CNN_DROPOUT;
}

static void check_network(int k, const zoo_entry *net) {
    cnn_layer_info info[MOST];
    size_t parameters = 0;
    uint64_t macs = 0;
    int next = 0;
    CHECK(net->c == networks[k].c && net->h == networks[k].h && net->w == networks[k].w, "%s: input",
          net->name);
    CHECK(net->count <= MOST &&
              cnn_layers_infer(net->layers, net->count, net->c, net->h, net->w, info) == CNN_OK,
          "%s: %s", net->name, cnn_last_error());
    shape last = {net->c, net->h, net->w};
    for (int i = 0; i < net->count; i++) {
        const cnn_layer_info *layer = &info[i];
        const shape want = keeps_shape(net->layers[i].kind) ? last : networks[k].shapes[next++];
        CHECK(layer->in_c == last.c && layer->in_h == last.h && layer->in_w == last.w,
              "%s, layer %d: input %dx%dx%d", net->name, i, layer->in_c, layer->in_h, layer->in_w);
        CHECK(layer->c == want.c && layer->h == want.h && layer->w == want.w, "%s, layer %d (%s): %dx%dx%d",
              net->name, i, layer->name, layer->c, layer->h, layer->w);
        parameters += layer->weights + layer->biases;
        macs += layer->macs;
        last = want;
    }
    CHECK(networks[k].shapes[next].c == 0, "%s has too few layers", net->name);
    CHECK(parameters == networks[k].parameters, "%s: %lu parameters", net->name, (unsigned long)parameters);
    CHECK(!networks[k].macs || macs == networks[k].macs, "%s: %lu multiply-accumulates", net->name,
          (unsigned long)macs);
}

static void test_networks(void) {
    for (int k = 0; k < LENGTH(networks); k++) {
        const zoo_entry *net = zoo_find(networks[k].name);
        CHECK(net, "no network %s", networks[k].name);
        if (net)
            check_network(k, net);
    }
}

/* 3 input channels, 8 output channels, 100x100 outputs; two operations a multiply-accumulate. */
static void test_cost_of_kernel_size(void) {
    static const struct {
        int kernel;
        size_t parameters;
        uint64_t operations;
    } cases[] = {{3, 216, 4320000},
                 {5, 600, 12000000},
                 {7, 1176, 23520000},
                 {9, 1944, 38880000},
                 {11, 2904, 58080000}};
    for (int k = 0; k < LENGTH(cases); k++) {
        cnn_layer layer = cnn_conv2d(8, cases[k].kernel, 1, cases[k].kernel / 2);
        cnn_layer_info info;
        layer.no_bias = 1;
        CHECK(cnn_layers_infer(&layer, 1, 3, 100, 100, &info) == CNN_OK, "%s", cnn_last_error());
        CHECK(info.c == 8 && info.h == 100 && info.w == 100, "%dx%dx%d", info.c, info.h, info.w);
        CHECK(info.weights == cases[k].parameters && info.biases == 0, "kernel %d: %lu weights",
              cases[k].kernel, (unsigned long)info.weights);
        CHECK(2 * info.macs == cases[k].operations, "kernel %d: %lu operations", cases[k].kernel,
              (unsigned long)(2 * info.macs));
    }
}

int main(void) {
    test_corr2d();
    test_conv2d();
    test_conv1x1();
    test_edges();
    test_pools();
    test_negative_maxpool();
    test_output_sizes();
    test_receptive_field();
    test_learning();
    test_learning_with_bias();
    test_networks();
    test_cost_of_kernel_size();
    return check_done();
}
