/* limits_avx512.c - int8 products a second with VPDPBUSD, of 512 and of 256 bits.
 *
 * Called by limits.c and checkkernels where the CPU has the instructions; nothing in this file runs elsewhere. */
#include "kernels/kernels.h"
#include "limits_isa.h"

#if defined(__x86_64__)
#include <immintrin.h>

/* Twelve sums hide the latency of the instruction at two a cycle; they are variables of their own so that they
 * stay in registers. */
#define TWELVE(STEP)                                                                                           \
    STEP(s0) STEP(s1) STEP(s2) STEP(s3) STEP(s4) STEP(s5) STEP(s6) STEP(s7) STEP(s8) STEP(s9) STEP(s10) STEP(s11)

__attribute__((target("avx512f,avx512vnni"), noinline)) double limit_run_vnni512(int n) {
    __m512i x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2), s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0,
            s4 = s0, s5 = s0, s6 = s0, s7 = s0, s8 = s0, s9 = s0, s10 = s0, s11 = s0;
    for (int i = 0; i < n; i++) {
#define STEP(sum) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
        TWELVE(STEP)
#undef STEP
    }
    return 2.0 * 64 * 12 * n;
}

/* Either form of the instruction: AVX-512's, or that of AVX-VNNI. */
__attribute__((target("avx2"), noinline)) double limit_run_vnni256(int n) {
    __m256i x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(2), s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0,
            s4 = s0, s5 = s0, s6 = s0, s7 = s0, s8 = s0, s9 = s0, s10 = s0, s11 = s0;
    int evex = (bl_cpu_detect() & BL_CPU_AVX512) != 0;
    for (int i = 0; i < n && evex; i++) {
#define STEP(sum) __asm__ volatile("%{evex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y));
        TWELVE(STEP)
#undef STEP
    }
    for (int i = 0; i < n && !evex; i++) {
#define STEP(sum) __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y));
        TWELVE(STEP)
#undef STEP
    }
    return 2.0 * 32 * 12 * n;
}

#else

double limit_run_vnni512(int n) { return 0 * n; }
double limit_run_vnni256(int n) { return 0 * n; }

#endif
