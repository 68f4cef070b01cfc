/* kernels_ref.c - the kernels in plain C: the specification that every ISA file
 * must match bit for bit, and the table for CPUs that have none of theirs.
 *
 * Written for reading, not speed: each function follows the words of kernels.h.
 * Also holds the row decoders that ISA files call for the rarer tensor types.
 * Compiled without ISA flags; fmaf comes from libm, which IEEE 754 fixes.
 *
 * Called through the kernel table; bl_unpack_* also by the ISA files. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

#if defined(__AVX__) || defined(__FMA__)
#error "kernels_ref.c must be built without ISA flags: it runs on every CPU"
#endif

#define LANES 16

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

static float quiet_nan(void) { return float_from_bits(0x7fc00000u); }

/* The end of the sum16 order. */
static float sum_lanes(float lane[LANES]) {
    for (int width = LANES / 2; width >= 1; width /= 2) {
        for (int j = 0; j < width; j++) {
            lane[j] += lane[j + width];
        }
    }
    return lane[0];
}

/* The largest |x[i]| by bit pattern; any NaN is above infinity. */
static uint32_t max_magnitude(const float *x, int64_t n) {
    uint32_t m = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = float_bits(x[i]) & 0x7fffffffu;
        m = bits > m ? bits : m;
    }
    return m;
}

/* q = clamp(rne(x*s)); returns their sum. */
static int32_t quantize(const float *x, int64_t n, float s, int8_t *q) {
    int32_t sum = 0;
    for (int64_t i = 0; i < n; i++) {
        float v = rintf(x[i] * s);
        v = v > 127.0f ? 127.0f : v;
        v = v < -127.0f ? -127.0f : v;
        q[i] = (int8_t)v;
        sum += q[i];
    }
    return sum;
}

/* ---- rows of activations ------------------------------------------------------ */

static float dot_f32(const float *a, const float *b, int64_t n) {
    float lane[LANES] = {0};
    for (int64_t i = 0; i < n; i++) {
        lane[i % LANES] = fmaf(a[i], b[i], lane[i % LANES]);
    }
    return sum_lanes(lane);
}

static void rmsnorm(const float *x, const float *w, int64_t n, float eps, float *y) {
    float s = dot_f32(x, x, n);
    float r = 1.0f / sqrtf(fmaf(s, 1.0f / (float)n, eps));
    for (int64_t i = 0; i < n; i++) {
        y[i] = (x[i] * r) * w[i];
    }
}

static float quant_row(const float *x, int64_t n, int8_t *q, int32_t *sum) {
    uint32_t bits = max_magnitude(x, n);
    if (bits >= 0x7f800000u) {
        memset(q, 0, (size_t)n);
        *sum = 0;
        return quiet_nan();
    }
    float m = float_from_bits(bits);
    float s = 127.0f / (m > 1e-5f ? m : 1e-5f);
    *sum = quantize(x, n, s, q);
    return s;
}

static void quant_groups(const float *x, int64_t n, int64_t group, int8_t *q, float *d, int32_t *sums) {
    for (int64_t g = 0; g < n / group; g++, x += group, q += group) {
        uint32_t bits = max_magnitude(x, group);
        float m = float_from_bits(bits);
        if (bits >= 0x7f800000u || m < 1e-30f) {
            for (int64_t i = 0; i < group; i++) /* memset of a length that may be negative makes gcc warn */
                q[i] = 0;
            sums[g] = 0;
            d[g] = bits >= 0x7f800000u ? quiet_nan() : 0.0f;
            continue;
        }
        sums[g] = quantize(x, group, 127.0f / m, q);
        d[g] = m / 127.0f;
    }
}

static void residual(const float *x, int64_t n, int64_t group, const int8_t *q, const float *d, float *r) {
    for (int64_t i = 0; i < n; i++) {
        r[i] = fmaf(-d[i / group], (float)q[i], x[i]);
    }
}

static void relu2_mul(const float *gate, const float *up, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i++) {
        float t = gate[i] > 0.0f ? gate[i] : 0.0f;
        out[i] = (t * t) * up[i];
    }
}

static void silu_mul(const float *gate, const float *up, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i++) {
        out[i] = (gate[i] / (1.0f + bl_expf(-gate[i]))) * up[i];
    }
}

static void add(float *x, const float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        x[i] += y[i];
    }
}

static void rope(float *head, const float *cs, const float *sn, int64_t n_rot, int neox) {
    int64_t half = n_rot / 2;
    for (int64_t i = 0; i < half; i++) {
        float *a = neox ? head + i : head + 2 * i;
        float *b = neox ? head + i + half : head + 2 * i + 1;
        float a0 = *a, b0 = *b;
        *a = fmaf(a0, cs[i], -(b0 * sn[i]));
        *b = fmaf(a0, sn[i], b0 * cs[i]);
    }
}

