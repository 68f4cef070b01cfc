/* tokenizer.c - loads a GGUF vocabulary and turns text into ids: special tokens, the frame,
 * limits; the algorithms are in spm_bpe.c, wordpiece.c and byte_bpe.c.
 *
 * All texts are copied into one block; search goes through sorted indexes over it
 * (piece_index.c), one for each set of pieces that an algorithm may use.  Called by
 * core/run and core/model. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "text/token_table.h"
#include "text/tokenizer_private.h"

#define MAX_TEXT ((size_t)1 << 30)  /* bytes: symbols count in 32 bits, U+2581 has three */
#define MAX_BLOB ((uint64_t)1 << 30)
#define MAX_PAIR_BITS (1u << 22)
#define POLL_EVERY 4096
#define LLAMA3_TOKENS 128256

/* ---- lists of ids ------------------------------------------------------------------------ */

bitlm_status bl_ids_push(bl_ids *ids, int32_t id, bitlm_error *error)
{
    if (ids->n == ids->capacity) {
        size_t capacity = ids->capacity ? ids->capacity * 2 : 64, bytes;
        void *grown;

        if (capacity < ids->n || !bl_mul_size(capacity, sizeof(*ids->data), &bytes))
            return bl_error_nomem(error, ids->n, "a list of tokens");
        grown = bl_regrow(ids->alloc, ids->data, ids->n * sizeof(*ids->data), bytes);
        if (!grown)
            return bl_error_nomem(error, bytes, "a list of tokens");
        ids->data = grown;
        ids->capacity = capacity;
    }
    ids->data[ids->n++] = id;
    return BITLM_OK;
}

void bl_ids_free(bl_ids *ids)
{
    bl_free(ids->alloc, ids->data);
    ids->data = NULL;
    ids->n = ids->capacity = 0;
}

bitlm_status bl_sink_over(const bl_sink *sink)
{
    return bl_error(sink->error, BITLM_LIMIT, "the text has more than %zu tokens", sink->limit);
}

bitlm_status bl_sink_put(bl_sink *sink, int32_t id)
{
    if (sink->limit && sink->ids->n - sink->start >= sink->limit)
        return bl_sink_over(sink);
    return bl_ids_push(sink->ids, id, sink->error);
}

bitlm_status bl_sink_poll(const bl_sink *sink)
{
    bitlm_status status = bl_poll_check(sink->poll);
    return status ? bl_poll_error(sink->poll, sink->error) : BITLM_OK;
}

/* ---- loading ------------------------------------------------------------------------------- */

/* Copies tokenizer.ggml.tokens into one block. */
static bitlm_status load_texts(bl_tokenizer *t, const bl_gguf *gguf, bitlm_error *error)
{
    const char *key = "tokenizer.ggml.tokens";
    uint64_t count = 0, total = 0, i;
    const bitlm_text *texts = bl_gguf_strings(gguf, key, &count);

    if (!texts && bl_gguf_has(gguf, key))
        return bl_error(error, BITLM_FORMAT, "%s is not an array of strings", key);
    if (!texts)
        count = 0;
    if (count > (uint64_t)t->vocab_size)
        return bl_error(error, BITLM_FORMAT, "%s has %llu entries, but the embedding has %d rows",
                        key, (unsigned long long)count, t->vocab_size);
    t->n_tokens = (int32_t)count;
    for (i = 0; i < count; i++) {
        total += texts[i].length;
        if (texts[i].length > MAX_BLOB || total > MAX_BLOB)
            return bl_error(error, BITLM_FORMAT, "%s holds more than %llu bytes", key,
                            (unsigned long long)MAX_BLOB);
    }
    t->blob = bl_malloc(&t->alloc, (size_t)total + 1);
    t->offsets = bl_calloc(&t->alloc, (size_t)count + 1, sizeof(*t->offsets));
    t->types = bl_malloc(&t->alloc, (size_t)count + 1);
    t->is_end = bl_calloc(&t->alloc, (size_t)count + 1, 1);
    if (!t->blob || !t->offsets || !t->types || !t->is_end)
        return bl_error_nomem(error, (size_t)total, "the vocabulary");
    memset(t->types, BL_TOKEN_NORMAL, (size_t)count + 1);
    for (i = 0; i < count; i++) {
        if (texts[i].length)
            memcpy(t->blob + t->offsets[i], texts[i].data, texts[i].length);
        t->offsets[i + 1] = t->offsets[i] + (uint32_t)texts[i].length;
    }
    return BITLM_OK;
}

