/* Networks against chains of the public operators; equal bits for every number of threads; one network used
   by several threads at once; fitting, evaluating, shuffling and initialising. */
#include "check.h"

#include <time.h>
#include "cnn.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))
#define GOOD(call)   CHECK((call) == CNN_OK, "seed %lu: %s", (unsigned long)check_seed(), cnn_last_error())

enum { LAYERS_MAX = 8, BATCH_MAX = 40, PREDICTORS = 4 };

static const char *const isas[] = {"avx512", "avx2", "sse2", "neon", "vector", "scalar"};
static const char *isa_name;

static float *random_floats(uint64_t *state, size_t count) {
    float *values = (float *)malloc(count * sizeof(float));
    for (size_t i = 0; i < count; i++)
        values[i] = check_uniform(state);
    return values;
}

static double largest(const float *values, size_t count) {
    double most = 0;
    for (size_t i = 0; i < count; i++)
        most = fmax(most, fabs((double)values[i]));
    return most;
}

/* ---- random networks -------------------------------------------------------------------------------------
 */

/* A network with random layers and parameters, a batch for it, and dy of its outputs. */
typedef struct trial {
    cnn_layer layers[LAYERS_MAX];
    int count;
    cnn_net *net;
    int batch;
    int c, h, w;
    int out_c, out_h, out_w;
    size_t features, outputs, parameters;
    float *x, *dy;
} trial;

static int smaller(int a, int b) {
    return a < b ? a : b;
}

/* A random window that fits an image of h x w; conv2d and pools alike. */
static void random_window(uint64_t *state, cnn_layer *layer, int h, int w) {
    const int side = check_range(state, 1, smaller(5, smaller(h, w)));
    if (check_range(state, 0, 1)) {
        layer->kernel = side;
    } else {
        layer->kernel_h = check_range(state, 1, smaller(5, h));
        layer->kernel_w = check_range(state, 1, smaller(4, w));
    }
    if (check_range(state, 0, 2) == 0)
        layer->stride = check_range(state, 1, 3);
    if (check_range(state, 0, 4) == 0)
        layer->stride_w = check_range(state, 1, 3);
}

static cnn_layer random_conv(uint64_t *state, int c, int h, int w) {
    cnn_layer layer = {.kind = CNN_CONV2D};
    random_window(state, &layer, h, w);
    if (check_range(state, 0, 3) == 0) { /* a dilated window that still fits */
        layer.kernel_h = layer.kernel_w = layer.kernel = 0;
        layer.kernel = 2;
        layer.dilation = check_range(state, 1, smaller(3, smaller(h, w)));
        layer.padding = 1;
    }
    layer.groups = check_range(state, 0, 2) ? 0 : c;
    if (c % 2 == 0 && check_range(state, 0, 1))
        layer.groups = 2;
    layer.out = check_range(state, 1, 5) * (layer.groups ? layer.groups : 1);
    layer.no_bias = check_range(state, 0, 3) == 0;
    layer.padding_mode = (cnn_padding_mode)(check_range(state, 0, 1) ? check_range(state, 0, 3) : 0);
    const int most = smaller(3, smaller(h, w) - (layer.padding_mode == CNN_PAD_REFLECT));
    if (layer.padding > most)
        layer.padding_mode = CNN_PAD_ZEROS;
    if (!layer.dilation)
        layer.padding = check_range(state, 0, most);
    if (check_range(state, 0, 3) == 0)
        layer.pad_left = check_range(state, 0, most);
    return layer;
}

static cnn_layer random_pool(uint64_t *state, int max, int h, int w) {
    cnn_layer layer = {.kind = max ? CNN_MAXPOOL2D : CNN_AVGPOOL2D};
    random_window(state, &layer, h, w);
    if (check_range(state, 0, 1) && layer.kernel)
        layer.padding = layer.kernel / 2;
    layer.ceil_mode = check_range(state, 0, 1);
    layer.exclude_padding = !max && check_range(state, 0, 1);
    if (max && layer.kernel == 2 && h > 3 && w > 3)
        layer.dilation = check_range(state, 0, 3);
    return layer;
}

/* A layer that is valid on an input of info's output shape. */
static cnn_layer random_layer(uint64_t *state, const cnn_layer_info *in, int dropout) {
    const int pick = check_range(state, 0, dropout ? 13 : 12);
    cnn_layer layer = {.kind = CNN_LINEAR};
    if (pick < 4)
        return random_conv(state, in->c, in->h, in->w);
    if (pick < 6)
        return random_pool(state, pick == 4, in->h, in->w);
    static const cnn_layer_kind plain[] = {CNN_SIGMOID, CNN_TANH,    CNN_RELU,
                                           CNN_SOFTMAX, CNN_FLATTEN, CNN_GLOBALAVGPOOL2D,
                                           CNN_LINEAR,  CNN_DROPOUT};
    layer.kind = plain[pick - 6];
    if (layer.kind == CNN_LINEAR) {
        layer.out = check_range(state, 1, 20);
        layer.no_bias = check_range(state, 0, 3) == 0;
    }
    if (layer.kind == CNN_DROPOUT)
        layer.p = check_range(state, 0, 1) ? 0.25f : 0;
    return layer;
}

/* The beginning of many networks, which the library takes strip by strip: a convolution, an activation or
   not, and a pool of windows side by side, whole or not. */
static cnn_layer strip_layer(uint64_t *state, const cnn_layer_info *in, int place) {
    static const cnn_layer_kind activations[] = {CNN_SIGMOID, CNN_TANH, CNN_RELU};
    cnn_layer layer = {.kind = check_range(state, 0, 1) ? CNN_MAXPOOL2D : CNN_AVGPOOL2D};
    if (place == 0) {
        layer = random_conv(state, in->c, in->h, in->w);
        layer.out = check_range(state, 1, 5);
        layer.groups = 0;
    } else if (place == 1 && check_range(state, 0, 3)) {
        layer.kind = activations[check_range(state, 0, 2)];
    } else {
        layer.kernel_h = check_range(state, 1, smaller(3, in->h));
        layer.kernel_w = check_range(state, 1, smaller(3, in->w));
    }
    return layer;
}

/* Parameters spread so that values keep their magnitude from layer to layer. */
static void random_parameters(uint64_t *state, cnn_net *net) {
    for (int i = 0; i < cnn_net_layer_count(net); i++) {
        const cnn_layer_info *info = cnn_net_layer_info(net, i);
        cnn_tensor part[2];
        GOOD(cnn_net_layer_parameters(net, i, &part[0], &part[1]));
        const double fan = info->weights ? (double)part[0].c * part[0].h * part[0].w : 1;
        const float scale = (float)(2 / sqrt(fan));
        for (size_t k = 0; k < info->weights; k++)
            part[0].data[k] = check_uniform(state) * scale;
        for (size_t k = 0; k < info->biases; k++)
            part[1].data[k] = check_uniform(state);
    }
}

/* The tables are there: creates the network, and draws the batch and what goes in. */
static void finish_trial(uint64_t *state, trial *t, int batch) {
    cnn_layer_info info[LAYERS_MAX];
    GOOD(cnn_layers_infer(t->layers, t->count, t->c, t->h, t->w, info));
    GOOD(cnn_net_create(&t->net, t->layers, t->count, t->c, t->h, t->w));
    t->batch = batch;
    t->out_c = info[t->count - 1].c;
    t->out_h = info[t->count - 1].h;
    t->out_w = info[t->count - 1].w;
    t->features = (size_t)(t->c * t->h * t->w);
    t->outputs = (size_t)(t->out_c * t->out_h * t->out_w);
    t->parameters = cnn_net_parameter_count(t->net);
    random_parameters(state, t->net);
    t->x = random_floats(state, (size_t)t->batch * t->features);
    t->dy = random_floats(state, (size_t)t->batch * t->outputs);
}

static trial make_trial(uint64_t *state, int dropout) {
    trial t = {.c = check_range(state, 1, 4), .h = check_range(state, 1, 13), .w = check_range(state, 1, 13)};
    cnn_layer_info info[LAYERS_MAX] = {{.c = t.c, .h = t.h, .w = t.w}};
    const int strips = check_range(state, 0, 1), count = check_range(state, strips ? 3 : 1, LAYERS_MAX);
    for (; t.count < count; t.count++) {
        const cnn_layer_info *in = &info[t.count ? t.count - 1 : 0];
        t.layers[t.count] =
            strips && t.count < 3 ? strip_layer(state, in, t.count) : random_layer(state, in, dropout);
        GOOD(cnn_layers_infer(t.layers, t.count + 1, t.c, t.h, t.w, info));
        if (info[t.count].c * info[t.count].h * info[t.count].w > 1500) { /* too slow to go on */
            t.count++;
            break;
        }
    }
    finish_trial(state, &t, check_range(state, 1, check_range(state, 0, 3) ? 9 : BATCH_MAX));
    return t;
}

