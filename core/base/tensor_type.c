/* tensor_type.c - the table of tensor types, sizes of tensors, half floats.
 *
 * Everything that depends on a tensor type's shape reads this one table; what a
 * block's bytes mean is in core/quant (plain decoders) and core/kernels.  Also
 * the ids that other engines write and bitlm refuses, each with its reason.
 * Called by core/file, core/quant, core/kernels, core/model and the command. */
#include "base/tensor_type.h"

#include <string.h>

static const bl_tensor_type types[] = {
    {BL_TYPE_F32, "F32", 1, 4, BL_CLASS_FLOAT, 0},
    {BL_TYPE_F16, "F16", 1, 2, BL_CLASS_FLOAT, 0},
    {BL_TYPE_BF16, "BF16", 1, 2, BL_CLASS_FLOAT, 0},
    {BL_TYPE_Q4_0, "Q4_0", 32, 18, BL_CLASS_GROUP, 32},
    {BL_TYPE_Q4_1, "Q4_1", 32, 20, BL_CLASS_GROUP, 32},
    {BL_TYPE_Q8_0, "Q8_0", 32, 34, BL_CLASS_GROUP, 32},
    {BL_TYPE_Q4_K, "Q4_K", 256, 144, BL_CLASS_GROUP, 32},
    {BL_TYPE_Q6_K, "Q6_K", 256, 210, BL_CLASS_GROUP, 16},
    {BL_TYPE_TQ1_0, "TQ1_0", 256, 54, BL_CLASS_TERNARY, 256},
    {BL_TYPE_TQ2_0, "TQ2_0", 256, 66, BL_CLASS_TERNARY, 256},
    {BL_TYPE_I2_S, "I2_S", 128, 32, BL_CLASS_TERNARY, 0},
    {BL_TYPE_Q1_0, "Q1_0", 128, 18, BL_CLASS_GROUP, 128},
    {BL_TYPE_Q2_0, "Q2_0", 64, 18, BL_CLASS_TERNARY, 64},
    {BL_TYPE_PQ2_0, "PQ2_0", 128, 34, BL_CLASS_TERNARY, 128},
    {BL_TYPE_PTQ1_0, "PTQ1_0", 128, 28, BL_CLASS_TERNARY, 128},
    {BL_TYPE_Q2_0_LEGACY, "Q2_0_LEGACY", 128, 34, BL_CLASS_TERNARY, 128},
};

/* Ids that writers of GGUF use or used, and why bitlm does not read them. */
static const struct refusal {
    int32_t id;
    const char *why;
} refusals[] = {
    {6, "Q5_0 is not a type that bitlm reads; requantize to Q4_0, Q8_0 or F16"},
    {7, "Q5_1 is not a type that bitlm reads; requantize to Q4_1, Q8_0 or F16"},
    {9, "Q8_1 is a type for activations, not for files"},
    {10, "Q2_K is not a type that bitlm reads; requantize to Q4_K or Q6_K"},
    {11, "Q3_K is not a type that bitlm reads; requantize to Q4_K or Q6_K"},
    {13, "Q5_K is not a type that bitlm reads; requantize to Q4_K or Q6_K"},
    {15, "Q8_K is a type for activations, not for files"},
    {16, "IQ2_XXS is not a type that bitlm reads; requantize to Q4_K or Q6_K"},
    {17, "IQ2_XS is not a type that bitlm reads; requantize to Q4_K or Q6_K"},
    {18, "IQ3_XXS is not a type that bitlm reads; requantize to Q4_K or Q6_K"},
    {19, "IQ1_S is not a type that bitlm reads; requantize to Q4_K or Q6_K"},
    {20, "IQ4_NL is not a type that bitlm reads; requantize to Q4_K or Q6_K"},
    {21, "IQ3_S is not a type that bitlm reads; requantize to Q4_K or Q6_K"},
    {22, "IQ2_S is not a type that bitlm reads; requantize to Q4_K or Q6_K"},
    {23, "IQ4_XS is not a type that bitlm reads; requantize to Q4_K or Q6_K"},
    {24, "I8 tensors hold no weights that bitlm reads"},
    {25, "I16 tensors hold no weights that bitlm reads"},
    {26, "I32 tensors hold no weights that bitlm reads"},
    {27, "I64 tensors hold no weights that bitlm reads"},
    {28, "F64 is not a type that bitlm reads; convert to F32"},
    {29, "IQ1_M is not a type that bitlm reads; requantize to Q4_K or Q6_K"},
    {31, "Q4_0_4_4 was withdrawn by its authors; requantize to Q4_0"},
    {32, "Q4_0_4_8 was withdrawn by its authors; requantize to Q4_0"},
    {33, "Q4_0_8_8 was withdrawn by its authors; requantize to Q4_0"},
    {38, "TL1: the byte order depends on a generated kernel; convert to I2_S"},
    {39, "MXFP4 is not a type that bitlm reads; requantize to Q4_0 or Q8_0"},
    {40, "NVFP4 is not a type that bitlm reads; requantize to Q4_0 or Q8_0"},
    {BL_TYPE_TL2, "TL2: the byte order depends on a generated kernel; convert to I2_S"},
    {134, "IQ1_BN is ik_llama.cpp's own type; convert to TQ1_0 or I2_S"},
    {135, "IQ2_BN is ik_llama.cpp's own type; convert to TQ2_0 or I2_S"},
};

