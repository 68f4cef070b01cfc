/* encode.c - float32 and trits to the tensor types that bitlm writes.
 *
 * The encoders follow the writers that others use (llama.cpp's for Q8_0, TQ, Q4 and
 * Q1_0; the types with a scale per group are in encode_group.c), so that the same weights give the same bytes; arithmetic is in float32
 * and needs no libm.  What cannot be stored, a value that is not finite or too
 * large for a half-float scale, is refused with its place, never stored as infinity.
 * Called by core/cli (synth), by converters and by the tests. */
#include "quant/encode_private.h"

#include <string.h>

typedef unsigned long long ull; /* for messages */

static void write_u16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void write_f32(uint8_t *p, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(bits >> (8 * i));
}

static float magnitude(float x) {
    return x < 0 ? -x : x;
}

static int is_finite(float x) {
    return x - x == 0;
}

/* roundf for |x| < 2^23: half away from zero. */
static int round_away(float x) {
    float a = magnitude(x);
    int whole = (int)a;
    whole += a - (float)whole >= 0.5f; /* no branch: which way it goes is a coin's toss */
    int minus = -(x < 0);
    return (whole ^ minus) - minus;
}

static float largest(const float *x, int n) {
    float most[8] = {0}; /* n is a multiple of 8, or 1 */
    for (int i = 0; i < n; i += 8)
        for (int j = 0; j < BL_MIN(n, 8); j++)
            most[j] = BL_MAX(most[j], magnitude(x[i + j]));
    for (int j = 1; j < 8; j++)
        most[0] = BL_MAX(most[0], most[j]);
    return most[0];
}

/* ---- one block each; 0 if a scale does not fit its half float ------------------ */

static int put_bf16(uint8_t *p, float x) {
    uint16_t h = bl_f32_to_bf16(x);
    write_u16(p, h);
    return (h & 0x7f80) != 0x7f80;
}

static int encode_q8_0(const float *x, uint8_t *b) {
    float d = largest(x, 32) / 127.0f, inv = bl_inverse(d);
    for (int j = 0; j < 32; j++) {
        int q = round_away(x[j] * inv);
        b[2 + j] = (uint8_t)(int8_t)BL_MAX(-127, BL_MIN(127, q));
    }
    return bl_put_f16(b, d);
}

static int encode_q1_0(const float *x, uint8_t *b) {
    float sum = 0;
    memset(b + 2, 0, 16);
    for (int j = 0; j < 128; j++) {
        sum += magnitude(x[j]);
        b[2 + j / 8] |= (uint8_t)((x[j] >= 0) << (j & 7));
    }
    return bl_put_f16(b, sum / 128.0f);
}

/* `trits` codes 0..2 a byte, first most significant, as a fraction of 256 rounded up; code
 * n * bytes + m goes to trit n of byte m.  Four trits leave the last place zero. */
static void pack_fractions(const int8_t *q, int bytes, int trits, uint8_t *b) {
    for (int m = 0; m < bytes; m++) {
        unsigned v = 0;
        for (int n = 0; n < trits; n++)
            v = v * 3 + (unsigned)(q[n * bytes + m] + 1);
        if (trits == 4)
            v *= 3;
        b[m] = (uint8_t)((v * 256 + 242) / 243);
    }
}

static void pack_tq1_0(const int8_t *q, uint8_t *b) {
    pack_fractions(q, 32, 5, b);
    pack_fractions(q + 160, 16, 5, b + 32);
    pack_fractions(q + 240, 4, 4, b + 48);
}

static void pack_tq2_0(const int8_t *q, uint8_t *b) {
    for (int half = 0; half < 2; half++, q += 128, b += 32)
        for (int m = 0; m < 32; m++)
            b[m] = (uint8_t)((q[m] + 1) | (q[32 + m] + 1) << 2 | (q[64 + m] + 1) << 4 | (q[96 + m] + 1) << 6);
}

static void pack_i2_s(const int8_t *q, uint8_t *b) {
    for (int m = 0; m < 32; m++)
        b[m] = (uint8_t)((q[m] + 1) << 6 | (q[32 + m] + 1) << 4 | (q[64 + m] + 1) << 2 | (q[96 + m] + 1));
}

