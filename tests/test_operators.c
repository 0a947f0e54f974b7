/* Every operator of the library against the double-precision reference, over random shapes and options, on
   every instruction set of the machine and with 1, 2 and 3 threads. Each call is also checked to leave its
   inputs, the memory around its outputs and the floating-point mode alone; more threads must give the bits of
   one. */
#include <float.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "check.h"
#include "reference.h"
#include "cnn.h"

enum { X, WEIGHT, BIAS, DY, Y, DX, DW, DB, SLOTS };
enum { GUARD = 19, MAX_THREADS = 3 };

static const char *const slot_names[SLOTS] = {"x", "weight", "bias", "dy", "y", "dx", "dw", "db"};

/* A tensor of a call. An input ends where its memory ends, so that AddressSanitizer sees a read beyond it; an
   output has guard elements around it. Neither is aligned to more than a float. */
typedef struct slot {
    cnn_tensor tensor; /* data NULL: absent */
    int output;
    size_t count, offset, total; /* elements of the tensor, before it, and of the memory */
    float *memory, *before;      /* before: the memory before every call */
    float *first;                /* an output of the first call on this instruction set */
    ref_tensor value;            /* what an input holds and an output shall hold */
    ref_tensor magnitude;        /* the scale of an output's error: the sum of its terms' absolute values */
} slot;

typedef struct trial {
    const char *name;
    uint64_t *random, seed;
    slot slots[SLOTS];
    ref_conv conv;
    cnn_conv2d_options conv_options;
    ref_pool pool;
    cnn_pool2d_options pool_options;
    int options_null, in_place;
    int *want_indices, *indices; /* indices: with guard elements around them */
    size_t index_count;
    int *labels;
    cnn_reduction reduction;
    float p;
    int training;
    uint64_t dropout_seed;
    double loss, want_loss; /* NaN: the call has no loss */
    double tolerance;       /* in units of the magnitude */
    cnn_status (*call)(struct trial *);
    char text[400];
} trial;

/* ---- instruction sets and threads ---------------------------------------------------------------- */

static const char *instruction_sets[8];
static int instruction_set_count;

static void find_instruction_sets(void) {
    static const char *const names[] = {"avx512", "avx2", "sse2", "neon", "vector", "scalar"};
    printf("instruction sets:");
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++)
        if (check_select_isa(names[k])) {
            CHECK(strcmp(cnn_instruction_set(), names[k]) == 0, "%s calls itself %s", names[k],
                  cnn_instruction_set());
            instruction_sets[instruction_set_count++] = names[k];
            printf(" %s", names[k]);
        }
    printf("\n");
    CHECK(instruction_set_count > 0, "no instruction set can be selected");
    CHECK(!check_select_isa("no such"), "an unknown instruction set was selected");
    CHECK(check_select_isa(NULL), "the best instruction set was not selected");
}

/* 0: this build has no such number of threads. */
static int set_threads(int threads) {
#if defined(_OPENMP) && !defined(CNN_NO_OPENMP)
    omp_set_num_threads(threads);
    CHECK(cnn_max_threads() == threads, "%d threads are called %d", threads, cnn_max_threads());
    return 1;
#else
    return threads == 1;
#endif
}

/* ---- slots --------------------------------------------------------------------------------------- */

