/* model_load.c - a GGUF file becomes a bitlm_model: every key and tensor is checked against the
 * architecture's row once, so that forward.c can rely on shapes, types and finite scales.
 *
 * Weights stay where they are in the mapping; norms, biases and scales (small, float) are
 * decoded into the model's own memory.  A tensor that the architecture does not use is refused,
 * because leaving it out would answer wrongly in silence.  Called by core/run/registry.c. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/shortlist.h"
#include "quant/quant.h"

/* Sizes beyond these are no model that exists; they keep every product below inside int64. */
#define MAX_HIDDEN 65536
#define MAX_FFN (1 << 20)
#define MAX_LAYERS 1024
#define MAX_EXPERTS 1024
#define MAX_HEADS 1024
#define MAX_VOCAB (1 << 22)
#define MAX_CONTEXT (1 << 24)

typedef struct loader {
    bitlm_model *m;
    bitlm_error *error;
    const char *arch;      /* NUL-terminated */
    uint64_t used;         /* tensors taken */
    bl_arena arena;        /* measured, then filled */
    int filling;
    int64_t expert_ffn, shared_ffn; /* inner sizes of the experts; 0: no shared one */
} loader;

#define FAIL(ld, status, ...) bl_error((ld)->error, status, __VA_ARGS__)

/* ---- keys -------------------------------------------------------------------------------- */

static const char *arch_key(const loader *ld, const char *suffix, char *out, size_t cap) {
    snprintf(out, cap, "%s.%s", ld->arch, suffix);
    return out;
}

/* An integer key in lo .. hi; absent: `fallback`, or FORMAT if that is negative. */
static bitlm_status key_int(loader *ld, const char *suffix, int64_t lo, int64_t hi, int64_t fallback,
                            int64_t *value) {
    char key[160];
    int64_t v = 0;
    int found = bl_gguf_i64(ld->m->gguf, arch_key(ld, suffix, key, sizeof key), &v);
    if (found < 0)
        return FAIL(ld, BITLM_FORMAT, "the key %s must be one integer", key);
    if (!found && fallback < 0)
        return FAIL(ld, BITLM_FORMAT, "the key %s is missing", key);
    if (!found)
        v = fallback;
    if (v < lo || v > hi)
        return FAIL(ld, BITLM_FORMAT, "the key %s is %lld, but must be %lld to %lld", key, (long long)v,
                    (long long)lo, (long long)hi);
    *value = v;
    return BITLM_OK;
}

static bitlm_status key_float(loader *ld, const char *suffix, double lo, double hi, double fallback,
                              double *value) {
    char key[160];
    double v = fallback;
    int found = bl_gguf_f64(ld->m->gguf, arch_key(ld, suffix, key, sizeof key), &v);
    if (found < 0)
        return FAIL(ld, BITLM_FORMAT, "the key %s must be one number", key);
    if (!(v >= lo && v <= hi))
        return FAIL(ld, BITLM_FORMAT, "the key %s is %g, but must be %g to %g", key, v, lo, hi);
    *value = v;
    return BITLM_OK;
}

/* The shape of the experts; ffn_size becomes the widest of their inner sizes. */
static bitlm_status read_experts(loader *ld) {
    bitlm_model *m = ld->m;
    char key[160];
    double scale = 1.0;
    int64_t own = 0, shared = 0, gating = 1;
    bitlm_status s = key_int(ld, "expert_count", 2, MAX_EXPERTS, -1, &m->n_experts);
    if (!s)
        s = key_int(ld, "expert_used_count", 1, m->n_experts, -1, &m->n_experts_used);
    if (!s)
        s = key_int(ld, "expert_feed_forward_length", 1, MAX_FFN, m->ffn_size, &own);
    if (!s)
        s = key_int(ld, "expert_shared_feed_forward_length", 0, MAX_FFN, 0, &shared);
    if (!s)
        s = key_int(ld, "expert_gating_func", 0, 100, 1, &gating);
    if (!s)
        s = key_float(ld, "expert_weights_scale", 0.0, 1e6, 1.0, &scale);
    if (s)
        return s;
    if (gating > 1)
        return FAIL(ld, BITLM_UNSUPPORTED, "expert_gating_func %lld is not supported: only 1 (softmax) is",
                    (long long)gating);
    m->expert_norm = m->arch->expert_norm;
    if (bl_gguf_bool(m->gguf, arch_key(ld, "expert_weights_norm", key, sizeof key), &m->expert_norm) < 0)
        return FAIL(ld, BITLM_FORMAT, "the key %s must be true or false", key);
    m->expert_scale = scale > 0.0 ? (float)scale : 1.0f; /* 0 stands for none */
    m->ffn_size = BL_MAX(own, shared);
    ld->expert_ffn = own;
    ld->shared_ffn = shared;
    return BITLM_OK;
}