static int encode_tq(int32_t type, const float *x, uint8_t *b) {
    int8_t q[256];
    int n = type == BL_TYPE_Q2_0 ? 64 : 256;
    float d = largest(x, n), inv = bl_inverse(d);
    for (int j = 0; j < n; j++)
        q[j] = (int8_t)BL_MAX(-1, BL_MIN(1, round_away(x[j] * inv)));
    if (type == BL_TYPE_Q2_0) {
        bl_pack_q2_0(q, b);
        return bl_put_f16(b, d);
    }
    if (type == BL_TYPE_TQ1_0)
        pack_tq1_0(q, b);
    else
        pack_tq2_0(q, b);
    return bl_put_f16(b + (type == BL_TYPE_TQ1_0 ? 52 : 64), d);
}

static void write_i2_s_tail(uint8_t *tail, float scale) {
    memset(tail, 0, 32);
    write_f32(tail, scale);
}

static void encode_i2_s(const float *x, uint64_t n, float scale, uint8_t *out) {
    int8_t q[128];
    if (!(scale > 0)) {
        scale = 0;
        for (uint64_t i = 0; i < n; i++)
            scale = BL_MAX(scale, magnitude(x[i]));
    }
    for (uint64_t i = 0; i < n; i += 128) {
        for (int j = 0; j < 128; j++) { /* round half to even, then clamp: only |y| > 1/2 leaves 0 */
            float y = x[i + (uint64_t)j] / scale;
            q[j] = (int8_t)((y > 0.5f) - (y < -0.5f)); /* 0/0 of an all-zero tensor is 0 */
        }
        pack_i2_s(q, out + i / 4);
    }
    write_i2_s_tail(out + n / 4, scale);
}

/* ---- whole tensors --------------------------------------------------------------- */

int bl_can_encode(int32_t type) {
    switch (type) {
    case BL_TYPE_F32:
    case BL_TYPE_F16:
    case BL_TYPE_BF16:
    case BL_TYPE_Q8_0:
    case BL_TYPE_TQ1_0:
    case BL_TYPE_TQ2_0:
    case BL_TYPE_I2_S:
    case BL_TYPE_Q1_0:
    case BL_TYPE_Q2_0:
    case BL_TYPE_Q4_0:
    case BL_TYPE_Q4_1:
    case BL_TYPE_Q4_K:
    case BL_TYPE_Q6_K:
        return 1;
    default:
        return 0;
    }
}

static bitlm_status check_shape(int32_t type, int trits, uint64_t n_rows, uint64_t k,
                                const bl_tensor_type **found, bitlm_error *error) {
    int ok;
    const bl_tensor_type *t = bl_tensor_type_find(type);
    if (t == NULL)
        return bl_error(error, BITLM_ARG, "%d is not the id of a tensor type", (int)type);
    if (trits && type != BL_TYPE_TQ1_0 && type != BL_TYPE_TQ2_0 && type != BL_TYPE_I2_S && type != BL_TYPE_Q2_0)
        return bl_error(error, BITLM_ARG, "trits are packed as TQ1_0, TQ2_0, Q2_0 or I2_S, not as %s", t->name);
    if (!bl_can_encode(type))
        return bl_error(error, BITLM_ARG, "bitlm reads %s but does not write it", t->name);
    bl_tensor_bytes(t, k, n_rows, &ok);
    if (!ok)
        return bl_error(error, BITLM_ARG,
                        "%llu rows of %llu weights do not fit %s, which takes them %d at a time", (ull)n_rows,
                        (ull)k, t->name, (int)t->block);
    *found = t;
    return BITLM_OK;
}

static int encode_block(int32_t type, const float *x, uint8_t *b) {
    switch (type) {
    case BL_TYPE_F32:
        write_f32(b, *x);
        return 1;
    case BL_TYPE_F16:
        return bl_put_f16(b, *x);
    case BL_TYPE_BF16:
        return put_bf16(b, *x);
    case BL_TYPE_Q8_0:
        return encode_q8_0(x, b);
    case BL_TYPE_Q1_0:
        return encode_q1_0(x, b);
    case BL_TYPE_Q4_0:
        return bl_encode_q4_0(x, b);
    case BL_TYPE_Q4_1:
        return bl_encode_q4_1(x, b);
    default:
        return encode_tq(type, x, b);
    }
}

