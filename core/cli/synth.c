/* synth.c - writes a GGUF file of a known shape with random ternary weights.
 *
 * The model is a BitNet b1.58 (ReLU², sub-norms, tied embedding), or a Qwen3 mixture of experts, with trits of one
 * third each and the scale that keeps activations at unit size; embeddings and
 * norms are normal deviates.  Random numbers come from a counter (core/base/rng.h)
 * through integer arithmetic, so a seed names the same bytes on every machine, and
 * panels of rows are made and written one after the other, so that memory does not
 * grow with the model.  The vocabulary is made for trying things out: letters,
 * English words, bytes for the rest, ChatML marks; fillers up to the shape's size.
 * Called by `bitlm synth` and the tests. */
#include "cli/synth.h"

#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "file/gguf.h"
#include "model/shapes.h"
#include "quant/quant.h"

#define PANEL 262144 /* weights made between two polls: about 1 ms */

/* 3^8: eight trits are looked up at once, 16 random bits choosing among them. */
#define EIGHTS 6561

typedef struct synth {
    const char *architecture;
    uint32_t context_length;
    const bl_shape *shape;
    int32_t type, embd_type;
    uint64_t seed;
    bl_alloc alloc;
    bl_poll *poll;
    void (*progress)(void *context, double fraction);
    void *context;
    bitlm_error *error;
    bl_gguf_writer *writer;
    int writer_failed;    /* the sentence is the writer's, and comes out of finish */
    uint64_t tensor;      /* number of the tensor being made: its stream of random numbers */
    uint64_t done, total; /* weights, for progress */
    int8_t (*eights)[8];  /* EIGHTS */
    int8_t *trits;        /* PANEL */
    float *values;        /* PANEL */
    uint8_t *packed;      /* PANEL * 4 + 32 */
} synth;

/* ---- the vocabulary ------------------------------------------------------------------ */

#define SPACE "\xe2\x96\x81" /* U+2581, SentencePiece's space */

/* SentencePiece joins pairs whose whole is a piece, best score first.  Every beginning of a
 * word is a piece and better than any pair of letters, so these words form from the left. */
static const char words[] =
    "the of and to in is it you that he was for on are with as his they be at one have this from or had "
    "by not but what some we can out other were all there when up use your how said an each she which "
    "do their time if will way about many then them write would like so these her long make thing see "
    "him two has look more day could go come did number sound no most people my over know water than "
    "call first who may down side been now find any new work part take get place made live where after "
    "back little only round man year came show every good me give our under name very through just form "
    "sentence great think say help low line differ turn cause much mean before move right boy old too "
    "same tell does set three want air well also play small end put home read hand port large spell add "
    "even land here must big high such follow act why ask men change went light kind off need house "
    "picture try us again animal point mother world near build self earth father head stand own page "
    "should country found answer school grow study still learn plant cover food sun four between state "
    "keep eye never last let thought city tree cross farm hard start might story saw far sea draw left "
    "late run while press close night real life few north once upon hello model data text table query";
static const char pairs[] =
    "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me "
    "de hi ri ro ic ne ea ra ce li ch ll be ma si om ur ca el ta la ns ge di fo ho pe ec pr no ct us ac "
    "ot il tr ly nc et ut ss so rs un lo wa em wi ai ad ol ow im ul ee mo oo pl sh ck gh ke ay ing ion "
    "ent ter ere est all";

static const char chat_template[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% endif %}";

#define TOKEN_NORMAL 1
#define TOKEN_UNKNOWN 2
#define TOKEN_CONTROL 3
#define TOKEN_UNUSED 5
#define TOKEN_BYTE 6
#define TOKEN_ROOM 32 /* bytes of text a token takes at most, NUL included */

typedef struct vocabulary {
    uint32_t n, limit, first_piece;
    bitlm_text *texts;
    float *scores;
    int32_t *kinds;
    char *room; /* TOKEN_ROOM bytes a token */
} vocabulary;

