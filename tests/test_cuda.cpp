/* The CUDA back end against the CPU: every operator over random shapes and options, memory of every kind, equal
   bits from run to run, networks, training by the fused and by the generic kernels, and every call of the
   runtime failing once. Linked with tests/library_cuda.cpp, compiled by g++ for the shim or by nvcc for a GPU,
   where the tests that need the shim are left out.

       test_cuda [short] [WORD ...]     only the tests whose names contain a word; short: fewer and smaller cases,
                                        for the sanitizers */
#include "check.h"
#include "cnn.h"
#include "cuda_door.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#define GOOD(call) CHECK((call) == CNN_OK, "seed %llu: %s: %s", seed_now(), at.c_str(), cnn_last_error())

typedef std::vector<float> floats;

static int brief;      /* fewer and smaller cases */
static std::string at; /* what is being tested, for messages */

static unsigned long long seed_now(void) {
    return (unsigned long long)check_seed();
}

static void use(cnn_device device) {
    GOOD(cnn_device_use(device));
}

/* The number of multiprocessors must not matter to the results. */
static void shake(uint64_t *random) {
    static const int counts[] = {1, 4, 132};
    const uint64_t seed = check_bits(random);
    door_shake(seed, counts[check_range(random, 0, 2)]);
}

/* ---- one operator on both devices ---------------------------------------------------------------- */

enum role { ABSENT, IN, OUT, ACCUMULATED, IN_PLACE };

struct operand {
    role is;
    int n, c, h, w;
    float scale;    /* of its random values */
    floats initial; /* empty: random */
};

static operand make(role is, int n, int c, int h, int w, float scale = 1) {
    const operand o = {is, n, c, h, w, scale, floats()};
    return o;
}

static operand like(role is, const cnn_tensor &t, float scale = 1) {
    return make(is, t.n, t.c, t.h, t.w, scale);
}

/* Takes the operands in order, NULL where absent; results that are no tensors go into extra. */
typedef std::function<cnn_status(cnn_tensor **, std::vector<double> *)> operation;

struct outcome {
    std::vector<floats> tensors; /* of every operand */
    std::vector<double> extra;
};

static size_t count_of(const operand &o) {
    return (size_t)o.n * (size_t)o.c * (size_t)o.h * (size_t)o.w;
}

/* One call. `owned`: bit k set: operand k is memory of the library's; otherwise memory of the caller's. */
static outcome call_once(const std::vector<operand> &operands, unsigned owned, bool magnitudes,
                         const operation &call) {
    outcome result;
    std::vector<cnn_tensor> tensors(operands.size());
    std::vector<cnn_tensor *> pointers(operands.size());
    for (size_t k = 0; k < operands.size(); k++) {
        const operand &o = operands[k];
        const size_t count = count_of(o);
        cnn_tensor &t = tensors[k];
        if (o.is == ABSENT)
            continue;
        pointers[k] = &t;
        if (owned >> k & 1) {
            GOOD(cnn_tensor_alloc(&t, o.n, o.c, o.h, o.w));
        } else {
            t = cnn_tensor{o.n, o.c, o.h, o.w, (float *)malloc(count * sizeof(float))};
        }
        for (size_t i = 0; i < count; i++)
            t.data[i] = o.is == OUT ? (float)NAN : magnitudes ? fabsf(o.initial[i]) : o.initial[i];
    }
    GOOD(call(pointers.data(), &result.extra));
    for (size_t k = 0; k < operands.size(); k++) {
        result.tensors.push_back(floats());
        if (!pointers[k])
            continue;
        result.tensors[k].assign(tensors[k].data, tensors[k].data + count_of(operands[k]));
        if (owned >> k & 1)
            cnn_tensor_free(&tensors[k]);
        else
            free(tensors[k].data);
    }
    return result;
}

static bool same_bits(const floats &a, const floats &b) {
    return a.size() == b.size() && (a.empty() || !memcmp(a.data(), b.data(), a.size() * sizeof(float)));
}

/* `relative`: to the result's own magnitude; otherwise to what the CPU gives for the operands' magnitudes, which
   bounds the terms of a sum. */
static void check_outcome(const std::vector<operand> &operands, const outcome &got, const outcome &want,
                          const outcome *bound, double tolerance) {
    for (size_t k = 0; k < operands.size(); k++) {
        if (operands[k].is == IN)
            CHECK(same_bits(got.tensors[k], operands[k].initial), "seed %llu: %s: input %d was written to",
                  seed_now(), at.c_str(), (int)k);
        for (size_t i = 0; operands[k].is > IN && i < want.tensors[k].size(); i++) {
            const double w = (double)want.tensors[k][i], g = (double)got.tensors[k][i];
            const double size = bound ? (double)bound->tensors[k][i] : fabs(w) > 1 ? fabs(w) : 1;
            if (check_close(g, w, std::isfinite(size) ? tolerance * size + 1e-37 : 0, 0))
                continue;
            CHECK(0, "seed %llu: %s: operand %d [%d of %d] is %.9g, not %.9g +- %.2g", seed_now(), at.c_str(),
                  (int)k, (int)i, (int)want.tensors[k].size(), g, w, tolerance * size);
            break;
        }
    }
    CHECK(got.extra.size() == want.extra.size(), "%s", at.c_str());
    for (size_t i = 0; i < want.extra.size() && i < got.extra.size(); i++)
        CHECK(check_close(got.extra[i], want.extra[i], 1e-6, 1e-6),
              "seed %llu: %s: extra %d is %.9g, not %.9g", seed_now(), at.c_str(), (int)i, got.extra[i],
              want.extra[i]);
}

static void check_same(const std::vector<operand> &operands, const outcome &a, const outcome &b) {
    for (size_t k = 0; k < operands.size(); k++)
        CHECK(same_bits(a.tensors[k], b.tensors[k]),
              "seed %llu: %s: operand %d has other bits on another run", seed_now(), at.c_str(), (int)k);
    CHECK(a.extra == b.extra, "seed %llu: %s: another result on another run", seed_now(), at.c_str());
}

/* The call on the CPU, and on the GPU with memory of the library's, of the caller's, and mixed. */
static void compare(const std::string &name, uint64_t *random, bool sums, double tolerance,
                    std::vector<operand> operands, const operation &call) {
    at = name;
    for (size_t k = 0; k < operands.size(); k++) {
        operand &o = operands[k];
        char text[80];
        snprintf(text, sizeof text, " %d:%dx%dx%dx%d", (int)o.is, o.n, o.c, o.h, o.w);
        at += text;
        for (size_t i = o.initial.size(); o.is > ABSENT && i < count_of(o); i++)
            o.initial.push_back(o.scale * check_uniform(random));
    }
    use(CNN_DEVICE_CPU);
    const outcome want = call_once(operands, 0, false, call);
    outcome bound;
    if (sums)
        bound = call_once(operands, 0, true, call);
    use(CNN_DEVICE_CUDA);
    shake(random);
    const outcome first = call_once(operands, ~0u, false, call);
    check_outcome(operands, first, want, sums ? &bound : NULL, tolerance);
    shake(random);
    check_same(operands, first, call_once(operands, 0, false, call));
    shake(random);
    check_same(operands, first, call_once(operands, (unsigned)check_bits(random), false, call));
    use(CNN_DEVICE_CPU);
}

/* ---- convolutions -------------------------------------------------------------------------------- */

static int few(uint64_t *random, int most) { /* 1..most, more of the small ones */
    return check_range(random, 1, check_range(random, 1, most));
}

struct conv_case {
    int n, c, h, w, out, kernel_h, kernel_w;
    cnn_conv2d_options o;
};

static const double sum_tolerance = 2e-6;

static void check_conv(const conv_case &k, int subset, uint64_t *random) {
    const int groups = k.o.groups ? k.o.groups : 1;
    cnn_tensor x = {k.n, k.c, k.h, k.w, NULL}, weight = {k.out, k.c / groups, k.kernel_h, k.kernel_w, NULL},
               y = {0, 0, 0, 0, NULL};
    GOOD(cnn_conv2d_shape(&x, &weight, &k.o, &y));
    char text[160];
    snprintf(text, sizeof text, " (stride %d,%d padding %d,%d,%d,%d dilation %d,%d groups %d mode %d)",
             k.o.stride_h, k.o.stride_w, k.o.pad_top, k.o.pad_bottom, k.o.pad_left, k.o.pad_right,
             k.o.dilation_h, k.o.dilation_w, k.o.groups, (int)k.o.padding_mode);
    const operand bias = make(check_range(random, 0, 1) ? IN : ABSENT, 1, k.out, 1, 1);
    compare(std::string("conv2d forward") + text, random, true, sum_tolerance,
            {like(IN, x), like(IN, weight), bias, like(OUT, y)}, [&](cnn_tensor **t, std::vector<double> *) {
                return cnn_conv2d_forward(t[0], t[1], t[2], &k.o, t[3]);
            });
    compare(std::string("conv2d backward") + text, random, true, sum_tolerance,
            {like(IN, x), like(IN, weight), like(IN, y), like(subset & 1 ? OUT : ABSENT, x),
             like(subset & 2 ? ACCUMULATED : ABSENT, weight),
             make(subset & 4 ? ACCUMULATED : ABSENT, 1, k.out, 1, 1)},
            [&](cnn_tensor **t, std::vector<double> *) {
                return cnn_conv2d_backward(t[0], t[1], t[2], &k.o, t[3], t[4], t[5]);
            });
}

