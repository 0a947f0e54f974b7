/* The reference itself: every backward pass against central differences of its forward pass, sizes against
   counting, and forward passes against known answers and against one another. */
#include "check.h"
#include "reference.h"

enum { INPUTS = 3, LABELS = 8 };

/* An operator on random data. Gradients are of the sum of dy*out; a loss has one output and dy 1. */
typedef struct problem {
    ref_tensor in[INPUTS], grad[INPUTS]; /* data NULL: absent */
    ref_tensor out, dy;
    int accumulated[INPUTS]; /* the gradient is added to what is there, not written over it */
    ref_conv conv;
    ref_pool pool;
    int option; /* corr2d: flip; squared error: mean */
    int *indices;
    int labels[LABELS];
    void (*forward)(struct problem *);
    void (*backward)(struct problem *);
    char text[200];
} problem;

/* Distinct values in -1..1, at least 1/count apart and none of them 0, so that small steps change no maximum.
 */
static ref_tensor random_tensor(uint64_t *random, int n, int c, int h, int w) {
    const ref_tensor t = ref_alloc(n, c, h, w);
    const int count = (int)ref_count(&t);
    for (int i = 0; i < count; i++) {
        const int j = check_range(random, 0, i);
        t.data[i] = t.data[j];
        t.data[j] = (2 * i + 0.5 - count) / count;
    }
    return t;
}

static double objective(problem *p) {
    double sum = 0;
    p->forward(p);
    for (size_t i = 0; i < ref_count(&p->out); i++)
        sum += p->out.data[i] * p->dy.data[i];
    return sum;
}

static double central_difference(problem *p, double *value) {
    const double step = 1e-5;
    const double here = *value;
    *value = here + step;
    const double above = objective(p);
    *value = here - step;
    const double below = objective(p);
    *value = here;
    return (above - below) / (2 * step);
}

static void check_gradient(problem *p, int k, uint64_t seed) {
    const double base = p->accumulated[k] ? 7 : 0;
    for (size_t i = 0; i < ref_count(&p->in[k]); i++) {
        const double want = central_difference(p, &p->in[k].data[i]);
        const double got = p->grad[k].data[i] - base;
        CHECK(check_close(got, want, 1e-7, 1e-6),
              "%s: input %d, element %d: gradient %.9g, difference %.9g; seed %llu", p->text, k, (int)i, got,
              want, (unsigned long long)seed);
    }
}

static void free_problem(problem *p) {
    for (int k = 0; k < INPUTS; k++) {
        ref_free(&p->in[k]);
        ref_free(&p->grad[k]);
    }
    ref_free(&p->out);
    ref_free(&p->dy);
    free(p->indices);
}

/* Takes the problem over, its inputs and the shape of its output filled in. */
static void check_problem(problem *p, uint64_t *random, int inputs, uint64_t seed) {
    const ref_tensor *out = &p->out;
    p->dy = random_tensor(random, out->n, out->c, out->h, out->w);
    if (ref_count(out) == 1)
        p->dy.data[0] = 1;
    for (int k = 0; k < inputs; k++) {
        p->grad[k] = ref_alloc(p->in[k].n, p->in[k].c, p->in[k].h, p->in[k].w);
        ref_fill(&p->grad[k], 7);
    }
    p->forward(p);
    p->backward(p);
    for (int k = 0; k < inputs; k++)
        check_gradient(p, k, seed);
    free_problem(p);
}

/* ---- convolution --------------------------------------------------------------------------------- */

static void forward_conv2d(problem *p) {
    ref_conv2d_forward(&p->in[0], &p->in[1], &p->in[2], &p->conv, &p->out);
}

static void backward_conv2d(problem *p) {
    ref_conv2d_backward(&p->in[0], &p->in[1], &p->dy, &p->conv, &p->grad[0], &p->grad[1], &p->grad[2]);
}

static ref_conv random_conv(uint64_t *random, int h, int w) {
    const ref_padding mode = (ref_padding)check_range(random, REF_ZEROS, REF_CIRCULAR);
    const int limit_h = mode == REF_REFLECT ? h - 1 : mode == REF_CIRCULAR ? h : 4;
    const int limit_w = mode == REF_REFLECT ? w - 1 : mode == REF_CIRCULAR ? w : 4;
    const ref_conv conv = {check_range(random, 1, 3),       check_range(random, 1, 3),
                           check_range(random, 0, limit_h), check_range(random, 0, limit_h),
                           check_range(random, 0, limit_w), check_range(random, 0, limit_w),
                           check_range(random, 1, 2),       check_range(random, 1, 3),
                           check_range(random, 1, 2),       mode};
    return conv;
}

