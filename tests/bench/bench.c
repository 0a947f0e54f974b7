/* Speed of cnn.h on this machine: LeNet's training and inference, convolutions, pooling, activations.

   Every figure is the median of several repetitions, each a batch of calls long enough to time. Between the
   repetitions the machine itself is measured, by its fused multiply-adds or by memcpy, for the same number of
   threads: machines vary with load and temperature from second to second, so the percentages mean more than
   the absolute figures. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define CNN_IMPLEMENTATION
#include "cnn.h"
#include "examples/zoo.h"

enum { MAX_THREADS = 1024, MAX_REPETITIONS = 99, MAX_WORDS = 8, MAX_PEAKS = 4096 };
static const double memory_bytes = 512e6; /* copied to see what memory gives, whatever the caches */

static struct {
    int json, quick, threads, repetitions;
    double batch_seconds;     /* of one repetition */
    double reference_seconds; /* of one measurement of the machine between them */
    const char *only[MAX_WORDS];
    int words;
} settings = {.repetitions = 5, .batch_seconds = 0.05, .reference_seconds = 5e-3};

static void fail(int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("bench: ", stderr);
    vfprintf(stderr, format, args);
    fputs("\n", stderr);
    va_end(args);
    exit(code);
}

static void check(cnn_status status) {
    if (status)
        fail(1, "%s", cnn_last_error());
}

/* Text for people: nothing under --json. */
static void say(const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (!settings.json) {
        vprintf(format, args);
        fflush(stdout);
    }
    va_end(args);
}

static int ascending(const void *a, const void *b) {
    const double u = *(const double *)a;
    const double v = *(const double *)b;
    return (u > v) - (u < v);
}

/* Sorts the values. */
static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

/* ---- The machine: fused multiply-adds ---------------------------------------------------------------- */

/* `steps` rounds of ACC independent accumulators a = a*x + y: two multiply-adds a cycle of a latency of four
   or five cycles are kept busy by 12 of them; CPUs with 32 registers have room for 16, and some need them.
   The values tend to 1, far from subnormals. */
#define SPIN(NAME, ATTRIBUTE, VEC, ACC, SET1, FMA)                                                           \
    ATTRIBUTE static void NAME(long steps, float *result) {                                                  \
        const VEC x = SET1(0.999f), y = SET1(0.001f);                                                        \
        VEC a[ACC];                                                                                          \
        CNN__UNROLL                                                                                          \
        for (int i = 0; i < ACC; i++)                                                                        \
            a[i] = SET1((float)i);                                                                           \
        for (long k = 0; k < steps; k++) {                                                                   \
            CNN__UNROLL                                                                                      \
            for (int i = 0; i < ACC; i++)                                                                    \
                a[i] = FMA(a[i], x, y);                                                                      \
        }                                                                                                    \
        CNN__UNROLL                                                                                          \
        for (int i = 1; i < ACC; i++)                                                                        \
            a[0] = FMA(a[i], x, a[0]);                                                                       \
        memcpy(result, &a[0], sizeof a[0]);                                                                  \
    }

#if CNN__X86
SPIN(spin_avx512, __attribute__((target("avx512f"))), __m512, 16, _mm512_set1_ps, _mm512_fmadd_ps)
SPIN(spin_avx2, __attribute__((target("avx2,fma"))), __m256, 12, _mm256_set1_ps, _mm256_fmadd_ps)
#endif

/* What any CPU of the architecture can do. Without fused multiply-adds a product and a sum count as two. */
#if CNN__NEON
#define BASE_FMA(a, x, y) vfmaq_f32(y, a, x)
SPIN(spin_base, , float32x4_t, 16, vdupq_n_f32, BASE_FMA)
enum { BASE_LANES = 4, BASE_ACC = 16 };
#elif CNN__GNU
typedef float base_vector __attribute__((vector_size(16)));
#define BASE_SET1(f)      ((base_vector){f, f, f, f})
#define BASE_FMA(a, x, y) ((a) * (x) + (y))
SPIN(spin_base, , base_vector, 12, BASE_SET1, BASE_FMA)
enum { BASE_LANES = 4, BASE_ACC = 12 };
#else
#define BASE_SET1(f)      (f)
#define BASE_FMA(a, x, y) ((a) * (x) + (y))
SPIN(spin_base, , float, 12, BASE_SET1, BASE_FMA)
enum { BASE_LANES = 1, BASE_ACC = 12 };
#endif

static struct {
    void (*run)(long steps, float *result);
    double flop; /* a step */
    long steps;  /* a measurement */
    double samples[2][MAX_PEAKS];
    int count[2];
} peak; /* index 0: one thread; 1: all of them */

static volatile float sink[MAX_THREADS]; /* so that no work can be left out */

static void spin_task(void *context, int task, int thread) {
    float result[16];
    (void)context;
    (void)thread;
    peak.run(peak.steps, result);
    sink[task] = result[0];
}

/* GFLOP/s */
static double peak_sample(int threads) {
    const double begin = cnn__seconds();
    cnn__parallel(threads, threads, spin_task, NULL);
    const double gflops = threads * peak.flop * (double)peak.steps / (cnn__seconds() - begin) * 1e-9;
    const int i = threads > 1;
    if (peak.count[i] < MAX_PEAKS)
        peak.samples[i][peak.count[i]++] = gflops;
    return gflops;
}