static void add_token(vocabulary *v, const char *text, size_t length, int32_t kind) {
    if (v->n >= v->limit || length >= TOKEN_ROOM)
        return;
    for (uint32_t i = v->first_piece; kind == TOKEN_NORMAL && i < v->n; i++)
        if (v->texts[i].length == length && memcmp(v->texts[i].data, text, length) == 0)
            return;
    char *copy = v->room + (size_t)v->n * TOKEN_ROOM;
    memcpy(copy, text, length);
    v->texts[v->n].data = copy;
    v->texts[v->n].length = length;
    v->kinds[v->n] = kind;
    v->scores[v->n] = kind == TOKEN_UNUSED ? -1e6f : 0;
    if (kind == TOKEN_NORMAL)
        v->scores[v->n] = -(float)(v->n - v->first_piece);
    v->n++;
}

static void add_words(vocabulary *v, uint32_t most) {
    char piece[TOKEN_ROOM] = SPACE;
    for (const char *p = words; *p != '\0' && v->n < most;) {
        size_t length = strcspn(p, " ");
        memcpy(piece + 3, p, length);
        for (size_t i = 1; i <= length && v->n < most; i++)
            add_token(v, piece, 3 + i, TOKEN_NORMAL);
        p += length + (p[length] == ' ');
    }
}

static void fill_vocabulary(vocabulary *v, uint32_t size) {
    char text[TOKEN_ROOM];
    v->limit = size - 2; /* the ChatML marks come last */
    v->first_piece = UINT32_MAX;
    add_token(v, "<unk>", 5, TOKEN_UNKNOWN);
    add_token(v, "<s>", 3, TOKEN_CONTROL);
    add_token(v, "</s>", 4, TOKEN_CONTROL);
    for (int byte = 0; byte < 256; byte++)
        add_token(v, text, (size_t)snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte), TOKEN_BYTE);
    v->first_piece = v->n;
    /* Words leave a third of a small vocabulary to letters and pairs. */
    uint32_t letters = 1 + 1 + 94;
    add_words(v, v->n + (v->limit - v->n - letters) * 2 / 3);
    for (const char *p = pairs; *p != '\0';) {
        size_t length = strcspn(p, " ");
        if (v->n + letters < v->limit)
            add_token(v, p, length, TOKEN_NORMAL);
        p += length + (p[length] == ' ');
    }
    add_token(v, SPACE, 3, TOKEN_NORMAL);
    add_token(v, "\n", 1, TOKEN_NORMAL);
    for (char c = '!'; c <= '~'; c++)
        add_token(v, &c, 1, TOKEN_NORMAL);
    for (uint32_t i = 0; v->n < v->limit; i++)
        add_token(v, text, (size_t)snprintf(text, sizeof text, "<unused%u>", (unsigned)i), TOKEN_UNUSED);
    v->limit = size;
    add_token(v, "<|im_start|>", 12, TOKEN_CONTROL);
    add_token(v, "<|im_end|>", 10, TOKEN_CONTROL);
}

static bitlm_status write_vocabulary(synth *s) {
    bl_gguf_writer *w = s->writer;
    uint32_t size = s->shape->vocab;
    size_t each = sizeof(bitlm_text) + sizeof(float) + sizeof(int32_t) + TOKEN_ROOM;
    vocabulary v = {0};
    v.texts = bl_calloc(&s->alloc, size, each);
    if (v.texts == NULL)
        return bl_error_nomem(s->error, size * each, "a vocabulary");
    v.scores = (float *)(v.texts + size);
    v.kinds = (int32_t *)(v.scores + size);
    v.room = (char *)(v.kinds + size);
    fill_vocabulary(&v, size);
    bl_gguf_write_string(w, "tokenizer.ggml.model", "llama", 5);
    bl_gguf_write_string(w, "tokenizer.ggml.pre", "default", 7);
    bl_gguf_write_strings(w, "tokenizer.ggml.tokens", v.texts, size);
    bl_gguf_write_f32s(w, "tokenizer.ggml.scores", v.scores, size);
    bl_gguf_write_i32s(w, "tokenizer.ggml.token_type", v.kinds, size);
    bl_gguf_write_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    bl_gguf_write_u32(w, "tokenizer.ggml.bos_token_id", 1);
    bl_gguf_write_u32(w, "tokenizer.ggml.eos_token_id", 2);
    bl_gguf_write_u32(w, "tokenizer.ggml.eot_token_id", size - 1);
    bl_gguf_write_bool(w, "tokenizer.ggml.add_bos_token", 1);
    bl_gguf_write_bool(w, "tokenizer.ggml.add_eos_token", 0);
    bl_gguf_write_bool(w, "tokenizer.ggml.add_space_prefix", 1);
    bl_gguf_write_string(w, "tokenizer.chat_template", chat_template, sizeof chat_template - 1);
    bl_free(&s->alloc, v.texts);
    return BITLM_OK; /* the writer keeps its own errors to the end */
}

