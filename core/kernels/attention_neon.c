/* attention_neon.c - KV cache stores, scores and mixes with NEON.
 *
 * Every output is one fma chain, so vectors run across outputs: 16 positions of a K tile for scores,
 * dimensions of V for mixes.  The blocks below keep 8 to 16 chains going; their sizes are constants after
 * inlining, so that the sums stay in registers.  Called through the tables of kernels_neon.c. */
#include "kernels/kernels_neon.h"

INLINE uint16x4_t to_f16(float32x4_t x) {
    /* fmin and fmax give the NaN if one is: it stays. */
    x = vmaxq_f32(vminq_f32(x, vdupq_n_f32(65504.0f)), vdupq_n_f32(-65504.0f));
    return vreinterpret_u16_f16(vcvt_f16_f32(x));
}

/* Four halves of the last n < 4 floats. */
static uint16x4_t to_f16_end(const float *x, int64_t n) {
    float t[4] = {0};
    memcpy(t, x, (size_t)n * sizeof *t);
    return to_f16(vld1q_f32(t));
}

void bl_store_k_f16_neon(const float *k, int64_t dim, int64_t pos, uint16_t *head_tiles) {
    uint16_t *out = head_tiles + pos / 16 * 16 * dim + pos % 16;
    for (int64_t d = 0; d < dim; d += 4) {
        uint16_t t[4];
        int64_t n = BL_MIN(dim - d, 4);
        vst1_u16(t, n == 4 ? to_f16(vld1q_f32(k + d)) : to_f16_end(k + d, n));
        for (int64_t i = 0; i < n; i++) {
            out[(d + i) * 16] = t[i];
        }
    }
}

/* A column of stores 16 floats apart has nothing for vectors to do. */
void bl_store_k_f32_neon(const float *k, int64_t dim, int64_t pos, float *head_tiles) {
    float *out = head_tiles + pos / 16 * 16 * dim + pos % 16;
    for (int64_t d = 0; d < dim; d++) {
        out[d * 16] = k[d];
    }
}

void bl_store_v_f16_neon(const float *v, int64_t dim, uint16_t *out) {
    int64_t d = 0;
    for (; d + 4 <= dim; d += 4) {
        vst1_u16(out + d, to_f16(vld1q_f32(v + d)));
    }
    if (d < dim) {
        uint16_t t[4];
        vst1_u16(t, to_f16_end(v + d, dim - d));
        memcpy(out + d, t, (size_t)(dim - d) * sizeof *t);
    }
}

/* ---- scores --------------------------------------------------------------------- */

INLINE float32x4_t load_k(const void *tiles, int64_t index, int f16) {
    return f16 ? load_f16((const uint16_t *)tiles + index) : vld1q_f32((const float *)tiles + index);
}

/* nq queries against nt tiles. */
INLINE void scores_block(const float *q, int64_t ldq, int nq, const void *tiles, int64_t tile0, int nt,
                         int64_t dim, float scale, float *scores, int64_t ld, int f16) {
    float32x4_t acc[4][4][4];
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
#pragma GCC unroll 4
        for (int t = 0; t < nt; t++) {
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                acc[j][t][i] = vdupq_n_f32(0);
            }
        }
    }
    for (int64_t d = 0; d < dim; d++) {
#pragma GCC unroll 4
        for (int t = 0; t < nt; t++) {
            int64_t index = ((tile0 + t) * dim + d) * 16;
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                float32x4_t k = load_k(tiles, index + i * 4, f16);
#pragma GCC unroll 4
                for (int j = 0; j < nq; j++) {
                    acc[j][t][i] = vfmaq_n_f32(acc[j][t][i], k, q[j * ldq + d]);
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
#pragma GCC unroll 4
        for (int t = 0; t < nt; t++) {
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                vst1q_f32(scores + j * ld + (tile0 + t) * 16 + i * 4, vmulq_n_f32(acc[j][t][i], scale));
            }
        }
    }
}

INLINE void scores_any(const float *q, int64_t ldq, int n_q, const void *tiles, int64_t n_tiles, int64_t dim,
                       float scale, float *scores, int64_t ld, int f16) {
    for (; n_q > 0; q += 4 * ldq, scores += 4 * ld, n_q -= 4) {
        int64_t t = 0;
        switch (n_q) {
        default:
            for (; t < n_tiles; t++) {
                scores_block(q, ldq, 4, tiles, t, 1, dim, scale, scores, ld, f16);
            }
            break;
        case 3:
            for (; t < n_tiles; t++) {
                scores_block(q, ldq, 3, tiles, t, 1, dim, scale, scores, ld, f16);
            }
            break;
        case 2:
            for (; t < n_tiles; t++) {
                scores_block(q, ldq, 2, tiles, t, 1, dim, scale, scores, ld, f16);
            }
            break;
        case 1:
            for (; t + 4 <= n_tiles; t += 4) {
                scores_block(q, ldq, 1, tiles, t, 4, dim, scale, scores, ld, f16);
            }
            for (; t < n_tiles; t++) {
                scores_block(q, ldq, 1, tiles, t, 1, dim, scale, scores, ld, f16);
            }
            break;
        }
    }
}