/* Shapes that cross the edges of tiles of the kernels, or that random ones seldom are. */
static const conv_case conv_cases[] = {
    {2, 1, 28, 28, 6, 5, 5, {1, 1, 2, 2, 2, 2, 1, 1, 1, CNN_PAD_ZEROS, 0}},
    {3, 6, 14, 14, 16, 5, 5, {0, 0, 0, 0, 0, 0, 0, 0, 0, CNN_PAD_ZEROS, 0}},
    {1, 20, 13, 15, 70, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, CNN_PAD_ZEROS, 0}},
    {2, 33, 9, 10, 130, 1, 1, {1, 1, 0, 0, 0, 0, 1, 1, 1, CNN_PAD_ZEROS, 0}},
    {1, 130, 5, 5, 9, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, CNN_PAD_ZEROS, 0}},
    {1, 3, 30, 31, 8, 7, 7, {2, 2, 3, 3, 3, 3, 1, 1, 1, CNN_PAD_ZEROS, 0}},
    {2, 24, 9, 11, 24, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 24, CNN_PAD_ZEROS, 0}},
    {2, 12, 9, 8, 24, 3, 3, {2, 2, 1, 1, 1, 1, 1, 1, 12, CNN_PAD_REFLECT, 0}},
    {1, 12, 11, 11, 18, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 6, CNN_PAD_CIRCULAR, 0}},
    {1, 1, 1, 1, 1, 1, 1, {1, 1, 0, 0, 0, 0, 1, 1, 1, CNN_PAD_ZEROS, 0}},
    {1, 2, 1, 1, 3, 2, 2, {3, 3, 5, 4, 7, 6, 1, 1, 1, CNN_PAD_ZEROS, 0}},
    {1, 2, 1, 1, 3, 2, 2, {1, 1, 5, 4, 7, 6, 2, 3, 1, CNN_PAD_REPLICATE, 0}},
    {1, 3, 1, 90, 5, 1, 9, {1, 3, 0, 0, 4, 4, 1, 2, 1, CNN_PAD_ZEROS, 0}},
    {1, 2, 5, 5, 3, 2, 2, {7, 8, 0, 3, 9, 9, 1, 1, 1, CNN_PAD_ZEROS, 0}},
    {40, 40, 1, 1, 40, 1, 1, {1, 1, 0, 0, 0, 0, 1, 1, 1, CNN_PAD_ZEROS, 0}},
    {1, 64, 12, 13, 65, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, CNN_PAD_ZEROS, 0}},
    {2, 66, 9, 8, 70, 3, 3, {1, 1, 1, 0, 0, 1, 1, 1, 1, CNN_PAD_REFLECT, 0}},
    {1, 64, 8, 9, 65, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, CNN_PAD_ZEROS, 1}}, /* these two not in short */
    {1, 130, 7, 7, 130, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, CNN_PAD_ZEROS, 0}},
};

static void draw_axis(uint64_t *random, int size, cnn_padding_mode mode, int *kernel, int *stride,
                      int *dilation, int *before, int *after) {
    const int limit = mode == CNN_PAD_REFLECT ? size - 1 : mode == CNN_PAD_CIRCULAR ? size : 1000;
    *kernel = check_range(random, 0, 2) ? check_range(random, 1, 5) : 1;
    *stride = check_range(random, 0, 2) ? check_range(random, 0, 1) : check_range(random, 2, 4);
    *dilation = check_range(random, 0, 3) ? check_range(random, 0, 1) : check_range(random, 2, 3);
    *before = check_range(random, 0, 1) ? 0 : std::min(limit, check_range(random, 0, *kernel + 2));
    *after = check_range(random, 0, 1) ? *before : std::min(limit, check_range(random, 0, *kernel + 2));
}

static conv_case draw_conv(uint64_t *random, double macs) {
    conv_case k;
    for (;;) {
        cnn_conv2d_options &o = k.o;
        const int kind = check_range(random, 0, 5);
        o.groups = kind < 4    ? check_range(random, 0, 1)
                   : kind == 4 ? check_range(random, 2, 4)
                               : few(random, 20);
        const int groups = o.groups ? o.groups : 1;
        k.n = few(random, 9);
        k.c = groups * (kind < 5 ? few(random, 20) : 1);
        k.out = groups * (kind < 5 ? few(random, 40) : check_range(random, 1, 2));
        k.h = few(random, 20);
        k.w = few(random, 20);
        o.padding_mode = (cnn_padding_mode)(check_range(random, 0, 1) ? 0 : check_range(random, 0, 3));
        draw_axis(random, k.h, o.padding_mode, &k.kernel_h, &o.stride_h, &o.dilation_h, &o.pad_top,
                  &o.pad_bottom);
        draw_axis(random, k.w, o.padding_mode, &k.kernel_w, &o.stride_w, &o.dilation_w, &o.pad_left,
                  &o.pad_right);
        const cnn_tensor x = {k.n, k.c, k.h, k.w, NULL},
                         weight = {k.out, k.c / groups, k.kernel_h, k.kernel_w, NULL};
        cnn_tensor y = {0, 0, 0, 0, NULL};
        if (cnn_conv2d_shape(&x, &weight, &o, &y) == CNN_OK &&
            (double)k.n * k.out * y.h * y.w * weight.c * k.kernel_h * k.kernel_w <= macs)
            return k;
    }
}

static void test_conv2d(uint64_t *random) {
    for (size_t i = 0; i < sizeof conv_cases / sizeof conv_cases[0] - (brief ? 2 : 0); i++)
        check_conv(conv_cases[i], 7, random);
    for (int i = 0; i < (brief ? 12 : 60); i++)
        check_conv(draw_conv(random, i % 8 ? 2e4 : 2e5),
                   check_range(random, 0, 2) ? 7 : check_range(random, 1, 7), random);
    for (int i = 0; i < 8; i++) {
        const int kh = few(random, 5), kw = few(random, 5), h = kh + few(random, 20),
                  w = kw + few(random, 20);
        const operand x = make(IN, 1, 1, h, w), kernel = make(IN, 1, 1, kh, kw);
        const operand y = make(OUT, 1, 1, h - kh + 1, w - kw + 1),
                      dy = make(IN, 1, 1, h - kh + 1, w - kw + 1);
        compare(i % 2 ? "convolve2d forward" : "corr2d forward", random, true, sum_tolerance, {x, kernel, y},
                [&](cnn_tensor **t, std::vector<double> *) {
                    return (i % 2 ? cnn_convolve2d_forward : cnn_corr2d_forward)(t[0], t[1], t[2]);
                });
        compare(i % 2 ? "convolve2d backward" : "corr2d backward", random, true, sum_tolerance,
                {x, kernel, dy, make(OUT, 1, 1, h, w), make(ACCUMULATED, 1, 1, kh, kw)},
                [&](cnn_tensor **t, std::vector<double> *) {
                    return (i % 2 ? cnn_convolve2d_backward : cnn_corr2d_backward)(t[0], t[1], t[2], t[3],
                                                                                   t[4]);
                });
    }
}

/* TF32 keeps 10 bits of the factors: errors of 2^-10 of the terms' magnitudes, and not of 0. */
static void test_tf32(uint64_t *random) {
    static const conv_case cases[] = {
        {1, 64, 9, 11, 72, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, CNN_PAD_ZEROS, 0}},
        {2, 96, 8, 8, 130, 1, 1, {1, 1, 0, 0, 0, 0, 1, 1, 1, CNN_PAD_ZEROS, 0}},
        {2, 40, 10, 9, 64, 3, 3, {2, 2, 1, 0, 1, 0, 1, 1, 1, CNN_PAD_REFLECT, 0}},
        {1, 64, 10, 9, 128, 3, 3, {1, 1, 2, 2, 2, 2, 2, 2, 2, CNN_PAD_ZEROS, 0}}};
    use(CNN_DEVICE_CUDA);
    const cnn_status status = cnn_device_tf32(1);
    if (status == CNN_ERR_DEVICE) {
        printf("skipped: TF32: %s\n", cnn_last_error());
        return;
    }
    GOOD(status);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0] - (brief ? 3 : 0); i++) {
        const conv_case &k = cases[i];
        const cnn_tensor x = {k.n, k.c, k.h, k.w, NULL};
        const cnn_tensor weight = {k.out, k.c / k.o.groups, k.kernel_h, k.kernel_w, NULL};
        cnn_tensor y = {0, 0, 0, 0, NULL};
        GOOD(cnn_conv2d_shape(&x, &weight, &k.o, &y));
        compare("conv2d forward in TF32", random, true, 1.5e-3, {like(IN, x), like(IN, weight), like(OUT, y)},
                [&](cnn_tensor **t, std::vector<double> *) {
                    return cnn_conv2d_forward(t[0], t[1], NULL, &k.o, t[2]);
                });
        compare("conv2d backward in TF32", random, true, 1.5e-3,
                {like(IN, x), like(IN, weight), like(IN, y), like(OUT, x), like(ACCUMULATED, weight),
                 make(ACCUMULATED, 1, k.out, 1, 1)},
                [&](cnn_tensor **t, std::vector<double> *) {
                    return cnn_conv2d_backward(t[0], t[1], t[2], &k.o, t[3], t[4], t[5]);
                });
    }
    use(CNN_DEVICE_CUDA);
    GOOD(cnn_device_tf32(0));
    check_conv(cases[0], 7, random); /* exact again */
}