/* ---- keys ---------------------------------------------------------------------------- */

/* "bitnet-b1.58.block_count" of "block_count". */
static const char *key(const synth *s, const char *suffix, char out[80]) {
    snprintf(out, 80, "%s.%s", s->architecture, suffix);
    return out;
}

static void write_keys(synth *s) {
    char name[96], k[80];
    bl_gguf_writer *w = s->writer;
    const bl_shape *h = s->shape;
    const char *type = bl_tensor_type_find(s->type)->name, *embd = bl_tensor_type_find(s->embd_type)->name;
    static const struct {
        int32_t type;
        uint32_t file_type;
    } file_types[] = {{BL_TYPE_F32, 0},    {BL_TYPE_F16, 1},    {BL_TYPE_Q8_0, 7}, {BL_TYPE_BF16, 32},
                      {BL_TYPE_TQ1_0, 36}, {BL_TYPE_TQ2_0, 37}, {BL_TYPE_I2_S, 40}};
    int n = snprintf(name, sizeof name, "synthetic-%s-%s-%s", h->name, type, embd);
    bl_gguf_write_string(w, "general.architecture", s->architecture, strlen(s->architecture));
    bl_gguf_write_string(w, "general.name", name, (size_t)n);
    for (size_t i = 0; i < BL_COUNT(file_types); i++)
        if (file_types[i].type == s->type)
            bl_gguf_write_u32(w, "general.file_type", file_types[i].file_type);
    bl_gguf_write_u32(w, key(s, "vocab_size", k), h->vocab);
    bl_gguf_write_u32(w, key(s, "context_length", k), s->context_length);
    bl_gguf_write_u32(w, key(s, "embedding_length", k), h->hidden);
    bl_gguf_write_u32(w, key(s, "block_count", k), h->layers);
    bl_gguf_write_u32(w, key(s, "feed_forward_length", k), h->ffn);
    bl_gguf_write_u32(w, key(s, "rope.dimension_count", k), h->hidden / h->heads);
    bl_gguf_write_u32(w, key(s, "attention.head_count", k), h->heads);
    bl_gguf_write_u32(w, key(s, "attention.head_count_kv", k), h->kv_heads);
    bl_gguf_write_f32(w, key(s, "attention.layer_norm_rms_epsilon", k), 1e-5f);
    bl_gguf_write_f32(w, key(s, "rope.freq_base", k), h->theta);
    if (h->experts) {
        bl_gguf_write_u32(w, key(s, "expert_count", k), h->experts);
        bl_gguf_write_u32(w, key(s, "expert_used_count", k), h->used);
        bl_gguf_write_u32(w, key(s, "expert_feed_forward_length", k), h->ffn);
    } else {
        bl_gguf_write_string(w, key(s, "hidden_activation", k), "relu2", 5);
    }
}

/* ---- numbers --------------------------------------------------------------------------- */

static void make_eights(int8_t (*eights)[8]) {
    for (int v = 0; v < EIGHTS; v++)
        for (int i = 0, rest = v; i < 8; i++, rest /= 3)
            eights[v][i] = (int8_t)(rest % 3 - 1);
}

/* Weights first .. first + n - 1 of the current tensor; both are multiples of 32.  Sixteen
 * bits times 3^8, cut to 16 bits: each eight has 9 or 10 of the 65,536 chances. */
static void make_trits(const synth *s, uint64_t first, uint64_t n, int8_t *trits) {
    for (uint64_t i = 0; i < n; i += 32) {
        uint64_t bits = bl_rng_u64(s->seed, s->tensor, (first + i) / 32);
        for (int j = 0; j < 4; j++, bits >>= 16)
            memcpy(trits + i + 8 * j, s->eights[(bits & 0xffff) * EIGHTS >> 16], 8);
    }
}