static void peak_create(void) {
    const char *isa = cnn_instruction_set();
    peak.run = spin_base;
    peak.flop = 2.0 * BASE_LANES * BASE_ACC;
#if CNN__X86
    if (strcmp(isa, "avx512") == 0) {
        peak.run = spin_avx512;
        peak.flop = 2.0 * 16 * 16;
    } else if (strcmp(isa, "avx2") == 0) {
        peak.run = spin_avx2;
        peak.flop = 2.0 * 8 * 12;
    }
#endif
    (void)isa;
    double seconds = 0;
    for (peak.steps = 1000; seconds < settings.reference_seconds; peak.steps *= 2) {
        const double begin = cnn__seconds();
        spin_task(NULL, 0, 0);
        seconds = cnn__seconds() - begin;
    }
    peak.steps /= 2;
}

/* ---- The machine: memcpy ----------------------------------------------------------------------------- */

static struct {
    char *from, *to;
    size_t bytes; /* copied: half of what is moved, since a byte is read and written */
    int threads, times;
} copy;

static void copy_task(void *context, int task, int thread) {
    (void)context;
    (void)thread;
    const size_t begin = copy.bytes / (size_t)copy.threads * (size_t)task;
    const size_t end = task + 1 < copy.threads ? begin + copy.bytes / (size_t)copy.threads : copy.bytes;
    for (int i = 0; i < copy.times; i++) {
        memcpy(copy.to + begin, copy.from + begin, end - begin);
        sink[task] = (float)copy.to[begin];
        copy.from[begin]++; /* or every copy after the first could be left out */
    }
}

static double copy_seconds(void) {
    const double begin = cnn__seconds();
    cnn__parallel(copy.threads, copy.threads, copy_task, NULL);
    return cnn__seconds() - begin;
}

/* GB/s, read and written, at the size of the last copy_create. */
static double copy_sample(int threads) {
    copy.threads = threads;
    copy.times = 1;
    double seconds = copy_seconds();
    while (seconds < settings.reference_seconds / 2) {
        copy.times *= 2;
        seconds = copy_seconds();
    }
    return 2.0 * (double)copy.bytes * copy.times / seconds * 1e-9;
}

/* For operators that read and write `moved` bytes in all. */
static void copy_create(double moved) {
    copy.bytes = (size_t)(moved / 2);
    copy.from = (char *)calloc(copy.bytes, 1);
    copy.to = (char *)calloc(copy.bytes, 1);
    if (!copy.from || !copy.to)
        fail(1, "out of memory");
    memset(copy.from, 1, copy.bytes);
    memset(copy.to, 1, copy.bytes);
}

static void copy_free(void) {
    free(copy.from);
    free(copy.to);
}

/* ---- Measuring --------------------------------------------------------------------------------------- */

/* One shape of the convolution table. */
typedef struct conv_shape {
    const char *name;
    int n, c, h, w, o, kernel, stride, padding, dilation, groups;
} conv_shape;

typedef struct result {
    const char *section, *name, *pass;
    int threads;
    double seconds;               /* of one call */
    double examples, flop, bytes; /* of one call; 0: not reported */
    double peak, copying;         /* GFLOP/s and GB/s of the machine in the meantime */
    double memory;                /* GB/s of copies that no cache holds */
    const conv_shape *shape;      /* convolutions */
} result;

static int result_count;

/* A member of the result, unless it is not reported. */
static void print_number(const char *name, double value) {
    if (value > 0)
        printf(", \"%s\": %.6g", name, value);
}

static void print_result(const result *r) {
    printf("%s\n    {\"section\": \"%s\", \"name\": \"%s\", \"pass\": \"%s\", \"threads\": %d",
           result_count ? "," : "", r->section, r->name, r->pass, r->threads);
    if (r->shape) {
        const conv_shape *s = r->shape;
        printf(", \"shape\": {\"n\": %d, \"c\": %d, \"h\": %d, \"w\": %d, \"o\": %d, \"kernel\": %d, "
               "\"stride\": %d, \"padding\": %d, \"dilation\": %d, \"groups\": %d}",
               s->n, s->c, s->h, s->w, s->o, s->kernel, s->stride, s->padding, s->dilation, s->groups);
    }
    print_number("seconds", r->seconds);
    print_number("examples_per_second", r->examples / r->seconds);
    print_number("gflops", r->flop / r->seconds * 1e-9);
    print_number("peak_gflops", r->peak);
    print_number("percent_of_peak", r->peak > 0 ? r->flop / r->seconds * 1e-7 / r->peak : 0);
    print_number("gbytes_per_second", r->bytes / r->seconds * 1e-9);
    print_number("memcpy_gbytes_per_second", r->copying);
    print_number("percent_of_memcpy", r->copying > 0 ? r->bytes / r->seconds * 1e-7 / r->copying : 0);
    print_number("memory_copy_gbytes_per_second", r->memory);
    print_number("percent_of_memory_copy", r->memory > 0 ? r->bytes / r->seconds * 1e-7 / r->memory : 0);
    printf("}");
}

