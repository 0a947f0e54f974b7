/* Compiles the library's CUDA kernels as C++11 and runs them on the CPU: included before cnn.h, it stands for
   nvcc and for the part of the CUDA runtime that the library uses. Meant to fail where a GPU might only
   sometimes:
     - A CUDA thread is a fiber. Threads run one at a time, each up to its next barrier, in an order shuffled
       anew after every barrier by a seed; so do the blocks of a grid. A barrier counts the threads that have
       not returned. Threads that wait for one another for ever abort with a sentence.
     - Shared memory, and memory fresh from cudaMalloc, holds NaN. Writing beyond either aborts.
     - What is put on a stream waits there until something synchronises. Capture forbids what CUDA forbids.
     - Built with -fsanitize=thread, two threads that touch a word, one of them writing, with no barrier between
       them abort, in shared and in global memory, within a block and across the blocks of a launch.
     - A kernel argument, or a word within one, that is a pointer to memory the device cannot see aborts.
     - shim::fail_at makes one call of the runtime fail; shim::live counts what is not yet freed.
   One host thread at a time may use it. */
#ifndef CUDA_SHIM_H
#define CUDA_SHIM_H

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define SHIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SHIM_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define SHIM_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SHIM_TSAN 1
#endif
#endif
#ifdef SHIM_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SHIM_TSAN
#include <sanitizer/tsan_interface.h>
#define SHIM_TSAN_DO(statement) statement
#define SHIM_INLINE             inline __attribute__((no_sanitize_thread)) /* of what runs the threads */
#else
#define SHIM_TSAN_DO(statement)
#define SHIM_INLINE inline
#endif
#if !defined(__x86_64__) && !defined(SHIM_UCONTEXT)
#define SHIM_UCONTEXT
#endif
#ifdef SHIM_UCONTEXT
#include <ucontext.h>
#endif

#define CNN__CUDA_SHIM 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

#define CNN__SHARED(type, name) type *const name = (type *)(void *)shim::shared
#define CNN__LAUNCH(kernel, grid, block, bytes, stream, ...)                                                 \
    shim::launch(#kernel, kernel, grid, block, bytes, stream, __VA_ARGS__)

/* ---- vectors and coordinates --------------------------------------------------------------------- */

#define SHIM_VECTOR(type, name, align)                                                                       \
    struct __attribute__((aligned(align))) name##2 {                                                         \
        type x, y;                                                                                           \
    };                                                                                                       \
    struct name##3 {                                                                                         \
        type x, y, z;                                                                                        \
    };                                                                                                       \
    struct __attribute__((aligned(2 * align))) name##4 {                                                     \
        type x, y, z, w;                                                                                     \
    };                                                                                                       \
    inline name##2 make_##name##2(type x, type y) {                                                          \
        const name##2 v = {x, y};                                                                            \
        return v;                                                                                            \
    }                                                                                                        \
    inline name##4 make_##name##4(type x, type y, type z, type w) {                                          \
        const name##4 v = {x, y, z, w};                                                                      \
        return v;                                                                                            \
    }
SHIM_VECTOR(float, float, 8)
SHIM_VECTOR(int, int, 8)
SHIM_VECTOR(unsigned, uint, 8)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {
    }
};
static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

/* ---- the runtime's types ------------------------------------------------------------------------- */

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorUnknown = 999
};
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum cudaMemoryType {
    cudaMemoryTypeUnregistered,
    cudaMemoryTypeHost,
    cudaMemoryTypeDevice,
    cudaMemoryTypeManaged
};
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrManagedMemory = 83,
    cudaDevAttrConcurrentManagedAccess = 89,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1, cudaMemAttachGlobal = 1 };
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin;
    int major, minor, multiProcessorCount, managedMemory, concurrentManagedAccess;
};
struct cudaPointerAttributes {
    cudaMemoryType type;
    int device;
    void *devicePointer, *hostPointer;
};
typedef std::vector<std::function<void()>> shim_work;
struct shim_stream {
    shim_work queue, recorded;
    int blocking, capturing, invalid;
    cudaStreamCaptureMode mode;
};
struct shim_graph {
    shim_work work;
};
struct shim_event {
    double milliseconds;
};
typedef shim_stream *cudaStream_t;
typedef shim_graph *cudaGraph_t, *cudaGraphExec_t;
typedef shim_event *cudaEvent_t;

/* ---- fibers -------------------------------------------------------------------------------------- */

