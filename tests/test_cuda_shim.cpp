/* The shim on its own, so that what the CUDA tests say can be trusted: kernels that are right give the right
   results under every seed, and each kind of mistake that the shim is there for is seen. */
#include "cuda_shim.h"

#include "check.h"

#include <sys/wait.h>

/* Where the library's allocator would count. */
long alloc_calls, alloc_live, alloc_fail_at, alloc_null_frees;
size_t alloc_largest;

enum { SEEDS = 20 };

#define OK(call) CHECK((call) == cudaSuccess, "%s", cudaGetErrorName(cudaGetLastError()))

/* ---- kernels that are right ---------------------------------------------------------------------- */

/* The threads of a block reverse its values in shared memory. */
static __global__ void reverse(const int *from, int *to) {
    CNN__SHARED(int, values);
    const unsigned at = blockIdx.x * blockDim.x;
    values[threadIdx.x] = from[at + threadIdx.x];
    __syncthreads();
    to[at + threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

/* The same without the barrier. */
static __global__ void reverse_too_soon(const int *from, int *to) {
    CNN__SHARED(int, values);
    const unsigned at = blockIdx.x * blockDim.x;
    values[threadIdx.x] = from[at + threadIdx.x];
    to[at + threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

/* A tree sum in which threads return as soon as they have no more to do, past barriers that others wait at. */
static __global__ void sum_and_leave(const float *from, float *to) {
    CNN__SHARED(float, values);
    const unsigned i = threadIdx.x;
    values[i] = from[i];
    for (unsigned half = blockDim.x / 2; half; half /= 2) {
        __syncthreads();
        if (i >= half)
            return;
        values[i] += values[i + half];
    }
    if (!i)
        to[blockIdx.x] = values[0];
}

/* Coordinates in three dimensions, of threads and of blocks. */
static __global__ void coordinates(int *to) {
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    to[block * threads + thread] = (int)(1 + block * threads + thread);
}

/* Each lane's row of results: every shuffle, every vote, whole warps and segments. */
static __global__ void warp_operations(unsigned *to) {
    const unsigned all = 0xffffffffu, i = threadIdx.x, lane = i % 32;
    unsigned *row = to + i * 10;
    row[0] = __shfl_sync(all, i, 5);
    row[1] = __shfl_sync(all, i, 3, 8);
    row[2] = __shfl_down_sync(all, i, 4);
    row[3] = __shfl_down_sync(all, i, 4, 16);
    row[4] = __shfl_up_sync(all, i, 2);
    row[5] = __shfl_xor_sync(all, i, 9);
    row[6] = __ballot_sync(all, lane % 3 == 0);
    row[7] = (unsigned)__any_sync(all, lane == 7) + 2 * (unsigned)__any_sync(all, lane == 40);
    row[8] = (unsigned)__all_sync(all, lane < 32) + 2 * (unsigned)__all_sync(all, lane < 31);
    if (lane < 8)
        row[9] = __shfl_xor_sync(0xffu, i, 1);
    else
        row[9] = __ballot_sync(0xffffff00u, lane % 2 == 0);
    __syncwarp();
}

/* Half of the lanes return; the others go on among themselves, and read one that is gone. */
static __global__ void lanes_leave(float *to) {
    const unsigned lane = threadIdx.x;
    if (lane >= 16)
        return;
    to[lane] = __shfl_xor_sync(0xffffffffu, (float)lane, 1);
    to[16 + lane] = __shfl_sync(0xffffffffu, (float)lane, 20);
}

static __global__ void count_up(unsigned *sum, int *most, unsigned long long *wide) {
    atomicAdd(sum, 1u);
    atomicMax(most, (int)threadIdx.x);
    atomicAdd(wide, 1ull << 33);
}

static __global__ void double_and_add(float *values, int count, float addend) {
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < count)
        values[i] = 2 * values[i] + addend;
}

template <int FACTOR> __global__ void scale(int *values) {
    values[threadIdx.x] *= FACTOR;
}

/* One warp: d {16, 8} = a {16, 8} b {8, 8}, all row by row. */
static __global__ void product(const float *a, const float *b, float *d) {
    const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    const unsigned fa[4] = {__float_as_uint(a[g * 8 + t]), __float_as_uint(a[(g + 8) * 8 + t]),
                            __float_as_uint(a[g * 8 + t + 4]), __float_as_uint(a[(g + 8) * 8 + t + 4])};
    const unsigned fb[2] = {__float_as_uint(b[t * 8 + g]), __float_as_uint(b[(t + 4) * 8 + g])};
    float fd[4] = {0, 0, 0, 0};
    cnn__mma_tf32(fd, fa, fb);
    for (unsigned i = 0; i < 4; i++)
        d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = fd[i];
}

/* Two groups of copies, seen before they are waited for, after the first, and after both by another thread. */
static __global__ void copy_beside(const float *from, float *to) {
    CNN__SHARED(float, values);
    const unsigned t = threadIdx.x;
    cnn__copy(values + t, from + t, t % 2 == 0);
    cnn__gpu_copies_end();
    cnn__copy4(values + 32 + 4 * t, from + 4 * t, true);
    cnn__gpu_copies_end();
    to[t] = values[t];
    cnn__gpu_copies_wait<1>();
    to[32 + t] = values[t];
    to[64 + t] = values[32 + 4 * t];
    cnn__gpu_copies_wait<0>();
    __syncthreads();
    to[96 + t] = values[32 + 31 - t];
}

/* ---- kernels with a mistake ---------------------------------------------------------------------- */

static __global__ void read_shared_first(float *to) {
    CNN__SHARED(float, values);
    to[blockIdx.x * blockDim.x + threadIdx.x] = values[threadIdx.x];
    __syncthreads();
    values[threadIdx.x] = 1; /* must not be there for the next block */
}

static __global__ void write_beyond_shared(int *) {
    CNN__SHARED(char, bytes);
    bytes[64 + threadIdx.x] = 1;
}

static __global__ void write_beyond(float *values, int count) {
    values[count] = 1;
}

static __global__ void add_without_atomics(int *to) {
    *to += 1;
}

/* Thread 0 of each block does so, and no other. */
static __global__ void blocks_add(int *to) {
    if (!threadIdx.x)
        *to += 1;
}

/* Lanes may not lean on a shuffle for the order of memory; on __syncwarp they may. */
static __global__ void reverse_in_warp(int *to, int sync) {
    CNN__SHARED(int, values);
    values[threadIdx.x] = (int)threadIdx.x;
    if (sync)
        __syncwarp();
    else
        __shfl_sync(0xffffffffu, 1, 0);
    to[threadIdx.x] = values[31 - threadIdx.x];
}

static __global__ void half_waits(int *to) {
    if (threadIdx.x < 40)
        __syncthreads();
    else
        __shfl_sync(0xffffffffu, 1, 0);
    to[0] = 1;
}

static __global__ void mixed_operations(int *to) {
    if (threadIdx.x)
        to[0] = (int)__ballot_sync(0xffffffffu, 1);
    else
        to[1] = __shfl_sync(0xffffffffu, 1, 0);
}

static __global__ void wrong_mask(int *to) {
    to[0] = __shfl_sync(1u, 1, 0);
}

struct pair {
    int count;
    float *values;
};

static __global__ void take_pair(pair p) {
    (void)p;
}

/* ---- tests --------------------------------------------------------------------------------------- */

static int reversed_right(void (*kernel)(const int *, int *), int threads) {
    enum { BLOCKS = 3 };
    int *from = NULL, *to = NULL, right = 1;
    OK(cudaMallocManaged(&from, sizeof(int) * (size_t)(BLOCKS * threads)));
    OK(cudaMallocManaged(&to, sizeof(int) * (size_t)(BLOCKS * threads)));
    for (int i = 0; i < BLOCKS * threads; i++)
        from[i] = i;
    CNN__LAUNCH(kernel, BLOCKS, (unsigned)threads, sizeof(int) * (size_t)threads, NULL, from, to);
    OK(cudaGetLastError());
    OK(cudaStreamSynchronize(NULL));
    for (int i = 0; i < BLOCKS * threads; i++)
        right &= to[i] == i / threads * threads + threads - 1 - i % threads;
    OK(cudaFree(from));
    OK(cudaFree(to));
    return right;
}

static void test_barriers(uint64_t seed) {
    static const int sizes[] = {1, 31, 32, 33, 100, 256, 1024};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        shim::seed(seed);
        CHECK(reversed_right(reverse, sizes[i]), "seed %d, %d threads", (int)seed, sizes[i]);
        shim::seed(seed);
#ifndef SHIM_TSAN
        CHECK(!reversed_right(reverse_too_soon, sizes[i]) || sizes[i] == 1, "seed %d, %d threads", (int)seed,
              sizes[i]);
#endif
    }
}

static void test_early_return(uint64_t seed) {
    float *values = NULL;
    OK(cudaMallocManaged(&values, 1030 * sizeof(float)));
    for (int i = 0; i < 1024; i++)
        values[i] = (float)i;
    shim::seed(seed);
    CNN__LAUNCH(sum_and_leave, 4, 1024, 1024 * sizeof(float), NULL, values, values + 1024);
    OK(cudaStreamSynchronize(NULL));
    for (int i = 0; i < 4; i++)
        CHECK(values[1024 + i] == 1024 * 1023 / 2.0f, "seed %d: block %d has %g", (int)seed, i,
              (double)values[1024 + i]);
    OK(cudaFree(values));
}

static void test_coordinates(uint64_t seed) {
    const dim3 grid(3, 2, 5), block(4, 3, 7);
    const int count = 3 * 2 * 5 * 4 * 3 * 7;
    int *values = NULL;
    OK(cudaMallocManaged(&values, (size_t)count * sizeof(int)));
    shim::seed(seed);
    CNN__LAUNCH(coordinates, grid, block, 0, NULL, values);
    OK(cudaStreamSynchronize(NULL));
    for (int i = 0; i < count; i++)
        CHECK(values[i] == i + 1, "seed %d: %d has %d", (int)seed, i, values[i]);
    OK(cudaFree(values));
}

static void test_warps(uint64_t seed) {
    enum { THREADS = 96 };
    unsigned *got = NULL;
    float *left = NULL;
    OK(cudaMallocManaged(&got, THREADS * 10 * sizeof(unsigned)));
    OK(cudaMallocManaged(&left, 32 * sizeof(float)));
    shim::seed(seed);
    CNN__LAUNCH(warp_operations, 1, THREADS, 0, NULL, got);
    CNN__LAUNCH(lanes_leave, 1, 32, 0, NULL, left);
    OK(cudaStreamSynchronize(NULL));
    for (unsigned i = 0; i < THREADS; i++) {
        const unsigned lane = i % 32, warp = i - lane;
        const unsigned want[10] = {warp + 5,
                                   warp + lane / 8 * 8 + 3,
                                   lane + 4 < 32 ? i + 4 : i,
                                   lane % 16 + 4 < 16 ? i + 4 : i,
                                   lane >= 2 ? i - 2 : i,
                                   warp + (lane ^ 9),
                                   0x49249249u,
                                   1,
                                   1,
                                   lane < 8 ? i ^ 1 : 0x55555500u};
        for (int k = 0; k < 10; k++)
            CHECK(got[i * 10 + (unsigned)k] == want[k], "seed %d: thread %u, operation %d: %x, not %x",
                  (int)seed, i, k, got[i * 10 + (unsigned)k], want[k]);
    }
    for (int i = 0; i < 16; i++)
        CHECK(left[i] == (float)(i ^ 1) && isnan(left[16 + i]), "seed %d: lane %d has %g and %g", (int)seed,
              i, (double)left[i], (double)left[16 + i]);
    OK(cudaFree(got));
    OK(cudaFree(left));
}

static void test_warp_barriers(uint64_t seed) {
    int *values = NULL;
    OK(cudaMallocManaged(&values, 32 * sizeof(int)));
    shim::seed(seed);
    CNN__LAUNCH(reverse_in_warp, 1, 32, 32 * sizeof(int), NULL, values, 1);
    OK(cudaStreamSynchronize(NULL));
    for (int i = 0; i < 32; i++)
        CHECK(values[i] == 31 - i, "seed %d: lane %d has %d", (int)seed, i, values[i]);
    OK(cudaFree(values));
}

static void test_atomics(void) {
    unsigned long long *memory = NULL;
    OK(cudaMallocManaged(&memory, 3 * sizeof *memory));
    memset(memory, 0, 3 * sizeof *memory);
    CNN__LAUNCH(count_up, 10, 70, 0, NULL, (unsigned *)memory, (int *)(memory + 1), memory + 2);
    OK(cudaStreamSynchronize(NULL));
    CHECK(*(unsigned *)memory == 700 && *(int *)(memory + 1) == 69 && memory[2] == 700ull << 33, "%u %d %llx",
          *(unsigned *)memory, *(int *)(memory + 1), memory[2]);
    OK(cudaFree(memory));
}

static float tf32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits &= ~0x1fffu;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

static void test_product(uint64_t seed) {
    float *m = NULL;
    OK(cudaMallocManaged(&m, (128 + 64 + 128) * sizeof(float)));
    for (int i = 0; i < 192; i++)
        m[i] = check_uniform(&seed);
    CNN__LAUNCH(product, 1, 32, 0, NULL, m, m + 128, m + 192);
    OK(cudaStreamSynchronize(NULL));
    for (int i = 0; i < 128; i++) {
        double want = 0;
        for (int k = 0; k < 8; k++)
            want += (double)tf32(m[i / 8 * 8 + k]) * (double)tf32(m[128 + k * 8 + i % 8]);
        CHECK(check_close((double)m[192 + i], want, 1e-6, 0), "%d is %.9g, not %.9g", i, (double)m[192 + i],
              want);
    }
    OK(cudaFree(m));
}

static void test_copies(void) {
    float *m = NULL;
    OK(cudaMallocManaged(&m, 256 * sizeof(float)));
    for (int i = 0; i < 128; i++)
        m[i] = (float)(i + 1);
    CNN__LAUNCH(copy_beside, 1, 32, 160 * sizeof(float), NULL, m, m + 128);
    OK(cudaStreamSynchronize(NULL));
    for (int i = 0; i < 32; i++) {
        const float *got = m + 128 + i;
        CHECK(isnan(got[0]) && got[32] == (float)(i % 2 ? 0 : i + 1) && isnan(got[64]) &&
                  got[96] == (float)(32 - i),
              "%d: %g, %g, %g, %g", i, (double)got[0], (double)got[32], (double)got[64], (double)got[96]);
    }
    OK(cudaFree(m));
}

static void test_poison(void) {
    float *values = NULL, *device = NULL;
    OK(cudaMallocManaged(&values, 64 * sizeof(float)));
    OK(cudaMalloc(&device, 64 * sizeof(float)));
    CNN__LAUNCH(double_and_add, 1, 64, 0, NULL, device, 64, 1.0f);
    OK(cudaMemcpy(values, device, 64 * sizeof(float), cudaMemcpyDeviceToHost));
    for (int i = 0; i < 64; i++)
        CHECK(isnan(values[i]), "fresh memory %d holds %g", i, (double)values[i]);
    CNN__LAUNCH(read_shared_first, 2, 32, 32 * sizeof(float), NULL, values);
    OK(cudaStreamSynchronize(NULL));
    for (int i = 0; i < 64; i++)
        CHECK(isnan(values[i]), "fresh shared memory %d holds %g", i, (double)values[i]);
    OK(cudaFree(values));
    OK(cudaFree(device));
}

/* Work waits on its stream; a graph replays it, with the memory as it is then. */
static void test_streams_and_graphs(void) {
    cudaStream_t stream = NULL;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    float *device = NULL, *pinned = NULL, pageable[5] = {1, 2, 3, 4, 5};
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    OK(cudaMalloc(&device, sizeof pageable));
    OK(cudaMallocHost(&pinned, sizeof pageable));
    OK(cudaMemcpyAsync(device, pageable, sizeof pageable, cudaMemcpyHostToDevice, stream));
    pageable[0] = 100; /* too late */
    CNN__LAUNCH(double_and_add, 1, 8, 0, stream, device, 5, 1.0f);
    OK(cudaMemcpyAsync(pinned, device, sizeof pageable, cudaMemcpyDeviceToHost, stream));
    CHECK(isnan(pinned[0]), "a copy came too soon: %g", (double)pinned[0]);
    OK(cudaMemcpy(pageable, device, sizeof pageable, cudaMemcpyDeviceToHost));
    CHECK(isnan(pageable[0]), "cudaMemcpy waited for a stream that does not block");
    OK(cudaStreamSynchronize(stream));
    CHECK(pinned[0] == 3 && pinned[4] == 11, "%g %g", (double)pinned[0], (double)pinned[4]);

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    OK(cudaMemcpyAsync(device, pinned, sizeof pageable, cudaMemcpyHostToDevice, stream));
    CNN__LAUNCH(double_and_add, 2, 3, 0, stream, device, 5, 0.5f);
    OK(cudaMemcpyAsync(pinned, device, sizeof pageable, cudaMemcpyDeviceToHost, stream));
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    OK(cudaStreamSynchronize(stream));
    CHECK(pinned[0] == 3, "capture ran its work: %g", (double)pinned[0]);
    pinned[0] = 1;
    OK(cudaGraphLaunch(exec, stream));
    OK(cudaGraphLaunch(exec, stream));
    OK(cudaStreamSynchronize(stream));
    CHECK(pinned[0] == 5.5f && pinned[4] == 45.5f, "%g %g", (double)pinned[0], (double)pinned[4]);

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported, "synchronised in a capture");
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated && !graph,
          "a graph all the same");
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    CHECK(cudaMalloc(&graph, 4) == cudaErrorStreamCaptureUnsupported, "allocated in a capture");
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated, "a graph all the same");
    CHECK(cudaGetLastError() == cudaErrorStreamCaptureInvalidated && cudaGetLastError() == cudaSuccess,
          "last error");
    OK(cudaGraphExecDestroy(exec));
    OK(cudaStreamDestroy(stream));
    OK(cudaFree(device));
    OK(cudaFreeHost(pinned));
}

