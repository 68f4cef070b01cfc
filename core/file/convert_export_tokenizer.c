/* convert_export_tokenizer.c - the vocabulary of a GGUF file as Hugging Face's files: byte-level BPE as
 * tokenizer.json, SentencePiece BPE as tokenizer.model (a protobuf), special tokens and chat template as
 * tokenizer_config.json.  Called by convert_export.c. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "file/convert.h"

#define CONTROL 3
#define USER 4
#define UNUSED 5

typedef struct vocabulary {
    bl_plan *plan;
    const bitlm_text *tokens;
    const int32_t *types;
    uint64_t n;
} vocabulary;

static int text_is(bitlm_text t, const char *word) {
    return t.length == strlen(word) && memcmp(t.data, word, t.length) == 0;
}

/* {"type": "ByteLevel", …} */
static json_t *byte_level(int regex) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", regex);
}

static json_t *sequence(json_t *first, json_t *second) {
    return json_pack("{s:s, s:[o, o]}", "type", "Sequence", "pretokenizers", first, second);
}

/* pre_tokenizer, ignore_merges and NFC of a split pattern's name; NULL: bitlm knows the name from no tokenizer.json. */
static json_t *pre_tokenizer(bitlm_text pre, int *ignore_merges, int *nfc) {
    static const char *const llama3[] = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "falcon_e", "falcon-e"};
    const char *pattern = NULL;
    *ignore_merges = *nfc = 0;
    for (size_t i = 0; i < BL_COUNT(llama3); i++)
        if (text_is(pre, llama3[i])) {
            pattern = bl_pattern_llama3;
            *ignore_merges = 1;
        }
    if (text_is(pre, "qwen2") || text_is(pre, "deepseek-r1-qwen")) {
        pattern = bl_pattern_qwen2;
        *nfc = 1;
    }
    if (pattern)
        return sequence(json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", pattern, "behavior",
                                  "Isolated", "invert", 0),
                        byte_level(0));
    if (text_is(pre, "smollm"))
        return sequence(json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1), byte_level(1));
    *nfc = text_is(pre, "olmo");
    if (*nfc || text_is(pre, "gpt-2") || text_is(pre, "gpt2") || text_is(pre, "phi-2"))
        return byte_level(1);
    return NULL;
}

/* The special tokens before a text, as a TemplateProcessing; NULL if there are none. */
static json_t *post_processor(const vocabulary *v, int64_t bos) {
    int add = 0;
    if (bl_gguf_bool(v->plan->gguf, "tokenizer.ggml.add_bos_token", &add) != 1 || !add || bos < 0)
        return json_null();
    json_t *name = json_stringn(v->tokens[bos].data, v->tokens[bos].length), *specials = json_object();
    json_object_set_new(specials, json_string_value(name) ? json_string_value(name) : "",
                        json_pack("{s:O, s:[I], s:[O]}", "id", name, "ids", (json_int_t)bos, "tokens", name));
    json_t *p = json_pack("{s:s, s:[{s:{s:O, s:i}}, {s:{s:s, s:i}}], s:[{s:{s:O, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}], s:o}",
                          "type", "TemplateProcessing", "single", "SpecialToken", "id", name, "type_id", 0, "Sequence", "id",
                          "A", "type_id", 0, "pair", "SpecialToken", "id", name, "type_id", 0, "Sequence", "id", "A",
                          "type_id", 0, "Sequence", "id", "B", "type_id", 1, "special_tokens", specials);
    json_decref(name);
    return p;
}

static int64_t id_of(const vocabulary *v, const char *key) {
    int64_t id = -1;
    return bl_gguf_i64(v->plan->gguf, key, &id) == 1 && id >= 0 && (uint64_t)id < v->n ? id : -1;
}

