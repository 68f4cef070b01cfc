/* decode.c - every tensor type to float32, in plain C: what a block means.
 *
 * One function a layout, written to be read beside docs/FORMATS.md; speed is the
 * business of core/kernels, whose own unpackers are tested against these, and which widens plain floats for both.  Each
 * product is rounded to float32 before the next operation (no fused multiply).
 * Called by core/model (embedding rows), the command and the tests.
 *
 *   codes of the ternary types: 0, 1, 2, 3 mean -1, 0, +1, +2 times d
 *   fields stand in the order of the block; d is an F16 scale */
#include "kernels/kernels.h"
#include "quant/quant.h"

#include <string.h>

static void decode_q4_0(const uint8_t *b, float *out) { /* d, 16 bytes */
    float d = bl_f16_to_f32(bl_read_u16(b));
    for (int j = 0; j < 16; j++) {
        out[j] = d * (float)((b[2 + j] & 15) - 8);
        out[j + 16] = d * (float)((b[2 + j] >> 4) - 8);
    }
}

static void decode_q4_1(const uint8_t *b, float *out) { /* d, m, 16 bytes */
    float d = bl_f16_to_f32(bl_read_u16(b)), m = bl_f16_to_f32(bl_read_u16(b + 2));
    for (int j = 0; j < 16; j++) {
        out[j] = d * (float)(b[4 + j] & 15) + m;
        out[j + 16] = d * (float)(b[4 + j] >> 4) + m;
    }
}

static void decode_q8_0(const uint8_t *b, float *out) { /* d, 32 int8 */
    float d = bl_f16_to_f32(bl_read_u16(b));
    for (int j = 0; j < 32; j++)
        out[j] = d * (float)(int8_t)b[2 + j];
}

static void decode_q4_k(const uint8_t *b, float *out) { /* d, dmin, 12 bytes of scales, 128 bytes */
    float d = bl_f16_to_f32(bl_read_u16(b)), dmin = bl_f16_to_f32(bl_read_u16(b + 2));
    const uint8_t *s = b + 4, *q = b + 16;
    for (int j = 0; j < 8; j++) { /* sub-blocks of 32: scale and minimum of 6 bits each */
        int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        int m = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
        float step = d * (float)sc, minimum = dmin * (float)m;
        for (int l = 0; l < 32; l++) {
            uint8_t both = q[j / 2 * 32 + l];
            out[j * 32 + l] = step * (float)(j & 1 ? both >> 4 : both & 15) - minimum;
        }
    }
}

static void decode_q6_k(const uint8_t *b, float *out) { /* ql[128], qh[64], scales[16], d */
    float d = bl_f16_to_f32(bl_read_u16(b + 208));
    for (int half = 0; half < 2; half++) {
        const uint8_t *ql = b + 64 * half, *qh = b + 128 + 32 * half, *scales = b + 192 + 8 * half;
        for (int quarter = 0; quarter < 4; quarter++)
            for (int l = 0; l < 32; l++) {
                uint8_t low = ql[l + 32 * (quarter & 1)];
                int q = (quarter < 2 ? low & 15 : low >> 4) | (qh[l] >> (2 * quarter) & 3) << 4;
                float step = d * (float)(int8_t)scales[l / 16 + 2 * quarter];
                out[128 * half + 32 * quarter + l] = step * (float)(q - 32);
            }
    }
}

/* Trit n of a byte that holds 5 (or 4) as a fraction of 256, the first most significant. */
static int trit(uint8_t byte, int n) {
    static const uint8_t power[] = {1, 3, 9, 27, 81};
    uint8_t q = (uint8_t)(byte * power[n]);
    return (q * 3 >> 8) - 1;
}

/* `bytes` bytes of `trits` trits each: trit n of byte m is weight n * bytes + m. */
static void decode_trits(const uint8_t *b, int bytes, int trits, float d, float *out) {
    for (int n = 0; n < trits; n++)
        for (int m = 0; m < bytes; m++)
            out[n * bytes + m] = d * (float)trit(b[m], n);
}

static void decode_tq1_0(const uint8_t *b, float *out) { /* qs[32 + 16], qh[4], d */
    float d = bl_f16_to_f32(bl_read_u16(b + 52));
    decode_trits(b, 32, 5, d, out);
    decode_trits(b + 32, 16, 5, d, out + 160);
    decode_trits(b + 48, 4, 4, d, out + 240);
}