static void describe_conv(problem *p) {
    const ref_conv *o = &p->conv;
    const ref_tensor *x = &p->in[0];
    const ref_tensor *w = &p->in[1];
    snprintf(p->text, sizeof p->text,
             "conv2d x %dx%dx%dx%d weight %dx%dx%dx%d stride %d,%d padding %d,%d,%d,%d dilation %d,%d groups "
             "%d mode %d",
             x->n, x->c, x->h, x->w, w->n, w->c, w->h, w->w, o->stride_h, o->stride_w, o->top, o->bottom,
             o->left, o->right, o->dilation_h, o->dilation_w, o->groups, (int)o->mode);
}

/* Sets the problem up but for its functions; 0: the kernel does not fit, and nothing is allocated. */
static int draw_conv2d(problem *p, uint64_t *random) {
    const int h = check_range(random, 1, 5);
    const int w = check_range(random, 1, 5);
    const int kernel_h = check_range(random, 1, 3);
    const int kernel_w = check_range(random, 1, 3);
    const ref_conv o = random_conv(random, h, w);
    const int out_h = ref_conv_size(h, o.top, o.bottom, kernel_h, o.stride_h, o.dilation_h);
    const int out_w = ref_conv_size(w, o.left, o.right, kernel_w, o.stride_w, o.dilation_w);
    if (out_h < 1 || out_w < 1)
        return 0;
    const int n = check_range(random, 1, 2);
    const int in = check_range(random, 1, 2);
    const int out = o.groups * check_range(random, 1, 2);
    p->conv = o;
    p->in[0] = random_tensor(random, n, in * o.groups, h, w);
    p->in[1] = random_tensor(random, out, in, kernel_h, kernel_w);
    p->in[2] = random_tensor(random, 1, out, 1, 1);
    p->out = ref_alloc(n, out, out_h, out_w);
    p->accumulated[1] = p->accumulated[2] = 1;
    describe_conv(p);
    return 1;
}

static void test_conv2d(uint64_t *random, uint64_t seed) {
    problem p = {.forward = forward_conv2d, .backward = backward_conv2d};
    if (draw_conv2d(&p, random))
        check_problem(&p, random, 3, seed);
}

/* The image of channel c of sample n with its padding written out. */
static ref_tensor padded_plane(const ref_tensor *x, int n, int c, const ref_conv *o) {
    const ref_tensor padded = ref_alloc(1, 1, x->h + o->top + o->bottom, x->w + o->left + o->right);
    for (int i = 0; i < padded.h; i++)
        for (int j = 0; j < padded.w; j++) {
            const int row = ref_source(i - o->top, x->h, o->mode);
            const int column = ref_source(j - o->left, x->w, o->mode);
            *ref_at(&padded, 0, 0, i, j) = row < 0 || column < 0 ? 0 : *ref_at(x, n, c, row, column);
        }
    return padded;
}

/* The kernel of output o and input c with zeros between its elements. */
static ref_tensor dilated_kernel(const ref_tensor *weight, int o, int c, const ref_conv *conv) {
    const ref_tensor kernel =
        ref_alloc(1, 1, (weight->h - 1) * conv->dilation_h + 1, (weight->w - 1) * conv->dilation_w + 1);
    for (int a = 0; a < weight->h; a++)
        for (int b = 0; b < weight->w; b++)
            *ref_at(&kernel, 0, 0, a * conv->dilation_h, b * conv->dilation_w) = *ref_at(weight, o, c, a, b);
    return kernel;
}

/* Takes from out channel (n, o) what one input channel contributes: a plain cross-correlation of the padded
   plane, of which the stride keeps a part. */
