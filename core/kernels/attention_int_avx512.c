/* attention_int_avx512.c - attention over an int8 or int4 KV cache with AVX-512 VNNI; layouts and arithmetic
 * are attention_int.c's.
 *
 * vpdpbusd adds four products of unsigned and signed bytes to each of 16 sums of 32 bits.  In scores the
 * unsigned side is K: int8 codes become code + 128 by flipping the top bit, int4 codes are kept as code + 8,
 * and a sum begins at -128 or -8 times the query's sum.  In mixes the probabilities are unsigned, or, for
 * int4, the nibbles.  Rounding the probabilities is as fast with AVX2.  Called through the table of kernels_avx512.c. */
#include "kernels/kernels_avx512.h"

#define CHUNK BL_INT_CHUNK
#define MAX_QUERIES 8

INLINE __m512i dword(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

INLINE __m512i load512(const void *p) { return _mm512_loadu_si512(p); }

/* sum + u·s by vpdpbusd.  GCC 12 surrounds the intrinsic with copies of the sum, which cost a third. */
INLINE __m512i dot4(__m512i sum, __m512i u, __m512i s) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(s));
    return sum;
}

/* The same with one dword of signed bytes from memory for all sums. */
INLINE __m512i dot4_dword(__m512i sum, __m512i u, const void *s) {
    struct dword {
        uint8_t byte[4];
    };
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(u), "m"(*(const struct dword *)s));
    return sum;
}

/* ---- scores ----------------------------------------------------------------------------------- */

static int32_t sum_of(const int8_t *q, int64_t dim) {
    __m256i sum = _mm256_setzero_si256();
    const __m256i ones = _mm256_set1_epi8(1);
    int64_t d = 0;
    for (; d + 32 <= dim; d += 32) {
        sum = _mm256_dpbusd_epi32(sum, ones, load256(q + d));
    }
    if (d < dim) {
        __m256i rest = _mm256_maskz_loadu_epi8((__mmask32)((1u << (dim - d)) - 1), q + d);
        sum = _mm256_dpbusd_epi32(sum, ones, rest);
    }
    __m128i v = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1));
    return _mm_cvtsi128_si32(v);
}

