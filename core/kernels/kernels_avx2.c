/* kernels_avx2.c - the table of the AVX2 kernels; their code is in rows_, attention_, ternary_,
 * group_ and float_rows_avx2.c.  Called by kernels_table.c. */
#include "kernels/kernels_avx2.h"

extern const bl_kernels bl_kernels_avx2;

/* A column of stores 16 floats apart has nothing for vectors to do. */
void bl_store_k_f32_avx2(const float *k, int64_t dim, int64_t pos, float *head_tiles) {
    float *out = head_tiles + pos / 16 * 16 * dim + pos % 16;
    for (int64_t d = 0; d < dim; d++) {
        out[d * 16] = k[d];
    }
}

const bl_kernels bl_kernels_avx2 = {
    .name = "avx2",
    .cpu = BL_CPU_AVX2,
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
    .ternary_i8 = bl_ternary_i8_avx2,
    .group_i8 = bl_group_i8_avx2,
    .binary_rows = bl_binary_rows_avx2,
    .float_rows = bl_float_rows_avx2,
    .hamming = bl_hamming_avx2,
    .hamming_below = bl_hamming_below_avx2,
    .dot_f32 = bl_dot_f32_avx2,
    .widen = bl_widen_avx2,
    .fit_q4_k = bl_fit_q4_k_avx2,
    .fit_q6_k = bl_fit_q6_k_avx2,
    .round_groups = bl_round_groups_avx2,
};