static void test_memory(void) {
    cudaPointerAttributes a;
    float *device = NULL, *managed = NULL, *pinned = NULL, plain[4];
    CHECK(!shim::live(), "%ld left by the tests before", shim::live());
    OK(cudaMalloc(&device, 40));
    OK(cudaMallocManaged(&managed, 40));
    OK(cudaMallocHost(&pinned, 40));
    CHECK(shim::live() == 3, "%ld", shim::live());
    OK(cudaPointerGetAttributes(&a, device + 3));
    CHECK(a.type == cudaMemoryTypeDevice && !a.hostPointer, "%d", (int)a.type);
    OK(cudaPointerGetAttributes(&a, managed + 9));
    CHECK(a.type == cudaMemoryTypeManaged && a.hostPointer == managed + 9, "%d", (int)a.type);
    OK(cudaPointerGetAttributes(&a, pinned));
    CHECK(a.type == cudaMemoryTypeHost, "%d", (int)a.type);
    OK(cudaPointerGetAttributes(&a, plain));
    CHECK(a.type == cudaMemoryTypeUnregistered, "%d", (int)a.type);
    CHECK(cudaMemcpy(plain, device, sizeof plain, cudaMemcpyHostToDevice) == cudaErrorInvalidValue,
          "wrong way");
    CHECK(cudaMemcpy(device, managed, 44, cudaMemcpyDefault) == cudaErrorInvalidValue, "beyond the end");
    OK(cudaFree(device));
    OK(cudaFree(managed));
    OK(cudaFreeHost(pinned));
    shim::fail_allocation(2);
    OK(cudaMalloc(&device, 4));
    CHECK(cudaMallocManaged(&managed, 4) == cudaErrorMemoryAllocation, "the second allocation did not fail");
    OK(cudaMallocHost(&pinned, 4));
    shim::fail_at(2, cudaErrorUnknown);
    OK(cudaSetDevice(0));
    CHECK(cudaMemsetAsync(device, 0, 4, NULL) == cudaErrorUnknown, "the second call did not fail");
    OK(cudaFree(device));
    OK(cudaFreeHost(pinned));
    CHECK(!shim::live(), "%ld left", shim::live());
    cudaGetLastError();
}