static float guard_value(void) { /* a NaN, which spoils what it is used in, with a pattern of its own */
    const uint32_t bits = 0x7fc5a5a5u;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static slot *add_slot(trial *t, int k, int output, int n, int c, int h, int w) {
    slot *s = &t->slots[k];
    s->value = ref_alloc(n, c, h, w);
    s->magnitude = ref_alloc(n, c, h, w);
    s->output = output;
    s->count = ref_count(&s->value);
    s->offset = (size_t)check_range(t->random, 0, 3) + (output ? GUARD : 0);
    s->total = s->offset + s->count + (output ? GUARD : 0);
    s->memory = (float *)ref_memory(s->total, sizeof(float));
    s->before = (float *)ref_memory(s->total, sizeof(float));
    s->first = (float *)ref_memory(s->count, sizeof(float));
    for (size_t i = 0; i < s->total; i++)
        s->before[i] = guard_value();
    const cnn_tensor tensor = {n, c, h, w, s->memory + s->offset};
    s->tensor = tensor;
    return s;
}

static void set_element(slot *s, size_t i, float value) {
    s->before[s->offset + i] = value;
    s->value.data[i] = (double)value;
    s->magnitude.data[i] = fabs((double)value);
}

static slot *add_input(trial *t, int k, int n, int c, int h, int w) { /* uniform in -1..1 */
    slot *s = add_slot(t, k, 0, n, c, h, w);
    for (size_t i = 0; i < s->count; i++)
        set_element(s, i, check_uniform(t->random));
    return s;
}

static slot *add_output(trial *t, int k, int n, int c, int h, int w) {
    return add_slot(t, k, 1, n, c, h, w);
}

static slot *add_accumulator(trial *t, int k, int n, int c, int h, int w) { /* with something in it already */
    slot *s = add_output(t, k, n, c, h, w);
    for (size_t i = 0; i < s->count; i++)
        set_element(s, i, check_uniform(t->random));
    return s;
}

/* An output that holds the input from at the start: for a call in place. */
static void start_from(trial *t, int k, int from) {
    const slot *source = &t->slots[from];
    for (size_t i = 0; i < source->count; i++)
        set_element(&t->slots[k], i, source->before[source->offset + i]);
}

static cnn_tensor *tensor(trial *t, int k) {
    return t->slots[k].tensor.data ? &t->slots[k].tensor : NULL;
}

/* The reference's tensor of values or, for magnitude not 0, of magnitudes. */
static ref_tensor *ref(trial *t, int k, int magnitude) {
    slot *s = &t->slots[k];
    return s->tensor.data ? magnitude ? &s->magnitude : &s->value : NULL;
}

/* For operators whose error is not of the size of a sum of terms. */
static void set_magnitude(trial *t, int k, double constant) {
    slot *s = &t->slots[k];
    for (size_t i = 0; i < s->count; i++)
        s->magnitude.data[i] = constant + fabs(s->value.data[i]);
}

static void put_special(trial *t, int k) { /* one value that is not finite, somewhere */
    static const float values[] = {(float)NAN, (float)INFINITY, -(float)INFINITY};
    slot *s = &t->slots[k];
    set_element(s, (size_t)check_range(t->random, 0, (int)s->count - 1),
                values[check_range(t->random, 0, 2)]);
}

static trial new_trial(const char *name, uint64_t *random, cnn_status (*call)(trial *)) {
    trial t = {.name = name, .random = random, .seed = check_seed(), .call = call, .training = 1};
    t.want_loss = (double)NAN;
    t.tolerance = 8 * (double)FLT_EPSILON;
    return t;
}

static void free_trial(trial *t) {
    for (int k = 0; k < SLOTS; k++) {
        ref_free(&t->slots[k].value);
        ref_free(&t->slots[k].magnitude);
        free(t->slots[k].memory);
        free(t->slots[k].before);
        free(t->slots[k].first);
    }
    free(t->want_indices);
    free(t->indices);
    free(t->labels);
}

/* ---- one call, checked --------------------------------------------------------------------------- */

static void describe_options(trial *t) {
    const ref_conv *c = &t->conv;
    const ref_pool *p = &t->pool;
    char *end = t->text + strlen(t->text);
    const size_t room = sizeof t->text - strlen(t->text);
    if (c->groups)
        snprintf(end, room, ", stride %d,%d padding %d,%d,%d,%d dilation %d,%d groups %d mode %d options %s",
                 c->stride_h, c->stride_w, c->top, c->bottom, c->left, c->right, c->dilation_h, c->dilation_w,
                 c->groups, (int)c->mode, t->options_null ? "NULL" : "given");
    if (p->kernel_h)
        snprintf(end, room, ", window %d,%d stride %d,%d padding %d,%d dilation %d,%d ceil %d exclude %d",
                 p->kernel_h, p->kernel_w, p->stride_h, p->stride_w, p->pad_h, p->pad_w, p->dilation_h,
                 p->dilation_w, p->ceil_mode, p->exclude_padding);
}

static void describe(trial *t) {
    size_t used = (size_t)snprintf(t->text, sizeof t->text, "seed %llu, %s%s", (unsigned long long)t->seed,
                                   t->name, t->in_place ? " in place" : "");
    for (int k = 0; k < SLOTS; k++)
        if (t->slots[k].tensor.data) {
            const cnn_tensor *x = &t->slots[k].tensor;
            used += (size_t)snprintf(t->text + used, sizeof t->text - used, " %s %dx%dx%dx%d", slot_names[k],
                                     x->n, x->c, x->h, x->w);
        }
    describe_options(t);
}

static void restore(trial *t) {
    for (int k = 0; k < SLOTS; k++)
        if (t->slots[k].memory)
            memcpy(t->slots[k].memory, t->slots[k].before, t->slots[k].total * sizeof(float));
    for (size_t i = 0; t->indices && i < t->index_count + 2 * GUARD; i++)
        t->indices[i] = -12345;
    t->loss = -12345;
}

static int same(const float *a, const float *b, size_t count) {
    return memcmp(a, b, count * sizeof *a) == 0;
}

static void check_value(trial *t, int k, const char *isa) {
    const slot *s = &t->slots[k];
    for (size_t i = 0; i < s->count; i++) {
        const double got = (double)s->tensor.data[i];
        const double want = s->value.data[i];
        const double bound = t->tolerance * s->magnitude.data[i] + (double)FLT_MIN;
        if (check_close(got, want, isfinite(bound) ? bound : 0, 0))
            continue;
        CHECK(0, "%s\n    %s[%d] is %.9g, not %.9g +- %.2g; %s", t->text, slot_names[k], (int)i, got, want,
              bound, isa);
        return;
    }
}

static void check_slot(trial *t, int k, const char *isa, int threads) {
    slot *s = &t->slots[k];
    if (!s->output) {
        CHECK(same(s->memory, s->before, s->total), "%s\n    %s was written to; %s, %d threads", t->text,
              slot_names[k], isa, threads);
        return;
    }
    CHECK(same(s->memory, s->before, s->offset) &&
              same(s->tensor.data + s->count, s->before + s->offset + s->count, GUARD),
          "%s\n    written outside of %s; %s, %d threads", t->text, slot_names[k], isa, threads);
    if (threads == 1) {
        check_value(t, k, isa);
        memcpy(s->first, s->tensor.data, s->count * sizeof(float));
    }
    CHECK(same(s->first, s->tensor.data, s->count), "%s\n    %s has other bits with %d threads; %s", t->text,
          slot_names[k], threads, isa);
}

static void check_indices(trial *t, const char *isa, int threads) {
    for (size_t i = 0; i < t->index_count; i++)
        if (t->indices[GUARD + i] != t->want_indices[i]) {
            CHECK(0, "%s\n    index %d is %d, not %d; %s, %d threads", t->text, (int)i, t->indices[GUARD + i],
                  t->want_indices[i], isa, threads);
            break;
        }
    for (size_t i = 0; i < GUARD; i++)
        CHECK(t->indices[i] == -12345 && t->indices[GUARD + t->index_count + i] == -12345,
              "%s\n    written outside of the indices; %s, %d threads", t->text, isa, threads);
}

static void check_call(trial *t, const char *isa, int threads, double *first_loss) {
    volatile float smallest = FLT_MIN;
    restore(t);
    const cnn_status status = t->call(t);
    CHECK(status == CNN_OK, "%s\n    %s; %s, %d threads", t->text, cnn_last_error(), isa, threads);
    CHECK(smallest / 2 > 0, "%s\n    the floating-point mode was not restored; %s, %d threads", t->text, isa,
          threads);
    for (int k = 0; k < SLOTS; k++)
        if (t->slots[k].memory)
            check_slot(t, k, isa, threads);
    if (t->indices)
        check_indices(t, isa, threads);
    if (isnan(t->want_loss))
        return;
    if (threads == 1)
        *first_loss = t->loss;
    CHECK(check_close(t->loss, t->want_loss, t->tolerance, t->tolerance), "%s\n    loss %.9g, not %.9g; %s",
          t->text, t->loss, t->want_loss, isa);
    CHECK(memcmp(&t->loss, first_loss, sizeof t->loss) == 0,
          "%s\n    the loss has other bits with %d threads; %s", t->text, threads, isa);
}

/* Makes the call on every instruction set with every number of threads, and frees the trial. */
static void run(trial *t) {
    describe(t);
    for (int k = 0; k < instruction_set_count; k++) {
        double first_loss = 0;
        check_select_isa(instruction_sets[k]);
        for (int threads = 1; threads <= MAX_THREADS; threads++)
            if (set_threads(threads))
                check_call(t, instruction_sets[k], threads, &first_loss);
    }
    check_select_isa(NULL);
    free_trial(t);
}

/* ---- convolution --------------------------------------------------------------------------------- */

static cnn_status call_conv2d_forward(trial *t) {
    return cnn_conv2d_forward(tensor(t, X), tensor(t, WEIGHT), tensor(t, BIAS),
                              t->options_null ? NULL : &t->conv_options, tensor(t, Y));
}

static cnn_status call_conv2d_backward(trial *t) {
    return cnn_conv2d_backward(tensor(t, X), tensor(t, WEIGHT), tensor(t, DY),
                               t->options_null ? NULL : &t->conv_options, tensor(t, DX), tensor(t, DW),
                               tensor(t, DB));
}

typedef struct conv_case {
    int n, c, h, w, out, kernel_h, kernel_w;
    ref_conv conv;
} conv_case;

/* 1 is sometimes left to the default. */
static int or_default(uint64_t *random, int value) {
    return value == 1 && check_range(random, 0, 1) ? 0 : value;
}

static void set_conv_options(trial *t, const ref_conv *c, int no_winograd) {
    static const cnn_padding_mode modes[] = {CNN_PAD_ZEROS, CNN_PAD_REFLECT, CNN_PAD_REPLICATE,
                                             CNN_PAD_CIRCULAR};
    const cnn_conv2d_options options = {or_default(t->random, c->stride_h),
                                        or_default(t->random, c->stride_w),
                                        c->top,
                                        c->bottom,
                                        c->left,
                                        c->right,
                                        or_default(t->random, c->dilation_h),
                                        or_default(t->random, c->dilation_w),
                                        or_default(t->random, c->groups),
                                        modes[c->mode],
                                        no_winograd};
    const int padding = c->top + c->bottom + c->left + c->right;
    t->conv = *c;
    t->conv_options = options;
    t->options_null = c->stride_h * c->stride_w * c->dilation_h * c->dilation_w * c->groups == 1 &&
                      !padding && c->mode == REF_ZEROS && !no_winograd && check_range(t->random, 0, 1);
}

static void conv_case_size(const conv_case *k, int *h, int *w) {
    const ref_conv *c = &k->conv;
    *h = ref_conv_size(k->h, c->top, c->bottom, k->kernel_h, c->stride_h, c->dilation_h);
    *w = ref_conv_size(k->w, c->left, c->right, k->kernel_w, c->stride_w, c->dilation_w);
}

static void check_conv_shape(trial *t, int n, int c, int h, int w) {
    cnn_tensor y = {0, 0, 0, 0, NULL};
    describe(t);
    const cnn_status status =
        cnn_conv2d_shape(tensor(t, X), tensor(t, WEIGHT), t->options_null ? NULL : &t->conv_options, &y);
    CHECK(status == CNN_OK, "%s: %s", t->text, cnn_last_error());
    CHECK(y.n == n && y.c == c && y.h == h && y.w == w && !y.data, "%s: shape %dx%dx%dx%d, not %dx%dx%dx%d",
          t->text, y.n, y.c, y.h, y.w, n, c, h, w);
}

/* Winograd's transforms spread what is not finite over a tile. */
static void put_special_conv(trial *t, int which) {
    put_special(t, which);
    t->conv_options.no_winograd = 1;
    t->options_null = 0;
}

static void test_conv2d_forward(const conv_case *k, int no_winograd, uint64_t *random) {
    trial t = new_trial("conv2d forward", random, call_conv2d_forward);
    int h, w;
    conv_case_size(k, &h, &w);
    set_conv_options(&t, &k->conv, no_winograd);
    add_input(&t, X, k->n, k->c, k->h, k->w);
    add_input(&t, WEIGHT, k->out, k->c / k->conv.groups, k->kernel_h, k->kernel_w);
    check_conv_shape(&t, k->n, k->out, h, w);
    if (check_range(random, 0, 1))
        add_input(&t, BIAS, 1, k->out, 1, 1);
    if (!check_range(random, 0, 15))
        put_special_conv(&t, X);
    add_output(&t, Y, k->n, k->out, h, w);
    for (int m = 0; m < 2; m++)
        ref_conv2d_forward(ref(&t, X, m), ref(&t, WEIGHT, m), ref(&t, BIAS, m), &t.conv, ref(&t, Y, m));
    run(&t);
}

/* subset: of dx, dw and db. */
static void test_conv2d_backward(const conv_case *k, int subset, int no_winograd, uint64_t *random) {
    trial t = new_trial("conv2d backward", random, call_conv2d_backward);
    int h, w;
    conv_case_size(k, &h, &w);
    set_conv_options(&t, &k->conv, no_winograd);
    add_input(&t, X, k->n, k->c, k->h, k->w);
    add_input(&t, WEIGHT, k->out, k->c / k->conv.groups, k->kernel_h, k->kernel_w);
    add_input(&t, DY, k->n, k->out, h, w);
    if (subset & 1)
        add_output(&t, DX, k->n, k->c, k->h, k->w);
    if (subset & 2)
        add_accumulator(&t, DW, k->out, k->c / k->conv.groups, k->kernel_h, k->kernel_w);
    else if (!check_range(random, 0, 15)) /* with dw, NaN times a zero of the padding would matter */
        put_special_conv(&t, DY);
    if (subset & 4)
        add_accumulator(&t, DB, 1, k->out, 1, 1);
    for (int m = 0; m < 2; m++)
        ref_conv2d_backward(ref(&t, X, m), ref(&t, WEIGHT, m), ref(&t, DY, m), &t.conv, ref(&t, DX, m),
                            ref(&t, DW, m), ref(&t, DB, m));
    run(&t);
}

static void test_conv2d(const conv_case *k, int subset, int no_winograd, uint64_t *random) {
    test_conv2d_forward(k, no_winograd, random);
    test_conv2d_backward(k, subset, no_winograd, random);
}

/* Shapes that random ones seldom are: crossing blocks of channels, pixels and samples, and extremes. */
static const conv_case conv_cases[] = {
    {1, 64, 30, 30, 24, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},
    {2, 24, 30, 30, 64, 3, 3, {1, 1, 0, 0, 0, 0, 1, 1, 1, REF_ZEROS}},
    {3, 25, 6, 6, 24, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},
    {1, 24, 12, 30, 26, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}}, /* rows of whole vectors of tiles */
    {1, 25, 8, 125, 24, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}}, /* that reach beyond the image */
    {1, 29, 13, 18, 35, 3, 3, {1, 1, 1, 0, 0, 1, 1, 1, 1, REF_ZEROS}},
    {2, 61, 8, 70, 26, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_REPLICATE}},
    {1, 40, 17, 12, 64, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_REFLECT}},
    {2, 50, 11, 14, 54, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 2, REF_ZEROS}},
    {1, 260, 14, 14, 24, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},
    {1, 24, 12, 16, 200, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_CIRCULAR}},
    {1, 32, 12, 12, 30, 3, 3, {1, 1, 2, 2, 2, 2, 1, 1, 1, REF_ZEROS}},
    {2, 40, 26, 26, 72, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},
    {1, 200, 12, 13, 40, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},
    {3, 24, 13, 37, 50, 3, 3, {1, 1, 1, 1, 0, 1, 1, 1, 1, REF_ZEROS}},
    {13, 24, 13, 13, 26, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}}, /* dw in slots, */
    {13, 48, 13, 13, 52, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 2, REF_ZEROS}}, /* of two groups, */
    {3, 96, 13, 13, 50, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},  /* and in runs that keep no sums */
    {5, 112, 7, 7, 114, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},  /* several images in a run, */
    {5, 64, 8, 16, 68, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 2, REF_ZEROS}},   /* of two groups */
    {1, 300, 14, 14, 48, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}}, /* weights by parts of the channels */
    {3, 800, 9, 14, 16, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},  /* fewer panels than threads */
    {1, 240, 13, 13, 224, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 2, REF_ZEROS}}, /* runs of two groups, shared */
    {1, 32, 14, 14, 64, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},   /* outputs as lanes, full vectors, */
    {1, 48, 26, 27, 80, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},   /* one not full, */
    {1, 64, 10, 9, 96, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 2, REF_ZEROS}},    /* of two groups, */
    {1, 272, 9, 14, 160, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}}, /* weights by parts of the channels */
    {1, 40, 19, 23, 48, 5, 5, {1, 1, 2, 2, 2, 2, 1, 1, 1, REF_ZEROS}},
    {1, 3, 50, 60, 40, 11, 11, {4, 4, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},
    {1, 300, 7, 7, 70, 1, 1, {1, 1, 0, 0, 0, 0, 1, 1, 1, REF_ZEROS}},
    {1, 20, 40, 30, 33, 1, 1, {1, 1, 0, 0, 0, 0, 1, 1, 1, REF_ZEROS}},
    {1, 3, 64, 64, 32, 7, 7, {2, 2, 3, 3, 3, 3, 1, 1, 1, REF_ZEROS}},
    {2, 64, 30, 30, 64, 1, 1, {1, 1, 0, 0, 0, 0, 1, 1, 1, REF_ZEROS}},
    {1, 48, 29, 31, 40, 1, 1, {2, 2, 0, 0, 0, 0, 1, 1, 1, REF_ZEROS}},
    {1, 48, 9, 9, 40, 1, 1, {1, 1, 2, 0, 0, 1, 1, 1, 1, REF_ZEROS}},
    {33, 1, 28, 28, 6, 5, 5, {1, 1, 2, 2, 2, 2, 1, 1, 1, REF_ZEROS}},
    {17, 6, 14, 14, 16, 5, 5, {1, 1, 0, 0, 0, 0, 1, 1, 1, REF_ZEROS}},
    {40, 40, 1, 1, 40, 1, 1, {1, 1, 0, 0, 0, 0, 1, 1, 1, REF_ZEROS}},
    {3, 40, 3, 3, 40, 3, 3, {1, 1, 0, 0, 0, 0, 1, 1, 1, REF_ZEROS}},
    {1, 300, 3, 3, 10, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},
    {1, 2, 4, 4, 300, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},
    {2, 64, 17, 19, 64, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 64, REF_ZEROS}},
    {2, 40, 21, 20, 40, 5, 5, {2, 2, 2, 2, 2, 2, 1, 1, 40, REF_REFLECT}},
    {1, 32, 13, 13, 96, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 32, REF_ZEROS}},
    {2, 36, 11, 11, 24, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 12, REF_CIRCULAR}},
    {1, 1, 1, 1, 1, 1, 1, {1, 1, 0, 0, 0, 0, 1, 1, 1, REF_ZEROS}},
    {1, 1, 1, 1, 1, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},
    {1, 2, 1, 1, 3, 2, 2, {3, 3, 5, 4, 7, 6, 1, 1, 1, REF_ZEROS}},
    {1, 2, 1, 1, 3, 2, 2, {1, 1, 5, 4, 7, 6, 2, 3, 1, REF_REPLICATE}},
    {1, 1, 1, 1, 2, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_CIRCULAR}},
    {1, 3, 1, 200, 5, 1, 9, {1, 3, 0, 0, 4, 4, 1, 2, 1, REF_ZEROS}},
    {1, 3, 200, 1, 5, 9, 1, {3, 1, 4, 4, 0, 0, 2, 1, 1, REF_ZEROS}},
    {1, 2, 5, 5, 3, 2, 2, {7, 8, 0, 3, 9, 9, 1, 1, 1, REF_ZEROS}},
    {1, 2, 7, 6, 3, 3, 2, {2, 3, 11, 0, 0, 13, 2, 3, 1, REF_ZEROS}},
    {1, 4, 224, 224, 4, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},
    {1, 1, 40, 300, 2, 11, 11, {4, 4, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},
    {1, 3, 320, 220, 2, 5, 5, {2, 2, 2, 2, 2, 2, 1, 1, 1, REF_ZEROS}}, /* dw by dots: strips of phases, */
    {2, 2, 3, 2100, 3, 2, 3, {1, 1, 1, 0, 1, 1, 1, 1, 1, REF_ZEROS}},  /* and parts of long lines */
    {5, 8, 16, 16, 8, 3, 3, {1, 1, 2, 2, 2, 2, 2, 2, 1, REF_ZEROS}},
    {5, 8, 16, 16, 8, 3, 3, {2, 2, 2, 2, 2, 2, 2, 2, 2, REF_ZEROS}},
    /* Depthwise: */
    {1, 3, 56, 56, 3, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 3, REF_ZEROS}},     /* whole bands, part of a vector */
    {2, 5, 19, 32, 10, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 5, REF_ZEROS}},    /* whole vectors, multiplier 2 */
    {1, 2, 12, 21, 8, 5, 5, {1, 1, 2, 2, 2, 2, 1, 1, 2, REF_ZEROS}},     /* multiplier 4; rows 3 + 2 */
    {1, 2, 9, 9, 10, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 2, REF_ZEROS}},      /* 5 is a product */
    {2, 3, 30, 30, 3, 7, 7, {1, 1, 3, 3, 3, 3, 1, 1, 3, REF_ZEROS}},     /* rows 3 + 3 + 1 */
    {2, 3, 17, 18, 3, 1, 3, {1, 1, 0, 0, 1, 1, 1, 1, 3, REF_ZEROS}},     /* rows 1 */
    {2, 3, 18, 17, 3, 4, 1, {1, 1, 1, 2, 0, 0, 1, 1, 3, REF_ZEROS}},     /* rows 3 + 1 */
    {3, 4, 33, 40, 4, 3, 3, {2, 2, 1, 1, 1, 1, 1, 1, 4, REF_ZEROS}},     /* phases: rows 2 and 1 */
    {1, 4, 30, 70, 8, 5, 5, {2, 3, 2, 1, 2, 0, 1, 1, 4, REF_ZEROS}},     /* uneven strides */
    {1, 3, 31, 34, 3, 3, 3, {2, 2, 3, 3, 3, 3, 2, 2, 3, REF_ZEROS}},     /* a step is a stride */
    {1, 3, 31, 34, 3, 3, 3, {2, 2, 3, 3, 3, 3, 3, 3, 3, REF_ZEROS}},     /* a step is more than a stride */
    {2, 3, 20, 22, 3, 3, 3, {1, 1, 2, 2, 2, 2, 2, 2, 3, REF_ZEROS}},     /* dilated */
    {1, 3, 10, 11, 6, 3, 3, {1, 1, 5, 6, 7, 4, 1, 1, 3, REF_ZEROS}},     /* dx: padding below zero */
    {1, 3, 10, 11, 3, 2, 2, {3, 3, 5, 6, 7, 4, 1, 1, 3, REF_ZEROS}},     /* phases of padding alone */
    {4, 6, 1, 1, 6, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 6, REF_ZEROS}},       /* tiny planes */
    {4, 6, 2, 3, 12, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 6, REF_ZEROS}},      /* and */
    {3, 20, 7, 7, 20, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 20, REF_ZEROS}},    /* below a band and a vector */
    {2, 3, 8, 15, 3, 3, 3, {1, 1, 0, 0, 0, 0, 1, 1, 3, REF_ZEROS}},      /* no padding */
    {2, 2, 130, 131, 2, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 2, REF_ZEROS}},   /* strips */
    {2, 2, 150, 90, 4, 3, 3, {2, 2, 1, 1, 1, 1, 1, 1, 2, REF_ZEROS}},    /* of phases */
    {2, 2, 100, 100, 2, 5, 5, {1, 1, 2, 2, 2, 2, 1, 1, 2, REF_REFLECT}}, /* of mirrored images */
    {1, 1, 90, 70, 1, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 1, REF_ZEROS}},     /* strips for the threads' sake */
    {1, 2, 10, 30000, 2, 3, 3, {1, 1, 1, 1, 1, 1, 1, 1, 2, REF_ZEROS}},  /* too wide for the cache */
};