static void subtract_plane(problem *p, int n, int o, int c) {
    const ref_conv *conv = &p->conv;
    const int group = o / (p->in[1].n / conv->groups);
    ref_tensor plane = padded_plane(&p->in[0], n, group * p->in[1].c + c, conv);
    ref_tensor kernel = dilated_kernel(&p->in[1], o, c, conv);
    ref_tensor full = ref_alloc(1, 1, plane.h - kernel.h + 1, plane.w - kernel.w + 1);
    ref_corr2d_forward(&plane, &kernel, 0, &full);
    for (int i = 0; i < p->out.h; i++)
        for (int j = 0; j < p->out.w; j++)
            *ref_at(&p->out, n, o, i, j) -= *ref_at(&full, 0, 0, i * conv->stride_h, j * conv->stride_w);
    ref_free(&plane);
    ref_free(&kernel);
    ref_free(&full);
}

static void test_conv2d_by_planes(uint64_t *random, uint64_t seed) {
    problem p = {.forward = forward_conv2d};
    if (!draw_conv2d(&p, random))
        return;
    p.forward(&p);
    for (int n = 0; n < p.out.n; n++)
        for (int o = 0; o < p.out.c; o++)
            for (int c = 0; c < p.in[1].c; c++)
                subtract_plane(&p, n, o, c);
    for (size_t i = 0; i < ref_count(&p.out); i++) {
        const double bias = p.in[2].data[i / (size_t)(p.out.h * p.out.w) % (size_t)p.out.c];
        CHECK(check_close(p.out.data[i], bias, 1e-12, 0), "%s: element %d leaves %g, bias %g; seed %llu",
              p.text, (int)i, p.out.data[i], bias, (unsigned long long)seed);
    }
    free_problem(&p);
}

static void forward_corr2d(problem *p) {
    ref_corr2d_forward(&p->in[0], &p->in[1], p->option, &p->out);
}

static void backward_corr2d(problem *p) {
    ref_corr2d_backward(&p->in[0], &p->in[1], &p->dy, p->option, &p->grad[0], &p->grad[1]);
}

static void test_corr2d(uint64_t *random, uint64_t seed) {
    problem p = {.forward = forward_corr2d, .backward = backward_corr2d};
    const int h = check_range(random, 1, 6);
    const int w = check_range(random, 1, 6);
    const int kernel_h = check_range(random, 1, h);
    const int kernel_w = check_range(random, 1, w);
    p.option = check_range(random, 0, 1);
    p.in[0] = random_tensor(random, 1, 1, h, w);
    p.in[1] = random_tensor(random, 1, 1, kernel_h, kernel_w);
    p.out = ref_alloc(1, 1, h - kernel_h + 1, w - kernel_w + 1);
    p.accumulated[1] = 1;
    snprintf(p.text, sizeof p.text, "corr2d %dx%d kernel %dx%d flip %d", h, w, kernel_h, kernel_w, p.option);
    check_problem(&p, random, 2, seed);
}

/* ---- pooling ------------------------------------------------------------------------------------- */

static void forward_maxpool2d(problem *p) {
    ref_maxpool2d_forward(&p->in[0], &p->pool, &p->out, p->indices);
}

static void backward_maxpool2d(problem *p) {
    ref_maxpool2d_backward(&p->dy, p->indices, &p->grad[0]);
}

static void forward_avgpool2d(problem *p) {
    ref_avgpool2d_forward(&p->in[0], &p->pool, &p->out);
}

static void backward_avgpool2d(problem *p) {
    ref_avgpool2d_backward(&p->dy, &p->pool, &p->grad[0]);
}

static ref_pool random_pool(uint64_t *random, int max) {
    const int kernel_h = check_range(random, 1, 4);
    const int kernel_w = check_range(random, 1, 4);
    const ref_pool pool = {kernel_h,
                           kernel_w,
                           check_range(random, 1, 4),
                           check_range(random, 1, 4),
                           check_range(random, 0, kernel_h / 2),
                           check_range(random, 0, kernel_w / 2),
                           max ? check_range(random, 1, 2) : 1,
                           max ? check_range(random, 1, 2) : 1,
                           check_range(random, 0, 1),
                           check_range(random, 0, 1)};
    return pool;
}

