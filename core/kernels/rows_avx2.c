/* rows_avx2.c - kernels over one row of floats, and over binary codes, with AVX2.
 *
 * Sums in sum16 order are two vectors of eight lanes; what is left over of a row goes
 * lane by lane (fold_tail) or through a padded copy.  The scalar ends repeat the plain C
 * of kernels_ref.c.  Called through the table of kernels_avx2.c. */
#include <math.h>

#include "kernels/kernels_avx2.h"

/* Ends a sum of products: lanes of the vectors, then a[i]*b[i] for first <= i < n. */
static float fold_tail(__m256 lo, __m256 hi, const float *a, const float *b, int64_t first, int64_t n) {
    float lane[16];
    _mm256_storeu_ps(lane, lo);
    _mm256_storeu_ps(lane + 8, hi);
    for (int64_t i = first; i < n; i++) {
        lane[i - first] = fma_scalar(a[i], b[i], lane[i - first]);
    }
    return sum16(_mm256_loadu_ps(lane), _mm256_loadu_ps(lane + 8));
}

float bl_dot_f32_avx2(const float *a, const float *b, int64_t n) {
    __m256 lo = _mm256_setzero_ps(), hi = lo;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        lo = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), lo);
        hi = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), hi);
    }
    return i == n ? sum16(lo, hi) : fold_tail(lo, hi, a, b, i, n);
}

void bl_widen_avx2(int32_t type, const uint8_t *in, int64_t n, float *out) {
    int64_t i = 0;
    for (; i + 8 <= n && type == BL_TYPE_F16; i += 8) {
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(load128(in + 2 * i)));
    }
    for (; i + 8 <= n && type == BL_TYPE_BF16; i += 8) {
        store256(out + i, _mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(in + 2 * i)), 16));
    }
    bl_kernels_ref.widen(type, in + bl_row_bytes(type, i), n - i, out + i);
}

void bl_rmsnorm_avx2(const float *x, const float *w, int64_t n, float eps, float *y) {
    float s = bl_dot_f32_avx2(x, x, n);
    float r = 1.0f / sqrtf(fma_scalar(s, 1.0f / (float)n, eps));
    __m256 r8 = _mm256_set1_ps(r);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), r8), _mm256_loadu_ps(w + i)));
    }
    for (; i < n; i++) {
        y[i] = (x[i] * r) * w[i];
    }
}

/* ---- activations to int8 --------------------------------------------------------- */

static uint32_t float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE uint32_t max_magnitude(const float *x, int64_t n) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i m0 = _mm256_setzero_si256(), m1 = m0;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        m0 = _mm256_max_epi32(m0, _mm256_and_si256(load256(x + i), magnitude));
        m1 = _mm256_max_epi32(m1, _mm256_and_si256(load256(x + i + 8), magnitude));
    }
    m0 = _mm256_max_epi32(m0, m1);
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(m0), _mm256_extracti128_si256(m0, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    uint32_t best = (uint32_t)_mm_cvtsi128_si32(m);
    for (; i < n; i++) {
        uint32_t bits = float_bits(x[i]) & 0x7fffffffu;
        best = bits > best ? bits : best;
    }
    return best;
}

/* rne(x*s) of eight values.  No clamp: s <= 127/max, so |x*s| < 127.0001. */
INLINE __m256i quantized(const float *x, __m256 s) {
    return _mm256_cvtps_epi32(_mm256_round_ps(_mm256_mul_ps(_mm256_loadu_ps(x), s),
                                              _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

INLINE int32_t quantize(const float *x, int64_t n, float s, int8_t *q) {
    const __m256 s8 = _mm256_set1_ps(s);
    /* Packing works in 128-bit halves and leaves the quarters in the order 0 2 4 6 1 3 5 7. */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i sums = _mm256_setzero_si256();
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i a = quantized(x + i, s8), b = quantized(x + i + 8, s8);
        __m256i c = quantized(x + i + 16, s8), d = quantized(x + i + 24, s8);
        __m256i ab = _mm256_packs_epi32(a, b), cd = _mm256_packs_epi32(c, d);
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_add_epi16(ab, cd), _mm256_set1_epi16(1)));
        store256(q + i, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, cd), order));
    }
    __m128i v = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1));
    int32_t sum = _mm_cvtsi128_si32(v);
    for (; i < n; i++) {
        q[i] = (int8_t)rintf(x[i] * s);
        sum += q[i];
    }
    return sum;
}

float bl_quant_row_avx2(const float *x, int64_t n, int8_t *q, int32_t *sum) {
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

void bl_quant_groups_avx2(const float *x, int64_t n, int64_t group, int8_t *q, float *d, int32_t *sums) {
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

void bl_residual_avx2(const float *x, int64_t n, int64_t group, const int8_t *q, const float *d, float *r) {
    for (int64_t i = 0; i < n; i += 8) { /* groups are multiples of 16 */
        __m256 v = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(q + i))));
        __m256 step = _mm256_broadcast_ss(d + i / group);
        _mm256_storeu_ps(r + i, _mm256_fnmadd_ps(step, v, _mm256_loadu_ps(x + i)));
    }
}

