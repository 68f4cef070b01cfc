/* convert_gguf.c - a conversion's types by name, and GGUF to GGUF: keys copied as they stand, tensors planned by their
 * names.  Called by core/run (convert.c and quantize.c) and by convert_export.c. */
#include <string.h>

#include "file/convert.h"
#include "quant/quant.h"

bitlm_status bl_plan_find_type(bl_plan *plan, bitlm_text name, const char *option, int32_t *type) {
    char shown[40];
    *type = -1;
    if (name.length == 0)
        return BITLM_OK;
    const bl_tensor_type *t = bl_tensor_type_named(name.data, name.length);
    if (!t || !bl_can_encode(t->id))
        return BL_PLAN_FAIL(plan, BITLM_ARG, "%s is '%s', but bitlm writes f32, f16, bf16, q8_0, q6_k, q4_k, q4_1, q4_0, q2_0, "
                            "q1_0, tq2_0, tq1_0 and i2_s", option, bl_show(shown, sizeof shown, name.data, name.length));
    *type = t->id;
    return BITLM_OK;
}

int bl_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* ---- GGUF to GGUF ---------------------------------------------------------------------------------------- */

/* The weights that option type means: the matrices of a block's attention and feed-forward, and the projection of an
 * encoder. */
static int role_of(const bl_tensor *t) {
    static const char *const layers[] = {".attn_q.weight", ".attn_k.weight", ".attn_v.weight", ".attn_output.weight",
                                         ".ffn_gate.weight", ".ffn_up.weight", ".ffn_down.weight",
                                         ".ffn_gate_exps.weight", ".ffn_up_exps.weight", ".ffn_down_exps.weight",
                                         ".ffn_gate_shexp.weight", ".ffn_up_shexp.weight", ".ffn_down_shexp.weight"};
    if (strcmp(t->name, "token_embd.weight") == 0 || strcmp(t->name, "output.weight") == 0)
        return BL_ROLE_EMBEDDING;
    if (strcmp(t->name, "pool_proj.weight") == 0)
        return BL_ROLE_LAYER;
    for (size_t i = 0; i < BL_COUNT(layers); i++)
        if (strncmp(t->name, "blk.", 4) == 0 && bl_ends_with(t->name, layers[i]))
            return BL_ROLE_LAYER;
    return BL_ROLE_OTHER;
}

static bitlm_status copy_keys(bl_plan *plan) {
    static const char *const ours[] = {"general.alignment", "general.file_type", "general.quantization_version",
                                      BL_ID_KEY};
    bitlm_status status = BITLM_OK;
    for (uint64_t i = 0; i < bl_gguf_n_keys(plan->gguf) && !status; i++) {
        int32_t type;
        uint64_t size;
        int skip = 0;
        const char *key = bl_gguf_key_at(plan->gguf, i, &type);
        const uint8_t *raw = bl_gguf_raw(plan->gguf, i, &size);
        for (size_t j = 0; j < BL_COUNT(ours); j++)
            skip |= strcmp(key, ours[j]) == 0;
        if (!skip)
            status = bl_gguf_write_raw(plan->writer, key, type, raw, size);
    }
    return status;
}

bitlm_status bl_plan_add_gguf(bl_plan *plan, const bl_tensor *t, bl_planned **out) {
    bl_planned *p = bl_plan_add(plan);
    if (!p)
        return BITLM_NOMEM;
    if (strlen(t->name) >= sizeof p->name)
        return BL_PLAN_FAIL(plan, BITLM_LIMIT, "the tensor name '%.80s' has more than %zu bytes", t->name,
                            sizeof p->name - 1);
    strcpy(p->name, t->name);
    p->source_name = t->name;
    p->from = BL_FROM_GGUF;
    p->gguf = t;
    p->n_dims = t->n_dims;
    memcpy(p->dims, t->dims, sizeof p->dims);
    p->role = role_of(t);
    p->type = t->type;
    *out = p;
    return BITLM_OK;
}

bitlm_status bl_convert_gguf(bl_plan *plan) {
    bitlm_status status = copy_keys(plan);
    for (uint64_t i = 0; i < bl_gguf_n_tensors(plan->gguf) && !status; i++) {
        bl_planned *p;
        status = bl_plan_add_gguf(plan, bl_gguf_tensor_at(plan->gguf, i), &p);
        if (!status && p->role != BL_ROLE_OTHER)
            status = bl_plan_choose(plan, p, p->type);
    }
    return status;
}

/* ---- what llama.cpp calls the file ------------------------------------------------------------------------ */

bitlm_status bl_plan_write_file_type(bl_plan *plan) {
    static const struct {
        int32_t type;
        uint32_t file_type;
    } known[] = {{BL_TYPE_F32, 0},    {BL_TYPE_F16, 1},    {BL_TYPE_Q4_0, 2},   {BL_TYPE_Q4_1, 3},
                 {BL_TYPE_Q8_0, 7},   {BL_TYPE_Q4_K, 15},  {BL_TYPE_Q6_K, 18},  {BL_TYPE_BF16, 32},
                 {BL_TYPE_TQ1_0, 36}, {BL_TYPE_TQ2_0, 37}, {BL_TYPE_I2_S, 40}};
    uint64_t most = 0, counts[BL_COUNT(known)] = {0};
    size_t best = 0;
    for (uint64_t i = 0; i < plan->n; i++)
        for (size_t j = 0; j < BL_COUNT(known); j++)
            if (plan->tensors[i].type == known[j].type && plan->tensors[i].role == BL_ROLE_LAYER)
                counts[j] += plan->tensors[i].dims[0] * plan->tensors[i].dims[1] * plan->tensors[i].dims[2];
    for (size_t j = 0; j < BL_COUNT(known); j++)
        if (counts[j] > most) {
            most = counts[j];
            best = j;
        }
    bitlm_status status = most ? bl_gguf_write_u32(plan->writer, "general.file_type", known[best].file_type) : BITLM_OK;
    return status ? status : bl_gguf_write_u32(plan->writer, "general.quantization_version", 2);
}

bitlm_status bl_plan_check_choices(bl_plan *plan) {
    char shown[80];
    for (size_t i = 0; i < plan->options->n_choices && plan->n_chosen != plan->options->n_choices; i++) {
        bitlm_text name = plan->options->choices[i].name;
        int found = 0;
        for (uint64_t j = 0; j < plan->n && !found; j++)
            found = plan->tensors[j].role != BL_ROLE_OTHER && strlen(plan->tensors[j].name) == name.length &&
                    memcmp(plan->tensors[j].name, name.data, name.length) == 0;
        if (!found)
            return BL_PLAN_FAIL(plan, BITLM_ARG, "there is no layer, embedding or head '%s' that a type could be given to",
                                bl_show(shown, sizeof shown, name.data, name.length));
    }
    return BITLM_OK;
}