const bl_tensor_type *bl_tensor_type_find(int32_t id) {
    for (size_t i = 0; i < BL_COUNT(types); i++)
        if (types[i].id == id)
            return &types[i];
    return NULL;
}

static int upper(int c) {
    return c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c; /* toupper() obeys the host's locale */
}

const bl_tensor_type *bl_tensor_type_named(const char *name, size_t length) {
    for (size_t i = 0; i < BL_COUNT(types); i++) {
        if (strlen(types[i].name) != length)
            continue;
        size_t j = 0;
        while (j < length && upper((unsigned char)name[j]) == types[i].name[j])
            j++;
        if (j == length)
            return &types[i];
    }
    return NULL;
}

const char *bl_tensor_type_refusal(int32_t id) {
    for (size_t i = 0; i < BL_COUNT(refusals); i++)
        if (refusals[i].id == id)
            return refusals[i].why;
    return NULL;
}

uint64_t bl_tensor_bytes(const bl_tensor_type *type, uint64_t k, uint64_t n_rows, int *ok) {
    uint64_t block = (uint64_t)type->block, n, bytes;
    *ok = 0;
    if (__builtin_mul_overflow(k, n_rows, &n))
        return 0;
    if (type->id == BL_TYPE_I2_S) {
        if (n % 128 != 0)
            return 0;
        *ok = 1;
        return n / 4 + 32; /* cannot overflow: n / 4 <= 2^62 */
    }
    if (k % block != 0 || __builtin_mul_overflow(n / block, (uint64_t)type->block_bytes, &bytes))
        return 0;
    *ok = 1;
    return bytes;
}

/* ---- half floats --------------------------------------------------------- */

static float f32_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float bl_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, mantissa = h & 0x3ff;
    uint32_t exponent = (h >> 10) & 31;
    if (exponent == 31) /* infinity, or a NaN made quiet as the processor's instruction does */
        return f32_of_bits(sign | 0x7f800000u | (mantissa ? 0x400000u : 0) | mantissa << 13);
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24 is exact */
        float x = (float)mantissa * 0x1p-24f;
        return sign ? -x : x;
    }
    return f32_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t bl_f32_to_f16(float x) {
    uint32_t bits = bits_of_f32(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000u) { /* below 2^-14: count in units of 2^-24 */
        if (magnitude < 0x33000000u)
            return (uint16_t)sign; /* below 2^-25 */
        uint32_t shift = 126 - (magnitude >> 23), m = (magnitude & 0x7fffff) | 0x800000;
        uint32_t half = 1u << (shift - 1), rest = m & ((1u << shift) - 1);
        uint32_t q = m >> shift;
        q += rest > half || (rest == half && (q & 1));
        return (uint16_t)(sign | q);
    }
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

float bl_bf16_to_f32(uint16_t h) {
    return f32_of_bits((uint32_t)h << 16);
}

uint16_t bl_f32_to_bf16(float x) {
    uint32_t bits = bits_of_f32(x);
    if ((bits & 0x7fffffff) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40); /* rounding could carry a NaN into infinity */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- unaligned little-endian reads ---------------------------------------- */

uint16_t bl_read_u16(const void *p) {
    const uint8_t *b = p;
    return (uint16_t)(b[0] | b[1] << 8);
}

uint32_t bl_read_u32(const void *p) {
    const uint8_t *b = p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

uint64_t bl_read_u64(const void *p) {
    const uint8_t *b = p;
    return bl_read_u32(b) | (uint64_t)bl_read_u32(b + 4) << 32;
}

float bl_read_f32(const void *p) {
    return f32_of_bits(bl_read_u32(p));
}