static int small_number(uint64_t *random, int most) { /* 1..most, more of the small ones */
    return check_range(random, 1, check_range(random, 1, most));
}

static void draw_channels(conv_case *k, uint64_t *random) {
    const int kind = check_range(random, 0, 5);
    int *groups = &k->conv.groups;
    *groups = kind < 4 ? 1 : kind == 4 ? check_range(random, 2, 5) : small_number(random, 40);
    k->c = *groups * (kind < 4 ? small_number(random, 40) : kind == 4 ? small_number(random, 9) : 1);
    k->out = *groups * (kind < 4 ? small_number(random, 40) : kind == 4 ? small_number(random, 9) : 1);
    if (kind == 5 && check_range(random, 0, 1))
        k->out *= 2;
}

/* The kernel, stride and dilation of one axis. */
static void draw_window(uint64_t *random, int size, int *kernel, int *stride, int *dilation) {
    const int kind = check_range(random, 0, 9);
    *kernel = kind < 3    ? 1
              : kind == 3 ? size
              : kind < 7  ? check_range(random, 1, 5)
                          : check_range(random, 1, 11);
    *stride = check_range(random, 0, 2)   ? 1
              : check_range(random, 0, 1) ? *kernel + check_range(random, 1, 2)
                                          : 2;
    *dilation = check_range(random, 0, 3) ? 1 : check_range(random, 1, 3);
}

