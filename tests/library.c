/* The library as the test programs link it: compiled once, with an allocator that counts and can be made to
   fail, and a door to the choice of instruction set. */
#include <stddef.h>
#include <stdlib.h>

#include "check.h"
#ifdef CNN__AVX512_SHIM
#include "avx512_shim.h"
#endif

long alloc_calls, alloc_live, alloc_fail_at, alloc_null_frees;
size_t alloc_largest;

static void *counted_malloc(size_t bytes) { /* the tests that fail allocations have one thread, others many */
    const long call = __atomic_add_fetch(&alloc_calls, 1, __ATOMIC_RELAXED);
    if (bytes > __atomic_load_n(&alloc_largest, __ATOMIC_RELAXED))
        __atomic_store_n(&alloc_largest, bytes, __ATOMIC_RELAXED);
    if (call == alloc_fail_at || bytes > ((size_t)1 << 30))
        return NULL;
    void *memory = malloc(bytes);
    if (memory)
        __atomic_add_fetch(&alloc_live, 1, __ATOMIC_RELAXED);
    return memory;
}

static void counted_free(void *memory) {
    if (!memory)
        __atomic_add_fetch(&alloc_null_frees, 1, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&alloc_live, 1, __ATOMIC_RELAXED);
    free(memory);
}

#if defined(_OPENMP) && !defined(CNN_NO_OPENMP)
#include <omp.h>
#define omp_get_num_procs() 1024 /* the tests ask for more threads than machines may have */
#endif
#define CNN_MALLOC(bytes) counted_malloc(bytes)
#define CNN_FREE(memory)  counted_free(memory)
#define CNN_IMPLEMENTATION
#include "cnn.h"

int check_select_isa(const char *name) {
#ifdef CNN__AVX512_SHIM /* the programs loop over those that there are; here the others would be run again */
    if (name && strcmp(name, "avx512"))
        return 0;
#endif
    return cnn__select_isa(name);
}