/* The byte that a text like <0x0A> names, -1 if it is no such text. */
static int byte_of(const uint8_t *text, size_t length)
{
    int value = 0, i;

    if (length != 6 || memcmp(text, "<0x", 3) || text[5] != '>')
        return -1;
    for (i = 3; i < 5; i++) {
        if (text[i] >= '0' && text[i] <= '9')
            value = value * 16 + text[i] - '0';
        else if (text[i] >= 'A' && text[i] <= 'F')
            value = value * 16 + text[i] - 'A' + 10;
        else
            return -1;
    }
    return value;
}

static bitlm_status load_types(bl_tokenizer *t, const bl_gguf *gguf, bitlm_error *error)
{
    const char *key = "tokenizer.ggml.token_type";
    uint64_t count = 0;
    const int32_t *types = bl_gguf_ints(gguf, key, &count);
    int32_t id;
    size_t length;

    if (!types && bl_gguf_has(gguf, key))
        return bl_error(error, BITLM_FORMAT, "%s is not an array of integers", key);
    if (types && count != (uint64_t)t->n_tokens)
        return bl_error(error, BITLM_FORMAT,
                        "%s has %llu entries, but tokenizer.ggml.tokens has %d", key,
                        (unsigned long long)count, t->n_tokens);
    for (id = 0; id < t->n_tokens; id++) {
        if (!types) {
            const uint8_t *text = bl_token_text(t, id, &length);
            if (t->kind == BL_TOKENIZER_SPM && byte_of(text, length) >= 0)
                t->types[id] = BL_TOKEN_BYTE;
        } else if (types[id] < 0 || types[id] > BL_TOKEN_BYTE) {
            return bl_error(error, BITLM_FORMAT, "token %d has type %d, but types are 1 to %d", id,
                            types[id], BL_TOKEN_BYTE);
        } else if (types[id] > 0) {
            t->types[id] = (uint8_t)types[id];
        }
    }
    return BITLM_OK;
}

static bitlm_status load_scores(bl_tokenizer *t, const bl_gguf *gguf, bitlm_error *error)
{
    const char *key = "tokenizer.ggml.scores";
    uint64_t count = 0;
    const float *scores = bl_gguf_floats(gguf, key, &count);
    int32_t id;

    if (!scores)
        return bl_error(error, BITLM_FORMAT, "%s is missing or not an array of floats", key);
    if (count != (uint64_t)t->n_tokens)
        return bl_error(error, BITLM_FORMAT,
                        "%s has %llu entries, but tokenizer.ggml.tokens has %d", key,
                        (unsigned long long)count, t->n_tokens);
    t->scores = bl_calloc(&t->alloc, (size_t)count + 1, sizeof(*t->scores));
    if (!t->scores)
        return bl_error_nomem(error, (size_t)count * sizeof(*t->scores), "the vocabulary");
    for (id = 0; id < t->n_tokens; id++) {
        if (isnan(scores[id]))
            return bl_error(error, BITLM_FORMAT, "the score of token %d is not a number", id);
        t->scores[id] = scores[id];
    }
    return BITLM_OK;
}

/* An id from the first key that is present, else the token of that text, else -1. */
static bitlm_status load_id(const bl_tokenizer *t, const bl_gguf *gguf, const char *key,
                            const char *other_key, const char *text, int32_t *id,
                            bitlm_error *error)
{
    int64_t value = 0;
    int found = bl_gguf_i64(gguf, key, &value);

    if (!found && other_key) {
        key = other_key;
        found = bl_gguf_i64(gguf, key, &value);
    }
    *id = -1;
    if (found < 0)
        return bl_error(error, BITLM_FORMAT, "%s is not an integer", key);
    if (found && (value < 0 || value >= t->vocab_size))
        return bl_error(error, BITLM_FORMAT, "%s is %lld, but the vocabulary has %d tokens", key,
                        (long long)value, t->vocab_size);
    if (found)
        *id = (int32_t)value;
    else if (text)
        *id = bl_tokenizer_find(t, text, strlen(text));
    return BITLM_OK;
}