static void draw_padding(uint64_t *random, int size, int kernel, ref_padding mode, int *before, int *after) {
    const int kind = check_range(random, 0, 3);
    const int limit = mode == REF_REFLECT ? size - 1 : mode == REF_CIRCULAR ? size : 1000;
    *before = kind == 0 ? 0 : kind == 1 ? kernel / 2 : check_range(random, 0, kernel + (kind == 3 ? 9 : 0));
    *after = kind == 0 ? 0 : kind == 1 ? kernel / 2 : check_range(random, 0, kernel + (kind == 3 ? 9 : 0));
    *before = *before < limit ? *before : limit;
    *after = *after < limit ? *after : limit;
}

/* A case of at most so many multiply-accumulates. */
static conv_case draw_conv_case(uint64_t *random, double macs) {
    conv_case k;
    ref_conv *c = &k.conv;
    int h, w;
    do {
        k.n = check_range(random, 0, 3) ? small_number(random, 4) : small_number(random, 40);
        k.h = check_range(random, 0, 7) ? small_number(random, 34) : 1;
        k.w = check_range(random, 0, 7) ? small_number(random, 34) : 1;
        c->mode =
            check_range(random, 0, 1) ? REF_ZEROS : (ref_padding)check_range(random, REF_ZEROS, REF_CIRCULAR);
        draw_channels(&k, random);
        draw_window(random, k.h, &k.kernel_h, &c->stride_h, &c->dilation_h);
        draw_window(random, k.w, &k.kernel_w, &c->stride_w, &c->dilation_w);
        draw_padding(random, k.h, k.kernel_h, c->mode, &c->top, &c->bottom);
        draw_padding(random, k.w, k.kernel_w, c->mode, &c->left, &c->right);
        conv_case_size(&k, &h, &w);
    } while (h < 1 || w < 1 ||
             (double)k.n * k.out * h * w * (k.c / c->groups) * k.kernel_h * k.kernel_w > macs);
    return k;
}

static void test_convolutions(uint64_t *random) {
    for (size_t i = 0; i < sizeof conv_cases / sizeof conv_cases[0]; i++)
        for (int direct = 0; direct < 2; direct++) /* what Winograd may do is done directly, too */
            if (!direct || (conv_cases[i].kernel_h * conv_cases[i].kernel_w == 9 &&
                            conv_cases[i].c >= 24 * conv_cases[i].conv.groups))
                test_conv2d(&conv_cases[i], 7, direct, random);
    for (int i = 0; i < 250; i++) {
        const conv_case k = draw_conv_case(random, i % 16 ? 1e5 : 1e6);
        test_conv2d(&k, check_range(random, 0, 3) ? 7 : check_range(random, 0, 7), check_range(random, 0, 1),
                    random);
    }
}

static cnn_status call_corr2d_forward(trial *t) {
    return cnn_corr2d_forward(tensor(t, X), tensor(t, WEIGHT), tensor(t, Y));
}

static cnn_status call_corr2d_backward(trial *t) {
    return cnn_corr2d_backward(tensor(t, X), tensor(t, WEIGHT), tensor(t, DY), tensor(t, DX), tensor(t, DW));
}

static cnn_status call_convolve2d_forward(trial *t) {
    return cnn_convolve2d_forward(tensor(t, X), tensor(t, WEIGHT), tensor(t, Y));
}

static cnn_status call_convolve2d_backward(trial *t) {
    return cnn_convolve2d_backward(tensor(t, X), tensor(t, WEIGHT), tensor(t, DY), tensor(t, DX),
                                   tensor(t, DW));
}

static void test_corr2d_forward(uint64_t *random, int flip, int h, int w, int kernel_h, int kernel_w) {
    trial t = new_trial(flip ? "convolve2d forward" : "corr2d forward", random,
                        flip ? call_convolve2d_forward : call_corr2d_forward);
    add_input(&t, X, 1, 1, h, w);
    add_input(&t, WEIGHT, 1, 1, kernel_h, kernel_w);
    add_output(&t, Y, 1, 1, h - kernel_h + 1, w - kernel_w + 1);
    for (int m = 0; m < 2; m++)
        ref_corr2d_forward(ref(&t, X, m), ref(&t, WEIGHT, m), flip, ref(&t, Y, m));
    run(&t);
}

static void test_corr2d_backward(uint64_t *random, int flip, int h, int w, int kernel_h, int kernel_w) {
    trial t = new_trial(flip ? "convolve2d backward" : "corr2d backward", random,
                        flip ? call_convolve2d_backward : call_corr2d_backward);
    const int subset = check_range(random, 0, 3);
    add_input(&t, X, 1, 1, h, w);
    add_input(&t, WEIGHT, 1, 1, kernel_h, kernel_w);
    add_input(&t, DY, 1, 1, h - kernel_h + 1, w - kernel_w + 1);
    if (subset != 1)
        add_output(&t, DX, 1, 1, h, w);
    if (subset != 2)
        add_accumulator(&t, DW, 1, 1, kernel_h, kernel_w);
    for (int m = 0; m < 2; m++)
        ref_corr2d_backward(ref(&t, X, m), ref(&t, WEIGHT, m), ref(&t, DY, m), flip, ref(&t, DX, m),
                            ref(&t, DW, m));
    run(&t);
}

static void test_corr2d(uint64_t *random) {
    for (int i = 0; i < 60; i++) {
        const int h = small_number(random, 40);
        const int w = small_number(random, 40);
        const int kernel_h = check_range(random, 0, 7) ? small_number(random, h) : h;
        const int kernel_w = check_range(random, 0, 7) ? small_number(random, w) : w;
        test_corr2d_forward(random, i % 2, h, w, kernel_h, kernel_w);
        test_corr2d_backward(random, i % 2, h, w, kernel_h, kernel_w);
    }
}

/* ---- pooling ------------------------------------------------------------------------------------- */

static cnn_status call_maxpool2d_forward(trial *t) {
    return cnn_maxpool2d_forward(tensor(t, X), &t->pool_options, tensor(t, Y),
                                 t->indices ? t->indices + GUARD : NULL);
}

static cnn_status call_maxpool2d_backward(trial *t) {
    return cnn_maxpool2d_backward(tensor(t, DY), t->want_indices, tensor(t, DX));
}

static cnn_status call_avgpool2d_forward(trial *t) {
    return cnn_avgpool2d_forward(tensor(t, X), &t->pool_options, tensor(t, Y));
}

static cnn_status call_avgpool2d_backward(trial *t) {
    return cnn_avgpool2d_backward(tensor(t, DY), &t->pool_options, tensor(t, DX));
}

static cnn_status call_globalavgpool2d_forward(trial *t) {
    return cnn_globalavgpool2d_forward(tensor(t, X), tensor(t, Y));
}

static cnn_status call_globalavgpool2d_backward(trial *t) {
    return cnn_globalavgpool2d_backward(tensor(t, DY), tensor(t, DX));
}

typedef struct pool_case {
    int n, c, h, w, out_h, out_w;
    ref_pool pool;
} pool_case;