namespace shim {

enum { WARP = 32, MAX_THREADS = 1024, MAX_SHARED = 48 << 10, STACK = 128 << 10 };
#ifdef SHIM_ASAN
enum { GUARD = 0 }; /* it has its own */
#else
enum { GUARD = 64 };
#endif
enum state { READY, AT_BARRIER, AT_WARP, DONE };
enum kind { SYNC, SHUFFLE, BALLOT, MMA };
static const uint32_t poison = 0x7fc5a5a5u; /* a NaN */

struct copy { /* a group's end: to nowhere */
    float *to;
    int floats;
    float values[4];
};

struct fiber {
    void *context; /* the stack pointer, or a ucontext_t */
    const void *stack;
    size_t stack_bytes;
    state at;
    kind op; /* at a warp operation: which, for which lanes, with what */
    unsigned mask, source;
    uint64_t value, result;
    const unsigned *a, *b;
    float *d;
    copy *copies; /* under way: from copy_first on, in copy_groups groups */
    int copy_first, copy_count, copy_room, copy_groups;
    void *identity; /* ThreadSanitizer's */
    unsigned syncs; /* of its whole warp, in this block */
#ifdef SHIM_UCONTEXT
    ucontext_t first;
#endif
};

struct allocation {
    size_t bytes;
    cudaMemoryType type;
};

struct machine {
    /* what a test sets and reads */
    uint64_t random;
    cudaError_t present; /* what looking for a device gives */
    cudaDeviceProp device;
    long calls, fail_at, allocations,
        fail_allocation; /* so far, and the number of the one that fails; 0: none */
    cudaError_t fail_with;
    std::map<std::string, long> launches; /* of each kernel, template arguments left out */
    long handles;                         /* streams, graphs and events not yet destroyed */
    /* its own */
    std::map<uintptr_t, allocation> memory;
    std::map<const void *, int> shared_limit;
    std::vector<shim_stream *> streams;
    shim_stream legacy;
    cudaError_t last;
    fiber host, *self;
    fiber fibers[MAX_THREADS];
    int made; /* of them */
    const std::function<void()> *body;
    const char *kernel;
    unsigned generation;                 /* barriers passed */
    int ready[MAX_THREADS], ready_count; /* threads that run next */
    int count, live, waiting; /* threads of the block, those that have not returned, those at the barrier */
    machine()
        : random(1), present(cudaSuccess), device(), calls(0), fail_at(0), allocations(0), fail_allocation(0),
          fail_with(cudaErrorUnknown), handles(0), legacy(), last(cudaSuccess), host(), self(NULL), fibers(),
          made(0), body(NULL), kernel(""), generation(0), ready(), ready_count(0), count(0), live(0),
          waiting(0) {
        strcpy(device.name, "CUDA shim");
        device.totalGlobalMem = (size_t)1 << 30;
        device.sharedMemPerBlock = MAX_SHARED;
        device.sharedMemPerBlockOptin = 227 << 10;
        device.major = 9;
        device.multiProcessorCount = 4;
        device.managedMemory = device.concurrentManagedAccess = 1;
        legacy.blocking = 1;
        if (getenv("SHIM_NO_DEVICE"))
            present = cudaErrorNoDevice;
    }
};
static machine its;
static char *shared; /* of the block that runs */

__attribute__((noreturn, format(printf, 1, 2))) SHIM_INLINE void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fprintf(stderr, "cuda_shim: kernel %s, block (%u, %u, %u): ", its.kernel, blockIdx.x, blockIdx.y,
            blockIdx.z);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    abort();
}

SHIM_INLINE uint32_t draw(uint32_t below) { /* xorshift64*; the slight bias does not matter */
    its.random ^= its.random >> 12;
    its.random ^= its.random << 25;
    its.random ^= its.random >> 27;
    return (uint32_t)((its.random * 2685821657736338717u >> 32) * below >> 32);
}

inline void seed(uint64_t value) {
    its.random = value ? value : 1;
}

#ifdef SHIM_UCONTEXT
SHIM_INLINE void swap(void **from, void *to) {
    ucontext_t here;
    *from = &here;
    swapcontext(&here, (ucontext_t *)to);
}
#else
extern "C" void shim_swap(void **from, void *to);
__asm__(".text\n.p2align 4\nshim_swap:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
SHIM_INLINE void swap(void **from, void *to) {
    shim_swap(from, to);
}
#endif

#ifdef SHIM_TSAN
/* Where threads, barriers, warps, the start of a block and the end of a grid leave what happened before. */
static char *order, start_of_launch, end_of_launch;
enum { ORDER_BYTES = 4096, WARPS = 64 }; /* two of the block, in turn; from WARPS on three of each warp */
extern "C" void __tsan_on_report(void *) {
    die("a race");
}
#endif

/* Leaves `from`, which is where it stands, for `to`; comes back when something goes to `from`. */
SHIM_INLINE void go(fiber *from, fiber *to) {
#ifdef SHIM_ASAN
    void *fake = NULL;
    const void *stack = NULL;
    size_t bytes = 0;
    __sanitizer_start_switch_fiber(&fake, to->stack, to->stack_bytes);
    swap(&from->context, to->context);
    __sanitizer_finish_switch_fiber(fake, &stack, &bytes);
    if (from != &its.host) {
        its.host.stack = stack;
        its.host.stack_bytes = bytes;
    }
#else
    SHIM_TSAN_DO(__tsan_switch_to_fiber(to->identity, __tsan_switch_to_fiber_no_sync));
    swap(&from->context, to->context);
#endif
}

SHIM_INLINE void finish(void);

/* What a fiber does for ever: a thread of a block, then, once it is wanted again, the next. */
SHIM_INLINE void live_on(void) {
#ifdef SHIM_ASAN
    __sanitizer_finish_switch_fiber(NULL, &its.host.stack, &its.host.stack_bytes);
#endif
    for (;;) {
        SHIM_TSAN_DO(__tsan_acquire(&start_of_launch));
        (*its.body)();
        SHIM_TSAN_DO(__tsan_release(&end_of_launch));
        finish();
        go(its.self, &its.host);
    }
}

SHIM_INLINE void make_fiber(fiber *f) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE); /* one page below the stack faults */
    char *p = (char *)mmap(NULL, STACK + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == (char *)MAP_FAILED || mprotect(p, page, PROT_NONE))
        die("no memory for the stack of a thread");
    SHIM_TSAN_DO(f->identity = __tsan_create_fiber(0));
    f->stack = p + page;
    f->stack_bytes = STACK;