static bitlm_status write_byte_level(vocabulary *v, const char *folder) {
    bl_plan *plan = v->plan;
    char shown[40];
    bitlm_text pre = {"llama-bpe", 9};
    uint64_t n_merges = 0;
    int ignore, nfc, bad = 0;
    const bitlm_text *merges = bl_gguf_strings(plan->gguf, "tokenizer.ggml.merges", &n_merges);
    if (bl_gguf_string(plan->gguf, "tokenizer.ggml.pre", &pre) != 1 && v->n != 128256)
        pre = (bitlm_text){"default", 7};
    json_t *split = pre_tokenizer(pre, &ignore, &nfc);
    if (!split || !merges) {
        json_decref(split);
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "the vocabulary (split pattern '%s', %llu merges) cannot be written as "
                            "tokenizer.json", bl_show(shown, sizeof shown, pre.data, pre.length),
                            (unsigned long long)n_merges);
    }
    json_t *vocab = json_object(), *list = json_array(), *added = json_array();
    for (uint64_t i = 0; i < v->n; i++) {
        int32_t type = v->types ? v->types[i] : 1;
        json_t *text = json_stringn(v->tokens[i].data, v->tokens[i].length);
        if (type == CONTROL || type == USER)
            bad |= json_array_append_new(added, json_pack("{s:I, s:O, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i, "content",
                                                          text, "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0,
                                                          "special", type == CONTROL));
        else if (type != UNUSED)
            bad |= json_object_setn_new(vocab, v->tokens[i].data, v->tokens[i].length, json_integer((json_int_t)i));
        bad |= !text;
        json_decref(text);
    }
    for (uint64_t i = 0; i < n_merges; i++)
        bad |= json_array_append_new(list, json_stringn(merges[i].data, merges[i].length));
    json_t *model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                              "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
                              "ignore_merges", ignore, "vocab", vocab, "merges", list);
    json_t *root = json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding",
                             "added_tokens", added, "normalizer", nfc ? json_pack("{s:s}", "type", "NFC") : json_null(),
                             "pre_tokenizer", split, "post_processor",
                             post_processor(v, id_of(v, "tokenizer.ggml.bos_token_id")), "decoder", byte_level(1), "model",
                             model);
    if (bad) {
        json_decref(root);
        return BL_PLAN_FAIL(plan, BITLM_FORMAT, "a token or merge of the vocabulary is no valid UTF-8");
    }
    return bl_export_json(plan, folder, "tokenizer.json", root);
}

/* ---- tokenizer.model ------------------------------------------------------------------------------------------ */

typedef struct bytes {
    uint8_t *data;
    size_t used;
} bytes;

static void put_varint(bytes *b, uint64_t value) {
    for (; value > 127; value >>= 7)
        b->data[b->used++] = (uint8_t)(value | 128);
    b->data[b->used++] = (uint8_t)value;
}

static void put_int(bytes *b, unsigned field, uint64_t value) {
    put_varint(b, field << 3);
    put_varint(b, value);
}

static void put_bytes(bytes *b, unsigned field, const void *data, size_t size) {
    put_varint(b, field << 3 | 2);
    put_varint(b, size);
    memcpy(b->data + b->used, data, size);
    b->used += size;
}

static bitlm_status write_spm(vocabulary *v, const char *folder) {
    bl_plan *plan = v->plan;
    uint64_t n_scores = 0;
    size_t room = 4096;
    const float *scores = bl_gguf_floats(plan->gguf, "tokenizer.ggml.scores", &n_scores);
    int prefix = 1;
    if (!scores || n_scores != v->n)
        return BL_PLAN_FAIL(plan, BITLM_FORMAT, "tokenizer.ggml.scores are missing or too few");
    bl_gguf_bool(plan->gguf, "tokenizer.ggml.add_space_prefix", &prefix);
    for (uint64_t i = 0; i < v->n; i++)
        room += v->tokens[i].length + 40;
    bytes b = {bl_malloc(&plan->alloc, room), 0};
    if (!b.data)
        return bl_error_nomem(plan->error, room, "tokenizer.model");
    for (uint64_t i = 0; i < v->n; i++) {
        uint8_t head[32];
        bytes h = {head, 0};
        uint32_t bits;
        memcpy(&bits, &scores[i], sizeof bits);
        put_varint(&h, 2 << 3 | 5);
        for (int j = 0; j < 4; j++)
            head[h.used++] = (uint8_t)(bits >> (8 * j));
        put_int(&h, 3, v->types ? (uint64_t)v->types[i] : 1);
        size_t length = v->tokens[i].length, digits = 1;
        for (size_t rest = length; rest > 127; rest >>= 7)
            digits++;
        put_varint(&b, 1 << 3 | 2);
        put_varint(&b, 1 + digits + length + h.used);
        put_bytes(&b, 1, v->tokens[i].data, length);
        memcpy(b.data + b.used, head, h.used);
        b.used += h.used;
    }
    /* Trainer: 3 kind (2: BPE), 35 byte_fallback, 40 .. 42 ids.  Normalizer: 1 name, 3 add_dummy_prefix, 4
     * remove_extra_whitespaces, 5 escape_whitespaces. */
    uint8_t spec[128];
    bytes s = {spec, 0};
    int64_t unk = id_of(v, "tokenizer.ggml.unknown_token_id"), bos = id_of(v, "tokenizer.ggml.bos_token_id"),
            eos = id_of(v, "tokenizer.ggml.eos_token_id");
    put_int(&s, 3, 2);
    put_int(&s, 35, 1);
    put_int(&s, 40, unk < 0 ? 0 : (uint64_t)unk);
    put_int(&s, 41, (uint64_t)bos);
    put_int(&s, 42, (uint64_t)eos);
    put_bytes(&b, 2, spec, s.used);
    s.used = 0;
    put_bytes(&s, 1, "identity", 8);
    put_int(&s, 3, (uint64_t)prefix);
    put_int(&s, 4, 0);
    put_int(&s, 5, 1);
    put_bytes(&b, 3, spec, s.used);
    bitlm_status status = bl_export_file(plan, folder, "tokenizer.model", b.data, b.used);
    bl_free(&plan->alloc, b.data);
    return status;
}