static bitlm_status read_shape(loader *ld) {
    bitlm_model *m = ld->m;
    double eps, base;
    int64_t value_length;
    bitlm_status s = BITLM_OK;
#define KEY(suffix, lo, hi, fallback, field)                                                                 \
    if (!s)                                                                                                  \
    s = key_int(ld, suffix, lo, hi, fallback, &(field))
    KEY("embedding_length", 1, MAX_HIDDEN, -1, m->hidden_size);
    KEY("block_count", 1, MAX_LAYERS, -1, m->n_layers);
    KEY("feed_forward_length", 1, MAX_FFN, -1, m->ffn_size);
    KEY("context_length", 16, MAX_CONTEXT, -1, m->context_length);
    KEY("attention.head_count", 1, MAX_HEADS, -1, m->n_heads);
    KEY("attention.head_count_kv", 1, MAX_HEADS, m->n_heads, m->n_kv_heads);
    if (s)
        return s;
    if (m->n_heads % m->n_kv_heads)
        return FAIL(ld, BITLM_FORMAT, "head_count %lld is no multiple of head_count_kv %lld",
                    (long long)m->n_heads, (long long)m->n_kv_heads);
    KEY("attention.key_length", 2, BL_MAX_HEAD_DIM, m->hidden_size / m->n_heads, m->head_dim);
    KEY("attention.value_length", 1, BL_MAX_HEAD_DIM, m->head_dim, value_length);
    KEY("rope.dimension_count", 2, BL_MAX_HEAD_DIM, m->head_dim, m->n_rot);
    KEY("embedding_length_out", 8, MAX_HIDDEN, m->hidden_size, m->embedding_size);
#undef KEY
    if (!s)
        s = key_float(ld, "attention.layer_norm_rms_epsilon", 0.0, 1.0, 1e-5, &eps);
    if (!s)
        s = key_float(ld, "rope.freq_base", 1.0, 1e12, 10000.0, &base);
    if (s)
        return s;
    if (value_length != m->head_dim)
        return FAIL(ld, BITLM_UNSUPPORTED, "value_length %lld differs from key_length %lld, which bitlm does not run",
                    (long long)value_length, (long long)m->head_dim);
    if (m->n_rot % 2 || m->n_rot > m->head_dim)
        return FAIL(ld, BITLM_FORMAT, "rope.dimension_count %lld must be even and at most the head size %lld",
                    (long long)m->n_rot, (long long)m->head_dim);
    m->norm_eps = (float)eps;
    m->rope_base = base;
    return m->arch->experts ? read_experts(ld) : BITLM_OK;
}

static bitlm_status read_modes(loader *ld) {
    bitlm_model *m = ld->m;
    char key[160];
    int causal = m->arch->causal;
    int64_t pool = m->arch->pool;
    if (bl_gguf_bool(m->gguf, arch_key(ld, "attention.causal", key, sizeof key), &causal) < 0)
        return FAIL(ld, BITLM_FORMAT, "the key %s must be true or false", key);
    if (m->arch->head && !causal)
        return FAIL(ld, BITLM_UNSUPPORTED, "%s is false, but a %s model generates text from left to right", key,
                    ld->arch);
    m->causal = causal;
    bitlm_status s = key_int(ld, "pooling_type", 0, 100, pool, &pool);
    if (s)
        return s;
    if (m->arch->pool == BL_POOL_NONE && !m->arch->pool_key)
        pool = BL_POOL_NONE;
    else if (pool > (m->arch->pool_key ? BL_POOL_LAST : BL_POOL_MEAN) || (m->arch->pool && pool != BL_POOL_MEAN))
        return FAIL(ld, BITLM_UNSUPPORTED, "pooling_type %lld is not supported for %s: only %s", (long long)pool,
                    ld->arch, m->arch->pool_key ? "1 (mean), 2 (first) and 3 (last) are" : "1 (mean) is");
    if (m->arch->pool_key && pool && m->embedding_size != m->hidden_size)
        return FAIL(ld, BITLM_UNSUPPORTED, "embedding_length_out %lld differs from embedding_length %lld, which bitlm does "
                    "not run for %s", (long long)m->embedding_size, (long long)m->hidden_size, ld->arch);
    m->pool = (int32_t)pool;
    if (m->pool == BL_POOL_NONE)
        m->embedding_size = 0;
    else if (m->embedding_size % 8)
        return FAIL(ld, BITLM_UNSUPPORTED, "embedding_length_out %lld is no multiple of 8, so it makes no code",
                    (long long)m->embedding_size);
    return BITLM_OK;
}

