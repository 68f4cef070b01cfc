/* attention_avx512.c - scores and mixes over an f16 or f32 KV cache with AVX-512.
 *
 * A vector is the 16 positions of a K tile (scores) or 16 dimensions of V (mixes).  Every output is one
 * chain of fma, which may start every cycle and takes four: blocks of queries x tiles, or queries x vectors
 * of dimensions, keep 8 to 24 chains going and share what they load.  Ends of dimensions are masked.
 * Stores into the cache stay AVX2's.  Called through the table of kernels_avx512.c. */
#include "kernels/kernels_avx512.h"

#define MAX_QUERIES 8

/* The block sizes are constants wherever this is expanded. */
#define FOR_QUERIES(n_q, call)                                                                                 \
    switch (n_q) {                                                                                             \
    case 1: call(1, 8); break;                                                                                 \
    case 2: call(2, 4); break;                                                                                 \
    case 3: call(3, 4); break;                                                                                 \
    case 4: call(4, 4); break;                                                                                 \
    case 5: call(5, 2); break;                                                                                 \
    case 6: call(6, 2); break;                                                                                 \
    case 7: call(7, 2); break;                                                                                 \
    default: call(8, 2); break;                                                                                \
    }

INLINE __m512 load16(const void *p, int64_t index, int f16) {
    return f16 ? _mm512_cvtph_ps(load256((const uint16_t *)p + index)) : _mm512_loadu_ps((const float *)p + index);
}

INLINE __m512 load16_masked(const void *p, int64_t index, __mmask16 mask, int f16) {
    return f16 ? _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)p + index))
               : _mm512_maskz_loadu_ps(mask, (const float *)p + index);
}

/* ---- scores --------------------------------------------------------------------- */

/* nq queries against nt tiles from tile0 on. */
INLINE void scores_block(const float *q, int64_t ldq, int nq, const void *tiles, int64_t tile0, int nt,
                         int64_t dim, float scale, float *scores, int64_t ld, int f16) {
    __m512 acc[MAX_QUERIES][8];
#pragma GCC unroll 8
    for (int j = 0; j < nq; j++) {
#pragma GCC unroll 8
        for (int t = 0; t < nt; t++) {
            acc[j][t] = _mm512_setzero_ps();
        }
    }
    for (int64_t d = 0; d < dim; d++) {
        __m512 k[8];
#pragma GCC unroll 8
        for (int t = 0; t < nt; t++) {
            k[t] = load16(tiles, ((tile0 + t) * dim + d) * 16, f16);
        }
#pragma GCC unroll 8
        for (int j = 0; j < nq; j++) {
            __m512 x = _mm512_set1_ps(q[j * ldq + d]);
#pragma GCC unroll 8
            for (int t = 0; t < nt; t++) {
                acc[j][t] = _mm512_fmadd_ps(x, k[t], acc[j][t]);
            }
        }
    }
    const __m512 s = _mm512_set1_ps(scale);
#pragma GCC unroll 8
    for (int j = 0; j < nq; j++) {
#pragma GCC unroll 8
        for (int t = 0; t < nt; t++) {
            _mm512_storeu_ps(scores + j * ld + (tile0 + t) * 16, _mm512_mul_ps(acc[j][t], s));
        }
    }
}

INLINE void scores_queries(const float *q, int64_t ldq, int nq, const void *tiles, int64_t n_tiles, int nt,
                           int64_t dim, float scale, float *scores, int64_t ld, int f16) {
    int64_t t = 0;
    for (; t + nt <= n_tiles; t += nt) {
        scores_block(q, ldq, nq, tiles, t, nt, dim, scale, scores, ld, f16);
    }
    for (; nt > 4 && t + 4 <= n_tiles; t += 4) {
        scores_block(q, ldq, nq, tiles, t, 4, dim, scale, scores, ld, f16);
    }
    for (; nt > 2 && t + 2 <= n_tiles; t += 2) {
        scores_block(q, ldq, nq, tiles, t, 2, dim, scale, scores, ld, f16);
    }
    for (; t < n_tiles; t++) {
        scores_block(q, ldq, nq, tiles, t, 1, dim, scale, scores, ld, f16);
    }
}

void bl_scores_f16_avx512(const float *q, int64_t ldq, int n_q, const uint16_t *tiles, int64_t n_tiles,
                          int64_t dim, float scale, float *scores, int64_t ld) {
#define CALL(nq, nt) scores_queries(q, ldq, nq, tiles, n_tiles, nt, dim, scale, scores, ld, 1)
    FOR_QUERIES(n_q, CALL)
#undef CALL
}

