// oneDNN's forward convolutions (float32, no bias, inference), for tests/bench/peers.py.
//
// The first line of output is "oneDNN VERSION". Each line of the input is a shape: name n c h w o kernel
// stride padding dilation groups. It gives three lines of output: name, mode, seconds a call ("-" where
// oneDNN has no such implementation), implementation. The modes:
//   nchw      input and output in plain NCHW, as callers hold them; weights prepared beforehand
//   own       input and output in the layout that oneDNN likes best
//   winograd  the same, by Winograd's algorithm
// A figure is the mean of one batch of calls after a warm-up; the caller repeats and takes the median.
// The threads are OMP_NUM_THREADS.
//
//     g++ -O2 tests/bench/onednn_conv.cpp -o build/onednn_conv -ldnnl
#include <chrono>
#include <cstddef>
#include <dnnl.hpp>
#include <iostream>
#include <string>

struct shape {
    std::string name;
    int n, c, h, w, o, kernel, stride, padding, dilation, groups;
};

struct mode {
    const char *name;
    dnnl::memory::format_tag layout;
    dnnl::algorithm algorithm;
};

static const mode modes[] = {
    {"nchw", dnnl::memory::format_tag::nchw, dnnl::algorithm::convolution_direct},
    {"own", dnnl::memory::format_tag::any, dnnl::algorithm::convolution_direct},
    {"winograd", dnnl::memory::format_tag::any, dnnl::algorithm::convolution_winograd},
};

static const double batch_seconds = 0.05;

static dnnl::convolution_forward::primitive_desc describe(const dnnl::engine &engine, const shape &s,
                                                          const mode &m) {
    using dnnl::memory;
    const int extent = s.dilation * (s.kernel - 1) + 1;
    const int oh = (s.h + 2 * s.padding - extent) / s.stride + 1;
    const int ow = (s.w + 2 * s.padding - extent) / s.stride + 1;
    memory::dims weight_size = {s.o, s.c / s.groups, s.kernel, s.kernel};
    if (s.groups > 1)
        weight_size = {s.groups, s.o / s.groups, s.c / s.groups, s.kernel, s.kernel};
    const auto type = memory::data_type::f32;
    const memory::desc x({s.n, s.c, s.h, s.w}, type, m.layout);
    const memory::desc w(weight_size, type, memory::format_tag::any);
    const memory::desc y({s.n, s.o, oh, ow}, type, m.layout);
    const memory::dims stride = {s.stride, s.stride};
    const memory::dims dilation = {s.dilation - 1, s.dilation - 1}; // oneDNN counts the gaps
    const memory::dims padding = {s.padding, s.padding};
    const auto kind = dnnl::prop_kind::forward_inference;
#if DNNL_VERSION_MAJOR >= 3
    return dnnl::convolution_forward::primitive_desc(engine, kind, m.algorithm, x, w, y, stride, dilation,
                                                     padding, padding);
#else
    return dnnl::convolution_forward::primitive_desc(
        dnnl::convolution_forward::desc(kind, m.algorithm, x, w, y, stride, dilation, padding, padding),
        engine);
#endif
}

static void fill(const dnnl::memory &memory, int period) {
    float *values = static_cast<float *>(memory.get_data_handle());
    const std::size_t count = memory.get_desc().get_size() / sizeof(float);
    for (std::size_t i = 0; i < count; i++)
        values[i] = static_cast<float>(i % static_cast<std::size_t>(period)) * 0.01f;
}

static double measure(const dnnl::engine &engine,
                      const dnnl::convolution_forward::primitive_desc &description) {
    dnnl::stream stream(engine);
    const dnnl::memory x(description.src_desc(), engine);
    const dnnl::memory w(description.weights_desc(), engine);
    const dnnl::memory y(description.dst_desc(), engine);
    fill(x, 13);
    fill(w, 7);
    const dnnl::convolution_forward convolution(description);
    const auto timed = [&](int calls) {
        const auto begin = std::chrono::steady_clock::now();
        for (int i = 0; i < calls; i++)
            convolution.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}});
        stream.wait();
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    timed(1);
    int calls = 1;
    double seconds = timed(calls);
    while (seconds < batch_seconds / 4) {
        calls *= 2;
        seconds = timed(calls);
    }
    calls = static_cast<int>(batch_seconds / seconds * calls);
    if (calls < 1)
        calls = 1;
    return timed(calls) / calls;
}

int main() {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    const dnnl_version_t *version = dnnl_version();
    std::cout << "oneDNN " << version->major << '.' << version->minor << '.' << version->patch << std::endl;
    shape s;
    while (std::cin >> s.name >> s.n >> s.c >> s.h >> s.w >> s.o >> s.kernel >> s.stride >> s.padding >>
           s.dilation >> s.groups) {
        for (const mode &m : modes) {
            std::cout << s.name << ' ' << m.name << ' ';
            try {
                const auto description = describe(engine, s, m);
                const double seconds = measure(engine, description);
                std::cout << seconds << ' ' << description.impl_info_str() << std::endl;
            } catch (const dnnl::error &error) {
                if (error.status != dnnl_unimplemented)
                    throw;
                std::cout << "- -" << std::endl;
            }
        }
    }
    return 0;
}