static bitlm_status load_flag(const bl_gguf *gguf, const char *key, int otherwise, int32_t *flag,
                              bitlm_error *error)
{
    int value = otherwise;

    if (bl_gguf_bool(gguf, key, &value) < 0)
        return bl_error(error, BITLM_FORMAT, "%s is not a bool", key);
    *flag = value;
    return BITLM_OK;
}

static bitlm_status load_ids(bl_tokenizer *t, const bl_gguf *gguf, bitlm_error *error)
{
    int bert = t->kind == BL_TOKENIZER_WORDPIECE, spm = t->kind == BL_TOKENIZER_SPM;
    int begins = bert || spm || (t->pretokenizer && bl_pretokenizer_add_bos(t->pretokenizer));
    bitlm_status status;
    int32_t id;

    if (bert)
        status = load_id(t, gguf, "tokenizer.ggml.cls_token_id", "tokenizer.ggml.bos_token_id",
                         "[CLS]", &t->bos, error);
    else
        status = load_id(t, gguf, "tokenizer.ggml.bos_token_id", NULL, spm ? "<s>" : NULL, &t->bos,
                         error);
    if (status)
        return status;
    if (bert)
        status = load_id(t, gguf, "tokenizer.ggml.seperator_token_id", /* GGUF's own spelling */
                         "tokenizer.ggml.eos_token_id", "[SEP]", &t->eos, error);
    else
        status = load_id(t, gguf, "tokenizer.ggml.eos_token_id", NULL, spm ? "</s>" : NULL,
                         &t->eos, error);
    if (status ||
        (status = load_id(t, gguf, "tokenizer.ggml.eot_token_id", NULL, NULL, &t->eot, error)) ||
        (status = load_id(t, gguf, "tokenizer.ggml.unknown_token_id", NULL,
                          bert ? "[UNK]" : "<unk>", &t->unk, error)) ||
        (status = load_flag(gguf, "tokenizer.ggml.add_bos_token", begins, &t->add_bos,
                            error)) ||
        (status = load_flag(gguf, "tokenizer.ggml.add_eos_token", bert, &t->add_eos, error)) ||
        (status = load_flag(gguf, "tokenizer.ggml.add_space_prefix", 1, &t->add_space_prefix,
                            error)))
        return status;
    for (id = 0; t->unk < 0 && id < t->n_tokens; id++)
        if (t->types[id] == BL_TOKEN_UNKNOWN)
            t->unk = id;
    return BITLM_OK;
}

/* The tokens that end a generation. */
static void mark_ends(bl_tokenizer *t)
{
    static const char *const names[] = {"<|eot_id|>",      "<|im_end|>",      "<|end_of_text|>",
                                        "<|endoftext|>",   "<|end|>",         "<end_of_turn>",
                                        "<|end_of_turn|>", "<|eom_id|>",      "<|eos|>"};
    size_t i;

    for (i = 0; i < BL_COUNT(names); i++) {
        int32_t id = bl_tokenizer_find(t, names[i], strlen(names[i]));
        if (id >= 0)
            t->is_end[id] = 1;
    }
    if (t->eos >= 0 && t->eos < t->n_tokens)
        t->is_end[t->eos] = 1;
    if (t->eot >= 0 && t->eot < t->n_tokens)
        t->is_end[t->eot] = 1;
}

/* Which tokens an index takes, and how many bytes it leaves off their front; -1: not taken. */
typedef int (*choose_fn)(const bl_tokenizer *t, int32_t id, const uint8_t *text, size_t length);

static int choose_all(const bl_tokenizer *t, int32_t id, const uint8_t *text, size_t length)
{
    (void)t, (void)id, (void)text;
    return length ? 0 : -1;
}

static int choose_special(const bl_tokenizer *t, int32_t id, const uint8_t *text, size_t length)
{
    int type = t->types[id];

    (void)text;
    return length && (type == BL_TOKEN_CONTROL || type == BL_TOKEN_UNKNOWN || type == BL_TOKEN_USER)
               ? 0
               : -1;
}