/* Each word of --only is a section, a name or a pass; a result is wanted that has them all. */
static int wanted(const char *section, const char *name, const char *pass) {
    for (int i = 0; i < settings.words; i++) {
        const char *word = settings.only[i];
        if (strcmp(word, section) != 0 && strcmp(word, name) != 0 && strcmp(word, pass) != 0)
            return 0;
    }
    return 1;
}

static double timed(void (*body)(void *), void *context, int calls) {
    const double begin = cnn__seconds();
    for (int i = 0; i < calls; i++)
        body(context);
    return cnn__seconds() - begin;
}

/* Measures body(context) on r->threads threads, unless it is not wanted (seconds stay 0): r->seconds, and
   r->peak where flop is given, or else r->copying. */
static void measure(result *r, void (*body)(void *), void *context) {
    if (!wanted(r->section, r->name, r->pass))
        return;
#if CNN__OPENMP
    omp_set_num_threads(r->threads);
#endif
    body(context); /* the first call finds caches cold and threads asleep */
    int calls = 1;
    double seconds = timed(body, context, calls);
    while (seconds < settings.batch_seconds / 4) {
        calls *= 2;
        seconds = timed(body, context, calls);
    }
    calls = (int)(settings.batch_seconds / seconds * calls);
    if (calls < 1)
        calls = 1;
    double times[MAX_REPETITIONS];
    double references[MAX_REPETITIONS];
    for (int i = 0; i < settings.repetitions; i++) {
        references[i] = r->flop > 0 ? peak_sample(r->threads) : copy_sample(r->threads);
        times[i] = timed(body, context, calls) / calls;
    }
    r->seconds = median(times, settings.repetitions);
    *(r->flop > 0 ? &r->peak : &r->copying) = median(references, settings.repetitions);
}

/* Counts a measured result and, under --json, prints it. */
static void report(const result *r) {
    if (r->seconds <= 0)
        return;
    if (settings.json)
        print_result(r);
    result_count++;
}

/* One thread, then all; returns how many of these there are. */
static int thread_counts(int counts[2]) {
    counts[0] = 1;
    counts[1] = settings.threads;
    return settings.threads > 1 ? 2 : 1;
}

/* "1 thread" and "N threads" over columns of the given width. */
static void say_threads(int indent, int width) {
    int threads[2];
    const int count = thread_counts(threads);
    say("%-*s", indent, "");
    for (int i = 0; i < count; i++) {
        char title[32];
        snprintf(title, sizeof title, "%d thread%s", threads[i], threads[i] > 1 ? "s" : "");
        say("%*s", width, title);
    }
    say("\n");
}

/* A rate and a percentage, ten columns wide. */
static void say_cell(double rate, double percent) {
    if (rate > 0)
        say(" %5.*f %3.0f", rate < 100 ? 1 : 0, rate, percent);
    else
        say("%10s", "-");
}

static double gflops(const result *r) {
    return r->seconds > 0 ? r->flop / r->seconds * 1e-9 : 0;
}

static double gbytes(const result *r) {
    return r->seconds > 0 ? r->bytes / r->seconds * 1e-9 : 0;
}

static double percent_of_peak(const result *r) {
    return r->peak > 0 ? 100 * gflops(r) / r->peak : 0;
}

/* Random values in -0.5..0.5, which repeat after a prime number of them: quick to fill in. */
static cnn_tensor tensor(int n, int c, int h, int w, uint64_t seed) {
    const size_t period = 4099;
    cnn_tensor t;
    size_t count = 0;
    check(cnn_tensor_alloc(&t, n, c, h, w));
    check(cnn_tensor_count(&t, &count));
    for (size_t i = 0; i < count; i++)
        t.data[i] = i < period ? cnn__uniform(seed, i) - 0.5f : t.data[i - period];
    return t;
}

static double elements(const cnn_tensor *t) {
    return (double)t->n * t->c * t->h * t->w;
}

/* ---- LeNet ------------------------------------------------------------------------------------------- */

enum { EXAMPLES = 8192, PIXELS = 28 * 28 };

typedef struct lenet_run {
    cnn_net *net;
    cnn_workspace *ws;
    cnn_dataset data;
    int index[EXAMPLES];
    int batch, at;
    cnn_tensor x, y; /* inference */
} lenet_run;

static void lenet_create(lenet_run *run, unsigned char *bytes) {
    const zoo_entry *lenet = zoo_find("lenet");
    check(cnn_net_create(&run->net, lenet->layers, lenet->count, lenet->c, lenet->h, lenet->w));
    check(cnn_net_init(run->net, CNN_XAVIER_UNIFORM, 1));
    unsigned char *labels = bytes + EXAMPLES * PIXELS;
    for (size_t i = 0; i < EXAMPLES * PIXELS; i++)
        bytes[i] = (unsigned char)(cnn__random(2, i) >> 56);
    for (size_t i = 0; i < EXAMPLES; i++)
        labels[i] = (unsigned char)(cnn__random(3, i) % 10);
    const cnn_dataset data = {EXAMPLES, 1, 28, 28, 10, bytes, NULL, labels, NULL};
    run->data = data;
    cnn_shuffle(run->index, EXAMPLES, 4, 0);
}

