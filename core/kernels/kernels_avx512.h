/* kernels_avx512.h - what the AVX-512 files share: F, BW, VL, DQ, VNNI and VPOPCNTDQ may be used.
 * Included by the *_avx512.c files only. */
#ifndef BL_KERNELS_AVX512_H
#define BL_KERNELS_AVX512_H

#include "kernels/kernels_avx2.h"

#endif
