/* attention_int_neon.c - attention over an int8 or int4 KV cache with NEON; layouts and arithmetic are
 * attention_int.c's.
 *
 * Positions (scores) or dims (mixes) run in the lanes of dwords, four codes of each meet four of the query
 * or of the probabilities (dot4).  Compiled once without and once with DOTPROD; called through the tables of
 * kernels_neon.c. */
#include "kernels/kernels_neon.h"

#define CHUNK BL_INT_CHUNK

/* ---- scores ----------------------------------------------------------------------------------- */

/* Four dims of 4 positions, as bytes within +-127: the low or high nibbles of int4. */
INLINE int8x16_t codes_of(int bits, int high, uint8x16_t v) {
    if (bits == 8) {
        return vreinterpretq_s8_u8(v);
    }
    v = high ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15));
    return vsubq_s8(vreinterpretq_s8_u8(v), vdupq_n_s8(8));
}

INLINE void scores_tile(int bits, const int8_t *q, int64_t ldq, const float *qd, int nq, const uint8_t *tile,
                        const float *kd, int64_t dim, float scale, float *scores, int64_t ld) {
    int32x4_t acc[4][4];
    const int halves = bits == 8 ? 1 : 2;
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            acc[j][i] = vdupq_n_s32(0);
        }
    }
    for (int64_t d = 0; d < dim; d += 4 * halves, tile += 64) {
#pragma GCC unroll 2
        for (int high = 0; high < halves; high++) {
            int8x16_t x[4];
#pragma GCC unroll 4
            for (int j = 0; j < nq; j++) {
                x[j] = dword(q + j * ldq + d + 4 * high);
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                int8x16_t k = codes_of(bits, high, vld1q_u8(tile + i * 16));
#pragma GCC unroll 4
                for (int j = 0; j < nq; j++) {
                    acc[j][i] = dot4(acc[j][i], k, x[j]);
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
        float s = qd[j] * scale;
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            float32x4_t f = vmulq_n_f32(vld1q_f32(kd + i * 4), s);
            vst1q_f32(scores + j * ld + i * 4, vmulq_f32(vcvtq_f32_s32(acc[j][i]), f));
        }
    }
}

INLINE void scores_any(int bits, const int8_t *q, int64_t ldq, const float *qd, int n_q, const uint8_t *tiles,
                       const float *kd, int64_t n_tiles, int64_t dim, float scale, float *scores, int64_t ld) {
    int64_t tile_bytes = 16 * dim * bits / 8;
    for (; n_q > 0; q += 4 * ldq, qd += 4, scores += 4 * ld, n_q -= 4) {
        for (int64_t t = 0; t < n_tiles; t++) {
            const uint8_t *tile = tiles + t * tile_bytes;
            const float *d = kd + t * 16;
            float *out = scores + t * 16;
            switch (n_q) {
            default:
                scores_tile(bits, q, ldq, qd, 4, tile, d, dim, scale, out, ld);
                break;
            case 3:
                scores_tile(bits, q, ldq, qd, 3, tile, d, dim, scale, out, ld);
                break;
            case 2:
                scores_tile(bits, q, ldq, qd, 2, tile, d, dim, scale, out, ld);
                break;
            case 1:
                scores_tile(bits, q, ldq, qd, 1, tile, d, dim, scale, out, ld);
                break;
            }
        }
    }
}

void NEON_NAME(bl_scores_int)(int bits, const int8_t *q, int64_t ldq, const float *qd, int n_q,
                              const uint8_t *tiles, const float *kd, int64_t n_tiles, int64_t dim, float scale,
                              float *scores, int64_t ld) {
    if (bits == 8) {
        scores_any(8, q, ldq, qd, n_q, tiles, kd, n_tiles, dim, scale, scores, ld);
    } else {
        scores_any(4, q, ldq, qd, n_q, tiles, kd, n_tiles, dim, scale, scores, ld);
    }
}

/* ---- probabilities ------------------------------------------------------------------------------ */

#if !defined(__ARM_FEATURE_DOTPROD)
void bl_quant_probs_neon(const float *p, const float *vd, int64_t n_pos, uint8_t *pq, float *cd) {
    int64_t c = 0;
    for (; c + CHUNK <= n_pos; c += CHUNK, cd++) {
        float32x4_t t[CHUNK / 4];
        uint32x4_t m4 = vdupq_n_u32(0);
#pragma GCC unroll 16
        for (int i = 0; i < CHUNK / 4; i++) {
            t[i] = vmulq_f32(vld1q_f32(p + c + i * 4), vld1q_f32(vd + c + i * 4));
            m4 = vmaxq_u32(m4, vreinterpretq_u32_f32(vabsq_f32(t[i])));
        }
        float m = vgetq_lane_f32(vreinterpretq_f32_u32(vdupq_n_u32(vmaxvq_u32(m4))), 0);
        if (!(m >= 1e-30f && m <= 3.4e38f)) { /* nothing there, or no number: plain C decides */
            bl_quant_probs_ref(p + c, vd + c, CHUNK, pq + c, cd);
            continue;
        }
        float s = 127.0f / m;
#pragma GCC unroll 4
        for (int i = 0; i < CHUNK / 4; i += 4) {
            int32x4_t v[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                v[j] = vcvtnq_s32_f32(vmulq_n_f32(t[i + j], s));
            }
            int16x8_t a = vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1]));
            int16x8_t b = vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3]));
            vst1q_u8(pq + c + i * 4, vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(a), vmovn_s16(b))));
        }
        *cd = m / 127.0f;
    }
    if (c < n_pos) {
        bl_quant_probs_ref(p + c, vd + c, n_pos - c, pq + c, cd);
    }
}
#endif

