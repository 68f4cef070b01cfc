/* limits_avx2.c - what the machine allows one thread: reading memory, and int8 products with
 * vpmaddubsw + vpaddw.  Called by checkkernels --bench, in the same run as the kernels, and by limits.c. */
#define _GNU_SOURCE
#include "limits_avx2.h"

#include <time.h>

#include "base/base.h"
#include "limits_isa.h"

uint64_t limit_clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) uint64_t limit_run_read(const uint8_t *p, size_t bytes) {
    /* Two streams and explicit prefetch: one stream with the hardware's prefetch alone reads less. */
    const uint8_t *q = p + bytes / 2;
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i + 64 <= bytes / 2; i += 64) {
        _mm_prefetch((const char *)p + i + 4096, _MM_HINT_T0);
        _mm_prefetch((const char *)q + i + 4096, _MM_HINT_T0);
        a = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)(p + i)));
        b = _mm256_xor_si256(b, _mm256_loadu_si256((const __m256i *)(p + i + 32)));
        c = _mm256_xor_si256(c, _mm256_loadu_si256((const __m256i *)(q + i)));
        d = _mm256_xor_si256(d, _mm256_loadu_si256((const __m256i *)(q + i + 32)));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (uint64_t)_mm256_extract_epi64(a, 0) ^ (uint64_t)_mm256_extract_epi64(a, 2);
}

double limit_read_bandwidth(const uint8_t *p, size_t bytes) {
    uint64_t best = UINT64_MAX, sum = 0;
    for (int i = 0; i < 7; i++) {
        uint64_t start = limit_clock_ns();
        sum ^= limit_run_read(p, bytes);
        uint64_t t = limit_clock_ns() - start;
        best = BL_MIN(best, t);
    }
    __asm__ volatile("" : : "r"(sum));
    return (double)bytes / (double)best;
}

/* Eight sums hide the latency; they are variables of their own so that they stay in registers. */
__attribute__((target("avx2"), noinline)) double limit_run_maddubs(int n) {
    __m256i x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(2);
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a, e = a, f = a, g = a, h = a;
#define STEP(sum)                                                                                              \
    __asm__ volatile("" : "+x"(x));                                                                            \
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(x, y));
    for (int i = 0; i < n; i++) {
        STEP(a) STEP(b) STEP(c) STEP(d) STEP(e) STEP(f) STEP(g) STEP(h)
    }
#undef STEP
    __asm__ volatile("" : : "x"(a), "x"(b), "x"(c), "x"(d), "x"(e), "x"(f), "x"(g), "x"(h));
    return 2.0 * 32 * 8 * n;
}

/* Two operations a product. */
double limit_maddubs(void) {
    const int n = 400000;
    double best = 0;
    for (int round = 0; round < 7; round++) {
        uint64_t start = limit_clock_ns();
        double done = limit_run_maddubs(n), rate = done / (double)(limit_clock_ns() - start);
        best = BL_MAX(best, rate);
    }
    return best;
}

#else

uint64_t limit_run_read(const uint8_t *p, size_t bytes) {
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes; i += 64)
        sum ^= p[i];
    return sum;
}

double limit_run_maddubs(int n) { return 0 * n; }

double limit_read_bandwidth(const uint8_t *p, size_t bytes) {
    (void)p;
    (void)bytes;
    return 0;
}

double limit_maddubs(void) { return 0; }

#endif