#ifdef SHIM_UCONTEXT
    getcontext(&f->first);
    f->first.uc_stack.ss_sp = p + page;
    f->first.uc_stack.ss_size = STACK;
    makecontext(&f->first, live_on, 0);
    f->context = &f->first;
#else
    void **top = (void **)(void *)(p + page + STACK) - 2;
    top[0] = (void *)live_on; /* where shim_swap returns to, above six registers */
    f->context = top - 6;
#endif
}

/* ---- threads of a block -------------------------------------------------------------------------- */

SHIM_INLINE int thread_index(void) {
    return (int)(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
}

/* The current thread stands at a barrier or warp operation, or is past it already; others run. */
SHIM_INLINE void wait(void) {
    go(its.self, &its.host);
}

SHIM_INLINE void make_ready(int thread) {
    its.fibers[thread].at = READY;
    its.ready[its.ready_count++] = thread;
}

SHIM_INLINE void release_barrier(void) {
    if (its.waiting < its.live)
        return;
    its.waiting = 0;
    its.generation++;
    for (int i = 0; i < its.count; i++)
        if (its.fibers[i].at == AT_BARRIER)
            make_ready(i);
}

SHIM_INLINE float element(const unsigned bits) { /* a tensor core ignores the low 13 bits */
    const uint32_t kept = bits & ~0x1fffu;
    float f;
    memcpy(&f, &kept, sizeof f);
    return f;
}

/* D += A B by the fragments of mma.m16n8k8 (PTX ISA): lane 4g+t holds A's rows g, g+8 and columns t, t+4, B's
   rows t, t+4 and column g, D's rows g, g+8 and columns 2t, 2t+1. */
SHIM_INLINE void multiply(fiber *warp) {
    for (int l = 0; l < WARP; l++)
        for (int i = 0; i < 4; i++) {
            const int row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
            for (int k = 0; k < 8; k++)
                warp[l].d[i] += element(warp[row % 8 * 4 + k % 4].a[row / 8 + k / 4 * 2]) *
                                element(warp[column * 4 + k % 4].b[k / 4]);
        }
}

/* Ends the operation that the lanes of mask wait at, once all that have not returned are there. */
SHIM_INLINE void release_warp(fiber *warp, int lanes, unsigned mask) {
    unsigned members = 0, votes = 0;
    kind op = SYNC;
    for (int l = 0; l < lanes; l++) {
        if (!(mask >> l & 1) || warp[l].at == DONE)
            continue;
        if (warp[l].at != AT_WARP || warp[l].mask != mask)
            return;
        if (members && warp[l].op != op)
            die("lanes of a warp are at different warp operations");
        op = warp[l].op;
        members |= 1u << l;
        votes |= (unsigned)(warp[l].value != 0) << l;
    }
    if (op == MMA && members != 0xffffffffu)
        die("a matrix product with lanes that are missing");
    if (op == MMA)
        multiply(warp);
    for (int l = 0; l < lanes; l++)
        if (members >> l & 1) {
            const unsigned from = warp[l].source;
            make_ready((int)(warp - its.fibers) + l);
            warp[l].result = votes | (uint64_t)members << 32;
            if (op == SHUFFLE)
                warp[l].result = members >> from & 1 ? warp[from].value : poison * 0x100000001u;
        }
}

SHIM_INLINE int lanes_of(int first) {
    return its.count - first < WARP ? its.count - first : (int)WARP;
}

/* The current thread returns from the kernel: those that waited for it alone need wait no more. */
SHIM_INLINE void finish(void) {
    const int first = thread_index() / WARP * WARP;
    fiber *warp = &its.fibers[first];
    its.self->at = DONE;
    its.live--;
    release_barrier();
    for (int l = 0; l < lanes_of(first); l++)
        if (warp[l].at == AT_WARP)
            release_warp(warp, lanes_of(first), warp[l].mask);
}

__attribute__((noinline)) SHIM_INLINE uint64_t warp_operation(kind op, unsigned mask, uint64_t value,
                                                              unsigned source) {
    const int index = thread_index();
    const int first = index / WARP * WARP;
    fiber *const f = its.self;
    if (!(mask >> (index - first) & 1))
        die("lane %d takes part in a warp operation whose mask %08x leaves it out", index - first, mask);
    f->op = op;
    f->mask = mask;
    f->value = value;
    f->source = source;
    f->at = AT_WARP;
    release_warp(&its.fibers[first], lanes_of(first), mask);
    wait();
    return f->result;
}

__attribute__((noreturn)) SHIM_INLINE void deadlock(void) {
    int at[4] = {0, 0, 0, 0};
    for (int i = 0; i < its.count; i++)
        at[its.fibers[i].at]++;
    die("deadlock: of %d threads %d wait at a barrier, %d at a warp operation, %d have returned", its.count,
        at[AT_BARRIER], at[AT_WARP], at[DONE]);
}

SHIM_INLINE void run_block(void) {
    int turn[MAX_THREADS];
    its.live = its.count;
    for (int i = 0; i < its.count; i++) {
#ifdef SHIM_TSAN /* so that the same thread of another block is another to it */
        fiber *const other = &its.fibers[draw((uint32_t)its.made)];
        const fiber swapped = *other;
        *other = its.fibers[i];
        its.fibers[i] = swapped;
#endif
        its.fibers[i].syncs = 0;
        its.fibers[i].copy_first = its.fibers[i].copy_count = its.fibers[i].copy_groups = 0;
    }
    for (int i = 0; i < its.count; i++)
        make_ready(i);
    while (its.live) {
        const int count = its.ready_count;
        if (!count)
            deadlock();
        memcpy(turn, its.ready, (size_t)count * sizeof turn[0]);
        its.ready_count = 0;
        for (int i = count - 1; i > 0; i--) {
            const uint32_t k = draw((uint32_t)i + 1);
            const int swapped = turn[i];
            turn[i] = turn[k];
            turn[k] = swapped;
        }
        for (int i = 0; i < count; i++) {
            const unsigned index = (unsigned)turn[i];
            its.self = &its.fibers[index];
            threadIdx.x = index % blockDim.x;
            threadIdx.y = index / blockDim.x % blockDim.y;
            threadIdx.z = index / blockDim.x / blockDim.y;
            go(&its.host, its.self);
        }
    }
}

inline uint32_t common_divisor(uint32_t a, uint32_t b) {
    return b ? common_divisor(b, a % b) : a;
}

SHIM_INLINE void fill_with_poison(void *memory, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        ((unsigned char *)memory)[i] = (unsigned char)(poison >> i % 4 * 8);
}

SHIM_INLINE void check_guard(const char *end, const char *what) {
    for (int i = 0; i < GUARD; i++)
        if ((unsigned char)end[i] != 0x5a)
            die("%d bytes beyond the end of %s were written", i, what);
}

#ifdef SHIM_TSAN
/* Fresh pages for each block: what another block did to its shared memory is no race. */
SHIM_INLINE char *begin_shared(size_t bytes) {
    order =
        (char *)mmap(NULL, ORDER_BYTES + bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    shared = order + ORDER_BYTES;
    if (order == (char *)MAP_FAILED)
        die("no memory for %zu bytes of shared memory", bytes);
    fill_with_poison(shared, bytes);
    return order;
}

SHIM_INLINE void end_shared(char *memory, size_t bytes) {
    munmap(memory, ORDER_BYTES + bytes);
}
#else
inline char *begin_shared(size_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, 128, bytes + GUARD + !bytes))
        die("no memory for %zu bytes of shared memory", bytes);
    shared = (char *)memory;
    memset(shared + bytes, 0x5a, GUARD);
    fill_with_poison(shared, bytes);
    return shared;
}