static void draw_pool_window(uint64_t *random, int max, int size, int *kernel, int *stride, int *pad,
                             int *dilation) {
    const int kind = check_range(random, 0, 5);
    *kernel = kind == 0   ? 1
              : kind == 1 ? size
              : kind == 2 ? check_range(random, 1, 9)
                          : check_range(random, 2, 3);
    *stride = check_range(random, 0, 1) ? *kernel : check_range(random, 1, *kernel + 2);
    *pad = check_range(random, 0, 1) ? 0 : check_range(random, 0, *kernel / 2);
    *dilation = max && !check_range(random, 0, 2) ? check_range(random, 1, 5) : 1;
}

static pool_case draw_pool_case(uint64_t *random, int max) {
    pool_case k;
    ref_pool *p = &k.pool;
    do {
        k.n = check_range(random, 0, 3) ? 1 : small_number(random, 40);
        k.c = small_number(random, 40);
        k.h = small_number(random, 40);
        k.w = small_number(random, 40);
        draw_pool_window(random, max, k.h, &p->kernel_h, &p->stride_h, &p->pad_h, &p->dilation_h);
        draw_pool_window(random, max, k.w, &p->kernel_w, &p->stride_w, &p->pad_w, &p->dilation_w);
        p->ceil_mode = check_range(random, 0, 1);
        p->exclude_padding = max ? 0 : check_range(random, 0, 1);
        k.out_h = ref_pool_size(k.h, p->pad_h, p->kernel_h, p->stride_h, p->dilation_h, p->ceil_mode);
        k.out_w = ref_pool_size(k.w, p->pad_w, p->kernel_w, p->stride_w, p->dilation_w, p->ceil_mode);
    } while (k.out_h < 1 || k.out_w < 1 ||
             (double)k.n * k.c * k.out_h * k.out_w * p->kernel_h * p->kernel_w > 1e5);
    return k;
}

static trial pool_trial(const char *name, uint64_t *random, cnn_status (*call)(trial *), const ref_pool *p) {
    trial t = new_trial(name, random, call);
    const cnn_pool2d_options options = {p->kernel_h,
                                        p->kernel_w,
                                        p->stride_h == p->kernel_h ? 0 : p->stride_h,
                                        p->stride_w == p->kernel_w ? 0 : p->stride_w,
                                        p->pad_h,
                                        p->pad_w,
                                        or_default(random, p->dilation_h),
                                        or_default(random, p->dilation_w),
                                        p->ceil_mode,
                                        p->exclude_padding};
    t.pool = *p;
    t.pool_options = options;
    return t;
}

static void check_pool_shape(trial *t, int max, const pool_case *k) {
    cnn_tensor y = {0, 0, 0, 0, NULL};
    describe(t);
    const cnn_status status = cnn_pool2d_shape(tensor(t, X), &t->pool_options, max, &y);
    CHECK(status == CNN_OK, "%s: %s", t->text, cnn_last_error());
    CHECK(y.n == k->n && y.c == k->c && y.h == k->out_h && y.w == k->out_w && !y.data,
          "%s: shape %dx%dx%dx%d, not %dx%dx%dx%d", t->text, y.n, y.c, y.h, y.w, k->n, k->c, k->out_h,
          k->out_w);
}

/* Often with ties, sometimes with values that are not finite, in every place of a window, sometimes nothing
   but minus infinity. */
static void set_pool_input(trial *t) {
    slot *s = &t->slots[X];
    const int kind = check_range(t->random, 0, 7);
    for (size_t i = 0; i < s->count; i++)
        if (kind == 0)
            set_element(s, i, -(float)INFINITY);
        else if (kind == 5 && check_range(t->random, 0, 1))
            set_element(s, i, check_range(t->random, 0, 1) ? (float)NAN : (float)INFINITY);
        else if (kind < 4)
            set_element(s, i, (float)check_range(t->random, -2, 2));
    for (size_t i = 0; kind == 4 && i < s->count; i += 5)
        put_special(t, X);
}

static void alloc_indices(trial *t, size_t count) {
    t->index_count = count;
    t->want_indices = (int *)ref_memory(count, sizeof(int));
}

static void test_maxpool2d(uint64_t *random, pool_case k) {
    trial t = pool_trial("maxpool2d forward", random, call_maxpool2d_forward, &k.pool);
    trial back = pool_trial("maxpool2d backward", random, call_maxpool2d_backward, &k.pool);
    add_input(&t, X, k.n, k.c, k.h, k.w);
    set_pool_input(&t);
    check_pool_shape(&t, 1, &k);
    const size_t count = add_output(&t, Y, k.n, k.c, k.out_h, k.out_w)->count;
    alloc_indices(&t, count);
    alloc_indices(&back, count);
    if (check_range(random, 0, 3))
        t.indices = (int *)ref_memory(count + 2 * GUARD, sizeof(int));
    t.tolerance = 0;
    ref_maxpool2d_forward(&t.slots[X].value, &t.pool, &t.slots[Y].value, t.want_indices);
    memcpy(back.want_indices, t.want_indices, count * sizeof(int));
    run(&t);
    add_input(&back, DY, k.n, k.c, k.out_h, k.out_w);
    add_output(&back, DX, k.n, k.c, k.h, k.w);
    for (int m = 0; m < 2; m++)
        ref_maxpool2d_backward(ref(&back, DY, m), back.want_indices, ref(&back, DX, m));
    run(&back);
}

static void test_avgpool2d(uint64_t *random, pool_case k) {
    trial t = pool_trial("avgpool2d forward", random, call_avgpool2d_forward, &k.pool);
    trial back = pool_trial("avgpool2d backward", random, call_avgpool2d_backward, &k.pool);
    add_input(&t, X, k.n, k.c, k.h, k.w);
    check_pool_shape(&t, 0, &k);
    if (!check_range(random, 0, 7))
        put_special(&t, X);
    add_output(&t, Y, k.n, k.c, k.out_h, k.out_w);
    add_input(&back, DY, k.n, k.c, k.out_h, k.out_w);
    add_output(&back, DX, k.n, k.c, k.h, k.w);
    for (int m = 0; m < 2; m++) {
        ref_avgpool2d_forward(ref(&t, X, m), &t.pool, ref(&t, Y, m));
        ref_avgpool2d_backward(ref(&back, DY, m), &back.pool, ref(&back, DX, m));
    }
    run(&t);
    run(&back);
}

static void test_globalavgpool2d(uint64_t *random) {
    trial t = new_trial("globalavgpool2d forward", random, call_globalavgpool2d_forward);
    trial back = new_trial("globalavgpool2d backward", random, call_globalavgpool2d_backward);
    const int n = small_number(random, 40);
    const int c = small_number(random, 40);
    const int h = small_number(random, 20);
    const int w = small_number(random, 20);
    add_input(&t, X, n, c, h, w);
    add_output(&t, Y, n, c, 1, 1);
    add_input(&back, DY, n, c, 1, 1);
    add_output(&back, DX, n, c, h, w);
    for (int m = 0; m < 2; m++) {
        ref_globalavgpool2d_forward(ref(&t, X, m), ref(&t, Y, m));
        ref_globalavgpool2d_backward(ref(&back, DY, m), ref(&back, DX, m));
    }
    run(&t);
    run(&back);
}

/* The windows that vectors take, for rows of every length that there is around the vectors' lengths. */
static void test_pool_widths(uint64_t *random) {
    static const int windows[][4] = {{2, 2, 0, 1}, {3, 2, 0, 1}, {3, 2, 1, 1}, {3, 1, 1, 1}, {2, 1, 0, 3}};
    for (int w = 2; w <= 70; w++)
        for (int i = 0; i < 5; i++) {
            const int kernel = windows[i][0], stride = windows[i][1], pad = windows[i][2];
            const int dilation = windows[i][3], ceil_mode = check_range(random, 0, 1);
            pool_case k = {1, check_range(random, 1, 3), check_range(random, 2, 9), w, 0, 0, {0}};
            const ref_pool pool = {kernel, kernel,   stride,   stride,    pad,
                                   pad,    dilation, dilation, ceil_mode, 0};
            k.pool = pool;
            k.out_h = ref_pool_size(k.h, pad, kernel, stride, dilation, ceil_mode);
            k.out_w = ref_pool_size(k.w, pad, kernel, stride, dilation, ceil_mode);
            if (k.out_h < 1 || k.out_w < 1)
                continue;
            test_maxpool2d(random, k);
            if (dilation == 1)
                test_avgpool2d(random, k);
        }
}

static void test_pooling(uint64_t *random) {
    for (int i = 0; i < 150; i++) {
        test_maxpool2d(random, draw_pool_case(random, 1));
        test_avgpool2d(random, draw_pool_case(random, 0));
    }
    test_pool_widths(random);
    for (int i = 0; i < 20; i++)
        test_globalavgpool2d(random);
}

/* ---- linear -------------------------------------------------------------------------------------- */

static cnn_status call_linear_forward(trial *t) {
    return cnn_linear_forward(tensor(t, X), tensor(t, WEIGHT), tensor(t, BIAS), tensor(t, Y));
}

static cnn_status call_linear_backward(trial *t) {
    return cnn_linear_backward(tensor(t, X), tensor(t, WEIGHT), tensor(t, DY), tensor(t, DX), tensor(t, DW),
                               tensor(t, DB));
}