/* ---- mixes ---------------------------------------------------------------------------------------- */

/* nd times four dwords of V from one column on (int4: the low or high nibbles) against nq queries, over n
 * dwords of a chunk's positions. */
INLINE void mix_block(int bits, int high, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int nq,
                      const uint8_t *v, int64_t stride, int n, int nd, float *out, int64_t ldo) {
    int32x4_t acc[4][4];
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
#pragma GCC unroll 4
        for (int d = 0; d < nd; d++) {
            acc[j][d] = vdupq_n_s32(0);
        }
    }
    for (int i = 0; i < n; i++) {
        int8x16_t x[4];
#pragma GCC unroll 4
        for (int j = 0; j < nq; j++) {
            x[j] = dword(pq + j * ldp + i * 4);
        }
#pragma GCC unroll 4
        for (int d = 0; d < nd; d++) {
            int8x16_t codes = codes_of(bits, high, vld1q_u8(v + i * stride + d * 16));
#pragma GCC unroll 4
            for (int j = 0; j < nq; j++) {
                acc[j][d] = dot4(acc[j][d], codes, x[j]);
            }
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
#pragma GCC unroll 4
        for (int d = 0; d < nd; d++) {
            float *to = out + j * ldo + d * 4;
            vst1q_f32(to, vfmaq_n_f32(vld1q_f32(to), vcvtq_f32_s32(acc[j][d]), cd[j * ldc]));
        }
    }
}

INLINE void mix_queries(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int nq,
                        const uint8_t *v, int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
    int64_t width = bits == 8 ? dim : dim / 2; /* a multiple of 4 */
    for (int j = 0; j < nq; j++) {
        memset(out + j * ldo, 0, (size_t)dim * sizeof *out);
    }
    for (int64_t c = 0; c < n_pos; c += CHUNK, cd++) {
        int n = (int)((BL_MIN(n_pos - c, CHUNK) + 3) / 4);
        const uint8_t *in = v + c / 4 * width * 4;
        for (int high = 0; high < 8 / bits; high++) {
            float *to = out + high * width;
            int64_t d = 0;
            for (; d + 16 <= width; d += 16) {
                mix_block(bits, high, pq + c, ldp, cd, ldc, nq, in + d * 4, width * 4, n, 4, to + d, ldo);
            }
            for (; d < width; d += 4) {
                mix_block(bits, high, pq + c, ldp, cd, ldc, nq, in + d * 4, width * 4, n, 1, to + d, ldo);
            }
        }
    }
}

INLINE void mix_any(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int n_q,
                    const uint8_t *v, int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
    for (; n_q > 0; pq += 4 * ldp, cd += 4 * ldc, out += 4 * ldo, n_q -= 4) {
        switch (n_q) {
        default:
            mix_queries(bits, pq, ldp, cd, ldc, 4, v, n_pos, dim, out, ldo);
            break;
        case 3:
            mix_queries(bits, pq, ldp, cd, ldc, 3, v, n_pos, dim, out, ldo);
            break;
        case 2:
            mix_queries(bits, pq, ldp, cd, ldc, 2, v, n_pos, dim, out, ldo);
            break;
        case 1:
            mix_queries(bits, pq, ldp, cd, ldc, 1, v, n_pos, dim, out, ldo);
            break;
        }
    }
}

void NEON_NAME(bl_mix_int)(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int n_q,
                           const uint8_t *v, int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
    if (bits == 8) {
        mix_any(8, pq, ldp, cd, ldc, n_q, v, n_pos, dim, out, ldo);
    } else {
        mix_any(4, pq, ldp, cd, ldc, n_q, v, n_pos, dim, out, ldo);
    }
}
