/* The AVX-512 kernels on machines that have AVX2 and FMA alone: every _mm512_ intrinsic that cnn.h uses, as
   functions of the same meaning on the same types. Compile tests/library.c with -DCNN__AVX512_SHIM: then this
   comes before the library, whose AVX-512 functions are compiled for AVX2, and check_select_isa knows of no
   instruction set but avx512. An intrinsic that is missing here does not compile.

   Lanes that are off are never touched, neither by loads nor by stores, and what is touched is touched by
   plain C: AddressSanitizer, which does not look into intrinsics, sees every overrun. */
#ifndef AVX512_SHIM_H
#define AVX512_SHIM_H

#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "avx512f" is there where AVX2 and FMA are. */
static int shim_supports(const char *name) {
    __builtin_cpu_init();
    (void)name;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#define __builtin_cpu_supports(name) shim_supports(name)

__attribute__((constructor)) static void shim_start(void) {
    if (!shim_supports("avx512f")) {
        printf("the AVX-512 shim needs AVX2 and FMA\n");
        exit(77);
    }
}

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define SHIM static inline __attribute__((always_inline, unused))

typedef unsigned shim_lanes __attribute__((vector_size(64), may_alias)); /* shifts without signs */

SHIM __m256 shim_half(__m512 v, int upper) {
    __m256 half;
    memcpy(&half, (const char *)&v + (upper ? sizeof half : 0), sizeof half);
    return half;
}
SHIM __m512 shim_join(__m256 lower, __m256 upper) {
    __m512 v;
    memcpy(&v, &lower, sizeof lower);
    memcpy((char *)&v + sizeof lower, &upper, sizeof upper);
    return v;
}
#define SHIM_JOIN2(f, a, b)                                                                                  \
    shim_join(f(shim_half(a, 0), shim_half(b, 0)), f(shim_half(a, 1), shim_half(b, 1)))

/* Out of line: there are hundreds of calls in unrolled loops. */
__attribute__((noinline)) static __m512 shim_load_some(unsigned mask, const float *p) {
    __m512 v = {0};
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1)
            v[i] = p[i];
    return v;
}
__attribute__((noinline)) static void shim_store_some(float *p, unsigned mask, __m512 v) {
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1)
            p[i] = v[i];
}
SHIM __m512 shim_load(const void *p) {
    __m512 v;
    memcpy(&v, p, sizeof v);
    return v;
}
SHIM void shim_store(void *p, __m512 v) {
    memcpy(p, &v, sizeof v);
}
SHIM __m512 shim_maskz_load(unsigned mask, const void *p) {
    return mask == 0xffff ? shim_load(p) : shim_load_some(mask, (const float *)p);
}
SHIM void shim_mask_store(void *p, unsigned mask, __m512 v) {
    if (mask == 0xffff)
        shim_store(p, v);
    else
        shim_store_some((float *)p, mask, v);
}
SHIM __m512 shim_mask_mov(__m512 off, unsigned mask, __m512 v) {
    for (int i = 0; mask != 0xffff && i < 16; i++)
        if (!(mask >> i & 1))
            v[i] = off[i];
    return v;
}
SHIM __m512 shim_maskz_mov(unsigned mask, __m512 v) {
    const __m512 zero = {0};
    return shim_mask_mov(zero, mask, v);
}
SHIM __m512 shim_set1(float f) {
    return shim_join(_mm256_set1_ps(f), _mm256_set1_ps(f));
}
SHIM __m512 shim_fmadd(__m512 a, __m512 b, __m512 c) {
    return shim_join(_mm256_fmadd_ps(shim_half(a, 0), shim_half(b, 0), shim_half(c, 0)),
                     _mm256_fmadd_ps(shim_half(a, 1), shim_half(b, 1), shim_half(c, 1)));
}
/* Off by up to 2^-14, as the instruction may be. */
SHIM __m512 shim_rcp14(__m512 v) {
    const shim_lanes right = (shim_lanes)(1.0f / v);
    return (__m512)(right & ~0x1ffu);
}
SHIM __m512i shim_set1_epi32(int n) {
    const shim_lanes v = {0};
    return (__m512i)(v + (unsigned)n);
}
SHIM __m512i shim_add_epi32(__m512i a, __m512i b) {
    return (__m512i)((shim_lanes)a + (shim_lanes)b);
}
SHIM __m512i shim_maskz_slli_epi32(unsigned mask, __m512i v, unsigned by) {
    return (__m512i)shim_maskz_mov(mask, (__m512)((shim_lanes)v << by));
}
SHIM __m512i shim_maskz_cvtepu8_epi32(unsigned mask, __m128i bytes) {
    const unsigned char *b = (const unsigned char *)&bytes;
    shim_lanes v = {0};
    for (int i = 0; i < 16; i++)
        v[i] = b[i];
    return (__m512i)shim_maskz_mov(mask, (__m512)v);
}
SHIM __m512 shim_maskz_cvtepi32_ps(unsigned mask, __m512i from) {
    const int *n = (const int *)&from;
    __m512 v = {0};
    for (int i = 0; i < 16; i++)
        v[i] = (float)n[i];
    return shim_maskz_mov(mask, v);
}
SHIM __m512 shim_permutex2var(__m512 a, __m512i lanes, __m512 b) {
    const shim_lanes lane = (shim_lanes)lanes;
    __m512 v = {0};
    for (int i = 0; i < 16; i++)
        v[i] = lane[i] & 16 ? b[lane[i] & 15] : a[lane[i] & 15];
    return v;
}
SHIM __m256d shim_maskz_extract(unsigned mask, __m512d v, int upper) {
    __m256d half = _mm256_castps_pd(shim_half((__m512)v, upper));
    for (int i = 0; i < 4; i++)
        half[i] = mask >> i & 1 ? half[i] : 0;
    return half;
}
SHIM __m512d shim_maskz_insert(unsigned mask, __m512d v, __m256d half, int upper) {
    for (int i = 0; i < 4; i++)
        v[i + 4 * upper] = half[i];
    for (int i = 0; i < 8; i++)
        v[i] = mask >> i & 1 ? v[i] : 0;
    return v;
}
SHIM __m512 shim_maskz_insert4(unsigned mask, __m512 v, __m128 quarter, int at) {
    for (int i = 0; i < 4; i++)
        v[i + 4 * at] = quarter[i];
    return shim_maskz_mov(mask, v);
}
SHIM __mmask16 shim_mask(__m256 lower, __m256 upper) {
    return (__mmask16)(_mm256_movemask_ps(lower) | _mm256_movemask_ps(upper) << 8);
}

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

