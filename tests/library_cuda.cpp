/* The library with its CUDA back end as the tests link it: with g++ the kernels run on the CPU under the shim,
   with nvcc (-x cu) on the GPU. With CNN_TEST_DEVICE=cuda in the environment any test program runs on that
   device from its start; where there is none, it skips. */
#define CNN_CUDA
#ifndef __CUDACC__
#include "cuda_shim.h"
#endif
/* The test programs are C. */
extern "C" int check_select_isa(const char *name);
#include "library.c"

#include "cuda_door.h"

static int choose_device(void) {
    const char *name = getenv("CNN_TEST_DEVICE");
    if (name && !strcmp(name, "cuda") && cnn_device_use(CNN_DEVICE_CUDA))
        exit(check_skip(cnn_last_error()));
    return 1;
}
static const int device_chosen = choose_device();

extern "C" {

void door_generic(int on) {
    cnn__cuda_no_fuse = on;
}

int door_last_error(void) {
    return (int)cudaGetLastError();
}

#ifdef CNN__CUDA_SHIM
int door_has_shim(void) {
    return device_chosen;
}

void door_shake(uint64_t seed, int multiprocessors) {
    shim::seed(seed);
    shim::its.device.multiProcessorCount = multiprocessors;
}

void door_absent(int error) {
    shim::its.present = (cudaError_t)error;
}

void door_fail(long call, long allocation) {
    shim::fail_at(call, cudaErrorUnknown);
    shim::fail_allocation(allocation);
}

long door_calls(int allocations) {
    return allocations ? shim::its.allocations : shim::its.calls;
}

long door_live(void) {
    return shim::live();
}

const char *door_launched(int i) {
    std::map<std::string, long>::const_iterator it = shim::its.launches.begin();
    while (i-- && it != shim::its.launches.end())
        ++it;
    return it == shim::its.launches.end() ? NULL : it->first.c_str();
}

void door_forget(void) {
    shim::its.launches.clear();
}
#else
int door_has_shim(void) {
    return !device_chosen;
}

void door_shake(uint64_t, int) {
}

void door_absent(int) {
}

void door_fail(long, long) {
}

long door_calls(int) {
    return 0;
}

long door_live(void) {
    return 0;
}

const char *door_launched(int) {
    return NULL;
}

void door_forget(void) {
}
#endif
}
