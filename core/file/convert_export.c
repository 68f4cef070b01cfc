/* convert_export.c - a GGUF file as a folder that transformers reads: config.json, model.safetensors, tokenizer.
 *
 * Where every linear layer is trits with one scale, the folder has transformers' packed form (uint8, weight_scale,
 * linear_class autobitlinear: trit * scale), because BitNet's own code would find another scale in the product of the
 * two.  Anything else is written as floats.  All files go into a folder beside the output under a temporary name, which
 * is renamed when they are whole.  Called by convert.c. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file/convert.h"

typedef unsigned long long ull; /* for messages */

#define ROWS_WEIGHTS ((uint64_t)1 << 20)

typedef struct export {
    bl_plan *plan;
    bl_st_writer *st;
    const char *arch;
    int packed;          /* linear layers as packed trits */
    int64_t hidden, layers, ffn, heads, kv_heads, head_dim, context, vocab;
    double eps, theta;
    char folder[PATH_MAX]; /* the temporary one */
} export;

bitlm_status bl_export_file(bl_plan *plan, const char *folder, const char *name, const void *data, size_t size) {
    char path[PATH_MAX], shown[160];
    const uint8_t *p = data;
    bitlm_status status = BITLM_OK;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return bl_error_io(plan->error, ENAMETOOLONG, "cannot write '%s'", name);
    bl_show(shown, sizeof shown, path, strlen(path));
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
    if (fd < 0)
        return bl_error_io(plan->error, errno, "cannot create '%s'", shown);
    while (size > 0 && !status) {
        ssize_t n = write(fd, p, size);
        if (n < 0 && errno != EINTR)
            status = bl_error_io(plan->error, errno, "cannot write '%s'", shown);
        p += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
    if (!status && fsync(fd) != 0)
        status = bl_error_io(plan->error, errno, "cannot write '%s'", shown);
    close(fd);
    return status;
}

bitlm_status bl_export_json(bl_plan *plan, const char *folder, const char *name, void *json) {
    char *text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;
    bitlm_status status = text ? bl_export_file(plan, folder, name, text, strlen(text))
                               : bl_error_nomem(plan->error, 4096, name);
    free(text);
    json_decref(json);
    return status;
}

/* ---- config.json ------------------------------------------------------------------------------------------ */

static bitlm_status want_int(export *e, const char *suffix, int64_t fallback, int64_t *value) {
    char key[120];
    snprintf(key, sizeof key, "%s.%s", e->arch, suffix);
    *value = fallback;
    if (bl_gguf_i64(e->plan->gguf, key, value) < 0 || *value < 1 || *value > 1 << 24)
        return BL_PLAN_FAIL(e->plan, BITLM_FORMAT, "the key %s is missing or no number from 1 to %d", key, 1 << 24);
    return BITLM_OK;
}

static double float_key(const export *e, const char *suffix, double fallback) {
    char key[120];
    snprintf(key, sizeof key, "%s.%s", e->arch, suffix);
    bl_gguf_f64(e->plan->gguf, key, &fallback);
    return fallback;
}

static int text_key(const export *e, const char *suffix, bitlm_text *text) {
    char key[120];
    snprintf(key, sizeof key, "%s.%s", e->arch, suffix);
    return bl_gguf_string(e->plan->gguf, key, text) == 1;
}

static int text_is(bitlm_text t, const char *word) {
    return t.length == strlen(word) && memcmp(t.data, word, t.length) == 0;
}

static int is_bitnet(const export *e) { return strncmp(e->arch, "bitnet", 6) == 0; }

static bitlm_status read_shape(export *e) {
    static const char *const archs[] = {"bitnet", "bitnet-b1.58", "bitnet-25", "llama", "qwen2", "qwen3"};
    bl_plan *plan = e->plan;
    bitlm_text arch = {NULL, 0}, scaling = {"none", 4};
    char shown[48];
    bl_gguf_string(plan->gguf, "general.architecture", &arch);
    for (size_t i = 0; i < BL_COUNT(archs); i++)
        if (text_is(arch, archs[i]))
            e->arch = archs[i];
    if (!e->arch)
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "architecture '%s' cannot be written as a folder: bitnet, llama, qwen2 and "
                            "qwen3 can", bl_show(shown, sizeof shown, arch.data ? arch.data : "", arch.length));
    const bl_tensor *embedding = bl_gguf_tensor(plan->gguf, "token_embd.weight");
    if (!embedding)
        return BL_PLAN_FAIL(plan, BITLM_FORMAT, "the tensor token_embd.weight is missing");
    e->vocab = (int64_t)embedding->dims[1];
    bitlm_status s = want_int(e, "embedding_length", 0, &e->hidden);
    if (!s)
        s = want_int(e, "block_count", 0, &e->layers);
    if (!s)
        s = want_int(e, "feed_forward_length", 0, &e->ffn);
    if (!s)
        s = want_int(e, "attention.head_count", 0, &e->heads);
    if (!s)
        s = want_int(e, "attention.head_count_kv", e->heads, &e->kv_heads);
    if (!s)
        s = want_int(e, "attention.key_length", e->hidden / e->heads, &e->head_dim);
    if (!s)
        s = want_int(e, "context_length", 0, &e->context);
    if (s)
        return s;
    e->eps = float_key(e, "attention.layer_norm_rms_epsilon", 1e-5);
    e->theta = float_key(e, "rope.freq_base", 10000);
    text_key(e, "rope.scaling.type", &scaling);
    if (bl_gguf_tensor(plan->gguf, "rope_freqs.weight") || (!text_is(scaling, "none") && !text_is(scaling, "linear")))
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "the file scales frequencies (%s), which a folder's config.json cannot say",
                            bl_gguf_tensor(plan->gguf, "rope_freqs.weight") ? "rope_freqs.weight" : "rope.scaling");
    return BITLM_OK;
}