static int choose_spm(const bl_tokenizer *t, int32_t id, const uint8_t *text, size_t length)
{
    int type = t->types[id];

    (void)text;
    return length && (type == BL_TOKEN_NORMAL || type == BL_TOKEN_USER || type == BL_TOKEN_UNUSED)
               ? 0
               : -1;
}

static int choose_user(const bl_tokenizer *t, int32_t id, const uint8_t *text, size_t length)
{
    (void)text;
    return length && t->types[id] == BL_TOKEN_USER ? 0 : -1;
}

static int has_mark(const uint8_t *text, size_t length)
{
    return length > BL_SPACE_MARK_BYTES && !memcmp(text, BL_SPACE_MARK, BL_SPACE_MARK_BYTES);
}

static int choose_initial(const bl_tokenizer *t, int32_t id, const uint8_t *text, size_t length)
{
    return t->types[id] != BL_TOKEN_CONTROL && t->types[id] != BL_TOKEN_UNKNOWN &&
                   has_mark(text, length)
               ? BL_SPACE_MARK_BYTES
               : -1;
}

static int choose_continuation(const bl_tokenizer *t, int32_t id, const uint8_t *text,
                               size_t length)
{
    return length && t->types[id] != BL_TOKEN_CONTROL && t->types[id] != BL_TOKEN_UNKNOWN &&
                   !has_mark(text, length)
               ? 0
               : -1;
}

static bitlm_status build_index(const bl_tokenizer *t, bl_piece_index *index, choose_fn choose,
                                bitlm_error *error)
{
    int32_t id;
    size_t n = 0, length;

    for (id = 0; id < t->n_tokens; id++) {
        const uint8_t *text = bl_token_text(t, id, &length);
        n += choose(t, id, text, length) >= 0;
    }
    index->texts = t->blob;
    index->entries = bl_calloc(&t->alloc, n + 1, sizeof(*index->entries));
    if (!index->entries)
        return bl_error_nomem(error, n * sizeof(*index->entries), "the vocabulary's index");
    for (id = 0; id < t->n_tokens; id++) {
        const uint8_t *text = bl_token_text(t, id, &length);
        int skip = choose(t, id, text, length);

        if (skip < 0)
            continue;
        index->entries[index->n].at = t->offsets[id] + (uint32_t)skip;
        index->entries[index->n].length = (uint32_t)(length - (size_t)skip);
        index->entries[index->n++].id = id;
    }
    return bl_piece_index_build(index, &t->alloc, error);
}

/* Notes every pair of characters that stand side by side in a piece: elsewhere no merge
 * crosses.  A set of hashes: what it says too much only costs time. */
static bitlm_status note_pairs(bl_tokenizer *t, bitlm_error *error)
{
    size_t i, at, used, total = 0;
    uint32_t bits = 4096;
    int valid;

    for (i = 0; i < t->pieces.n; i++)
        total += t->pieces.entries[i].length;
    while (bits < MAX_PAIR_BITS && bits / 16 < total)
        bits *= 2;
    t->pairs = bl_calloc(&t->alloc, bits / 64, sizeof(*t->pairs));
    if (!t->pairs)
        return bl_error_nomem(error, bits / 8, "the vocabulary's index");
    t->pair_mask = bits - 1;
    t->max_piece_chars = 1;
    for (i = 0; i < t->pieces.n; i++) {
        const bl_piece_entry *e = &t->pieces.entries[i];
        uint32_t last = 0, bit;
        size_t chars = 0;

        for (at = 0; at < e->length; at += used, chars++) {
            uint32_t c = bl_utf8_decode(t->blob + e->at + at, e->length - at, &used, &valid);
            if (at) {
                bit = bl_pair_hash(last, c) & t->pair_mask;
                t->pairs[bit >> 6] |= (uint64_t)1 << (bit & 63);
            }
            last = c;
        }
        t->max_piece_chars = BL_MAX(t->max_piece_chars, chars);
    }
    return BITLM_OK;
}

