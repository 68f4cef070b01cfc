/* kernels_avxvnni.c - the table of AVX-VNNI: ternary matrices times many tokens, ternary_avx2.c over vpdpbusd,
 * the rest as AVX2 has it.  Called by kernels_table.c; with BL_VNNI_EVEX by checkkernels. */
#include "kernels/products_ymm.h"

extern const bl_kernels YMM(bl_kernels);

const bl_kernels YMM(bl_kernels) = {
    .name = "avxvnni",
    .cpu = BL_CPU_AVX2 | BL_CPU_AVXVNNI,
    .rmsnorm = bl_rmsnorm_avx2,
    .quant_row = bl_quant_row_avx2,
    .quant_groups = bl_quant_groups_avx2,
    .residual = bl_residual_avx2,
    .relu2_mul = bl_relu2_mul_avx2,
    .silu_mul = bl_silu_mul_avx2,
    .add = bl_add_avx2,
    .rope = bl_rope_avx2,
    .softmax = bl_softmax_avx2,
    .exp_sum = bl_exp_sum_avx2,
    .store_k_f16 = bl_store_k_f16_avx2,
    .store_k_f32 = bl_store_k_f32_avx2,
    .store_v_f16 = bl_store_v_f16_avx2,
    .scores_f16 = bl_scores_f16_avx2,
    .scores_f32 = bl_scores_f32_avx2,
    .mix_f16 = bl_mix_f16_avx2,
    .mix_f32 = bl_mix_f32_avx2,
    .scores_int = bl_scores_int_avx2,
    .quant_probs = bl_quant_probs_avx2,
    .mix_int = bl_mix_int_avx2,
    .ternary_i8 = YMM(bl_ternary_i8),
    .group_i8 = bl_group_i8_avx2,
    .binary_rows = bl_binary_rows_avx2,
    .float_rows = bl_float_rows_avx2,
    .hamming = bl_hamming_avx2,
    .hamming_below = bl_hamming_below_avx2,
    .dot_f32 = bl_dot_f32_avx2,
};
