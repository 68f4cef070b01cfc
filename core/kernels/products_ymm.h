/* products_ymm.h - sums of products of unsigned and signed bytes in 256 bits: what ternary_avx2.c
 * is compiled over, once for each way to have them.
 *
 *   plain          vpmaddubsw + vpaddw: int16 sums, which the callers widen before they can overflow
 *   BL_VNNI        vpdpbusd of AVX-VNNI: int32 sums, nothing to widen
 *   BL_VNNI_EVEX   the same instruction as AVX-512VL has it, for checkkernels on a processor without AVX-VNNI
 *
 * YMM(name) is a function's name with the table's suffix.  Included by that file and by kernels_avxvnni.c. */
#ifndef BL_PRODUCTS_YMM_H
#define BL_PRODUCTS_YMM_H

#include "kernels/kernels_avx2.h"

#if defined(BL_VNNI_EVEX)
#define YMM(name) name##_avxvnni_evex
#elif defined(BL_VNNI)
#define YMM(name) name##_avxvnni
#else
#define YMM(name) name##_avx2
#endif

#if defined(BL_VNNI) || defined(BL_VNNI_EVEX)
#define BL_SUMS_32 1
INLINE __m256i products(__m256i sum, __m256i u, __m256i s) {
#ifdef BL_VNNI_EVEX
    __asm__("%{evex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(u), "x"(s));
#else
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(u), "x"(s));
#endif
    return sum;
}
/* As int32, times 1 and times 4. */
INLINE __m256i widened(__m256i sum) { return sum; }
INLINE __m256i widened4(__m256i sum) { return _mm256_slli_epi32(sum, 2); }
#else
#define BL_SUMS_32 0
INLINE __m256i products(__m256i sum, __m256i u, __m256i s) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(u, s));
}
INLINE __m256i widened(__m256i sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
INLINE __m256i widened4(__m256i sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(4)); }
#endif

void YMM(bl_ternary_i8)(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                        int64_t ldx, const int32_t *xsum, const float *factor, int64_t n_tok, float *y,
                        int64_t ldy, void *scratch);

#endif
