/* The CUDA back end's speed on this machine's GPU, beside what the GPU can do: LeNet's training and inference,
   convolutions in float32, TF32 and float32 without Winograd, copies, and the time from one node of a graph to
   the next.

       make bench-cuda      or      build/bench_cuda [--json] [--quick] [--only WORD]

   Times are medians. Work is timed by the host's clock around calls that return when it is done. */
#define CNN_CUDA
#define CNN_IMPLEMENTATION
#include "cnn.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

struct settings_type {
    bool json, quick;
    std::string only;
};
static settings_type settings;
static int results; /* printed so far */

static void fail(const char *what, const char *why) {
    fprintf(stderr, "bench_cuda: %s: %s\n", what, why);
    exit(1);
}

#define GOOD(call)                                                                                           \
    do {                                                                                                     \
        if ((call) != CNN_OK)                                                                                \
            fail(#call, cnn_last_error());                                                                   \
    } while (0)
#define CUDA(call)                                                                                           \
    do {                                                                                                     \
        const cudaError_t error = (call);                                                                    \
        if (error != cudaSuccess)                                                                            \
            fail(#call, cudaGetErrorString(error));                                                          \
    } while (0)

static double now(void) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values.empty() ? 0 : values[values.size() / 2];
}

/* Seconds a call: the median of rounds of so many calls that a round lasts a while. */
static double timed(const std::function<void()> &body) {
    const double round = settings.quick ? 2e-3 : 2e-2;
    body();
    double begin = now();
    body();
    const int calls = std::max(1, (int)(round / std::max(now() - begin, 1e-7)));
    std::vector<double> rounds;
    for (int i = 0; i < (settings.quick ? 3 : 7); i++) {
        begin = now();
        for (int k = 0; k < calls; k++)
            body();
        rounds.push_back((now() - begin) / calls);
    }
    return median(rounds);
}

static bool wanted(const std::string &section, const std::string &name) {
    return settings.only.empty() || section == settings.only || name == settings.only;
}

/* One result: a row of a table, or an object of the JSON document. 0: not reported. */
static void report(const char *section, const std::string &name, const char *pass, double seconds,
                   double examples, double flop, double peak) {
    const double gflops = flop / seconds * 1e-9;
    if (settings.json) {
        printf("%s\n    {\"section\": \"%s\", \"name\": \"%s\", \"pass\": \"%s\", \"seconds\": %.6g",
               results ? "," : "", section, name.c_str(), pass, seconds);
        if (examples > 0)
            printf(", \"examples_per_second\": %.6g", examples / seconds);
        if (flop > 0)
            printf(", \"gflops\": %.6g, \"percent_of_peak\": %.4g", gflops, 100 * gflops / peak);
        printf("}");
    } else {
        printf("%-8s%-14s%-10s%12.2f us", section, name.c_str(), pass, seconds * 1e6);
        if (examples > 0)
            printf("%14.0f examples/s", examples / seconds);
        if (flop > 0)
            printf("%10.0f GFLOP/s %5.1f%%", gflops, 100 * gflops / peak);
        printf("\n");
    }
    results++;
}

/* ---- what the GPU can do ------------------------------------------------------------------------- */

enum { CHAINS = 8, LENGTH = 4096 };

static __global__ void multiply_add(float *to, float factor) {
    float sums[CHAINS];
    for (int i = 0; i < CHAINS; i++)
        sums[i] = (float)(threadIdx.x + (unsigned)i);
    for (int k = 0; k < LENGTH; k++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++)
            sums[i] = fmaf(sums[i], factor, 1.0f);
    float sum = 0;
    for (int i = 0; i < CHAINS; i++)
        sum += sums[i];
    if (sum == 12345) /* never: the work must not be left out */
        *to = sum;
}

/* GFLOP/s of float32 multiply-adds that need no memory. */
static double measure_peak(void) {
    cudaDeviceProp device;
    CUDA(cudaGetDeviceProperties(&device, 0));
    const unsigned blocks = 32 * (unsigned)device.multiProcessorCount;
    const double seconds = timed([&] {
        multiply_add<<<blocks, 256>>>(NULL, 0.999f);
        CUDA(cudaDeviceSynchronize());
    });
    return 2.0 * CHAINS * LENGTH * 256 * blocks / seconds * 1e-9;
}

/* GB/s, read and written. */
static double measure_copy(void) {
    const size_t bytes = settings.quick ? (size_t)64 << 20 : (size_t)1 << 30;
    char *from = NULL, *to = NULL;
    CUDA(cudaMalloc(&from, bytes));
    CUDA(cudaMalloc(&to, bytes));
    CUDA(cudaMemset(from, 1, bytes));
    const double seconds = timed([&] {
        CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, 0));
        CUDA(cudaDeviceSynchronize());
    });
    CUDA(cudaFree(from));
    CUDA(cudaFree(to));
    return 2e-9 * (double)bytes / seconds;
}