static bitlm_status load_spm(bl_tokenizer *t, const bl_gguf *gguf, bitlm_error *error)
{
    bitlm_status status;
    int32_t id, byte;
    size_t length;

    if ((status = load_scores(t, gguf, error)))
        return status;
    for (byte = 0; byte < 256; byte++)
        t->byte_ids[byte] = -1;
    for (id = 0; id < t->n_tokens; id++) {
        const uint8_t *text = bl_token_text(t, id, &length);
        char shown[40];

        if (t->types[id] == BL_TOKEN_USER && length > BL_MAX_USER_PIECE)
            return bl_error(error, BITLM_UNSUPPORTED,
                            "user-defined token %d has %zu bytes, but at most %d can be read", id,
                            length, BL_MAX_USER_PIECE);
        if (t->types[id] != BL_TOKEN_BYTE)
            continue;
        byte = byte_of(text, length);
        if (byte < 0)
            return bl_error(error, BITLM_FORMAT,
                            "byte token %d is named '%s', but must be <0x00> to <0xFF>", id,
                            bl_show(shown, sizeof(shown), (const char *)text, length));
        if (t->byte_ids[byte] >= 0)
            return bl_error(error, BITLM_FORMAT, "tokens %d and %d both stand for byte 0x%02X",
                            t->byte_ids[byte], id, (unsigned)byte);
        t->byte_ids[byte] = id;
    }
    for (byte = 0; byte < 256; byte++)
        if (t->byte_ids[byte] < 0 && t->unk < 0)
            return bl_error(error, BITLM_FORMAT,
                            "the vocabulary has neither an unknown token nor one for byte 0x%02X",
                            (unsigned)byte);
    if ((status = build_index(t, &t->pieces, choose_spm, error)) ||
        (status = build_index(t, &t->user, choose_user, error)))
        return status;
    return note_pairs(t, error);
}

/* Chooses how a byte-level BPE cuts its texts; what is not known here makes the kind NONE. */
static bitlm_status choose_pretokenizer(bl_tokenizer *t, const bl_gguf *gguf, bitlm_error *error)
{
    bitlm_text pre = {"default", 7};
    int found = bl_gguf_string(gguf, "tokenizer.ggml.pre", &pre);
    char shown[40];

    if (found < 0)
        return bl_error(error, BITLM_FORMAT, "tokenizer.ggml.pre is not a string");
    if (!found && t->n_tokens == LLAMA3_TOKENS) { /* early files of BitNet b1.58 2B-4T */
        pre.data = "llama-bpe";
        pre.length = 9;
    }
    t->pretokenizer = bl_pretokenizer_find(pre.data, pre.length);
    if (!t->pretokenizer)
        snprintf(t->refusal, sizeof(t->refusal),
                 "this model's tokenizer splits text as '%s', which is not supported (%s are): it takes "
                 "token ids, not text",
                 bl_show(shown, sizeof(shown), pre.data, pre.length), bl_pretokenizer_names());
    else if (!bl_gguf_has(gguf, "tokenizer.ggml.merges"))
        snprintf(t->refusal, sizeof(t->refusal),
                 "this model's file lacks tokenizer.ggml.merges: it takes token ids, not text");
    else
        t->kind = BL_TOKENIZER_BPE;
    return BITLM_OK;
}

static bitlm_status load_wordpiece(bl_tokenizer *t, bitlm_error *error)
{
    bitlm_status status;

    if (t->unk < 0)
        return bl_error(error, BITLM_FORMAT, "the WordPiece vocabulary has no unknown token");
    if ((status = build_index(t, &t->pieces, choose_initial, error)))
        return status;
    return build_index(t, &t->continuations, choose_continuation, error);
}