/* The sum of twelve 16-bit uniform numbers: normal to the eye, within six deviations, exact in
 * float32 and the same everywhere, which a logarithm would not be. */
static float normal(const synth *s, uint64_t i) {
    const uint64_t even = 0x0000ffff0000ffffu;
    uint64_t sums = 0;
    for (uint64_t j = 0; j < 3; j++) {
        uint64_t bits = bl_rng_u64(s->seed, s->tensor, 3 * i + j);
        sums += (bits & even) + (bits >> 16 & even);
    }
    int32_t sum = (int32_t)((sums & 0xffffffff) + (sums >> 32));
    return (float)(sum - 12 * 65535 / 2) * 0x1p-16f;
}

/* ---- tensors ------------------------------------------------------------------------------ */

#define FILL_NORM 0  /* 1 + 0.1 normal */
#define FILL_EMBED 1 /* normal; trits for a ternary type */
#define FILL_TRITS 2
#define FILL_ROUTER 3 /* normal, scaled as trits are */

typedef struct tensor {
    char name[40];
    int32_t type;
    int fill;
    uint64_t rows, k; /* rows: of all experts */
    uint64_t experts; /* 1: a matrix */
} tensor;

static const struct {
    const char *name;
    int fill;
    uint8_t rows, k;  /* which dimension: 'h'idden, 'f'fn, 'k'v, h'd' of a head, 'e'xperts, '1' */
    uint8_t of;       /* 'd'ense models, 'e'xperts, or both */
    uint8_t stacked;  /* one for each expert */
} layer_tensors[] = {
    {"attn_norm", FILL_NORM, '1', 'h', 0, 0},        {"attn_sub_norm", FILL_NORM, '1', 'h', 'd', 0},
    {"ffn_norm", FILL_NORM, '1', 'h', 0, 0},         {"ffn_sub_norm", FILL_NORM, '1', 'f', 'd', 0},
    {"attn_q", FILL_TRITS, 'h', 'h', 0, 0},          {"attn_k", FILL_TRITS, 'k', 'h', 0, 0},
    {"attn_v", FILL_TRITS, 'k', 'h', 0, 0},          {"attn_output", FILL_TRITS, 'h', 'h', 0, 0},
    {"ffn_gate", FILL_TRITS, 'f', 'h', 'd', 0},      {"ffn_up", FILL_TRITS, 'f', 'h', 'd', 0},
    {"ffn_down", FILL_TRITS, 'h', 'f', 'd', 0},      {"attn_q_norm", FILL_NORM, '1', 'd', 'e', 0},
    {"attn_k_norm", FILL_NORM, '1', 'd', 'e', 0},    {"ffn_gate_inp", FILL_ROUTER, 'e', 'h', 'e', 0},
    {"ffn_gate_exps", FILL_TRITS, 'f', 'h', 'e', 1}, {"ffn_up_exps", FILL_TRITS, 'f', 'h', 'e', 1},
    {"ffn_down_exps", FILL_TRITS, 'h', 'f', 'e', 1},
};

static uint64_t dimension(const bl_shape *h, int which) {
    switch (which) {
    case 'h':
        return h->hidden;
    case 'f':
        return h->ffn;
    case 'k':
        return h->hidden / h->heads * h->kv_heads;
    case 'd':
        return h->hidden / h->heads;
    case 'e':
        return h->experts;
    default:
        return 1;
    }
}

static int belongs(const bl_shape *h, size_t i) {
    return layer_tensors[i].of == 0 || layer_tensors[i].of == (h->experts ? 'e' : 'd');
}

static uint64_t tensors_a_layer(const bl_shape *h) {
    uint64_t n = 0;
    for (size_t i = 0; i < BL_COUNT(layer_tensors); i++)
        n += (uint64_t)belongs(h, i);
    return n;
}

static uint64_t n_tensors(const bl_shape *h) {
    return 2 + h->layers * tensors_a_layer(h);
}

