/* kernels_avx512.h - what the AVX-512 files share: F, BW, VL, DQ, VNNI and VPOPCNTDQ may be used.
 * Included by the *_avx512.c files only. */
#ifndef BL_KERNELS_AVX512_H
#define BL_KERNELS_AVX512_H

#include "kernels/kernels_avx2.h"

void bl_binary_rows_avx512(const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const uint8_t *bits, int64_t ldb,
                           const float *xd, int64_t n_tok, float *y, int64_t ldy);

#endif