/* ---- other operators ----------------------------------------------------------------------------- */

static void test_linear(uint64_t *random) {
    static const int shapes[][3] = {{1, 1, 1},   {33, 400, 120}, {64, 84, 10},
                                    {1, 300, 5}, {2, 3, 200},    {130, 20, 17}};
    for (int i = 0; i < 26; i++) {
        const int n = i < 6 ? shapes[i][0] : few(random, 70), c = i < 6 ? shapes[i][1] : few(random, 90);
        const int side = i < 6 ? 1 : few(random, 3), out = i < 6 ? shapes[i][2] : few(random, 70);
        const int in = c * side * side, subset = check_range(random, 0, 2) ? 7 : check_range(random, 1, 7);
        const operand x = make(IN, n, c, side, side), weight = make(IN, out, in, 1, 1);
        compare(
            "linear forward", random, true, sum_tolerance,
            {x, weight, make(i % 3 ? IN : ABSENT, 1, out, 1, 1), make(OUT, n, out, 1, 1)},
            [](cnn_tensor **t, std::vector<double> *) { return cnn_linear_forward(t[0], t[1], t[2], t[3]); });
        compare("linear backward", random, true, sum_tolerance,
                {x, weight, make(IN, n, out, 1, 1), make(subset & 1 ? OUT : ABSENT, n, c, side, side),
                 make(subset & 2 ? ACCUMULATED : ABSENT, out, in, 1, 1),
                 make(subset & 4 ? ACCUMULATED : ABSENT, 1, out, 1, 1)},
                [](cnn_tensor **t, std::vector<double> *) {
                    return cnn_linear_backward(t[0], t[1], t[2], t[3], t[4], t[5]);
                });
    }
}

static cnn_pool2d_options draw_pool(uint64_t *random, int max, const cnn_tensor &x, cnn_tensor *y) {
    cnn_pool2d_options o;
    do {
        memset(&o, 0, sizeof o);
        o.kernel_h = check_range(random, 1, 4);
        o.kernel_w = check_range(random, 0, 1) ? o.kernel_h : check_range(random, 1, 4);
        o.stride_h = check_range(random, 0, 3);
        o.stride_w = check_range(random, 0, 3);
        o.pad_h = check_range(random, 0, o.kernel_h / 2);
        o.pad_w = check_range(random, 0, o.kernel_w / 2);
        o.dilation_h = max ? check_range(random, 0, 2) : 0;
        o.ceil_mode = check_range(random, 0, 1);
        o.exclude_padding = max ? 0 : check_range(random, 0, 1);
    } while (cnn_pool2d_shape(&x, &o, max, y) != CNN_OK);
    return o;
}

static void test_pools(uint64_t *random) {
    for (int i = 0; i < 24; i++) {
        const cnn_tensor x = {few(random, 9), few(random, 20), few(random, 30), few(random, 30), NULL};
        cnn_tensor y = {0, 0, 0, 0, NULL};
        cnn_pool2d_options o = draw_pool(random, 1, x, &y);
        const operand plain = like(OUT, y);
        const size_t count = count_of(plain);
        operand in = like(IN, x);
        for (size_t k = 0; k < count_of(in); k++) /* ties, and now and then what is not finite */
            in.initial.push_back(i % 3 ? check_uniform(random) : (float)check_range(random, -1, 1));
        if (i % 4 == 1)
            in.initial[in.initial.size() / 2] = (float)NAN;
        if (i % 4 == 2)
            std::fill(in.initial.begin(), in.initial.end(), -(float)INFINITY);
        std::vector<int> indices(count);
        compare("maxpool2d forward", random, false, 0, {in, plain},
                [&](cnn_tensor **t, std::vector<double> *extra) {
                    const cnn_status status =
                        cnn_maxpool2d_forward(t[0], &o, t[1], i % 5 ? indices.data() : NULL);
                    for (size_t k = 0; i % 5 && k < count; k++)
                        extra->push_back(indices[k]);
                    return status;
                });
        if (i % 5)
            compare("maxpool2d backward", random, true, sum_tolerance, {like(IN, y), like(OUT, x)},
                    [&](cnn_tensor **t, std::vector<double> *) {
                        return cnn_maxpool2d_backward(t[0], indices.data(), t[1]);
                    });
        o = draw_pool(random, 0, x, &y);
        compare("avgpool2d forward", random, true, sum_tolerance, {like(IN, x), like(OUT, y)},
                [&](cnn_tensor **t, std::vector<double> *) { return cnn_avgpool2d_forward(t[0], &o, t[1]); });
        compare(
            "avgpool2d backward", random, true, sum_tolerance, {like(IN, y), like(OUT, x)},
            [&](cnn_tensor **t, std::vector<double> *) { return cnn_avgpool2d_backward(t[0], &o, t[1]); });
        const operand mean = make(i % 2 ? IN : OUT, x.n, x.c, 1, 1);
        if (i % 2)
            compare("globalavgpool2d backward", random, true, sum_tolerance, {mean, like(OUT, x)},
                    [](cnn_tensor **t, std::vector<double> *) {
                        return cnn_globalavgpool2d_backward(t[0], t[1]);
                    });
        else
            compare("globalavgpool2d forward", random, true, sum_tolerance, {like(IN, x), mean},
                    [](cnn_tensor **t, std::vector<double> *) {
                        return cnn_globalavgpool2d_forward(t[0], t[1]);
                    });
    }
}

typedef cnn_status (*forward_function)(const cnn_tensor *, cnn_tensor *);
typedef cnn_status (*backward_function)(const cnn_tensor *, const cnn_tensor *, cnn_tensor *);

static void test_activations(uint64_t *random) {
    static const struct {
        const char *name;
        forward_function forward;
        backward_function backward;
    } list[] = {{"sigmoid", cnn_sigmoid_forward, cnn_sigmoid_backward},
                {"tanh", cnn_tanh_forward, cnn_tanh_backward},
                {"relu", cnn_relu_forward, cnn_relu_backward},
                {"softmax", cnn_softmax_forward, cnn_softmax_backward}};
    static const float special[] = {0.0f,  -0.0f,  (float)NAN, 100.0f, -100.0f,
                                    3e38f, -3e38f, 1e-39f,     17.3f,  -9.1f};
    for (int i = 0; i < 32; i++) {
        const forward_function forward = list[i % 4].forward;
        const backward_function backward = list[i % 4].backward;
        const int n = few(random, 9), c = few(random, 40), h = few(random, 9), w = few(random, 9);
        operand x = make(i % 8 < 4 ? IN : IN_PLACE, n, c, h, w, i % 3 ? 5.0f : 50.0f);
        for (size_t k = 0; k < count_of(x); k++)
            x.initial.push_back(i % 4 < 3 && k % 7 == 0 ? special[check_range(random, 0, 9)]
                                                        : x.scale * check_uniform(random));
        compare(std::string(list[i % 4].name) + " forward", random, false, 1e-6,
                {x, make(x.is == IN ? OUT : ABSENT, n, c, h, w)},
                [&](cnn_tensor **t, std::vector<double> *) { return forward(t[0], t[1] ? t[1] : t[0]); });
        const operand dy = make(x.is, n, c, h, w);
        compare(
            std::string(list[i % 4].name) + " backward", random, false, 1e-6,
            {make(IN, n, c, h, w), dy, make(dy.is == IN ? OUT : ABSENT, n, c, h, w)},
            [&](cnn_tensor **t, std::vector<double> *) { return backward(t[0], t[1], t[2] ? t[2] : t[1]); });
    }
}

/* The GPU drops what the CPU drops, bit for bit. */
static void test_dropout(uint64_t *random) {
    for (int i = 0; i < 12; i++) {
        const float p = (float)check_range(random, 0, 9) / 10;
        const uint64_t seed = check_bits(random);
        const int c = few(random, 3000), training = i % 4 != 3;
        const operand x = make(i % 2 ? IN : IN_PLACE, 2, c, 1, few(random, 4));
        compare(i % 3 ? "dropout forward" : "dropout backward", random, false, 0,
                {x, make(i % 2 ? OUT : ABSENT, x.n, x.c, x.h, x.w)},
                [&](cnn_tensor **t, std::vector<double> *) {
                    return (i % 3 ? cnn_dropout_forward : cnn_dropout_backward)(t[0], p, training, seed,
                                                                                t[1] ? t[1] : t[0]);
                });
    }
}