static void test_pool2d(uint64_t *random, uint64_t seed) {
    const int max = check_range(random, 0, 1);
    problem p = {.forward = max ? forward_maxpool2d : forward_avgpool2d,
                 .backward = max ? backward_maxpool2d : backward_avgpool2d};
    const ref_pool o = random_pool(random, max);
    const int h = check_range(random, 1, 7);
    const int w = check_range(random, 1, 7);
    const int out_h = ref_pool_size(h, o.pad_h, o.kernel_h, o.stride_h, o.dilation_h, o.ceil_mode);
    const int out_w = ref_pool_size(w, o.pad_w, o.kernel_w, o.stride_w, o.dilation_w, o.ceil_mode);
    if (out_h < 1 || out_w < 1)
        return;
    p.pool = o;
    p.in[0] = random_tensor(random, 2, 2, h, w);
    p.out = ref_alloc(2, 2, out_h, out_w);
    p.indices = (int *)ref_memory(ref_count(&p.out), sizeof *p.indices);
    snprintf(p.text, sizeof p.text,
             "%s x %dx%d kernel %dx%d stride %d,%d padding %d,%d dilation %d,%d ceil %d exclude %d",
             max ? "maxpool2d" : "avgpool2d", h, w, o.kernel_h, o.kernel_w, o.stride_h, o.stride_w, o.pad_h,
             o.pad_w, o.dilation_h, o.dilation_w, o.ceil_mode, o.exclude_padding);
    /* A window off the image gives minus infinity, of which there is no difference. */
    p.forward(&p);
    for (size_t i = 0; max && i < ref_count(&p.out); i++)
        if (p.indices[i] < 0) {
            CHECK(isinf(p.out.data[i]), "%s: an empty window gives %g", p.text, p.out.data[i]);
            free_problem(&p);
            return;
        }
    check_problem(&p, random, 1, seed);
}

static void forward_globalavgpool2d(problem *p) {
    ref_globalavgpool2d_forward(&p->in[0], &p->out);
}

static void backward_globalavgpool2d(problem *p) {
    ref_globalavgpool2d_backward(&p->dy, &p->grad[0]);
}

/* ---- linear, activations, losses ----------------------------------------------------------------- */

static void forward_linear(problem *p) {
    ref_linear_forward(&p->in[0], &p->in[1], &p->in[2], &p->out);
}

static void backward_linear(problem *p) {
    ref_linear_backward(&p->in[0], &p->in[1], &p->dy, &p->grad[0], &p->grad[1], &p->grad[2]);
}

static void test_linear(uint64_t *random, uint64_t seed) {
    problem p = {.forward = forward_linear, .backward = backward_linear};
    const int n = check_range(random, 1, 3);
    const int c = check_range(random, 1, 3);
    const int h = check_range(random, 1, 3);
    const int w = check_range(random, 1, 3);
    const int out = check_range(random, 1, 5);
    p.in[0] = random_tensor(random, n, c, h, w);
    p.in[1] = random_tensor(random, out, c * h * w, 1, 1);
    p.in[2] = random_tensor(random, 1, out, 1, 1);
    p.out = ref_alloc(n, out, 1, 1);
    p.accumulated[1] = p.accumulated[2] = 1;
    snprintf(p.text, sizeof p.text, "linear x %dx%dx%dx%d out %d", n, c, h, w, out);
    check_problem(&p, random, 3, seed);
}

static void forward_sigmoid(problem *p) {
    ref_sigmoid_forward(&p->in[0], &p->out);
}

static void backward_sigmoid(problem *p) {
    ref_sigmoid_backward(&p->out, &p->dy, &p->grad[0]);
}

static void forward_tanh(problem *p) {
    ref_tanh_forward(&p->in[0], &p->out);
}

static void backward_tanh(problem *p) {
    ref_tanh_backward(&p->out, &p->dy, &p->grad[0]);
}

static void forward_relu(problem *p) {
    ref_relu_forward(&p->in[0], &p->out);
}

static void backward_relu(problem *p) {
    ref_relu_backward(&p->out, &p->dy, &p->grad[0]);
}

static void forward_softmax(problem *p) {
    ref_softmax_forward(&p->in[0], &p->out);
}

static void backward_softmax(problem *p) {
    ref_softmax_backward(&p->out, &p->dy, &p->grad[0]);
}

static void forward_dropout(problem *p) {
    ref_dropout(&p->in[0], p->indices, 0.3, &p->out);
}

static void backward_dropout(problem *p) {
    ref_dropout(&p->dy, p->indices, 0.3, &p->grad[0]);
}