void bl_scores_f32_avx512(const float *q, int64_t ldq, int n_q, const float *tiles, int64_t n_tiles,
                          int64_t dim, float scale, float *scores, int64_t ld) {
#define CALL(nq, nt) scores_queries(q, ldq, nq, tiles, n_tiles, nt, dim, scale, scores, ld, 0)
    FOR_QUERIES(n_q, CALL)
#undef CALL
}

/* ---- mixes ------------------------------------------------------------------------ */

/* The sums of nq queries over nd vectors of dimensions, carried on in `out` for n positions; the mask is
 * for all of them and full unless nd is 1. */
INLINE void mix_block(const float *prob, int64_t ld, int nq, const void *v, int64_t v_stride, int64_t n,
                      int nd, __mmask16 mask, int full, float *out, int64_t ldo, int f16) {
    __m512 acc[MAX_QUERIES][8];
#pragma GCC unroll 8
    for (int j = 0; j < nq; j++) {
#pragma GCC unroll 8
        for (int i = 0; i < nd; i++) {
            acc[j][i] = full ? _mm512_loadu_ps(out + j * ldo + i * 16)
                             : _mm512_maskz_loadu_ps(mask, out + j * ldo + i * 16);
        }
    }
    for (int64_t p = 0; p < n; p++) {
        __m512 x[8];
#pragma GCC unroll 8
        for (int i = 0; i < nd; i++) {
            int64_t index = p * v_stride + i * 16;
            x[i] = full ? load16(v, index, f16) : load16_masked(v, index, mask, f16);
        }
#pragma GCC unroll 8
        for (int j = 0; j < nq; j++) {
            __m512 w = _mm512_set1_ps(prob[j * ld + p]);
#pragma GCC unroll 8
            for (int i = 0; i < nd; i++) {
                acc[j][i] = _mm512_fmadd_ps(w, x[i], acc[j][i]);
            }
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < nq; j++) {
#pragma GCC unroll 8
        for (int i = 0; i < nd; i++) {
            if (full) {
                _mm512_storeu_ps(out + j * ldo + i * 16, acc[j][i]);
            } else {
                _mm512_mask_storeu_ps(out + j * ldo + i * 16, mask, acc[j][i]);
            }
        }
    }
}

/* V is walked in pieces that stay in the first cache over all dimensions. */
INLINE void mix_queries(const float *prob, int64_t ld, int nq, const void *v, int64_t v_stride, int64_t n_pos,
                        int nd, int64_t dim, float *out, int64_t ldo, int f16) {
    enum { PIECE = 64 };
    for (int j = 0; j < nq; j++) {
        memset(out + j * ldo, 0, (size_t)dim * sizeof *out);
    }
    for (int64_t p = 0; p < n_pos; p += PIECE) {
        int64_t n = BL_MIN(n_pos - p, PIECE), d = 0;
#define AT(d) (f16 ? (const void *)((const uint16_t *)v + p * v_stride + (d)) : (const float *)v + p * v_stride + (d))
        for (; d + nd * 16 <= dim; d += nd * 16) {
            mix_block(prob + p, ld, nq, AT(d), v_stride, n, nd, 0xffff, 1, out + d, ldo, f16);
        }
        for (; nd > 4 && d + 64 <= dim; d += 64) {
            mix_block(prob + p, ld, nq, AT(d), v_stride, n, 4, 0xffff, 1, out + d, ldo, f16);
        }
        for (; nd > 2 && d + 32 <= dim; d += 32) {
            mix_block(prob + p, ld, nq, AT(d), v_stride, n, 2, 0xffff, 1, out + d, ldo, f16);
        }
        for (; d + 16 <= dim; d += 16) {
            mix_block(prob + p, ld, nq, AT(d), v_stride, n, 1, 0xffff, 1, out + d, ldo, f16);
        }
        if (d < dim) {
            __mmask16 mask = (__mmask16)((1u << (dim - d)) - 1);
            mix_block(prob + p, ld, nq, AT(d), v_stride, n, 1, mask, 0, out + d, ldo, f16);
        }
#undef AT
    }
}

void bl_mix_f16_avx512(const float *prob, int64_t ld, int n_q, const uint16_t *v, int64_t v_stride,
                       int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
#define CALL(nq, nd) mix_queries(prob, ld, nq, v, v_stride, n_pos, nd, dim, out, ldo, 1)
    FOR_QUERIES(n_q, CALL)
#undef CALL
}

void bl_mix_f32_avx512(const float *prob, int64_t ld, int n_q, const float *v, int64_t v_stride,
                       int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
#define CALL(nq, nd) mix_queries(prob, ld, nq, v, v_stride, n_pos, nd, dim, out, ldo, 0)
    FOR_QUERIES(n_q, CALL)
#undef CALL
}