/* Some are macros of the compiler's. */
#undef _mm512_cmp_ps_mask
#undef _mm512_maskz_extractf64x4_pd
#undef _mm512_maskz_insertf32x4
#undef _mm512_maskz_insertf64x4
#undef _mm512_maskz_slli_epi32
#undef _mm512_setr_epi32
#define _mm512_add_epi32(a, b)    shim_add_epi32(a, b)
#define _mm512_castpd_ps(v)       ((__m512)(v))
#define _mm512_castps128_ps512(v) shim_join(_mm256_castps128_ps256(v), _mm256_setzero_ps())
#define _mm512_castps_pd(v)       ((__m512d)(v))
#define _mm512_castps_si512(v)    ((__m512i)(v))
#define _mm512_castsi512_ps(v)    ((__m512)(v))
#define _mm512_cmp_ps_mask(a, b, how)                                                                        \
    shim_mask(_mm256_cmp_ps(shim_half(a, 0), shim_half(b, 0), how),                                          \
              _mm256_cmp_ps(shim_half(a, 1), shim_half(b, 1), how))
#define _mm512_fmadd_ps(a, b, c)              shim_fmadd(a, b, c)
#define _mm512_fnmadd_ps(a, b, c)             shim_fmadd(-(a), b, c)
#define _mm512_loadu_ps(p)                    shim_load(p)
#define _mm512_mask_mov_ps(off, m, v)         shim_mask_mov(off, m, v)
#define _mm512_mask_storeu_ps(p, m, v)        shim_mask_store(p, m, v)
#define _mm512_maskz_cvtepi32_ps(m, v)        shim_maskz_cvtepi32_ps(m, v)
#define _mm512_maskz_cvtepu8_epi32(m, v)      shim_maskz_cvtepu8_epi32(m, v)
#define _mm512_maskz_extractf64x4_pd(m, v, i) shim_maskz_extract(m, v, i)
#define _mm512_maskz_insertf32x4(m, v, q, i)  shim_maskz_insert4(m, v, q, i)
#define _mm512_maskz_insertf64x4(m, v, h, i)  shim_maskz_insert(m, v, h, i)
#define _mm512_maskz_loadu_ps(m, p)           shim_maskz_load(m, p)
#define _mm512_maskz_max_ps(m, a, b)          shim_maskz_mov(m, SHIM_JOIN2(_mm256_max_ps, a, b))
#define _mm512_maskz_min_ps(m, a, b)          shim_maskz_mov(m, SHIM_JOIN2(_mm256_min_ps, a, b))
#define _mm512_maskz_mov_ps(m, v)             shim_maskz_mov(m, v)
#define _mm512_maskz_rcp14_ps(m, v)           shim_maskz_mov(m, shim_rcp14(v))
#define _mm512_maskz_slli_epi32(m, v, by)     shim_maskz_slli_epi32(m, v, by)
#define _mm512_maskz_unpackhi_ps(m, a, b)     shim_maskz_mov(m, SHIM_JOIN2(_mm256_unpackhi_ps, a, b))
#define _mm512_maskz_unpacklo_ps(m, a, b)     shim_maskz_mov(m, SHIM_JOIN2(_mm256_unpacklo_ps, a, b))
#define _mm512_permutex2var_ps(a, lanes, b)   shim_permutex2var(a, lanes, b)
#define _mm512_set1_epi32(n)                  shim_set1_epi32(n)
#define _mm512_set1_ps(f)                     shim_set1(f)
#define _mm512_setr_epi32(...)                ((__m512i)(shim_lanes){__VA_ARGS__})
#define _mm512_storeu_ps(p, v)                shim_store(p, v)

#endif
