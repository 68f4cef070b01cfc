/* group_neon.c - block-quantized matrices times int8 vectors in groups, with NEON.
 *
 * Eight rows run in the lanes of two vectors.  A step unpacks up to 256 weights of each to signed bytes and
 * transposes them by fours:
 *
 *     vector (i, h) of a step:  row 4h's bytes 4i..4i+3 | row 4h+1's | row 4h+2's | row 4h+3's
 *
 * so that a dot product of fours with four activations in all lanes (dot4) sums each row in its own lane, and
 * the chain over groups is one vector fma for four rows.
 *
 * Compiled once without and once with DOTPROD; called through the tables of kernels_neon.c. */
#include "kernels/kernels_neon.h"

#define ROWS 8
#define STEP 256  /* weights of a row in a step */
#define TOKENS 64 /* whose sums are held at once */

typedef struct step {
    int8_t q[ROWS][STEP];
    int8x16_t lanes[STEP / 4][2]; /* transposed */
    float d[STEP / 16][ROWS];     /* scale of a group */
    float m[STEP / 16][ROWS];     /* its minimum */
} step;

typedef struct layout {
    int32_t type, block, block_bytes, group;
} layout;

/* ---- unpacking: one block to q, and its scales to a column of d and m ------------------------- */

INLINE float half_at(const uint8_t *p) { return one_f16(bl_read_u16(p)); }

INLINE uint8x16_t low_bits(uint8x16_t v, uint8_t mask) { return vandq_u8(v, vdupq_n_u8(mask)); }

/* code - bias, as int8 */
INLINE void put(int8_t *q, uint8x16_t codes, int8_t bias) {
    vst1q_s8(q, vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(bias)));
}

INLINE void unpack_nibbles(const uint8_t *in, int8_t bias, int8_t *low, int8_t *high) {
    uint8x16_t v = vld1q_u8(in);
    put(low, low_bits(v, 15), bias);
    put(high, vshrq_n_u8(v, 4), bias);
}

INLINE void unpack_q4_k(const uint8_t *block, int8_t *q, float (*d)[ROWS], float (*m)[ROWS]) {
    float scale = half_at(block), scale_min = half_at(block + 2);
    const uint8_t *s = block + 4;
    for (int j = 0; j < 8; j++) {
        int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4);
        int mn = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
        d[j][0] = scale * (float)sc;
        m[j][0] = -(scale_min * (float)mn);
    }
    for (int j = 0; j < 8; j++) {
        int at = j / 2 * 64 + j % 2 * 16;
        unpack_nibbles(block + 16 + j * 16, 0, q + at, q + at + 32);
    }
}

INLINE void unpack_q6_k(const uint8_t *block, int8_t *q, float (*d)[ROWS]) {
    float scale = half_at(block + 208);
    for (int i = 0; i < 4; i++) {
        int half = i / 2, at = i % 2 * 16;
        const uint8_t *low = block + half * 64 + at;
        uint8x16_t a = vld1q_u8(low), b = vld1q_u8(low + 32), h = vld1q_u8(block + 128 + half * 32 + at);
        int8_t *out = q + half * 128 + at;
        put(out, vorrq_u8(low_bits(a, 15), low_bits(vshlq_n_u8(h, 4), 0x30)), 32);
        put(out + 32, vorrq_u8(low_bits(b, 15), low_bits(vshlq_n_u8(h, 2), 0x30)), 32);
        put(out + 64, vorrq_u8(vshrq_n_u8(a, 4), low_bits(h, 0x30)), 32);
        put(out + 96, vorrq_u8(vshrq_n_u8(b, 4), low_bits(vshrq_n_u8(h, 2), 0x30)), 32);
    }
    for (int g = 0; g < 16; g++) {
        int8_t sc;
        memcpy(&sc, block + 192 + g, 1);
        d[g][0] = scale * (float)sc;
    }
}