/* Networks whose blocks go by Winograd: 3x3 kernels of 16 channels or more; alone, with an activation, or a pool
   of 1 to 4 rows besides; a second convolution, which needs dx; one of them wide. Batches with blocks that are
   full or not, and with examples beyond them. */
static trial make_winograd_trial(uint64_t *state, int k) {
    static const cnn_layer_kind activations[] = {CNN_SIGMOID, CNN_TANH, CNN_RELU};
    cnn_layer_info info[LAYERS_MAX];
    trial t = {
        .c = check_range(state, 16, 24), .h = check_range(state, 6, 13), .w = check_range(state, 6, 22)};
    const int wide = k == 10; /* one tile at a time */
    t.h = wide ? 6 : t.h;
    t.w = wide ? 6 : t.w;
    for (int i = 0; i < 2; i++) {
        cnn_layer *conv = &t.layers[t.count++];
        conv->kind = CNN_CONV2D;
        conv->out = wide ? check_range(state, 58, 62) : check_range(state, 16, 28);
        conv->kernel = 3;
        conv->padding = 1;
        conv->no_bias = check_range(state, 0, 3) == 0;
        if (!i && k % 7 == 1) { /* groups, and padding that is not zeros, are done directly */
            conv->groups = 2;
            conv->out = t.c = 32;
        }
        if (!i && k % 7 == 2)
            conv->padding_mode = CNN_PAD_REFLECT;
        if (!i && k % 3 == 0) {
            conv->padding = 0;
            conv->pad_top = check_range(state, 0, 1);
            conv->pad_right = check_range(state, 0, 1);
        }
        if (k % 5) {
            t.layers[t.count++].kind = activations[check_range(state, 0, 2)];
            GOOD(cnn_layers_infer(t.layers, t.count, t.c, t.h, t.w, info));
            if (k % 5 < 4) {
                cnn_layer *pool = &t.layers[t.count++];
                pool->kind = check_range(state, 0, 1) ? CNN_MAXPOOL2D : CNN_AVGPOOL2D;
                pool->kernel_h = smaller(i ? check_range(state, 1, 2) : k % 4 + 1, info[t.count - 2].h);
                pool->kernel_w = smaller(check_range(state, 1, 2), info[t.count - 2].w);
            }
        }
    }
    finish_trial(state, &t, wide ? 18 : check_range(state, 9, 27));
    return t;
}

static void free_trial(trial *t) {
    cnn_net_free(t->net);
    free(t->x);
    free(t->dy);
}

/* The table in words, for the message of a failure. */
static const char *describe(const trial *t) {
    static char text[1024];
    int length = snprintf(text, sizeof text, "%s, seed %lu, batch %d of %dx%dx%d:", isa_name,
                          (unsigned long)check_seed(), t->batch, t->c, t->h, t->w);
    for (int i = 0; i < t->count && length < 900; i++) {
        const cnn_layer *l = &t->layers[i];
        length += snprintf(text + length, sizeof text - (size_t)length, " %s k%d(%dx%d) s%d p%d o%d g%d m%d",
                           cnn_net_layer_info(t->net, i)->name, l->kernel, l->kernel_h, l->kernel_w,
                           l->stride, l->padding, l->out, l->groups, (int)l->padding_mode);
    }
    return text;
}

/* ---- the chain of operators ------------------------------------------------------------------------------
 */

static int either(int own, int common) {
    return own ? own : common;
}

static cnn_conv2d_options conv_options(const cnn_layer *l) {
    cnn_conv2d_options o = {either(l->stride_h, l->stride),
                            either(l->stride_w, l->stride),
                            either(l->pad_top, l->padding),
                            either(l->pad_bottom, l->padding),
                            either(l->pad_left, l->padding),
                            either(l->pad_right, l->padding),
                            either(l->dilation_h, l->dilation),
                            either(l->dilation_w, l->dilation),
                            l->groups,
                            l->padding_mode,
                            1}; /* directly */
    return o;
}

static cnn_pool2d_options pool_options(const cnn_layer *l) {
    cnn_pool2d_options o = {either(l->kernel_h, l->kernel),
                            either(l->kernel_w, l->kernel),
                            either(l->stride_h, l->stride),
                            either(l->stride_w, l->stride),
                            either(l->pad_top, l->padding),
                            either(l->pad_left, l->padding),
                            either(l->dilation_h, l->dilation),
                            either(l->dilation_w, l->dilation),
                            l->ceil_mode,
                            l->exclude_padding};
    return o;
}

/* One layer's tensors in the chain. */
typedef struct link {
    const cnn_layer *layer;
    cnn_tensor x, y, weight, bias;
    cnn_tensor dx, dy, dw, db;
    int *indices;
    int has_weight, has_bias;
} link;

static cnn_status link_forward(link *l) {
    const cnn_conv2d_options conv = conv_options(l->layer);
    const cnn_pool2d_options pool = pool_options(l->layer);
    switch (l->layer->kind) {
    case CNN_CONV2D:
        return cnn_conv2d_forward(&l->x, &l->weight, l->has_bias ? &l->bias : NULL, &conv, &l->y);
    case CNN_MAXPOOL2D:
        return cnn_maxpool2d_forward(&l->x, &pool, &l->y, l->indices);
    case CNN_AVGPOOL2D:
        return cnn_avgpool2d_forward(&l->x, &pool, &l->y);
    case CNN_GLOBALAVGPOOL2D:
        return cnn_globalavgpool2d_forward(&l->x, &l->y);
    case CNN_LINEAR:
        return cnn_linear_forward(&l->x, &l->weight, l->has_bias ? &l->bias : NULL, &l->y);
    case CNN_SIGMOID:
        return cnn_sigmoid_forward(&l->x, &l->y);
    case CNN_TANH:
        return cnn_tanh_forward(&l->x, &l->y);
    case CNN_RELU:
        return cnn_relu_forward(&l->x, &l->y);
    case CNN_SOFTMAX:
        return cnn_softmax_forward(&l->x, &l->y);
    case CNN_DROPOUT:
        return cnn_dropout_forward(&l->x, 0.5f, 0, 0, &l->y);
    default:
        return cnn_flatten_forward(&l->x, &l->y);
    }
}

static cnn_status link_backward(link *l) {
    const cnn_conv2d_options conv = conv_options(l->layer);
    const cnn_pool2d_options pool = pool_options(l->layer);
    switch (l->layer->kind) {
    case CNN_CONV2D:
        return cnn_conv2d_backward(&l->x, &l->weight, &l->dy, &conv, &l->dx, &l->dw,
                                   l->has_bias ? &l->db : NULL);
    case CNN_MAXPOOL2D:
        return cnn_maxpool2d_backward(&l->dy, l->indices, &l->dx);
    case CNN_AVGPOOL2D:
        return cnn_avgpool2d_backward(&l->dy, &pool, &l->dx);
    case CNN_GLOBALAVGPOOL2D:
        return cnn_globalavgpool2d_backward(&l->dy, &l->dx);
    case CNN_LINEAR:
        return cnn_linear_backward(&l->x, &l->weight, &l->dy, &l->dx, &l->dw, l->has_bias ? &l->db : NULL);
    case CNN_SIGMOID:
        return cnn_sigmoid_backward(&l->y, &l->dy, &l->dx);
    case CNN_TANH:
        return cnn_tanh_backward(&l->y, &l->dy, &l->dx);
    case CNN_RELU:
        return cnn_relu_backward(&l->y, &l->dy, &l->dx);
    case CNN_SOFTMAX:
        return cnn_softmax_backward(&l->y, &l->dy, &l->dx);
    case CNN_DROPOUT:
        return cnn_dropout_backward(&l->dy, 0.5f, 0, 0, &l->dx);
    default:
        return cnn_flatten_backward(&l->dy, &l->dx);
    }
}

/* Results of a pass over a trial's batch; dw is the block of all parameter gradients. */
typedef struct passed {
    float *y, *dx, *dw;
} passed;

static passed make_passed(const trial *t) {
    passed p;
    p.y = (float *)malloc((size_t)t->batch * t->outputs * sizeof(float));
    p.dx = (float *)malloc((size_t)t->batch * t->features * sizeof(float));
    p.dw = (float *)calloc(t->parameters + 1, sizeof(float));
    return p;
}

static void free_passed(passed *p) {
    free(p->y);
    free(p->dx);
    free(p->dw);
}

