/* convert_hf.c - a Hugging Face folder as keys and tensors of a GGUF file.
 *
 * config.json decides the architecture and the form of the weights:
 *   packed   uint8 with weight_scale (BitNet); quantization_config.linear_class says whether the weight is trit ÷ scale
 *            ("bitlinear", also where nothing is said) or trit × scale ("autobitlinear")
 *   master   float weights of a BitNet model, quantized by absmean as its own code does on every call
 *   float    anything else of the LLaMA and Qwen families
 * Architecture `llama` keeps q and k rows in the order of adjacent pairs, so they are permuted.  Every tensor must be
 * one that the architecture has, in the shape that config.json says, and none may be missing.  Called by convert.c. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "file/convert.h"
#include "kernels/kernels.h"

typedef unsigned long long ull; /* for messages */

#define MAX_CONFIG ((size_t)1 << 20)

typedef struct shape {
    const json_t *config;
    const char *arch;            /* of the GGUF file */
    const char *act;             /* silu, relu2 */
    int bitnet;                  /* float weights are master weights */
    int multiply;                /* weight = trit * weight_scale, else trit / weight_scale */
    int packed_seen;
    uint64_t hidden, layers, ffn, heads, kv_heads, head_dim, vocab, context;
    int64_t tied;                /* 0, 1 or -1: not said */
    double eps, theta;
} shape;

/* ---- config.json ------------------------------------------------------------------------------------------ */

static bitlm_status want_int(bl_plan *plan, const json_t *config, const char *name, uint64_t low, uint64_t high,
                             int64_t fallback, uint64_t *value) {
    const json_t *v = json_object_get(config, name);
    if (!v || json_is_null(v)) {
        if (fallback < 0)
            return BL_PLAN_FAIL(plan, BITLM_FORMAT, "config.json lacks %s", name);
        *value = (uint64_t)fallback;
        return BITLM_OK;
    }
    if (!json_is_integer(v) || json_integer_value(v) < (json_int_t)low || json_integer_value(v) > (json_int_t)high)
        return BL_PLAN_FAIL(plan, BITLM_FORMAT, "%s of config.json must be a whole number from %llu to %llu", name, (ull)low,
                            (ull)high);
    *value = (uint64_t)json_integer_value(v);
    return BITLM_OK;
}

static bitlm_status want_number(bl_plan *plan, const json_t *config, const char *name, double low, double high,
                                double fallback, double *value) {
    const json_t *v = json_object_get(config, name);
    *value = !v || json_is_null(v) ? fallback : json_is_number(v) ? json_number_value(v) : NAN;
    if (!(*value >= low && *value <= high))
        return BL_PLAN_FAIL(plan, BITLM_FORMAT, "%s of config.json must be a number from %g to %g", name, low, high);
    return BITLM_OK;
}

static const char *string_of(const json_t *object, const char *name) {
    const char *s = json_string_value(json_object_get(object, name));
    return s ? s : "";
}