static void test_launches(void) {
    int *values = NULL;
    OK(cudaMallocManaged(&values, 8 * sizeof(int)));
    for (int i = 0; i < 8; i++)
        values[i] = 1;
    shim::its.launches.clear();
    CNN__LAUNCH((scale<3>), 1, 8, 0, NULL, values);
    CNN__LAUNCH(scale<5>, 1, 8, 0, NULL, values);
    OK(cudaStreamSynchronize(NULL));
    CHECK(values[7] == 15 && shim::its.launches["scale"] == 2, "%d, %ld launches", values[7],
          shim::its.launches["scale"]);
    CNN__LAUNCH(scale<3>, 1, 1025, 0, NULL, values);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration, "1025 threads");
    CNN__LAUNCH(scale<3>, dim3(1, 65536), 1, 0, NULL, values);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration, "65536 blocks in y");
    CNN__LAUNCH(scale<3>, 0, 1, 0, NULL, values);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration, "no blocks");
    CNN__LAUNCH(scale<3>, 1, 8, 50000, NULL, values);
    CHECK(cudaGetLastError() == cudaErrorInvalidValue, "more shared memory than allowed");
    OK(cudaFuncSetAttribute(scale<3>, cudaFuncAttributeMaxDynamicSharedMemorySize, 50000));
    CNN__LAUNCH(scale<3>, 1, 8, 50000, NULL, values);
    OK(cudaGetLastError());
    OK(cudaFree(values));
}