/* The tensors of layer i: memory of its own for y and dx, the parameters of the network, gradients in dw. */
static void make_link(const trial *t, int i, link *l, float *dw) {
    const cnn_layer_info *info = cnn_net_layer_info(t->net, i);
    memset(l, 0, sizeof *l);
    l->layer = &t->layers[i];
    GOOD(cnn_tensor_alloc(&l->y, t->batch, info->c, info->h, info->w));
    GOOD(cnn_tensor_alloc(&l->dx, t->batch, info->in_c, info->in_h, info->in_w));
    GOOD(cnn_net_layer_parameters(t->net, i, &l->weight, &l->bias));
    l->has_weight = info->weights > 0;
    l->has_bias = info->biases > 0;
    l->dw = l->weight;
    l->db = l->bias;
    if (l->has_weight)
        l->dw.data = dw + (l->weight.data - cnn_net_parameters(t->net));
    if (l->has_bias)
        l->db.data = dw + (l->bias.data - cnn_net_parameters(t->net));
    l->indices = (int *)malloc((size_t)t->batch * (size_t)(info->c * info->h * info->w) * sizeof(int));
}

static void run_chain(const trial *t, passed *out) {
    link links[LAYERS_MAX];
    cnn_tensor x = {t->batch, t->c, t->h, t->w, t->x};
    for (int i = 0; i < t->count; i++) {
        make_link(t, i, &links[i], out->dw);
        links[i].x = i ? links[i - 1].y : x;
        GOOD(link_forward(&links[i]));
    }
    link *last = &links[t->count - 1];
    memcpy(out->y, last->y.data, (size_t)t->batch * t->outputs * sizeof(float));
    for (int i = t->count - 1; i >= 0; i--) {
        links[i].dy = links[i].y;
        links[i].dy.data = i == t->count - 1 ? t->dy : links[i + 1].dx.data;
        GOOD(link_backward(&links[i]));
    }
    memcpy(out->dx, links[0].dx.data, (size_t)t->batch * t->features * sizeof(float));
    for (int i = 0; i < t->count; i++) {
        cnn_tensor_free(&links[i].y);
        cnn_tensor_free(&links[i].dx);
        free(links[i].indices);
    }
}

/* ---- the network against the chain -----------------------------------------------------------------------
 */

/* A pass in a workspace made for up to room examples. */
static void run_net(const trial *t, cnn_mode mode, int threads, int room, int wants_dx, passed *out) {
    cnn_workspace *ws = NULL;
    cnn_tensor x = {t->batch, t->c, t->h, t->w, t->x};
    cnn_tensor y = {t->batch, t->out_c, t->out_h, t->out_w, out->y};
    cnn_tensor dy = {t->batch, t->out_c * t->out_h * t->out_w, 1, 1, t->dy};
    cnn_tensor dx = {t->batch, t->c, t->h, t->w, out->dx};
    GOOD(cnn_workspace_create(&ws, t->net, mode, room, threads));
    if (!ws)
        return;
    GOOD(cnn_forward(t->net, ws, &x, &y));
    if (mode == CNN_TRAINING) {
        GOOD(cnn_backward(t->net, ws, &dy, wants_dx ? &dx : NULL));
        memcpy(out->dw, cnn_workspace_gradients(ws), t->parameters * sizeof(float));
    }
    cnn_workspace_free(ws);
}

static void compare(const trial *t, const char *what, const float *got, const float *want, size_t count) {
    const double tolerance = 1e-6 + 1e-4 * largest(want, count);
    for (size_t i = 0; i < count; i++)
        CHECK(check_close((double)got[i], (double)want[i], tolerance, 0), "%s: %s[%d] is %.9g, not %.9g",
              describe(t), what, (int)i, (double)got[i], (double)want[i]);
}

static int same_bits(const trial *t, const passed *a, const passed *b) {
    return !memcmp(a->y, b->y, (size_t)t->batch * t->outputs * sizeof(float)) &&
           !memcmp(a->dx, b->dx, (size_t)t->batch * t->features * sizeof(float)) &&
           !memcmp(a->dw, b->dw, t->parameters * sizeof(float));
}

static void test_against_chain(uint64_t *state, trial t, int threads) {
    passed chain = make_passed(&t);
    passed one = make_passed(&t);
    passed many = make_passed(&t);
    run_chain(&t, &chain);
    run_net(&t, CNN_INFERENCE, 1, t.batch, 0, &many);
    compare(&t, "inference y", many.y, chain.y, (size_t)t.batch * t.outputs);
    run_net(&t, CNN_TRAINING, threads, t.batch, 0, &one);
    compare(&t, "gradient without dx", one.dw, chain.dw, t.parameters);
    run_net(&t, CNN_TRAINING, 1, t.batch, 0, &many);
    CHECK(!memcmp(one.dw, many.dw, t.parameters * sizeof(float)),
          "%s: without dx, other bits with %d threads", describe(&t), threads);
    run_net(&t, CNN_TRAINING, 1, t.batch + check_range(state, 0, 20), 1, &one);
    compare(&t, "y", one.y, chain.y, (size_t)t.batch * t.outputs);
    compare(&t, "dx", one.dx, chain.dx, (size_t)t.batch * t.features);
    compare(&t, "gradient", one.dw, chain.dw, t.parameters);
    run_net(&t, CNN_TRAINING, threads, t.batch, 1, &many);
    CHECK(same_bits(&t, &one, &many), "%s: other bits with %d threads", describe(&t), threads);
    free_passed(&chain);
    free_passed(&one);
    free_passed(&many);
    free_trial(&t);
}

/* Zeros on each side as wide as on the other or not, of examples beyond the blocks: few outputs and many; alone,
   and with a pool. */
static void test_sides(uint64_t *state) {
    for (int k = 0; k < 3 * 4 * 2 * 2; k++) {
        const int left = k % 3, right = k / 3 % 4, many = k / 12 % 2, pool = k / 24;
        const cnn_layer conv = {.kind = CNN_CONV2D,
                                .out = many ? 17 : 3,
                                .kernel_h = 1 + right % 3,
                                .kernel_w = left + right > 3 ? 2 : 3,
                                .pad_top = left % 2,
                                .pad_left = left,
                                .pad_right = right};
        const cnn_layer tanh = {.kind = CNN_TANH}, average = {.kind = CNN_AVGPOOL2D, .kernel = 2};
        trial t = {.layers = {conv, tanh, average}, .count = pool ? 3 : 1, .c = 2, .h = 7, .w = 10};
        finish_trial(state, &t, 2);
        test_against_chain(state, t, 2);
    }
}

/* no_winograd in a layer: as the chain, which is direct, and other bits than with Winograd, where there is that. */
static void test_no_winograd(uint64_t *state) {
    trial t = {.count = 1, .c = 24, .h = 12, .w = 12};
    const cnn_layer conv = {.kind = CNN_CONV2D, .out = 24, .kernel = 3, .padding = 1, .no_winograd = 1};
    const int lacks = !strcmp(isa_name, "sse2") || !strcmp(isa_name, "scalar");
    t.layers[0] = conv;
    finish_trial(state, &t, 16);
    passed direct = make_passed(&t);
    passed winograd = make_passed(&t);
    run_net(&t, CNN_TRAINING, 1, t.batch, 1, &direct);
    cnn_net *net = t.net;
    t.layers[0].no_winograd = 0;
    GOOD(cnn_net_create(&t.net, t.layers, 1, t.c, t.h, t.w));
    memcpy(cnn_net_parameters(t.net), cnn_net_parameters(net), t.parameters * sizeof(float));
    run_net(&t, CNN_TRAINING, 1, t.batch, 1, &winograd);
    compare(&t, "y", winograd.y, direct.y, (size_t)t.batch * t.outputs);
    compare(&t, "dx", winograd.dx, direct.dx, (size_t)t.batch * t.features);
    compare(&t, "dw", winograd.dw, direct.dw, t.parameters);
    const int same_y = !memcmp(winograd.y, direct.y, t.outputs * sizeof(float));
    const int same_dx = !memcmp(winograd.dx, direct.dx, t.features * sizeof(float));
    const int same_dw = !memcmp(winograd.dw, direct.dw, t.parameters * sizeof(float));
    CHECK(same_y == lacks && same_dx == lacks && same_dw == lacks, "%s: no_winograd: y %s, dx %s, dw %s",
          isa_name, same_y ? "the same" : "another", same_dx ? "the same" : "another",
          same_dw ? "the same" : "another");
    cnn_net_free(net);
    free_passed(&direct);
    free_passed(&winograd);
    free_trial(&t);
}