static bitlm_status choose_arch(bl_plan *plan, shape *s) {
    const char *type = string_of(s->config, "model_type");
    const json_t *quantization = json_object_get(s->config, "quantization_config");
    const char *method = string_of(quantization, "quant_method"), *linear = string_of(quantization, "linear_class");
    char shown[60];
    const char *class = json_string_value(json_array_get(json_object_get(s->config, "architectures"), 0));
    int old_bitnet = class && strcmp(class, "BitnetForCausalLM") == 0; /* 1bitLLM's, of model_type llama */
    s->act = string_of(s->config, "hidden_act");
    if (strcmp(s->act, "swish") == 0 || s->act[0] == '\0')
        s->act = "silu";
    if (strcmp(s->act, "silu") != 0 && strcmp(s->act, "relu2") != 0)
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "hidden_act of config.json is '%s', but bitlm runs silu and relu2",
                            bl_show(shown, sizeof shown, s->act, strlen(s->act)));
    if (strcmp(type, "bitnet") == 0 || old_bitnet) {
        s->bitnet = 1;
        s->arch = strcmp(s->act, "relu2") == 0 ? "bitnet-b1.58" : "bitnet";
    } else if (strcmp(type, "llama") == 0 || strcmp(type, "mistral") == 0) {
        s->arch = "llama";
    } else if (strcmp(type, "qwen2") == 0) {
        s->arch = "qwen2";
    } else if (strcmp(type, "qwen3") == 0) {
        s->arch = "qwen3";
    } else {
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "model_type of config.json is '%s', but bitlm converts bitnet, llama, "
                            "mistral, qwen2 and qwen3", bl_show(shown, sizeof shown, type, strlen(type)));
    }
    if (quantization && strcmp(method, "bitnet") != 0)
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "quant_method of config.json is '%s', but bitlm converts bitnet's",
                            bl_show(shown, sizeof shown, method, strlen(method)));
    if (quantization && strcmp(linear, "autobitlinear") != 0 && strcmp(linear, "bitlinear") != 0 && linear[0])
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "linear_class of config.json is '%s', but must be bitlinear or "
                            "autobitlinear", bl_show(shown, sizeof shown, linear, strlen(linear)));
    s->multiply = strcmp(linear, "autobitlinear") == 0;
    if (s->multiply && strcmp(string_of(quantization, "quantization_mode"), "online") == 0)
        s->bitnet = 1;
    return BITLM_OK;
}

static bitlm_status read_shape(bl_plan *plan, shape *s) {
    const json_t *c = s->config, *tied = json_object_get(c, "tie_word_embeddings"),
                 *window = json_object_get(c, "sliding_window"), *use = json_object_get(c, "use_sliding_window");
    const json_t *rope = json_object_get(c, "rope_parameters");
    double rotary;
    bitlm_status status = choose_arch(plan, s);
#define INT(name, low, high, fallback, field)                                                                \
    if (!status)                                                                                             \
    status = want_int(plan, c, name, low, high, fallback, &s->field)
    INT("hidden_size", 1, 65536, -1, hidden);
    INT("num_hidden_layers", 1, 1024, -1, layers);
    INT("intermediate_size", 1, 1 << 20, -1, ffn);
    INT("num_attention_heads", 1, 1024, -1, heads);
    INT("num_key_value_heads", 1, 1024, (int64_t)s->heads, kv_heads);
    INT("vocab_size", 1, 1 << 22, -1, vocab);
    INT("max_position_embeddings", 16, 1 << 24, 2048, context);
    if (!status)
        INT("head_dim", 2, 4096, (int64_t)(s->hidden / s->heads), head_dim);
#undef INT
    if (!status)
        status = want_number(plan, c, "rms_norm_eps", 0, 1, 1e-6, &s->eps);
    if (!status)
        status = want_number(plan, json_object_get(rope, "rope_theta") ? rope : c, "rope_theta", 1, 1e12, 10000, &s->theta);
    if (!status)
        status = want_number(plan, c, "partial_rotary_factor", 0, 1, 1, &rotary);
    if (status)
        return status;
    s->tied = json_is_boolean(tied) ? json_is_true(tied) : -1;
    if (s->heads % s->kv_heads || s->head_dim % 2)
        return BL_PLAN_FAIL(plan, BITLM_FORMAT, "config.json has %llu heads, %llu key-value heads and the head size %llu: the "
                            "first must be a multiple of the second and the last even", (ull)s->heads, (ull)s->kv_heads,
                            (ull)s->head_dim);
    if (json_is_integer(window) && !json_is_false(use) && json_integer_value(window) < (json_int_t)s->context)
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "sliding_window of config.json is %lld, which bitlm does not run",
                            (long long)json_integer_value(window));
    if (rotary != 1)
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "partial_rotary_factor of config.json is %g, which bitlm does not run",
                            rotary);
    return BITLM_OK;
}

/* ---- keys ------------------------------------------------------------------------------------------------- */

static const char *key(const shape *s, const char *suffix, char *out, size_t cap) {
    snprintf(out, cap, "%s.%s", s->arch, suffix);
    return out;
}

