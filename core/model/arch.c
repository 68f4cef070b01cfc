/* arch.c - architectures as data: one row for each general.architecture that bitlm runs, why some others
 * cannot run, and the keys whose values would change the result in a way that bitlm does not compute.
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

/* ---- what is refused --------------------------------------------------------------------------------- */

static const struct {
    const char *name, *why;
} strangers[] = {
    {"qwen35", "it has recurrent layers"},
    {"qwen35moe", "it has recurrent layers"},
    {"qwen3next", "it has recurrent layers"},
    {"mamba", "it has recurrent layers"},
    {"mamba2", "it has recurrent layers"},
    {"falcon-h1", "it has recurrent layers"},
    {"jamba", "it has recurrent layers"},
    {"rwkv6", "it has recurrent layers"},
    {"rwkv7", "it has recurrent layers"},
    {"lfm2", "it has convolutions"},
    {"gemma2", "it has sliding windows and norms after its layers"},
    {"gemma3", "it has sliding windows and norms after its layers"},
    {"gemma-embedding", "it has sliding windows and norms after its layers"},
    {"qwen2vl", "it rotates positions of images"},
    {"qwen3vl", "it rotates positions of images"},
    {"bert", "it has absolute positions and norms with a mean"},
    {"clip", "it sees images"},
};

bitlm_status bl_arch_refuse(bitlm_text arch, bitlm_error *error) {
    char shown[48], names[160];
    bl_show(shown, sizeof shown, arch.data, arch.length);
    bl_arch_names(names, sizeof names);
    for (size_t i = 0; i < BL_COUNT(strangers); i++)
        if (strlen(strangers[i].name) == arch.length && memcmp(strangers[i].name, arch.data, arch.length) == 0)
            return bl_error(error, BITLM_UNSUPPORTED, "architecture '%s' is not supported, because %s: bitlm runs %s", shown,
                            strangers[i].why, names);
    return bl_error(error, BITLM_UNSUPPORTED, "architecture '%s' is not supported: bitlm runs %s", shown, names);
}

/* Keys that mean nothing at 0 or at `neutral`. */
static const struct {
    const char *suffix;
    double neutral;
    const char *what;
} refused_keys[] = {
    {"attn_logit_softcapping", 0, "a soft cap on attention"},
    {"final_logit_softcapping", 0, "a soft cap on logits"},
    {"attention.scale", 0, "a scale of attention other than that of the head size"},
    {"attention.clamp_kqv", 0, "a limit on q, k and v"},
    {"attention.max_alibi_bias", 0, "ALiBi"},
    {"logit_scale", 1, "a scale of the logits"},
    {"residual_scale", 1, "a scale of the residual stream"},
    {"embedding_scale", 1, "a scale of the embedding"},
    {"rope.scale_linear", 1, "the old key of linear scaling; write rope.scaling.type and rope.scaling.factor"},
    {"rope.dimension_sections", 0, "positions in several dimensions"},
    {"use_parallel_residual", 0, "attention and feed-forward side by side"},
    {"leading_dense_block_count", 0, "layers without experts before those with them"},
    {"expert_group_count", 1, "groups of experts"},
};

static bitlm_status refuse_key(const bl_gguf *gguf, const char *key, double neutral, const char *what,
                               bitlm_error *error) {
    double value = 0;
    int flag = 0, found = bl_gguf_f64(gguf, key, &value);
    if (found < 0 && bl_gguf_bool(gguf, key, &flag) == 1) {
        value = flag;
        found = 1;
    }
    if (!found || (found > 0 && (value == 0 || value == neutral)))
        return BITLM_OK;
    if (found < 0)
        return bl_error(error, BITLM_UNSUPPORTED, "the key %s is not supported: %s", key, what);
    return bl_error(error, BITLM_UNSUPPORTED, "the key %s is %g, which is not supported: %s", key, value, what);
}

bitlm_status bl_arch_refuse_keys(const bl_arch *arch, const bl_gguf *gguf, bitlm_error *error) {
    char key[160], shown[48];
    bitlm_text type;
    int64_t window, context = 0;
    int32_t ignored;
    if (bl_gguf_string(gguf, "general.type", &type) == 1 && (type.length != 5 || memcmp(type.data, "model", 5)))
        return bl_error(error, BITLM_UNSUPPORTED, "general.type is '%s', but must be 'model'",
                        bl_show(shown, sizeof shown, type.data, type.length));
    bitlm_status s = refuse_key(gguf, "split.count", 1, "join the parts into one file", error);
    for (uint64_t i = 0; i < bl_gguf_n_keys(gguf) && !s; i++)
        if (strncmp(bl_gguf_key_at(gguf, i, &ignored), "prism.hadamard.", 15) == 0)
            s = bl_error(error, BITLM_UNSUPPORTED, "the file has keys prism.hadamard.*, which ask for the Hadamard rotation of "
                         "Bonsai-2 files; bitlm does not run it");
    for (size_t i = 0; i < BL_COUNT(refused_keys) && !s; i++) {
        snprintf(key, sizeof key, "%s.%s", arch->name, refused_keys[i].suffix);
        s = refuse_key(gguf, key, refused_keys[i].neutral, refused_keys[i].what, error);
    }
    snprintf(key, sizeof key, "%s.expert_count", arch->name);
    if (!s && !arch->experts)
        s = refuse_key(gguf, key, 0, "bitlm runs experts in qwen2moe and qwen3moe", error);
    if (s)
        return s;
    snprintf(key, sizeof key, "%s.context_length", arch->name);
    bl_gguf_i64(gguf, key, &context);
    snprintf(key, sizeof key, "%s.attention.sliding_window", arch->name);
    int found = bl_gguf_i64(gguf, key, &window);
    if (found < 0 || (found && window != 0 && window < context))
        return bl_error(error, BITLM_UNSUPPORTED, "the key %s asks for sliding windows, which bitlm does not run", key);
    return BITLM_OK;
}
