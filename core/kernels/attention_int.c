/* attention_int.c - the KV cache in int8 and int4: quantizing, layouts, and the plain C of integer
 * attention, which is the specification (kernels.h) of the ISA files' versions.
 *
 * K and V of a position and head are codes within +-127 (int8) or +-7 (int4, kept as code + 8) and a
 * scale.  A dword holds four codes that one dot product consumes:
 *
 *   K, a tile of 16 positions:   int8  dword (d/4)*16 + p   dims d, d+1, d+2, d+3 of position p
 *                                int4  dword (d/8)*16 + p   low nibbles dims d .. d+3, high d+4 .. d+7
 *   V of a head:                 int8  dword (p/4)*dim + d  positions p .. p+3 of dim d
 *                                int4  dword (p/4)*(dim/2) + d   low nibbles dim d, high dim d + dim/2
 *
 * so a byte belongs to one position, and threads may store different positions at once.  dim is a
 * multiple of 8.  Storing is plain C on every processor: a few thousand values a token.
 *
 * Called through the kernel table and by core/model/attention.c. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

#define CHUNK BL_INT_CHUNK

/* rne(x) of |x| < 2^22 without a call of rintf. */
static float nearest(float x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: its ulp is 1 */
    return (x + magic) - magic;
}

static float largest(const float *x, int64_t n) {
    float m = 0.0f;
    int bad = 0;
    for (int64_t i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        bad |= !(a <= 3.4e38f);
        m = a > m ? a : m;
    }
    return bad ? NAN : m;
}

float bl_quant_head(const float *x, int64_t dim, int bits, int8_t *q) {
    float top = bits == 8 ? 127.0f : 7.0f, m = largest(x, dim);
    if (!(m >= 1e-30f)) { /* NaN too */
        memset(q, 0, (size_t)dim);
        return m == m ? 0.0f : m;
    }
    float s = top / m;
    for (int64_t i = 0; i < dim; i++) {
        q[i] = (int8_t)(int32_t)nearest(x[i] * s);
    }
    return m / top;
}

void bl_store_k_int(const int8_t *q, int64_t dim, int bits, int64_t pos, uint8_t *tiles) {
    uint8_t *tile = tiles + pos / 16 * 16 * dim * bits / 8 + pos % 16 * 4;
    for (int64_t d = 0; d < dim; d += bits == 8 ? 4 : 8, tile += 64) {
        for (int i = 0; i < 4; i++) {
            tile[i] = bits == 8 ? (uint8_t)q[d + i] : (uint8_t)((q[d + i] + 8) | (q[d + 4 + i] + 8) << 4);
        }
    }
}

void bl_store_v_int(const int8_t *q, int64_t dim, int bits, int64_t pos, uint8_t *v) {
    int64_t width = bits == 8 ? dim : dim / 2;
    uint8_t *out = v + pos / 4 * width * 4 + pos % 4;
    for (int64_t d = 0; d < width; d++) {
        out[d * 4] = bits == 8 ? (uint8_t)q[d] : (uint8_t)((q[d] + 8) | (q[d + width] + 8) << 4);
    }
}

static int32_t k_code(const uint8_t *tile, int64_t p, int64_t d, int bits) {
    if (bits == 8) {
        return (int8_t)tile[d / 4 * 64 + p * 4 + d % 4];
    }
    uint8_t byte = tile[d / 8 * 64 + p * 4 + d % 4];
    return (d % 8 < 4 ? byte & 15 : byte >> 4) - 8;
}

void bl_scores_int_ref(int bits, const int8_t *q, int64_t ldq, const float *qd, int n_q, const uint8_t *tiles,
                       const float *kd, int64_t n_tiles, int64_t dim, float scale, float *scores, int64_t ld) {
    for (int j = 0; j < n_q; j++) {
        float s = qd[j] * scale;
        for (int64_t p = 0; p < n_tiles * 16; p++) {
            const uint8_t *tile = tiles + p / 16 * 16 * dim * bits / 8;
            int32_t sum = 0;
            for (int64_t d = 0; d < dim; d++) {
                sum += q[j * ldq + d] * k_code(tile, p % 16, d, bits);
            }
            scores[j * ld + p] = (float)sum * (s * kd[p]);
        }
    }
}

void bl_quant_probs_ref(const float *p, const float *vd, int64_t n_pos, uint8_t *pq, float *cd) {
    for (int64_t c = 0; c < n_pos; c += CHUNK, cd++) {
        float t[CHUNK];
        int64_t n = BL_MIN(n_pos - c, CHUNK);
        for (int64_t i = 0; i < n; i++) {
            t[i] = p[c + i] * vd[c + i];
        }
        float m = largest(t, n);
        memset(pq + c, 0, CHUNK);
        if (!(m >= 1e-30f)) {
            *cd = m == m ? 0.0f : m;
            continue;
        }
        float s = 127.0f / m;
        for (int64_t i = 0; i < n; i++) {
            pq[c + i] = (uint8_t)(int32_t)nearest(t[i] * s);
        }
        *cd = m / 127.0f;
    }
}

void bl_mix_int_ref(int bits, const uint8_t *pq, int64_t ldp, const float *cd, int64_t ldc, int n_q,
                    const uint8_t *v, int64_t n_pos, int64_t dim, float *out, int64_t ldo) {
    int64_t width = bits == 8 ? dim : dim / 2;
    for (int j = 0; j < n_q; j++) {
        for (int64_t d = 0; d < dim; d++) {
            float acc = 0.0f;
            for (int64_t c = 0; c < n_pos; c += CHUNK) {
                int32_t sum = 0;
                for (int64_t p = c; p < BL_MIN(n_pos, c + CHUNK); p++) {
                    uint8_t byte = v[(p / 4 * width + d % width) * 4 + p % 4];
                    int32_t code = bits == 8 ? (int8_t)byte : (d < width ? byte & 15 : byte >> 4) - 8;
                    sum += pq[j * ldp + p] * code;
                }
                acc = fmaf((float)sum, cd[j * ldc + c / CHUNK], acc);
            }
            out[j * ldo + d] = acc;
        }
    }
}