/* Llama 3's factors, one for each pair of a head, as its own code computes them. */
static bitlm_status plan_llama3(bl_plan *plan, const shape *s, const json_t *r) {
    double factor, low, high, original;
    bitlm_status status = want_number(plan, r, "factor", 1e-3, 1e6, 8, &factor);
    if (!status)
        status = want_number(plan, r, "low_freq_factor", 1e-3, 1e6, 1, &low);
    if (!status)
        status = want_number(plan, r, "high_freq_factor", 1e-3, 1e6, 4, &high);
    if (!status)
        status = want_number(plan, r, "original_max_position_embeddings", 1, 1e9, 8192, &original);
    if (status)
        return status;
    if (high <= low)
        return BL_PLAN_FAIL(plan, BITLM_FORMAT, "high_freq_factor %g of config.json is not above low_freq_factor %g", high, low);
    uint64_t half = s->head_dim / 2;
    bl_planned *p = bl_plan_add(plan);
    if (!p)
        return BITLM_NOMEM;
    strcpy(p->name, "rope_freqs.weight");
    p->source_name = "rope_freqs.weight";
    p->from = BL_FROM_MEMORY;
    p->type = BL_TYPE_F32;
    p->n_dims = 1;
    p->dims[0] = half;
    p->memory = bl_calloc(&plan->alloc, (size_t)half, sizeof *p->memory);
    if (!p->memory)
        return bl_error_nomem(plan->error, (size_t)half * sizeof *p->memory, "factors of frequencies");
    for (uint64_t i = 0; i < half; i++) {
        double wave = 6.283185307179586 * bl_exp(bl_log(s->theta) * 2.0 * (double)i / (double)s->head_dim);
        double smooth = (original / wave - low) / (high - low);
        p->memory[i] = (float)(wave < original / high  ? 1.0
                               : wave > original / low ? factor
                                                       : 1.0 / ((1.0 - smooth) / factor + smooth));
    }
    return BITLM_OK;
}

static bitlm_status write_rope(bl_plan *plan, const shape *s) {
    const json_t *r = json_object_get(s->config, "rope_parameters");
    char k[100], shown[40];
    double factor, original, fast, slow;
    if (!json_is_object(r))
        r = json_object_get(s->config, "rope_scaling");
    const char *type = string_of(r, "rope_type");
    if (!type[0])
        type = string_of(r, "type");
    if (!json_is_object(r) || !type[0] || strcmp(type, "default") == 0)
        return BITLM_OK;
    if (strcmp(type, "llama3") == 0)
        return plan_llama3(plan, s, r);
    if (strcmp(type, "linear") != 0 && strcmp(type, "yarn") != 0)
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "rope_type of config.json is '%s', but bitlm runs default, linear, yarn "
                            "and llama3", bl_show(shown, sizeof shown, type, strlen(type)));
    bitlm_status status = want_number(plan, r, "factor", 1e-3, 1e6, 1, &factor);
    if (!status)
        status = want_number(plan, r, "original_max_position_embeddings", 1, 1e9, (double)s->context, &original);
    if (!status)
        status = want_number(plan, r, "beta_fast", 1e-3, 1e6, 32, &fast);
    if (!status)
        status = want_number(plan, r, "beta_slow", 1e-3, 1e6, 1, &slow);
    if (!status && (json_is_number(json_object_get(r, "attention_factor")) || json_is_number(json_object_get(r, "mscale"))))
        status = BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "config.json sets its own attention_factor or mscale, which bitlm does "
                              "not convert");
    if (status)
        return status;
    bl_gguf_writer *w = plan->writer;
    bl_gguf_write_string(w, key(s, "rope.scaling.type", k, sizeof k), type, strlen(type));
    status = bl_gguf_write_f32(w, key(s, "rope.scaling.factor", k, sizeof k), (float)factor);
    if (strcmp(type, "yarn") != 0)
        return status;
    bl_gguf_write_u32(w, key(s, "rope.scaling.original_context_length", k, sizeof k), (uint32_t)original);
    bl_gguf_write_f32(w, key(s, "rope.scaling.yarn_beta_fast", k, sizeof k), (float)fast);
    return bl_gguf_write_f32(w, key(s, "rope.scaling.yarn_beta_slow", k, sizeof k), (float)slow);
}