static void train_once(void *context) {
    lenet_run *run = (lenet_run *)context;
    const cnn_sgd_options sgd = {.lr = 0.01f};
    double loss = 0;
    if (run->at + run->batch > EXAMPLES)
        run->at = 0;
    check(cnn_train_step(run->net, run->ws, &run->data, run->index + run->at, run->batch, &loss, NULL));
    check(cnn_sgd_step(&sgd, cnn_net_parameters(run->net), cnn_workspace_gradients(run->ws), NULL,
                       cnn_net_parameter_count(run->net)));
    run->at += run->batch;
}

static void infer_once(void *context) {
    lenet_run *run = (lenet_run *)context;
    check(cnn_forward(run->net, run->ws, &run->x, &run->y));
}

/* An image through LeNet takes 6*28*28*25 + 16*10*10*150 + 400*120 + 120*84 + 84*10 = 416,520 multiply-adds:
   0.833 MFLOP. Training takes as many again for the gradients of the parameters and as many for those of the
   activations, without the first layer's, since nobody asks for the gradient of the image:
   3*416,520 - 117,600 multiply-adds, 2.264 MFLOP. */
static double lenet_flop(const cnn_net *net, int training) {
    double macs = 0;
    for (int i = 0; i < cnn_net_layer_count(net); i++)
        macs += (double)cnn_net_layer_info(net, i)->macs;
    return 2 * (training ? 3 * macs - (double)cnn_net_layer_info(net, 0)->macs : macs);
}

static void say_lenet(const result *r) {
    say("%12.1f%12.0f%9.1f%6.1f", r->seconds * 1e6, r->examples / r->seconds, gflops(r), percent_of_peak(r));
}

static const char *batch_name(int batch, char name[32]) {
    snprintf(name, 32, "batch%d", batch);
    return name;
}

static void lenet_measure(lenet_run *run, int batch, int threads, int training) {
    char name[32];
    result r = {.section = "lenet", .pass = training ? "train" : "infer", .threads = threads};
    r.name = batch_name(batch, name);
    r.examples = batch;
    r.flop = batch * lenet_flop(run->net, training);
    run->batch = batch;
    run->at = 0;
    check(cnn_workspace_create(&run->ws, run->net, training ? CNN_TRAINING_STEP : CNN_INFERENCE, batch,
                               threads));
    measure(&r, training ? train_once : infer_once, run);
    cnn_workspace_free(run->ws);
    report(&r);
    say_lenet(&r);
}

static void lenet_training(lenet_run *run) {
    static const int batches[] = {256, 250, 64, 17, 16, 7, 3, 2, 1};
    int threads[2];
    const int counts = thread_counts(threads);
    int rows = 0;
    char name[32];
    for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
        if (!wanted("lenet", batch_name(batches[b], name), "train"))
            continue;
        if (!rows++) {
            say("\nLeNet, training steps on random bytes: microseconds, examples/s, GFLOP/s, percent of "
                "the peak\n");
            say_threads(9, 39);
        }
        say("batch%4d", batches[b]);
        for (int t = 0; t < counts; t++)
            lenet_measure(run, batches[b], threads[t], 1);
        say("\n");
    }
}

static void lenet_inference(lenet_run *run) {
    static const int batches[] = {1, 256};
    int threads[2];
    const int counts = thread_counts(threads);
    int rows = 0;
    char name[32];
    for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
        if (!wanted("lenet", batch_name(batches[b], name), "infer"))
            continue;
        if (!rows++) {
            say("\nLeNet, inference: microseconds, images/s, GFLOP/s, percent of the peak\n");
            say_threads(9, 39);
        }
        run->x = tensor(batches[b], 1, 28, 28, 5);
        run->y = tensor(batches[b], 10, 1, 1, 6);
        say("batch%4d", batches[b]);
        for (int t = 0; t < (batches[b] > 1 ? counts : 1); t++)
            lenet_measure(run, batches[b], threads[t], 0);
        say("\n");
        cnn_tensor_free(&run->x);
        cnn_tensor_free(&run->y);
    }
}

static void bench_lenet(void) {
    lenet_run *run = (lenet_run *)calloc(1, sizeof *run);
    unsigned char *bytes = (unsigned char *)malloc((size_t)EXAMPLES * (PIXELS + 1));
    if (!run || !bytes)
        fail(1, "out of memory");
    lenet_create(run, bytes);
    lenet_training(run);
    lenet_inference(run);
    cnn_net_free(run->net);
    free(bytes);
    free(run);
}

/* ---- Convolutions ------------------------------------------------------------------------------------ */

