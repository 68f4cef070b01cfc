/* fit_avx2.c - the searches of fit_lanes.h over eight groups with AVX2.  Called through the tables of kernels_avx2.c and
 * kernels_avxvnni.c. */
#include "kernels/kernels_avx2.h"

#define LANES 8
typedef __m256 V;
typedef __m256 M;

INLINE V all(float x) { return _mm256_set1_ps(x); }
INLINE V add(V a, V b) { return _mm256_add_ps(a, b); }
INLINE V sub(V a, V b) { return _mm256_sub_ps(a, b); }
INLINE V mul(V a, V b) { return _mm256_mul_ps(a, b); }
INLINE V quotient(V a, V b) { return _mm256_div_ps(a, b); }
INLINE V at_least(V a, V b) { return _mm256_max_ps(a, b); }
INLINE V at_most(V a, V b) { return _mm256_min_ps(a, b); }
INLINE V whole(V a) { return _mm256_round_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
INLINE V magnitude(V a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE V signed_half(V a) { return _mm256_or_ps(_mm256_and_ps(a, _mm256_set1_ps(-0.0f)), _mm256_set1_ps(0.5f)); }
INLINE M above(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
INLINE M both(M a, M b) { return _mm256_and_ps(a, b); }
INLINE V pick(M m, V a, V b) { return _mm256_blendv_ps(b, a, m); }
INLINE V load_row(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store_rows(float *p, V v) { _mm256_storeu_ps(p, v); }

INLINE void store_bytes(int8_t *q, V v) {
    __m256i i = _mm256_cvttps_epi32(v);
    __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    _mm_storel_epi64((__m128i *)q, _mm_packs_epi16(h, h));
}

INLINE void columns(const float *x, int64_t stride, int n, V *t) {
    for (int j = 0; j < n; j += 8)
        transpose8(x + j, stride, t + j);
}

#define NAME(f) f##_avx2
#define NEXT(f) f##_ref
#include "kernels/fit_lanes.h"