/* ---- element by element ------------------------------------------------------------- */

void bl_relu2_mul_avx2(const float *gate, const float *up, int64_t n, float *out) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        /* maxps gives its second operand for a NaN and for -0: +0, as the plain C does. */
        __m256 t = _mm256_max_ps(_mm256_loadu_ps(gate + i), _mm256_setzero_ps());
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_mul_ps(t, t), _mm256_loadu_ps(up + i)));
    }
    for (; i < n; i++) {
        float t = gate[i] > 0.0f ? gate[i] : 0.0f;
        out[i] = (t * t) * up[i];
    }
}

INLINE __m256 silu8(__m256 gate) {
    __m256 e = exp8(_mm256_xor_ps(gate, _mm256_set1_ps(-0.0f)));
    return _mm256_div_ps(gate, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

void bl_silu_mul_avx2(const float *gate, const float *up, int64_t n, float *out) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i, _mm256_mul_ps(silu8(_mm256_loadu_ps(gate + i)), _mm256_loadu_ps(up + i)));
    }
    if (i < n) {
        float t[8] = {0};
        memcpy(t, gate + i, (size_t)(n - i) * sizeof *t);
        _mm256_storeu_ps(t, silu8(_mm256_loadu_ps(t)));
        for (int64_t j = 0; i < n; i++, j++) {
            out[i] = t[j] * up[i];
        }
    }
}

void bl_add_avx2(float *x, const float *y, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    }
    for (; i < n; i++) {
        x[i] += y[i];
    }
}

void bl_rope_avx2(float *head, const float *cs, const float *sn, int64_t n_rot, int neox) {
    int64_t half = n_rot / 2, i = 0;
    if (neox) {
        const __m256 sign = _mm256_set1_ps(-0.0f);
        for (; i + 8 <= half; i += 8) {
            __m256 a = _mm256_loadu_ps(head + i), b = _mm256_loadu_ps(head + half + i);
            __m256 c = _mm256_loadu_ps(cs + i), s = _mm256_loadu_ps(sn + i);
            __m256 bs = _mm256_xor_ps(_mm256_mul_ps(b, s), sign);
            _mm256_storeu_ps(head + i, _mm256_fmadd_ps(a, c, bs));
            _mm256_storeu_ps(head + half + i, _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)));
        }
    } else {
        const __m256 even_sign = _mm256_setr_ps(-0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f);
        for (; i + 4 <= half; i += 4) {
            __m256 v = _mm256_loadu_ps(head + 2 * i);
            __m128 c = _mm_loadu_ps(cs + i), s = _mm_loadu_ps(sn + i);
            __m256 p = _mm256_set_m128(_mm_unpackhi_ps(c, s), _mm_unpacklo_ps(c, s)); /* c s c s … */
            __m256 q = _mm256_permute_ps(p, 0xb1);                                    /* s c s c … */
            __m256 t = _mm256_xor_ps(_mm256_mul_ps(_mm256_movehdup_ps(v), q), even_sign);
            _mm256_storeu_ps(head + 2 * i, _mm256_fmadd_ps(_mm256_moveldup_ps(v), p, t));
        }
    }
    for (; i < half; i++) {
        float *a = neox ? head + i : head + 2 * i;
        float *b = neox ? head + i + half : head + 2 * i + 1;
        float a0 = *a, b0 = *b;
        *a = fma_scalar(a0, cs[i], -(b0 * sn[i]));
        *b = fma_scalar(a0, sn[i], b0 * cs[i]);
    }
}

/* ---- softmax -------------------------------------------------------------------------- */

static float largest(const float *x, int64_t n) {
    float m = x[0];
    int64_t i = 0;
    if (n >= 8) {
        __m256 v = _mm256_loadu_ps(x), u = v;
        for (i = 8; i + 16 <= n; i += 16) {
            v = _mm256_max_ps(v, _mm256_loadu_ps(x + i));
            u = _mm256_max_ps(u, _mm256_loadu_ps(x + i + 8));
        }
        v = _mm256_max_ps(v, u);
        __m128 w = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        w = _mm_max_ps(w, _mm_movehl_ps(w, w));
        w = _mm_max_ss(w, _mm_movehdup_ps(w));
        m = _mm_cvtss_f32(w);
    }
    for (; i < n; i++) {
        m = x[i] > m ? x[i] : m;
    }
    return m + 0.0f;
}

