/* attention_int_avx2.c - attention over an int8 or int4 KV cache with AVX2; layouts and arithmetic are
 * attention_int.c's.
 *
 * Positions (scores) or dims (mixes) run in the lanes of dwords; vpmaddubsw takes four codes of each
 * to two int16 sums, which |code| <= 127 keeps within range, and vpmaddwd with ones to an int32.
 * Scores have signs on both sides: |q| meets the codes with q's sign.  Called through the table of
 * kernels_avx2.c. */
#include "kernels/kernels_avx2.h"

#define CHUNK BL_INT_CHUNK

INLINE __m256i dot4(__m256i u, __m256i s) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1));
}

INLINE __m256i dword(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

/* ---- scores ----------------------------------------------------------------------------------- */

/* Four dims (as bytes within +-127) of 16 positions against nq queries. */
INLINE void scores_step(__m256i k0, __m256i k1, const int8_t *q, int64_t ldq, int nq, __m256i (*acc)[2]) {
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
        __m256i x = dword(q + j * ldq), u = _mm256_abs_epi8(x);
        acc[j][0] = _mm256_add_epi32(acc[j][0], dot4(u, _mm256_sign_epi8(k0, x)));
        acc[j][1] = _mm256_add_epi32(acc[j][1], dot4(u, _mm256_sign_epi8(k1, x)));
    }
}

INLINE void scores_tile(int bits, const int8_t *q, int64_t ldq, const float *qd, int nq, const uint8_t *tile,
                        const float *kd, int64_t dim, float scale, float *scores, int64_t ld) {
    const __m256i low = _mm256_set1_epi8(15), eight = _mm256_set1_epi8(8);
    __m256i acc[4][2];
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
        acc[j][0] = acc[j][1] = _mm256_setzero_si256();
    }
    if (bits == 8) {
        for (int64_t d = 0; d < dim; d += 4, tile += 64) {
            scores_step(load256(tile), load256(tile + 32), q + d, ldq, nq, acc);
        }
    } else {
        for (int64_t d = 0; d < dim; d += 8, tile += 64) {
            __m256i a = load256(tile), b = load256(tile + 32);
            scores_step(_mm256_sub_epi8(_mm256_and_si256(a, low), eight),
                        _mm256_sub_epi8(_mm256_and_si256(b, low), eight), q + d, ldq, nq, acc);
            a = _mm256_and_si256(_mm256_srli_epi16(a, 4), low);
            b = _mm256_and_si256(_mm256_srli_epi16(b, 4), low);
            scores_step(_mm256_sub_epi8(a, eight), _mm256_sub_epi8(b, eight), q + d + 4, ldq, nq, acc);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
        __m256 s = _mm256_set1_ps(qd[j] * scale);
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            __m256 f = _mm256_mul_ps(s, _mm256_loadu_ps(kd + i * 8));
            _mm256_storeu_ps(scores + j * ld + i * 8, _mm256_mul_ps(_mm256_cvtepi32_ps(acc[j][i]), f));
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

void bl_scores_int_avx2(int bits, const int8_t *q, int64_t ldq, const float *qd, int n_q, const uint8_t *tiles,
                        const float *kd, int64_t n_tiles, int64_t dim, float scale, float *scores, int64_t ld) {
    if (bits == 8) {
        scores_any(8, q, ldq, qd, n_q, tiles, kd, n_tiles, dim, scale, scores, ld);
    } else {
        scores_any(4, q, ldq, qd, n_q, tiles, kd, n_tiles, dim, scale, scores, ld);
    }
}

/* ---- probabilities ------------------------------------------------------------------------------ */

void bl_quant_probs_avx2(const float *p, const float *vd, int64_t n_pos, uint8_t *pq, float *cd) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    int64_t c = 0;
    for (; c + CHUNK <= n_pos; c += CHUNK, cd++) {
        __m256 t[CHUNK / 8];
        __m256i m8 = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int i = 0; i < CHUNK / 8; i++) {
            t[i] = _mm256_mul_ps(_mm256_loadu_ps(p + c + i * 8), _mm256_loadu_ps(vd + c + i * 8));
            m8 = _mm256_max_epi32(m8, _mm256_and_si256(_mm256_castps_si256(t[i]), magnitude));
        }
        __m128i m4 = _mm_max_epi32(_mm256_castsi256_si128(m8), _mm256_extracti128_si256(m8, 1));
        m4 = _mm_max_epi32(m4, _mm_shuffle_epi32(m4, 0x4e));
        m4 = _mm_max_epi32(m4, _mm_shuffle_epi32(m4, 0xb1));
        float m = _mm_cvtss_f32(_mm_castsi128_ps(m4));
        if (!(m >= 1e-30f && m <= 3.4e38f)) { /* nothing there, or no number: plain C decides */
            bl_quant_probs_ref(p + c, vd + c, CHUNK, pq + c, cd);
            continue;
        }
        __m256 s = _mm256_set1_ps(127.0f / m);
#pragma GCC unroll 2
        for (int i = 0; i < CHUNK / 8; i += 4) {
            __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(t[i], s)),
                                           _mm256_cvtps_epi32(_mm256_mul_ps(t[i + 1], s)));
            __m256i b = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(t[i + 2], s)),
                                           _mm256_cvtps_epi32(_mm256_mul_ps(t[i + 3], s)));
            store256(pq + c + i * 8, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order));
        }
        *cd = m / 127.0f;
    }
    if (c < n_pos) {
        bl_quant_probs_ref(p + c, vd + c, n_pos - c, pq + c, cd);
    }
}