static void test_losses(uint64_t *random) {
    for (int i = 0; i < 16; i++) {
        const int n = few(random, 300), classes = few(random, 40);
        std::vector<int> labels((size_t)n);
        for (int k = 0; k < n; k++)
            labels[(size_t)k] = check_range(random, 0, classes - 1);
        const operand logits = make(i % 2 ? IN : IN_PLACE, n, classes, 1, 1, i % 3 ? 3.0f : 1e30f);
        operand kept = logits;
        kept.is = IN;
        compare("cross entropy forward", random, false, 0, {kept},
                [&](cnn_tensor **t, std::vector<double> *extra) {
                    double loss = NAN;
                    const cnn_status status = cnn_cross_entropy_forward(t[0], labels.data(), &loss);
                    extra->push_back(loss);
                    return status;
                });
        compare("cross entropy backward", random, false, 1e-6,
                {logits, make(i % 2 ? OUT : ABSENT, n, classes, 1, 1)},
                [&](cnn_tensor **t, std::vector<double> *) {
                    return cnn_cross_entropy_backward(t[0], labels.data(), t[1] ? t[1] : t[0]);
                });
        const operand y = make(IN, few(random, 9), few(random, 40), few(random, 9), few(random, 9));
        const cnn_reduction reduction = i % 2 ? CNN_SUM : CNN_MEAN;
        operand dy = y;
        dy.is = OUT;
        compare("squared error forward", random, false, 0, {y, y},
                [&](cnn_tensor **t, std::vector<double> *extra) {
                    double loss = NAN;
                    const cnn_status status = cnn_squared_error_forward(t[0], t[1], reduction, &loss);
                    extra->push_back(loss);
                    return status;
                });
        compare("squared error backward", random, false, 1e-6, {y, y, dy},
                [&](cnn_tensor **t, std::vector<double> *) {
                    return cnn_squared_error_backward(t[0], t[1], reduction, t[2]);
                });
    }
}

static void test_plain(uint64_t *random) {
    for (int i = 0; i < 8; i++) {
        const operand x = make(IN, few(random, 9), few(random, 40), few(random, 9), few(random, 9));
        operand y = x;
        y.is = OUT;
        compare("fill", random, false, 0, {y},
                [](cnn_tensor **t, std::vector<double> *) { return cnn_tensor_fill(t[0], -1.25f); });
        compare("copy", random, false, 0, {x, y},
                [](cnn_tensor **t, std::vector<double> *) { return cnn_tensor_copy(t[1], t[0]); });
        operand flat = make(OUT, x.n, x.c * x.h * x.w, 1, 1);
        compare("flatten forward", random, false, 0, {x, flat},
                [](cnn_tensor **t, std::vector<double> *) { return cnn_flatten_forward(t[0], t[1]); });
        flat.is = IN;
        compare("flatten backward", random, false, 0, {flat, y},
                [](cnn_tensor **t, std::vector<double> *) { return cnn_flatten_backward(t[0], t[1]); });
        const cnn_sgd_options sgd = {0.1f, i & 1 ? 0.9f : 0.0f, i & 2 ? 0.01f : 0.0f, (i & 5) == 5};
        const int count = few(random, 3000);
        compare("sgd step", random, false, 1e-6,
                {make(IN_PLACE, 1, count, 1, 1), make(IN, 1, count, 1, 1),
                 make(i & 1 ? IN_PLACE : ABSENT, 1, count, 1, 1)},
                [&](cnn_tensor **t, std::vector<double> *) {
                    return cnn_sgd_step(&sgd, t[0]->data, t[1]->data, t[2] ? t[2]->data : NULL,
                                        (size_t)count);
                });
    }
}

/* ---- networks ------------------------------------------------------------------------------------ */

typedef std::vector<cnn_layer> layers;

struct table {
    const char *name;
    layers list;
    int c, h, w;
};

static cnn_layer with_groups(cnn_layer l, int groups, cnn_padding_mode mode) {
    l.groups = groups;
    l.padding_mode = mode;
    return l;
}

static cnn_layer no_bias(cnn_layer l) {
    l.no_bias = 1;
    return l;
}

static layers lenet(void) {
    return {cnn_conv2d(6, 5, 1, 2), cnn_sigmoid(),          cnn_avgpool2d(2, 2, 0), cnn_conv2d(16, 5, 1, 0),
            cnn_sigmoid(),          cnn_avgpool2d(2, 2, 0), cnn_flatten(),          cnn_linear(120),
            cnn_sigmoid(),          cnn_linear(84),         cnn_sigmoid(),          cnn_linear(10)};
}

static layers lenet_relu(void) {
    return {cnn_conv2d(6, 5, 1, 0),  cnn_relu(),      cnn_maxpool2d(2, 2, 0),
            cnn_conv2d(16, 5, 1, 0), cnn_relu(),      cnn_maxpool2d(2, 2, 0),
            cnn_flatten(),           cnn_linear(120), cnn_relu(),
            cnn_linear(84),          cnn_relu(),      cnn_linear(10)};
}

/* Small ones of each sort; every layer kind and option is in one of them. */
static std::vector<table> tables(void) {
    return {
        {"lenet", lenet(), 1, 28, 28},
        {"lenet-relu", lenet_relu(), 1, 28, 28},
        {"one linear layer", {cnn_linear(10)}, 3, 5, 4},
        {"two linear layers", {no_bias(cnn_linear(33)), cnn_tanh(), cnn_linear(10)}, 20, 1, 1},
        {"odd sizes",
         {cnn_conv2d(7, 3, 1, 1), cnn_tanh(), cnn_maxpool2d(3, 2, 1), cnn_conv2d(5, 2, 1, 0), cnn_relu(),
          cnn_avgpool2d(3, 0, 1), cnn_linear(10)},
         2,
         13,
         11},
        {"no pool, strided",
         {cnn_conv2d(8, 3, 2, 1), cnn_relu(), cnn_conv2d(12, 3, 2, 1), cnn_relu(), cnn_linear(10)},
         3,
         15,
         15},
        {"groups, padding modes, dropout",
         {with_groups(cnn_conv2d(8, 3, 1, 1), 2, CNN_PAD_REFLECT), cnn_relu(), cnn_dropout(0.25f),
          no_bias(with_groups(cnn_conv2d(8, 3, 1, 2), 8, CNN_PAD_CIRCULAR)), cnn_sigmoid(),
          cnn_conv2d(10, 1, 1, 0), cnn_globalavgpool2d(), cnn_dropout(0.5f), cnn_linear(10)},
         4,
         9,
         8},
        {"softmax within", {cnn_conv2d(6, 3, 1, 0), cnn_softmax(), cnn_flatten(), cnn_linear(10)}, 1, 8, 8}};
}

static cnn_net *make_net(const table &t) {
    cnn_net *net = NULL;
    at = t.name;
    GOOD(cnn_net_create(&net, t.list.data(), (int)t.list.size(), t.c, t.h, t.w));
    GOOD(cnn_net_init(net, CNN_XAVIER_UNIFORM, 3));
    return net;
}

static floats parameters_of(cnn_net *net) {
    const float *p = cnn_net_parameters(net);
    return floats(p, p + cnn_net_parameter_count(net));
}

struct passed {
    floats y, dx, gradients, stepped;
    double loss;
    int correct;
    std::vector<int> classes;
};

/* Images in which the class is the place of a bright patch, as bytes or as floats. */
struct task {
    std::vector<unsigned char> bytes, labels;
    floats values;
    cnn_dataset data;
};

static void make_task(task *t, int count, int c, int h, int w, bool as_floats) {
    uint64_t random = check_seed();
    const int pixels = c * h * w;
    for (int i = 0; i < count; i++) {
        const int label = check_range(&random, 0, 9);
        t->labels.push_back((unsigned char)label);
        for (int p = 0; p < pixels; p++) {
            const int noise = check_range(&random, 0, 63);
            t->bytes.push_back((unsigned char)(p * 10 / pixels == label ? 255 - noise : noise));
        }
    }
    for (size_t i = 0; i < t->bytes.size(); i++)
        t->values.push_back((float)t->bytes[i] / 255.0f);
    const cnn_dataset data = {count,
                              c,
                              h,
                              w,
                              10,
                              as_floats ? NULL : t->bytes.data(),
                              as_floats ? t->values.data() : NULL,
                              t->labels.data(),
                              NULL};
    t->data = data;
}