/* As core/model decides it (docs/FORMATS.md). */
static const char *activation(const export *e) {
    bitlm_text text = {NULL, 0};
    if (text_key(e, "hidden_activation", &text) || text_key(e, "hidden_act", &text))
        return text_is(text, "relu2") ? "relu2" : "silu";
    if (strcmp(e->arch, "bitnet") == 0) {
        bl_gguf_string(e->plan->gguf, "general.name", &text);
        int named = text.length && (memmem(text.data, text.length, "2B-4T", 5) || memmem(text.data, text.length, "2b-4t", 5));
        return named || (e->hidden == 2560 && e->ffn == 6912 && e->layers == 30) ? "relu2" : "silu";
    }
    return is_bitnet(e) ? "relu2" : "silu";
}

static bitlm_status write_config(export *e) {
    const char *type = is_bitnet(e) ? "bitnet" : e->arch;
    const char *class = is_bitnet(e)                       ? "BitNetForCausalLM"
                        : strcmp(e->arch, "llama") == 0 ? "LlamaForCausalLM"
                        : strcmp(e->arch, "qwen2") == 0 ? "Qwen2ForCausalLM"
                                                         : "Qwen3ForCausalLM";
    bitlm_text scaling = {"none", 4};
    json_t *c = json_pack("{s:s, s:[s], s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:s, s:b}", "model_type", type,
                          "architectures", class, "hidden_size", (json_int_t)e->hidden, "num_hidden_layers",
                          (json_int_t)e->layers, "intermediate_size", (json_int_t)e->ffn, "num_attention_heads",
                          (json_int_t)e->heads, "num_key_value_heads", (json_int_t)e->kv_heads, "head_dim",
                          (json_int_t)e->head_dim, "vocab_size", (json_int_t)e->vocab, "max_position_embeddings",
                          (json_int_t)e->context, "rms_norm_eps", e->eps, "rope_theta", e->theta, "hidden_act",
                          activation(e), "tie_word_embeddings", bl_gguf_tensor(e->plan->gguf, "output.weight") == NULL);
    if (text_key(e, "rope.scaling.type", &scaling) && text_is(scaling, "linear"))
        json_object_set_new(c, "rope_scaling", json_pack("{s:s, s:f}", "rope_type", "linear", "factor",
                                                         float_key(e, "rope.scaling.factor", 1)));
    if (strcmp(e->arch, "qwen2") != 0)
        json_object_set_new(c, "attention_bias", json_boolean(bl_gguf_tensor(e->plan->gguf, "blk.0.attn_q.bias") != NULL));
    if (e->packed)
        json_object_set_new(c, "quantization_config",
                            json_pack("{s:s, s:s, s:s}", "quant_method", "bitnet", "linear_class", "autobitlinear",
                                      "quantization_mode", "offline"));
    return bl_export_json(e->plan, e->folder, "config.json", c);
}