static void test_linear_forward(uint64_t *random, int n, int c, int h, int w, int out) {
    trial t = new_trial("linear forward", random, call_linear_forward);
    add_input(&t, X, n, c, h, w);
    add_input(&t, WEIGHT, out, c * h * w, 1, 1);
    if (check_range(random, 0, 1))
        add_input(&t, BIAS, 1, out, 1, 1);
    if (!check_range(random, 0, 15))
        put_special(&t, X);
    add_output(&t, Y, n, out, 1, 1);
    for (int m = 0; m < 2; m++)
        ref_linear_forward(ref(&t, X, m), ref(&t, WEIGHT, m), ref(&t, BIAS, m), ref(&t, Y, m));
    run(&t);
}

static void test_linear_backward(uint64_t *random, int n, int c, int h, int w, int out) {
    trial t = new_trial("linear backward", random, call_linear_backward);
    const int subset = check_range(random, 0, 2) ? 7 : check_range(random, 0, 7);
    add_input(&t, X, n, c, h, w);
    add_input(&t, WEIGHT, out, c * h * w, 1, 1);
    add_input(&t, DY, n, out, 1, 1);
    if (subset & 1)
        add_output(&t, DX, n, c, h, w);
    if (subset & 2)
        add_accumulator(&t, DW, out, c * h * w, 1, 1);
    if (subset & 4)
        add_accumulator(&t, DB, 1, out, 1, 1);
    for (int m = 0; m < 2; m++)
        ref_linear_backward(ref(&t, X, m), ref(&t, WEIGHT, m), ref(&t, DY, m), ref(&t, DX, m), ref(&t, DW, m),
                            ref(&t, DB, m));
    run(&t);
}

static void test_linear(uint64_t *random) {
    static const int shapes[][5] = {/* n, c, h, w, out */
                                    {1, 1, 1, 1, 1},   {33, 16, 5, 5, 120}, {40, 84, 1, 1, 10},
                                    {1, 700, 1, 1, 5}, {2, 3, 1, 1, 500},   {130, 20, 1, 1, 17}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int *s = shapes[i];
        test_linear_forward(random, s[0], s[1], s[2], s[3], s[4]);
        test_linear_backward(random, s[0], s[1], s[2], s[3], s[4]);
    }
    for (int i = 0; i < 100; i++) {
        const int n = small_number(random, 40);
        const int c = small_number(random, 130);
        const int h = check_range(random, 0, 2) ? 1 : small_number(random, 5);
        const int w = check_range(random, 0, 2) ? 1 : small_number(random, 5);
        const int out = small_number(random, 70);
        test_linear_forward(random, n, c, h, w, out);
        test_linear_backward(random, n, c, h, w, out);
    }
}

/* ---- activations --------------------------------------------------------------------------------- */

static cnn_tensor *input(trial *t) { /* of a forward pass that may be in place */
    return tensor(t, t->in_place ? Y : X);
}

static cnn_tensor *gradient(trial *t) { /* of a backward pass that may be in place */
    return tensor(t, t->in_place ? DX : DY);
}

static cnn_status call_sigmoid_forward(trial *t) {
    return cnn_sigmoid_forward(input(t), tensor(t, Y));
}

static cnn_status call_sigmoid_backward(trial *t) {
    return cnn_sigmoid_backward(tensor(t, X), gradient(t), tensor(t, DX));
}

static cnn_status call_tanh_forward(trial *t) {
    return cnn_tanh_forward(input(t), tensor(t, Y));
}

static cnn_status call_tanh_backward(trial *t) {
    return cnn_tanh_backward(tensor(t, X), gradient(t), tensor(t, DX));
}

static cnn_status call_relu_forward(trial *t) {
    return cnn_relu_forward(input(t), tensor(t, Y));
}

static cnn_status call_relu_backward(trial *t) {
    return cnn_relu_backward(tensor(t, X), gradient(t), tensor(t, DX));
}

static cnn_status call_softmax_forward(trial *t) {
    return cnn_softmax_forward(input(t), tensor(t, Y));
}

static cnn_status call_softmax_backward(trial *t) {
    return cnn_softmax_backward(tensor(t, X), gradient(t), tensor(t, DX));
}

/* An activation. The result that its backward pass takes is in slot X of that trial, since it is an input. */
typedef struct activation {
    const char *forward_name, *backward_name;
    cnn_status (*call_forward)(trial *);
    cnn_status (*call_backward)(trial *);
    void (*forward)(const ref_tensor *, ref_tensor *);
    void (*backward)(const ref_tensor *, const ref_tensor *, ref_tensor *);
} activation;

static const activation activations[] = {
    {"sigmoid forward", "sigmoid backward", call_sigmoid_forward, call_sigmoid_backward, ref_sigmoid_forward,
     ref_sigmoid_backward},
    {"tanh forward", "tanh backward", call_tanh_forward, call_tanh_backward, ref_tanh_forward,
     ref_tanh_backward},
    {"relu forward", "relu backward", call_relu_forward, call_relu_backward, ref_relu_forward,
     ref_relu_backward},
    {"softmax forward", "softmax backward", call_softmax_forward, call_softmax_backward, ref_softmax_forward,
     ref_softmax_backward},
};

enum { SIGMOID, TANH, RELU, SOFTMAX, ACTIVATIONS };

static const float special_values[] = {
    0.0f,  -0.0f,  (float)NAN, (float)INFINITY, -(float)INFINITY, 1e-40f, -1e-40f, 100.0f, -100.0f,
    88.7f, -88.8f, FLT_MAX,    -FLT_MAX,        FLT_MIN,          1e-7f,  -1e-7f,  17.3f,  -17.3f,
    9.1f,  -9.1f};
enum { SPECIAL_VALUES = sizeof special_values / sizeof special_values[0] };

/* Compared relative to the value itself: near 0 a sigmoid and a tanh are as exact as elsewhere. Softmax has
   errors of the size of 1, the row's sum. */
static void run_activation_forward(trial *t, const activation *a, int k) {
    add_output(t, Y, t->slots[X].value.n, t->slots[X].value.c, t->slots[X].value.h, t->slots[X].value.w);
    t->in_place = check_range(t->random, 0, 1);
    if (t->in_place)
        start_from(t, Y, X);
    a->forward(&t->slots[X].value, &t->slots[Y].value);
    set_magnitude(t, Y, k == SOFTMAX ? 1 : 0);
    t->tolerance = k == RELU ? 0 : k == SOFTMAX ? 1e-6 : 5e-7;
    run(t);
}

static void test_activation_forward(uint64_t *random, int k, const int *shape) {
    static const float scales[] = {1.0f, 10.0f, 100.0f, 1e-3f, 1e30f};
    trial t = new_trial(activations[k].forward_name, random, activations[k].call_forward);
    slot *x = add_input(&t, X, shape[0], shape[1], shape[2], shape[3]);
    const float scale = scales[check_range(random, 0, 4)];
    for (size_t i = 0; i < x->count; i++)
        set_element(x, i, scale * x->before[x->offset + i]);
    for (size_t i = 0; k != SOFTMAX && i < x->count; i += (size_t)check_range(random, 1, 9))
        set_element(x, i, special_values[check_range(random, 0, SPECIAL_VALUES - 1)]);
    run_activation_forward(&t, &activations[k], k);
}

/* Every exponent of both signs, and some mantissas of each. */
static void test_activation_sweep(uint64_t *random, int k) {
    trial t = new_trial(activations[k].forward_name, random, activations[k].call_forward);
    slot *x = add_input(&t, X, 1, 1, 1, 512 * 97);
    for (size_t i = 0; i < x->count; i++) {
        const uint32_t bits = (uint32_t)i * (uint32_t)(4294967296.0 / (512 * 97));
        float value;
        memcpy(&value, &bits, sizeof value);
        set_element(x, i, isnan(value) ? (float)NAN : value);
    }
    run_activation_forward(&t, &activations[k], k);
}

/* Units in the last place between a float and the true value, which is neither subnormal nor 0. */
static double ulps(float got, double want) {
    int exponent;
    frexp(want, &exponent);
    return fabs((double)got - want) / ldexp(1, exponent - 24);
}

/* The error that cnn.h states for sigmoid, tanh and the exponential in softmax: at most 4 units in the last
   place. Every 2,053rd float from -87 to 87. */