static bitlm_status write_keys(bl_plan *plan, const shape *s, const char *folder) {
    bl_gguf_writer *w = plan->writer;
    char k[100];
    const char *slash = strrchr(folder, '/'), *name = string_of(s->config, "_name_or_path");
    const struct {
        const char *suffix;
        uint64_t value;
    } ints[] = {{"vocab_size", s->vocab},          {"context_length", s->context},
                {"embedding_length", s->hidden},   {"block_count", s->layers},
                {"feed_forward_length", s->ffn},   {"rope.dimension_count", s->head_dim},
                {"attention.head_count", s->heads}, {"attention.head_count_kv", s->kv_heads},
                {"attention.key_length", s->head_dim}, {"attention.value_length", s->head_dim}};
    if (!name[0])
        name = slash ? slash + 1 : folder;
    bl_gguf_write_string(w, "general.architecture", s->arch, strlen(s->arch));
    bl_gguf_write_string(w, "general.name", name, strlen(name));
    for (size_t i = 0; i < BL_COUNT(ints); i++)
        bl_gguf_write_u32(w, key(s, ints[i].suffix, k, sizeof k), (uint32_t)ints[i].value);
    bl_gguf_write_f32(w, key(s, "attention.layer_norm_rms_epsilon", k, sizeof k), (float)s->eps);
    if (s->bitnet || strcmp(s->act, "relu2") == 0)
        bl_gguf_write_string(w, key(s, "hidden_activation", k, sizeof k), s->act, strlen(s->act));
    bitlm_status status = bl_gguf_write_f32(w, key(s, "rope.freq_base", k, sizeof k), (float)s->theta);
    return status ? status : write_rope(plan, s);
}

/* ---- tensors ---------------------------------------------------------------------------------------------- */

/* Sizes by letter: Hidden, Attention (heads * head_dim), Key-value, Ffn, Vocabulary, head Dimension; 1: a vector. */
static uint64_t size_of(const shape *s, char letter) {
    switch (letter) {
    case 'H':
        return s->hidden;
    case 'A':
        return s->heads * s->head_dim;
    case 'K':
        return s->kv_heads * s->head_dim;
    case 'F':
        return s->ffn;
    case 'V':
        return s->vocab;
    case 'D':
        return s->head_dim;
    default:
        return 1;
    }
}

const bl_hf_row bl_hf_rows[] = {
    {"input_layernorm", "attn_norm", '1', 'H', 'a', 'n'},
    {"post_attention_layernorm", "ffn_norm", '1', 'H', 'a', 'n'},
    {"self_attn.q_proj", "attn_q", 'A', 'H', 'a', 'l'},
    {"self_attn.k_proj", "attn_k", 'K', 'H', 'a', 'l'},
    {"self_attn.v_proj", "attn_v", 'K', 'H', 'a', 'l'},
    {"self_attn.o_proj", "attn_output", 'H', 'A', 'a', 'l'},
    {"self_attn.q_norm", "attn_q_norm", '1', 'D', 'q', 'n'},
    {"self_attn.k_norm", "attn_k_norm", '1', 'D', 'q', 'n'},
    {"self_attn.attn_sub_norm", "attn_sub_norm", '1', 'A', 's', 'n'},
    {"self_attn.inner_attn_ln", "attn_sub_norm", '1', 'A', 's', 'n'},
    {"mlp.gate_proj", "ffn_gate", 'F', 'H', 'a', 'l'},
    {"mlp.up_proj", "ffn_up", 'F', 'H', 'a', 'l'},
    {"mlp.down_proj", "ffn_down", 'H', 'F', 'a', 'l'},
    {"mlp.ffn_sub_norm", "ffn_sub_norm", '1', 'F', 's', 'n'},
    {"mlp.ffn_layernorm", "ffn_sub_norm", '1', 'F', 's', 'n'},
};
const size_t bl_hf_n_rows = BL_COUNT(bl_hf_rows);