static int text_is(bitlm_text t, const char *word) {
    return t.length == strlen(word) && memcmp(t.data, word, t.length) == 0;
}

static int name_has(const loader *ld, const char *word) {
    bitlm_text name;
    size_t n = strlen(word);
    if (bl_gguf_string(ld->m->gguf, "general.name", &name) == 1)
        for (size_t i = 0; i + n <= name.length; i++)
            if (memcmp(name.data + i, word, n) == 0)
                return 1;
    return 0;
}

/* Files named `bitnet` hold either activation (FORMATS: 2B-4T converted upstream says `bitnet`
 * and needs ReLU²), so the caller, then the file's key, then its name and shape decide. */
static bitlm_status choose_activation(loader *ld) {
    static const char *const suffixes[] = {"hidden_activation", "hidden_act"};
    bitlm_model *m = ld->m;
    char key[160];
    bitlm_text text;
    if (m->hidden_act != BITLM_ACT_AUTO) {
        m->activation = m->hidden_act;
        snprintf(m->activation_why, sizeof m->activation_why, "the option hidden_act asked for it");
        return BITLM_OK;
    }
    for (size_t i = 0; i < BL_COUNT(suffixes); i++) {
        int found = bl_gguf_string(m->gguf, arch_key(ld, suffixes[i], key, sizeof key), &text);
        if (found < 0)
            return FAIL(ld, BITLM_FORMAT, "the key %s must be a text", key);
        if (!found)
            continue;
        char shown[40];
        if (text_is(text, "relu2"))
            m->activation = BITLM_ACT_RELU2;
        else if (text_is(text, "silu") || text_is(text, "swish"))
            m->activation = BITLM_ACT_SILU;
        else
            return FAIL(ld, BITLM_UNSUPPORTED, "%s is '%s': bitlm knows relu2 and silu", key,
                        bl_show(shown, sizeof shown, text.data, text.length));
        snprintf(m->activation_why, sizeof m->activation_why, "the file's key %.80s", key);
        return BITLM_OK;
    }
    m->activation = m->arch->activation;
    snprintf(m->activation_why, sizeof m->activation_why, "the default of architecture %.40s", ld->arch);
    if (!m->arch->ask_activation)
        return BITLM_OK;
    if (name_has(ld, "2B-4T") || name_has(ld, "2b-4t")) {
        m->activation = BITLM_ACT_RELU2;
        snprintf(m->activation_why, sizeof m->activation_why, "general.name says 2B-4T");
    } else if (m->hidden_size == 2560 && m->ffn_size == 6912 && m->n_layers == 30) {
        m->activation = BITLM_ACT_RELU2;
        snprintf(m->activation_why, sizeof m->activation_why, "the shape 2560/6912/30 is that of 2B-4T");
    }
    return BITLM_OK;
}

/* ---- tensors ---------------------------------------------------------------------------------- */

/* The tensor `prefix``name`, counted as used; NULL if absent. */
static const bl_tensor *take(loader *ld, const char *prefix, const char *name, char *full, size_t cap) {
    snprintf(full, cap, "%s%s", prefix, name);
    const bl_tensor *t = bl_gguf_tensor(ld->m->gguf, full);
    if (t)
        ld->used++;
    return t;
}

