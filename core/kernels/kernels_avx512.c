/* kernels_avx512.c - the table of the AVX-512 kernels: its own where wider vectors, VNNI or VPOPCNTDQ gain,
 * else those of AVX2.  Called by kernels_table.c. */
#include "kernels/kernels_avx512.h"

extern const bl_kernels bl_kernels_avx512;

const bl_kernels bl_kernels_avx512 = {
    .name = "avx512",
    .cpu = BL_CPU_AVX2 | BL_CPU_AVX512,
    .rmsnorm = bl_rmsnorm_avx2,
    .quant_row = bl_quant_row_avx512,
    .quant_groups = bl_quant_groups_avx512,
    .residual = bl_residual_avx2,
    .relu2_mul = bl_relu2_mul_avx2,
    .silu_mul = bl_silu_mul_avx512,
    .add = bl_add_avx2,
    .rope = bl_rope_avx2,
    .softmax = bl_softmax_avx512,
    .exp_sum = bl_exp_sum_avx512,
    .store_k_f16 = bl_store_k_f16_avx2,
    .store_k_f32 = bl_store_k_f32_avx2,
    .store_v_f16 = bl_store_v_f16_avx2,
    .scores_f16 = bl_scores_f16_avx512,
    .scores_f32 = bl_scores_f32_avx512,
    .mix_f16 = bl_mix_f16_avx512,
    .mix_f32 = bl_mix_f32_avx512,
    .scores_int = bl_scores_int_avx512,
    .quant_probs = bl_quant_probs_avx2,
    .mix_int = bl_mix_int_avx512,
    .ternary_i8 = bl_ternary_i8_avx512,
    .group_i8 = bl_group_i8_avx512,
    .binary_rows = bl_binary_rows_avx512,
    .float_rows = bl_float_rows_avx512,
    .hamming = bl_hamming_avx512,
    .hamming_below = bl_hamming_below_avx512,
    .dot_f32 = bl_dot_f32_avx2,
};