static float largest(const float *x, int64_t n) {
    float m = x[0];
    for (int64_t i = 1; i < n; i++) {
        m = x[i] > m ? x[i] : m;
    }
    return m + 0.0f; /* -0 becomes +0: which of the two was met first must not matter */
}

static void softmax(float *p, int64_t n, int64_t n_padded) {
    float m = largest(p, n);
    float lane[LANES] = {0};
    for (int64_t i = 0; i < n; i++) {
        p[i] = bl_expf(p[i] - m);
        lane[i % LANES] += p[i];
    }
    float r = 1.0f / sum_lanes(lane);
    for (int64_t i = 0; i < n; i++) {
        p[i] = p[i] * r;
    }
    for (int64_t i = n; i < n_padded; i++) {
        p[i] = 0.0f;
    }
}

static float exp_sum(const float *l, int64_t n, float *max) {
    float m = largest(l, n);
    float lane[LANES] = {0};
    for (int64_t i = 0; i < n; i++) {
        lane[i % LANES] += bl_expf(l[i] - m);
    }
    *max = m;
    return sum_lanes(lane);
}

/* ---- KV cache and attention ----------------------------------------------------- */

static uint16_t saturating_f16(float x) {
    x = x > 65504.0f ? 65504.0f : x;
    x = x < -65504.0f ? -65504.0f : x;
    return bl_f32_to_f16(x);
}

static void store_k_f16(const float *k, int64_t dim, int64_t pos, uint16_t *head_tiles) {
    uint16_t *out = head_tiles + pos / 16 * 16 * dim + pos % 16;
    for (int64_t d = 0; d < dim; d++) {
        out[d * 16] = saturating_f16(k[d]);
    }
}

static void store_k_f32(const float *k, int64_t dim, int64_t pos, float *head_tiles) {
    float *out = head_tiles + pos / 16 * 16 * dim + pos % 16;
    for (int64_t d = 0; d < dim; d++) {
        out[d * 16] = k[d];
    }
}

static void store_v_f16(const float *v, int64_t dim, uint16_t *out) {
    for (int64_t d = 0; d < dim; d++) {
        out[d] = saturating_f16(v[d]);
    }
}

static void scores_f16(const float *q, int64_t ldq, int n_q, const uint16_t *tiles, int64_t n_tiles,
                       int64_t dim, float scale, float *scores, int64_t ld) {
    for (int64_t p = 0; p < n_tiles * 16; p++) {
        const uint16_t *k = tiles + p / 16 * 16 * dim + p % 16;
        for (int j = 0; j < n_q; j++) {
            float acc = 0.0f;
            for (int64_t d = 0; d < dim; d++) {
                acc = fmaf(q[j * ldq + d], bl_f16_to_f32(k[d * 16]), acc);
            }
            scores[j * ld + p] = acc * scale;
        }
    }
}

static void scores_f32(const float *q, int64_t ldq, int n_q, const float *tiles, int64_t n_tiles,
                       int64_t dim, float scale, float *scores, int64_t ld) {
    for (int64_t p = 0; p < n_tiles * 16; p++) {
        const float *k = tiles + p / 16 * 16 * dim + p % 16;
        for (int j = 0; j < n_q; j++) {
            float acc = 0.0f;
            for (int64_t d = 0; d < dim; d++) {
                acc = fmaf(q[j * ldq + d], k[d * 16], acc);
            }
            scores[j * ld + p] = acc * scale;
        }
    }
}

static void mix_f16(const float *prob, int64_t ld, int n_q, const uint16_t *v, int64_t v_stride,
                    int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
    for (int j = 0; j < n_q; j++) {
        for (int64_t d = 0; d < dim; d++) {
            float acc = 0.0f;
            for (int64_t p = 0; p < n_pos; p++) {
                acc = fmaf(prob[j * ld + p], bl_f16_to_f32(v[p * v_stride + d]), acc);
            }
            out[j * ldo + d] = acc;
        }
    }
}

static void mix_f32(const float *prob, int64_t ld, int n_q, const float *v, int64_t v_stride,
                    int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
    for (int j = 0; j < n_q; j++) {
        for (int64_t d = 0; d < dim; d++) {
            float acc = 0.0f;
            for (int64_t p = 0; p < n_pos; p++) {
                acc = fmaf(prob[j * ld + p], v[p * v_stride + d], acc);
            }
            out[j * ldo + d] = acc;
        }
    }
}