inline void end_shared(char *memory, size_t bytes) {
    check_guard(memory + bytes, "shared memory");
    free(memory);
}
#endif

/* Blocks in the order start, start + step, ... modulo their number, which step has no divisor with. */
SHIM_INLINE void run_grid(const char *kernel, dim3 grid, dim3 block, size_t bytes,
                          const std::function<void()> &body) {
    const uint32_t blocks = grid.x * grid.y * grid.z, start = draw(blocks);
    uint32_t step = draw(blocks) + 1;
    while (common_divisor(step, blocks) != 1)
        step = step % blocks + 1;
    its.kernel = kernel;
    its.body = &body;
    its.count = (int)(block.x * block.y * block.z);
    gridDim = grid;
    blockDim = block;
    for (; its.made < its.count; its.made++)
        make_fiber(&its.fibers[its.made]);
    SHIM_TSAN_DO(its.host.identity = __tsan_get_current_fiber());
    for (uint32_t i = 0; i < blocks; i++) {
        const uint32_t at = (uint32_t)((start + (uint64_t)i * step) % blocks);
        blockIdx.x = at % grid.x;
        blockIdx.y = at / grid.x % grid.y;
        blockIdx.z = at / grid.x / grid.y;
        char *const memory = begin_shared(bytes);
        SHIM_TSAN_DO(__tsan_release(&start_of_launch));
        run_block();
        end_shared(memory, bytes);
    }
    SHIM_TSAN_DO(__tsan_acquire(&end_of_launch));
}

/* ---- host: calls, memory, streams ---------------------------------------------------------------- */

inline cudaError_t result_of(cudaError_t error) {
    if (error)
        its.last = error;
    return error;
}

inline bool capture_spoiled(void) {
    bool spoiled = false;
    for (size_t i = 0; i < its.streams.size(); i++)
        if (its.streams[i]->capturing && its.streams[i]->mode != cudaStreamCaptureModeRelaxed)
            its.streams[i]->invalid = spoiled = true;
    return spoiled;
}

/* Every call that can fail begins with this. `unsafe`: forbidden while a stream captures, and spoils the
   capture. */
inline cudaError_t begin(bool allocates, bool unsafe) {
    cudaError_t error = cudaSuccess;
    its.calls++;
    its.allocations += allocates;
    if (its.calls == its.fail_at || (allocates && its.allocations == its.fail_allocation))
        error = allocates ? cudaErrorMemoryAllocation : its.fail_with;
    if (unsafe && capture_spoiled())
        error = cudaErrorStreamCaptureUnsupported;
    return result_of(its.present ? its.present : error);
}

/* Makes the n-th call from now fail, 0 none; the same for allocations alone. */
inline void fail_at(long n, cudaError_t error) {
    its.fail_at = n ? its.calls + n : 0;
    its.fail_with = error;
}

inline void fail_allocation(long n) {
    its.fail_allocation = n ? its.allocations + n : 0;
}

inline long live(void) { /* allocations, streams, graphs and events */
    return (long)its.memory.size() + its.handles;
}

