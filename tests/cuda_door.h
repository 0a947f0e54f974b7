/* What the CUDA tests ask of the library beyond its public interface; tests/library_cuda.cpp answers. What is
   marked (shim) does nothing where the kernels run on a GPU. */
#ifndef CUDA_DOOR_H
#define CUDA_DOOR_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int door_has_shim(void);

/* Workspaces made from now on take the generic kernels, where fused ones would do. */
void door_generic(int on);

/* The order of threads and blocks, and the device's number of multiprocessors. (shim) */
void door_shake(uint64_t seed, int multiprocessors);

/* 0: there is a device; else the runtime's error instead of one. (shim) */
void door_absent(int error);

/* Makes the n-th call of the runtime from now fail, or the n-th allocation; 0: none. (shim) */
void door_fail(long call, long allocation);

/* Calls, or allocations, so far. (shim) */
long door_calls(int allocations);

/* Allocations, streams, graphs and events that are not yet freed. (shim) */
long door_live(void);

/* The runtime's last error, which is then forgotten. */
int door_last_error(void);

/* The i-th kernel launched since door_forget; NULL: there were no more. (shim) */
const char *door_launched(int i);
void door_forget(void);

#ifdef __cplusplus
}
#endif
#endif
