/* model_hash.c - model_id: 128 bits over everything that decides a model's answers.
 *
 * Ternary tensors enter as their codes in plain order (2 bits each) and their scales, so the same
 * weights in another packed layout keep their id; all other tensors enter as they stand.  Of the
 * metadata, the shape, the tokenizer and the chosen activation enter, names and descriptions do
 * not.  XXH3 (xxhash) names content; it does not guard against forgery.  Called by registry.c.
 *
 * A converted file tells its id in a key (BL_ID_KEY), which does not enter the hash, so that nobody has to read the
 * whole file for it: convert.c writes it, registry.c believes it, `bitlm info --verify` checks it. */
#define XXH_INLINE_ALL
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "model/model.h"

#define ROWS_PER_POLL 64

typedef struct hasher {
    XXH3_state_t *state;
    const bitlm_model *m;
    bl_poll *poll;
    uint8_t *codes, *packed;   /* one row */
} hasher;

static void add_bytes(hasher *h, const void *data, size_t n) { XXH3_128bits_update(h->state, data, n); }

static void add_u64(hasher *h, uint64_t v) {
    uint8_t b[8];
    for (int i = 0; i < 8; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    add_bytes(h, b, sizeof b);
}

static void add_text(hasher *h, const char *data, size_t n) {
    add_u64(h, n);
    add_bytes(h, data, n);
}

static void add_f32(hasher *h, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    add_u64(h, bits);
}

static void read_past(const hasher *h, const uint8_t *data, size_t n) {
    if (h->m->passing)
        bl_mapping_drop(&h->m->mapping, data, n);
}

/* Codes of one row, four in a byte. */
static void add_codes(hasher *h, int32_t type, const uint8_t *row, int64_t k) {
    bl_unpack_codes(type, row, k, h->codes);
    for (int64_t i = 0; i < k / 4; i++) {
        const uint8_t *c = h->codes + 4 * i;
        h->packed[i] = (uint8_t)(c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6);
    }
    add_bytes(h, h->packed, (size_t)(k / 4));
}

static bitlm_status add_ternary(hasher *h, const bl_tensor *t) {
    const bl_tensor_type *type = bl_tensor_type_find(t->type);
    int64_t k = (int64_t)t->dims[0], n = (int64_t)(t->dims[1] * t->dims[2]), row_bytes = bl_row_bytes(t->type, k);
    int tail = t->type == BL_TYPE_I2_S; /* one scale behind the codes, else one a block */
    float last = 0.0f;
    for (int64_t r = 0; r < n; r++) {
        const uint8_t *row = t->data + r * row_bytes;
        if (r % ROWS_PER_POLL == 0 && r) {
            if (bl_poll_check(h->poll))
                return h->poll->status;
            read_past(h, row - ROWS_PER_POLL * row_bytes, (size_t)(ROWS_PER_POLL * row_bytes));
        }
        add_codes(h, t->type, row, k);
        for (int64_t b = 0; b < k / type->block && !tail; b++) {
            const uint8_t *d = row + (b + 1) * type->block_bytes - 2;
            float scale = bl_f16_to_f32(bl_read_u16(d));
            if ((r == 0 && b == 0) || scale != last) { /* a run of equal scales counts once */
                add_u64(h, (uint64_t)(r * (k / type->block) + b));
                add_f32(h, scale);
            }
            last = scale;
        }
    }
    if (tail) {
        add_u64(h, 0);
        add_f32(h, bl_read_f32(t->data + k * n / 4));
    }
    return BITLM_OK;
}

/* Types that hold plain two-bit or base-3 ternary codes with d at the block's end, or I2_S. */
static int canonical(const bl_tensor *t) {
    return t->type == BL_TYPE_TQ1_0 || t->type == BL_TYPE_TQ2_0 ||
           (t->type == BL_TYPE_I2_S && t->dims[0] % 128 == 0);
}

static bitlm_status add_raw(hasher *h, const bl_tensor *t) {
    const uint64_t step = 4 << 20;
    add_u64(h, (uint64_t)t->type);
    for (uint64_t at = 0; at < t->bytes; at += step) {
        if (bl_poll_check(h->poll))
            return h->poll->status;
        add_bytes(h, t->data + at, (size_t)BL_MIN(step, t->bytes - at));
        read_past(h, t->data + at, (size_t)BL_MIN(step, t->bytes - at));
    }
    return BITLM_OK;
}

/* g: the model's file, with its arrays. */
static void add_tokenizer(hasher *h, const bl_gguf *g) {
    static const char *const ints[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.eot_token_id", "tokenizer.ggml.unknown_token_id",
                                       "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token",
                                       "tokenizer.ggml.add_space_prefix"};
    static const char *const texts[] = {"tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template"};
    static const char *const lists[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"};
    uint64_t n;
    for (size_t i = 0; i < BL_COUNT(ints); i++) {
        int64_t v = -1;
        int flag;
        if (bl_gguf_i64(g, ints[i], &v) != 1 && bl_gguf_bool(g, ints[i], &flag) == 1)
            v = flag;
        add_u64(h, (uint64_t)v);
    }
    for (size_t i = 0; i < BL_COUNT(texts); i++) {
        bitlm_text t = {"", 0};
        bl_gguf_string(g, texts[i], &t);
        add_text(h, t.data, t.length);
    }
    for (size_t i = 0; i < BL_COUNT(lists); i++) {
        const bitlm_text *t = bl_gguf_strings(g, lists[i], &n);
        for (uint64_t j = 0; t && j < n; j++)
            add_text(h, t[j].data, t[j].length);
    }
    const float *scores = bl_gguf_floats(g, "tokenizer.ggml.scores", &n);
    for (uint64_t j = 0; scores && j < n; j++)
        add_f32(h, scores[j]);
    const int32_t *types = bl_gguf_ints(g, "tokenizer.ggml.token_type", &n);
    for (uint64_t j = 0; types && j < n; j++)
        add_u64(h, (uint64_t)types[j]);
}

static void add_shape(hasher *h) {
    const bitlm_model *m = h->m;
    const int64_t shape[] = {m->vocab_size, m->context_length, m->hidden_size, m->n_layers, m->n_heads,
                             m->n_kv_heads, m->head_dim, m->ffn_size, m->n_rot, m->embedding_size, m->causal,
                             m->pool, m->activation};
    add_text(h, m->arch->name, strlen(m->arch->name));
    for (size_t i = 0; i < BL_COUNT(shape); i++)
        add_u64(h, (uint64_t)shape[i]);
    add_f32(h, m->norm_eps);
    if (m->n_experts) {
        add_u64(h, (uint64_t)m->n_experts_used);
        add_u64(h, (uint64_t)m->expert_norm);
        add_f32(h, m->expert_scale);
    }
    if (m->rope_scale != 1.0)
        add_f32(h, (float)m->rope_scale);
    for (int64_t i = 0; i < m->n_rot / 2; i++) {
        uint64_t bits;
        memcpy(&bits, &m->rope_freq[i], sizeof bits);
        add_u64(h, bits);
    }
}

bitlm_status bl_model_hash(const bitlm_model *m, bl_poll *poll, uint8_t id[16], bitlm_error *error) {
    hasher h = {.m = m, .poll = poll};
    bl_alloc alloc = bl_alloc_from_host(NULL); /* the model's own may belong to another thread */
    uint64_t widest = 0;
    bl_gguf *whole = NULL;
    for (uint64_t i = 0; i < bl_gguf_n_tensors(m->gguf); i++)
        widest = BL_MAX(widest, bl_gguf_tensor_at(m->gguf, i)->dims[0]);
    size_t size = sizeof(XXH3_state_t) + 64 + (size_t)widest * 2;
    uint8_t *memory = bl_malloc(&alloc, size);
    if (!memory)
        return bl_error_nomem(error, size, "the model's id");
    bitlm_status status = bl_gguf_open(m->mapping.data, m->mapping.size, &alloc, &whole, error);
    if (status) {
        bl_free(&alloc, memory);
        return status;
    }
    h.state = (XXH3_state_t *)(void *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    h.codes = (uint8_t *)h.state + sizeof(XXH3_state_t);
    h.packed = h.codes + widest;
    XXH3_128bits_reset(h.state);
    add_u64(&h, BITLM_NUMERICS);
    add_shape(&h);
    add_tokenizer(&h, whole);
    bl_gguf_free(whole);
    for (uint64_t i = 0; i < bl_gguf_n_tensors(m->gguf) && !status; i++) {
        const bl_tensor *t = bl_gguf_tensor_at(m->gguf, i);
        add_text(&h, t->name, strlen(t->name));
        for (int d = 0; d < 4; d++)
            add_u64(&h, t->dims[d]);
        status = canonical(t) ? add_ternary(&h, t) : add_raw(&h, t);
    }
    if (!status) {
        XXH128_canonical_t c;
        XXH128_canonicalFromHash(&c, XXH3_128bits_digest(h.state));
        memcpy(id, c.digest, 16);
    } else {
        bl_poll_error(poll, error);
    }
    bl_free(&alloc, memory);
    return status;
}

/* What stands behind the digits: numerics and activation, padded. */
static void id_tail(const bitlm_model *m, char tail[BL_ID_KEY_BYTES - 32 + 1]) {
    char words[BL_ID_KEY_BYTES - 32 + 1];
    snprintf(words, sizeof words, " %d %s", BITLM_NUMERICS, m->activation == BITLM_ACT_RELU2 ? "relu2" : "silu");
    snprintf(tail, BL_ID_KEY_BYTES - 32 + 1, "%-*s", BL_ID_KEY_BYTES - 32, words);
}

void bl_model_id_text(const bitlm_model *m, const uint8_t id[16], char text[BL_ID_KEY_BYTES + 1]) {
    for (int i = 0; i < 16; i++)
        snprintf(text + 2 * i, 3, "%02x", id[i]);
    id_tail(m, text + 32);
}

static int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

int bl_model_stored_id(const bitlm_model *m, uint8_t id[16]) {
    char tail[BL_ID_KEY_BYTES - 32 + 1];
    uint8_t read[16];
    bitlm_text text;
    if (bl_gguf_string(m->gguf, BL_ID_KEY, &text) != 1 || text.length != BL_ID_KEY_BYTES)
        return 0;
    for (int i = 0; i < 16; i++) {
        int high = hex_digit(text.data[2 * i]), low = hex_digit(text.data[2 * i + 1]);
        if (high < 0 || low < 0)
            return 0;
        read[i] = (uint8_t)(high << 4 | low);
    }
    id_tail(m, tail);
    if (memcmp(text.data + 32, tail, BL_ID_KEY_BYTES - 32) != 0)
        return 0;
    memcpy(id, read, 16);
    return 1;
}

bitlm_status bl_model_file_id(const char *path, const bl_alloc *alloc, bl_poll *poll, char text[BL_ID_KEY_BYTES + 1],
                              bitlm_error *error) {
    uint8_t id[16];
    bitlm_model *m = bl_calloc(alloc, 1, sizeof *m);
    if (!m)
        return bl_error_nomem(error, sizeof *m, "the model");
    m->alloc = *alloc;
    m->passing = 1;
    bitlm_status status = bl_mapping_open(path, strlen(path), BITLM_LOAD_MMAP, alloc, poll, &m->mapping, error);
    if (!status)
        status = bl_model_load(m, error);
    if (!status)
        status = bl_model_hash(m, poll, id, error);
    if (!status)
        bl_model_id_text(m, id, text);
    bl_model_unload(m);
    bl_free(alloc, m);
    return status;
}