/* ---- tensors ---------------------------------------------------------------------------------------------- */

/* The tensor's name in the folder; 0 if it has none. */
static int hf_name(const export *e, const char *gguf, char *out, size_t cap, const bl_hf_row **row) {
    ull layer;
    int used = 0;
    *row = NULL;
    if (strcmp(gguf, "token_embd.weight") == 0 || strcmp(gguf, "output_norm.weight") == 0 ||
        strcmp(gguf, "output.weight") == 0) {
        snprintf(out, cap, "%s", gguf[0] == 't' ? "model.embed_tokens.weight" : gguf[6] == '_' ? "model.norm.weight" : "lm_head.weight");
        return 1;
    }
    if (sscanf(gguf, "blk.%4llu.%n", &layer, &used) != 1 || !used || layer >= (ull)e->layers)
        return 0;
    for (size_t i = 0; i < bl_hf_n_rows; i++) {
        const bl_hf_row *r = &bl_hf_rows[i];
        size_t n = strlen(r->gguf);
        if (strncmp(gguf + used, r->gguf, n) != 0 || gguf[used + (int)n] != '.')
            continue;
        const char *end = gguf + used + n;
        if (strcmp(end, ".weight") != 0 && (r->kind != 'l' || strcmp(end, ".bias") != 0))
            return 0;
        snprintf(out, cap, "model.layers.%llu.%s%s", layer, r->hf, end);
        *row = r;
        return 1;
    }
    return 0;
}

static bitlm_status plan_tensors(export *e) {
    bl_plan *plan = e->plan;
    char name[160];
    const bl_hf_row *row;
    float scale;
    e->packed = 1;
    for (uint64_t i = 0; i < bl_gguf_n_tensors(plan->gguf); i++) {
        const bl_tensor *t = bl_gguf_tensor_at(plan->gguf, i);
        if (!hf_name(e, t->name, name, sizeof name, &row))
            return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "tensor '%.80s' has no place in a folder of architecture %s", t->name,
                                e->arch);
        bl_planned *p = bl_plan_add(plan);
        if (!p)
            return BITLM_NOMEM;
        p->source_name = t->name;
        p->from = BL_FROM_GGUF;
        p->gguf = t;
        p->n_dims = t->dims[1] == 1 ? 1 : 2;
        memcpy(p->dims, t->dims, sizeof p->dims);
        plan->total += p->dims[0] * p->dims[1];
        int bias = p->n_dims == 1 && row && row->kind == 'l', linear = row && row->kind == 'l' && !bias;
        p->role = linear ? BL_ROLE_LAYER : !row && p->n_dims == 2 ? BL_ROLE_EMBEDDING : BL_ROLE_OTHER;
        if (p->dims[2] * p->dims[3] != 1)
            return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "tensor '%.80s' has more than two dimensions", t->name);
        if (row && strcmp(e->arch, "llama") == 0 &&
            (strcmp(row->gguf, "attn_q") == 0 || strcmp(row->gguf, "attn_k") == 0)) {
            p->head_dim = (uint64_t)e->head_dim;
            p->unpermute = 1;
            if (bias) {
                p->dims[1] = p->dims[0];
                p->dims[0] = 1;
            }
            if (p->dims[1] % p->head_dim || p->head_dim % 2)
                return BL_PLAN_FAIL(plan, BITLM_FORMAT, "tensor '%.80s' has %llu rows, no multiple of the head size %llu", t->name,
                                    (ull)p->dims[1], (ull)p->head_dim);
        }
        if (linear && (!bl_planned_uniform(p, &scale) || p->dims[1] % 4))
            e->packed = 0;
    }
    if (plan->type >= 0)
        e->packed = 0;
    if (is_bitnet(e) && !e->packed)
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "a BitNet model is written in its packed form, which needs layers of trits "
                            "with one scale each (and no option type); convert it to i2_s first");
    return BITLM_OK;
}

