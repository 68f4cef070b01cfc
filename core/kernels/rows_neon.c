/* rows_neon.c - kernels over one row of floats with NEON.
 *
 * Sums in sum16 order are four vectors of four lanes; what is left over of a row goes lane by lane
 * (fold_tail) or through a padded copy.  The scalar ends repeat the plain C of kernels_ref.c.  Called
 * through the tables of kernels_neon.c. */
#include "kernels/kernels_neon.h"

/* Ends a sum of products: lanes of the vectors, then a[i]*b[i] for first <= i < n. */
static float fold_tail(const float32x4_t *v, const float *a, const float *b, int64_t first, int64_t n) {
    float lane[16];
    for (int i = 0; i < 4; i++) {
        vst1q_f32(lane + 4 * i, v[i]);
    }
    for (int64_t i = first; i < n; i++) {
        lane[i - first] = fmaf(a[i], b[i], lane[i - first]);
    }
    return sum16(vld1q_f32(lane), vld1q_f32(lane + 4), vld1q_f32(lane + 8), vld1q_f32(lane + 12));
}

float bl_dot_f32_neon(const float *a, const float *b, int64_t n) {
    float32x4_t v[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            v[j] = vfmaq_f32(v[j], vld1q_f32(a + i + 4 * j), vld1q_f32(b + i + 4 * j));
        }
    }
    return i == n ? sum16(v[0], v[1], v[2], v[3]) : fold_tail(v, a, b, i, n);
}

void bl_widen_neon(int32_t type, const uint8_t *in, int64_t n, float *out) {
    int64_t i = 0;
    for (; i + 8 <= n && type != BL_TYPE_F32; i += 8) {
        uint16x8_t v = vreinterpretq_u16_u8(vld1q_u8(in + 2 * i));
        if (type == BL_TYPE_F16) {
            vst1q_f32(out + i, vcvt_f32_f16(half_bits(vget_low_u16(v))));
            vst1q_f32(out + i + 4, vcvt_f32_f16(half_bits(vget_high_u16(v))));
        } else {
            vst1q_f32(out + i, vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(v), 16)));
            vst1q_f32(out + i + 4, vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(v), 16)));
        }
    }
    bl_kernels_ref.widen(type, in + bl_row_bytes(type, i), n - i, out + i);
}

void bl_rmsnorm_neon(const float *x, const float *w, int64_t n, float eps, float *y) {
    float s = bl_dot_f32_neon(x, x, n);
    float r = 1.0f / sqrtf(fmaf(s, 1.0f / (float)n, eps));
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(y + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), r), vld1q_f32(w + i)));
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

INLINE uint32x4_t magnitude(const float *x) {
    return vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x)));
}

INLINE uint32_t max_magnitude(const float *x, int64_t n) {
    uint32x4_t m0 = vdupq_n_u32(0), m1 = m0;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        m0 = vmaxq_u32(m0, magnitude(x + i));
        m1 = vmaxq_u32(m1, magnitude(x + i + 4));
    }
    uint32_t best = vmaxvq_u32(vmaxq_u32(m0, m1));
    for (; i < n; i++) {
        uint32_t bits = float_bits(x[i]) & 0x7fffffffu;
        best = bits > best ? bits : best;
    }
    return best;
}

/* rne(x*s) of eight values.  No clamp: s <= 127/max, so |x*s| < 127.0001. */
INLINE int16x8_t quantized(const float *x, float32x4_t s) {
    int32x4_t a = vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x), s));
    int32x4_t b = vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x + 4), s));
    return vcombine_s16(vmovn_s32(a), vmovn_s32(b));
}

INLINE int32_t quantize(const float *x, int64_t n, float s, int8_t *q) {
    const float32x4_t s4 = vdupq_n_f32(s);
    int32x4_t sums = vdupq_n_s32(0);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        int16x8_t a = quantized(x + i, s4), b = quantized(x + i + 8, s4);
        sums = vpadalq_s16(sums, vaddq_s16(a, b));
        vst1q_s8(q + i, vcombine_s8(vmovn_s16(a), vmovn_s16(b)));
    }
    int32_t sum = vaddvq_s32(sums);
    for (; i < n; i++) {
        q[i] = (int8_t)rintf(x[i] * s);
        sum += q[i];
    }
    return sum;
}

float bl_quant_row_neon(const float *x, int64_t n, int8_t *q, int32_t *sum) {
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

void bl_quant_groups_neon(const float *x, int64_t n, int64_t group, int8_t *q, float *d, int32_t *sums) {
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

void bl_residual_neon(const float *x, int64_t n, int64_t group, const int8_t *q, const float *d, float *r) {
    for (int64_t i = 0; i < n; i += 8) { /* groups are multiples of 16 */
        int16x8_t v = vmovl_s8(vld1_s8(q + i));
        float32x4_t step = vdupq_n_f32(d[i / group]);
        float32x4_t a = vcvtq_f32_s32(vmovl_s16(vget_low_s16(v))), b = vcvtq_f32_s32(vmovl_high_s16(v));
        vst1q_f32(r + i, vfmsq_f32(vld1q_f32(x + i), step, a));
        vst1q_f32(r + i + 4, vfmsq_f32(vld1q_f32(x + i + 4), step, b));
    }
}

/* ---- element by element ------------------------------------------------------------- */

void bl_relu2_mul_neon(const float *gate, const float *up, int64_t n, float *out) {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        /* The mask gives +0 for a NaN and for -0, as the plain C does; fmax would not. */
        float32x4_t g = vld1q_f32(gate + i);
        float32x4_t t = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(g), vcgtzq_f32(g)));
        vst1q_f32(out + i, vmulq_f32(vmulq_f32(t, t), vld1q_f32(up + i)));
    }
    for (; i < n; i++) {
        float t = gate[i] > 0.0f ? gate[i] : 0.0f;
        out[i] = (t * t) * up[i];
    }
}