static __global__ void nothing(void) {
}

/* Seconds from one node of a graph to the next: kernels that do nothing, each after the one before. */
static double measure_node(void) {
    enum { NODES = 1000 };
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < NODES; i++)
        nothing<<<1, 32, 0, stream>>>();
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    const double seconds = timed([&] {
        CUDA(cudaGraphLaunch(exec, stream));
        CUDA(cudaStreamSynchronize(stream));
    });
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphDestroy(graph));
    CUDA(cudaStreamDestroy(stream));
    return seconds / NODES;
}

/* ---- LeNet --------------------------------------------------------------------------------------- */

enum { EXAMPLES = 60000, PIXELS = 28 * 28 };

struct epochs {
    std::vector<double> ends;
};

static int note_epoch(const cnn_progress *, void *user) {
    ((epochs *)user)->ends.push_back(now());
    return 0;
}

static cnn_net *make_lenet(void) {
    const cnn_layer layers[] = {cnn_conv2d(6, 5, 1, 2),  cnn_sigmoid(),   cnn_avgpool2d(2, 2, 0),
                                cnn_conv2d(16, 5, 1, 0), cnn_sigmoid(),   cnn_avgpool2d(2, 2, 0),
                                cnn_flatten(),           cnn_linear(120), cnn_sigmoid(),
                                cnn_linear(84),          cnn_sigmoid(),   cnn_linear(10)};
    cnn_net *net = NULL;
    GOOD(cnn_net_create(&net, layers, 12, 1, 28, 28));
    GOOD(cnn_net_init(net, CNN_XAVIER_UNIFORM, 1));
    return net;
}

/* Whole epochs by cnn_fit, the first left out: it captures the graphs. */
static void bench_training(cnn_net *net, const cnn_dataset &data, int batch, double flop, double peak) {
    epochs seen;
    cnn_fit_options how;
    memset(&how, 0, sizeof how);
    how.epochs = settings.quick ? 4 : 12;
    how.batch = batch;
    how.sgd.lr = 0.01f;
    how.reports = 1;
    how.on_epoch = note_epoch;
    how.user = &seen;
    GOOD(cnn_fit(net, &data, NULL, &how, NULL));
    std::vector<double> seconds;
    for (size_t i = 1; i < seen.ends.size(); i++)
        seconds.push_back(seen.ends[i] - seen.ends[i - 1]);
    const double steps = (data.count + batch - 1) / batch;
    report("lenet", "batch" + std::to_string(batch), "train", median(seconds) / steps, data.count / steps,
           flop * data.count / steps, peak);
}

static void bench_inference(const cnn_net *net, int batch, double flop, double peak) {
    cnn_workspace *ws = NULL;
    cnn_tensor x, y;
    GOOD(cnn_tensor_alloc(&x, batch, 1, 28, 28));
    GOOD(cnn_tensor_alloc(&y, batch, 10, 1, 1));
    GOOD(cnn_tensor_fill(&x, 0.5f));
    GOOD(cnn_workspace_create(&ws, net, CNN_INFERENCE, batch, 0));
    report("lenet", "batch" + std::to_string(batch), "infer",
           timed([&] { GOOD(cnn_forward(net, ws, &x, &y)); }), batch, flop * batch, peak);
    cnn_workspace_free(ws);
    cnn_tensor_free(&x);
    cnn_tensor_free(&y);
}

