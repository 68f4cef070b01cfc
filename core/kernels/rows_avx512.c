/* rows_avx512.c - those kernels over one row of floats that gain by AVX-512: rows to int8, exponentials.
 *
 * A vector is the 16 lanes of the sum16 order; what is left over of a row is masked.  Norms wait
 * for one chain of fma and the rest runs as fast as its loads with AVX2: they stay there.  Called through the table of
 * kernels_avx512.c. */
#include <math.h>

#include "kernels/kernels_avx512.h"

INLINE float sum_of_lanes(__m512 v) { return sum16(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)); }

/* The first n < 16 lanes. */
INLINE __mmask16 first_lanes(int64_t n) { return (__mmask16)((1u << n) - 1); }

static float float_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ---- activations to int8 --------------------------------------------------------- */

INLINE uint32_t max_magnitude(const float *x, int64_t n) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i m0 = _mm512_setzero_si512(), m1 = m0;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        m0 = _mm512_max_epi32(m0, _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude));
        m1 = _mm512_max_epi32(m1, _mm512_and_si512(_mm512_loadu_si512(x + i + 16), magnitude));
    }
    for (; i < n; i += 16) {
        __mmask16 mask = n - i >= 16 ? 0xffff : first_lanes(n - i);
        m0 = _mm512_max_epi32(m0, _mm512_and_si512(_mm512_maskz_loadu_epi32(mask, x + i), magnitude));
    }
    return (uint32_t)_mm512_reduce_max_epi32(_mm512_max_epi32(m0, m1));
}

/* rne(x*s), and their sum.  No clamp: s <= 127/max, so |x*s| < 127.0001. */
INLINE int32_t quantize(const float *x, int64_t n, float s, int8_t *q) {
    const __m512 s16 = _mm512_set1_ps(s);
    __m512i sum = _mm512_setzero_si512();
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), s16));
        sum = _mm512_add_epi32(sum, v);
        store128(q + i, _mm512_cvtepi32_epi8(v));
    }
    if (i < n) {
        __mmask16 mask = first_lanes(n - i);
        __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), s16));
        sum = _mm512_add_epi32(sum, v);
        _mm512_mask_cvtepi32_storeu_epi8(q + i, mask, v);
    }
    return _mm512_reduce_add_epi32(sum);
}

float bl_quant_row_avx512(const float *x, int64_t n, int8_t *q, int32_t *sum) {
    uint32_t bits = max_magnitude(x, n);
    if (bits >= 0x7f800000u) {
        memset(q, 0, (size_t)n);
        *sum = 0;
        return float_from_bits(0x7fc00000u);
    }
    float m = float_from_bits(bits);
    float s = 127.0f / (m > 1e-5f ? m : 1e-5f);
    *sum = quantize(x, n, s, q);
    return s;
}

void bl_quant_groups_avx512(const float *x, int64_t n, int64_t group, int8_t *q, float *d, int32_t *sums) {
    for (int64_t g = 0; g < n / group; g++, x += group, q += group) {
        uint32_t bits = max_magnitude(x, group);
        float m = float_from_bits(bits);
        if (bits >= 0x7f800000u || m < 1e-30f) {
            memset(q, 0, (size_t)group);
            sums[g] = 0;
            d[g] = bits >= 0x7f800000u ? float_from_bits(0x7fc00000u) : 0.0f;
            continue;
        }
        sums[g] = quantize(x, group, 127.0f / m, q);
        d[g] = m / 127.0f;
    }
}

/* ---- exponentials -------------------------------------------------------------------- */

/* bl_expf of 16 values, step for step. */
INLINE __m512 exp16(__m512 x) {
    __mmask16 tiny = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_LT_OQ);
    x = _mm512_min_ps(_mm512_set1_ps(88.0f), x); /* in this order a NaN stays */
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.63p-1f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(0x1.bd0106p-13f), r);
    __m512 p = _mm512_set1_ps(0x1.6a23dp-10f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.123a2p-7f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.5558f2p-5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.555492p-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.fffffcp-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    __m512i bits = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23));
    return _mm512_castsi512_ps(_mm512_maskz_mov_epi32((__mmask16)~tiny, bits));
}

INLINE __m512 silu16(__m512 gate) {
    __m512 e = exp16(_mm512_xor_ps(gate, _mm512_set1_ps(-0.0f)));
    return _mm512_div_ps(gate, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

void bl_silu_mul_avx512(const float *gate, const float *up, int64_t n, float *out) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        _mm512_storeu_ps(out + i, _mm512_mul_ps(silu16(_mm512_loadu_ps(gate + i)), _mm512_loadu_ps(up + i)));
    }
    if (i < n) {
        __mmask16 mask = first_lanes(n - i);
        __m512 v = silu16(_mm512_maskz_loadu_ps(mask, gate + i));
        _mm512_mask_storeu_ps(out + i, mask, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, up + i)));
    }
}

static float largest(const float *x, int64_t n) {
    const __m512 least = _mm512_set1_ps(-INFINITY);
    __m512 v = least, u = least;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        v = _mm512_max_ps(v, _mm512_loadu_ps(x + i));
        u = _mm512_max_ps(u, _mm512_loadu_ps(x + i + 16));
    }
    for (; i < n; i += 16) {
        __mmask16 mask = n - i >= 16 ? 0xffff : first_lanes(n - i);
        v = _mm512_max_ps(v, _mm512_mask_loadu_ps(least, mask, x + i));
    }
    return _mm512_reduce_max_ps(_mm512_max_ps(v, u)) + 0.0f;
}

/* out[i] = e^(x[i]-m) where out is not NULL; returns their sum in sum16 order.  Adding the +0 of masked lanes
 * to a sum of terms that are not negative changes nothing. */
INLINE float exp_and_sum(const float *x, int64_t n, float m, float *out) {
    const __m512 m16 = _mm512_set1_ps(m);
    __m512 sum = _mm512_setzero_ps();
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 e = exp16(_mm512_sub_ps(_mm512_loadu_ps(x + i), m16));
        if (out != NULL) {
            _mm512_storeu_ps(out + i, e);
        }
        sum = _mm512_add_ps(sum, e);
    }
    if (i < n) {
        __mmask16 mask = first_lanes(n - i);
        __m512 e = _mm512_maskz_mov_ps(mask, exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), m16)));
        if (out != NULL) {
            _mm512_mask_storeu_ps(out + i, mask, e);
        }
        sum = _mm512_add_ps(sum, e);
    }
    return sum_of_lanes(sum);
}

void bl_softmax_avx512(float *p, int64_t n, int64_t n_padded) {
    const __m512 r = _mm512_set1_ps(1.0f / exp_and_sum(p, n, largest(p, n), p));
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        _mm512_storeu_ps(p + i, _mm512_mul_ps(_mm512_loadu_ps(p + i), r));
    }
    if (i < n) {
        __mmask16 mask = first_lanes(n - i);
        _mm512_mask_storeu_ps(p + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, p + i), r));
    }
    if (n < n_padded) {
        memset(p + n, 0, (size_t)(n_padded - n) * sizeof *p);
    }
}

float bl_exp_sum_avx512(const float *l, int64_t n, float *max) {
    *max = largest(l, n);
    return exp_and_sum(l, n, *max, NULL);
}