static bitlm_status write_config(vocabulary *v, const char *folder, int spm) {
    static const char *const names[][2] = {{"bos_token", "tokenizer.ggml.bos_token_id"},
                                           {"eos_token", "tokenizer.ggml.eos_token_id"},
                                           {"unk_token", "tokenizer.ggml.unknown_token_id"},
                                           {"pad_token", "tokenizer.ggml.padding_token_id"}};
    const bl_gguf *g = v->plan->gguf;
    json_t *c = json_pack("{s:s}", "tokenizer_class", spm ? "LlamaTokenizer" : "PreTrainedTokenizerFast");
    bitlm_text text;
    int flag;
    for (size_t i = 0; i < BL_COUNT(names); i++) {
        int64_t id = id_of(v, names[i][1]);
        if (id >= 0)
            json_object_set_new(c, names[i][0], json_stringn(v->tokens[id].data, v->tokens[id].length));
    }
    if (bl_gguf_bool(g, "tokenizer.ggml.add_bos_token", &flag) == 1)
        json_object_set_new(c, "add_bos_token", json_boolean(flag));
    if (bl_gguf_bool(g, "tokenizer.ggml.add_eos_token", &flag) == 1)
        json_object_set_new(c, "add_eos_token", json_boolean(flag));
    if (bl_gguf_string(g, "tokenizer.chat_template", &text) == 1)
        json_object_set_new(c, "chat_template", json_stringn(text.data, text.length));
    return bl_export_json(v->plan, folder, "tokenizer_config.json", c);
}

bitlm_status bl_export_tokenizer(bl_plan *plan, const char *folder) {
    vocabulary v = {.plan = plan};
    bitlm_text model = {"", 0};
    uint64_t n_types = 0;
    char shown[40];
    bl_gguf_string(plan->gguf, "tokenizer.ggml.model", &model);
    v.tokens = bl_gguf_strings(plan->gguf, "tokenizer.ggml.tokens", &v.n);
    v.types = bl_gguf_ints(plan->gguf, "tokenizer.ggml.token_type", &n_types);
    int spm = text_is(model, "llama");
    if ((!spm && !text_is(model, "gpt2")) || !v.tokens)
        return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "a vocabulary of the kind '%s' cannot be written as a folder: gpt2 and llama "
                            "can", bl_show(shown, sizeof shown, model.data, model.length));
    if (v.types && n_types != v.n)
        return BL_PLAN_FAIL(plan, BITLM_FORMAT, "tokenizer.ggml.token_type has %llu entries, but there are %llu tokens",
                            (unsigned long long)n_types, (unsigned long long)v.n);
    bitlm_status status = spm ? write_spm(&v, folder) : write_byte_level(&v, folder);
    return status ? status : write_config(&v, folder, spm);
}