INLINE void unpack_tq2_0(const uint8_t *block, int8_t *q) {
    for (int i = 0; i < 4; i++) {
        uint8x16_t v = vld1q_u8(block + i * 16);
        int8_t *out = q + i / 2 * 128 + i % 2 * 16;
        put(out, low_bits(v, 3), 1);
        put(out + 32, low_bits(vshrq_n_u8(v, 2), 3), 1);
        put(out + 64, low_bits(vshrq_n_u8(v, 4), 3), 1);
        put(out + 96, vshrq_n_u8(v, 6), 1);
    }
}

/* n codes to n weights, in place. */
INLINE void subtract_one(int8_t *q, int n) {
    for (int i = 0; i < n; i += 16) {
        vst1q_s8(q + i, vsubq_s8(vld1q_s8(q + i), vdupq_n_s8(1)));
    }
}

/* 128 bits as -1 or 1. */
INLINE void unpack_q1_0(const uint8_t *bits, int8_t *q) {
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    for (int i = 0; i < 8; i++) {
        uint8x16_t v = vcombine_u8(vdup_n_u8(bits[2 * i]), vdup_n_u8(bits[2 * i + 1]));
        uint8x16_t set = vtstq_u8(v, vld1q_u8(bit));
        vst1q_s8(q + i * 16, vreinterpretq_s8_u8(vorrq_u8(vmvnq_u8(set), vdupq_n_u8(1))));
    }
}