/* Gradients accumulate over backward passes, each after its forward pass; without dx they are the same. */
static void test_accumulation(uint64_t *state) {
    trial t = make_trial(state, 0);
    passed once = make_passed(&t);
    cnn_workspace *ws = NULL;
    cnn_tensor x = {t.batch, t.c, t.h, t.w, t.x};
    cnn_tensor y = {t.batch, t.out_c, t.out_h, t.out_w, once.y};
    cnn_tensor dy = {t.batch, t.out_c, t.out_h, t.out_w, t.dy};
    run_net(&t, CNN_TRAINING, 2, t.batch, 1, &once);
    GOOD(cnn_workspace_create(&ws, t.net, CNN_TRAINING, t.batch, 2));
    for (int k = 0; ws && k < 2; k++) {
        GOOD(cnn_forward(t.net, ws, &x, &y));
        GOOD(cnn_backward(t.net, ws, &dy, NULL));
    }
    const float *twice = ws ? cnn_workspace_gradients(ws) : once.dw;
    const double tolerance = 1e-6 + 1e-5 * largest(once.dw, t.parameters);
    for (size_t i = 0; i < t.parameters; i++)
        CHECK(check_close((double)twice[i], 2 * (double)once.dw[i], tolerance, 0),
              "%s: gradient %d twice is %.9g, once %.9g", describe(&t), (int)i, (double)twice[i],
              (double)once.dw[i]);
    cnn_workspace_free(ws);
    free_passed(&once);
    free_trial(&t);
}

/* ---- dropout ---------------------------------------------------------------------------------------------
 */

static const cnn_layer dropping[] = {{.kind = CNN_LINEAR, .out = 40},
                                     {.kind = CNN_DROPOUT},
                                     {.kind = CNN_RELU},
                                     {.kind = CNN_DROPOUT, .p = 0.25f},
                                     {.kind = CNN_LINEAR, .out = 7}};

enum { DROP_BATCH = 19, DROP_IN = 12, DROP_OUT = 7 };

/* Two training passes from a workspace seed: y and gradients of both, one after the other. */
static void drop_passes(const cnn_net *net, uint64_t seed, int threads, float *x_data, float *y_data,
                        float *dw) {
    const size_t count = cnn_net_parameter_count(net);
    cnn_workspace *ws = NULL;
    cnn_tensor x = {DROP_BATCH, DROP_IN, 1, 1, x_data};
    GOOD(cnn_workspace_create(&ws, net, CNN_TRAINING, DROP_BATCH, threads));
    if (!ws)
        return;
    if (seed)
        cnn_workspace_seed(ws, seed);
    for (int k = 0; k < 2; k++) {
        cnn_tensor y = {DROP_BATCH, DROP_OUT, 1, 1, y_data + k * DROP_BATCH * DROP_OUT};
        GOOD(cnn_forward(net, ws, &x, &y));
        GOOD(cnn_backward(net, ws, &y, NULL));
        memcpy(dw + (size_t)k * count, cnn_workspace_gradients(ws), count * sizeof(float));
    }
    cnn_workspace_free(ws);
}

static void test_dropout(void) {
    enum { OUTS = DROP_BATCH * DROP_OUT };
    uint64_t state = check_seed();
    cnn_net *net = NULL;
    GOOD(cnn_net_create(&net, dropping, COUNT(dropping), DROP_IN, 1, 1));
    GOOD(cnn_net_init(net, CNN_XAVIER_UNIFORM, 5));
    const size_t bytes = 2 * cnn_net_parameter_count(net) * sizeof(float);
    float *x = random_floats(&state, DROP_BATCH * DROP_IN);
    float y[4][2 * OUTS];
    float *dw[4];
    for (int k = 0; k < 4; k++) {
        dw[k] = (float *)malloc(bytes);
        drop_passes(net, k == 3 ? 8 : 7, k == 1 ? 3 : 1, x, y[k], dw[k]);
    }
    CHECK(!memcmp(y[0], y[1], sizeof y[0]) && !memcmp(dw[0], dw[1], bytes),
          "%s: other masks with other threads", isa_name);
    CHECK(!memcmp(y[0], y[2], sizeof y[0]) && !memcmp(dw[0], dw[2], bytes), "%s: other masks on another run",
          isa_name);
    CHECK(memcmp(y[0], y[3], sizeof y[0] / 2), "%s: the same masks with another seed", isa_name);
    CHECK(memcmp(y[0], y[0] + OUTS, sizeof y[0] / 2), "%s: the same masks in the next pass", isa_name);
    drop_passes(net, 0, 1, x, y[2], dw[2]);
    cnn_workspace *ws = NULL;
    cnn_tensor in = {DROP_BATCH, DROP_IN, 1, 1, x};
    cnn_tensor out = {DROP_BATCH, DROP_OUT, 1, 1, y[0]};
    GOOD(cnn_workspace_create(&ws, net, CNN_TRAINING, DROP_BATCH, 1));
    cnn_workspace_seed(ws, 0);
    GOOD(cnn_forward(net, ws, &in, &out));
    CHECK(!memcmp(y[0], y[2], sizeof y[0] / 2), "%s: a new workspace has another seed than 0", isa_name);
    cnn_workspace_free(ws);
    for (int k = 0; k < 4; k++)
        free(dw[k]);
    free(x);
    cnn_net_free(net);
}

/* One dropout layer alone: each output is 0 or x/(1-p), with the frequency of p; dx follows the same choice.
 */
static void test_dropout_values(float p) {
    enum { WIDE = 5000 };
    const cnn_layer layer = cnn_dropout(p);
    const float keep = 1 / (1 - (p > 0 ? p : 0.5f));
    cnn_net *net = NULL;
    cnn_workspace *ws = NULL;
    float data[3][WIDE];
    cnn_tensor x = {1, WIDE, 1, 1, data[0]};
    cnn_tensor y = {1, WIDE, 1, 1, data[1]};
    cnn_tensor dx = {1, WIDE, 1, 1, data[2]};
    for (int i = 0; i < WIDE; i++)
        data[0][i] = 1;
    GOOD(cnn_net_create(&net, &layer, 1, WIDE, 1, 1));
    GOOD(cnn_workspace_create(&ws, net, CNN_TRAINING, 1, 1));
    GOOD(cnn_forward(net, ws, &x, &y));
    GOOD(cnn_backward(net, ws, &x, &dx));
    int dropped = 0;
    for (int i = 0; i < WIDE; i++) {
        CHECK(data[1][i] == 0 || check_close((double)data[1][i], (double)keep, 0, 1e-6), "y[%d] is %g", i,
              (double)data[1][i]);
        CHECK(data[1][i] == data[2][i], "dx[%d] is %g where y is %g", i, (double)data[2][i],
              (double)data[1][i]);
        dropped += data[1][i] == 0;
    }
    const double q = 1 - 1 / (double)keep;
    CHECK(fabs(dropped - WIDE * q) < 5 * sqrt(WIDE * q * (1 - q)), "%d of %d dropped with p %g", dropped,
          WIDE, q);
    cnn_workspace_free(ws);
    GOOD(cnn_workspace_create(&ws, net, CNN_INFERENCE, 1, 1));
    GOOD(cnn_forward(net, ws, &x, &y));
    CHECK(!memcmp(data[0], data[1], sizeof data[0]), "dropout is not the identity in inference");
    cnn_workspace_free(ws);
    cnn_net_free(net);
}

/* Inference through random networks with dropout is the chain with dropout as the identity. */
static void test_inference_with_dropout(uint64_t *state) {
    trial t = make_trial(state, 1);
    passed chain = make_passed(&t);
    passed net = make_passed(&t);
    run_chain(&t, &chain);
    run_net(&t, CNN_INFERENCE, 2, t.batch + 1, 0, &net);
    compare(&t, "inference y", net.y, chain.y, (size_t)t.batch * t.outputs);
    free_passed(&chain);
    free_passed(&net);
    free_trial(&t);
}

/* ---- a classification task -------------------------------------------------------------------------------
 */

enum { SIDE = 10, CLASSES = 4, EXAMPLES = 203, PIXELS = SIDE * SIDE };

static const cnn_layer classifier[] = {{.kind = CNN_CONV2D, .out = 4, .kernel = 3, .padding = 1},
                                       {.kind = CNN_RELU},
                                       {.kind = CNN_MAXPOOL2D, .kernel = 2},
                                       {.kind = CNN_CONV2D, .out = 5, .kernel = 3},
                                       {.kind = CNN_TANH},
                                       {.kind = CNN_AVGPOOL2D, .kernel = 3},
                                       {.kind = CNN_DROPOUT, .p = 0.1f},
                                       {.kind = CNN_FLATTEN},
                                       {.kind = CNN_LINEAR, .out = CLASSES}};