static void test_ulps(void) {
    enum { FLOATS = 1 << 20 };
    static float x[2 * FLOATS], y[2 * FLOATS];
    for (int isa = 0; isa < instruction_set_count; isa++) {
        if (!check_select_isa(instruction_sets[isa]))
            continue;
        double worst[3] = {0, 0, 0};
        int count = 0;
        for (uint32_t bits = 0; bits < 0x42ae0000u; bits += 2053, count += 2)
            for (int sign = 0; sign < 2; sign++) {
                memcpy(&x[count + sign], &bits, sizeof bits);
                x[count + sign] *= sign ? -1.0f : 1.0f;
            }
        cnn_tensor in = {1, 1, 1, count, x}, out = {1, 1, 1, count, y};
        cnn_sigmoid_forward(&in, &out);
        for (int i = 0; i < count; i++)
            worst[0] = fmax(worst[0], ulps(y[i], 1 / (1 + exp(-(double)x[i]))));
        cnn_tanh_forward(&in, &out);
        for (int i = 0; i < count; i++)
            if (fabsf(x[i]) > FLT_MIN)
                worst[1] = fmax(worst[1], ulps(y[i], tanh((double)x[i])));
        for (int i = 0; i < FLOATS; i++) /* two classes: 0 and something negative */
            x[FLOATS + i] = -fabsf(x[i % count]), x[i] = 0;
        cnn_tensor two = {1, 2, 1, FLOATS, x}, softmax = {1, 2, 1, FLOATS, y};
        cnn_softmax_forward(&two, &softmax);
        for (int i = 0; i < FLOATS; i++) {
            const double e = exp((double)x[FLOATS + i]);
            worst[2] = fmax(worst[2], ulps(y[FLOATS + i], e / (1 + e)));
        }
        for (int k = 0; k < 3; k++)
            CHECK(worst[k] <= 4, "%s of %s is off by %.2f units in the last place",
                  k == 0   ? "sigmoid"
                  : k == 1 ? "tanh"
                           : "softmax",
                  instruction_sets[isa], worst[k]);
        if (getenv("CNN_TEST_VERBOSE"))
            printf("%s: sigmoid %.2f, tanh %.2f, softmax %.2f units in the last place\n",
                   instruction_sets[isa], worst[0], worst[1], worst[2]);
    }
    check_select_isa(NULL);
}

static void test_activation_backward(uint64_t *random, int k, const int *shape) {
    trial t = new_trial(activations[k].backward_name, random, activations[k].call_backward);
    slot *y = add_input(&t, X, shape[0], shape[1], shape[2], shape[3]);
    add_input(&t, DY, shape[0], shape[1], shape[2], shape[3]);
    add_output(&t, DX, shape[0], shape[1], shape[2], shape[3]);
    for (size_t i = 0; i < y->count; i++)
        y->value.data[i] *= 20;
    activations[k].forward(&y->value, &y->value);
    for (size_t i = 0; i < y->count; i++)
        set_element(y, i, (float)y->value.data[i]);
    t.in_place = check_range(random, 0, 1);
    if (t.in_place)
        start_from(&t, DX, DY);
    activations[k].backward(&y->value, &t.slots[DY].value, &t.slots[DX].value);
    /* 1 - y and 1 - y*y cancel where y is near 1: the error is of the size of y there, not of the result. */
    set_magnitude(&t, DX, k == RELU ? 0 : 1);
    t.tolerance = k == RELU ? 0 : 1e-6;
    run(&t);
}

static void test_relu_backward_nan(uint64_t *random) {
    trial t = new_trial("relu backward of NaN", random, call_relu_backward);
    add_input(&t, X, 1, 1, 1, 40);
    add_input(&t, DY, 1, 1, 1, 40);
    add_output(&t, DX, 1, 1, 1, 40);
    for (size_t i = 0; i < 40; i += 3)
        set_element(&t.slots[i % 2 ? X : DY], i, (float)NAN);
    ref_relu_backward(&t.slots[X].value, &t.slots[DY].value, &t.slots[DX].value);
    t.tolerance = 0;
    run(&t);
}

static void test_activations(uint64_t *random) {
    test_ulps();
    for (int k = 0; k < ACTIVATIONS; k++) {
        if (k != SOFTMAX)
            test_activation_sweep(random, k);
        for (int i = 0; i < 40; i++) {
            const int shape[4] = {small_number(random, 40), small_number(random, 40), small_number(random, 9),
                                  small_number(random, 9)};
            test_activation_forward(random, k, shape);
            test_activation_backward(random, k, shape);
        }
    }
    test_relu_backward_nan(random);
}

/* Matrices, whose vectors run along the classes: every rest of a vector, and more samples than one task has. */
static void test_softmax_matrices(uint64_t *random) {
    for (int c = 1; c <= 65; c += c < 40 || c == 47 || c == 48 || c == 63 || c == 64 ? 1 : c == 40 ? 7 : 14) {
        const int shape[4] = {check_range(random, 1, 40), c, 1, 1};
        test_activation_forward(random, SOFTMAX, shape);
        test_activation_backward(random, SOFTMAX, shape);
    }
    static const int large[][4] = {{4000, 10, 1, 1}, {50, 1000, 1, 1}, {3, 16385, 1, 1}, {70, 100, 3, 2}};
    for (int i = 0; i < 4; i++) {
        test_activation_forward(random, SOFTMAX, large[i]);
        test_activation_backward(random, SOFTMAX, large[i]);
    }
}

/* What a logit that is not finite, at position `at` of row s of n, makes of the row, and of the others. */
static void check_softmax_special(float special, int n, int c, int s, int at, const char *isa) {
    static float values[40 * 65];
    cnn_tensor x = {n, c, 1, 1, values};
    for (int i = 0; i < n * c; i++)
        values[i] = -40.0f - (float)(i % 7);
    values[s * c + at] = special;
    CHECK(cnn_softmax_forward(&x, &x) == CNN_OK, "%s", cnn_last_error());
    for (int i = 0; i < n * c; i++) {
        const int nan = i / c == s && (special > 0 || isnan(special) || c == 1);
        const int none = i == s * c + at && !nan;
        CHECK(nan    ? isnan(values[i])
              : none ? values[i] >= 0 && values[i] < 1e-30f
                     : values[i] > 1e-5f,
              "element %d of %dx%d is %.9g where %d,%d was %g; %s", i, n, c, (double)values[i], s, at,
              (double)special, isa);
    }
}

static void test_softmax_special(uint64_t *random, const char *isa) {
    static const float specials[] = {(float)NAN, (float)INFINITY, -(float)INFINITY};
    for (int c = 1; c <= 65; c++)
        for (int k = 0; k < 3; k++) {
            const int n = check_range(random, 1, 40);
            check_softmax_special(specials[k], n, c, check_range(random, 0, n - 1),
                                  check_range(random, 0, c - 1), isa);
        }
}

/* Rows of a matrix, of differences that are exact: 4 units in the last place, and what a sum of 65 adds. */
static void test_softmax_matrix_ulps(uint64_t *random, const char *isa) {
    static float x[40 * 65], y[40 * 65];
    double worst = 0;
    for (int c = 1; c <= 65; c++) {
        cnn_tensor in = {40, c, 1, 1, x}, out = {40, c, 1, 1, y};
        for (int i = 0; i < 40 * c; i++)
            x[i] = (float)check_range(random, -40960, -20480) / 1024;
        CHECK(cnn_softmax_forward(&in, &out) == CNN_OK, "%s", cnn_last_error());
        for (int i = 0; i < 40 * c; i++) {
            double sum = 0;
            for (int k = 0; k < c; k++)
                sum += exp((double)x[i / c * c + k] - (double)x[i]);
            worst = fmax(worst, ulps(y[i], 1 / sum));
        }
    }
    CHECK(worst <= 16, "softmax of matrices is off by %.2f units in the last place; %s", worst, isa);
    if (getenv("CNN_TEST_VERBOSE"))
        printf("%s: softmax of matrices %.2f units in the last place\n", isa, worst);
}

/* Logits of any size, several of the greatest: a row is still finite and sums to 1. */
static void test_softmax_extremes(uint64_t *random) {
    static const float logits[] = {1e30f, -1e30f, 3e38f, -3e38f, 0.0f, 1.0f, 88.0f, -88.0f};
    for (int i = 0; i < 40; i++) {
        trial t = new_trial("softmax forward of extremes", random, call_softmax_forward);
        slot *x =
            add_input(&t, X, small_number(random, 20), small_number(random, 20), 1, small_number(random, 3));
        const int low = check_range(random, 0, 7);
        const int high = check_range(random, low, 7);
        for (size_t j = 0; j < x->count; j++)
            set_element(x, j, logits[check_range(random, low, high)]);
        run_activation_forward(&t, &activations[SOFTMAX], SOFTMAX);
    }
}

static void check_softmax_rows(uint64_t *random, const char *isa) {
    enum { N = 7, C = 1000, W = 3 };
    static float values[N * C * W];
    cnn_tensor x = {N, C, 1, W, values};
    for (int i = 0; i < N * C * W; i++)
        values[i] = (i % W ? 10.0f : 1e30f) * check_uniform(random);
    CHECK(cnn_softmax_forward(&x, &x) == CNN_OK, "%s", cnn_last_error());
    for (int i = 0; i < N * W; i++) {
        double sum = 0;
        for (int c = 0; c < C; c++)
            sum += (double)values[((i / W) * C + c) * W + i % W];
        CHECK(fabs(sum - 1) < 4e-6, "row %d sums to %.9g; %s", i, sum, isa);
    }
}

/* ---- dropout ------------------------------------------------------------------------------------- */

static cnn_status call_dropout_forward(trial *t) {
    return cnn_dropout_forward(input(t), t->p, t->training, t->dropout_seed, tensor(t, Y));
}

static cnn_status call_dropout_backward(trial *t) {
    return cnn_dropout_backward(gradient(t), t->p, t->training, t->dropout_seed, tensor(t, DX));
}