void bl_scores_f16_neon(const float *q, int64_t ldq, int n_q, const uint16_t *tiles, int64_t n_tiles,
                        int64_t dim, float scale, float *scores, int64_t ld) {
    scores_any(q, ldq, n_q, tiles, n_tiles, dim, scale, scores, ld, 1);
}

void bl_scores_f32_neon(const float *q, int64_t ldq, int n_q, const float *tiles, int64_t n_tiles,
                        int64_t dim, float scale, float *scores, int64_t ld) {
    scores_any(q, ldq, n_q, tiles, n_tiles, dim, scale, scores, ld, 0);
}

/* ---- mixes ------------------------------------------------------------------------ */

/* The sums of nq queries over dimensions d .. d + 4*nd, carried on in `out` for n positions. */
INLINE void mix_block(const float *prob, int64_t ld, int nq, const void *v, int64_t v_stride, int64_t n,
                      int64_t d, int nd, float *out, int64_t ldo, int f16) {
    float32x4_t acc[4][8];
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
#pragma GCC unroll 8
        for (int i = 0; i < nd; i++) {
            acc[j][i] = vld1q_f32(out + j * ldo + d + i * 4);
        }
    }
    for (int64_t p = 0; p < n; p++) {
#pragma GCC unroll 8
        for (int i = 0; i < nd; i++) {
            float32x4_t x = load_k(v, p * v_stride + d + i * 4, f16);
#pragma GCC unroll 4
            for (int j = 0; j < nq; j++) {
                acc[j][i] = vfmaq_n_f32(acc[j][i], x, prob[j * ld + p]);
            }
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
#pragma GCC unroll 8
        for (int i = 0; i < nd; i++) {
            vst1q_f32(out + j * ldo + d + i * 4, acc[j][i]);
        }
    }
}

/* nq queries; V is walked in pieces that stay in the first cache over all dimensions. */
INLINE void mix_queries(const float *prob, int64_t ld, int nq, const void *v, int64_t v_stride, int64_t n_pos,
                        int64_t dim, float *out, int64_t ldo, int f16) {
    enum { PIECE = 64 };
    for (int j = 0; j < nq; j++) {
        memset(out + j * ldo, 0, (size_t)dim * sizeof *out);
    }
    for (int64_t p = 0; p < n_pos; p += PIECE) {
        int64_t n = BL_MIN(n_pos - p, PIECE), d = 0;
        const void *piece =
            f16 ? (const void *)((const uint16_t *)v + p * v_stride) : (const float *)v + p * v_stride;
        if (nq <= 2) {
            for (; d + 32 <= dim; d += 32) {
                mix_block(prob + p, ld, nq, piece, v_stride, n, d, 8, out, ldo, f16);
            }
        }
        for (; d + 16 <= dim; d += 16) {
            mix_block(prob + p, ld, nq, piece, v_stride, n, d, 4, out, ldo, f16);
        }
        for (; d + 4 <= dim; d += 4) {
            mix_block(prob + p, ld, nq, piece, v_stride, n, d, 1, out, ldo, f16);
        }
        for (; d < dim; d++) {
            for (int j = 0; j < nq; j++) {
                float acc = out[j * ldo + d];
                for (int64_t i = 0; i < n; i++) {
                    float x = f16 ? one_f16(((const uint16_t *)piece)[i * v_stride + d])
                                  : ((const float *)piece)[i * v_stride + d];
                    acc = fmaf(prob[j * ld + p + i], x, acc);
                }
                out[j * ldo + d] = acc;
            }
        }
    }
}

INLINE void mix_any(const float *prob, int64_t ld, int n_q, const void *v, int64_t v_stride, int64_t n_pos,
                    int64_t dim, float *out, int64_t ldo, int f16) {
    for (; n_q > 0; prob += 4 * ld, out += 4 * ldo, n_q -= 4) {
        switch (n_q) {
        default:
            mix_queries(prob, ld, 4, v, v_stride, n_pos, dim, out, ldo, f16);
            break;
        case 3:
            mix_queries(prob, ld, 3, v, v_stride, n_pos, dim, out, ldo, f16);
            break;
        case 2:
            mix_queries(prob, ld, 2, v, v_stride, n_pos, dim, out, ldo, f16);
            break;
        case 1:
            mix_queries(prob, ld, 1, v, v_stride, n_pos, dim, out, ldo, f16);
            break;
        }
    }
}

void bl_mix_f16_neon(const float *prob, int64_t ld, int n_q, const uint16_t *v, int64_t v_stride,
                     int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
    mix_any(prob, ld, n_q, v, v_stride, n_pos, dim, out, ldo, 1);
}

void bl_mix_f32_neon(const float *prob, int64_t ld, int n_q, const float *v, int64_t v_stride,
                     int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
    mix_any(prob, ld, n_q, v, v_stride, n_pos, dim, out, ldo, 0);
}