/* Forward and backward pass, prediction, and a training step; whichever device is active. */
static passed pass(const table &t, const task &data, int n, bool wants_dx, bool owned) {
    passed result;
    cnn_net *net = make_net(t);
    cnn_workspace *ws = NULL, *predicting = NULL, *stepping = NULL;
    const cnn_layer_info *last = cnn_net_layer_info(net, cnn_net_layer_count(net) - 1);
    const int in = t.c * t.h * t.w, out = last->c * last->h * last->w;
    cnn_tensor x, y, dx;
    result.y.resize((size_t)(n * out));
    result.dx.resize((size_t)(n * in));
    result.classes.resize((size_t)n);
    floats x_values((size_t)(n * in));
    if (owned) {
        GOOD(cnn_tensor_alloc(&x, n, t.c, t.h, t.w));
        GOOD(cnn_tensor_alloc(&y, n, out, 1, 1));
        GOOD(cnn_tensor_alloc(&dx, n, t.c, t.h, t.w));
    } else {
        x = cnn_tensor{n, t.c, t.h, t.w, x_values.data()};
        y = cnn_tensor{n, out, 1, 1, result.y.data()};
        dx = cnn_tensor{n, t.c, t.h, t.w, result.dx.data()};
    }
    GOOD(cnn_dataset_batch(&data.data, NULL, &x, NULL));
    GOOD(cnn_workspace_create(&ws, net, CNN_TRAINING, n + 1, 1));
    cnn_workspace_seed(ws, 77);
    GOOD(cnn_forward(net, ws, &x, &y));
    GOOD(cnn_backward(net, ws, &y, wants_dx ? &dx : NULL));
    if (owned) {
        result.y.assign(y.data, y.data + n * out);
        result.dx.assign(dx.data, dx.data + n * in);
        cnn_tensor_free(&y);
        cnn_tensor_free(&dx);
    }
    const size_t count = cnn_net_parameter_count(net);
    result.gradients.assign(cnn_workspace_gradients(ws), cnn_workspace_gradients(ws) + count);
    GOOD(cnn_workspace_create(&predicting, net, CNN_INFERENCE, n, 1));
    GOOD(cnn_predict(net, predicting, &x, result.classes.data()));
    GOOD(cnn_workspace_create(&stepping, net, CNN_TRAINING_STEP, n, 1));
    result.loss = 0;
    result.correct = 0;
    std::vector<int> index((size_t)n);
    cnn_shuffle(index.data(), n, 5, 6);
    GOOD(cnn_train_step(net, stepping, &data.data, index.data(), n, &result.loss, &result.correct));
    result.stepped.assign(cnn_workspace_gradients(stepping), cnn_workspace_gradients(stepping) + count);
    if (owned)
        cnn_tensor_free(&x);
    cnn_workspace_free(ws);
    cnn_workspace_free(predicting);
    cnn_workspace_free(stepping);
    cnn_net_free(net);
    return result;
}

static double greatest(const floats &values) {
    double most = 0;
    for (size_t i = 0; i < values.size(); i++)
        most = fmax(most, fabs((double)values[i]));
    return most;
}

static void check_floats(const char *what, const floats &got, const floats &want, double tolerance) {
    const double bound = 1e-7 + tolerance * greatest(want);
    CHECK(got.size() == want.size(), "%s: %s: %d values, not %d", at.c_str(), what, (int)got.size(),
          (int)want.size());
    for (size_t i = 0; i < want.size() && i < got.size(); i++)
        if (!check_close((double)got[i], (double)want[i], bound, 0)) {
            CHECK(0, "%s: %s[%d] is %.9g, not %.9g +- %.2g", at.c_str(), what, (int)i, (double)got[i],
                  (double)want[i], bound);
            break;
        }
}

static bool equal(const passed &a, const passed &b) {
    return same_bits(a.y, b.y) && same_bits(a.dx, b.dx) && same_bits(a.gradients, b.gradients) &&
           same_bits(a.stepped, b.stepped) && !memcmp(&a.loss, &b.loss, sizeof a.loss) &&
           a.correct == b.correct && a.classes == b.classes;
}

static void test_networks(uint64_t *random) {
    const std::vector<table> all = tables();
    for (size_t i = brief ? 2 : 0; i < all.size(); i += brief ? 2 : 1) {
        const int n = i < 2 ? check_range(random, 3, 5) : check_range(random, 1, 20);
        task data;
        make_task(&data, n, all[i].c, all[i].h, all[i].w, i % 3 == 2);
        const passed want = pass(all[i], data, n, i % 2 == 0, false);
        use(CNN_DEVICE_CUDA);
        shake(random);
        const passed got = pass(all[i], data, n, i % 2 == 0, true);
        shake(random);
        CHECK(equal(got, pass(all[i], data, n, i % 2 == 0, false)),
              "%s: other bits with memory of the caller's", all[i].name);
        use(CNN_DEVICE_CPU);
        at = std::string(all[i].name) + ", batch " + std::to_string(n);
        check_floats("y", got.y, want.y, 1e-5);
        check_floats("dx", got.dx, want.dx, 1e-5);
        check_floats("gradients", got.gradients, want.gradients, 1e-5);
        check_floats("gradients of a step", got.stepped, want.stepped, 1e-5);
        CHECK(check_close(got.loss, want.loss, 0, 1e-5), "%s: loss %.9g, not %.9g", at.c_str(), got.loss,
              want.loss);
        CHECK(got.correct == want.correct && got.classes == want.classes, "%s: %d right, not %d", at.c_str(),
              got.correct, want.correct);
    }
}

/* The five distributions, biases included: the GPU draws the CPU's numbers, the normal ones to the last places
   of its logarithm and cosine. */
static void test_initialisation(uint64_t *random) {
    const table t = {
        "initialisation", {cnn_conv2d(7, 3, 1, 1), cnn_linear(33), no_bias(cnn_linear(5))}, 3, 5, 5};
    for (int k = CNN_XAVIER_UNIFORM; k <= CNN_PYTORCH_DEFAULT; k++) {
        const uint64_t seed = check_bits(random);
        floats values[2];
        for (int device = 0; device < 2; device++) {
            use(device ? CNN_DEVICE_CUDA : CNN_DEVICE_CPU);
            cnn_net *net = make_net(t);
            GOOD(cnn_net_init(net, (cnn_init)k, seed));
            values[device] = parameters_of(net);
            GOOD(cnn_net_init_constant(net, 0.5f, -0.5f));
            CHECK(cnn_net_parameters(net)[0] == 0.5f, "%g", (double)cnn_net_parameters(net)[0]);
            cnn_net_free(net);
        }
        use(CNN_DEVICE_CPU);
        at = "initialisation " + std::to_string(k);
        if (k == CNN_XAVIER_NORMAL || k == CNN_KAIMING_NORMAL)
            check_floats("parameters", values[1], values[0], 1e-6);
        else
            CHECK(same_bits(values[0], values[1]), "initialisation %d has other bits", k);
    }
}

/* ---- training ------------------------------------------------------------------------------------ */

struct fitted {
    floats parameters;
    std::vector<double> losses; /* and accuracies, as reported */
    cnn_progress last;
    cnn_evaluation evaluation;
    std::vector<int> confusion;
};

static int note_progress(const cnn_progress *p, void *user) {
    std::vector<double> *losses = (std::vector<double> *)user;
    losses->push_back(p->loss);
    losses->push_back(p->accuracy);
    if (p->test_loss >= 0) {
        losses->push_back(p->test_loss);
        losses->push_back(p->test_accuracy);
    }
    return 0;
}

static fitted fit(const table &t, const task &train, const task &test, cnn_fit_options how) {
    fitted result;
    cnn_net *net = make_net(t);
    how.seed = 9;
    how.threads = 1;
    how.on_progress = how.on_epoch = note_progress;
    how.user = &result.losses;
    GOOD(cnn_fit(net, &train.data, &test.data, &how, &result.last));
    result.parameters = parameters_of(net);
    result.confusion.resize(100);
    result.evaluation.confusion = result.confusion.data();
    GOOD(cnn_evaluate(net, &test.data, 1, &result.evaluation));
    cnn_net_free(net);
    return result;
}

static void check_fitted(const fitted &got, const fitted &want, double tolerance) {
    CHECK(got.losses.size() == want.losses.size(), "%s: %d reports, not %d", at.c_str(),
          (int)got.losses.size(), (int)want.losses.size());
    for (size_t i = 0; i < got.losses.size() && i < want.losses.size(); i++)
        CHECK(check_close(got.losses[i], want.losses[i], tolerance, tolerance),
              "%s: report %d is %.9g, not %.9g", at.c_str(), (int)i, got.losses[i], want.losses[i]);
    check_floats("parameters", got.parameters, want.parameters, tolerance);
    CHECK(check_close(got.evaluation.loss, want.evaluation.loss, tolerance, tolerance) &&
              check_close(got.evaluation.accuracy, want.evaluation.accuracy, tolerance, 0),
          "%s: evaluation %.9g %.9g, not %.9g %.9g", at.c_str(), got.evaluation.loss, got.evaluation.accuracy,
          want.evaluation.loss, want.evaluation.accuracy);
    CHECK(got.confusion == want.confusion, "%s: another confusion matrix", at.c_str());
    CHECK(got.last.step == want.last.step && got.last.steps == want.last.steps &&
              got.last.epoch == want.last.epoch,
          "%s: ends at step %d of %d", at.c_str(), got.last.step, got.last.steps);
}