bitlm_status bl_tokenizer_open(const bl_gguf *gguf, int32_t vocab_size, const bl_alloc *alloc,
                               bl_tokenizer **tokenizer, bitlm_error *error)
{
    bl_tokenizer *t;
    bitlm_text model = {NULL, 0};
    bitlm_status status;
    int32_t id;

    if (vocab_size < 1)
        return bl_error(error, BITLM_FORMAT, "the vocabulary has %d tokens, but must have 1 or more",
                        vocab_size);
    t = bl_calloc(alloc, 1, sizeof(*t));
    if (!t)
        return bl_error_nomem(error, sizeof(*t), "the tokenizer");
    t->alloc = *alloc;
    t->vocab_size = vocab_size;
    if (bl_gguf_string(gguf, "tokenizer.ggml.model", &model) < 0) {
        status = bl_error(error, BITLM_FORMAT, "tokenizer.ggml.model is not a string");
        goto fail;
    }
    if (model.length == 5 && !memcmp(model.data, "llama", 5))
        t->kind = BL_TOKENIZER_SPM;
    else if (model.length == 4 && !memcmp(model.data, "bert", 4))
        t->kind = BL_TOKENIZER_WORDPIECE;
    else if (model.length == 4 && !memcmp(model.data, "gpt2", 4))
        t->byte_level = 1;
    else
        snprintf(t->refusal, sizeof(t->refusal),
                 "this model's tokenizer is not supported: it takes token ids, not text");
    if ((status = load_texts(t, gguf, error)) || (status = load_types(t, gguf, error)))
        goto fail;
    if (t->byte_level && (status = choose_pretokenizer(t, gguf, error)))
        goto fail;
    if (t->kind != BL_TOKENIZER_NONE && t->n_tokens == 0) {
        status = bl_error(error, BITLM_FORMAT, "tokenizer.ggml.tokens is missing or empty");
        goto fail;
    }
    if ((status = build_index(t, &t->all, choose_all, error)) ||
        (status = load_ids(t, gguf, error)) ||
        (status = build_index(t, &t->special, choose_special, error)))
        goto fail;
    mark_ends(t);
    if (t->kind == BL_TOKENIZER_SPM)
        status = load_spm(t, gguf, error);
    else if (t->kind == BL_TOKENIZER_WORDPIECE)
        status = load_wordpiece(t, error);
    else if (t->kind == BL_TOKENIZER_BPE && !(status = build_index(t, &t->user, choose_user, error)))
        status = bl_bpe_load(t, gguf, error);
    if (status)
        goto fail;
    for (id = 0; id < t->n_tokens; id++)
        t->max_bytes = BL_MAX(t->max_bytes, bl_detok_bound(t, id));
    *tokenizer = t;
    return BITLM_OK;
fail:
    bl_tokenizer_free(t);
    return status;
}

void bl_tokenizer_free(bl_tokenizer *t)
{
    bl_alloc alloc;

    if (!t)
        return;
    alloc = t->alloc;
    bl_token_table_free(&alloc, t->table);
    bl_free(&alloc, t->merges);
    bl_free(&alloc, t->merge_first);
    bl_free(&alloc, t->pairs);
    bl_free(&alloc, t->user.entries);
    bl_free(&alloc, t->continuations.entries);
    bl_free(&alloc, t->pieces.entries);
    bl_free(&alloc, t->special.entries);
    bl_free(&alloc, t->all.entries);
    bl_free(&alloc, t->scores);
    bl_free(&alloc, t->is_end);
    bl_free(&alloc, t->types);
    bl_free(&alloc, t->offsets);
    bl_free(&alloc, t->blob);
    bl_free(&alloc, t);
}

/* ---- questions -------------------------------------------------------------------------- */

int bl_tokenizer_kind(const bl_tokenizer *t)
{
    return t->kind;
}

int32_t bl_tokenizer_vocab_size(const bl_tokenizer *t)
{
    return t->vocab_size;
}

int32_t bl_tokenizer_bos(const bl_tokenizer *t)
{
    return t->bos;
}

int32_t bl_tokenizer_eos(const bl_tokenizer *t)
{
    return t->eos;
}

int bl_tokenizer_is_end(const bl_tokenizer *t, int32_t id)
{
    return id >= 0 && (id == t->eos || id == t->eot || (id < t->n_tokens && t->is_end[id]));
}

int32_t bl_tokenizer_find(const bl_tokenizer *t, const char *text, size_t length)
{
    int64_t at = bl_piece_index_find(&t->all, (const uint8_t *)text, length);
    return at < 0 ? -1 : t->all.entries[at].id;
}

size_t bl_tokenizer_max_bytes(const bl_tokenizer *t)
{
    return t->max_bytes;
}

/* ---- text to ids -------------------------------------------------------------------------- */

static bitlm_status encode_plain(const bl_tokenizer *t, const uint8_t *text, size_t length,
                                 bl_sink *sink)
{
    if (t->kind == BL_TOKENIZER_SPM)
        return bl_spm_encode(t, text, length, t->add_space_prefix, sink);
    if (t->kind == BL_TOKENIZER_BPE)
        return bl_bpe_encode(t, text, length, sink);
    return bl_wordpiece_encode(t, text, length, sink);
}