/* ---- row decoders ----------------------------------------------------------------- */

int64_t bl_row_bytes(int32_t type, int64_t k) {
    if (type == BL_TYPE_I2_S) {
        return k / 4;
    }
    const bl_tensor_type *t = bl_tensor_type_find(type);
    return k / t->block * t->block_bytes;
}

int bl_type_has_min(int32_t type) { return type == BL_TYPE_Q4_1 || type == BL_TYPE_Q4_K; }

/* 32 bytes, 128 codes; the code of the first 32 weights sits at bit `first`, the next at first+step. */
static void codes_of_32_bytes(const uint8_t *in, int first, int step, uint8_t *codes) {
    for (int g = 0; g < 4; g++) {
        for (int p = 0; p < 32; p++) {
            codes[g * 32 + p] = (in[p] >> (first + g * step)) & 3;
        }
    }
}

/* `bytes` bytes of `trits` base-3 digits each, first digit most significant: digit n of byte m
 * is weight n*bytes + m.  Returns the end of what was written. */
static uint8_t *codes_of_trits(const uint8_t *in, int bytes, int trits, uint8_t *codes) {
    uint32_t power = 1;
    for (int n = 0; n < trits; n++, power *= 3) {
        for (int m = 0; m < bytes; m++) {
            uint32_t digits = (in[m] * power) & 0xff;
            *codes++ = (uint8_t)((digits * 3) >> 8);
        }
    }
    return codes;
}

/* One byte holds four codes of neighbouring weights, lowest bits first. */
static void codes_of_quads(const uint8_t *in, int64_t bytes, uint8_t *codes) {
    for (int64_t i = 0; i < bytes * 4; i++) {
        codes[i] = (in[i / 4] >> (2 * (i % 4))) & 3;
    }
}

void bl_unpack_codes(int32_t type, const uint8_t *row, int64_t k, uint8_t *codes) {
    if (type == BL_TYPE_I2_S) {
        for (int64_t b = 0; b < k / 128; b++) {
            codes_of_32_bytes(row + b * 32, 6, -2, codes + b * 128);
        }
        return;
    }
    const bl_tensor_type *t = bl_tensor_type_find(type);
    for (int64_t b = 0; b < k / t->block; b++, row += t->block_bytes, codes += t->block) {
        uint8_t *out = codes;
        switch (type) {
        case BL_TYPE_TQ2_0:
            codes_of_32_bytes(row, 0, 2, codes);
            codes_of_32_bytes(row + 32, 0, 2, codes + 128);
            break;
        case BL_TYPE_TQ1_0:
            out = codes_of_trits(row, 32, 5, out);
            out = codes_of_trits(row + 32, 16, 5, out);
            codes_of_trits(row + 48, 4, 4, out);
            break;
        case BL_TYPE_PTQ1_0:
            out = codes_of_trits(row, 16, 5, out);
            out = codes_of_trits(row + 16, 8, 5, out);
            codes_of_trits(row + 24, 2, 4, out);
            break;
        default: /* Q2_0, Q2_0_LEGACY, PQ2_0: the scale comes first */
            codes_of_quads(row + 2, t->block / 4, codes);
            break;
        }
    }
}

/* The scale of a ternary block. */
static float ternary_scale(int32_t type, const uint8_t *block) {
    switch (type) {
    case BL_TYPE_TQ1_0:
        return bl_f16_to_f32(bl_read_u16(block + 52));
    case BL_TYPE_TQ2_0:
        return bl_f16_to_f32(bl_read_u16(block + 64));
    case BL_TYPE_PTQ1_0:
        return bl_f16_to_f32(bl_read_u16(block + 26));
    default:
        return bl_f16_to_f32(bl_read_u16(block));
    }
}

static void unpack_q4_k(const uint8_t *block, int8_t *q, float *d, float *m) {
    float scale = bl_f16_to_f32(bl_read_u16(block));
    float scale_min = bl_f16_to_f32(bl_read_u16(block + 2));
    const uint8_t *s = block + 4;
    const uint8_t *nibbles = block + 16;
    for (int j = 0; j < 8; j++) {
        int sc, mn;
        if (j < 4) {
            sc = s[j] & 63;
            mn = s[j + 4] & 63;
        } else {
            sc = (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4);
            mn = (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
        }
        d[j] = scale * (float)sc;
        m[j] = -(scale_min * (float)mn);
        for (int i = 0; i < 32; i++) {
            q[j * 32 + i] = (int8_t)((nibbles[j / 2 * 32 + i] >> (j % 2 * 4)) & 15);
        }
    }
}

static void unpack_q6_k(const uint8_t *block, int8_t *q, float *d) {
    float scale = bl_f16_to_f32(bl_read_u16(block + 208));
    for (int half = 0; half < 2; half++) {
        const uint8_t *low = block + half * 64;
        const uint8_t *high = block + 128 + half * 32;
        for (int part = 0; part < 4; part++) {
            for (int l = 0; l < 32; l++) {
                int lo = (low[l + (part & 1) * 32] >> (part / 2 * 4)) & 15;
                int hi = (high[l] >> (part * 2)) & 3;
                q[half * 128 + part * 32 + l] = (int8_t)((lo | (hi << 4)) - 32);
            }
        }
    }
    for (int g = 0; g < 16; g++) {
        int sc = block[192 + g];
        d[g] = scale * (float)(sc < 128 ? sc : sc - 256);
    }
}

static void zero_minima(float *m, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        m[i] = 0.0f;
    }
}