static bool equal(const fitted &a, const fitted &b) {
    return same_bits(a.parameters, b.parameters) && a.losses == b.losses && a.confusion == b.confusion;
}

/* cnn_fit with all terms of SGD, a falling learning rate, a rest of a batch, dropout, bytes and floats, by the
   fused kernels (where they apply) and by the generic ones. */
static void test_fit(uint64_t *random) {
    const std::vector<table> all = tables();
    for (size_t i = brief ? 2 : 0; i < all.size(); i += brief ? 2 : 1) {
        const int batch = i < 2 ? 6 : check_range(random, 3, 17);
        task train, test;
        make_task(&train, 2 * batch + check_range(random, 0, batch - 1), all[i].c, all[i].h, all[i].w,
                  i % 3 == 2);
        make_task(&test, batch + 1, all[i].c, all[i].h, all[i].w, i % 3 == 2);
        cnn_fit_options how;
        memset(&how, 0, sizeof how);
        how.epochs = i < 2 || brief ? 1 : 2;
        how.batch = batch;
        how.sgd.lr = 0.1f;
        how.sgd.momentum = i % 2 ? 0.9f : 0;
        how.sgd.weight_decay = i % 3 ? 0.01f : 0;
        how.sgd.nesterov = i % 4 == 1;
        how.lr_end = i % 3 == 1 ? 0.01f : 0;
        how.reports = i % 2 ? 100 : 2;
        const fitted want = fit(all[i], train, test, how);
        use(CNN_DEVICE_CUDA);
        for (int generic = 0; generic < 2; generic++) {
            door_generic(generic);
            shake(random);
            const fitted got = fit(all[i], train, test, how);
            shake(random);
            CHECK(brief || equal(got, fit(all[i], train, test, how)), "%s: other bits on another run",
                  all[i].name);
            at = std::string(all[i].name) + (generic ? ", generic" : "");
            check_fitted(got, want, 1e-3);
        }
        door_generic(0);
        use(CNN_DEVICE_CPU);
    }
}

/* What training may meet: a callback that stops it, a loss that is not finite, a label outside the classes. */
static int stop_at_second(const cnn_progress *, void *user) {
    return ++*(int *)user == 2;
}

/* A network that the fused kernels take: one to three convolutions, each with or without an activation and a pool
   whose windows lie side by side, whole or not, and one to three linear layers. */
static table draw_fused(uint64_t *random) {
    static cnn_layer (*const activations[])(void) = {cnn_sigmoid, cnn_tanh, cnn_relu};
    table t = {
        "random", {}, check_range(random, 1, 3), check_range(random, 6, 17), check_range(random, 6, 17)};
    int h = t.h, w = t.w;
    for (int stages = check_range(random, 1, 3); stages; stages--) {
        const int kernel = check_range(random, 1, std::min(5, std::min(h, w)));
        cnn_layer l = cnn_conv2d(few(random, 20), kernel, 1, check_range(random, 0, kernel - 1));
        l.no_bias = !check_range(random, 0, 3);
        h += 2 * l.padding - kernel + 1;
        w += 2 * l.padding - kernel + 1;
        t.list.push_back(l);
        if (check_range(random, 0, 3))
            t.list.push_back(activations[check_range(random, 0, 2)]());
        const int window = check_range(random, 1, std::min(3, std::min(h, w)));
        if (window > 1) {
            t.list.push_back(check_range(random, 0, 1) ? cnn_maxpool2d(window, 0, 0)
                                                       : cnn_avgpool2d(window, 0, 0));
            h /= window;
            w /= window;
        }
    }
    if (check_range(random, 0, 1))
        t.list.push_back(cnn_flatten());
    for (int hidden = check_range(random, 0, 2); hidden; hidden--) {
        t.list.push_back(cnn_linear(few(random, 60)));
        t.list.back().no_bias = !check_range(random, 0, 3);
        if (check_range(random, 0, 3))
            t.list.push_back(activations[check_range(random, 0, 2)]());
    }
    t.list.push_back(cnn_linear(10));
    return t;
}

static std::string describe(const table &t) {
    std::string text = std::to_string(t.c) + "x" + std::to_string(t.h) + "x" + std::to_string(t.w);
    for (size_t i = 0; i < t.list.size(); i++) {
        const cnn_layer &l = t.list[i];
        char part[60];
        snprintf(part, sizeof part, ", kind %d out %d kernel %d padding %d%s", (int)l.kind, l.out, l.kernel,
                 l.padding, l.no_bias ? " no bias" : "");
        text += part;
    }
    return text;
}

/* Passes and a few steps of training, where a maximum that ties on one device may not on the other. */
static void test_fused(uint64_t *random) {
    for (int i = 0; i < (brief ? 5 : 20); i++) {
        const table t = draw_fused(random);
        const int n = check_range(random, 1, 9);
        task data;
        make_task(&data, n, t.c, t.h, t.w, i % 4 == 3);
        const passed want = pass(t, data, n, false, false);
        use(CNN_DEVICE_CUDA);
        shake(random);
        const passed got = pass(t, data, n, false, true);
        shake(random);
        CHECK(equal(got, pass(t, data, n, false, false)), "%s: other bits on another run",
              describe(t).c_str());
        use(CNN_DEVICE_CPU);
        at = "seed " + std::to_string(seed_now()) + ", batch " + std::to_string(n) + " of " + describe(t);
        check_floats("y", got.y, want.y, 1e-5);
        check_floats("gradients", got.gradients, want.gradients, 1e-5);
        check_floats("gradients of a step", got.stepped, want.stepped, 1e-5);
        CHECK(check_close(got.loss, want.loss, 0, 1e-5), "%s: loss %.9g, not %.9g", at.c_str(), got.loss,
              want.loss);
        CHECK(got.correct == want.correct && got.classes == want.classes, "%s: %d right, not %d", at.c_str(),
              got.correct, want.correct);
    }
}

static void test_fit_ends(uint64_t *) {
    const table t = {"fit ends", {cnn_conv2d(4, 3, 1, 0), cnn_relu(), cnn_linear(10)}, 1, 6, 6};
    task data;
    make_task(&data, 40, 1, 6, 6, false);
    int calls = 0;
    cnn_fit_options how;
    memset(&how, 0, sizeof how);
    how.epochs = 3;
    how.batch = 8;
    how.reports = 5;
    how.sgd.lr = 0.1f;
    how.on_progress = stop_at_second;
    how.user = &calls;
    use(CNN_DEVICE_CUDA);
    cnn_net *net = make_net(t);
    cnn_progress last;
    GOOD(cnn_fit(net, &data.data, NULL, &how, &last));
    CHECK(calls == 2 && last.stopped && last.step == 2 && last.epoch == 1, "stopped %d at step %d",
          last.stopped, last.step);
    how.on_progress = NULL;
    how.sgd.lr = 1e38f;
    CHECK(cnn_fit(net, &data.data, NULL, &how, &last) == CNN_ERR_DIVERGED &&
              strstr(cnn_last_error(), "learning rate"),
          "%s", cnn_last_error());
    how.sgd.lr = 0.1f;
    GOOD(cnn_net_init(net, CNN_XAVIER_UNIFORM, 1));
    data.labels[5] = 200;
    CHECK(cnn_fit(net, &data.data, NULL, &how, &last) == CNN_ERR_FORMAT, "%s", cnn_last_error());
    data.labels[5] = 0;
    GOOD(cnn_fit(net, &data.data, NULL, &how, &last));
    cnn_net_free(net);
    use(CNN_DEVICE_CPU);
}

/* The twenty steps of LeNet from tests/golden whose losses PyTorch gave; see make_golden.py. */
struct golden {
    std::vector<double> losses;
    floats scales;
    int seeds[4]; /* of data, of weights; batch, steps */
};

static bool read_golden(golden *g) {
    std::string bytes;
    FILE *file = fopen("tests/golden/golden.bin", "rb");
    for (int byte; file && (byte = fgetc(file)) != EOF;)
        bytes.push_back((char)byte);
    if (file)
        fclose(file);
    bool inside = false;
    for (size_t p = 0; p + 36 <= bytes.size();) {
        int32_t head[5];
        const std::string name = bytes.c_str() + p;
        memcpy(head, bytes.data() + p + 16, sizeof head);
        const size_t count = (size_t)head[1] * (size_t)head[2] * (size_t)head[3] * (size_t)head[4];
        const char *values = bytes.data() + p + 36;
        if (head[0] == 'c')
            inside = name == "lenet";
        if (inside && name == "seeds")
            memcpy(g->seeds, values, sizeof g->seeds);
        if (inside && name == "scales") {
            g->scales.resize(count);
            memcpy(g->scales.data(), values, count * sizeof(float));
        }
        if (inside && name == "losses") {
            g->losses.resize(count);
            memcpy(g->losses.data(), values, count * sizeof(double));
        }
        p += 36 + count * (head[0] == 'd' ? 8 : 4);
    }
    return !g->losses.empty() && !g->scales.empty();
}