/* Operators of one input, whose output has its shape or, for pooling, one element a plane. */
static void test_elementwise(uint64_t *random, uint64_t seed) {
    static const struct {
        const char *name;
        void (*forward)(problem *);
        void (*backward)(problem *);
    } operators[] = {{"globalavgpool2d", forward_globalavgpool2d, backward_globalavgpool2d},
                     {"sigmoid", forward_sigmoid, backward_sigmoid},
                     {"tanh", forward_tanh, backward_tanh},
                     {"relu", forward_relu, backward_relu},
                     {"softmax", forward_softmax, backward_softmax},
                     {"dropout", forward_dropout, backward_dropout}};
    for (int k = 0; k < (int)(sizeof operators / sizeof operators[0]); k++) {
        problem p = {.forward = operators[k].forward, .backward = operators[k].backward};
        const int n = check_range(random, 1, 3);
        const int c = check_range(random, 1, 4);
        const int h = check_range(random, 1, 3);
        const int w = check_range(random, 1, 3);
        p.in[0] = random_tensor(random, n, c, h, w);
        p.out = k ? ref_alloc(n, c, h, w) : ref_alloc(n, c, 1, 1);
        p.indices = (int *)ref_memory(ref_count(&p.out), sizeof *p.indices);
        for (size_t i = 0; i < ref_count(&p.out); i++)
            p.indices[i] = check_range(random, 0, 1);
        snprintf(p.text, sizeof p.text, "%s x %dx%dx%dx%d", operators[k].name, n, c, h, w);
        check_problem(&p, random, 1, seed);
    }
}

static void forward_cross_entropy(problem *p) {
    p->out.data[0] = ref_cross_entropy_forward(&p->in[0], p->labels);
}

static void backward_cross_entropy(problem *p) {
    ref_cross_entropy_backward(&p->in[0], p->labels, &p->grad[0]);
}

static void test_cross_entropy(uint64_t *random, uint64_t seed) {
    problem p = {.forward = forward_cross_entropy, .backward = backward_cross_entropy};
    const int n = check_range(random, 1, LABELS);
    const int classes = check_range(random, 1, 6);
    p.in[0] = random_tensor(random, n, classes, 1, 1);
    p.out = ref_alloc(1, 1, 1, 1);
    for (int i = 0; i < n; i++)
        p.labels[i] = check_range(random, 0, classes - 1);
    snprintf(p.text, sizeof p.text, "cross entropy of %d samples, %d classes", n, classes);
    check_problem(&p, random, 1, seed);
}

static void forward_squared_error(problem *p) {
    p->out.data[0] = ref_squared_error_forward(&p->in[0], &p->in[1], p->option);
}

static void backward_squared_error(problem *p) {
    ref_squared_error_backward(&p->in[0], &p->in[1], p->option, &p->grad[0]);
}

static void test_squared_error(uint64_t *random, uint64_t seed) {
    problem p = {.forward = forward_squared_error, .backward = backward_squared_error};
    const int n = check_range(random, 1, 4);
    const int c = check_range(random, 1, 4);
    p.option = check_range(random, 0, 1);
    p.in[0] = random_tensor(random, n, c, 2, 3);
    p.in[1] = random_tensor(random, n, c, 2, 3);
    p.out = ref_alloc(1, 1, 1, 1);
    snprintf(p.text, sizeof p.text, "squared error of %dx%dx2x3, mean %d", n, c, p.option);
    check_problem(&p, random, 1, seed);
}

/* ---- sizes --------------------------------------------------------------------------------------- */

static int count_conv(int total, int extent, int stride) {
    int count = 0;
    while (count * stride + extent <= total)
        count++;
    return count;
}

/* In ceil mode another window follows as long as the one before it, which for the first one is imagined, ends
   before the last element, but none that starts beyond the image. */
static int count_pool(int size, int pad, int extent, int stride, int ceil_mode) {
    int count = 0;
    if (!ceil_mode)
        return count_conv(size + 2 * pad, extent, stride);
    while ((count - 1) * stride + extent < size + 2 * pad && count * stride < size + pad)
        count++;
    return count;
}