/* clang-format off */
static const conv_shape conv_shapes[] = {
    /* name       n    c    h    w    o   k  s  p  d  g */
    {"lenet1",   256,   1,  28,  28,   6,  5, 1, 2, 1, 1},
    {"lenet2",   256,   6,  14,  14,  16,  5, 1, 0, 1, 1},
    {"alexnet1",   1,   3, 224, 224,  96, 11, 4, 1, 1, 1},
    {"alexnet2",   1,  96,  26,  26, 256,  5, 1, 2, 1, 1},
    {"vgg1.2",     1,  64, 224, 224,  64,  3, 1, 1, 1, 1},
    {"vgg3.2",     1, 256,  56,  56, 256,  3, 1, 1, 1, 1},
    {"vgg5",       1, 512,  14,  14, 512,  3, 1, 1, 1, 1},
    {"vgg3.2x16", 16, 256,  56,  56, 256,  3, 1, 1, 1, 1},
    {"cifar64",   64,  64,  32,  32,  64,  3, 1, 1, 1, 1},
    {"res1x1",     1, 256,  56,  56,  64,  1, 1, 0, 1, 1},
    {"res3x3s2",   1, 128,  56,  56, 128,  3, 2, 1, 1, 1},
    {"res7x7s2",   1,   3, 224, 224,  64,  7, 2, 3, 1, 1},
    {"late1x1",    1, 2048,  7,   7, 512,  1, 1, 0, 1, 1},
    {"dilated",    1,  64,  56,  56,  64,  3, 1, 2, 2, 1},
    {"groups4",    1, 128,  56,  56, 128,  3, 1, 1, 1, 4},
    {"depthwise",  1, 128,  56,  56, 128,  3, 1, 1, 1, 128},
};
/* clang-format on */

enum { PASSES = 3 };
static const char *const pass_names[PASSES] = {"forward", "dx", "dw"};

typedef struct conv_run {
    cnn_conv2d_options options;
    cnn_tensor x, w, y, dx, dw; /* y stands for dy too */
} conv_run;

static void conv_forward(void *context) {
    conv_run *run = (conv_run *)context;
    check(cnn_conv2d_forward(&run->x, &run->w, NULL, &run->options, &run->y));
}

static void conv_dx(void *context) {
    conv_run *run = (conv_run *)context;
    check(cnn_conv2d_backward(&run->x, &run->w, &run->y, &run->options, &run->dx, NULL, NULL));
}

static void conv_dw(void *context) {
    conv_run *run = (conv_run *)context;
    check(cnn_conv2d_backward(&run->x, &run->w, &run->y, &run->options, NULL, &run->dw, NULL));
}

static void conv_create(conv_run *run, const conv_shape *s) {
    const cnn_conv2d_options options = {s->stride,  s->stride,   s->padding,  s->padding, s->padding,
                                        s->padding, s->dilation, s->dilation, s->groups,  CNN_PAD_ZEROS,
                                        0};
    cnn_tensor y = {0};
    run->options = options;
    run->x = tensor(s->n, s->c, s->h, s->w, 1);
    run->dx = tensor(s->n, s->c, s->h, s->w, 1);
    run->w = tensor(s->o, s->c / s->groups, s->kernel, s->kernel, 2);
    run->dw = tensor(s->o, s->c / s->groups, s->kernel, s->kernel, 2);
    check(cnn_conv2d_shape(&run->x, &run->w, &options, &y));
    run->y = tensor(y.n, y.c, y.h, y.w, 3);
}

static void conv_free(conv_run *run) {
    cnn_tensor *const all[] = {&run->x, &run->w, &run->y, &run->dx, &run->dw};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        cnn_tensor_free(all[i]);
}

/* "1x128x56x56->128 k3 p1 g128" */
static void say_shape(const conv_shape *s) {
    char text[96];
    int at = snprintf(text, sizeof text, "%dx%dx%dx%d->%d k%d", s->n, s->c, s->h, s->w, s->o, s->kernel);
    const char letters[] = "spdg";
    const int values[] = {s->stride, s->padding, s->dilation, s->groups};
    const int usual[] = {1, 0, 1, 1};
    for (int i = 0; i < 4; i++)
        if (values[i] != usual[i])
            at += snprintf(text + at, sizeof text - (size_t)at, " %c%d", letters[i], values[i]);
    say("%-10s%-28s", s->name, text);
}

/* Multiply-adds with the padding count, as is usual: one formula for the three passes. */
static double conv_flop(const conv_run *run) {
    return 2 * elements(&run->y) * run->w.c * run->w.h * run->w.w;
}

/* GB/s of copies of so many bytes, read and written. */
static double copy_rate(double moved, int threads) {
    double samples[MAX_REPETITIONS];
    copy_create(moved);
    for (int i = 0; i < settings.repetitions; i++)
        samples[i] = copy_sample(threads);
    copy_free();
    return median(samples, settings.repetitions);
}

/* A depthwise convolution does little work on each element, so memory bounds it: GB/s beside memcpy's, of as many
   bytes, which caches may hold, and of more than they do. */
static void depthwise_bytes(const conv_run *run, result *r) {
    r->bytes = 4 * (elements(&run->x) + elements(&run->y) + elements(&run->w));
    if (r->seconds <= 0)
        return;
    r->copying = copy_rate(r->bytes, r->threads);
    if (!settings.quick)
        r->memory = copy_rate(memory_bytes, r->threads);
}

static void say_depthwise(result (*results)[PASSES], int counts) {
    for (int t = 0; t < counts; t++) {
        say("%-10s%d thread%s, GB/s:", "", results[t][0].threads, results[t][0].threads > 1 ? "s" : "");
        for (int p = 0; p < PASSES; p++)
            if (results[t][p].seconds > 0) {
                say("  %s %.1f (memcpy %.1f", pass_names[p], gbytes(&results[t][p]), results[t][p].copying);
                if (results[t][p].memory > 0)
                    say(", from memory %.1f", results[t][p].memory);
                say(")");
            }
        say("\n");
    }
}