static void bench_lenet(double peak) {
    static const int batches[] = {256, 64, 1024};
    std::vector<unsigned char> bytes((size_t)EXAMPLES * PIXELS), labels(EXAMPLES);
    for (size_t i = 0; i < bytes.size(); i++)
        bytes[i] = (unsigned char)(cnn__random(2, i) >> 56);
    for (size_t i = 0; i < labels.size(); i++)
        labels[i] = (unsigned char)(cnn__random(3, i) % 10);
    const cnn_dataset data = {EXAMPLES, 1, 28, 28, 10, bytes.data(), NULL, labels.data(), NULL};
    cnn_net *net = make_lenet();
    double macs = 0;
    for (int i = 0; i < cnn_net_layer_count(net); i++)
        macs += (double)cnn_net_layer_info(net, i)->macs;
    /* No gradient of the image is asked for. */
    const double training = 2 * (3 * macs - (double)cnn_net_layer_info(net, 0)->macs);
    for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++)
        if (wanted("lenet", "batch" + std::to_string(batches[i])))
            bench_training(net, data, batches[i], training, peak);
    if (wanted("lenet", "batch1"))
        bench_inference(net, 1, 2 * macs, peak);
    if (wanted("lenet", "batch256"))
        bench_inference(net, 256, 2 * macs, peak);
    if (wanted("lenet", "evaluate")) {
        cnn_evaluation evaluation = {0, 0, NULL};
        report("lenet", "evaluate", "infer", timed([&] { GOOD(cnn_evaluate(net, &data, 0, &evaluation)); }),
               EXAMPLES, 2 * macs * EXAMPLES, peak);
    }
    cnn_net_free(net);
}

/* ---- convolutions -------------------------------------------------------------------------------- */

struct conv_shape {
    const char *name;
    int n, c, h, w, o, kernel, stride, padding, dilation, groups;
};

/* clang-format off */
static const conv_shape conv_shapes[] = {
    {"vgg1.2",    32,  64, 224, 224,  64, 3, 1, 1, 1, 1},
    {"vgg2.2",    32, 128, 112, 112, 128, 3, 1, 1, 1, 1},
    {"vgg3.2",    32, 256,  56,  56, 256, 3, 1, 1, 1, 1},
    {"vgg4.2",    32, 512,  28,  28, 512, 3, 1, 1, 1, 1},
    {"vgg5",      32, 512,  14,  14, 512, 3, 1, 1, 1, 1},
    {"res7x7s2",  32,   3, 224, 224,  64, 7, 2, 3, 1, 1},
    {"res1x1",    32, 256,  56,  56,  64, 1, 1, 0, 1, 1},
    {"res3x3s2",  32, 128,  56,  56, 128, 3, 2, 1, 1, 1},
    {"late1x1",   32, 2048,  7,   7, 512, 1, 1, 0, 1, 1},
    {"dilated",   32,  64,  56,  56,  64, 3, 1, 2, 2, 1},
    {"groups4",   32, 128,  56,  56, 128, 3, 1, 1, 1, 4},
    {"depthwise", 32, 128,  56,  56, 128, 3, 1, 1, 1, 128},
    {"lenet1",   256,   1,  28,  28,   6, 5, 1, 2, 1, 1},
    {"lenet2",   256,   6,  14,  14,  16, 5, 1, 0, 1, 1},
};
/* clang-format on */

static __global__ void fill_random(float *to, size_t count, uint64_t seed) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count;
         i += (size_t)gridDim.x * blockDim.x)
        to[i] = cnn__uniform(seed, i) - 0.5f;
}

static cnn_tensor tensor(int n, int c, int h, int w, uint64_t seed) {
    cnn_tensor t;
    size_t count = 0;
    GOOD(cnn_tensor_alloc(&t, n, c, h, w));
    GOOD(cnn_tensor_count(&t, &count));
    fill_random<<<1024, 256>>>(t.data, count, seed);
    CUDA(cudaDeviceSynchronize());
    return t;
}

/* Whether the shape is one of those that the geometric mean is taken of. */
static bool in_mean(const conv_shape &s) {
    return !strncmp(s.name, "vgg", 3) || !strncmp(s.name, "res", 3);
}