static void check_sizes(int size, int kernel, int stride, int dilation) {
    const int extent = dilation * (kernel - 1) + 1;
    for (int before = 0; before <= 3; before++)
        for (int after = 0; after <= 3; after++) {
            const int got = ref_conv_size(size, before, after, kernel, stride, dilation);
            const int want = count_conv(size + before + after, extent, stride);
            CHECK(got == want, "convolution of %d+%d+%d by %d, stride %d, dilation %d: %d, counted %d", size,
                  before, after, kernel, stride, dilation, got, want);
        }
    for (int pad = 0; pad <= kernel / 2; pad++)
        for (int ceil_mode = 0; ceil_mode <= 1; ceil_mode++) {
            const int got = ref_pool_size(size, pad, kernel, stride, dilation, ceil_mode);
            const int want = count_pool(size, pad, extent, stride, ceil_mode);
            CHECK(got == want,
                  "pooling of %d, padding %d, by %d, stride %d, dilation %d, ceil %d: %d, counted %d", size,
                  pad, kernel, stride, dilation, ceil_mode, got, want);
        }
}

static void test_sizes(void) {
    for (int size = 1; size <= 9; size++)
        for (int kernel = 1; kernel <= 5; kernel++)
            for (int stride = 1; stride <= 6; stride++)
                for (int dilation = 1; dilation <= 3; dilation++)
                    check_sizes(size, kernel, stride, dilation);
}

/* ---- known answers ------------------------------------------------------------------------------- */

static void test_padding_modes(void) {
    static const struct {
        ref_padding mode;
        int first, source[10]; /* of positions first, first + 1 ... around an image of 4 */
    } cases[] = {{REF_ZEROS, -3, {-1, -1, -1, 0, 1, 2, 3, -1, -1, -1}},
                 {REF_REFLECT, -3, {3, 2, 1, 0, 1, 2, 3, 2, 1, 0}},
                 {REF_REPLICATE, -3, {0, 0, 0, 0, 1, 2, 3, 3, 3, 3}},
                 {REF_CIRCULAR, -3, {1, 2, 3, 0, 1, 2, 3, 0, 1, 2}}};
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 10; i++)
            CHECK(ref_source(cases[k].first + i, 4, cases[k].mode) == cases[k].source[i],
                  "mode %d, position %d", (int)cases[k].mode, cases[k].first + i);
}

/* A window of 3, stride 2, padding 1, on a line of 1 1 1 1 rounded up: the windows have 2, 3 and 1 elements
   of the image, and 3, 3 and 2 of image and padding. */
static void test_average_of_ones(void) {
    static const double want[2][3] = {{2.0 / 3, 1, 0.5}, {1, 1, 1}};
    CHECK(ref_pool_size(4, 1, 3, 2, 1, 1) == 3, "size");
    for (int k = 0; k < 4; k++) {
        const int exclude = k / 2;
        const ref_pool along_row = {1, 3, 1, 2, 0, 1, 1, 1, 1, exclude};
        const ref_pool along_column = {3, 1, 2, 1, 1, 0, 1, 1, 1, exclude};
        ref_tensor x = k % 2 ? ref_alloc(1, 1, 4, 1) : ref_alloc(1, 1, 1, 4);
        ref_tensor y = k % 2 ? ref_alloc(1, 1, 3, 1) : ref_alloc(1, 1, 1, 3);
        ref_fill(&x, 1);
        ref_avgpool2d_forward(&x, k % 2 ? &along_column : &along_row, &y);
        for (int j = 0; j < 3; j++)
            CHECK(check_close(y.data[j], want[exclude][j], 1e-15, 0), "case %d, window %d: %g", k, j,
                  y.data[j]);
        ref_free(&x);
        ref_free(&y);
    }
}

/* The first of equals, the last NaN, the first of nothing but minus infinity, and -1 where the window is off
   the image, which dilation makes possible. */