/* n blocks: how many before the first that cannot be stored. */
static uint64_t encode_blocks(const bl_tensor_type *t, const float *x, uint64_t n, uint8_t *out) {
    if (t->id == BL_TYPE_Q4_K)
        return bl_encode_q4_k(x, n, out);
    if (t->id == BL_TYPE_Q6_K)
        return bl_encode_q6_k(x, n, out);
    uint64_t i = 0;
    while (i < n && encode_block(t->id, x + i * (uint64_t)t->block, out + i * (uint64_t)t->block_bytes))
        i++;
    return i;
}

bitlm_status bl_encode(int32_t type, const float *x, uint64_t n_rows, uint64_t k, float scale, uint8_t *out,
                       bitlm_error *error) {
    const bl_tensor_type *t = NULL;
    bitlm_status status = check_shape(type, 0, n_rows, k, &t, error);
    if (status != BITLM_OK)
        return status;
    uint64_t n = n_rows * k, block = (uint64_t)t->block;
    for (uint64_t i = 0; i < n; i++)
        if (!is_finite(x[i]))
            return bl_error(error, BITLM_ARG, "weight %llu of row %llu is %g, but %s takes finite values",
                            (ull)(i % k), (ull)(i / k), (double)x[i], t->name);
    if (type == BL_TYPE_I2_S) {
        if (!(scale <= 0) && !is_finite(scale))
            return bl_error(error, BITLM_ARG, "the scale of an I2_S tensor is %g, but must be finite",
                            (double)scale);
        encode_i2_s(x, n, scale, out);
        return BITLM_OK;
    }
    uint64_t i = encode_blocks(t, x, n / block, out) * block;
    if (i < n)
        return bl_error(error, BITLM_ARG, "weights %llu to %llu of row %llu reach %g, too large for %s",
                            (ull)(i % k), (ull)(i % k + block - 1), (ull)(i / k),
                            (double)largest(x + i, t->block), t->name);
    return BITLM_OK;
}

bitlm_status bl_pack_trits(int32_t type, const int8_t *trits, uint64_t n_rows, uint64_t k, float scale,
                           uint8_t *out, bitlm_error *error) {
    const bl_tensor_type *t = NULL;
    bitlm_status status = check_shape(type, 1, n_rows, k, &t, error);
    if (status != BITLM_OK)
        return status;
    uint64_t n = n_rows * k, block = (uint64_t)t->block;
    for (uint64_t i = 0; i < n; i++)
        if (trits[i] < -1 || trits[i] > 1)
            return bl_error(error, BITLM_ARG, "weight %llu of row %llu is %d, but must be -1, 0 or 1",
                            (ull)(i % k), (ull)(i / k), trits[i]);
    uint8_t d[2];
    if (!is_finite(scale) || scale < 0 || (type != BL_TYPE_I2_S && !bl_put_f16(d, scale)))
        return bl_error(error, BITLM_ARG, "the scale is %g, but %s takes a finite one from 0 up%s",
                        (double)scale, t->name, type == BL_TYPE_I2_S ? "" : " to 65504");
    for (uint64_t i = 0; i < n; i += block, out += t->block_bytes) {
        if (type == BL_TYPE_I2_S) {
            pack_i2_s(trits + i, out);
        } else if (type == BL_TYPE_Q2_0) {
            bl_pack_q2_0(trits + i, out);
            memcpy(out, d, 2);
        } else if (type == BL_TYPE_TQ1_0) {
            pack_tq1_0(trits + i, out);
            memcpy(out + 52, d, 2);
        } else {
            pack_tq2_0(trits + i, out);
            memcpy(out + 64, d, 2);
        }
    }
    if (type == BL_TYPE_I2_S)
        write_i2_s_tail(out, scale);
    return BITLM_OK;
}

void bl_binarize(const float *x, size_t n, float threshold, uint8_t *out) {
    memset(out, 0, (n + 7) / 8);
    for (size_t i = 0; i < n; i++)
        out[i / 8] |= (uint8_t)((x[i] > threshold) << (7 - i % 8));
}