static void conv_measure(const conv_shape *s) {
    static void (*const bodies[PASSES])(void *) = {conv_forward, conv_dx, conv_dw};
    const int depthwise = s->groups > 1 && s->groups == s->c;
    int threads[2];
    const int counts = thread_counts(threads);
    result results[2][PASSES];
    conv_run run;
    conv_create(&run, s);
    say_shape(s);
    for (int t = 0; t < counts; t++)
        for (int p = 0; p < PASSES; p++) {
            result *r = &results[t][p];
            memset(r, 0, sizeof *r);
            r->section = "conv";
            r->name = s->name;
            r->pass = pass_names[p];
            r->threads = threads[t];
            r->examples = s->n;
            r->flop = conv_flop(&run);
            r->shape = s;
            measure(r, bodies[p], &run);
            if (depthwise)
                depthwise_bytes(&run, r);
            report(r);
            say_cell(gflops(r), percent_of_peak(r));
        }
    say("\n");
    if (depthwise)
        say_depthwise(results, counts);
    conv_free(&run);
}

static int conv_wanted(const conv_shape *s) {
    const double macs = (double)s->n * s->o * s->h * s->w * s->c * s->kernel * s->kernel;
    if (settings.quick && macs > 1e9)
        return 0;
    for (int p = 0; p < PASSES; p++)
        if (wanted("conv", s->name, pass_names[p]))
            return 1;
    return 0;
}

static void say_conv_head(void) {
    int threads[2];
    const int counts = thread_counts(threads);
    say("\nConvolutions, NCHW: GFLOP/s and percent of the peak (kernel, stride, padding, dilation, "
        "groups)\n");
    say_threads(38, 30);
    say("%-38s", "");
    for (int t = 0; t < counts; t++)
        for (int p = 0; p < PASSES; p++)
            say("%10s", pass_names[p]);
    say("\n");
}

static void bench_conv(void) {
    int rows = 0;
    for (size_t i = 0; i < sizeof conv_shapes / sizeof *conv_shapes; i++) {
        if (!conv_wanted(&conv_shapes[i]))
            continue;
        if (!rows++)
            say_conv_head();
        conv_measure(&conv_shapes[i]);
    }
}

/* ---- Pooling and activations: bytes rather than arithmetic ------------------------------------------- */

typedef struct map_run {
    cnn_status (*forward)(const cnn_tensor *x, cnn_tensor *y);
    cnn_status (*backward)(const cnn_tensor *y, const cnn_tensor *dy, cnn_tensor *dx);
    cnn_tensor x, y, dx, dy;
    int *indices; /* max pooling */
} map_run;

static const cnn_pool2d_options window2x2 = {.kernel_h = 2, .kernel_w = 2};

static void max_forward(void *context) {
    map_run *run = (map_run *)context;
    check(cnn_maxpool2d_forward(&run->x, &window2x2, &run->y, run->indices));
}

static void max_backward(void *context) {
    map_run *run = (map_run *)context;
    check(cnn_maxpool2d_backward(&run->dy, run->indices, &run->dx));
}

static void average_forward(void *context) {
    map_run *run = (map_run *)context;
    check(cnn_avgpool2d_forward(&run->x, &window2x2, &run->y));
}

static void average_backward(void *context) {
    map_run *run = (map_run *)context;
    check(cnn_avgpool2d_backward(&run->dy, &window2x2, &run->dx));
}

static void map_forward(void *context) {
    map_run *run = (map_run *)context;
    check(run->forward(&run->x, &run->y));
}

static void map_backward(void *context) {
    map_run *run = (map_run *)context;
    check(run->backward(&run->y, &run->dy, &run->dx));
}

static void say_map_head(const char *section) {
    int threads[2];
    const int counts = thread_counts(threads);
    say("\n%s: GB/s read and written, and percent of what memcpy moves at that size\n",
        strcmp(section, "pool") == 0 ? "Pooling 2x2" : "Activations");
    say_threads(30, 20);
    say("%-30s", "");
    for (int t = 0; t < counts; t++)
        say("%10s%10s", "forward", "backward");
    say("\n");
}

static const char *const map_passes[] = {"forward", "backward"};

static int map_wanted(const char *section, const char *name) {
    return wanted(section, name, map_passes[0]) || wanted(section, name, map_passes[1]);
}

/* A row of the table: forward and backward, which move so many bytes, on one thread and on all. */
static void map_measure(const char *section, const char *name, map_run *run, void (*const bodies[2])(void *),
                        const double bytes[2]) {
    int threads[2];
    const int counts = thread_counts(threads);
    char shape[64];
    bodies[0](run); /* what the backward pass needs */
    snprintf(shape, sizeof shape, "%dx%dx%dx%d", run->x.n, run->x.c, run->x.h, run->x.w);
    say("%-16s%-14s", name, shape);
    for (int t = 0; t < counts; t++)
        for (int p = 0; p < 2; p++) {
            result r = {.section = section, .name = name, .pass = map_passes[p], .threads = threads[t]};
            r.examples = run->x.n;
            r.bytes = bytes[p];
            copy_create(bytes[p]);
            measure(&r, bodies[p], run);
            copy_free();
            report(&r);
            say_cell(gbytes(&r), r.copying > 0 ? 100 * gbytes(&r) / r.copying : 0);
        }
    say("\n");
}