inline const allocation *find(const void *p) {
    std::map<uintptr_t, allocation>::iterator it = its.memory.upper_bound((uintptr_t)p);
    if (it == its.memory.begin())
        return NULL;
    --it;
    return (uintptr_t)p <= it->first + it->second.bytes ? &it->second : NULL;
}

inline cudaMemoryType type_of(const void *p) {
    const allocation *a = find(p);
    return a ? a->type : cudaMemoryTypeUnregistered;
}

inline cudaError_t allocate(void **p, size_t bytes, cudaMemoryType type) {
    cudaError_t error = begin(true, true);
    if (!error &&
        (!p || bytes > its.device.totalGlobalMem || posix_memalign(p, 256, (bytes ? bytes : 1) + GUARD)))
        error = result_of(p ? cudaErrorMemoryAllocation : cudaErrorInvalidValue);
    if (error)
        return error;
    const allocation a = {bytes, type};
    its.memory[(uintptr_t)*p] = a;
    fill_with_poison(*p, bytes);
    memset((char *)*p + bytes, 0x5a, GUARD);
    return cudaSuccess;
}

inline void drain(shim_stream *s) {
    shim_work work;
    work.swap(s->queue);
    for (size_t i = 0; i < work.size(); i++)
        work[i]();
}

inline void drain_all(bool blocking_alone) {
    drain(&its.legacy);
    for (size_t i = 0; i < its.streams.size(); i++)
        if (its.streams[i]->blocking || !blocking_alone)
            drain(its.streams[i]);
}

inline cudaError_t release(void *p, bool host) {
    if (!p)
        return cudaSuccess;
    std::map<uintptr_t, allocation>::iterator it = its.memory.find((uintptr_t)p);
    if (it == its.memory.end() || (it->second.type == cudaMemoryTypeHost) != host)
        die("freeing %p, which %s", p, it == its.memory.end() ? "is no allocation" : "is of the other kind");
    if (capture_spoiled())
        return result_of(cudaErrorStreamCaptureUnsupported);
    drain_all(false);
    its.kernel = "(none)";
    check_guard((char *)p + it->second.bytes, "an allocation");
    its.memory.erase(it);
    free(p);
    return cudaSuccess;
}

inline shim_stream *stream_of(cudaStream_t s) {
    return s ? s : &its.legacy;
}

inline void put(cudaStream_t stream, const std::function<void()> &work) {
    shim_stream *s = stream_of(stream);
    if (s == &its.legacy)
        drain_all(true);
    (s->capturing ? s->recorded : s->queue).push_back(work);
}

inline void check_word(uintptr_t word, bool is_pointer) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (word && (is_pointer || msync((void *)(word / page * page), page, MS_ASYNC) == 0) &&
        !find((const void *)word))
        die("an argument holds %p, which is host memory", (void *)word);
}

template <class T> void check_argument(T *const &argument) {
    check_word((uintptr_t)argument, true);
}

/* A word within a structure may be a pair of small values, or one and what was left in the padding: only what
   looks like a pointer and is mapped counts, and nothing under sanitizers, which map a great deal. */
template <class T> void check_argument(const T &argument) {
#if !defined(SHIM_ASAN) && !defined(SHIM_TSAN)
    for (size_t i = 0; i + sizeof(uintptr_t) <= sizeof argument; i += sizeof(uintptr_t)) {
        uintptr_t word = 0;
        memcpy(&word, (const char *)&argument + i, sizeof word);
        if (word % 4 == 0 && word >> 46)
            check_word(word, false);
    }
#else
    (void)argument;
#endif
}

inline void check_arguments(void) {
}
template <class First, class... Rest> void check_arguments(const First &first, const Rest &...rest) {
    check_argument(first);
    check_arguments(rest...);
}

inline std::string plain_name(const char *kernel) { /* "(name<1, 2>)" as "name" */
    const char *name = kernel + strspn(kernel, "( ");
    return std::string(name, strcspn(name, "<) "));
}

template <class... Parameters, class... Arguments>
void launch(const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t bytes,
            cudaStream_t stream, Arguments... arguments) {
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    const int limit = its.shared_limit.count((const void *)kernel) ? its.shared_limit[(const void *)kernel]
                                                                   : (int)MAX_SHARED;
    if (begin(false, false))
        return;
    if (!threads || threads > MAX_THREADS || block.z > 64 || !grid.x || !grid.y || !grid.z ||
        grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535 ||
        (uint64_t)grid.x * grid.y * grid.z > INT32_MAX) {
        result_of(cudaErrorInvalidConfiguration);
        return;
    }
    if (bytes > (size_t)limit) {
        result_of(cudaErrorInvalidValue);
        return;
    }
    its.kernel = name;
    its.launches[plain_name(name)]++;
    check_arguments(static_cast<Parameters>(arguments)...);
    const std::function<void()> body = [=] { kernel(static_cast<Parameters>(arguments)...); };
    put(stream, [=] { run_grid(name, grid, block, bytes, body); });
}

} // namespace shim

/* ---- the runtime: devices, errors, memory -------------------------------------------------------- */

struct shim_error {
    cudaError_t error;
    const char *name, *text;
};