static tensor tensor_at(const synth *s, uint64_t i) {
    const bl_shape *h = s->shape;
    tensor t = {"token_embd.weight", s->embd_type, FILL_EMBED, h->vocab, h->hidden, 1};
    if (i == 1)
        t = (tensor){"output_norm.weight", BL_TYPE_F32, FILL_NORM, 1, h->hidden, 1};
    if (i < 2)
        return t;
    uint64_t a_layer = tensors_a_layer(h), left = (i - 2) % a_layer;
    size_t which = 0;
    while (!belongs(h, which) || left-- > 0)
        which++;
    snprintf(t.name, sizeof t.name, "blk.%u.%s.weight", (unsigned)((i - 2) / a_layer), layer_tensors[which].name);
    t.fill = layer_tensors[which].fill;
    t.type = t.fill == FILL_TRITS ? s->type : BL_TYPE_F32;
    t.experts = layer_tensors[which].stacked ? h->experts : 1;
    t.rows = dimension(h, layer_tensors[which].rows) * t.experts;
    t.k = dimension(h, layer_tensors[which].k);
    return t;
}

static int packs_trits(int32_t type) {
    return type == BL_TYPE_TQ1_0 || type == BL_TYPE_TQ2_0 || type == BL_TYPE_I2_S;
}

/* 1/sqrt(2k/3), as a half float: with trits of one third each the outputs of a layer are of
 * the size of its inputs.  Newton's iteration: no libm, so the same bits everywhere. */
static float trit_scale(uint64_t k) {
    double x = 0.67 * (double)k, root = x;
    for (int i = 0; i < 60; i++)
        root = 0.5 * (root + x / root);
    return bl_f16_to_f32(bl_f32_to_f16((float)(1 / root)));
}

/* Weights first .. first + n - 1 as float32 in s->values. */
static void make_values(synth *s, const tensor *t, uint64_t first, uint64_t n, float scale) {
    if (t->fill == FILL_TRITS)
        make_trits(s, first, n, s->trits);
    for (uint64_t i = 0; i < n; i++) {
        if (t->fill == FILL_TRITS) {
            int trit = s->trits[i];
            if (trit == 0 && t->type == BL_TYPE_Q1_0) /* a type without zero: either sign */
                trit = i & 1 ? 1 : -1;
            s->values[i] = scale * (float)trit;
        } else {
            float x = normal(s, first + i);
            s->values[i] = t->fill == FILL_NORM ? 1.0f + 0.1f * x : x * scale;
        }
    }
}

static bitlm_status write_tensor(synth *s, const tensor *t) {
    int ok, trits = packs_trits(t->type);
    const bl_tensor_type *type = bl_tensor_type_find(t->type);
    float scale = t->fill == FILL_TRITS || t->fill == FILL_ROUTER ? trit_scale(t->k) : 1.0f;
    uint64_t panel = BL_MAX(PANEL / t->k, 1), size = 0;
    bitlm_status status = BITLM_OK;
    for (uint64_t row = 0; row < t->rows && status == BITLM_OK; row += panel) {
        uint64_t rows = BL_MIN(panel, t->rows - row), n = rows * t->k, first = row * t->k;
        if (bl_poll_check(s->poll) != BITLM_OK)
            return bl_poll_error(s->poll, s->error);
        size = bl_tensor_bytes(type, t->k, rows, &ok);
        if (trits) {
            make_trits(s, first, n, s->trits);
            status = bl_pack_trits(t->type, s->trits, rows, t->k, scale, s->packed, s->error);
        } else {
            make_values(s, t, first, n, scale);
            status = bl_encode(t->type, s->values, rows, t->k, 0, s->packed, s->error);
        }
        if (status != BITLM_OK)
            return status;
        if (t->type == BL_TYPE_I2_S && row + rows < t->rows)
            size -= 32; /* the scale stands once, behind the last panel */
        status = bl_gguf_write_data(s->writer, s->packed, (size_t)size);
        s->writer_failed = status != BITLM_OK;
        s->done += n;
        if (s->progress != NULL)
            s->progress(s->context, (double)s->done / (double)s->total);
    }
    return status;
}

static bitlm_status write_model(synth *s) {
    uint64_t n = n_tensors(s->shape);
    bitlm_status status;
    write_keys(s);
    status = write_vocabulary(s);
    if (status != BITLM_OK)
        return status;
    for (uint64_t i = 0; i < n; i++) {
        tensor t = tensor_at(s, i);
        uint64_t dims[3] = {t.k, t.rows / t.experts, t.experts};
        bl_gguf_write_tensor(s->writer, t.name, t.type, t.fill == FILL_NORM ? 1 : t.experts > 1 ? 3 : 2, dims);
        s->total += t.k * t.rows;
    }
    for (uint64_t i = 0; i < n && status == BITLM_OK; i++) {
        tensor t = tensor_at(s, i);
        s->tensor = i + 1;
        status = write_tensor(s, &t);
    }
    return status;
}