static void test_maxpool_known(void) {
    const double minus = -(double)INFINITY;
    double values[] = {1, 2, 2, (double)NAN, 5, (double)NAN, minus, minus};
    const ref_tensor row = {1, 1, 1, 8, values};
    const ref_tensor pair = {1, 1, 1, 2, values};
    const ref_pool two = {1, 2, 1, 2, 0, 0, 1, 1, 0, 0};
    const ref_pool four = {1, 4, 1, 4, 0, 0, 1, 1, 0, 0};
    const ref_pool dilated = {1, 2, 1, 1, 0, 1, 1, 3, 0, 0};
    CHECK(ref_maxpool2d_index(&row, &two, 0, 0, 0, 0) == 1, "the greater of two");
    CHECK(ref_maxpool2d_index(&row, &two, 0, 0, 0, 1) == 3, "NaN after a number");
    CHECK(ref_maxpool2d_index(&row, &four, 0, 0, 0, 0) == 3, "NaN after numbers");
    CHECK(ref_maxpool2d_index(&row, &four, 0, 0, 0, 1) == 5, "NaN before minus infinity");
    CHECK(ref_maxpool2d_index(&row, &two, 0, 0, 0, 3) == 6, "minus infinity twice");
    CHECK(ref_maxpool2d_index(&pair, &dilated, 0, 0, 0, 0) == -1, "a window off the image");
    values[3] = 2;
    CHECK(ref_maxpool2d_index(&row, &four, 0, 0, 0, 0) == 1, "three equals");
    values[0] = values[2] = (double)NAN;
    CHECK(ref_maxpool2d_index(&row, &four, 0, 0, 0, 0) == 2, "NaN twice");
}

static void test_scales(void) {
    double values[] = {1, 3}, others[] = {0, 1}, out[2];
    const int mask[] = {0, 1};
    const ref_tensor x = {1, 1, 1, 2, values};
    const ref_tensor target = {1, 1, 1, 2, others};
    ref_tensor y = {1, 1, 1, 2, out};
    ref_tensor mean = {1, 1, 1, 1, out};
    CHECK(check_close(ref_squared_error_forward(&x, &target, 0), 5, 0, 0), "sum of squares");
    CHECK(check_close(ref_squared_error_forward(&x, &target, 1), 2.5, 0, 0), "mean of squares");
    ref_dropout(&x, mask, 0.25, &y);
    CHECK(check_close(out[0], 0, 0, 0) && check_close(out[1], 4, 0, 0), "dropout gives %g %g", out[0],
          out[1]);
    ref_globalavgpool2d_forward(&x, &mean);
    CHECK(check_close(out[0], 2, 0, 0), "the mean of 1 and 3 is %g", out[0]);
}

static void test_corr2d_known(void) {
    double image[] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    double weights[] = {0, 1, 2, 3};
    static const double want[2][4] = {{19, 25, 37, 43}, {5, 11, 23, 29}};
    const ref_tensor x = {1, 1, 3, 3, image};
    const ref_tensor kernel = {1, 1, 2, 2, weights};
    ref_tensor y = ref_alloc(1, 1, 2, 2);
    for (int flip = 0; flip <= 1; flip++) {
        ref_corr2d_forward(&x, &kernel, flip, &y);
        for (int i = 0; i < 4; i++)
            CHECK(check_close(y.data[i], want[flip][i], 0, 0), "flip %d, element %d: %g", flip, i, y.data[i]);
    }
    ref_free(&y);
}

/* log(e^0 + e^0 + e^0) = log 3 whatever is added to all logits, and far ones have no weight. */
static void test_softmax_known(void) {
    const int label = 1;
    for (int k = 0; k < 3; k++) {
        const double offset = k == 0 ? 0 : k == 1 ? 1e30 : -1e30;
        double values[] = {offset, offset, offset, -3e30};
        const ref_tensor x = {1, 4, 1, 1, values};
        ref_tensor y = ref_alloc(1, 4, 1, 1);
        ref_softmax_forward(&x, &y);
        for (int c = 0; c < 4; c++)
            CHECK(check_close(y.data[c], c < 3 ? 1.0 / 3 : 0, 1e-15, 0), "offset %g, class %d: %g", offset, c,
                  y.data[c]);
        CHECK(check_close(ref_cross_entropy_forward(&x, &label), log(3), 1e-15, 0), "offset %g", offset);
        ref_free(&y);
    }
}

int main(void) {
    const uint64_t seed = check_seed();
    uint64_t random = seed;
    for (int i = 0; i < 100; i++) {
        test_conv2d(&random, seed);
        test_conv2d_by_planes(&random, seed);
        test_corr2d(&random, seed);
        test_pool2d(&random, seed);
        test_linear(&random, seed);
        test_elementwise(&random, seed);
        test_cross_entropy(&random, seed);
        test_squared_error(&random, seed);
    }
    test_sizes();
    test_padding_modes();
    test_average_of_ones();
    test_maxpool_known();
    test_scales();
    test_corr2d_known();
    test_softmax_known();
    return check_done();
}