static int is_bitnet_arch(const shape *s) { return strncmp(s->arch, "bitnet", 6) == 0; }

/* Whether the tensor is (rows, k) or, for a vector, (k). */
static int has_shape(const bl_st_tensor *t, uint64_t rows, uint64_t k) {
    return rows == 1 ? t->n_dims == 1 && t->dims[0] == k : t->n_dims == 2 && t->dims[0] == rows && t->dims[1] == k;
}

static bitlm_status bad_shape(bl_plan *plan, const bl_st_tensor *t, uint64_t rows, uint64_t k) {
    char text[120];
    int n = 0;
    text[0] = '\0';
    for (int i = 0; i < t->n_dims && n < 90; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s%llu", i ? ", " : "", (ull)t->dims[i]);
    if (rows == 1)
        return BL_PLAN_FAIL(plan, BITLM_FORMAT, "tensor '%s' has the shape (%s) and dtype %s, but must be floats (%llu)",
                            t->name, text, t->dtype_name, (ull)k);
    return BL_PLAN_FAIL(plan, BITLM_FORMAT, "tensor '%s' has the shape (%s) and dtype %s, but must be floats (%llu, %llu)",
                        t->name, text, t->dtype_name, (ull)rows, (ull)k);
}

static int is_float(const bl_st_tensor *t) {
    return t->dtype == BL_ST_F32 || t->dtype == BL_ST_F16 || t->dtype == BL_ST_BF16;
}

/* The weight_scale beside a packed tensor, as what trits are multiplied with. */
static bitlm_status read_scale(bl_plan *plan, const shape *s, const bl_st_tensor *t, float *scale) {
    char name[512];
    int length = (int)(strlen(t->name) - strlen("weight"));
    if (snprintf(name, sizeof name, "%.*sweight_scale", length, t->name) >= (int)sizeof name)
        return BL_PLAN_FAIL(plan, BITLM_FORMAT, "the name '%.80s' of a tensor is too long", t->name);
    const bl_st_tensor *v = bl_safetensors_find(plan->st, name);
    if (!v || !is_float(v) || v->bytes != bl_safetensors_dtype_bytes(v->dtype))
        return BL_PLAN_FAIL(plan, BITLM_FORMAT, "tensor '%s' is packed, but its '%s' is not there or not one float", t->name,
                            name);
    float x = v->dtype == BL_ST_F32   ? bl_read_f32(v->data)
              : v->dtype == BL_ST_F16 ? bl_f16_to_f32(bl_read_u16(v->data))
                                      : bl_bf16_to_f32(bl_read_u16(v->data));
    *scale = s->multiply ? x : 1.0f / x;
    if (!isfinite(x) || !isfinite(*scale) || !(x > 0))
        return BL_PLAN_FAIL(plan, BITLM_FORMAT, "tensor '%s' is %g, but a scale must be finite and above 0", name, (double)x);
    return BITLM_OK;
}

/* Fills p from tensor t of the expected shape. */
static bitlm_status place(bl_plan *plan, shape *s, bl_planned *p, const bl_st_tensor *t, uint64_t rows, uint64_t k,
                          int linear) {
    p->st = t;
    p->source_name = t->name;
    p->dims[0] = k;
    p->dims[1] = rows;
    p->n_dims = rows == 1 ? 1 : 2;
    p->type = BL_TYPE_F32;
    if (linear && t->dtype == BL_ST_U8) {
        if (rows % 4 || !has_shape(t, rows / 4, k))
            return bad_shape(plan, t, rows, k);
        p->from = BL_FROM_PACKED;
        p->role = BL_ROLE_LAYER;
        s->packed_seen = 1;
        bitlm_status status = read_scale(plan, s, t, &p->scale);
        return status ? status : bl_plan_choose(plan, p, BL_TYPE_I2_S);
    }
    if (!is_float(t) || !has_shape(t, rows, k))
        return bad_shape(plan, t, rows, k);
    p->from = BL_FROM_FLOATS;
    if (!linear)
        return BITLM_OK;
    p->role = BL_ROLE_LAYER;
    p->master = s->bitnet;
    return bl_plan_choose(plan, p, s->bitnet ? BL_TYPE_I2_S : BL_TYPE_F16);
}

static int ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Tensors that say nothing beyond config.json. */
static int is_ignored(const shape *s, const char *name) {
    return ends_with(name, "rotary_emb.inv_freq") || (s->tied == 1 && strcmp(name, "lm_head.weight") == 0);
}

static bitlm_status plan_in_layer(bl_plan *plan, shape *s, const bl_st_tensor *t, const char *rest, uint64_t layer,
                                  int *known) {
    for (size_t i = 0; i < bl_hf_n_rows; i++) {
        const bl_hf_row *r = &bl_hf_rows[i];
        size_t n = strlen(r->hf);
        if (strncmp(rest, r->hf, n) != 0 || rest[n] != '.' || (r->need == 's' && !is_bitnet_arch(s)) ||
            (r->need == 'q' && strcmp(s->arch, "qwen3") != 0))
            continue;
        int bias = r->kind == 'l' && strcmp(rest + n, ".bias") == 0;
        if (r->kind == 'l' && strcmp(rest + n, ".weight_scale") == 0) {
            *known = 1;
            char name[512];
            snprintf(name, sizeof name, "%.*s", (int)(strlen(t->name) - strlen("_scale")), t->name);
            const bl_st_tensor *w = bl_safetensors_find(plan->st, name);
            if (!w || w->dtype != BL_ST_U8)
                return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "tensor '%s' has no packed weights beside it", t->name);
            return BITLM_OK;
        }
        if (r->kind == 'l' && strcmp(rest + n, ".rms_norm.weight") == 0) { /* use_rms_norm of BitNet layers */
            bl_planned *p = bl_plan_add(plan);
            if (!p)
                return BITLM_NOMEM;
            *known = 1;
            snprintf(p->name, sizeof p->name, "blk.%llu.%s_norm_in.weight", (ull)layer, r->gguf);
            return place(plan, s, p, t, 1, size_of(s, r->k), 0);
        }
        if (!bias && strcmp(rest + n, ".weight") != 0)
            return BITLM_OK;
        bl_planned *p = bl_plan_add(plan);
        if (!p)
            return BITLM_NOMEM;
        *known = 1;
        snprintf(p->name, sizeof p->name, "blk.%llu.%s.%s", (ull)layer, r->gguf, bias ? "bias" : "weight");
        bitlm_status status = bias ? place(plan, s, p, t, 1, size_of(s, r->rows), 0)
                                   : place(plan, s, p, t, size_of(s, r->rows), size_of(s, r->k), r->kind == 'l');
        if (strcmp(s->arch, "llama") == 0 && (strcmp(r->gguf, "attn_q") == 0 || strcmp(r->gguf, "attn_k") == 0)) {
            p->head_dim = s->head_dim;
            if (bias) { /* values are permuted as rows of one */
                p->dims[1] = p->dims[0];
                p->dims[0] = 1;
            }
        }
        return status;
    }
    return BITLM_OK;
}