/* ---- the call -------------------------------------------------------------------------------- */

static bitlm_status check_type(int32_t type, const char *what, bitlm_error *error) {
    const bl_tensor_type *t = bl_tensor_type_find(type);
    if (bl_can_encode(type))
        return BITLM_OK;
    if (t == NULL)
        return bl_error(error, BITLM_ARG, "%s type %d is unknown", what, (int)type);
    return bl_error(error, BITLM_ARG,
                    "%s type %s is not one that bitlm writes: F32, F16, BF16, Q8_0, TQ1_0, TQ2_0, I2_S, Q1_0",
                    what, t->name);
}

bitlm_status bl_synth(const bl_synth_spec *spec, const char *path, const bl_alloc *alloc, bl_poll *poll,
                      void (*progress)(void *context, double fraction), void *context, bitlm_error *error) {
    char shown[40];
    synth s = {.type = spec->type,
               .embd_type = spec->embd_type < 0 ? BL_TYPE_F16 : spec->embd_type,
               .seed = spec->seed,
               .poll = poll,
               .progress = progress,
               .context = context,
               .error = error};
    bitlm_status status = s.type < 0 ? BITLM_OK : check_type(s.type, "the weights'", error);
    if (status == BITLM_OK)
        status = check_type(s.embd_type, "the embedding's", error);
    if (status != BITLM_OK)
        return status;
    s.shape = bl_shape_named(spec->shape);
    if (s.shape == NULL)
        return bl_error(error, BITLM_ARG, "the shape '%s' is unknown; there are %s",
                        bl_show(shown, sizeof shown, spec->shape, strlen(spec->shape)), bl_shape_names());
    if (s.type < 0)
        s.type = s.shape->experts ? BL_TYPE_TQ2_0 : BL_TYPE_I2_S;
    if (s.shape->experts && s.type == BL_TYPE_I2_S)
        return bl_error(error, BITLM_ARG, "I2_S has one scale for a whole tensor, which experts cannot share; TQ2_0 works");
    s.context_length = spec->context ? spec->context : s.shape->context;
    s.architecture = s.shape->experts ? "qwen3moe" : spec->architecture ? spec->architecture : "bitnet-b1.58";
    if (strcmp(s.architecture, "bitnet") != 0 && strcmp(s.architecture, "bitnet-b1.58") != 0 && !s.shape->experts)
        return bl_error(error, BITLM_ARG, "the architecture '%s' is not one that bitlm writes: bitnet-b1.58, bitnet",
                        bl_show(shown, sizeof shown, s.architecture, strlen(s.architecture)));
    if (s.shape->experts && spec->architecture)
        return bl_error(error, BITLM_ARG, "a mixture of experts is of architecture qwen3moe, not '%s'",
                        bl_show(shown, sizeof shown, spec->architecture, strlen(spec->architecture)));
    s.alloc = alloc != NULL ? *alloc : bl_alloc_from_host(NULL);

    size_t eights = (size_t)EIGHTS * 8, whole = eights + PANEL + PANEL * sizeof(float) + PANEL * 4 + 64;
    s.values = bl_malloc(&s.alloc, whole);
    if (s.values == NULL)
        return bl_error_nomem(error, whole, "a panel of weights");
    s.packed = (uint8_t *)(s.values + PANEL);
    s.trits = (int8_t *)(s.packed + PANEL * 4 + 64);
    s.eights = (int8_t(*)[8])(s.trits + PANEL);
    make_eights(s.eights);
    status = bl_gguf_writer_begin(path, &s.alloc, &s.writer, error);
    if (status != BITLM_OK)
        goto fail;
    status = write_model(&s);
    if (status == BITLM_OK || s.writer_failed)
        status = bl_gguf_writer_finish(s.writer, error);
    else
        bl_gguf_writer_abort(s.writer);

fail:
    bl_free(&s.alloc, s.values);
    return status;
}