static unsigned char task_bytes[EXAMPLES * PIXELS];
static unsigned char task_labels[EXAMPLES];
static float task_floats[EXAMPLES * PIXELS];
static const cnn_dataset byte_task = {EXAMPLES, 1, SIDE, SIDE, CLASSES, task_bytes, NULL, task_labels, NULL};
static const cnn_dataset float_task = {EXAMPLES, 1,           SIDE,        SIDE, CLASSES,
                                       NULL,     task_floats, task_labels, NULL};

/* One bright quarter of the image a class, on noise. */
static void make_task(void) {
    uint64_t state = check_seed();
    for (int i = 0; i < EXAMPLES; i++) {
        int label = check_range(&state, 0, CLASSES - 1);
        task_labels[i] = (unsigned char)label;
        for (int p = 0; p < PIXELS; p++) {
            int quarter = p / SIDE / (SIDE / 2) * 2 + p % SIDE / (SIDE / 2);
            int noise = check_range(&state, 0, 99);
            task_bytes[i * PIXELS + p] = (unsigned char)(quarter == label ? 255 - noise : noise);
            task_floats[i * PIXELS + p] = (float)task_bytes[i * PIXELS + p] / 255.0f;
        }
    }
}

/* A classifier; without its dropout layer if plain. */
static cnn_net *make_classifier(int plain) {
    cnn_layer layers[COUNT(classifier)];
    cnn_net *net = NULL;
    int count = 0;
    for (int i = 0; i < COUNT(classifier); i++)
        if (!plain || classifier[i].kind != CNN_DROPOUT)
            layers[count++] = classifier[i];
    GOOD(cnn_net_create(&net, layers, count, 1, SIDE, SIDE));
    GOOD(cnn_net_init(net, CNN_PYTORCH_DEFAULT, 11));
    return net;
}

/* The gradients, loss and right predictions of one batch by forward pass, cross-entropy and backward pass. */
static double composed_step(const cnn_net *net, const int *index, int n, float *gradients, int *correct) {
    cnn_workspace *ws = NULL;
    cnn_tensor x;
    cnn_tensor y;
    int labels[EXAMPLES];
    int classes[EXAMPLES];
    double loss = 0;
    GOOD(cnn_tensor_alloc(&x, n, 1, SIDE, SIDE));
    GOOD(cnn_tensor_alloc(&y, n, CLASSES, 1, 1));
    GOOD(cnn_workspace_create(&ws, net, CNN_TRAINING, n, 1));
    GOOD(cnn_dataset_batch(&byte_task, index, &x, labels));
    GOOD(cnn_forward(net, ws, &x, &y));
    GOOD(cnn_cross_entropy_forward(&y, labels, &loss));
    GOOD(cnn_cross_entropy_backward(&y, labels, &y));
    GOOD(cnn_backward(net, ws, &y, NULL));
    memcpy(gradients, cnn_workspace_gradients(ws), cnn_net_parameter_count(net) * sizeof(float));
    cnn_workspace_free(ws);
    GOOD(cnn_workspace_create(&ws, net, CNN_INFERENCE, n, 1));
    GOOD(cnn_predict(net, ws, &x, classes));
    *correct = 0;
    for (int i = 0; i < n; i++)
        *correct += classes[i] == labels[i];
    cnn_workspace_free(ws);
    cnn_tensor_free(&x);
    cnn_tensor_free(&y);
    return loss;
}

/* cnn_train_step gives what forward, loss and backward give, in both kinds of workspace; it replaces
 * gradients. */
static void test_train_step(int n, cnn_mode mode, const cnn_dataset *data) {
    cnn_net *net = make_classifier(1);
    const size_t count = cnn_net_parameter_count(net);
    float *want = (float *)malloc(count * sizeof(float));
    float *first = (float *)malloc(count * sizeof(float));
    int index[EXAMPLES];
    int right = 0;
    cnn_shuffle(index, EXAMPLES, 3, 4);
    const double mean = composed_step(net, index, n, want, &right);
    const double tolerance = 1e-6 + 1e-4 * largest(want, count);
    for (int threads = 1; threads <= 5; threads += threads < 3 ? 1 : 2) {
        cnn_workspace *ws = NULL;
        double loss = 100;
        int correct = 7;
        GOOD(cnn_workspace_create(&ws, net, mode, n + n % 3, threads));
        const float *got = cnn_workspace_gradients(ws);
        GOOD(cnn_train_step(net, ws, data, index + 1, n, NULL, NULL));
        GOOD(cnn_train_step(net, ws, data, index, n, &loss, &correct));
        CHECK(check_close(loss - 100, mean * n, 1e-4, 1e-5), "%s: n %d: loss %.9g, not %.9g", isa_name, n,
              loss - 100, mean * n);
        CHECK(correct == 7 + right, "%s: n %d: %d right, not %d", isa_name, n, correct - 7, right);
        for (size_t i = 0; i < count; i++)
            CHECK(check_close((double)got[i], (double)want[i], tolerance, 0),
                  "%s: n %d: gradient %d is %.9g, not %.9g", isa_name, n, (int)i, (double)got[i],
                  (double)want[i]);
        if (threads == 1)
            memcpy(first, got, count * sizeof(float));
        CHECK(!memcmp(first, got, count * sizeof(float)), "%s: n %d: other gradients with %d threads",
              isa_name, n, threads);
        cnn_workspace_free(ws);
    }
    free(want);
    free(first);
    cnn_net_free(net);
}

/* The least processor time of ten training steps, of five tries. */
static double step_seconds(const cnn_net *net, cnn_workspace *ws, const int *index, int n) {
    double least = 1e9;
    for (int round = 0; round < 5; round++) {
        const clock_t start = clock();
        for (int i = 0; i < 10; i++)
            GOOD(cnn_train_step(net, ws, &byte_task, index, n, NULL, NULL));
        least = fmin(least, (double)(clock() - start) / CLOCKS_PER_SEC);
    }
    return least;
}

/* Saturated sigmoids make subnormal activations and gradients by the thousand, and one costs a hundred cycles
   where it is not flushed to zero: early steps and such late ones must take the same time. */
static void test_subnormals(void) {
    const cnn_layer layers[] = {cnn_conv2d(6, 5, 1, 2), cnn_sigmoid(), cnn_avgpool2d(2, 0, 0),
                                cnn_linear(40),         cnn_sigmoid(), cnn_linear(CLASSES)};
    enum { N = 130 };
    cnn_net *net = NULL;
    cnn_workspace *ws = NULL;
    int index[EXAMPLES];
    cnn_shuffle(index, EXAMPLES, 3, 4);
    GOOD(cnn_net_create(&net, layers, COUNT(layers), 1, SIDE, SIDE));
    GOOD(cnn_net_init(net, CNN_PYTORCH_DEFAULT, 11));
    GOOD(cnn_workspace_create(&ws, net, CNN_TRAINING_STEP, N, 1));
    const double early = step_seconds(net, ws, index, N);
    for (size_t layer = 0; layer < 4; layer += 3) { /* sigmoids of -88 to -104: exp of that is subnormal */
        cnn_tensor bias;
        GOOD(cnn_net_layer_parameters(net, (int)layer, NULL, &bias));
        for (int i = 0; i < bias.c; i++)
            bias.data[i] = -88 - (float)(i % 16);
    }
    const double late = step_seconds(net, ws, index, N);
    CHECK(late <= 2 * early, "saturated sigmoids: %.3g ms a step, %.3g before", late * 100, early * 100);
    cnn_workspace_free(ws);
    cnn_net_free(net);
}

/* ---- fitting ---------------------------------------------------------------------------------------------
 */

typedef struct calls {
    int progress, epochs;          /* calls so far */
    int stop_progress, stop_epoch; /* call at which to return 1; 0: never */
    cnn_progress last;
    int last_step_seen; /* a report at the last batch of an epoch */
    int ordered;
} calls;

static int on_progress(const cnn_progress *p, void *user) {
    calls *c = (calls *)user;
    c->ordered &= p->epoch >= c->last.epoch && (p->epoch > c->last.epoch || p->step > c->last.step);
    c->ordered &= p->step >= 1 && p->step <= p->steps && p->accuracy >= 0 && p->accuracy <= 1;
    c->last_step_seen += p->step == p->steps;
    c->last = *p;
    return ++c->progress == c->stop_progress;
}

static int on_epoch(const cnn_progress *p, void *user) {
    calls *c = (calls *)user;
    c->ordered &= p->step == p->steps && p->epoch == c->epochs + 1;
    c->last = *p;
    return ++c->epochs == c->stop_epoch;
}