static void make_golden_data(const golden &g, task *t) {
    uint64_t label_stream = (uint64_t)g.seeds[0], pixel_stream = (uint64_t)g.seeds[0] + 1;
    const int count = g.seeds[2] * g.seeds[3];
    for (int i = 0; i < count; i++) {
        const int label = (int)(check_bits(&label_stream) % 10);
        t->labels.push_back((unsigned char)label);
        for (int p = 0; p < 784; p++) {
            const int row = p / 28 - 14 * (label / 5), column = p % 28 - 5 * (label % 5) - 1;
            const int noise = (int)(check_bits(&pixel_stream) >> 58);
            const bool inside = row >= 0 && row < 14 && column >= 0 && column < 4;
            t->bytes.push_back((unsigned char)(inside ? 255 - noise : noise));
        }
    }
    const cnn_dataset data = {count, 1, 28, 28, 10, t->bytes.data(), NULL, t->labels.data(), NULL};
    t->data = data;
}

static void run_golden(const golden &g, const task &data, int steps) {
    const table t = {"golden lenet", lenet(), 1, 28, 28};
    const cnn_sgd_options sgd = {0.9f, 0, 0, 0};
    cnn_net *net = make_net(t);
    cnn_workspace *ws = NULL;
    const int batch = g.seeds[2];
    uint64_t state = (uint64_t)g.seeds[1];
    float *p = cnn_net_parameters(net);
    size_t part = 0;
    for (int layer = 0; layer < cnn_net_layer_count(net); layer++) {
        const cnn_layer_info *info = cnn_net_layer_info(net, layer);
        const size_t counts[2] = {info->weights, info->biases};
        for (int k = 0; k < 2 && info->weights; k++, part++)
            for (size_t i = 0; i < counts[k]; i++)
                *p++ = check_uniform(&state) * g.scales[part];
    }
    GOOD(cnn_workspace_create(&ws, net, CNN_TRAINING_STEP, batch, 1));
    std::vector<int> index((size_t)batch);
    for (int step = 0; step < steps; step++) {
        double loss = 0;
        for (int i = 0; i < batch; i++)
            index[(size_t)i] = step * batch + i;
        GOOD(cnn_train_step(net, ws, &data.data, index.data(), batch, &loss, NULL));
        GOOD(cnn_sgd_step(&sgd, cnn_net_parameters(net), cnn_workspace_gradients(ws), NULL,
                          cnn_net_parameter_count(net)));
        CHECK(check_close(loss / batch, g.losses[(size_t)step], 0, 1e-3),
              "loss of golden step %d is %.9g, not %.9g", step, loss / batch, g.losses[(size_t)step]);
    }
    cnn_workspace_free(ws);
    cnn_net_free(net);
}

static void test_golden(uint64_t *) {
    golden g;
    task data;
    CHECK(read_golden(&g), "tests/golden/golden.bin cannot be read");
    if (g.losses.empty())
        return;
    make_golden_data(g, &data);
    use(CNN_DEVICE_CUDA);
    for (int generic = 0; generic < 2 - brief; generic++) {
        door_generic(generic);
        run_golden(g, data, brief ? 1 : generic && door_has_shim() ? 2 : g.seeds[3]);
    }
    door_generic(0);
    use(CNN_DEVICE_CPU);
}

/* ---- devices and memory -------------------------------------------------------------------------- */

static void test_devices(uint64_t *) {
    use(CNN_DEVICE_CPU);
    CHECK(cnn_device_active() == CNN_DEVICE_CPU && !strncmp(cnn_device_name(), "CPU (", 5), "%s",
          cnn_device_name());
    use(CNN_DEVICE_AUTO);
    CHECK(cnn_device_active() == CNN_DEVICE_CUDA, "AUTO is %s", cnn_device_name());
    const std::string name = cnn_device_name();
    CHECK(!name.empty() && name.find("CPU") == std::string::npos, "%s", name.c_str());
    CHECK(cnn_device_use((cnn_device)3) == CNN_ERR_ARGUMENT && cnn_device_active() == CNN_DEVICE_CUDA, "%s",
          cnn_last_error());
    use(CNN_DEVICE_CUDA);

    /* Objects work under whatever is active, and are freed under the other. */
    const table t = {"devices", {cnn_conv2d(4, 3, 1, 1), cnn_relu(), cnn_linear(10)}, 2, 7, 7};
    cnn_tensor x, y, on_cpu;
    cnn_net *net = make_net(t);
    cnn_workspace *ws = NULL;
    GOOD(cnn_tensor_alloc(&x, 3, 2, 7, 7));
    GOOD(cnn_tensor_alloc(&y, 3, 10, 1, 1));
    CHECK(x.data[0] == 0 && x.data[3 * 2 * 49 - 1] == 0, "fresh memory is not zero");
    GOOD(cnn_workspace_create(&ws, net, CNN_INFERENCE, 3, 1));
    GOOD(cnn_forward(net, ws, &x, &y));
    use(CNN_DEVICE_CPU);
    GOOD(cnn_tensor_alloc(&on_cpu, 3, 10, 1, 1));
    GOOD(cnn_forward(net, ws, &x, &on_cpu)); /* a workspace keeps its device */
    CHECK(!memcmp(y.data, on_cpu.data, 30 * sizeof(float)), "a workspace changed its device");
    GOOD(cnn_tensor_fill(&x, 2)); /* memory of the GPU's is the CPU's too */
    GOOD(cnn_relu_forward(&y, &on_cpu));
    cnn_tensor_free(&x);
    cnn_tensor_free(&y);
    cnn_net_free(net);
    cnn_workspace_free(ws);
    use(CNN_DEVICE_CUDA);
    GOOD(cnn_tensor_fill(&on_cpu, 1));
    cnn_tensor_free(&on_cpu);
    use(CNN_DEVICE_CPU);
}

static void check_absent(int reason, const char *sentence) {
    door_absent(reason);
    CHECK(cnn_device_use(CNN_DEVICE_CUDA) == CNN_ERR_DEVICE && strstr(cnn_last_error(), sentence), "%s",
          cnn_last_error());
    CHECK(cnn_device_active() == CNN_DEVICE_CPU, "%s", cnn_device_name());
    use(CNN_DEVICE_AUTO);
    CHECK(cnn_device_active() == CNN_DEVICE_CPU, "%s", cnn_device_name());
    door_absent(0);
}

/* Must come first: the back end may look for a device only until it has found one. */
static void test_no_device(uint64_t *) {
    check_absent(100, /* cudaErrorNoDevice */ "no CUDA-capable device");
    check_absent(35, /* cudaErrorInsufficientDriver */ "driver version is insufficient");
    use(CNN_DEVICE_CUDA);
    use(CNN_DEVICE_CPU);
}

/* ---- failing calls ------------------------------------------------------------------------------- */

/* A piece of work that frees what it made, whatever happens; its results go into result. */
typedef std::function<cnn_status(floats *result)> work;

#define STEP(call)                                                                                           \
    do {                                                                                                     \
        const cnn_status step_status = (call);                                                               \
        if (step_status != CNN_OK && status == CNN_OK)                                                       \
            status = step_status;                                                                            \
    } while (0)

/* Makes call 1 fail, then 2, ... until none of the work's is left: a status with a sentence, nothing left behind,
   and the same bits when it is done again. With allocations: those alone, CNN_ERR_NOMEM. */
static void fail_each(const char *name, int allocations, const work &body) {
    floats want, got;
    at = name;
    GOOD(body(&want));
    const long device_live = door_live(), host_live = alloc_live;
    for (long n = 1;; n++) {
        const long before = door_calls(allocations);
        door_fail(allocations ? 0 : n, allocations ? n : 0);
        const cnn_status status = body(&got);
        door_fail(0, 0);
        if (door_calls(allocations) - before < n) {
            CHECK(n > 1 && status == CNN_OK, "%s: status %d after %ld calls: %s", name, (int)status, n,
                  cnn_last_error());
            break;
        }
        if (status == CNN_OK) { /* it was a call of those that free, which have nobody to tell */
            CHECK(same_bits(got, want), "%s: failing call %ld gives other results", name, n);
        } else {
            CHECK(status == CNN_ERR_NOMEM || (status == CNN_ERR_DEVICE && !allocations),
                  "%s: failing call %ld gives '%s' (%s)", name, n, cnn_status_name(status), cnn_last_error());
            CHECK(*cnn_last_error(), "%s: failing call %ld: no sentence", name, n);
        }
        CHECK(door_live() == device_live && alloc_live == host_live,
              "%s: failing call %ld leaves %ld and %ld behind", name, n, door_live() - device_live,
              alloc_live - host_live);
        if (n % 5 == 1) {
            GOOD(body(&got));
            CHECK(same_bits(got, want), "%s: other results after failing call %ld", name, n);
        }
    }
}