/* out[i] = e^(x[i]-m) where out is not NULL; returns their sum in sum16 order. */
INLINE float exp_and_sum(const float *x, int64_t n, float m, float *out) {
    const __m256 m8 = _mm256_set1_ps(m);
    __m256 lo = _mm256_setzero_ps(), hi = lo;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 a = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), m8));
        __m256 b = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8), m8));
        if (out != NULL) {
            _mm256_storeu_ps(out + i, a);
            _mm256_storeu_ps(out + i + 8, b);
        }
        lo = _mm256_add_ps(lo, a);
        hi = _mm256_add_ps(hi, b);
    }
    if (i < n) {
        /* e^-inf is +0, and adding +0 to a sum of terms that are not negative changes nothing. */
        float t[16];
        for (int64_t j = 0; j < 16; j++) {
            t[j] = j < n - i ? x[i + j] - m : -INFINITY;
        }
        __m256 a = exp8(_mm256_loadu_ps(t)), b = exp8(_mm256_loadu_ps(t + 8));
        lo = _mm256_add_ps(lo, a);
        hi = _mm256_add_ps(hi, b);
        if (out != NULL) {
            _mm256_storeu_ps(t, a);
            _mm256_storeu_ps(t + 8, b);
            memcpy(out + i, t, (size_t)(n - i) * sizeof *t);
        }
    }
    return sum16(lo, hi);
}

void bl_softmax_avx2(float *p, int64_t n, int64_t n_padded) {
    float r = 1.0f / exp_and_sum(p, n, largest(p, n), p);
    const __m256 r8 = _mm256_set1_ps(r);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(p + i, _mm256_mul_ps(_mm256_loadu_ps(p + i), r8));
    }
    for (; i < n; i++) {
        p[i] = p[i] * r;
    }
    for (; i < n_padded; i++) {
        p[i] = 0.0f;
    }
}

float bl_exp_sum_avx2(const float *l, int64_t n, float *max) {
    *max = largest(l, n);
    return exp_and_sum(l, n, *max, NULL);
}

/* ---- codes ------------------------------------------------------------------------------ */

/* Set bits of each 64-bit quarter. */
INLINE __m256i popcount256(__m256i v) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2,
                                           2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(v, nibble));
    __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble));
    return _mm256_sad_epu8(_mm256_add_epi8(low, high), _mm256_setzero_si256());
}

/* Full adder on 256 columns: a + b + c = 2*carry + sum. */
INLINE void full_add(__m256i a, __m256i b, __m256i c, __m256i *carry, __m256i *sum) {
    __m256i u = _mm256_xor_si256(a, b);
    *sum = _mm256_xor_si256(u, c);
    *carry = _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(u, c));
}

INLINE __m256i differ(const uint8_t *a, const uint8_t *b, int64_t i) {
    return _mm256_xor_si256(load256(a + i * 32), load256(b + i * 32));
}

/* Harley and Seal: blocks of 8 vectors are added column by column in carry-save form, so only
 * one vector of weight 8 in eight has its bits counted.  Returns the bits, *done the bytes. */
static uint64_t hamming_long(const uint8_t *a, const uint8_t *b, int64_t n, int64_t *done) {
    __m256i ones = _mm256_setzero_si256(), twos = ones, fours = ones, total = ones;
    int64_t i = 0;
    for (; i + 256 <= n; i += 256) {
        __m256i two_a, two_b, four_a, four_b, eight;
        full_add(ones, differ(a + i, b + i, 0), differ(a + i, b + i, 1), &two_a, &ones);
        full_add(ones, differ(a + i, b + i, 2), differ(a + i, b + i, 3), &two_b, &ones);
        full_add(twos, two_a, two_b, &four_a, &twos);
        full_add(ones, differ(a + i, b + i, 4), differ(a + i, b + i, 5), &two_a, &ones);
        full_add(ones, differ(a + i, b + i, 6), differ(a + i, b + i, 7), &two_b, &ones);
        full_add(twos, two_a, two_b, &four_b, &twos);
        full_add(fours, four_a, four_b, &eight, &fours);
        total = _mm256_add_epi64(total, popcount256(eight));
    }
    total = _mm256_slli_epi64(total, 3);
    total = _mm256_add_epi64(total, _mm256_slli_epi64(popcount256(fours), 2));
    total = _mm256_add_epi64(total, _mm256_slli_epi64(popcount256(twos), 1));
    total = _mm256_add_epi64(total, popcount256(ones));
    uint64_t part[4];
    store256(part, total);
    *done = i;
    return part[0] + part[1] + part[2] + part[3];
}

uint64_t bl_hamming_avx2(const uint8_t *a, const uint8_t *b, int64_t n) {
    uint64_t bits = 0;
    int64_t i = 0;
    if (n >= 512) {
        bits = hamming_long(a, b, n, &i);
    }
    for (; i + 8 <= n; i += 8) {
        uint64_t u, v;
        memcpy(&u, a + i, sizeof u);
        memcpy(&v, b + i, sizeof v);
        bits += (uint64_t)_mm_popcnt_u64(u ^ v);
    }
    for (; i < n; i++) {
        bits += (uint64_t)_mm_popcnt_u32((unsigned)(a[i] ^ b[i]));
    }
    return bits;
}