static cnn_fit_options fit_options(calls *c) {
    memset(c, 0, sizeof *c);
    c->ordered = 1;
    cnn_fit_options how = {.epochs = 3, .batch = 20, .sgd = {.lr = 0.1f, .momentum = 0.9f}, .seed = 4};
    how.on_progress = on_progress;
    how.on_epoch = on_epoch;
    how.user = c;
    return how;
}

/* 203 examples in batches of 20: ten and a rest of 3. */
static void test_fit_callbacks(int reports) {
    calls c;
    cnn_progress result;
    cnn_fit_options how = fit_options(&c);
    cnn_net *net = make_classifier(0);
    const int each = reports ? smaller(reports, 11) : 5;
    how.reports = reports;
    GOOD(cnn_fit(net, &byte_task, &float_task, &how, &result));
    CHECK(c.progress == 3 * each && c.epochs == 3, "reports %d: %d calls and %d epochs", reports, c.progress,
          c.epochs);
    CHECK(c.ordered && c.last_step_seen == 3, "reports %d: out of order, or %d last steps", reports,
          c.last_step_seen);
    CHECK(result.epoch == 3 && result.epochs == 3 && result.step == 11 && result.steps == 11 &&
              !result.stopped,
          "result: epoch %d of %d, step %d of %d", result.epoch, result.epochs, result.step, result.steps);
    CHECK(result.test_loss >= 0 && result.test_accuracy >= 0, "no test values");
    CHECK(result.examples_per_second > 0, "%g examples/sec", result.examples_per_second);
    CHECK(c.last.loss == result.loss && c.last.test_loss == result.test_loss,
          "the result is not the last progress");
    GOOD(cnn_fit(net, &byte_task, NULL, &how, &result));
    CHECK(result.test_loss == -1 && result.test_accuracy == -1, "test values without a test set");
    cnn_net_free(net);
}

static void test_fit_stops(void) {
    calls c;
    cnn_progress result;
    cnn_net *net = make_classifier(0);
    cnn_fit_options how = fit_options(&c);
    c.stop_progress = 7;
    GOOD(cnn_fit(net, &byte_task, NULL, &how, &result));
    CHECK(c.progress == 7 && c.epochs == 1 && result.stopped && result.epoch == 2 &&
              result.step < result.steps,
          "stopped by a report: %d reports, %d epochs, stopped %d", c.progress, c.epochs, result.stopped);
    how = fit_options(&c);
    c.stop_epoch = 2;
    GOOD(cnn_fit(net, &byte_task, NULL, &how, &result));
    CHECK(c.epochs == 2 && c.progress == 10 && result.stopped && result.epoch == 2,
          "stopped by an epoch: %d reports, %d epochs, stopped %d", c.progress, c.epochs, result.stopped);
    how.on_progress = NULL;
    how.on_epoch = NULL;
    GOOD(cnn_fit(net, &byte_task, NULL, &how, NULL));
    cnn_net_free(net);
}

/* The same bits whatever the threads and however the values are stored; other bits with another seed. */
static void test_fit_bits(void) {
    static const int threads[] = {1, 2, 3, 5, 1, 1};
    float *first = NULL;
    cnn_progress results[COUNT(threads)];
    for (int k = 0; k < COUNT(threads); k++) {
        cnn_net *net = make_classifier(0);
        const size_t bytes = cnn_net_parameter_count(net) * sizeof(float);
        cnn_fit_options how = {.epochs = 2, .batch = 30, .sgd = {.lr = 0.1f, .momentum = 0.5f}, .seed = 4};
        how.threads = threads[k];
        how.seed += k == 5;
        GOOD(cnn_fit(net, k == 4 ? &float_task : &byte_task, &byte_task, &how, &results[k]));
        if (!k) {
            first = (float *)malloc(bytes);
            memcpy(first, cnn_net_parameters(net), bytes);
        }
        const int same = !memcmp(first, cnn_net_parameters(net), bytes) &&
                         results[k].loss == results[0].loss && results[k].test_loss == results[0].test_loss;
        CHECK(same == (k < 5), "%s: %s bits in run %d, %d threads", isa_name, same ? "the same" : "other", k,
              threads[k]);
        cnn_net_free(net);
    }
    free(first);
}

/* What cnn_fit does, by hand: shuffle by seed and epoch (from 1, as in cnn_progress), batches with the rest
   at the end, steps; the means over the epoch. */
static void test_fit_by_hand(void) {
    cnn_net *net = make_classifier(1);
    cnn_net *fitted = make_classifier(1);
    const size_t count = cnn_net_parameter_count(net);
    const cnn_fit_options how = {.epochs = 2, .batch = 30, .sgd = {.lr = 0.1f, .momentum = 0.5f}, .seed = 4};
    cnn_workspace *ws = NULL;
    float *velocity = (float *)calloc(count, sizeof(float));
    int index[EXAMPLES];
    double loss = 0;
    int correct = 0;
    cnn_progress result;
    GOOD(cnn_workspace_create(&ws, net, CNN_TRAINING_STEP, 30, 0));
    for (int epoch = 1; epoch <= 2; epoch++) {
        loss = 0;
        correct = 0;
        cnn_shuffle(index, EXAMPLES, 4, (uint64_t)epoch);
        for (int i = 0; i < EXAMPLES; i += 30) {
            GOOD(cnn_train_step(net, ws, &byte_task, index + i, smaller(30, EXAMPLES - i), &loss, &correct));
            GOOD(cnn_sgd_step(&how.sgd, cnn_net_parameters(net), cnn_workspace_gradients(ws), velocity,
                              count));
        }
    }
    GOOD(cnn_fit(fitted, &byte_task, NULL, &how, &result));
    CHECK(!memcmp(cnn_net_parameters(net), cnn_net_parameters(fitted), count * sizeof(float)),
          "other parameters");
    CHECK(check_close(result.loss, loss / EXAMPLES, 0, 1e-9), "loss %.17g, by hand %.17g", result.loss,
          loss / EXAMPLES);
    CHECK(check_close(result.accuracy, (double)correct / EXAMPLES, 0, 1e-9), "accuracy %g, by hand %g",
          result.accuracy, (double)correct / EXAMPLES);
    cnn_workspace_free(ws);
    free(velocity);
    cnn_net_free(net);
    cnn_net_free(fitted);
}

static void test_fit_learns(void) {
    cnn_net *net = make_classifier(0);
    cnn_progress first;
    cnn_progress last;
    cnn_fit_options how = {.epochs = 1, .batch = 20, .sgd = {.lr = 0.1f, .momentum = 0.9f}, .seed = 9};
    GOOD(cnn_fit(net, &byte_task, &byte_task, &how, &first));
    how.epochs = 12;
    GOOD(cnn_fit(net, &byte_task, &byte_task, &how, &last));
    CHECK(last.test_loss < 0.2 && last.test_loss < first.test_loss && last.test_accuracy > 0.95,
          "loss %g, then %g; accuracy %g", first.test_loss, last.test_loss, last.test_accuracy);
    cnn_net_free(net);
}

/* Three examples in batches of two: whichever is left over is trained on too. Only one is not 0 and moves the
   weights, and with some of the seeds it is the one left over. */
static void test_rest_is_used(void) {
    cnn_layer linear = cnn_linear(2);
    static const float floats[3] = {0, 0, 1};
    static const unsigned char labels[3] = {0, 0, 1};
    const cnn_dataset data = {3, 1, 1, 1, 2, NULL, floats, labels, NULL};
    cnn_fit_options how = {.epochs = 1, .batch = 2, .sgd = {.lr = 1}};
    cnn_progress result;
    cnn_net *net = NULL;
    GOOD(cnn_net_create(&net, &linear, 1, 1, 1, 1));
    for (; how.seed < 20; how.seed++) {
        GOOD(cnn_net_init_constant(net, 0, 0));
        GOOD(cnn_fit(net, &data, NULL, &how, &result));
        const float *p = cnn_net_parameters(net);
        CHECK(result.steps == 2 && result.step == 2, "%d steps of %d", result.step, result.steps);
        CHECK(p[1] > p[0], "seed %d: the example that moves weights left %g, %g", (int)how.seed, (double)p[0],
              (double)p[1]);
    }
    cnn_net_free(net);
}

/* ---- evaluating ------------------------------------------------------------------------------------------
 */