/* The float type of what is not packed. */
static int32_t dtype_of(const export *e, const bl_planned *p) {
    int32_t asked = p->role == BL_ROLE_LAYER ? e->plan->type : p->role == BL_ROLE_EMBEDDING ? e->plan->embedding_type : -1;
    int32_t type = asked >= 0 ? asked : p->role == BL_ROLE_OTHER ? BL_TYPE_F32 : p->gguf->type;
    return type == BL_TYPE_F32 ? BL_ST_F32 : type == BL_TYPE_BF16 ? BL_ST_BF16 : BL_ST_F16;
}

static bitlm_status describe(export *e) {
    bl_plan *plan = e->plan;
    char name[200];
    const bl_hf_row *row;
    bitlm_status s = BITLM_OK;
    for (uint64_t i = 0; i < plan->n && !s; i++) {
        const bl_planned *p = &plan->tensors[i];
        hf_name(e, p->source_name, name, sizeof name - 10, &row);
        uint64_t dims[2] = {p->dims[1], p->dims[0]}, one = 1, n = p->dims[0] * p->dims[1];
        if (e->packed && p->role == BL_ROLE_LAYER) {
            dims[0] /= 4;
            s = bl_st_write_tensor(e->st, name, BL_ST_U8, 2, dims);
            strcat(name, "_scale");
            if (!s)
                s = bl_st_write_tensor(e->st, name, BL_ST_F32, 1, &one);
        } else {
            s = p->n_dims == 1 ? bl_st_write_tensor(e->st, name, dtype_of(e, p), 1, &n)
                               : bl_st_write_tensor(e->st, name, dtype_of(e, p), 2, dims);
        }
    }
    return s;
}

static bitlm_status write_packed(export *e, const bl_planned *p, float *x, uint8_t *out) {
    uint64_t k = p->dims[0], quarter = p->dims[1] / 4;
    float scale = 1;
    uint8_t little[4];
    bitlm_status s = BITLM_OK;
    bl_planned_uniform(p, &scale);
    for (uint64_t r = 0; r < quarter && !s; r++) {
        memset(out, 0, (size_t)k);
        for (uint64_t q = 0; q < 4 && !s; q++) {
            s = bl_planned_rows(e->plan, p, r + q * quarter, 1, x);
            for (uint64_t i = 0; i < k; i++)
                out[i] |= (uint8_t)(((x[i] > 0) - (x[i] < 0) + 1) << (2 * q));
        }
        if (!s)
            s = bl_st_write_data(e->st, out, (size_t)k);
        if (!s)
            s = bl_plan_step(e->plan, 4 * k);
    }
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    for (int i = 0; i < 4; i++)
        little[i] = (uint8_t)(bits >> (8 * i));
    bl_planned_drop(e->plan, p, 0, p->dims[1]);
    return s ? s : bl_st_write_data(e->st, little, 4);
}

static bitlm_status write_floats(export *e, const bl_planned *p, uint64_t rows, float *x, uint8_t *out) {
    int32_t dtype = dtype_of(e, p);
    unsigned bytes = bl_safetensors_dtype_bytes(dtype);
    bitlm_status s = BITLM_OK;
    for (uint64_t r = 0; r < p->dims[1] && !s; r += rows) {
        uint64_t n = BL_MIN(rows, p->dims[1] - r), weights = n * p->dims[0];
        s = bl_planned_rows(e->plan, p, r, n, x);
        for (uint64_t i = 0; i < weights && !s; i++) {
            uint32_t v;
            memcpy(&v, &x[i], sizeof v);
            if (dtype == BL_ST_F16) {
                v = bl_f32_to_f16(x[i]);
                if ((v & 0x7c00) == 0x7c00)
                    s = BL_PLAN_FAIL(e->plan, BITLM_ARG, "weight %llu of tensor '%s' is %g, too large for F16; option type f32 "
                                     "or bf16 holds it", (ull)(r * p->dims[0] + i), p->source_name, (double)x[i]);
            } else if (dtype == BL_ST_BF16) {
                v = bl_f32_to_bf16(x[i]);
            }
            for (unsigned b = 0; b < bytes; b++)
                out[i * bytes + b] = (uint8_t)(v >> (8 * b));
        }
        if (!s)
            s = bl_st_write_data(e->st, out, (size_t)weights * bytes);
        bl_planned_drop(e->plan, p, r, n);
        if (!s)
            s = bl_plan_step(e->plan, weights);
    }
    return s;
}