void bl_unpack_groups(int32_t type, const uint8_t *row, int64_t k, int8_t *q, float *d, float *m) {
    const bl_tensor_type *t = bl_tensor_type_find(type);
    int64_t per_block = t->block / t->group;
    zero_minima(m, k / t->group);
    for (int64_t b = 0; b < k / t->block; b++) {
        switch (type) {
        case BL_TYPE_Q4_0:
        case BL_TYPE_Q4_1: {
            const uint8_t *nibbles = row + (type == BL_TYPE_Q4_0 ? 2 : 4);
            int bias = type == BL_TYPE_Q4_0 ? 8 : 0;
            *d = bl_f16_to_f32(bl_read_u16(row));
            if (type == BL_TYPE_Q4_1) {
                *m = bl_f16_to_f32(bl_read_u16(row + 2));
            }
            for (int i = 0; i < 16; i++) {
                q[i] = (int8_t)((nibbles[i] & 15) - bias);
                q[i + 16] = (int8_t)((nibbles[i] >> 4) - bias);
            }
            break;
        }
        case BL_TYPE_Q8_0:
            *d = bl_f16_to_f32(bl_read_u16(row));
            memcpy(q, row + 2, 32);
            break;
        case BL_TYPE_Q4_K:
            unpack_q4_k(row, q, d, m);
            break;
        case BL_TYPE_Q6_K:
            unpack_q6_k(row, q, d);
            break;
        case BL_TYPE_Q1_0:
            *d = bl_f16_to_f32(bl_read_u16(row));
            for (int i = 0; i < 128; i++) {
                q[i] = (row[2 + i / 8] >> (i % 8)) & 1 ? 1 : -1;
            }
            break;
        default: {
            uint8_t codes[256];
            *d = ternary_scale(type, row);
            bl_unpack_codes(type, row, t->block, codes);
            for (int i = 0; i < t->block; i++) {
                q[i] = (int8_t)(codes[i] - 1);
            }
            break;
        }
        }
        row += t->block_bytes;
        q += t->block;
        d += per_block;
        m += per_block;
    }
}

/* ---- linear layers ------------------------------------------------------------------ */

size_t bl_ternary_scratch(int64_t k) {
    /* Plain C expands a row, AVX2 16 rows of pieces of 1280; the rest permutes or expands more. */
    return (size_t)BL_MAX((k + 255) / 256 * 320 * BL_TERNARY_FEW, BL_TERNARY_SCRATCH_MIN) + 64;
}

size_t bl_group_scratch(int64_t k) {
    /* Sums and scales of 64 rows of activations, in groups of 16; more than a row of int8 with its scales and
     * minima, and than the k floats that a row of activations takes while it is quantized. */
    return BL_GROUP_SCRATCH * (size_t)k + 64;
}

static void ternary_i8(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                       int64_t ldx, const int32_t *xsum, const float *factor, int64_t n_tok, float *y,
                       int64_t ldy, void *scratch) {
    uint8_t *codes = scratch;
    int64_t row_bytes = bl_row_bytes(type, k);
    for (int64_t r = r0; r < r1; r++) {
        bl_unpack_codes(type, w + r * row_bytes, k, codes);
        for (int64_t t = 0; t < n_tok; t++) {
            int32_t sum = 0;
            for (int64_t i = 0; i < k; i++) {
                sum += codes[i] * xq[t * ldx + i];
            }
            y[t * ldy + r] = (float)(sum - xsum[t]) * factor[t];
        }
    }
}