static void decode_ptq1_0(const uint8_t *b, float *out) { /* qs[16 + 8], qh[2], d */
    float d = bl_f16_to_f32(bl_read_u16(b + 26));
    decode_trits(b, 16, 5, d, out);
    decode_trits(b + 16, 8, 5, d, out + 80);
    decode_trits(b + 24, 2, 4, d, out + 120);
}

static void decode_tq2_0(const uint8_t *b, float *out) { /* qs[64], d */
    float d = bl_f16_to_f32(bl_read_u16(b + 64));
    for (int half = 0; half < 2; half++)
        for (int l = 0; l < 4; l++)
            for (int m = 0; m < 32; m++)
                out[128 * half + 32 * l + m] = d * (float)((b[32 * half + m] >> (2 * l) & 3) - 1);
}

static void decode_q1_0(const uint8_t *b, float *out) { /* d, 16 bytes */
    float d = bl_f16_to_f32(bl_read_u16(b));
    for (int j = 0; j < 128; j++)
        out[j] = b[2 + j / 8] >> (j & 7) & 1 ? d : -d;
}

static void decode_q2(const uint8_t *b, int weights, float *out) { /* d, weights / 4 bytes */
    float d = bl_f16_to_f32(bl_read_u16(b));
    for (int j = 0; j < weights; j++)
        out[j] = d * (float)((b[2 + j / 4] >> (2 * (j & 3)) & 3) - 1);
}

static void decode_block(int32_t type, const uint8_t *b, float *out) {
    switch (type) {
    case BL_TYPE_Q4_0:
        decode_q4_0(b, out);
        break;
    case BL_TYPE_Q4_1:
        decode_q4_1(b, out);
        break;
    case BL_TYPE_Q8_0:
        decode_q8_0(b, out);
        break;
    case BL_TYPE_Q4_K:
        decode_q4_k(b, out);
        break;
    case BL_TYPE_Q6_K:
        decode_q6_k(b, out);
        break;
    case BL_TYPE_TQ1_0:
        decode_tq1_0(b, out);
        break;
    case BL_TYPE_TQ2_0:
        decode_tq2_0(b, out);
        break;
    case BL_TYPE_Q1_0:
        decode_q1_0(b, out);
        break;
    case BL_TYPE_Q2_0:
        decode_q2(b, 64, out);
        break;
    case BL_TYPE_PQ2_0:
    case BL_TYPE_Q2_0_LEGACY:
        decode_q2(b, 128, out);
        break;
    case BL_TYPE_PTQ1_0:
        decode_ptq1_0(b, out);
        break;
    default:
        break; /* a type of the table without a decoder: test_quant counts them */
    }
}

/* 128 weights in 32 bytes over the flattened tensor: byte p, bits 7-6 are weight p, bits 5-4
 * weight 32 + p, bits 3-2 weight 64 + p, bits 1-0 weight 96 + p; one f32 scale behind all. */
static void decode_i2_s(const uint8_t *data, uint64_t n, uint64_t first, uint64_t k, float *out) {
    float scale = bl_read_f32(data + n / 4);
    for (uint64_t j = 0; j < k; j++) {
        uint64_t i = first + j;
        unsigned group = (unsigned)(i % 128 / 32);
        int code = data[i / 128 * 32 + i % 32] >> (6 - 2 * group) & 3;
        out[j] = scale * (float)(code - 1);
    }
}

void bl_decode_row(int32_t type, const uint8_t *data, uint64_t n_rows, uint64_t k, uint64_t row, float *out) {
    const bl_tensor_type *t = bl_tensor_type_find(type);
    if (t == NULL)
        return;
    if (type == BL_TYPE_I2_S) {
        decode_i2_s(data, n_rows * k, row * k, k, out);
        return;
    }
    uint64_t blocks = k / (uint64_t)t->block;
    const uint8_t *b = data + row * blocks * (uint64_t)t->block_bytes;
    if (t->block == 1) {
        bl_kernels_usual()->widen(type, b, (int64_t)k, out);
        return;
    }
    for (uint64_t i = 0; i < blocks; i++)
        decode_block(type, b + i * (uint64_t)t->block_bytes, out + i * (uint64_t)t->block);
}
