/* The few lines that every C test shares. A test program is linked with tests/library.c, makes its checks,
   and returns check_done(): 0 when all held and no memory leaked, 1 otherwise; check_skip() makes the status
   77. The last line a program prints is its summary, or the reason of its skip. Random tests take their seed
   from check_seed(). */
#ifndef CHECK_H
#define CHECK_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the library's allocator: calls so far, blocks not yet freed, the number of the call that fails (0: none),
   calls of CNN_FREE(NULL), and the largest request in bytes. Above 1 GiB every request fails. */
extern long alloc_calls, alloc_live, alloc_fail_at, alloc_null_frees;
extern size_t alloc_largest;

/* Uses the instruction set of this name from now on, NULL the best; 0: this machine or build lacks it. */
int check_select_isa(const char *name);

static long check_count_;
static long check_failures_;

/* Records one check; the first 20 failures are printed. The message is a printf format and its arguments. */
#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        check_count_++;                                                                                      \
        if (!(condition) && check_failures_++ < 20) {                                                        \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);                                           \
            printf(__VA_ARGS__);                                                                             \
            printf("\n");                                                                                    \
        }                                                                                                    \
    } while (0)

/* got within absolute + relative*|want| of want; NaN only for NaN. */
static int check_close(double got, double want, double absolute, double relative) {
    if (isnan(want) || isnan(got))
        return isnan(want) && isnan(got);
    return got == want || fabs(got - want) <= absolute + relative * fabs(want);
}

/* The seed of this run: CNN_TEST_SEED where it is set, else a fixed one. Print it with every failure. */
static uint64_t check_seed(void) {
    const char *text = getenv("CNN_TEST_SEED");
    return text ? strtoull(text, NULL, 10) : 20250301u;
}

/* A generator of the tests' own (splitmix64), so that they do not lean on the library's. */
static uint64_t check_bits(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int check_range(uint64_t *state, int low, int high) { /* uniform in low..high */
    return low + (int)(check_bits(state) % (uint64_t)(high - low + 1));
}

static float check_uniform(uint64_t *state) { /* uniform in -1..1 */
    return (float)((double)(check_bits(state) >> 40) / 8388608.0 - 1.0);
}

static int check_done(void) {
    CHECK(!alloc_live && !alloc_null_frees, "%ld blocks leaked, %ld frees of NULL", alloc_live,
          alloc_null_frees);
    if (check_failures_)
        printf("%ld of %ld checks failed\n", check_failures_, check_count_);
    else
        printf("%ld checks\n", check_count_);
    return check_failures_ || !check_count_ ? 1 : 0;
}

static int check_skip(const char *reason) {
    printf("%s\n", reason);
    return 77;
}

/* Mentions every function, so that a test which needs only some draws no warning. */
static inline void check_unused_(void) {
    (void)check_close;
    (void)check_seed;
    (void)check_bits;
    (void)check_range;
    (void)check_uniform;
    (void)check_done;
    (void)check_skip;
}

#endif