static bitlm_status check_dims(loader *ld, const bl_tensor *t, int64_t k, int64_t n) {
    if (t->dims[0] != (uint64_t)k || t->dims[1] != (uint64_t)n || t->dims[2] != 1 || t->dims[3] != 1)
        return FAIL(ld, BITLM_FORMAT, "tensor %.60s has shape (%llu, %llu, %llu, %llu), but must be (%lld, %lld)",
                    t->name, (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                    (unsigned long long)t->dims[2], (unsigned long long)t->dims[3], (long long)k, (long long)n);
    if (t->type == BL_TYPE_PQ2_0 || t->type == BL_TYPE_PTQ1_0)
        return FAIL(ld, BITLM_UNSUPPORTED, "tensor %.60s is %s, which needs the Hadamard rotation of Bonsai-2 files; "
                    "bitlm does not run it", t->name, bl_tensor_type_find(t->type)->name);
    return BITLM_OK;
}

/* A float vector of n values, decoded into the model's memory. */
static bitlm_status load_vector(loader *ld, const char *prefix, const char *name, int64_t n, int required,
                                const float **out) {
    char full[160];
    const bl_tensor *t = take(ld, prefix, name, full, sizeof full);
    if (!t)
        return required ? FAIL(ld, BITLM_FORMAT, "the tensor %s is missing", full) : BITLM_OK;
    bitlm_status s = check_dims(ld, t, n, 1);
    if (s)
        return s;
    if (bl_tensor_type_find(t->type)->cls != BL_CLASS_FLOAT)
        return FAIL(ld, BITLM_UNSUPPORTED, "tensor %s is %s, but must be F32, F16 or BF16", full,
                    bl_tensor_type_find(t->type)->name);
    float *v = bl_arena_take(&ld->arena, (size_t)n, sizeof(float));
    if (!ld->filling)
        return BITLM_OK;
    bl_decode_row(t->type, t->data, 1, (uint64_t)n, 0, v);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return FAIL(ld, BITLM_FORMAT, "value %lld of tensor %s is not finite", (long long)i, full);
    *out = v;
    return BITLM_OK;
}

/* One scale for the whole ternary tensor: I2_S holds it behind the codes; TQ types hold one a
 * block, usually all the same.  Returns 0 if they differ. */
static int uniform_scale(const bl_tensor *t, float *scale) {
    const bl_tensor_type *type = bl_tensor_type_find(t->type);
    if (t->type == BL_TYPE_I2_S) {
        *scale = bl_read_f32(t->data + t->dims[0] * t->dims[1] / 4);
        return 1;
    }
    if (t->type != BL_TYPE_TQ1_0 && t->type != BL_TYPE_TQ2_0)
        return 0;
    uint64_t n_blocks = t->dims[0] / (uint64_t)type->block * t->dims[1];
    const uint8_t *d = t->data + type->block_bytes - 2; /* both end with d */
    uint16_t first = bl_read_u16(d);
    for (uint64_t i = 1; i < n_blocks; i++)
        if (bl_read_u16(d + i * (uint64_t)type->block_bytes) != first)
            return 0;
    *scale = bl_f16_to_f32(first);
    return 1;
}

bitlm_status bl_linear_set(const bitlm_model *m, const bl_tensor *t, int measuring, bl_linear *l, bitlm_error *error) {
    const bl_tensor_type *type = bl_tensor_type_find(t->type);
    l->data = t->data;
    l->type = t->type;
    l->k = (int64_t)t->dims[0];
    l->n = (int64_t)t->dims[1];
    l->scale = 1.0f;
    if (type->cls == BL_CLASS_FLOAT) {
        l->kind = BL_LINEAR_FLOAT;
        return BITLM_OK;
    }
    if (t->type == BL_TYPE_I2_S && l->k % 128)
        return bl_error(error, BITLM_UNSUPPORTED, "tensor %.60s is I2_S with rows of %lld weights; rows must be a multiple "
                        "of 128", t->name, (long long)l->k);
    float scale = 1.0f;
    int uniform = 0;
    if (t->type == BL_TYPE_I2_S || (type->cls == BL_CLASS_TERNARY && m->per_token && !measuring && !m->passing))
        uniform = uniform_scale(t, &scale);
    if (uniform) {
        if (!isfinite(scale))
            return bl_error(error, BITLM_FORMAT, "the scale of tensor %.60s is not finite", t->name);
        l->kind = BL_LINEAR_TERNARY;
        l->scale = scale;
        return BITLM_OK;
    }
    l->kind = BL_LINEAR_GROUP;
    l->group = type->group;
    l->per_token = type->cls == BL_CLASS_TERNARY && m->per_token;
    /* Weights of 4 bits and more stand for float ones: one int8 row per token would leave the float
     * path further than the weights do (docs/ARCHITECTURE.md has the figures). */
    l->n_terms = type->cls == BL_CLASS_GROUP ? 2 : 1;
    return BITLM_OK;
}

static bitlm_status fill_linear(loader *ld, const bl_tensor *t, int64_t k, int64_t n, bl_linear *l) {
    bitlm_status s = check_dims(ld, t, k, n);
    return s ? s : bl_linear_set(ld->m, t, !ld->filling, l, ld->error);
}

bl_tensor bl_expert_matrix(const bl_tensor *t, int64_t expert) {
    bl_tensor one = *t;
    one.dims[2] = 1;
    one.bytes = t->bytes / t->dims[2];
    one.data = t->data + (uint64_t)expert * one.bytes;
    return one;
}

/* Expert number `expert` of a tensor of n_experts matrices. */
static bitlm_status fill_expert(loader *ld, const bl_tensor *t, int64_t expert, int64_t k, int64_t n, bl_linear *l) {
    int64_t n_experts = ld->m->n_experts;
    if (t->dims[2] != (uint64_t)n_experts)
        return FAIL(ld, BITLM_FORMAT, "tensor %.60s holds %llu experts, but expert_count is %lld", t->name,
                    (unsigned long long)t->dims[2], (long long)n_experts);
    if (t->type == BL_TYPE_I2_S)
        return FAIL(ld, BITLM_UNSUPPORTED, "tensor %.60s holds experts in I2_S, which has one scale for all of them; "
                    "TQ2_0 and TQ1_0 work", t->name);
    bl_tensor one = bl_expert_matrix(t, expert);
    return fill_linear(ld, &one, k, n, l);
}

/* prefix + name + ".weight", with its optional ".bias" and ".scale" and the norm of its input. */
static bitlm_status load_linear(loader *ld, const char *prefix, const char *name, int64_t k, int64_t n,
                                int required, bl_linear *l) {
    char full[160], part[80];
    snprintf(part, sizeof part, "%s.weight", name);
    const bl_tensor *t = take(ld, prefix, part, full, sizeof full);
    if (!t)
        return required ? FAIL(ld, BITLM_FORMAT, "the tensor %s is missing", full) : BITLM_OK;
    bitlm_status s = fill_linear(ld, t, k, n, l);
    if (s)
        return s;
    snprintf(part, sizeof part, "%s.bias", name);
    s = load_vector(ld, prefix, part, n, 0, &l->bias);
    if (s)
        return s;
    const float *scale = NULL;
    snprintf(part, sizeof part, "%s.scale", name);
    s = load_vector(ld, prefix, part, 1, 0, &scale);
    if (!s && scale)
        l->scale *= *scale;
    snprintf(part, sizeof part, "%s_norm_in.weight", name);
    return s ? s : load_vector(ld, prefix, part, k, 0, &l->norm_in);
}

static bitlm_status load_experts(loader *ld, const char *p, bl_layer *l) {
    static const char *const names[] = {"ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight"};
    const bitlm_model *m = ld->m;
    int64_t hidden = m->hidden_size, own = ld->expert_ffn, shared = ld->shared_ffn;
    bl_linear *experts = bl_arena_take(&ld->arena, (size_t)m->n_experts * 3, sizeof *experts);
    bitlm_status s = load_linear(ld, p, "ffn_gate_inp", hidden, m->n_experts, 1, &l->router);
    if (ld->filling)
        memset(experts, 0, (size_t)m->n_experts * 3 * sizeof *experts);
    for (int i = 0; i < 3 && !s; i++) {
        char full[160];
        const bl_tensor *t = take(ld, p, names[i], full, sizeof full);
        if (!t)
            return FAIL(ld, BITLM_FORMAT, "the tensor %s is missing", full);
        for (int64_t e = 0; e < m->n_experts && !s; e++) {
            bl_linear spare = {0};
            s = fill_expert(ld, t, e, i == 2 ? own : hidden, i == 2 ? hidden : own,
                            ld->filling ? &experts[e * 3 + i] : &spare);
        }
    }
    l->experts = experts;
    if (!s && shared) {
        s = load_linear(ld, p, "ffn_gate_inp_shexp", hidden, 1, 0, &l->shared_router);
        if (!s)
            s = load_linear(ld, p, "ffn_gate_shexp", hidden, shared, 1, &l->gate);
        if (!s)
            s = load_linear(ld, p, "ffn_up_shexp", hidden, shared, 1, &l->up);
        if (!s)
            s = load_linear(ld, p, "ffn_down_shexp", shared, hidden, 1, &l->down);
    }
    return s;
}

/* What the inputs of a layer's projections are. */
static void name_inputs(const bitlm_model *m, bl_layer *l) {
    l->q.input = l->k.input = l->v.input = l->gate.input = l->up.input = BL_INPUT_BLOCK;
    l->o.input = BL_INPUT_MIXED;
    l->down.input = BL_INPUT_GATED;
    for (int64_t i = 0; l->experts && i < 3 * m->n_experts; i++)
        l->experts[i].input = i % 3 == 2 ? BL_INPUT_GATED : BL_INPUT_BLOCK;
}

static bitlm_status load_layer(loader *ld, int64_t index, bl_layer *l) {
    const bitlm_model *m = ld->m;
    int64_t hidden = m->hidden_size, attn = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
    int sub = m->arch->sub_norms;
    char p[32];
    bitlm_status s;
    snprintf(p, sizeof p, "blk.%lld.", (long long)index);
    s = load_vector(ld, p, "attn_norm.weight", hidden, 1, &l->attn_norm);
    if (!s && sub)
        s = load_vector(ld, p, "attn_sub_norm.weight", attn, 1, &l->attn_sub_norm);
    if (!s && m->arch->qk_norm)
        s = load_vector(ld, p, "attn_q_norm.weight", m->head_dim, 1, &l->q_norm);
    if (!s && m->arch->qk_norm)
        s = load_vector(ld, p, "attn_k_norm.weight", m->head_dim, 1, &l->k_norm);
    if (!s)
        s = load_vector(ld, p, "ffn_norm.weight", hidden, 1, &l->ffn_norm);
    if (!s && sub)
        s = load_vector(ld, p, "ffn_sub_norm.weight", m->ffn_size, 1, &l->ffn_sub_norm);
    if (!s)
        s = load_linear(ld, p, "attn_q", hidden, attn, 1, &l->q);
    if (!s)
        s = load_linear(ld, p, "attn_k", hidden, kv, 1, &l->k);
    if (!s)
        s = load_linear(ld, p, "attn_v", hidden, kv, 1, &l->v);
    if (!s)
        s = load_linear(ld, p, "attn_output", attn, hidden, 1, &l->o);
    if (!s && m->n_experts)
        return load_experts(ld, p, l);
    if (!s)
        s = load_linear(ld, p, "ffn_gate", hidden, m->ffn_size, 1, &l->gate);
    if (!s)
        s = load_linear(ld, p, "ffn_up", hidden, m->ffn_size, 1, &l->up);
    return s ? s : load_linear(ld, p, "ffn_down", m->ffn_size, hidden, 1, &l->down);
}

/* How positions beyond the trained context are pressed into it. */
typedef struct rope_scaling {
    double factor;             /* 1: not at all */
    int yarn;
    double low, high;          /* yarn: pairs below low keep their frequency, from high on it is divided */
} rope_scaling;

/* Yarn (Peng et al. 2023), as llama.cpp and transformers have it: cosines and sines are scaled too. */
static bitlm_status read_yarn(loader *ld, rope_scaling *r) {
    bitlm_model *m = ld->m;
    double original, fast, slow, attn, ext, log_multiplier;
    const double two_pi = 6.283185307179586;
    bitlm_status s = key_float(ld, "rope.scaling.original_context_length", 1, MAX_CONTEXT, (double)m->context_length,
                               &original);
    if (!s)
        s = key_float(ld, "rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32.0, &fast);
    if (!s)
        s = key_float(ld, "rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1.0, &slow);
    if (!s)
        s = key_float(ld, "rope.scaling.attn_factor", 1e-3, 1e3, 1.0, &attn);
    if (!s)
        s = key_float(ld, "rope.scaling.yarn_ext_factor", -1.0, 1.0, 1.0, &ext);
    if (!s)
        s = key_float(ld, "rope.scaling.yarn_log_multiplier", 0.0, 1e3, 0.0, &log_multiplier);
    if (s)
        return s;
    if ((ext >= 0.0 && ext != 1.0) || log_multiplier != 0.0)
        return FAIL(ld, BITLM_UNSUPPORTED, "yarn_ext_factor other than 1 and yarn_log_multiplier are not supported");
    double per_octave = (double)m->n_rot / (2.0 * bl_log(m->rope_base));
    r->yarn = 1;
    r->low = floor(BL_MAX(0.0, per_octave * bl_log(original / (fast * two_pi))));
    r->high = ceil(BL_MIN((double)m->n_rot - 1.0, per_octave * bl_log(original / (slow * two_pi))));
    m->rope_scale = attn * (r->factor > 1.0 ? 1.0 + 0.1 * bl_log(r->factor) : 1.0);
    return BITLM_OK;
}

static bitlm_status read_rope_scaling(loader *ld, rope_scaling *r) {
    char key[160], shown[40];
    bitlm_text type = {"none", 4};
    ld->m->rope_scale = 1.0;
    if (bl_gguf_string(ld->m->gguf, arch_key(ld, "rope.scaling.type", key, sizeof key), &type) < 0)
        return FAIL(ld, BITLM_FORMAT, "the key %s must be a text", key);
    if (text_is(type, "none") || type.length == 0)
        return BITLM_OK;
    if (!text_is(type, "linear") && !text_is(type, "yarn"))
        return FAIL(ld, BITLM_UNSUPPORTED, "%s is '%s': bitlm knows none, linear and yarn (and the factors of "
                    "rope_freqs.weight)", key, bl_show(shown, sizeof shown, type.data, type.length));
    bitlm_status s = key_float(ld, "rope.scaling.factor", 1e-3, 1e6, 1.0, &r->factor);
    return s || text_is(type, "linear") ? s : read_yarn(ld, r);
}

/* Radians per position of pair i, before the file's own factors. */
static double scaled_frequency(const rope_scaling *r, double frequency, int64_t i) {
    if (!r->yarn)
        return frequency / r->factor;
    double kept = 1.0 - ((double)i - r->low) / BL_MAX(0.001, r->high - r->low);
    kept = BL_MIN(BL_MAX(kept, 0.0), 1.0);
    return frequency / r->factor * (1.0 - kept) + frequency * kept;
}

static bitlm_status load_rope(loader *ld) {
    bitlm_model *m = ld->m;
    int64_t half = m->n_rot / 2;
    rope_scaling scaling = {.factor = 1.0};
    const float *factors = NULL;
    bitlm_status s = read_rope_scaling(ld, &scaling);
    if (!s)
        s = load_vector(ld, "", "rope_freqs.weight", half, 0, &factors);
    if (s)
        return s;
    m->rope_freq = bl_arena_take(&ld->arena, (size_t)half, sizeof(double));
    if (!ld->filling)
        return BITLM_OK;
    double step = bl_log(m->rope_base) * 2.0 / (double)m->n_rot;
    for (int64_t i = 0; i < half; i++) {
        if (factors && !(factors[i] > 0.0f))
            return FAIL(ld, BITLM_FORMAT, "value %lld of rope_freqs.weight is %g, but must be positive", (long long)i,
                        (double)factors[i]);
        m->rope_freq[i] = scaled_frequency(&scaling, bl_exp(-step * (double)i) / (factors ? (double)factors[i] : 1.0), i);
    }
    return BITLM_OK;
}

static bitlm_status load_tensors(loader *ld) {
    bitlm_model *m = ld->m;
    char full[160];
    bitlm_status s;
    ld->used = 0;
    const bl_tensor *e = take(ld, "", "token_embd.weight", full, sizeof full);
    if (!e)
        return FAIL(ld, BITLM_FORMAT, "the tensor token_embd.weight is missing");
    if (e->dims[1] < 1 || e->dims[1] > MAX_VOCAB)
        return FAIL(ld, BITLM_FORMAT, "token_embd.weight has %llu rows, but the vocabulary must be 1 to %d",
                    (unsigned long long)e->dims[1], MAX_VOCAB);
    m->vocab_size = (int64_t)e->dims[1];
    m->token_embd = e;
    s = check_dims(ld, e, m->hidden_size, m->vocab_size);
    if (!s)
        s = load_rope(ld);
    m->layers = bl_arena_take(&ld->arena, (size_t)m->n_layers, sizeof(bl_layer));
    if (ld->filling)
        memset(m->layers, 0, (size_t)m->n_layers * sizeof(bl_layer));
    for (int64_t i = 0; i < m->n_layers && !s; i++) {
        bl_layer spare = {0};
        s = load_layer(ld, i, ld->filling ? &m->layers[i] : &spare);
        if (!s && ld->filling)
            name_inputs(m, &m->layers[i]);
    }
    if (!s && m->arch->output_norm)
        s = load_vector(ld, "", "output_norm.weight", m->hidden_size, 1, &m->output_norm);
    if (!s && m->arch->head) {
        memset(&m->head, 0, sizeof m->head);
        s = load_linear(ld, "", "output", m->hidden_size, m->vocab_size, 0, &m->head);
        if (!s && !m->head.data)
            s = fill_linear(ld, e, m->hidden_size, m->vocab_size, &m->head);
    }
    if (!s && m->arch->pool_proj) {
        s = load_vector(ld, "", "pool_norm.weight", m->hidden_size, 1, &m->pool_norm);
        if (!s)
            s = load_linear(ld, "", "pool_proj", m->hidden_size, m->embedding_size, 1, &m->pool_proj);
    }
    return s;
}

/* Names the first tensor that nothing above took. */
static bitlm_status refuse_unused(loader *ld) {
    static const char *const in_layer[] = {"attn_norm", "attn_sub_norm", "attn_q_norm", "attn_k_norm",
                                           "ffn_norm", "ffn_sub_norm", "attn_q",
                                           "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down",
                                           "attn_q_norm_in", "attn_k_norm_in", "attn_v_norm_in",
                                           "attn_output_norm_in", "ffn_gate_norm_in", "ffn_up_norm_in",
                                           "ffn_down_norm_in", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps",
                                           "ffn_down_exps", "ffn_gate_inp_shexp", "ffn_gate_shexp", "ffn_up_shexp",
                                           "ffn_down_shexp"};
    static const char *const outside[] = {"token_embd.weight", "output_norm.weight", "output.weight", "output.bias",
                                          "output.scale", "rope_freqs.weight", "pool_norm.weight",
                                          "pool_proj.weight", "pool_proj.bias", "pool_proj.scale"};
    bl_gguf *g = ld->m->gguf;
    for (uint64_t i = 0; i < bl_gguf_n_tensors(g); i++) {
        const char *name = bl_gguf_tensor_at(g, i)->name;
        long long layer;
        int used = 0, length = 0;
        if (sscanf(name, "blk.%lld.%n", &layer, &length) == 1 && length && layer < ld->m->n_layers) {
            for (size_t j = 0; j < BL_COUNT(in_layer) && !used; j++) {
                size_t n = strlen(in_layer[j]);
                used = strncmp(name + length, in_layer[j], n) == 0 && name[length + n] == '.';
            }
        } else {
            for (size_t j = 0; j < BL_COUNT(outside) && !used; j++)
                used = strcmp(name, outside[j]) == 0;
        }
        if (!used)
            return FAIL(ld, BITLM_UNSUPPORTED, "tensor %.80s is not part of architecture %s as bitlm runs it",
                        name, ld->arch);
    }
    return FAIL(ld, BITLM_UNSUPPORTED, "the file holds tensors that architecture %s does not use", ld->arch);
}

static void summarize(bitlm_model *m) {
    uint64_t by_type[64] = {0}, most = 0;
    snprintf(m->weight_type, sizeof m->weight_type, "?");
    for (uint64_t i = 0; i < bl_gguf_n_tensors(m->gguf); i++) {
        const bl_tensor *t = bl_gguf_tensor_at(m->gguf, i);
        uint64_t n = t->dims[0] * t->dims[1] * t->dims[2];
        m->n_parameters += n;
        if (t == m->token_embd || t->dims[1] == 1 || t->type < 0 || t->type >= 64)
            continue;
        by_type[t->type] += n;
        if (by_type[t->type] > most) {
            most = by_type[t->type];
            snprintf(m->weight_type, sizeof m->weight_type, "%s", bl_tensor_type_find(t->type)->name);
        }
    }
}

bitlm_status bl_model_load(bitlm_model *m, bitlm_error *error) {
    loader ld = {.m = m, .error = error};
    bitlm_text arch, text;
    int ok;
    uint32_t mask = bl_cpu_env_mask(&ok);
    if (!ok)
        return bl_error(error, BITLM_ARG, "the environment variable BITLM_CPU must be ref, avx2, avxvnni, avx512, amx "
                        "or neon");
    m->kernels = bl_kernels_get(mask);
    bitlm_status s = bl_gguf_open(m->mapping.data, m->mapping.size, &m->alloc, &m->gguf, error);
    if (s)
        return s;
    if (bl_gguf_string(m->gguf, "general.architecture", &arch) != 1)
        return bl_error(error, BITLM_FORMAT, "the key general.architecture is missing or not a text");
    m->arch = bl_arch_find(arch.data, arch.length);
    if (!m->arch)
        return bl_arch_refuse(arch, error);
    ld.arch = m->arch->name;
    s = bl_arch_refuse_keys(m->arch, m->gguf, error);
    if (!s)
        s = read_shape(&ld);
    if (!s)
        s = read_modes(&ld);
    /* TriLM's ternary layers were trained with float activations. */
    m->per_token = m->arch->per_token && !name_has(&ld, "TriLM");
    /* Norms of the inputs are how BitNet layers were put into a model of another name. */
    if (bl_gguf_tensor(m->gguf, "blk.0.attn_q_norm_in.weight"))
        m->per_token = 1;
    if (!s)
        s = choose_activation(&ld);
    if (!s)
        s = load_tensors(&ld); /* measures */
    if (s)
        return s;
    if (ld.used != bl_gguf_n_tensors(m->gguf))
        return refuse_unused(&ld);
    size_t size = ld.arena.used;
    m->memory = bl_malloc(&m->alloc, size + 64);
    if (!m->memory)
        return bl_error_nomem(error, size + 64, "the model's norms");
    ld.arena = (bl_arena){.base = (uint8_t *)(((uintptr_t)m->memory + 63) & ~(uintptr_t)63), .size = size};
    ld.filling = 1;
    s = load_tensors(&ld);
    if (s)
        return s;
    summarize(m);
    s = bl_tokenizer_open(m->gguf, (int32_t)m->vocab_size, &m->alloc, &m->tokenizer, error);
    if (s)
        return s;
    bl_gguf_forget_arrays(m->gguf);
    if (m->arch->head && bl_gguf_string(m->gguf, "tokenizer.chat_template", &text) == 1)
        m->chat = bl_chat_find(text.data, text.length);
    if (m->chat)
        m->chat_system = bl_chat_system(m->chat, text.data, text.length);
    return BITLM_OK;
}

void bl_model_unload(bitlm_model *m) {
    bl_shortlist_free(m);
    bl_tokenizer_free(m->tokenizer);
    bl_free(&m->alloc, m->memory);
    bl_gguf_free(m->gguf);
    bl_mapping_close(&m->mapping);
    bl_free(&m->alloc, m->path);
}