inline const shim_error &shim_find_error(cudaError_t error) {
    static const shim_error errors[] = {
        {cudaSuccess, "cudaSuccess", "no error"},
        {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
        {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
        {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
        {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
         "CUDA driver version is insufficient for CUDA runtime version"},
        {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
        {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
        {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
         "operation not permitted when stream is capturing"},
        {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
         "operation failed due to a previous error during capture"},
        {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"}};
    size_t i = 0;
    while (errors[i].error != error && errors[i].error != cudaErrorUnknown)
        i++;
    return errors[i];
}

inline const char *cudaGetErrorName(cudaError_t error) {
    return shim_find_error(error).name;
}

inline const char *cudaGetErrorString(cudaError_t error) {
    return shim_find_error(error).text;
}

inline cudaError_t cudaGetLastError(void) {
    const cudaError_t error = shim::its.last;
    shim::its.last = cudaSuccess;
    return error;
}

inline cudaError_t cudaGetDeviceCount(int *count) {
    const cudaError_t error = shim::begin(false, false);
    *count = error ? 0 : 1;
    return error;
}

inline cudaError_t cudaSetDevice(int device) {
    const cudaError_t error = shim::begin(false, false);
    return error || !device ? error : shim::result_of(cudaErrorInvalidDevice);
}

inline cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return shim::begin(false, false);
}

inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int) {
    *properties = shim::its.device;
    return shim::begin(false, false);
}

inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
    const cudaDeviceProp &d = shim::its.device;
    *value = attribute == cudaDevAttrMultiProcessorCount            ? d.multiProcessorCount
             : attribute == cudaDevAttrComputeCapabilityMajor       ? d.major
             : attribute == cudaDevAttrComputeCapabilityMinor       ? d.minor
             : attribute == cudaDevAttrManagedMemory                ? d.managedMemory
             : attribute == cudaDevAttrConcurrentManagedAccess      ? d.concurrentManagedAccess
             : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? (int)d.sharedMemPerBlockOptin
                                                                    : 0;
    return shim::begin(false, false);
}

template <class Function>
cudaError_t cudaFuncSetAttribute(Function kernel, cudaFuncAttribute attribute, int value) {
    const cudaError_t error = shim::begin(false, false);
    if (error)
        return error;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize ||
        value > (int)shim::its.device.sharedMemPerBlockOptin)
        return shim::result_of(cudaErrorInvalidValue);
    shim::its.shared_limit[(const void *)kernel] = value > shim::MAX_SHARED ? value : (int)shim::MAX_SHARED;
    return cudaSuccess;
}

template <class T> cudaError_t cudaMalloc(T **p, size_t bytes) {
    return shim::allocate((void **)p, bytes, cudaMemoryTypeDevice);
}

template <class T> cudaError_t cudaMallocManaged(T **p, size_t bytes, unsigned = cudaMemAttachGlobal) {
    return shim::allocate((void **)p, bytes, cudaMemoryTypeManaged);
}

template <class T> cudaError_t cudaMallocHost(T **p, size_t bytes) {
    return shim::allocate((void **)p, bytes, cudaMemoryTypeHost);
}

inline cudaError_t cudaFree(void *p) {
    return shim::release(p, false);
}

inline cudaError_t cudaFreeHost(void *p) {
    return shim::release(p, true);
}

inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *p) {
    const cudaMemoryType type = shim::type_of(p);
    attributes->type = type;
    attributes->device = 0;
    attributes->devicePointer = type == cudaMemoryTypeUnregistered ? NULL : (void *)(uintptr_t)p;
    attributes->hostPointer = type == cudaMemoryTypeDevice ? NULL : attributes->devicePointer;
    return shim::begin(false, false);
}

/* ---- the runtime: copies, streams, graphs, events ------------------------------------------------- */

namespace shim {

/* Whether both ends lie where kind says, within their allocations. */
inline bool copy_fits(const void *p, size_t bytes, bool device) {
    const allocation *a = find(p);
    if (!a)
        return !device;
    const uintptr_t start = (--its.memory.upper_bound((uintptr_t)p))->first;
    return (uintptr_t)p + bytes <= start + a->bytes &&
           (a->type == cudaMemoryTypeManaged || (a->type == cudaMemoryTypeDevice) == device);
}

inline bool copy_valid(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    const bool to_device = kind == cudaMemcpyDefault
                               ? type_of(to) >= cudaMemoryTypeDevice
                               : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDefault
                                 ? type_of(from) >= cudaMemoryTypeDevice
                                 : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    return copy_fits(to, bytes, to_device) && copy_fits(from, bytes, from_device);
}

} // namespace shim

inline cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    const cudaError_t error = shim::begin(false, true);
    if (error)
        return error;
    if (!shim::copy_valid(to, from, bytes, kind))
        return shim::result_of(cudaErrorInvalidValue);
    shim::drain_all(true);
    memmove(to, from, bytes);
    return cudaSuccess;
}

/* From pageable memory the bytes are taken at once; to it the copy is done on return; pinned and device memory
   is read and written in the stream's time. */
inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t stream) {
    shim_stream *const s = shim::stream_of(stream);
    const cudaError_t error = shim::begin(false, false);
    const bool pageable_to = !shim::find(to), pageable_from = !shim::find(from);
    if (error)
        return error;
    if (!shim::copy_valid(to, from, bytes, kind))
        return shim::result_of(cudaErrorInvalidValue);
    if (s->capturing && (pageable_to || pageable_from)) {
        s->invalid = 1;
        return shim::result_of(cudaErrorStreamCaptureUnsupported);
    }
    if (pageable_from) {
        const std::string bytes_now((const char *)from, bytes);
        shim::put(stream, [=] { memcpy(to, bytes_now.data(), bytes); });
    } else {
        shim::put(stream, [=] { memmove(to, from, bytes); });
    }
    if (pageable_to)
        shim::drain(s);
    return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    const cudaError_t error = shim::begin(false, false);
    if (error)
        return error;
    if (!shim::copy_fits(to, bytes, true))
        return shim::result_of(cudaErrorInvalidValue);
    shim::put(stream, [=] { memset(to, value, bytes); });
    return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    const cudaError_t error = shim::begin(false, true);
    if (error)
        return error;
    *stream = new shim_stream();
    (*stream)->blocking = flags != cudaStreamNonBlocking;
    shim::its.streams.push_back(*stream);
    shim::its.handles++;
    return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    shim_stream *const s = shim::stream_of(stream);
    const cudaError_t error = shim::begin(false, false);
    if (error)
        return error;
    if (s->capturing) {
        s->invalid = 1;
        return shim::result_of(cudaErrorStreamCaptureUnsupported);
    }
    if (s == &shim::its.legacy)
        shim::drain_all(true);
    shim::drain(s);
    return cudaSuccess;
}