static bitlm_status plan_tensor(bl_plan *plan, shape *s, const bl_st_tensor *t) {
    const char *name = t->name;
    unsigned long long layer;
    int used = 0, known = 0;
    bitlm_status status = BITLM_OK;
    if (is_ignored(s, name))
        return BITLM_OK;
    if (strncmp(name, "model.", 6) == 0)
        name += 6;
    if (sscanf(name, "layers.%4llu.%n", &layer, &used) == 1 && used && layer < s->layers) {
        status = plan_in_layer(plan, s, t, name + used, layer, &known);
    } else {
        int embedding = strcmp(name, "embed_tokens.weight") == 0, head = strcmp(t->name, "lm_head.weight") == 0;
        if (embedding || head || strcmp(name, "norm.weight") == 0) {
            bl_planned *p = bl_plan_add(plan);
            if (!p)
                return BITLM_NOMEM;
            known = 1;
            strcpy(p->name, embedding ? "token_embd.weight" : head ? "output.weight" : "output_norm.weight");
            status = place(plan, s, p, t, embedding || head ? s->vocab : 1, s->hidden, 0);
            if (!status && (embedding || head)) {
                p->role = BL_ROLE_EMBEDDING;
                status = bl_plan_choose(plan, p, BL_TYPE_F16);
            }
        }
    }
    if (!status && !known)
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "tensor '%s' is not part of architecture %s as bitlm runs it", t->name,
                            s->arch);
    return status;
}