/* Content that somebody typed, inside a text whose other parts may hold special tokens:
 * pairs of offsets, ascending; n may be 0. */
typedef struct typed {
    const size_t *pairs;
    size_t n;
} typed;

/* The longest special token at text + i that touches nothing typed, or -1. */
static int64_t special_at(const bl_tokenizer *t, const uint8_t *text, size_t length, size_t i,
                          typed *rest)
{
    int64_t at = bl_piece_index_prefix(&t->special, text + i, length - i);

    while (rest->n && rest->pairs[1] <= i) {
        rest->pairs += 2;
        rest->n--;
    }
    while (at >= 0 && rest->n && rest->pairs[0] < i + t->special.entries[at].length)
        at = rest->pairs[0] <= i ? -1 : t->special.entries[at].parent;
    return at;
}

/* Cuts the text at control tokens; the parts between are texts of their own (an SPM part
 * begins with a space, as llama.cpp has it). */
static bitlm_status encode_special(const bl_tokenizer *t, const uint8_t *text, size_t length,
                                   typed rest, bl_sink *sink)
{
    size_t i = 0, start = 0, steps = 0;
    bitlm_status status;

    while (i < length) {
        int64_t at = special_at(t, text, length, i, &rest);
        const bl_piece_entry *e;

        if (++steps % POLL_EVERY == 0 && (status = bl_sink_poll(sink)))
            return status;
        if (at < 0) {
            i++;
            continue;
        }
        e = &t->special.entries[at];
        if (t->kind != BL_TOKENIZER_WORDPIECE && t->types[e->id] == BL_TOKEN_USER) {
            i += e->length; /* BPE finds these by itself, within the text around them */
            continue;
        }
        if ((status = encode_plain(t, text + start, i - start, sink)) ||
            (status = bl_sink_put(sink, e->id)))
            return status;
        i += e->length;
        start = i;
    }
    return encode_plain(t, text + start, length - start, sink);
}

static bitlm_status tokenize(const bl_tokenizer *t, const char *text, size_t length,
                             const typed *rest, uint32_t flags, size_t limit, bl_poll *poll,
                             bl_ids *ids, bitlm_error *error)
{
    bl_sink sink;
    bitlm_status status = BITLM_OK;

    if (t->kind == BL_TOKENIZER_NONE)
        return bl_error(error, BITLM_UNSUPPORTED, "%s", t->refusal);
    if (length > MAX_TEXT)
        return bl_error(error, BITLM_LIMIT, "the text has %zu bytes, but at most %zu are possible",
                        length, MAX_TEXT);
    sink.ids = ids;
    sink.start = ids->n;
    sink.limit = limit;
    sink.poll = poll;
    sink.error = error;
    if ((flags & BITLM_TOKENS_FRAME) && t->add_bos && t->bos >= 0)
        status = bl_sink_put(&sink, t->bos);
    if (!status && length)
        status = rest ? encode_special(t, (const uint8_t *)text, length, *rest, &sink)
                      : encode_plain(t, (const uint8_t *)text, length, &sink);
    if (!status && (flags & BITLM_TOKENS_FRAME) && t->add_eos && t->eos >= 0)
        status = bl_sink_put(&sink, t->eos);
    if (status)
        ids->n = sink.start; /* outputs only on success */
    return status;
}

bitlm_status bl_tokenize(const bl_tokenizer *t, const char *text, size_t length, uint32_t flags,
                         size_t limit, bl_poll *poll, bl_ids *ids, bitlm_error *error)
{
    typed none = {NULL, 0};

    return tokenize(t, text, length, flags & BITLM_TOKENS_SPECIAL ? &none : NULL, flags, limit, poll,
                    ids, error);
}

bitlm_status bl_tokenize_marked(const bl_tokenizer *t, const char *text, size_t length,
                                const size_t *segments, size_t n_segments, uint32_t flags,
                                size_t limit, bl_poll *poll, bl_ids *ids, bitlm_error *error)
{
    typed content = {segments, n_segments};

    return tokenize(t, text, length, &content, flags, limit, poll, ids, error);
}