inline cudaError_t cudaDeviceSynchronize(void) {
    const cudaError_t error = shim::begin(false, true);
    if (!error)
        shim::drain_all(false);
    return error;
}

inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    std::vector<shim_stream *> &all = shim::its.streams;
    shim::drain(stream);
    for (size_t i = 0; i < all.size(); i++)
        if (all[i] == stream)
            all.erase(all.begin() + (long)i);
    delete stream;
    shim::its.handles--;
    return cudaSuccess;
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    const cudaError_t error = shim::begin(false, false);
    if (error)
        return error;
    if (!stream || stream->capturing)
        return shim::result_of(cudaErrorStreamCaptureUnsupported);
    stream->recorded.clear();
    stream->capturing = 1;
    stream->invalid = 0;
    stream->mode = mode;
    return cudaSuccess;
}

/* A call that fails still ends the capture, with no graph. */
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    const cudaError_t error = shim::begin(false, false);
    const int invalid = stream->invalid, capturing = stream->capturing;
    stream->capturing = stream->invalid = 0;
    *graph = NULL;
    if (error || !capturing || invalid)
        return error ? error
                     : shim::result_of(capturing ? cudaErrorStreamCaptureInvalidated : cudaErrorInvalidValue);
    *graph = new shim_graph();
    (*graph)->work.swap(stream->recorded);
    shim::its.handles++;
    return cudaSuccess;
}

inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    const cudaError_t error = shim::begin(false, false);
    if (error)
        return error;
    *exec = new shim_graph(*graph);
    shim::its.handles++;
    return cudaSuccess;
}

inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    const cudaError_t error = shim::begin(false, false);
    for (size_t i = 0; !error && i < exec->work.size(); i++)
        shim::put(stream, exec->work[i]);
    return error;
}

inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    shim::its.handles--;
    return cudaSuccess;
}

inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    shim::drain_all(false);
    return cudaGraphDestroy(exec);
}

inline cudaError_t cudaEventCreate(cudaEvent_t *event) {
    const cudaError_t error = shim::begin(false, false);
    if (error)
        return error;
    *event = new shim_event();
    shim::its.handles++;
    return cudaSuccess;
}

inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const cudaError_t error = shim::begin(false, false);
    if (!error)
        shim::put(stream, [=] {
            struct timespec t;
            clock_gettime(CLOCK_MONOTONIC, &t);
            event->milliseconds = 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
        });
    return error;
}

inline cudaError_t cudaEventSynchronize(cudaEvent_t) {
    const cudaError_t error = shim::begin(false, true);
    if (!error)
        shim::drain_all(false);
    return error;
}

inline cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    *milliseconds = (float)(to->milliseconds - from->milliseconds);
    return shim::begin(false, false);
}

inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
    shim::drain_all(false);
    delete event;
    shim::its.handles--;
    return cudaSuccess;
}

/* ---- device functions ---------------------------------------------------------------------------- */

__attribute__((noinline)) SHIM_INLINE void __syncthreads(void) {
    SHIM_TSAN_DO(char *const at = shim::order + shim::its.generation % 2 * 8; __tsan_release(at));
    shim::its.self->at = shim::AT_BARRIER;
    shim::its.waiting++;
    shim::release_barrier();
    shim::wait();
    SHIM_TSAN_DO(__tsan_acquire(at));
}

/* Of the warp operations this one alone orders memory. */
SHIM_INLINE void __syncwarp(unsigned mask = 0xffffffffu) {
#ifdef SHIM_TSAN
    char *const at = shim::order + shim::WARPS + shim::thread_index() / 32 * 24 +
                     (mask == 0xffffffffu ? shim::its.self->syncs++ % 2 * 8 : 16);
    __tsan_release(at);
#endif
    shim::warp_operation(shim::SYNC, mask, 0, 0);
    SHIM_TSAN_DO(__tsan_acquire(at));
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return (unsigned)shim::warp_operation(shim::BALLOT, mask, predicate != 0, 0);
}

inline int __any_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}

inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, !predicate) == 0;
}

