/* quant.h - numbers to blocks and back: the scalar decoder of every tensor
 * type, the encoders of those that bitlm writes, and sign binarization.
 *
 * Called by core/model (embedding rows), core/cli (synth, info) and the tests;
 * the hot integer paths are in core/kernels. */
#ifndef BL_QUANT_H
#define BL_QUANT_H

#include "base/tensor_type.h"

/* Row `row` of a tensor (n_rows, k) as float32: every type of tensor_type.h, I2_S
 * through the flattened index (so k need not be a multiple of 128).  `data` holds
 * the whole tensor, bl_tensor_bytes() of it, already checked.  I2_S takes the scale
 * behind the codes.  Values exactly as FORMATS says: TQ: d*(code-1); Q4_K: (d*sc)*q -
 * (dmin*m), each product rounded to float32. */
void bl_decode_row(int32_t type, const uint8_t *data, uint64_t n_rows, uint64_t k, uint64_t row,
                   float *out);

/* 1 if bitlm writes the type: F32 F16 BF16 Q8_0 Q6_K Q4_K Q4_1 Q4_0 Q2_0 Q1_0 TQ1_0 TQ2_0 I2_S. */
int bl_can_encode(int32_t type);

/* Encodes (n_rows, k) float32 into bl_tensor_bytes() bytes at `out`.
 *   F16, BF16   round to nearest even
 *   Q8_0        d = max|x|/127 rounded to f16; q = rne(x * (1/d32)), d32 before f16 rounding,
 *               round half away from zero as llama.cpp's roundf does
 *   TQ1_0, TQ2_0  d = max|x| of the block, q = roundf(x * (1/d))  (llama.cpp's writer)
 *   Q2_0        the same over 64 weights
 *   Q4_0        d = -x/8 of the x of largest magnitude; q = trunc(x/d + 8.5), at most 15 (llama.cpp's writer)
 *   Q4_1        d = (max - min)/15; q = trunc((x - min)/d + 0.5)
 *   Q4_K, Q6_K  encode_group.c: the least squared error among a few steps a group
 *   I2_S        scale: `scale` if > 0, else max|x| of the tensor; q = clamp(rne(x/scale), -1, 1)
 *   Q1_0        d = mean|x| of 128, bit = x >= 0
 * ARG: shape the type cannot hold, a value that is not finite, or one that the type would
 * turn into infinity (the error names its place).  `out` is undefined after an error. */
bitlm_status bl_encode(int32_t type, const float *x, uint64_t n_rows, uint64_t k, float scale,
                       uint8_t *out, bitlm_error *error);

/* Trits (-1, 0, +1), (n_rows, k), with one scale, packed as TQ1_0, TQ2_0, Q2_0 or I2_S exactly. */
bitlm_status bl_pack_trits(int32_t type, const int8_t *trits, uint64_t n_rows, uint64_t k,
                           float scale, uint8_t *out, bitlm_error *error);

/* bit i = x[i] > threshold, MSB first, padded with zero bits: (n+7)/8 bytes. */
void bl_binarize(const float *x, size_t n, float threshold, uint8_t *out);

#endif
