/* fit_avx512.c - the searches of fit_lanes.h over sixteen groups with AVX-512.  Called through the table of
 * kernels_avx512.c. */
#include "kernels/kernels_avx512.h"

#define LANES 16
typedef __m512 V;
typedef __mmask16 M;

INLINE V all(float x) { return _mm512_set1_ps(x); }
INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
INLINE V sub(V a, V b) { return _mm512_sub_ps(a, b); }
INLINE V mul(V a, V b) { return _mm512_mul_ps(a, b); }
INLINE V quotient(V a, V b) { return _mm512_div_ps(a, b); }
INLINE V at_least(V a, V b) { return _mm512_max_ps(a, b); }
INLINE V at_most(V a, V b) { return _mm512_min_ps(a, b); }
INLINE V whole(V a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
INLINE V magnitude(V a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
INLINE V signed_half(V a) { return _mm512_or_ps(_mm512_and_ps(a, _mm512_set1_ps(-0.0f)), _mm512_set1_ps(0.5f)); }
INLINE M above(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
INLINE M both(M a, M b) { return a & b; }
INLINE V pick(M m, V a, V b) { return _mm512_mask_blend_ps(m, b, a); }
INLINE V load_row(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store_rows(float *p, V v) { _mm512_storeu_ps(p, v); }
INLINE void store_bytes(int8_t *q, V v) { store128(q, _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v))); }

INLINE void columns(const float *x, int64_t stride, int n, V *t) {
    for (int j = 0; j < n; j += 8) {
        __m256 low[8], high[8];
        transpose8(x + j, stride, low);
        transpose8(x + 8 * stride + j, stride, high);
        for (int i = 0; i < 8; i++)
            t[j + i] = _mm512_insertf32x8(_mm512_castps256_ps512(low[i]), high[i], 1);
    }
}

#define NAME(f) f##_avx512
#define NEXT(f) f##_avx2
#include "kernels/fit_lanes.h"
