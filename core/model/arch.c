/* arch.c - architectures as data: one row for each general.architecture that bitlm runs.
 * Read by model_load.c; `bitlm info` and the error about an unknown one list it. */
#include <stdio.h>
#include <string.h>

#include "model/model.h"

static const bl_arch table[] = {
    {.name = "bitnet",
     .activation = BITLM_ACT_SILU, /* 1bitLLM's models; 2B-4T files of this name are told apart */
     .rope = BL_ROPE_NEOX,
     .causal = 1,
     .sub_norms = 1,
     .output_norm = 1,
     .head = 1,
     .per_token = 1,
     .ask_activation = 1},
    {.name = "bitnet-b1.58",
     .activation = BITLM_ACT_RELU2,
     .rope = BL_ROPE_NEOX,
     .causal = 1,
     .sub_norms = 1,
     .output_norm = 1,
     .head = 1,
     .per_token = 1},
    {.name = "bitnet-25",
     .activation = BITLM_ACT_RELU2,
     .rope = BL_ROPE_NEOX,
     .causal = 1,
     .sub_norms = 1,
     .output_norm = 1,
     .head = 1,
     .per_token = 1},
    {.name = "llama", /* Falcon3-1.58, Falcon-E, Llama-3-8B-1.58, TriLM, SmolLM2, TinyLlama */
     .activation = BITLM_ACT_SILU,
     .rope = BL_ROPE_ADJACENT,
     .causal = 1,
     .output_norm = 1,
     .head = 1,
     .per_token = 1},
    {.name = "qwen2",
     .activation = BITLM_ACT_SILU,
     .rope = BL_ROPE_NEOX,
     .causal = 1,
     .output_norm = 1,
     .head = 1},
    {.name = "qwen2moe",
     .activation = BITLM_ACT_SILU,
     .rope = BL_ROPE_NEOX,
     .causal = 1,
     .output_norm = 1,
     .head = 1,
     .experts = 1},
    {.name = "qwen3", /* Bonsai, BitNet-embedding */
     .activation = BITLM_ACT_SILU,
     .rope = BL_ROPE_NEOX,
     .causal = 1,
     .qk_norm = 1,
     .output_norm = 1,
     .head = 1,
     .pool_key = 1},
    {.name = "qwen3moe",
     .activation = BITLM_ACT_SILU,
     .rope = BL_ROPE_NEOX,
     .causal = 1,
     .qk_norm = 1,
     .output_norm = 1,
     .head = 1,
     .experts = 1,
     .expert_norm = 1},
    {.name = "bitnet-encoder",
     .activation = BITLM_ACT_RELU2,
     .rope = BL_ROPE_NEOX,
     .sub_norms = 1,
     .per_token = 1,
     .pool = BL_POOL_MEAN,
     .pool_proj = 1},
};

const bl_arch *bl_arch_find(const char *name, size_t length) {
    for (size_t i = 0; i < BL_COUNT(table); i++)
        if (strlen(table[i].name) == length && memcmp(table[i].name, name, length) == 0)
            return &table[i];
    return NULL;
}

const char *bl_arch_names(char *out, size_t cap) {
    size_t used = 0;
    for (size_t i = 0; i < BL_COUNT(table) && used < cap; i++)
        used += (size_t)snprintf(out + used, cap - used, "%s%s", i ? ", " : "", table[i].name);
    return out;
}

const bl_arch *bl_arch_at(int i) { return i >= 0 && (size_t)i < BL_COUNT(table) ? &table[i] : NULL; }