namespace shim {

/* The value of lane `source`; of this lane where that is outside its segment of `width` lanes. */
template <class T> T shuffle(unsigned mask, T value, int source, int width) {
    const int me = thread_index() % WARP, first = me / width * width;
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = warp_operation(SHUFFLE, mask, bits,
                          (unsigned)(source < first || source >= first + width ? me : source));
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Threads run one at a time: an atomic load and store are enough. */
template <class T> T load(const T *p) {
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

template <class T> T exchange(T *p, T value) {
    return __atomic_exchange_n(p, value, __ATOMIC_RELAXED);
}

} // namespace shim

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    return shim::shuffle(mask, value, shim::thread_index() % 32 / width * width + source % width, width);
}

template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return shim::shuffle(mask, value, shim::thread_index() % 32 - (int)delta, width);
}

template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return shim::shuffle(mask, value, shim::thread_index() % 32 + (int)delta, width);
}

template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    return shim::shuffle(mask, value, (shim::thread_index() % 32) ^ bits, width);
}

__attribute__((noinline)) SHIM_INLINE void cnn__mma_tf32(float d[4], const unsigned a[4],
                                                         const unsigned b[2]) {
    shim::its.self->a = a;
    shim::its.self->b = b;
    shim::its.self->d = d;
    shim::warp_operation(shim::MMA, 0xffffffffu, 0, 0);
}

/* Copies under way hold what they read when they began, and write once they are waited for. */
namespace shim {

__attribute__((noinline)) SHIM_INLINE void push_copy(const copy *c) {
    fiber *const f = its.self;
    if (f->copy_count == f->copy_room) {
        f->copy_room = 2 * f->copy_room + 64;
        f->copies = (copy *)realloc((void *)f->copies, (size_t)f->copy_room * sizeof(copy));
    }
    f->copies[f->copy_count++] = *c;
    f->copy_groups += !c->to;
}

/* The next of those that must be done lest more than `groups` groups be under way. */
__attribute__((noinline)) SHIM_INLINE bool pop_copy(int groups, copy *c) {
    fiber *const f = its.self;
    while (f->copy_groups > groups) {
        *c = f->copies[f->copy_first++];
        if (c->to)
            return true;
        f->copy_groups--;
    }
    if (f->copy_first == f->copy_count)
        f->copy_first = f->copy_count = 0;
    return false;
}

inline void begin_copy(float *to, const float *from, int floats, bool ok) {
    copy c = {to, floats, {0, 0, 0, 0}};
    if ((uintptr_t)to % (4u * (unsigned)floats) || (ok && (uintptr_t)from % (4u * (unsigned)floats)))
        die("a copy of %d floats that is not aligned", floats);
    for (int i = 0; ok && i < floats; i++)
        c.values[i] = from[i];
    push_copy(&c);
}

} // namespace shim

inline void cnn__copy(float *to, const float *from, bool ok) {
    shim::begin_copy(to, from, 1, ok);
}

inline void cnn__copy4(float *to, const float *from, bool ok) {
    shim::begin_copy(to, from, 4, ok);
}

inline void cnn__gpu_copies_end(void) {
    const shim::copy end = {NULL, 0, {0, 0, 0, 0}};
    shim::push_copy(&end);
}

template <int N> void cnn__gpu_copies_wait(void) {
    shim::copy c;
    while (shim::pop_copy(N, &c))
        for (int i = 0; i < c.floats; i++)
            c.to[i] = c.values[i];
}

/* Integers alone: sums of floats by atomics depend on the order. */
#define SHIM_ATOMICS(type)                                                                                   \
    inline type atomicAdd(type *p, type value) {                                                             \
        return shim::exchange(p, (type)(shim::load(p) + value));                                             \
    }                                                                                                        \
    inline type atomicMin(type *p, type value) {                                                             \
        return shim::exchange(p, std::min(value, shim::load(p)));                                            \
    }                                                                                                        \
    inline type atomicMax(type *p, type value) {                                                             \
        return shim::exchange(p, std::max(value, shim::load(p)));                                            \
    }                                                                                                        \
    inline type atomicExch(type *p, type value) {                                                            \
        return shim::exchange(p, value);                                                                     \
    }                                                                                                        \
    inline type atomicCAS(type *p, type compare, type value) {                                               \
        return shim::exchange(p, shim::load(p) == compare ? value : shim::load(p));                          \
    }
SHIM_ATOMICS(int)
SHIM_ATOMICS(unsigned)
SHIM_ATOMICS(unsigned long long)

#define SHIM_BITS(name, from, to)                                                                            \
    inline to name(from value) {                                                                             \
        to bits;                                                                                             \
        memcpy(&bits, &value, sizeof bits);                                                                  \
        return bits;                                                                                         \
    }
SHIM_BITS(__float_as_uint, float, unsigned)
SHIM_BITS(__uint_as_float, unsigned, float)
SHIM_BITS(__float_as_int, float, int)
SHIM_BITS(__int_as_float, int, float)

template <class T> T __ldg(const T *p) {
    return *p;
}

inline void __threadfence(void) {
}

inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}

inline int __ffs(int bits) {
    return __builtin_ffs(bits);
}

inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((uint64_t)a * b >> 32);
}

/* Rounded twice, but a processor of whatever age does it in two instructions. */
#define fmaf(a, b, c) ((a) * (b) + (c))

inline float rsqrtf(float x) {
    return 1 / sqrtf(x);
}

inline float __expf(float x) {
    return expf(x);
}

inline float __fdividef(float a, float b) {
    return a / b;
}

template <class T> T min(T a, T b) {
    return b < a ? b : a;
}

template <class T> T max(T a, T b) {
    return a < b ? b : a;
}

#endif