/* nq queries against nt tiles from `tile` on; first[j]: what query j's sums begin at. */
INLINE void scores_block(int bits, const int8_t *q, int64_t ldq, const float *scale, const int32_t *first, int nq,
                         const uint8_t *tile, const float *kd, int nt, int64_t dim, float *scores, int64_t ld) {
    const __m512i flip = _mm512_set1_epi8(-128), low = _mm512_set1_epi8(15);
    int64_t tile_bytes = 16 * dim * bits / 8;
    __m512i acc[MAX_QUERIES][4];
#pragma GCC unroll 8
    for (int j = 0; j < nq; j++) {
#pragma GCC unroll 4
        for (int t = 0; t < nt; t++) {
            acc[j][t] = _mm512_set1_epi32(first[j]);
        }
    }
    for (int64_t d = 0; d < dim; d += bits == 8 ? 4 : 8, tile += 64) {
        __m512i k[4], high[4];
#pragma GCC unroll 4
        for (int t = 0; t < nt; t++) {
            /* The block after the next, into the second cache: asked for in the first, a long text is read at
             * half the rate. */
            _mm_prefetch((const char *)tile + (2 * nt + t) * tile_bytes, _MM_HINT_T1);
            k[t] = load512(tile + t * tile_bytes);
            if (bits == 8) {
                k[t] = _mm512_xor_si512(k[t], flip);
            } else {
                high[t] = _mm512_and_si512(_mm512_srli_epi16(k[t], 4), low);
                k[t] = _mm512_and_si512(k[t], low);
            }
        }
#pragma GCC unroll 8
        for (int j = 0; j < nq; j++) {
#pragma GCC unroll 4
            for (int t = 0; t < nt; t++) {
                acc[j][t] = dot4_dword(acc[j][t], k[t], q + j * ldq + d);
                if (bits == 4) {
                    acc[j][t] = dot4_dword(acc[j][t], high[t], q + j * ldq + d + 4);
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < nq; j++) {
        __m512 s = _mm512_set1_ps(scale[j]);
#pragma GCC unroll 4
        for (int t = 0; t < nt; t++) {
            __m512 f = _mm512_mul_ps(s, _mm512_loadu_ps(kd + t * 16));
            _mm512_storeu_ps(scores + j * ld + t * 16, _mm512_mul_ps(_mm512_cvtepi32_ps(acc[j][t]), f));
        }
    }
}

INLINE void scores_queries(int bits, const int8_t *q, int64_t ldq, const float *scale, const int32_t *first, int nq,
                           const uint8_t *tiles, const float *kd, int64_t n_tiles, int nt, int64_t dim,
                           float *scores, int64_t ld) {
    int64_t tile_bytes = 16 * dim * bits / 8, t = 0;
    for (; t + nt <= n_tiles; t += nt) {
        scores_block(bits, q, ldq, scale, first, nq, tiles + t * tile_bytes, kd + t * 16, nt, dim, scores + t * 16, ld);
    }
    for (; nt > 2 && t + 2 <= n_tiles; t += 2) {
        scores_block(bits, q, ldq, scale, first, nq, tiles + t * tile_bytes, kd + t * 16, 2, dim, scores + t * 16, ld);
    }
    for (; t < n_tiles; t++) {
        scores_block(bits, q, ldq, scale, first, nq, tiles + t * tile_bytes, kd + t * 16, 1, dim, scores + t * 16, ld);
    }
}

INLINE void scores_any(int bits, const int8_t *q, int64_t ldq, const float *qd, int n_q, const uint8_t *tiles,
                       const float *kd, int64_t n_tiles, int64_t dim, float scale, float *scores, int64_t ld) {
    float s[MAX_QUERIES];
    int32_t first[MAX_QUERIES];
    for (int j = 0; j < n_q; j++) {
        s[j] = qd[j] * scale;
        first[j] = -(bits == 8 ? 128 : 8) * sum_of(q + j * ldq, dim);
    }
#define CALL(nq, nt) scores_queries(bits, q, ldq, s, first, nq, tiles, kd, n_tiles, nt, dim, scores, ld)
    switch (n_q) {
    case 1: CALL(1, 4); break;
    case 2: CALL(2, 4); break;
    case 3: CALL(3, 4); break;
    case 4: CALL(4, 4); break;
    case 5: CALL(5, 2); break;
    case 6: CALL(6, 2); break;
    case 7: CALL(7, 2); break;
    default: CALL(8, 2); break;
    }
#undef CALL
}

void bl_scores_int_avx512(int bits, const int8_t *q, int64_t ldq, const float *qd, int n_q, const uint8_t *tiles,
                          const float *kd, int64_t n_tiles, int64_t dim, float scale, float *scores, int64_t ld) {
    if (bits == 8) {
        scores_any(8, q, ldq, qd, n_q, tiles, kd, n_tiles, dim, scale, scores, ld);
    } else {
        scores_any(4, q, ldq, qd, n_q, tiles, kd, n_tiles, dim, scale, scores, ld);
    }
}

/* ---- mixes ---------------------------------------------------------------------------------------- */

/* out += sum * d */
INLINE void add_scaled(__m512i sum, __m512 d, __mmask16 mask, int full, float *out) {
    __m512 f = _mm512_cvtepi32_ps(sum);
    if (full) {
        _mm512_storeu_ps(out, _mm512_fmadd_ps(f, d, _mm512_loadu_ps(out)));
    } else {
        _mm512_mask_storeu_ps(out, mask, _mm512_fmadd_ps(f, d, _mm512_maskz_loadu_ps(mask, out)));
    }
}

/* nd vectors of 16 columns of V against nq queries, over n dwords of a chunk's positions; int4 has the
 * columns + width in the high nibbles.  first[j]: what the sums of int4 begin at. */
INLINE void mix_block(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, const int32_t *first,
                      int nq, const uint8_t *v, int64_t width, int n, int nd, __mmask16 mask, int full, float *out,
                      int64_t ldo) {
    const __m512i low = _mm512_set1_epi8(15);
    __m512i acc[4][2], high[4][2];
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
#pragma GCC unroll 2
        for (int i = 0; i < nd; i++) {
            acc[j][i] = high[j][i] = bits == 8 ? _mm512_setzero_si512() : _mm512_set1_epi32(first[j]);
        }
    }
    for (int p = 0; p < n; p++, v += width * 4) {
        __m512i x[2], x_high[2];
#pragma GCC unroll 2
        for (int i = 0; i < nd; i++) {
            _mm_prefetch((const char *)v + i * 64 + width * CHUNK * 2, _MM_HINT_T1); /* likewise */
            x[i] = full ? load512(v + i * 64) : _mm512_maskz_loadu_epi32(mask, v + i * 64);
            if (bits == 4) {
                x_high[i] = _mm512_and_si512(_mm512_srli_epi16(x[i], 4), low);
                x[i] = _mm512_and_si512(x[i], low);
            }
        }
#pragma GCC unroll 4
        for (int j = 0; j < nq; j++) {
            const uint8_t *w = pq + j * ldp + p * 4;
            __m512i w16 = bits == 8 ? dword(w) : low;
#pragma GCC unroll 2
            for (int i = 0; i < nd; i++) {
                if (bits == 8) {
                    acc[j][i] = dot4(acc[j][i], w16, x[i]);
                } else {
                    acc[j][i] = dot4_dword(acc[j][i], x[i], w);
                    high[j][i] = dot4_dword(high[j][i], x_high[i], w);
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < nq; j++) {
        __m512 d = _mm512_set1_ps(cd[j * ldc]);
#pragma GCC unroll 2
        for (int i = 0; i < nd; i++) {
            add_scaled(acc[j][i], d, mask, full, out + j * ldo + i * 16);
            if (bits == 4) {
                add_scaled(high[j][i], d, mask, full, out + j * ldo + i * 16 + width);
            }
        }
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
        int32_t first[4] = {0};
        int64_t d = 0;
        for (int j = 0; bits == 4 && j < nq; j++) {
            first[j] = -8 * sum_of((const int8_t *)pq + j * ldp + c, n * 4); /* <= 127: signed or not is the same */
        }
        for (; d + 32 <= width; d += 32) {
            mix_block(bits, pq + c, ldp, cd, ldc, first, nq, in + d * 4, width, n, 2, 0xffff, 1, out + d, ldo);
        }
        for (; d + 16 <= width; d += 16) {
            mix_block(bits, pq + c, ldp, cd, ldc, first, nq, in + d * 4, width, n, 1, 0xffff, 1, out + d, ldo);
        }
        if (d < width) {
            __mmask16 mask = (__mmask16)((1u << (width - d)) - 1);
            mix_block(bits, pq + c, ldp, cd, ldc, first, nq, in + d * 4, width, n, 1, mask, 0, out + d, ldo);
        }
    }
}

INLINE void mix_any(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int n_q,
                    const uint8_t *v, int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
    for (; n_q > 0; pq += 4 * ldp, cd += 4 * ldc, out += 4 * ldo, n_q -= 4) {
        switch (n_q) {
        default: mix_queries(bits, pq, ldp, cd, ldc, 4, v, n_pos, dim, out, ldo); break;
        case 3: mix_queries(bits, pq, ldp, cd, ldc, 3, v, n_pos, dim, out, ldo); break;
        case 2: mix_queries(bits, pq, ldp, cd, ldc, 2, v, n_pos, dim, out, ldo); break;
        case 1: mix_queries(bits, pq, ldp, cd, ldc, 1, v, n_pos, dim, out, ldo); break;
        }
    }
}

void bl_mix_int_avx512(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int n_q,
                       const uint8_t *v, int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
    if (bits == 8) {
        mix_any(8, pq, ldp, cd, ldc, n_q, v, n_pos, dim, out, ldo);
    } else {
        mix_any(4, pq, ldp, cd, ldc, n_q, v, n_pos, dim, out, ldo);
    }
}