static int planned(const bl_plan *plan, const char *name) {
    for (uint64_t i = 0; i < plan->n; i++)
        if (strcmp(plan->tensors[i].name, name) == 0)
            return 1;
    return 0;
}

static bitlm_status check_complete(bl_plan *plan, const shape *s) {
    char name[80];
    static const char *const outside[] = {"token_embd.weight", "output_norm.weight"};
    for (size_t i = 0; i < BL_COUNT(outside); i++)
        if (!planned(plan, outside[i]))
            return BL_PLAN_FAIL(plan, BITLM_FORMAT, "the folder lacks the tensor model.%s",
                                i ? "norm.weight" : "embed_tokens.weight");
    if (s->tied == 0 && !planned(plan, "output.weight"))
        return BL_PLAN_FAIL(plan, BITLM_FORMAT, "the folder lacks the tensor lm_head.weight, but tie_word_embeddings is false");
    for (uint64_t l = 0; l < s->layers; l++)
        for (size_t i = 0; i < bl_hf_n_rows; i++) {
            const bl_hf_row *r = &bl_hf_rows[i];
            int needed = r->need == 'a' || (r->need == 's' && is_bitnet_arch(s)) ||
                         (r->need == 'q' && strcmp(s->arch, "qwen3") == 0);
            snprintf(name, sizeof name, "blk.%llu.%s.weight", (ull)l, r->gguf);
            if (needed && !planned(plan, name))
                return BL_PLAN_FAIL(plan, BITLM_FORMAT, "the folder lacks the tensor model.layers.%llu.%s.weight", (ull)l,
                                    r->hf);
        }
    return BITLM_OK;
}

static bitlm_status check_twice(bl_plan *plan) {
    for (uint64_t i = 0; i < plan->n; i++)
        for (uint64_t j = 0; j < i && plan->n < 20000; j++)
            if (strcmp(plan->tensors[i].name, plan->tensors[j].name) == 0)
                return BL_PLAN_FAIL(plan, BITLM_FORMAT, "tensors '%s' and '%s' are both %s", plan->tensors[j].source_name,
                                    plan->tensors[i].source_name, plan->tensors[i].name);
    return BITLM_OK;
}

bitlm_status bl_convert_hf(bl_plan *plan, const char *folder) {
    char *text = NULL;
    size_t length;
    json_error_t why;
    json_t *config = NULL;
    shape s = {0};
    bitlm_status status = bl_read_small_file(folder, "config.json", MAX_CONFIG, &plan->alloc, &text, &length, plan->error);
    if (!status && !text)
        status = BL_PLAN_FAIL(plan, BITLM_IO, "the folder has no config.json");
    if (status)
        goto fail;
    config = json_loadb(text, length, 0, &why);
    if (!json_is_object(config)) {
        status = BL_PLAN_FAIL(plan, BITLM_FORMAT, "config.json is no JSON object: %.100s", config ? "" : why.text);
        goto fail;
    }
    s.config = config;
    status = read_shape(plan, &s);
    if (!status)
        status = bl_safetensors_open_folder(folder, &plan->alloc, &plan->st, plan->error);
    if (!status)
        status = write_keys(plan, &s, folder);
    for (uint64_t i = 0; !status && i < bl_safetensors_count(plan->st); i++)
        status = plan_tensor(plan, &s, bl_safetensors_at(plan->st, i));
    if (!status)
        status = check_complete(plan, &s);
    if (!status)
        status = check_twice(plan);
    if (!status)
        status = bl_convert_tokenizer(plan, folder, s.vocab, config);

fail:
    bl_free(&plan->alloc, text);
    json_decref(config);
    return status;
}