INLINE float32x4_t silu4(float32x4_t gate) {
    return vdivq_f32(gate, vaddq_f32(vdupq_n_f32(1.0f), exp4(vnegq_f32(gate))));
}

void bl_silu_mul_neon(const float *gate, const float *up, int64_t n, float *out) {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(out + i, vmulq_f32(silu4(vld1q_f32(gate + i)), vld1q_f32(up + i)));
    }
    if (i < n) {
        float t[4] = {0};
        memcpy(t, gate + i, (size_t)(n - i) * sizeof *t);
        vst1q_f32(t, silu4(vld1q_f32(t)));
        for (int64_t j = 0; i < n; i++, j++) {
            out[i] = t[j] * up[i];
        }
    }
}

void bl_add_neon(float *x, const float *y, int64_t n) {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(x + i, vaddq_f32(vld1q_f32(x + i), vld1q_f32(y + i)));
    }
    for (; i < n; i++) {
        x[i] += y[i];
    }
}

/* The pairs (a, b) turned by the angles of cosine c and sine s. */
INLINE void turn(float32x4_t *a, float32x4_t *b, float32x4_t c, float32x4_t s) {
    float32x4_t a0 = *a, b0 = *b;
    *a = vfmaq_f32(vnegq_f32(vmulq_f32(b0, s)), a0, c);
    *b = vfmaq_f32(vmulq_f32(b0, c), a0, s);
}

void bl_rope_neon(float *head, const float *cs, const float *sn, int64_t n_rot, int neox) {
    int64_t half = n_rot / 2, i = 0;
    for (; i + 4 <= half; i += 4) {
        float32x4_t c = vld1q_f32(cs + i), s = vld1q_f32(sn + i);
        if (neox) {
            float32x4_t a = vld1q_f32(head + i), b = vld1q_f32(head + half + i);
            turn(&a, &b, c, s);
            vst1q_f32(head + i, a);
            vst1q_f32(head + half + i, b);
        } else {
            float32x4x2_t v = vld2q_f32(head + 2 * i);
            turn(&v.val[0], &v.val[1], c, s);
            vst2q_f32(head + 2 * i, v);
        }
    }
    for (; i < half; i++) {
        float *a = neox ? head + i : head + 2 * i;
        float *b = neox ? head + i + half : head + 2 * i + 1;
        float a0 = *a, b0 = *b;
        *a = fmaf(a0, cs[i], -(b0 * sn[i]));
        *b = fmaf(a0, sn[i], b0 * cs[i]);
    }
}

/* ---- softmax -------------------------------------------------------------------------- */

static float largest(const float *x, int64_t n) {
    float m = x[0];
    int64_t i = 0;
    if (n >= 8) {
        float32x4_t v = vld1q_f32(x), u = vld1q_f32(x + 4);
        for (i = 8; i + 8 <= n; i += 8) {
            v = vmaxq_f32(v, vld1q_f32(x + i));
            u = vmaxq_f32(u, vld1q_f32(x + i + 4));
        }
        m = vmaxvq_f32(vmaxq_f32(v, u));
    }
    for (; i < n; i++) {
        m = x[i] > m ? x[i] : m;
    }
    return m + 0.0f;
}

/* out[i] = e^(x[i]-m) where out is not NULL; returns their sum in sum16 order. */
INLINE float exp_and_sum(const float *x, int64_t n, float m, float *out) {
    const float32x4_t m4 = vdupq_n_f32(m);
    float32x4_t v[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            float32x4_t e = exp4(vsubq_f32(vld1q_f32(x + i + 4 * j), m4));
            if (out != NULL) {
                vst1q_f32(out + i + 4 * j, e);
            }
            v[j] = vaddq_f32(v[j], e);
        }
    }
    if (i < n) {
        /* e^-inf is +0, and adding +0 to a sum of terms that are not negative changes nothing. */
        float t[16];
        for (int64_t j = 0; j < 16; j++) {
            t[j] = j < n - i ? x[i + j] - m : -INFINITY;
        }
        for (int j = 0; j < 4; j++) {
            float32x4_t e = exp4(vld1q_f32(t + 4 * j));
            v[j] = vaddq_f32(v[j], e);
            vst1q_f32(t + 4 * j, e);
        }
        if (out != NULL) {
            memcpy(out + i, t, (size_t)(n - i) * sizeof *t);
        }
    }
    return sum16(v[0], v[1], v[2], v[3]);
}

void bl_softmax_neon(float *p, int64_t n, int64_t n_padded) {
    float r = 1.0f / exp_and_sum(p, n, largest(p, n), p);
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(p + i, vmulq_n_f32(vld1q_f32(p + i), r));
    }
    for (; i < n; i++) {
        p[i] = p[i] * r;
    }
    for (; i < n_padded; i++) {
        p[i] = 0.0f;
    }
}

float bl_exp_sum_neon(const float *l, int64_t n, float *max) {
    *max = largest(l, n);
    return exp_and_sum(l, n, *max, NULL);
}