static void test_evaluate(void) {
    cnn_net *net = make_classifier(0);
    double first = 0;
    for (int threads = 0; threads <= 3; threads++) {
        int confusion[CLASSES * CLASSES];
        int sum = 0;
        int right = 0;
        int row[CLASSES] = {0};
        cnn_evaluation e = {0, 0, confusion};
        memset(confusion, 0x55, sizeof confusion);
        GOOD(cnn_evaluate(net, threads % 2 ? &float_task : &byte_task, threads, &e));
        for (int i = 0; i < CLASSES * CLASSES; i++) {
            sum += confusion[i];
            row[i / CLASSES] += confusion[i];
            right += i / CLASSES == i % CLASSES ? confusion[i] : 0;
        }
        CHECK(sum == EXAMPLES && e.confusion == confusion, "%d examples counted", sum);
        CHECK(check_close(e.accuracy, (double)right / EXAMPLES, 1e-12, 0), "accuracy %g, %d right",
              e.accuracy, right);
        for (int i = 0; i < EXAMPLES; i++)
            row[task_labels[i]]--;
        for (int k = 0; k < CLASSES; k++)
            CHECK(!row[k], "class %d: %d examples too many", k, row[k]);
        first = threads ? first : e.loss;
        CHECK(e.loss == first, "loss %.17g with %d threads, %.17g before", e.loss, threads, first);
    }
    float *gradients = (float *)malloc(cnn_net_parameter_count(net) * sizeof(float));
    int index[EXAMPLES];
    int right = 0;
    cnn_net *plain = make_classifier(1);
    memcpy(cnn_net_parameters(plain), cnn_net_parameters(net), cnn_net_parameter_count(net) * sizeof(float));
    for (int i = 0; i < EXAMPLES; i++)
        index[i] = i;
    const double mean = composed_step(plain, index, EXAMPLES, gradients, &right);
    CHECK(check_close(first, mean, 1e-6, 1e-5), "loss %.9g, not %.9g", first, mean);
    cnn_evaluation e = {0, 0, NULL};
    GOOD(cnn_evaluate(net, &byte_task, 2, &e));
    CHECK(check_close(e.accuracy, (double)right / EXAMPLES, 1e-12, 0), "accuracy %g, %d right", e.accuracy,
          right);
    free(gradients);
    cnn_net_free(net);
    cnn_net_free(plain);
}

/* The first of equal outputs is predicted. */
static void test_predict_ties(void) {
    cnn_layer linear = cnn_linear(5);
    cnn_net *net = NULL;
    cnn_workspace *ws = NULL;
    float data[3] = {1, 2, 3};
    int classes[3] = {9, 9, 9};
    cnn_tensor x = {3, 1, 1, 1, data};
    GOOD(cnn_net_create(&net, &linear, 1, 1, 1, 1));
    GOOD(cnn_workspace_create(&ws, net, CNN_INFERENCE, 3, 1));
    GOOD(cnn_predict(net, ws, &x, classes));
    CHECK(!classes[0] && !classes[1] && !classes[2], "all outputs 0: class %d", classes[0]);
    cnn_net_parameters(net)[2] = cnn_net_parameters(net)[4] = 1;
    GOOD(cnn_predict(net, ws, &x, classes));
    CHECK(classes[0] == 2 && classes[2] == 2, "outputs 2 and 4 are greatest: class %d", classes[0]);
    cnn_workspace_free(ws);
    cnn_net_free(net);
}

/* ---- one network, many threads ---------------------------------------------------------------------------
 */

/* What one user of a shared network gets for the first n examples, in a workspace of its own. */
typedef struct user {
    float y[EXAMPLES * CLASSES];
    float gradients[2048];
    cnn_status status;
} user;

static user users[PREDICTORS + 1];

static cnn_status use_net(const cnn_net *net, user *u) {
    static const int n = 50;
    cnn_workspace *ws = NULL;
    cnn_tensor x = {n, 1, SIDE, SIDE, task_floats};
    cnn_tensor y = {n, CLASSES, 1, 1, u->y};
    cnn_status status = cnn_workspace_create(&ws, net, CNN_TRAINING, n, 1);
    for (int k = 0; k < 3 && !status; k++) {
        status = cnn_forward(net, ws, &x, &y);
        status = status ? status : cnn_backward(net, ws, &y, NULL);
    }
    if (!status)
        memcpy(u->gradients, cnn_workspace_gradients(ws), cnn_net_parameter_count(net) * sizeof(float));
    cnn_workspace_free(ws);
    return status;
}

#ifdef _OPENMP
static void test_shared_net(void) {
    cnn_net *net = make_classifier(0);
    const cnn_net *shared = net;
    CHECK(cnn_net_parameter_count(net) <= 2048, "the test's room is too small");
    memset(users, 0, sizeof users);
    GOOD(use_net(shared, &users[PREDICTORS]));
#pragma omp parallel for num_threads(PREDICTORS)
    for (int i = 0; i < PREDICTORS; i++)
        users[i].status = use_net(shared, &users[i]);
    for (int i = 0; i < PREDICTORS; i++)
        CHECK(!users[i].status && !memcmp(&users[i], &users[PREDICTORS], sizeof users[i]), "user %d differs",
              i);
    cnn_net_free(net);
}
#else
static void test_shared_net(void) {
    printf("skipped: several threads on one network, since this build has no OpenMP\n");
    (void)use_net;
    (void)users;
}
#endif

/* ---- shuffling and initialising --------------------------------------------------------------------------
 */

static void test_shuffle(int count) {
    int *order[4];
    unsigned char *seen = (unsigned char *)calloc((size_t)count, 1);
    for (int k = 0; k < 4; k++) {
        order[k] = (int *)malloc((size_t)count * sizeof(int));
        cnn_shuffle(order[k], count, k == 2 ? 6 : 5, k == 1 ? 1 : 0);
    }
    int valid = 1;
    for (int i = 0; i < count; i++) {
        valid &= order[0][i] >= 0 && order[0][i] < count && !seen[order[0][i]];
        if (valid)
            seen[order[0][i]] = 1;
    }
    const size_t bytes = (size_t)count * sizeof(int);
    CHECK(valid, "%d: no permutation", count);
    CHECK(!memcmp(order[0], order[3], bytes), "%d: not the same again", count);
    CHECK(count < 20 || memcmp(order[0], order[1], bytes), "%d: the same in another epoch", count);
    CHECK(count < 20 || memcmp(order[0], order[2], bytes), "%d: the same with another seed", count);
    for (int k = 0; k < 4; k++)
        free(order[k]);
    free(seen);
}

/* Each of 4 elements comes first, and each last, about equally often (standard deviation 39). */
static void test_shuffle_is_fair(void) {
    int first[4] = {0};
    int last[4] = {0};
    int order[4];
    for (uint64_t epoch = 0; epoch < 8000; epoch++) {
        cnn_shuffle(order, 4, check_seed(), epoch);
        first[order[0]]++;
        last[order[3]]++;
    }
    for (int i = 0; i < 4; i++)
        CHECK(abs(first[i] - 2000) < 195 && abs(last[i] - 2000) < 195, "%d comes first %d times, last %d", i,
              first[i], last[i]);
}

/* An initialiser's bound or deviation, as a function of the fans. */
typedef struct init_case {
    cnn_init init;
    int normal;
    double numerator; /* of numerator / (fan_in + with_out*fan_out), below the root */
    int with_out;
} init_case;

static const init_case init_cases[] = {{CNN_XAVIER_UNIFORM, 0, 6, 1},
                                       {CNN_XAVIER_NORMAL, 1, 2, 1},
                                       {CNN_KAIMING_UNIFORM, 0, 6, 0},
                                       {CNN_KAIMING_NORMAL, 1, 2, 0},
                                       {CNN_PYTORCH_DEFAULT, 0, 1, 0}};

/* Mean, variance and range of values from a uniform distribution in +-bound, or a normal one of deviation
 * bound. */
static void check_distribution(const char *what, const float *values, size_t count, double bound,
                               int normal) {
    const double n = (double)count;
    const double variance = normal ? bound * bound : bound * bound / 3;
    double sum = 0;
    double squares = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)values[i];
        squares += (double)values[i] * (double)values[i];
    }
    /* The variance of x^2 is 2 v^2 for a normal and 4/5 v^2 for a uniform distribution. */
    const double spread = variance * sqrt((normal ? 2 : 0.8) / n);
    CHECK(fabs(sum / n) < 5 * sqrt(variance / n), "%s: mean %g, bound %g", what, sum / n, bound);
    CHECK(fabs(squares / n - variance) < 5 * spread, "%s: variance %g, not %g", what, squares / n, variance);
    const double most = largest(values, count);
    if (normal)
        CHECK(most > 2 * bound && most < 6.5 * bound, "%s: greatest %g, deviation %g", what, most, bound);
    else
        CHECK(most <= bound * (1 + 1e-6) && most > bound * (1 - 20 / n), "%s: greatest %g, bound %g", what,
              most, bound);
}