/* Four codes a byte, lowest bits first: n codes, a multiple of 16. */
INLINE void unpack_quads(const uint8_t *in, int n, int8_t *q) {
    static const uint8_t from[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    static const int8_t right[16] = {0, -2, -4, -6, 0, -2, -4, -6, 0, -2, -4, -6, 0, -2, -4, -6};
    for (int i = 0; i < n; i += 16) {
        uint8x16_t v = vqtbl1q_u8(vreinterpretq_u8_s8(dword(in + i / 4)), vld1q_u8(from));
        put(q + i, low_bits(vshlq_u8(v, vld1q_s8(right)), 3), 1);
    }
}

INLINE void unpack_block(int32_t type, int32_t block, const uint8_t *in, int8_t *q, float (*d)[ROWS],
                         float (*m)[ROWS]) {
    switch (type) {
    case BL_TYPE_Q4_0:
        unpack_nibbles(in + 2, 8, q, q + 16);
        d[0][0] = half_at(in);
        break;
    case BL_TYPE_Q4_1:
        unpack_nibbles(in + 4, 0, q, q + 16);
        d[0][0] = half_at(in);
        m[0][0] = half_at(in + 2);
        break;
    case BL_TYPE_Q8_0:
        memcpy(q, in + 2, 32);
        d[0][0] = half_at(in);
        break;
    case BL_TYPE_Q4_K:
        unpack_q4_k(in, q, d, m);
        break;
    case BL_TYPE_Q6_K:
        unpack_q6_k(in, q, d);
        break;
    case BL_TYPE_TQ1_0:
        tq1_0_codes(in, (uint8_t *)q);
        subtract_one(q, 256);
        d[0][0] = half_at(in + 52);
        break;
    case BL_TYPE_TQ2_0:
        unpack_tq2_0(in, q);
        d[0][0] = half_at(in + 64);
        break;
    case BL_TYPE_Q1_0:
        unpack_q1_0(in + 2, q);
        d[0][0] = half_at(in);
        break;
    case BL_TYPE_PTQ1_0:
        bl_unpack_codes(type, in, 128, (uint8_t *)q);
        subtract_one(q, 128);
        d[0][0] = half_at(in + 26);
        break;
    default: /* Q2_0, Q2_0_LEGACY, PQ2_0 */
        unpack_quads(in + 2, block, q);
        d[0][0] = half_at(in);
        break;
    }
}

/* Four rows of four dwords become columns. */
INLINE void transpose_16(const int8_t (*q)[STEP], int at, int half, int8x16_t (*out)[2]) {
    int32x4_t a = vreinterpretq_s32_s8(vld1q_s8(&q[0][at])), b = vreinterpretq_s32_s8(vld1q_s8(&q[1][at]));
    int32x4_t c = vreinterpretq_s32_s8(vld1q_s8(&q[2][at])), d = vreinterpretq_s32_s8(vld1q_s8(&q[3][at]));
    int64x2_t ab0 = vreinterpretq_s64_s32(vzip1q_s32(a, b)), ab1 = vreinterpretq_s64_s32(vzip2q_s32(a, b));
    int64x2_t cd0 = vreinterpretq_s64_s32(vzip1q_s32(c, d)), cd1 = vreinterpretq_s64_s32(vzip2q_s32(c, d));
    out[0][half] = vreinterpretq_s8_s64(vzip1q_s64(ab0, cd0));
    out[1][half] = vreinterpretq_s8_s64(vzip2q_s64(ab0, cd0));
    out[2][half] = vreinterpretq_s8_s64(vzip1q_s64(ab1, cd1));
    out[3][half] = vreinterpretq_s8_s64(vzip2q_s64(ab1, cd1));
}

/* ---- one step --------------------------------------------------------------------------------------- */

/* n weights of rows whose blocks start at `row`. */
INLINE void fill(const layout *l, int32_t type, const uint8_t *const *row, int n, step *s) {
    int per_block = l->block / l->group;
    for (int r = 0; r < ROWS; r++) {
        const uint8_t *in = row[r];
        for (int i = 0, g = 0; i < n; i += l->block, g += per_block, in += l->block_bytes) {
            unpack_block(type, l->block, in, &s->q[r][i], (float(*)[ROWS])&s->d[g][r],
                         (float(*)[ROWS])&s->m[g][r]);
        }
    }
    for (int i = 0; i < n; i += 16) {
        for (int half = 0; half < 2; half++) {
            transpose_16((const int8_t(*)[STEP])s->q + 4 * half, i, half, s->lanes + i / 4);
        }
    }
}

/* Unpacking is expanded for each type, so that its inner loops know it. */
static void fill_any(const layout *l, const uint8_t *const *row, int n, step *s) {
    switch (l->type) {
    case BL_TYPE_Q4_0:
        fill(l, BL_TYPE_Q4_0, row, n, s);
        break;
    case BL_TYPE_Q4_1:
        fill(l, BL_TYPE_Q4_1, row, n, s);
        break;
    case BL_TYPE_Q8_0:
        fill(l, BL_TYPE_Q8_0, row, n, s);
        break;
    case BL_TYPE_Q4_K:
        fill(l, BL_TYPE_Q4_K, row, n, s);
        break;
    case BL_TYPE_Q6_K:
        fill(l, BL_TYPE_Q6_K, row, n, s);
        break;
    case BL_TYPE_TQ1_0:
        fill(l, BL_TYPE_TQ1_0, row, n, s);
        break;
    case BL_TYPE_TQ2_0:
        fill(l, BL_TYPE_TQ2_0, row, n, s);
        break;
    case BL_TYPE_Q1_0:
        fill(l, BL_TYPE_Q1_0, row, n, s);
        break;
    case BL_TYPE_PTQ1_0:
        fill(l, BL_TYPE_PTQ1_0, row, n, s);
        break;
    default:
        fill(l, BL_TYPE_Q2_0, row, n, s);
        break;
    }
}

INLINE int8x16_t all_lanes(int32x4_t v, int lane) {
    return vreinterpretq_s8_s32(lane == 0   ? vdupq_laneq_s32(v, 0)
                                : lane == 1 ? vdupq_laneq_s32(v, 1)
                                : lane == 2 ? vdupq_laneq_s32(v, 2)
                                            : vdupq_laneq_s32(v, 3));
}

/* Exact sums of a group with its activations, in each row's lane. */
INLINE void group_sums(const int8x16_t (*w)[2], const int8_t *x, int group, int32x4_t *sum) {
    sum[0] = sum[1] = vdupq_n_s32(0);
    for (int i = 0; i < group; i += 16) {
        int32x4_t v = vreinterpretq_s32_s8(vld1q_s8(x + i));
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            int8x16_t four = all_lanes(v, j);
            sum[0] = dot4(sum[0], w[i / 4 + j][0], four);
            sum[1] = dot4(sum[1], w[i / 4 + j][1], four);
        }
    }
}