static void test_failures(uint64_t *random) {
    const table t = {
        "failures", {cnn_conv2d(3, 3, 1, 0), cnn_sigmoid(), cnn_avgpool2d(2, 0, 0), cnn_linear(10)}, 1, 6, 6};
    task data;
    make_task(&data, 5, 1, 6, 6, false);
    floats x_values(3 * 64), weights(5 * 9), y_values(3 * 5 * 64);
    for (size_t i = 0; i < x_values.size(); i++)
        x_values[i] = check_uniform(random);
    for (size_t i = 0; i < weights.size(); i++)
        weights[i] = check_uniform(random);
    const work convolution = [&](floats *result) {
        cnn_status status = CNN_OK;
        const cnn_conv2d_options o = {1, 1, 1, 1, 1, 1, 1, 1, 1, CNN_PAD_ZEROS, 0};
        const cnn_tensor x = {3, 1, 8, 8, x_values.data()}, weight = {5, 1, 3, 3, weights.data()};
        cnn_tensor y = {3, 5, 8, 8, y_values.data()}, dx = {0, 0, 0, 0, NULL};
        std::fill(y_values.begin(), y_values.end(), -7.0f);
        STEP(cnn_conv2d_forward(&x, &weight, NULL, &o, &y));
        if (status == CNN_OK)
            STEP(cnn_tensor_alloc(&dx, 3, 1, 8, 8));
        if (status == CNN_OK)
            STEP(cnn_conv2d_backward(&x, &weight, &y, &o, &dx, NULL, NULL));
        if (status == CNN_OK) {
            *result = y_values;
            result->insert(result->end(), dx.data, dx.data + 3 * 64);
        }
        cnn_tensor_free(&dx);
        return status;
    };
    const work passes = [&](floats *result) {
        cnn_status status = CNN_OK;
        cnn_net *net = NULL;
        cnn_workspace *ws = NULL;
        const cnn_tensor x = {3, 1, 8, 8, x_values.data()};
        cnn_tensor y = {3, 10, 1, 1, y_values.data()};
        STEP(cnn_net_create(&net, t.list.data(), (int)t.list.size(), 1, 8, 8));
        if (status == CNN_OK)
            STEP(cnn_net_init(net, CNN_XAVIER_UNIFORM, 4));
        if (status == CNN_OK)
            STEP(cnn_workspace_create(&ws, net, CNN_TRAINING, 3, 1));
        if (status == CNN_OK)
            STEP(cnn_forward(net, ws, &x, &y));
        if (status == CNN_OK)
            STEP(cnn_backward(net, ws, &y, NULL));
        if (status == CNN_OK)
            result->assign(cnn_workspace_gradients(ws),
                           cnn_workspace_gradients(ws) + cnn_net_parameter_count(net));
        cnn_workspace_free(ws);
        cnn_net_free(net);
        return status;
    };
    use(CNN_DEVICE_CUDA);
    cnn_net *net = make_net(t); /* outlives its failing trainings */
    const work training = [&](floats *result) {
        cnn_status status = CNN_OK;
        cnn_fit_options how;
        cnn_evaluation evaluation = {0, 0, NULL};
        memset(&how, 0, sizeof how);
        how.epochs = 1;
        how.batch = 3;
        how.reports = 1;
        how.sgd.lr = 0.1f;
        how.sgd.momentum = 0.5f;
        STEP(cnn_net_init(net, CNN_XAVIER_UNIFORM, 4));
        if (status == CNN_OK)
            STEP(cnn_fit(net, &data.data, &data.data, &how, NULL));
        if (status == CNN_OK)
            STEP(cnn_evaluate(net, &data.data, 1, &evaluation));
        if (status == CNN_OK) {
            *result = parameters_of(net);
            result->push_back((float)evaluation.loss);
        }
        return status;
    };
    for (int allocations = 0; allocations < 2; allocations++) {
        fail_each("convolution", allocations, convolution);
        fail_each("passes", allocations, passes);
        for (int generic = 0; generic < 2; generic++) {
            door_generic(generic);
            fail_each(generic ? "generic training" : "training", allocations, training);
        }
        door_generic(0);
    }
    cnn_net_free(net);
    use(CNN_DEVICE_CPU);
}

/* ---- which test runs which kernel ---------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(uint64_t *random);
    int needs_shim;
} tests[] = {
    {"no device", test_no_device, 1},
    {"devices", test_devices, 0},
    {"conv2d", test_conv2d, 0},
    {"tf32", test_tf32, 0},
    {"linear", test_linear, 0},
    {"pools", test_pools, 0},
    {"activations", test_activations, 0},
    {"dropout", test_dropout, 0},
    {"losses", test_losses, 0},
    {"plain", test_plain, 0},
    {"initialisation", test_initialisation, 0},
    {"networks", test_networks, 0},
    {"fused", test_fused, 0},
    {"fit", test_fit, 0},
    {"fit ends", test_fit_ends, 0},
    {"golden", test_golden, 0},
    {"failures", test_failures, 1},
};

/* Every kernel of cnn.h, and a test that launches it and checks what comes of it. */
static const struct {
    const char *kernel, *test;
} kernels[] = {{"cnn__gpu_architecture", "no device"},
               {"cnn__gpu_map", "plain"},
               {"cnn__gpu_sum", "losses"},
               {"cnn__gpu_column_sum", "linear"},
               {"cnn__gpu_channel_sum", "conv2d"},
               {"cnn__gpu_maxpool_scatter", "pools"},
               {"cnn__gpu_product", "conv2d"},
               {"cnn__gpu_product_tf32", "tf32"},
               {"cnn__gpu_conv_dw", "conv2d"},
               {"cnn__gpu_inner", "tf32"},
               {"cnn__gpu_tally", "fit"},
               {"cnn__gpu_stages", "fused"},
               {"cnn__gpu_head", "fused"},
               {"cnn__gpu_stages_backward", "fused"},
               {"cnn__gpu_stages_fold", "fused"}};

/* The names behind __global__ in cnn.h. */
static std::set<std::string> kernels_in_header(void) {
    std::set<std::string> names;
    std::string text;
    FILE *file = fopen("cnn.h", "rb");
    for (int byte; file && (byte = fgetc(file)) != EOF;)
        text.push_back((char)byte);
    if (file)
        fclose(file);
    for (size_t p = text.find("__global__ "); p != std::string::npos; p = text.find("__global__ ", p + 1)) {
        const size_t name = text.find("cnn__", p), end = text.find_first_of(" (", name);
        if (name != std::string::npos)
            names.insert(text.substr(name, end - name));
    }
    return names;
}

static void check_kernels(const std::map<std::string, std::set<std::string>> &launched) {
    const std::set<std::string> in_header = kernels_in_header();
    std::set<std::string> listed;
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++) {
        listed.insert(kernels[i].kernel);
        CHECK(in_header.count(kernels[i].kernel), "%s is listed, but not in cnn.h", kernels[i].kernel);
        for (size_t k = 0; k < sizeof tests / sizeof tests[0]; k++)
            if (!strcmp(tests[k].name, kernels[i].test) && launched.count(tests[k].name))
                CHECK(launched.find(tests[k].name)->second.count(kernels[i].kernel), "%s does not launch %s",
                      kernels[i].test, kernels[i].kernel);
    }
    for (std::set<std::string>::const_iterator it = in_header.begin(); it != in_header.end(); ++it)
        CHECK(listed.count(*it), "%s is not in the list of kernels", it->c_str());
}

static double seconds(void) {
    return (double)clock() / (double)CLOCKS_PER_SEC;
}

int main(int argc, char **argv) {
    std::map<std::string, std::set<std::string>> launched;
    if (argc > 1 && !strcmp(argv[1], "short")) {
        brief = 1;
        argc--;
        argv++;
    }
    printf("seed %llu\n", seed_now());
    if (!door_has_shim() && cnn_device_use(CNN_DEVICE_CUDA))
        return check_skip(cnn_last_error());
    printf("device %s\n", door_has_shim() ? "under the shim" : cnn_device_name());
    use(CNN_DEVICE_CPU);
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        bool wanted = argc < 2;
        for (int k = 1; k < argc; k++)
            wanted |= strstr(tests[i].name, argv[k]) != NULL;
        if (!wanted || (tests[i].needs_shim && !door_has_shim()))
            continue;
        uint64_t random = check_seed() + i;
        const long failures = check_failures_;
        const double begin = seconds();
        door_forget();
        tests[i].run(&random);
        printf("%-16s%6.2f s%s\n", tests[i].name, seconds() - begin,
               check_failures_ > failures ? "  FAILED" : "");
        fflush(stdout);
        CHECK(!door_last_error(), "%s leaves an error behind", tests[i].name);
        for (int k = 0; door_launched(k); k++)
            launched[tests[i].name].insert(door_launched(k));
    }
    check_kernels(launched);
    return check_done();
}