static void map_create(map_run *run, int n, int c, int h, int w, int oh, int ow) {
    memset(run, 0, sizeof *run);
    run->x = tensor(n, c, h, w, 1);
    run->dx = tensor(n, c, h, w, 1);
    run->y = tensor(n, c, oh, ow, 2);
    run->dy = tensor(n, c, oh, ow, 3);
    run->indices = (int *)malloc((size_t)n * (size_t)c * (size_t)oh * (size_t)ow * sizeof(int));
    if (!run->indices)
        fail(1, "out of memory");
}

static void map_free(map_run *run) {
    cnn_tensor_free(&run->x);
    cnn_tensor_free(&run->y);
    cnn_tensor_free(&run->dx);
    cnn_tensor_free(&run->dy);
    free(run->indices);
}

/* Two sizes: in the second-level cache of most CPUs, and beyond the caches of many. */
static const struct {
    const char *name;
    int times; /* the batch */
} map_sizes[] = {{"small", 1}, {"large", 64}};

typedef struct map_kind {
    const char *name;
    void (*bodies[2])(void *);
    cnn_status (*forward)(const cnn_tensor *x, cnn_tensor *y);
    cnn_status (*backward)(const cnn_tensor *y, const cnn_tensor *dy, cnn_tensor *dx);
    int n, c, h, w, oh, ow; /* of the small size */
    int in[2], out[2];      /* how often the input and the output are read or written, forward, backward */
} map_kind;

/* An index is as long as a value, so max pooling has one output more. */
static const map_kind pools[] = {
    {"max", {max_forward, max_backward}, NULL, NULL, 1, 32, 56, 56, 28, 28, {1, 1}, {2, 2}},
    {"average", {average_forward, average_backward}, NULL, NULL, 1, 32, 56, 56, 28, 28, {1, 1}, {1, 1}},
};

#define ACTIVATION(NAME) {map_forward, map_backward}, cnn_##NAME##_forward, cnn_##NAME##_backward
static const map_kind activations[] = {
    {"relu", ACTIVATION(relu), 1, 32, 56, 56, 56, 56, {1, 1}, {1, 2}},
    {"sigmoid", ACTIVATION(sigmoid), 1, 32, 56, 56, 56, 56, {1, 1}, {1, 2}},
    {"tanh", ACTIVATION(tanh), 1, 32, 56, 56, 56, 56, {1, 1}, {1, 2}},
    {"softmax", ACTIVATION(softmax), 100, 1000, 1, 1, 1, 1, {1, 1}, {1, 2}},
    {"softmax10", ACTIVATION(softmax), 10000, 10, 1, 1, 1, 1, {1, 1}, {1, 2}},
};

static void map_table(const char *section, const map_kind *kinds, size_t count) {
    int rows = 0;
    for (size_t i = 0; i < 2 * count; i++) {
        const map_kind *kind = &kinds[i / 2];
        char name[32];
        snprintf(name, sizeof name, "%s-%s", kind->name, map_sizes[i % 2].name);
        if ((settings.quick && i % 2) || !map_wanted(section, name))
            continue;
        if (!rows++)
            say_map_head(section);
        map_run run;
        map_create(&run, kind->n * map_sizes[i % 2].times, kind->c, kind->h, kind->w, kind->oh, kind->ow);
        run.forward = kind->forward;
        run.backward = kind->backward;
        double bytes[2];
        for (int p = 0; p < 2; p++)
            bytes[p] = 4 * (kind->in[p] * elements(&run.x) + kind->out[p] * elements(&run.y));
        map_measure(section, name, &run, kind->bodies, bytes);
        map_free(&run);
    }
}

static void bench_pool(void) {
    map_table("pool", pools, sizeof pools / sizeof *pools);
}

static void bench_activation(void) {
    map_table("activation", activations, sizeof activations / sizeof *activations);
}

/* ---- The program ------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(void);
} sections[] = {
    {"lenet", bench_lenet}, {"conv", bench_conv}, {"pool", bench_pool}, {"activation", bench_activation}};

enum { SECTIONS = sizeof sections / sizeof *sections };

/* Sections are left out whole where a word names another one. */
static int section_wanted(const char *name) {
    for (int i = 0; i < settings.words; i++)
        for (int s = 0; s < SECTIONS; s++)
            if (strcmp(settings.only[i], sections[s].name) == 0 && strcmp(settings.only[i], name) != 0)
                return 0;
    return 1;
}