static void test_no_device(void) {
    int count = 7;
    shim::its.present = cudaErrorNoDevice;
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice && !count, "%d devices", count);
    CHECK(strstr(cudaGetErrorString(cudaGetLastError()), "no CUDA-capable device"), "another reason");
    shim::its.present = cudaSuccess;
    OK(cudaGetDeviceCount(&count));
    CHECK(count == 1, "%d devices", count);
}

/* ---- mistakes that abort: each in a process of its own ------------------------------------------- */

static int *some_memory(void) {
    int *values = NULL;
    cudaMallocManaged(&values, 256);
    return values;
}

static void deadlocks(void) {
    CNN__LAUNCH(half_waits, 1, 64, 0, NULL, some_memory());
    cudaStreamSynchronize(NULL);
}

static void mixes(void) {
    CNN__LAUNCH(mixed_operations, 1, 32, 0, NULL, some_memory());
    cudaStreamSynchronize(NULL);
}

static void misses_itself(void) {
    CNN__LAUNCH(wrong_mask, 1, 32, 0, NULL, some_memory());
    cudaStreamSynchronize(NULL);
}

static void writes_beyond_shared(void) {
    CNN__LAUNCH(write_beyond_shared, 1, 1, 64, NULL, some_memory());
    cudaStreamSynchronize(NULL);
}