static void group_i8(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                     int64_t ldx, const float *xd, const int32_t *xsums, int64_t n_tok, int n_terms,
                     float *y, int64_t ldy, void *scratch) {
    const bl_tensor_type *type_info = bl_tensor_type_find(type);
    int64_t group = type_info->group;
    int64_t n_groups = k / group;
    int64_t row_bytes = bl_row_bytes(type, k);
    int has_min = bl_type_has_min(type);
    float *wd = scratch;
    float *wm = wd + n_groups;
    int8_t *q = (int8_t *)(wm + n_groups);
    for (int64_t r = r0; r < r1; r++) {
        bl_unpack_groups(type, w + r * row_bytes, k, q, wd, wm);
        for (int64_t t = 0; t < n_tok; t++) {
            float acc = 0.0f;
            for (int64_t g = 0; g < n_groups; g++) {
                for (int64_t j = t * n_terms; j < (t + 1) * n_terms; j++) {
                    float scale = xd[j * n_groups + g];
                    int32_t sum = 0;
                    for (int64_t i = g * group; i < (g + 1) * group; i++) {
                        sum += q[i] * xq[j * ldx + i];
                    }
                    acc = fmaf((float)sum, wd[g] * scale, acc);
                    if (has_min) {
                        acc = fmaf((float)xsums[j * n_groups + g], wm[g] * scale, acc);
                    }
                }
            }
            y[t * ldy + r] = acc;
        }
    }
}

static float float_weight(int32_t type, const uint8_t *row, int64_t i) {
    switch (type) {
    case BL_TYPE_F16:
        return bl_f16_to_f32(bl_read_u16(row + 2 * i));
    case BL_TYPE_BF16:
        return bl_bf16_to_f32(bl_read_u16(row + 2 * i));
    default:
        return bl_read_f32(row + 4 * i);
    }
}

static void float_rows(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const float *x,
                       int64_t ldx, int64_t n_tok, float *y, int64_t ldy) {
    int64_t row_bytes = bl_row_bytes(type, k);
    for (int64_t r = r0; r < r1; r++) {
        const uint8_t *row = w + r * row_bytes;
        for (int64_t t = 0; t < n_tok; t++) {
            float lane[LANES] = {0};
            for (int64_t i = 0; i < k; i++) {
                lane[i % LANES] = fmaf(float_weight(type, row, i), x[t * ldx + i], lane[i % LANES]);
            }
            y[t * ldy + r] = sum_lanes(lane);
        }
    }
}

static void widen(int32_t type, const uint8_t *in, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i++) {
        out[i] = float_weight(type, in, i);
    }
}

/* ---- codes --------------------------------------------------------------------------- */

static uint64_t hamming(const uint8_t *a, const uint8_t *b, int64_t n) {
    uint64_t bits = 0;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t u, v;
        memcpy(&u, a + i, sizeof u);
        memcpy(&v, b + i, sizeof v);
        bits += (uint64_t)__builtin_popcountll(u ^ v);
    }
    for (; i < n; i++) {
        bits += (uint64_t)__builtin_popcount((unsigned)(a[i] ^ b[i]));
    }
    return bits;
}

static int64_t hamming_below(const uint8_t *query, const uint8_t *codes, int64_t n, int64_t bytes,
                             uint32_t below, uint32_t *rows, uint32_t *distances) {
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits = hamming(query, codes + i * bytes, bytes);
        if (bits < below) {
            rows[found] = (uint32_t)i;
            distances[found++] = (uint32_t)bits;
        }
    }
    return found;
}

const bl_kernels bl_kernels_ref = {
    .name = "ref",
    .cpu = BL_CPU_REF,
    .rmsnorm = rmsnorm,
    .quant_row = quant_row,
    .quant_groups = quant_groups,
    .residual = residual,
    .relu2_mul = relu2_mul,
    .silu_mul = silu_mul,
    .add = add,
    .rope = rope,
    .softmax = softmax,
    .exp_sum = exp_sum,
    .store_k_f16 = store_k_f16,
    .store_k_f32 = store_k_f32,
    .store_v_f16 = store_v_f16,
    .scores_f16 = scores_f16,
    .scores_f32 = scores_f32,
    .mix_f16 = mix_f16,
    .mix_f32 = mix_f32,
    .scores_int = bl_scores_int_ref,
    .quant_probs = bl_quant_probs_ref,
    .mix_int = bl_mix_int_ref,
    .ternary_i8 = ternary_i8,
    .group_i8 = group_i8,
    .binary_rows = bl_binary_rows_ref,
    .float_rows = float_rows,
    .hamming = hamming,
    .hamming_below = hamming_below,
    .dot_f32 = dot_f32,
    .widen = widen,
    .fit_q4_k = bl_fit_q4_k_ref,
    .fit_q6_k = bl_fit_q6_k_ref,
    .round_groups = bl_round_groups_ref,
};
