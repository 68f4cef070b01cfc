/* binary_avx512.c - binary weights (Q1_0) against the signs of activations with VPOPCNTDQ: a lane is a token.
 *
 * The signs of eight tokens are interleaved by words once a call; a block's two words then meet all eight at once, and
 * the chains of eight outputs stand in one vector.  Few tokens take the AVX2 way.  Called through the kernel table. */
#include "kernels/kernels_avx512.h"

#define BLOCK 18 /* bytes: scale in half, 128 signs */
#define ROWS 4

/* Words of 8 tokens: word i of token t at i*8 + t. */
INLINE void interleave(const uint8_t *bits, int64_t ldb, int64_t words, uint64_t *out) {
    __m512i at = _mm512_mullo_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64(ldb));
    for (int64_t i = 0; i < words; i++)
        _mm512_storeu_si512(out + i * 8, _mm512_i64gather_epi64(at, bits + i * 8, 1));
}

INLINE __m512i differ(uint64_t word, const uint64_t *x) {
    return _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_set1_epi64((long long)word), _mm512_loadu_si512(x)));
}

INLINE void rows_of(const uint8_t *w, int64_t row_bytes, int64_t first, int64_t n_groups, const uint64_t *x, __m256 xd,
                    int n_rows, float *y, int64_t ldy) {
    __m256 acc[ROWS];
    __m256i at = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i places = _mm256_mullo_epi32(at, _mm256_set1_epi32((int)ldy));
    for (int r = 0; r < n_rows; r++)
        acc[r] = first ? _mm256_i32gather_ps(y + r, places, 4) : _mm256_setzero_ps();
    for (int64_t g = 0; g < n_groups; g++)
#pragma GCC unroll 4
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *block = w + r * row_bytes + (first + g) * BLOCK;
            uint64_t low, high;
            uint16_t half;
            memcpy(&half, block, sizeof half);
            memcpy(&low, block + 2, sizeof low);
            memcpy(&high, block + 10, sizeof high);
            __m512i n = _mm512_add_epi64(differ(low, x + g * 16), differ(high, x + g * 16 + 8));
            __m256i sum = _mm256_sub_epi32(_mm256_set1_epi32(128), _mm256_slli_epi32(_mm512_cvtepi64_epi32(n), 1));
            __m256 d = _mm256_cvtph_ps(_mm_set1_epi16((short)half));
            acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(d, xd), acc[r]);
        }
    for (int r = 0; r < n_rows; r++)
        _mm256_i32scatter_ps(y + r, places, acc[r], 4);
}

void bl_binary_rows_avx512(const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const uint8_t *bits, int64_t ldb,
                           const float *xd, int64_t n_tok, float *y, int64_t ldy) {
    enum { PIECE = 32 }; /* groups whose signs are interleaved at a time: 4 KiB */
    uint64_t x[PIECE * 16];
    int64_t groups = k / 128, row_bytes = groups * BLOCK, t = 0;
    for (; t + 8 <= n_tok; t += 8)
        for (int64_t first = 0; first < groups; first += PIECE) {
            int64_t n = BL_MIN(PIECE, groups - first), r = r0;
            __m256 d = _mm256_loadu_ps(xd + t);
            interleave(bits + t * ldb + first * 16, ldb, n * 2, x);
            for (; r + ROWS <= r1; r += ROWS)
                rows_of(w + r * row_bytes, row_bytes, first, n, x, d, ROWS, y + t * ldy + r, ldy);
            for (; r < r1; r++)
                rows_of(w + r * row_bytes, row_bytes, first, n, x, d, 1, y + t * ldy + r, ldy);
        }
    if (t < n_tok)
        bl_binary_rows_avx2(w, k, r0, r1, bits + t * ldb, ldb, xd + t, n_tok - t, y + t * ldy, ldy);
}