static void writes_beyond(void) {
    int *values = some_memory();
    CNN__LAUNCH(write_beyond, 1, 1, 0, NULL, (float *)values, 64);
    cudaStreamSynchronize(NULL);
    cudaFree(values);
}

static void passes_host_memory(void) {
    int *values = (int *)malloc(64);
    CNN__LAUNCH(scale<3>, 1, 8, 0, NULL, values);
}

static void passes_host_memory_within(void) {
    float values[4];
    pair p = {3, values};
    CNN__LAUNCH(take_pair, 1, 8, 0, NULL, p);
}

static void frees_twice(void) {
    int *values = some_memory();
    cudaFree(values);
    cudaFree(values);
}

static void adds_without_atomics(void) {
    CNN__LAUNCH(add_without_atomics, 1, 2, 0, NULL, some_memory());
    cudaStreamSynchronize(NULL);
}

static void blocks_race(void) {
    CNN__LAUNCH(blocks_add, 20, 32, 0, NULL, some_memory());
    cudaStreamSynchronize(NULL);
}

static void misses_a_barrier(void) {
    int *values = some_memory();
    CNN__LAUNCH(reverse_too_soon, 1, 32, 128, NULL, values, values + 32);
    cudaStreamSynchronize(NULL);
}

static void misses_a_warp_barrier(void) {
    CNN__LAUNCH(reverse_in_warp, 1, 32, 128, NULL, some_memory(), 0);
    cudaStreamSynchronize(NULL);
}