static bitlm_status write_tensors(export *e) {
    bl_plan *plan = e->plan;
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/model.safetensors", e->folder) >= (int)sizeof path)
        return bl_error_io(plan->error, ENAMETOOLONG, "cannot write model.safetensors");
    bitlm_status s = bl_st_writer_begin(path, &plan->alloc, &e->st, plan->error);
    if (!s)
        s = describe(e);
    for (uint64_t i = 0; i < plan->n && !s; i++) {
        const bl_planned *p = &plan->tensors[i];
        uint64_t rows = BL_MAX((uint64_t)1, BL_MIN(p->dims[1], ROWS_WEIGHTS / p->dims[0]));
        float *x = bl_malloc(&plan->alloc, (size_t)(rows * p->dims[0]) * sizeof *x);
        uint8_t *out = bl_malloc(&plan->alloc, (size_t)(rows * p->dims[0]) * 4);
        if (!x || !out)
            s = bl_error_nomem(plan->error, (size_t)(rows * p->dims[0]) * 8, "rows of weights");
        else if (e->packed && p->role == BL_ROLE_LAYER)
            s = write_packed(e, p, x, out);
        else
            s = write_floats(e, p, rows, x, out);
        bl_free(&plan->alloc, x);
        bl_free(&plan->alloc, out);
    }
    if (e->st && (!s || plan->error->status == BITLM_OK)) { /* the writer's own error sticks: finish tells it */
        bitlm_status finished = bl_st_writer_finish(e->st, plan->error);
        e->st = NULL;
        s = s ? s : finished;
    }
    return s;
}

/* ---- the folder -------------------------------------------------------------------------------------------- */

static void remove_folder(const char *folder) {
    static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer.model",
                                        "tokenizer_config.json"};
    char path[PATH_MAX];
    for (size_t i = 0; i < BL_COUNT(files); i++)
        if (snprintf(path, sizeof path, "%s/%s", folder, files[i]) < (int)sizeof path)
            unlink(path);
    rmdir(folder);
}

static void sync_folder(const char *folder) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

bitlm_status bl_convert_export(bl_plan *plan, const char *output) {
    export e = {.plan = plan};
    char shown[160], parent[PATH_MAX];
    struct stat st;
    bl_show(shown, sizeof shown, output, strlen(output));
    if (lstat(output, &st) == 0)
        return bl_error_io(plan->error, EEXIST, "cannot write the folder '%s'", shown);
    bitlm_status s = read_shape(&e);
    if (!s)
        s = plan_tensors(&e);
    if (s)
        return s;
    const char *slash = strrchr(output, '/');
    snprintf(parent, sizeof parent, "%.*s", slash == output ? 1 : slash ? (int)(slash - output) : 1, slash ? output : ".");
    uint64_t salt = (bl_now_ns() * 0x9e3779b97f4a7c15u) ^ ((uint64_t)getpid() << 32);
    if (snprintf(e.folder, sizeof e.folder, "%s/.bitlm-%016llx.tmp", parent, (ull)salt) >= (int)sizeof e.folder ||
        mkdir(e.folder, 0777) != 0)
        return bl_error_io(plan->error, errno, "cannot create a folder beside '%s'", shown);
    s = write_config(&e);
    if (!s)
        s = write_tensors(&e);
    if (!s)
        s = bl_export_tokenizer(plan, e.folder);
    if (!s) {
        sync_folder(e.folder);
        if (rename(e.folder, output) != 0)
            s = bl_error_io(plan->error, errno, "cannot give '%s' its name", shown);
    }
    bl_st_writer_abort(e.st);
    if (s)
        remove_folder(e.folder);
    else
        sync_folder(parent);
    return s;
}
