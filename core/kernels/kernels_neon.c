/* kernels_neon.c - the tables of the NEON kernels: of every 64-bit ARM processor, with DOTPROD, and with I8MM.
 * The latter two differ in the integer products alone.  Called by kernels_table.c. */
#include "kernels/kernels_neon.h"

extern const bl_kernels bl_kernels_neon, bl_kernels_neon_dotprod, bl_kernels_neon_i8mm;

#define NEON_TABLE(table_name, flags, attention, ternary, group)                                               \
    {                                                                                                          \
        .name = table_name, .cpu = BL_CPU_NEON | (flags), .rmsnorm = bl_rmsnorm_neon,                          \
        .quant_row = bl_quant_row_neon, .quant_groups = bl_quant_groups_neon, .residual = bl_residual_neon,    \
        .relu2_mul = bl_relu2_mul_neon, .silu_mul = bl_silu_mul_neon, .add = bl_add_neon,                      \
        .rope = bl_rope_neon, .softmax = bl_softmax_neon, .exp_sum = bl_exp_sum_neon,                          \
        .store_k_f16 = bl_store_k_f16_neon, .store_k_f32 = bl_store_k_f32_neon,                                \
        .store_v_f16 = bl_store_v_f16_neon, .scores_f16 = bl_scores_f16_neon,                                  \
        .scores_f32 = bl_scores_f32_neon, .mix_f16 = bl_mix_f16_neon, .mix_f32 = bl_mix_f32_neon,              \
        .scores_int = bl_scores_int_##attention, .quant_probs = bl_quant_probs_neon,                           \
        .mix_int = bl_mix_int_##attention, .ternary_i8 = bl_ternary_i8_##ternary,                              \
        .group_i8 = bl_group_i8_##group, .binary_rows = bl_binary_rows_neon,                                   \
        .float_rows = bl_float_rows_neon, .hamming = bl_hamming_neon,                                          \
        .hamming_below = bl_hamming_below_neon, .dot_f32 = bl_dot_f32_neon,                                    \
        .widen = bl_widen_neon, .fit_q4_k = bl_fit_q4_k_neon, .fit_q6_k = bl_fit_q6_k_neon,                    \
        .round_groups = bl_round_groups_neon,                                                                  \
    }

const bl_kernels bl_kernels_neon = NEON_TABLE("neon", 0, neon, neon, neon);
const bl_kernels bl_kernels_neon_dotprod = NEON_TABLE("neon-dotprod", BL_CPU_DOTPROD, dotprod, dotprod, dotprod);
const bl_kernels bl_kernels_neon_i8mm =
    NEON_TABLE("neon-i8mm", BL_CPU_DOTPROD | BL_CPU_I8MM, dotprod, i8mm, dotprod);