/* What is said of a race, and of writing beyond the end and of a host pointer in a struct, in this
   build; NULL: nothing. */
#if defined(SHIM_TSAN)
static const char *const race = "a race", *const beyond = NULL, *const within = NULL;
#elif defined(SHIM_ASAN)
static const char *const race = NULL, *const beyond = "heap-buffer-overflow", *const within = NULL;
#else
static const char *const race = NULL, *const beyond = "beyond the end of ", *const within = "host memory";
#endif

static void test_aborts(const char *name, void (*mistake)(void), const char *sentence) {
    char text[6000] = "";
    int ends[2];
    if (!sentence)
        return;
    fflush(stdout);
    if (pipe(ends))
        exit(1);
    const pid_t child = fork();
    if (!child) {
        dup2(ends[1], 2);
        mistake();
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    for (ssize_t n; (n = read(ends[0], text + length, sizeof text - 1 - length)) > 0;) {
        length += (size_t)n;
        text[length] = 0;
    }
    int status = 0;
    waitpid(child, &status, 0);
    close(ends[0]);
    CHECK(status && strstr(text, sentence), "%s: status %d, '%s'", name, status, text);
}

int main(void) {
    const uint64_t seed = check_seed();
    printf("seed %llu\n", (unsigned long long)seed);
    for (uint64_t i = 0; i < SEEDS; i++) {
        test_barriers(seed + i);
        test_early_return(seed + i);
        test_coordinates(seed + i);
        test_warps(seed + i);
        test_product(seed + i);
        test_warp_barriers(seed + i);
    }
    test_atomics();
    test_copies();
    test_poison();
    test_streams_and_graphs();
    test_memory();
    test_launches();
    test_no_device();
    test_aborts("deadlock", deadlocks,
                "kernel half_waits, block (0, 0, 0): deadlock: of 64 threads 40 wait at a barrier, 24 at a "
                "warp operation");
    test_aborts("mixed operations", mixes, "different warp operations");
    test_aborts("own lane left out", misses_itself, "leaves it out");
    test_aborts("no atomics", adds_without_atomics, race);
    test_aborts("no atomics across blocks", blocks_race, race);
    test_aborts("no barrier", misses_a_barrier, race);
    test_aborts("no warp barrier", misses_a_warp_barrier, race);
    test_aborts("beyond shared memory", writes_beyond_shared, beyond);
    test_aborts("beyond an allocation", writes_beyond, beyond);
    test_aborts("host memory", passes_host_memory, "kernel scale<3>, block");
    test_aborts("host memory in a struct", passes_host_memory_within, within);
    test_aborts("freed twice", frees_twice, "is no allocation");
    CHECK(!shim::live(), "%ld left", shim::live());
    return check_done();
}