static void bench_conv(const conv_shape &s, double peak, std::vector<double> *shares) {
    cnn_conv2d_options o = {s.stride,   s.stride,   s.padding, s.padding,     s.padding, s.padding,
                            s.dilation, s.dilation, s.groups,  CNN_PAD_ZEROS, 0};
    cnn_tensor x = tensor(s.n, s.c, s.h, s.w, 1), dx = tensor(s.n, s.c, s.h, s.w, 1);
    cnn_tensor w = tensor(s.o, s.c / s.groups, s.kernel, s.kernel, 2),
               dw = tensor(s.o, s.c / s.groups, s.kernel, s.kernel, 3);
    cnn_tensor shape = {0, 0, 0, 0, NULL};
    GOOD(cnn_conv2d_shape(&x, &w, &o, &shape));
    cnn_tensor y = tensor(shape.n, shape.c, shape.h, shape.w, 4);
    const double flop = 2.0 * y.n * y.c * y.h * y.w * w.c * w.h * w.w;
    static const char *const ways[] = {"conv", "tf32", "direct"};
    for (int way = 0; way < 3; way++) {
        o.no_winograd = way == 2;
        if (cnn_device_tf32(way == 1) != CNN_OK || (way == 2 && (s.kernel != 3 || s.groups > 1)))
            continue;
        const double seconds[3] = {
            timed([&] { GOOD(cnn_conv2d_forward(&x, &w, NULL, &o, &y)); }),
            timed([&] { GOOD(cnn_conv2d_backward(&x, &w, &y, &o, &dx, NULL, NULL)); }),
            timed([&] { GOOD(cnn_conv2d_backward(&x, &w, &y, &o, NULL, &dw, NULL)); })};
        static const char *const passes[3] = {"forward", "dx", "dw"};
        for (int p = 0; p < 3; p++) {
            report(ways[way], s.name, passes[p], seconds[p], s.n, flop, peak);
            if (way == 0 && in_mean(s))
                shares->push_back(flop / seconds[p] * 1e-9 / peak);
        }
    }
    GOOD(cnn_device_tf32(0));
    cnn_tensor *const all[] = {&x, &dx, &w, &dw, &y};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        cnn_tensor_free(all[i]);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const std::string word = argv[i];
        if (word == "--json") {
            settings.json = true;
        } else if (word == "--quick") {
            settings.quick = true;
        } else if (word == "--only" && i + 1 < argc) {
            settings.only = argv[++i];
        } else {
            puts("usage: bench_cuda [--json] [--quick] [--only lenet|conv|NAME]");
            return word == "--help" ? 0 : 2;
        }
    }
    if (cnn_device_use(CNN_DEVICE_CUDA) != CNN_OK) {
        printf("skipped: %s\n", cnn_last_error());
        return 77;
    }
    const double peak = measure_peak(), copy = measure_copy(), node = measure_node();
    if (settings.json)
        printf("{\"device\": \"%s\", \"fma_peak_gflops\": %.6g, \"copy_gbytes_per_second\": %.6g, "
               "\"graph_node_microseconds\": %.4g,\n  \"results\": [",
               cnn_device_name(), peak, copy, node * 1e6);
    else
        printf("%s: float32 multiply-adds %.0f GFLOP/s, copies %.0f GB/s read and written, %.2f us from a "
               "graph's node "
               "to the next\n",
               cnn_device_name(), peak, copy, node * 1e6);
    bench_lenet(peak);
    std::vector<double> shares;
    for (size_t i = 0; i < sizeof conv_shapes / sizeof conv_shapes[0]; i++)
        if (wanted("conv", conv_shapes[i].name))
            bench_conv(conv_shapes[i], peak, &shares);
    double logs = 0;
    for (size_t i = 0; i < shares.size(); i++)
        logs += log(shares[i]);
    const double mean = shares.empty() ? 0 : 100 * exp(logs / (double)shares.size());
    if (settings.json)
        printf("\n  ],\n  \"conv_percent_of_peak_geometric_mean\": %.4g\n}\n", mean);
    else if (mean > 0)
        printf("VGG and ResNet convolutions in float32, geometric mean of all passes: %.1f%% of the peak\n",
               mean);
    return 0;
}
