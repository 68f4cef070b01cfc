/* limits_avx2.c - what the machine allows one thread: reading memory, and int8 products with
 * vpmaddubsw + vpaddw.  Called by checkkernels --bench, in the same run as the kernels. */
#include "limits_avx2.h"

#include "base/base.h"

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static uint64_t read_all(const uint8_t *p, size_t bytes) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i + 128 <= bytes; i += 128) {
        a = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)(p + i)));
        b = _mm256_xor_si256(b, _mm256_loadu_si256((const __m256i *)(p + i + 32)));
        c = _mm256_xor_si256(c, _mm256_loadu_si256((const __m256i *)(p + i + 64)));
        d = _mm256_xor_si256(d, _mm256_loadu_si256((const __m256i *)(p + i + 96)));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (uint64_t)_mm256_extract_epi64(a, 0) ^ (uint64_t)_mm256_extract_epi64(a, 2);
}

double limit_read_bandwidth(const uint8_t *p, size_t bytes) {
    uint64_t best = UINT64_MAX, sum = 0;
    for (int i = 0; i < 7; i++) {
        uint64_t start = bl_now_ns();
        sum ^= read_all(p, bytes);
        uint64_t t = bl_now_ns() - start;
        best = BL_MIN(best, t);
    }
    __asm__ volatile("" : : "r"(sum));
    return (double)bytes / (double)best;
}

/* Two operations a product; ten sums hide the latency. */
__attribute__((target("avx2"))) double limit_maddubs(void) {
    __m256i s[10], x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(2);
    for (int i = 0; i < 10; i++) {
        s[i] = _mm256_setzero_si256();
    }
    double best = 0;
    for (int round = 0; round < 7; round++) {
        uint64_t start = bl_now_ns();
        const int n = 300000;
        for (int k = 0; k < n; k++) {
#pragma GCC unroll 10
            for (int i = 0; i < 10; i++) {
                __asm__ volatile("" : "+x"(x));
                s[i] = _mm256_add_epi16(s[i], _mm256_maddubs_epi16(x, y));
            }
        }
        double rate = (double)n * 10 * 64 / (double)(bl_now_ns() - start);
        best = BL_MAX(best, rate);
    }
    for (int i = 0; i < 10; i++) {
        __asm__ volatile("" : : "x"(s[i]));
    }
    return best;
}

#else

double limit_read_bandwidth(const uint8_t *p, size_t bytes) {
    (void)p;
    (void)bytes;
    return 0;
}

double limit_maddubs(void) { return 0; }

#endif
