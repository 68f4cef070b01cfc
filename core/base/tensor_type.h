/* tensor_type.h - the tensor types of GGUF files as data: id, name, block.
 *
 * A row of `k` weights takes k / block * block_bytes, but for I2_S, whose
 * tensor is n/4 bytes of codes followed by one f32 scale and 28 pad bytes. */
#ifndef BL_TENSOR_TYPE_H
#define BL_TENSOR_TYPE_H

#include "base/base.h"

#define BL_TYPE_F32 0
#define BL_TYPE_F16 1
#define BL_TYPE_Q4_0 2
#define BL_TYPE_Q4_1 3
#define BL_TYPE_Q8_0 8
#define BL_TYPE_Q4_K 12
#define BL_TYPE_Q6_K 14
#define BL_TYPE_BF16 30
#define BL_TYPE_TQ1_0 34
#define BL_TYPE_TQ2_0 35
#define BL_TYPE_I2_S 36
#define BL_TYPE_Q1_0 41
#define BL_TYPE_Q2_0 42
#define BL_TYPE_PQ2_0 142   /* needs the prism.hadamard contract: refused by the model layer */
#define BL_TYPE_PTQ1_0 143  /* likewise */
/* Ids that bitlm gives to layouts which share a GGUF id with another type. */
#define BL_TYPE_Q2_0_LEGACY 1042  /* id 42 with blocks of 128: told by tensor size */
#define BL_TYPE_TL2 1039          /* id 39 or 42 in files of bitnet.cpp: told by size, refused */

/* How a block becomes numbers. */
#define BL_CLASS_FLOAT 0    /* F32, F16, BF16: value = weight */
#define BL_CLASS_TERNARY 1  /* codes 0..3 mean -1, 0, +1, +2; one scale a block (I2_S: a tensor) */
#define BL_CLASS_GROUP 2    /* small integers with a scale (and a minimum) per group */

typedef struct bl_tensor_type {
    int32_t id;
    const char *name;     /* "TQ2_0" */
    int32_t block;        /* weights a block */
    int32_t block_bytes;
    int32_t cls;          /* BL_CLASS_* */
    int32_t group;        /* weights that share a scale: 16, 32, 64, 128, 256; 0 for FLOAT and I2_S */
} bl_tensor_type;

const bl_tensor_type *bl_tensor_type_find(int32_t id);              /* NULL if unknown */
const bl_tensor_type *bl_tensor_type_named(const char *name, size_t length); /* case-insensitive */
/* Bytes of a tensor of n_rows rows of k weights, the I2_S tail included.
 * 0 and *ok = 0 if k is no multiple of the block or a product overflows.
 * (I2_S: n_rows*k must be a multiple of 128.) */
uint64_t bl_tensor_bytes(const bl_tensor_type *type, uint64_t k, uint64_t n_rows, int *ok);
/* A sentence why an id that GGUF writers use cannot be read ("TL2: the byte
 * order depends on a generated kernel; convert to I2_S"), NULL if there is none. */
const char *bl_tensor_type_refusal(int32_t id);

/* ---- half floats (bit patterns; round to nearest even) ---------------------- */
float bl_f16_to_f32(uint16_t h);
uint16_t bl_f32_to_f16(float x);   /* overflow gives infinity, as IEEE 754 says */
float bl_bf16_to_f32(uint16_t h);
uint16_t bl_f32_to_bf16(float x);  /* a NaN stays a NaN */

/* Unaligned little-endian reads. */
uint16_t bl_read_u16(const void *p);
uint32_t bl_read_u32(const void *p);
uint64_t bl_read_u64(const void *p);
float bl_read_f32(const void *p);

#endif