/* mask[i] = element i of a tensor of count elements is kept; mean: the mean of what ones become. */
static void read_mask(float p, uint64_t seed, int count, int *mask) {
    float *values = (float *)ref_memory((size_t)count, sizeof(float));
    cnn_tensor x = {1, 1, 1, count, values};
    for (int i = 0; i < count; i++)
        values[i] = 1;
    CHECK(cnn_dropout_forward(&x, p, 1, seed, &x) == CNN_OK, "%s", cnn_last_error());
    for (int i = 0; i < count; i++)
        mask[i] = values[i] != 0.0f;
    free(values);
}

/* A share of count draws of probability p, within 5 standard deviations. */
static void check_share(int hits, int count, double p, const char *what) {
    const double deviation = sqrt(p * (1 - p) / count);
    const double share = (double)hits / count;
    CHECK(fabs(share - p) <= 5 * deviation, "%s: %.5f, not %.5f +- %.5f", what, share, p, 5 * deviation);
}

static void check_mask(float p, uint64_t seed) {
    enum { COUNT = 100000 };
    static int mask[COUNT], other[COUNT];
    const double keep = 1 - (double)p;
    const double agree = keep * keep + (1 - keep) * (1 - keep);
    int kept = 0, equal = 0, neighbours = 0;
    read_mask(p, seed, COUNT, mask);
    read_mask(p, seed + 1, COUNT, other);
    for (int i = 0; i < COUNT; i++) {
        kept += mask[i];
        equal += mask[i] == other[i];
        neighbours += mask[i] == mask[(i + 1) % COUNT];
    }
    check_share(kept, COUNT, keep, "elements kept");
    check_share(equal, COUNT, agree, "masks of neighbouring seeds agree");
    check_share(neighbours, COUNT, agree, "neighbouring elements agree");
    read_mask(p, seed, COUNT / 3, other);
    CHECK(memcmp(mask, other, COUNT / 3 * sizeof mask[0]) == 0,
          "the mask depends on the size, not on seed and position");
}

static void test_dropout_pass(uint64_t *random, int backward, float p, int training) {
    trial t = new_trial(backward ? "dropout backward" : "dropout forward", random,
                        backward ? call_dropout_backward : call_dropout_forward);
    const int from = backward ? DY : X;
    const int to = backward ? DX : Y;
    const int n = small_number(random, 40);
    const int c = small_number(random, 40);
    const slot *x = add_input(&t, from, n, c, 3, small_number(random, 9));
    add_output(&t, to, n, c, 3, x->value.w);
    t.p = p;
    t.training = training;
    t.dropout_seed = check_bits(random);
    t.in_place = check_range(random, 0, 1);
    if (t.in_place)
        start_from(&t, to, from);
    int *mask = (int *)ref_memory(x->count, sizeof *mask);
    for (size_t i = 0; i < x->count; i++)
        mask[i] = 1;
    if (training)
        read_mask(p, t.dropout_seed, (int)x->count, mask);
    ref_dropout(&x->value, mask, training ? (double)p : 0, &t.slots[to].value);
    free(mask);
    set_magnitude(&t, to, 0);
    t.tolerance = training ? 1e-6 : 0;
    run(&t);
}

/* Since the mask is read off once and then expected on every instruction set and with every number of
   threads, it is the same on all, and in both passes. */
static void test_dropout(uint64_t *random) {
    static const float rates[] = {0.0f, 0.1f, 0.3f, 0.5f, 0.9f};
    for (int i = 0; i < 40; i++) {
        test_dropout_pass(random, 0, rates[i % 5], i % 8 != 0);
        test_dropout_pass(random, 1, rates[i % 5], i % 8 != 0);
    }
    for (int k = 0; k < 5; k++)
        check_mask(rates[k], check_bits(random));
}

/* ---- flatten and losses -------------------------------------------------------------------------- */

static cnn_status call_flatten_forward(trial *t) {
    cnn_tensor x = t->slots[X].tensor;
    if (t->in_place)
        x.data = t->slots[Y].tensor.data;
    return cnn_flatten_forward(&x, tensor(t, Y));
}

static cnn_status call_flatten_backward(trial *t) {
    cnn_tensor dy = t->slots[DY].tensor;
    if (t->in_place)
        dy.data = t->slots[DX].tensor.data;
    return cnn_flatten_backward(&dy, tensor(t, DX));
}

static void test_flatten(uint64_t *random) {
    for (int i = 0; i < 20; i++) {
        const int backward = i % 2;
        trial t = new_trial(backward ? "flatten backward" : "flatten forward", random,
                            backward ? call_flatten_backward : call_flatten_forward);
        const int n = small_number(random, 20);
        const int c = small_number(random, 20);
        const int h = small_number(random, 9);
        const int w = small_number(random, 9);
        const int from = backward ? DY : X;
        const int to = backward ? DX : Y;
        add_input(&t, from, n, backward ? c * h * w : c, backward ? 1 : h, backward ? 1 : w);
        add_output(&t, to, n, backward ? c : c * h * w, backward ? h : 1, backward ? w : 1);
        memcpy(t.slots[to].value.data, t.slots[from].value.data, t.slots[to].count * sizeof(double));
        t.in_place = check_range(random, 0, 1);
        if (t.in_place)
            start_from(&t, to, from);
        t.tolerance = 0;
        run(&t);
    }
}

static cnn_status call_cross_entropy_forward(trial *t) {
    return cnn_cross_entropy_forward(tensor(t, X), t->labels, &t->loss);
}

static cnn_status call_cross_entropy_backward(trial *t) {
    cnn_tensor *logits = tensor(t, t->in_place ? DX : X);
    return cnn_cross_entropy_backward(logits, t->labels, tensor(t, DX));
}

static void set_logits(trial *t, int n, int classes) {
    slot *x = add_input(t, X, n, classes, 1, 1);
    const int kind = check_range(t->random, 0, 3);
    static const float scales[] = {1.0f, 30.0f, 1e30f};
    for (size_t i = 0; i < x->count; i++)
        set_element(x, i, kind < 3 ? scales[kind] * x->before[x->offset + i] : i % 2 ? 1e30f : -1e30f);
    t->labels = (int *)ref_memory((size_t)n, sizeof(int));
    for (int i = 0; i < n; i++)
        t->labels[i] = check_range(t->random, 0, classes - 1);
    t->tolerance = 1e-6;
}

static void test_cross_entropy(uint64_t *random) {
    for (int i = 0; i < 40; i++) {
        trial t = new_trial("cross entropy forward", random, call_cross_entropy_forward);
        trial back = new_trial("cross entropy backward", random, call_cross_entropy_backward);
        const int n = small_number(random, 300);
        const int classes = small_number(random, 40);
        set_logits(&t, n, classes);
        t.want_loss = ref_cross_entropy_forward(&t.slots[X].value, t.labels);
        run(&t);
        set_logits(&back, n, classes);
        add_output(&back, DX, n, classes, 1, 1);
        back.in_place = check_range(random, 0, 1);
        if (back.in_place)
            start_from(&back, DX, X);
        ref_cross_entropy_backward(&back.slots[X].value, back.labels, &back.slots[DX].value);
        set_magnitude(&back, DX, 1.0 / n);
        run(&back);
    }
}

static cnn_status call_squared_error_forward(trial *t) {
    return cnn_squared_error_forward(tensor(t, X), tensor(t, WEIGHT), t->reduction, &t->loss);
}

static cnn_status call_squared_error_backward(trial *t) {
    return cnn_squared_error_backward(tensor(t, X), tensor(t, WEIGHT), t->reduction, tensor(t, DX));
}

/* The target is in slot WEIGHT. */
static void test_squared_error(uint64_t *random) {
    for (int i = 0; i < 40; i++) {
        trial t = new_trial(i % 2 ? "squared error backward" : "squared error forward", random,
                            i % 2 ? call_squared_error_backward : call_squared_error_forward);
        const int n = small_number(random, 40);
        const int c = small_number(random, 40);
        const int h = small_number(random, 9);
        const int w = small_number(random, 9);
        const int mean = check_range(random, 0, 1);
        t.reduction = mean ? CNN_MEAN : CNN_SUM;
        add_input(&t, X, n, c, h, w);
        add_input(&t, WEIGHT, n, c, h, w);
        if (i % 2) {
            add_output(&t, DX, n, c, h, w);
            ref_squared_error_backward(&t.slots[X].value, &t.slots[WEIGHT].value, mean, &t.slots[DX].value);
            set_magnitude(&t, DX, 0);
        } else {
            t.want_loss = ref_squared_error_forward(&t.slots[X].value, &t.slots[WEIGHT].value, mean);
        }
        t.tolerance = 1e-6;
        run(&t);
    }
}

int main(void) {
    uint64_t random = check_seed();
    find_instruction_sets();
    test_convolutions(&random);
    test_corr2d(&random);
    test_pooling(&random);
    test_linear(&random);
    test_activations(&random);
    test_softmax_extremes(&random);
    test_softmax_matrices(&random);
    for (int k = 0; k < instruction_set_count; k++) {
        check_select_isa(instruction_sets[k]);
        check_softmax_rows(&random, instruction_sets[k]);
        test_softmax_special(&random, instruction_sets[k]);
        test_softmax_matrix_ulps(&random, instruction_sets[k]);
    }
    check_select_isa(NULL);
    test_dropout(&random);
    test_flatten(&random);
    test_cross_entropy(&random);
    test_squared_error(&random);
    return check_done();
}
