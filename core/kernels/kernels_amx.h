/* kernels_amx.h - what the AMX files share.  The kernels are compiled once more for the tests with AMX_SOFTWARE,
 * over tiles in software and under other names (AMX_NAME). */
#ifndef BL_KERNELS_AMX_H
#define BL_KERNELS_AMX_H

#include "kernels/kernels.h"

#if defined(AMX_SOFTWARE)
#define AMX_NAME(name) name##_amx_software
#else
#define AMX_NAME(name) name##_amx
#endif

/* Rows of activations from which tiles are used: with fewer their rows stay empty. */
#define AMX_TOKENS 16

extern const bl_kernels bl_kernels_avx512;

/* 1 if this process may use tiles; the first call asks the operating system. */
int AMX_NAME(bl_tiles_usable)(void);

void AMX_NAME(bl_ternary_i8)(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1,
                             const int8_t *xq, int64_t ldx, const int32_t *xsum, const float *factor,
                             int64_t n_tok, float *y, int64_t ldy, void *scratch);
void AMX_NAME(bl_group_i8)(int32_t type, const uint8_t *w, int64_t k, int64_t r0, int64_t r1, const int8_t *xq,
                           int64_t ldx, const float *xd, const int32_t *xsums, int64_t n_tok, int n_terms, float *y,
                           int64_t ldy, void *scratch);

/* The table: AVX-512's with the kernels above. */
const bl_kernels *AMX_NAME(bl_kernels)(void);

#endif