/* The activations that a step meets: token t is the rows t*n_terms .. of x, ldx apart. */
typedef struct inputs {
    const int8_t *x;
    const float *d;
    const int32_t *sums;
    int64_t ldx, n_groups, n_tok;
    int n_terms;
} inputs;

/* Goes on with the chains of the tokens over the step's n weights. */
INLINE void run(int group, int has_min, const step *s, int n, const inputs *in, float32x4_t (*acc)[2]) {
    for (int64_t t = 0; t < in->n_tok; t++) {
        float32x4_t sum[2] = {acc[t][0], acc[t][1]};
        for (int g = 0; g < n / group; g++) {
            for (int64_t j = t * in->n_terms; j < (t + 1) * in->n_terms; j++) {
                float scale = in->d[j * in->n_groups + g];
                int32x4_t is[2];
                group_sums(s->lanes + g * (group / 4), in->x + j * in->ldx + g * group, group, is);
#pragma GCC unroll 2
                for (int h = 0; h < 2; h++) {
                    float32x4_t d = vmulq_n_f32(vld1q_f32(s->d[g] + 4 * h), scale);
                    sum[h] = vfmaq_f32(sum[h], vcvtq_f32_s32(is[h]), d);
                    if (has_min) {
                        float32x4_t m = vmulq_n_f32(vld1q_f32(s->m[g] + 4 * h), scale);
                        sum[h] = vfmaq_n_f32(sum[h], m, (float)in->sums[j * in->n_groups + g]);
                    }
                }
            }
        }
        acc[t][0] = sum[0];
        acc[t][1] = sum[1];
    }
}

static void run_any(const layout *l, const step *s, int n, const inputs *in, float32x4_t (*acc)[2]) {
    switch (l->type) {
    case BL_TYPE_Q4_0:
    case BL_TYPE_Q8_0:
        run(32, 0, s, n, in, acc);
        break;
    case BL_TYPE_Q4_1:
    case BL_TYPE_Q4_K:
        run(32, 1, s, n, in, acc);
        break;
    default:
        run(l->group, 0, s, n, in, acc);
        break;
    }
}

/* ---- the kernel ----------------------------------------------------------------------------------------- */

void NEON_NAME(bl_group_i8)(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                            int64_t ldx, const float *xd, const int32_t *xsums, int64_t n_tok, int n_terms,
                            float *y, int64_t ldy, void *scratch) {
    (void)scratch;
    const bl_tensor_type *t = bl_tensor_type_find(type);
    const layout l = {type, t->block, t->block_bytes, t->group};
    const int64_t row_bytes = bl_row_bytes(type, k), n_groups = k / l.group;
    step s;
    float32x4_t acc[TOKENS][2];

    for (int64_t r = r0; r < r1; r += ROWS) {
        int64_t n_rows = BL_MIN(r1 - r, ROWS);
        for (int64_t t0 = 0; t0 < n_tok; t0 += TOKENS) {
            int64_t nt = BL_MIN(n_tok - t0, TOKENS);
            const uint8_t *row[ROWS];
            for (int64_t j = 0; j < ROWS; j++) { /* lanes past the end repeat the last row */
                row[j] = w + (r + BL_MIN(j, n_rows - 1)) * row_bytes;
            }
            for (int64_t j = 0; j < nt; j++) {
                acc[j][0] = acc[j][1] = vdupq_n_f32(0);
            }
            for (int64_t i = 0; i < k; i += STEP) {
                int n = (int)BL_MIN(k - i, STEP);
                int64_t first = t0 * n_terms, g = first * n_groups + i / l.group;
                const inputs in = {xq + first * ldx + i, xd + g, xsums + g, ldx, n_groups, nt, n_terms};
                fill_any(&l, row, n, &s);
                run_any(&l, &s, n, &in, acc);
                for (int j = 0; j < ROWS; j++) {
                    row[j] += n / l.block * l.block_bytes;
                }
            }
            for (int64_t j = 0; j < nt; j++) {
                float lane[ROWS];
                vst1q_f32(lane, acc[j][0]);
                vst1q_f32(lane + 4, acc[j][1]);
                memcpy(y + (t0 + j) * ldy + r, lane, (size_t)n_rows * sizeof *lane);
            }
        }
    }
}