/* ---- mixes ---------------------------------------------------------------------------------------- */

/* Eight dwords of V from column d on (int4: the low or high nibbles) against nq queries, over n dwords of
 * a chunk's positions. */
INLINE void mix_block(int bits, int high, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int nq,
                      const uint8_t *v, int64_t stride, int n, float *out, int64_t ldo) {
    const __m256i low = _mm256_set1_epi8(15), eight = _mm256_set1_epi8(8);
    __m256i acc[4];
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
        acc[j] = _mm256_setzero_si256();
    }
    for (int i = 0; i < n; i++) {
        __m256i codes = load256(v + i * stride);
        if (bits == 4) {
            codes = _mm256_and_si256(high ? _mm256_srli_epi16(codes, 4) : codes, low);
            codes = _mm256_sub_epi8(codes, eight);
        }
#pragma GCC unroll 4
        for (int j = 0; j < nq; j++) {
            acc[j] = _mm256_add_epi32(acc[j], dot4(dword(pq + j * ldp + i * 4), codes));
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
        __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[j]), _mm256_broadcast_ss(cd + j * ldc),
                                     _mm256_loadu_ps(out + j * ldo));
        _mm256_storeu_ps(out + j * ldo, sum);
    }
}

INLINE void mix_queries(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int nq,
                        const uint8_t *v, int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
    int64_t width = bits == 8 ? dim : dim / 2;
    for (int j = 0; j < nq; j++) {
        memset(out + j * ldo, 0, (size_t)dim * sizeof *out);
    }
    for (int64_t c = 0; c < n_pos; c += CHUNK, cd++) {
        int n = (int)((BL_MIN(n_pos - c, CHUNK) + 3) / 4);
        const uint8_t *in = v + c / 4 * width * 4;
        int64_t d = 0;
        for (; d + 8 <= width; d += 8) {
            mix_block(bits, 0, pq + c, ldp, cd, ldc, nq, in + d * 4, width * 4, n, out + d, ldo);
            if (bits == 4) {
                mix_block(bits, 1, pq + c, ldp, cd, ldc, nq, in + d * 4, width * 4, n, out + d + width, ldo);
            }
        }
        for (; d < width; d++) { /* int4 with an odd multiple of 8 dims: four columns are left */
            for (int j = 0; j < nq; j++) {
                int32_t sum = 0, sum_high = 0;
                for (int i = 0; i < n * 4; i++) {
                    uint8_t byte = in[(i / 4 * width + d) * 4 + i % 4];
                    sum += pq[j * ldp + c + i] * ((byte & 15) - 8);
                    sum_high += pq[j * ldp + c + i] * ((byte >> 4) - 8);
                }
                out[j * ldo + d] = fma_scalar((float)sum, cd[j * ldc], out[j * ldo + d]);
                out[j * ldo + d + width] = fma_scalar((float)sum_high, cd[j * ldc], out[j * ldo + d + width]);
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

void bl_mix_int_avx2(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int n_q,
                     const uint8_t *v, int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
    if (bits == 8) {
        mix_any(8, pq, ldp, cd, ldc, n_q, v, n_pos, dim, out, ldo);
    } else {
        mix_any(4, pq, ldp, cd, ldc, n_q, v, n_pos, dim, out, ldo);
    }
}