/* A grouped convolution of 32 to 64 channels, kernel 5x3 in 4 groups, then a linear layer of 256 to 90. */
static void test_init(const init_case *c) {
    static const cnn_layer layers[] = {
        {.kind = CNN_CONV2D, .out = 64, .kernel_h = 5, .kernel_w = 3, .groups = 4, .stride = 4},
        {.kind = CNN_LINEAR, .out = 90}};
    static const double fan_in[] = {8 * 15, 256};
    static const double fan_out[] = {64 * 15, 90};
    cnn_net *net = NULL;
    cnn_net *again = NULL;
    GOOD(cnn_net_create(&net, layers, 2, 32, 9, 7));
    GOOD(cnn_net_create(&again, layers, 2, 32, 9, 7));
    GOOD(cnn_net_init(net, c->init, 77));
    GOOD(cnn_net_init(again, c->init, 77));
    const size_t bytes = cnn_net_parameter_count(net) * sizeof(float);
    CHECK(!memcmp(cnn_net_parameters(net), cnn_net_parameters(again), bytes), "init %d: other bits",
          (int)c->init);
    for (int i = 0; i < 2; i++) {
        cnn_tensor w;
        cnn_tensor b;
        char what[32];
        const double bound = sqrt(c->numerator / (fan_in[i] + (c->with_out ? fan_out[i] : 0)));
        GOOD(cnn_net_layer_parameters(net, i, &w, &b));
        snprintf(what, sizeof what, "init %d, layer %d", (int)c->init, i);
        check_distribution(what, w.data, cnn_net_layer_info(net, i)->weights, bound, c->normal);
        const double most = largest(b.data, cnn_net_layer_info(net, i)->biases);
        const double limit = 1 / sqrt(fan_in[i]);
        CHECK(most <= limit * (1 + 1e-6) && most > 0.8 * limit, "%s: greatest bias %g, limit %g", what, most,
              limit);
    }
    GOOD(cnn_net_init(again, c->init, 78));
    CHECK(memcmp(cnn_net_parameters(net), cnn_net_parameters(again), bytes), "init %d: seed unused",
          (int)c->init);
    cnn_net_free(net);
    cnn_net_free(again);
}

static void test_init_constant(void) {
    cnn_net *net = make_classifier(0);
    GOOD(cnn_net_init_constant(net, 0.5f, -2));
    for (int i = 0; i < cnn_net_layer_count(net); i++) {
        cnn_tensor part[2];
        GOOD(cnn_net_layer_parameters(net, i, &part[0], &part[1]));
        for (size_t k = 0; k < cnn_net_layer_info(net, i)->weights; k++)
            CHECK(part[0].data[k] == 0.5f, "layer %d: weight %g", i, (double)part[0].data[k]);
        for (size_t k = 0; k < cnn_net_layer_info(net, i)->biases; k++)
            CHECK(part[1].data[k] == -2, "layer %d: bias %g", i, (double)part[1].data[k]);
    }
    cnn_net_free(net);
}

/* Parameters: a new network's are 0; layers' views lie one after the other in the block, and the largest linear
   layer's weight on a cache line. */
static void test_parameter_block(void) {
    cnn_net *net = NULL;
    cnn_tensor linear = {0};
    size_t most = 0;
    GOOD(cnn_net_create(&net, classifier, COUNT(classifier), 1, SIDE, SIDE));
    const float *next = cnn_net_parameters(net);
    CHECK(largest(next, cnn_net_parameter_count(net)) == 0, "a new network has parameters that are not 0");
    for (int i = 0; i < cnn_net_layer_count(net); i++) {
        const cnn_layer_info *info = cnn_net_layer_info(net, i);
        cnn_tensor w;
        cnn_tensor b;
        GOOD(cnn_net_layer_parameters(net, i, &w, &b));
        CHECK(w.data == (info->weights ? next : NULL), "layer %d: its weight lies elsewhere", i);
        next += info->weights;
        CHECK(b.data == (info->biases ? next : NULL), "layer %d: its bias lies elsewhere", i);
        next += info->biases;
        CHECK(!memcmp(cnn_net_layer(net, i), &classifier[i], sizeof classifier[i]), "layer %d: another table",
              i);
        if (classifier[i].kind == CNN_LINEAR && info->weights > most) {
            most = info->weights;
            linear = w;
        }
    }
    CHECK(linear.data && (uintptr_t)linear.data % 64 == 0, "the largest linear layer straddles cache lines");
    CHECK(next == cnn_net_parameters(net) + cnn_net_parameter_count(net), "the block has another size");
    cnn_net_free(net);
}

/* So many steps that they come in chunks, outputs that fill one panel and a part of the next, two groups, rows too
   narrow for vectors; a block and two examples beyond it, against the operator. */
static void test_many_steps(uint64_t *state) {
    enum { N = 18, C = 88, H = 5, W = 7, O = 60, IN = N * C * H * W, OUT = N * O * H * W };
    static float in[IN], out[OUT], want[OUT];
    const cnn_layer layer = {.kind = CNN_CONV2D, .out = O, .kernel = 3, .padding = 1, .groups = 2};
    const cnn_conv2d_options options = {
        .pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1, .groups = 2, .no_winograd = 1};
    cnn_tensor x = {N, C, H, W, in}, y = {N, O, H, W, out}, z = {N, O, H, W, want}, weight, bias;
    cnn_net *net = NULL;
    cnn_workspace *ws = NULL;
    for (int i = 0; i < IN; i++)
        in[i] = check_uniform(state);
    GOOD(cnn_net_create(&net, &layer, 1, C, H, W));
    random_parameters(state, net);
    GOOD(cnn_net_layer_parameters(net, 0, &weight, &bias));
    GOOD(cnn_workspace_create(&ws, net, CNN_INFERENCE, N, 1));
    GOOD(cnn_forward(net, ws, &x, &y));
    GOOD(cnn_conv2d_forward(&x, &weight, &bias, &options, &z));
    for (int i = 0; i < OUT; i++)
        CHECK(fabsf(out[i] - want[i]) < 2e-5f, "%s: output %d is %g, should be %g", isa_name, i,
              (double)out[i], (double)want[i]);
    cnn_workspace_free(ws);
    cnn_net_free(net);
}

/* ---- all of it -------------------------------------------------------------------------------------------
 */

/* What depends on the instruction set. */
static void test_isa(void) {
    uint64_t state = check_seed();
    static const int threads[] = {2, 3, 5};
    for (int k = 0; k < 48; k++)
        test_against_chain(&state, make_trial(&state, 0), threads[k % 3]);
    for (int k = 0; k < 20; k++)
        test_against_chain(&state, make_winograd_trial(&state, k), threads[k % 3]);
    test_sides(&state);
    test_no_winograd(&state);
    for (int k = 0; k < 10; k++)
        test_accumulation(&state);
    for (int k = 0; k < 15; k++)
        test_inference_with_dropout(&state);
    test_dropout();
    test_train_step(1, CNN_TRAINING_STEP, &byte_task);
    test_train_step(16, CNN_TRAINING, &byte_task);
    test_train_step(37, CNN_TRAINING_STEP, &float_task);
    test_train_step(9, CNN_TRAINING, &float_task);
    test_train_step(22, CNN_TRAINING_STEP, &byte_task);
    test_train_step(40, CNN_TRAINING, &byte_task);
    test_train_step(130, CNN_TRAINING_STEP, &byte_task);
    test_many_steps(&state);
    test_fit_bits();
    test_evaluate();
}

int main(void) {
    make_task();
    for (int i = 0; i < COUNT(isas); i++) {
        isa_name = isas[i];
        if (check_select_isa(isas[i]))
            test_isa();
        else
            printf("skipped: %s is not in this machine or build\n", isas[i]);
    }
    check_select_isa(NULL);
    isa_name = cnn_instruction_set();
    test_dropout_values(0);
    test_dropout_values(0.1f);
    static const int reports[] = {0, 1, 2, 11, 50};
    for (int k = 0; k < COUNT(reports); k++)
        test_fit_callbacks(reports[k]);
    test_subnormals();
    test_fit_stops();
    test_fit_by_hand();
    test_fit_learns();
    test_rest_is_used();
    test_predict_ties();
    test_shared_net();
    static const int counts[] = {1, 2, 3, 20, 256, 1000};
    for (int k = 0; k < COUNT(counts); k++)
        test_shuffle(counts[k]);
    test_shuffle_is_fair();
    for (int k = 0; k < COUNT(init_cases); k++)
        test_init(&init_cases[k]);
    test_init_constant();
    test_parameter_block();
    return check_done();
}