static void help(void) {
    puts("usage: bench [OPTIONS]\n"
         "\n"
         "Measures cnn.h on this machine: medians, beside the machine's peak in the same run.\n"
         "\n"
         "  --json            one JSON document instead of tables\n"
         "  --only WORD       only this section (lenet, conv, pool, activation), name (vgg3.2, batch256,\n"
         "                    relu-small, ...) or pass (train, infer, forward, backward, dx, dw);\n"
         "                    several times: results that have all the words\n"
         "  --isa NAME        this instruction set (avx512, avx2, sse2, neon, vector, scalar)\n"
         "  --threads N       one thread and N (default: all)\n"
         "  --repetitions N   medians of so many, 1 to 99 (default 5)\n"
         "  --quick           a few seconds in all: 2 repetitions of 2 ms, without the large shapes\n"
         "  --help            this text");
}

static int number(const char *option, const char *text, int most) {
    char *end = NULL;
    const long value = strtol(text, &end, 10);
    if (!*text || *end || value < 1 || value > most)
        fail(2, "%s: \"%s\" is not a number from 1 to %d", option, text, most);
    return (int)value;
}

static void set_option(const char *option, const char *value) {
    static const char *const known[] = {"--only", "--isa", "--threads", "--repetitions"};
    size_t which = 0;
    while (which < sizeof known / sizeof *known && strcmp(option, known[which]) != 0)
        which++;
    if (which == sizeof known / sizeof *known)
        fail(2, "%s is no option; see --help", option);
    if (!value)
        fail(2, "%s needs a value; see --help", option);
    if (which == 0) {
        if (settings.words == MAX_WORDS)
            fail(2, "--only may be given %d times", MAX_WORDS);
        settings.only[settings.words++] = value;
    } else if (which == 1) {
        if (!cnn__select_isa(value))
            fail(2, "--isa: this machine or this build has no \"%s\"; the best it has is \"%s\"", value,
                 cnn_instruction_set());
    } else if (which == 2) {
        settings.threads = number(option, value, CNN__OPENMP ? MAX_THREADS : 1);
    } else {
        settings.repetitions = number(option, value, MAX_REPETITIONS);
    }
}

static void parse(int argc, char **argv) {
    settings.threads = cnn_max_threads() < MAX_THREADS ? cnn_max_threads() : MAX_THREADS;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0) {
            help();
            exit(0);
        } else if (strcmp(argv[i], "--json") == 0) {
            settings.json = 1;
        } else if (strcmp(argv[i], "--quick") == 0) {
            settings.quick = 1;
            settings.repetitions = 2;
            settings.batch_seconds = 2e-3;
            settings.reference_seconds = 1e-3;
        } else {
            set_option(argv[i], argv[i + 1]); /* argv[argc] is NULL */
            i++;
        }
}

/* As Linux tells it; other systems: "unknown". */
static void cpu_model(char *model, size_t size) {
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    snprintf(model, size, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            snprintf(model, size, "%.*s", (int)strcspn(colon + 1, "\n") - 1, colon + 2);
            break;
        }
    }
    if (file)
        fclose(file);
}

static const char *compiler(void) {
#if defined(__clang__)
    return __VERSION__;
#elif defined(__GNUC__)
    return "GCC " __VERSION__;
#else
    return "unknown";
#endif
}

static void print_json_text(const char *name, const char *text) {
    printf("\"%s\": \"", name);
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text >= 32)
            putchar(*text);
    printf("\", ");
}

static void print_head(void) {
    char model[256];
    cpu_model(model, sizeof model);
    say("cnn.h %s, %s, %d thread%s, %s\n%s\n", cnn_version(), cnn_instruction_set(), settings.threads,
        settings.threads > 1 ? "s" : "", compiler(), model);
    if (!settings.json)
        return;
    printf("{");
    print_json_text("version", cnn_version());
    print_json_text("cpu", model);
    print_json_text("instruction_set", cnn_instruction_set());
    print_json_text("compiler", compiler());
    printf("\"openmp\": %s, \"threads\": %d, \"quick\": %s, \"repetitions\": %d,\n  \"results\": [",
           CNN__OPENMP ? "true" : "false", settings.threads, settings.quick ? "true" : "false",
           settings.repetitions);
}

static void print_peak(int i, int threads) {
    const int count = peak.count[i];
    double *samples = peak.samples[i];
    const double middle = median(samples, count);
    say("FMA peak, %d thread%s: %.1f GFLOP/s, median of %d (%.1f to %.1f)\n", threads, threads > 1 ? "s" : "",
        middle, count, samples[0], samples[count - 1]);
    if (settings.json)
        printf(
            "%s\n    {\"threads\": %d, \"samples\": %d, \"least\": %.6g, \"median\": %.6g, \"most\": %.6g}",
            i ? "," : "", threads, count, samples[0], middle, samples[count - 1]);
}

int main(int argc, char **argv) {
    int threads[2];
    parse(argc, argv);
    const int counts = thread_counts(threads);
    peak_create();
    print_head();
    for (int t = 0; t < counts; t++)
        peak_sample(threads[t]);
    for (int s = 0; s < SECTIONS; s++)
        if (section_wanted(sections[s].name))
            sections[s].run();
    if (settings.json)
        printf("\n  ],\n  \"fma_peak_gflops\": [");
    say("\n");
    for (int t = 0; t < counts; t++)
        print_peak(t, threads[t]);
    if (settings.json)
        printf("\n  ]\n}\n");
    if (!result_count)
        fail(2, "nothing matches --only; see --help");
    return 0;
}
