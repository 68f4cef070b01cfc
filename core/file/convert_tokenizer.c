/* convert_tokenizer.c - the vocabulary of a Hugging Face folder as GGUF keys.
 *
 *   tokenizer.json, byte-level BPE   -> model "gpt2": tokens, merges, the name of the split pattern (`pre`)
 *   tokenizer.model                  -> model "llama": SentencePiece BPE with its scores
 *   tokenizer.json, BPE with <0xXX>  -> model "llama", where there is no tokenizer.model: a piece's score is minus the
 *                                       rank of the merge that makes it, which is how SentencePiece orders them
 *
 * Special ids come from tokenizer_config.json, else from generation_config.json and config.json.  A split pattern that
 * bitlm does not have is refused rather than guessed; option pre names one.  Called by convert_hf.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/utf8.h"
#include "file/convert.h"

typedef unsigned long long ull; /* for messages */

#define MAX_FILE ((size_t)256 << 20)

/* Token types of GGUF. */
#define NORMAL 1
#define UNKNOWN 2
#define CONTROL 3
#define USER 4
#define UNUSED 5
#define BYTE 6



typedef struct vocabulary {
    bl_plan *plan;
    uint64_t n;           /* tokens of the file: vocab_size of the model */
    bitlm_text *texts;
    int32_t *types;
    float *scores;
    char (*pads)[16];     /* names of ids without a token */
    int spm, have_scores, add_bos, add_eos, add_space_prefix;
    const char *pre;
    bitlm_text *merges;
    char *merge_text;
    uint64_t n_merges;
    json_t *json, *config, *generation; /* tokenizer.json, tokenizer_config.json, …: texts point into them */
    const json_t *model_config;
    char *proto;          /* tokenizer.model */
    size_t proto_size;
} vocabulary;

static const char *text_of(const json_t *object, const char *name) {
    const char *s = json_string_value(json_object_get(object, name));
    return s ? s : "";
}

static int is_text(const json_t *object, const char *name, const char *value) {
    return strcmp(text_of(object, name), value) == 0;
}

/* A JSON file of the folder; NULL if it is not there. */
static bitlm_status load_json(bl_plan *plan, const char *folder, const char *name, json_t **json) {
    char *text = NULL;
    size_t length;
    json_error_t why;
    bitlm_status status = bl_read_small_file(folder, name, MAX_FILE, &plan->alloc, &text, &length, plan->error);
    if (!status && text) {
        *json = json_loadb(text, length, JSON_ALLOW_NUL, &why);
        if (!json_is_object(*json))
            status = BL_PLAN_FAIL(plan, BITLM_FORMAT, "%s is no JSON object: %.100s", name, *json ? "" : why.text);
    }
    bl_free(&plan->alloc, text);
    return status;
}

/* ---- tokens ----------------------------------------------------------------------------------------------- */

static bitlm_status set_token(vocabulary *v, int64_t id, const char *text, size_t length, int32_t type) {
    char shown[40];
    bl_show(shown, sizeof shown, text, length);
    if (id < 0 || (uint64_t)id >= v->n)
        return BL_PLAN_FAIL(v->plan, BITLM_FORMAT, "token '%s' has the id %lld, but the model has %llu tokens", shown,
                            (long long)id, (ull)v->n);
    if (v->types[id] && (v->texts[id].length != length || memcmp(v->texts[id].data, text, length) != 0))
        return BL_PLAN_FAIL(v->plan, BITLM_FORMAT, "the id %lld has two tokens, one of them '%s'", (long long)id, shown);
    v->texts[id] = (bitlm_text){text, length};
    v->types[id] = type;
    return BITLM_OK;
}

static int is_byte_name(const char *s, size_t n) { return n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>'; }

/* added_tokens of tokenizer.json (an array), or added_tokens_decoder of tokenizer_config.json (by id). */
static bitlm_status read_added(vocabulary *v) {
    const json_t *list = json_object_get(v->json, "added_tokens"),
                 *decoder = json_object_get(v->config, "added_tokens_decoder");
    bitlm_status status = BITLM_OK;
    size_t i;
    json_t *value;
    const char *key;
    json_array_foreach(list, i, value) {
        const json_t *content = json_object_get(value, "content"), *id = json_object_get(value, "id");
        if (!json_is_string(content) || !json_is_integer(id))
            return BL_PLAN_FAIL(v->plan, BITLM_FORMAT, "added token %zu of tokenizer.json has no id or no content", i);
        status = set_token(v, json_integer_value(id), json_string_value(content), json_string_length(content),
                           json_is_true(json_object_get(value, "special")) ? CONTROL : USER);
        if (status)
            return status;
    }
    if (list)
        return BITLM_OK;
    json_object_foreach((json_t *)(uintptr_t)decoder, key, value) {
        const json_t *content = json_object_get(value, "content");
        char *end;
        long long id = strtoll(key, &end, 10);
        if (!json_is_string(content) || *end)
            return BL_PLAN_FAIL(v->plan, BITLM_FORMAT, "added_tokens_decoder of tokenizer_config.json is malformed");
        int keep = id >= 0 && (uint64_t)id < v->n && v->types[id] == UNKNOWN;
        status = set_token(v, id, json_string_value(content), json_string_length(content),
                           keep                                               ? UNKNOWN
                           : json_is_true(json_object_get(value, "special")) ? CONTROL
                                                                              : USER);
        if (status)
            return status;
    }
    return status;
}

static bitlm_status fill_gaps(vocabulary *v) {
    for (uint64_t i = 0; i < v->n; i++)
        if (!v->types[i]) {
            int n = snprintf(v->pads[i], sizeof v->pads[i], "[PAD%llu]", (ull)i);
            v->texts[i] = (bitlm_text){v->pads[i], (size_t)n};
            v->types[i] = UNUSED;
        }
    return BITLM_OK;
}

/* ---- tokenizer.json ----------------------------------------------------------------------------------------- */

static bitlm_status read_vocab(vocabulary *v, const json_t *vocab) {
    const char *text;
    json_t *value;
    bitlm_status status = BITLM_OK;
    if (!json_is_object(vocab))
        return BL_PLAN_FAIL(v->plan, BITLM_FORMAT, "model.vocab of tokenizer.json is no JSON object");
    json_object_foreach((json_t *)(uintptr_t)vocab, text, value) {
        size_t length = strlen(text);
        if (!json_is_integer(value))
            return BL_PLAN_FAIL(v->plan, BITLM_FORMAT, "an id in model.vocab of tokenizer.json is no integer");
        status = set_token(v, json_integer_value(value), text, length,
                           v->spm && is_byte_name(text, length) ? BYTE : NORMAL);
        if (status)
            return status;
    }
    return status;
}

/* A merge is "a b" or ["a", "b"]. */
static bitlm_status read_merges(vocabulary *v, const json_t *merges) {
    size_t total = 0, i, at = 0;
    json_t *m;
    if (!json_is_array(merges) || json_array_size(merges) > 16777216)
        return BL_PLAN_FAIL(v->plan, BITLM_FORMAT, "model.merges of tokenizer.json is no list of at most 2^24 merges");
    json_array_foreach(merges, i, m) {
        const json_t *a = json_array_get(m, 0), *b = json_array_get(m, 1);
        if (!json_is_string(m) && (!json_is_string(a) || !json_is_string(b) || json_array_size(m) != 2))
            return BL_PLAN_FAIL(v->plan, BITLM_FORMAT, "merge %zu of tokenizer.json is neither a text nor two", i);
        if (!json_is_string(m) && !v->spm && (strchr(json_string_value(a), ' ') || strchr(json_string_value(b), ' ')))
            return BL_PLAN_FAIL(v->plan, BITLM_UNSUPPORTED, "merge %zu of tokenizer.json holds a space", i);
        total += json_is_string(m) ? json_string_length(m) : json_string_length(a) + json_string_length(b) + 1;
    }
    v->n_merges = json_array_size(merges);
    v->merge_text = bl_malloc(&v->plan->alloc, total + 1);
    v->merges = bl_calloc(&v->plan->alloc, (size_t)v->n_merges + 1, sizeof *v->merges);
    if (!v->merge_text || !v->merges)
        return bl_error_nomem(v->plan->error, total, "the merges");
    json_array_foreach(merges, i, m) {
        const json_t *a = json_is_string(m) ? m : json_array_get(m, 0), *b = json_array_get(m, 1);
        size_t begin = at;
        memcpy(v->merge_text + at, json_string_value(a), json_string_length(a));
        at += json_string_length(a);
        if (b) {
            v->merge_text[at++] = ' ';
            memcpy(v->merge_text + at, json_string_value(b), json_string_length(b));
            at += json_string_length(b);
        }
        v->merges[i] = (bitlm_text){v->merge_text + begin, at - begin};
    }
    return BITLM_OK;
}

/* The stages of a pre_tokenizer, a Sequence laid open; at most 8. */
static size_t stages_of(const json_t *p, const json_t **stages) {
    const json_t *list = json_object_get(p, "pretokenizers");
    size_t n = 0;
    if (!json_is_object(p))
        return 0;
    if (!is_text(p, "type", "Sequence")) {
        stages[n++] = p;
        return n;
    }
    for (size_t i = 0; i < json_array_size(list) && n < 8; i++)
        stages[n++] = json_array_get(list, i);
    return n;
}

const char bl_pattern_llama3[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                             "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char bl_pattern_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                            "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* The name of the split pattern, as core/text/pretokenizers.c has it; NULL: none fits. */
static const char *find_pre(const vocabulary *v, int ignore_merges) {
    const json_t *stages[8], *normalizer = json_object_get(v->json, "normalizer");
    size_t n = stages_of(json_object_get(v->json, "pre_tokenizer"), stages);
    int nfc = is_text(normalizer, "type", "NFC");
    if ((json_is_object(normalizer) && !nfc) || n < 1 || n > 2 || !is_text(stages[n - 1], "type", "ByteLevel"))
        return NULL;
    if (json_is_true(json_object_get(stages[n - 1], "add_prefix_space")))
        return NULL;
    int regex = !json_is_false(json_object_get(stages[n - 1], "use_regex"));
    if (n == 1)
        return !regex || ignore_merges ? NULL : nfc ? "olmo" : "gpt-2";
    if (is_text(stages[0], "type", "Digits") && json_is_true(json_object_get(stages[0], "individual_digits")) && regex)
        return nfc || ignore_merges ? NULL : "smollm";
    const char *pattern = text_of(json_object_get(stages[0], "pattern"), "Regex");
    if (!is_text(stages[0], "type", "Split") || regex || !is_text(stages[0], "behavior", "Isolated") ||
        json_is_true(json_object_get(stages[0], "invert")))
        return NULL;
    if (strcmp(pattern, bl_pattern_llama3) == 0 && !nfc && ignore_merges)
        return "llama-bpe";
    return strcmp(pattern, bl_pattern_qwen2) == 0 && nfc && !ignore_merges ? "qwen2" : NULL;
}

/* Whether the post-processor puts a special token before or behind the text. */
static void read_frame(vocabulary *v) {
    const json_t *p = json_object_get(v->json, "post_processor"), *list = json_object_get(p, "processors");
    for (size_t i = 0; is_text(p, "type", "Sequence") && i < json_array_size(list); i++)
        if (is_text(json_array_get(list, i), "type", "TemplateProcessing"))
            p = json_array_get(list, i);
    if (is_text(p, "type", "TemplateProcessing")) {
        const json_t *single = json_object_get(p, "single");
        v->add_bos = json_object_get(json_array_get(single, 0), "SpecialToken") != NULL;
        v->add_eos = json_array_size(single) > 1 &&
                     json_object_get(json_array_get(single, json_array_size(single) - 1), "SpecialToken") != NULL;
    }
}

/* Of tokenizer_config.json, where a fast tokenizer obeys it. */
static void read_frame_flags(vocabulary *v) {
    const json_t *bos = json_object_get(v->config, "add_bos_token"), *eos = json_object_get(v->config, "add_eos_token");
    if (json_is_boolean(bos))
        v->add_bos = json_is_true(bos);
    if (json_is_boolean(eos))
        v->add_eos = json_is_true(eos);
}

static bitlm_status read_byte_level(vocabulary *v, const json_t *model) {
    int ignore = json_is_true(json_object_get(model, "ignore_merges"));
    bitlm_status status = read_vocab(v, json_object_get(model, "vocab"));
    if (!status)
        status = read_merges(v, json_object_get(model, "merges"));
    if (!status)
        status = read_added(v);
    if (status)
        return status;
    v->pre = v->plan->options->pre.length ? v->plan->options->pre.data : find_pre(v, ignore);
    if (!v->pre)
        return BL_PLAN_FAIL(v->plan, BITLM_UNSUPPORTED, "tokenizer.json splits text in a way that bitlm does not know; if you "
                            "know its name (docs/FORMATS.md, Tokenizers), give it as option pre");
    read_frame(v);
    if (!json_is_object(json_object_get(v->json, "post_processor")))
        read_frame_flags(v);
    return BITLM_OK;
}

/* ---- SentencePiece -------------------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b) {
    const bitlm_text *x = *(const bitlm_text *const *)a, *y = *(const bitlm_text *const *)b;
    int order = memcmp(x->data, y->data, BL_MIN(x->length, y->length));
    return order ? order : x->length < y->length ? -1 : x->length > y->length;
}

/* Scores from the merges of tokenizer.json: the lowest rank that makes a piece. */
static bitlm_status rank_scores(vocabulary *v) {
    const bl_alloc *a = &v->plan->alloc;
    const bitlm_text **sorted = bl_calloc(a, (size_t)v->n + 1, sizeof *sorted);
    char *joined = NULL;
    size_t room = 0;
    bitlm_status status = BITLM_OK;
    if (!sorted)
        return bl_error_nomem(v->plan->error, (size_t)v->n * sizeof *sorted, "the vocabulary");
    for (uint64_t i = 0; i < v->n; i++) {
        sorted[i] = &v->texts[i];
        v->scores[i] = -1e9f; /* no merge makes it */
    }
    qsort(sorted, (size_t)v->n, sizeof *sorted, by_text);
    for (uint64_t i = 0; i < v->n_merges; i++)
        room = BL_MAX(room, v->merges[i].length);
    joined = bl_malloc(a, room + 1);
    if (!joined)
        status = bl_error_nomem(v->plan->error, room + 1, "a merge");
    for (uint64_t i = v->n_merges; i-- > 0 && !status;) { /* backwards: the lowest rank is written last */
        const char *m = v->merges[i].data, *space = memchr(m, ' ', v->merges[i].length);
        size_t left = space ? (size_t)(space - m) : 0, n = space ? v->merges[i].length - 1 : 0;
        if (!space)
            continue;
        memcpy(joined, m, left);
        memcpy(joined + left, space + 1, n - left);
        bitlm_text text = {joined, n};
        const bitlm_text *wanted = &text, **found = bsearch(&wanted, sorted, (size_t)v->n, sizeof *sorted, by_text);
        if (found)
            v->scores[*found - v->texts] = -(float)i;
    }
    v->have_scores = 1;
    bl_free(a, joined);
    bl_free(a, sorted);
    return status;
}

/* Whether tokenizer.json puts a space mark before the text. */
static int prepends(const json_t *json) {
    const json_t *normalizer = json_object_get(json, "normalizer"), *list = json_object_get(normalizer, "normalizers"),
                 *pre = json_object_get(json, "pre_tokenizer");
    if (is_text(pre, "type", "Metaspace"))
        return !is_text(pre, "prepend_scheme", "never") && !json_is_false(json_object_get(pre, "add_prefix_space"));
    for (size_t i = 0; i < json_array_size(list); i++)
        if (is_text(json_array_get(list, i), "type", "Prepend"))
            return 1;
    return is_text(normalizer, "type", "Prepend");
}

static bitlm_status mark_unknown(vocabulary *v, const char *unknown) {
    for (uint64_t i = 0; i < v->n; i++)
        if (v->texts[i].length == strlen(unknown) && memcmp(v->texts[i].data, unknown, v->texts[i].length) == 0 &&
            v->types[i])
            v->types[i] = UNKNOWN;
    return BITLM_OK;
}

static bitlm_status read_spm_json(vocabulary *v, const json_t *model) {
    v->spm = 1;
    bitlm_status status = read_vocab(v, json_object_get(model, "vocab"));
    if (!status)
        status = read_merges(v, json_object_get(model, "merges"));
    if (!status)
        status = read_added(v);
    if (!status)
        status = mark_unknown(v, text_of(model, "unk_token"));
    if (status)
        return status;
    v->add_space_prefix = prepends(v->json);
    v->add_bos = 0;
    read_frame(v);
    if (!json_is_object(json_object_get(v->json, "post_processor")))
        read_frame_flags(v);
    return BITLM_OK;
}

/* ---- tokenizer.model: protobuf ---------------------------------------------------------------------------------- */

typedef struct field {
    unsigned number, wire;
    uint64_t value;          /* varint; or of 4 and 8 bytes */
    const uint8_t *data;     /* of a length-delimited one, `value` bytes */
} field;

static int read_varint(const uint8_t **p, const uint8_t *end, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 64 && *p < end; shift += 7) {
        uint8_t byte = *(*p)++;
        *value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            return 1;
    }
    return 0;
}

/* 1: a field; 0: the end; -1: malformed. */
static int next_field(const uint8_t **p, const uint8_t *end, field *f) {
    uint64_t tag;
    if (*p == end)
        return 0;
    if (!read_varint(p, end, &tag) || tag >> 3 == 0 || tag >> 3 > 536870911)
        return -1;
    f->number = (unsigned)(tag >> 3);
    f->wire = (unsigned)(tag & 7);
    size_t left, fixed = f->wire == 1 ? 8 : f->wire == 5 ? 4 : 0;
    if (f->wire == 0)
        return read_varint(p, end, &f->value) ? 1 : -1;
    if (f->wire == 2 && !read_varint(p, end, &f->value))
        return -1;
    left = (size_t)(end - *p);
    if (f->wire == 2 && f->value <= left) {
        f->data = *p;
        *p += f->value;
        return 1;
    }
    if (!fixed || fixed > left)
        return -1;
    f->value = fixed == 4 ? bl_read_u32(*p) : bl_read_u64(*p);
    *p += fixed;
    return 1;
}

/* A SentencePiece message: 1 piece, 2 score, 3 type. */
static bitlm_status read_piece(vocabulary *v, const uint8_t *p, size_t size, int64_t id) {
    const uint8_t *end = p + size;
    const char *text = "";
    size_t length = 0;
    float score = 0;
    uint64_t type = NORMAL;
    field f;
    int more;
    while ((more = next_field(&p, end, &f)) > 0) {
        if (f.number == 1 && f.wire == 2) {
            text = (const char *)f.data;
            length = (size_t)f.value;
        } else if (f.number == 2 && f.wire == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&score, &bits, sizeof score);
        } else if (f.number == 3 && f.wire == 0) {
            type = f.value;
        }
    }
    if (more < 0 || type < NORMAL || type > BYTE || isnan(score) || !bl_utf8_valid(text, length))
        return BL_PLAN_FAIL(v->plan, BITLM_FORMAT, "piece %lld of tokenizer.model is malformed", (long long)id);
    bitlm_status status = set_token(v, id, text, length, (int32_t)type);
    if (!status)
        v->scores[id] = score;
    return status;
}

static bitlm_status read_spm_model(vocabulary *v) {
    const uint8_t *p = (const uint8_t *)v->proto, *end = p + v->proto_size;
    uint64_t model_type = 1;
    int64_t id = 0;
    field f, g;
    int more;
    bitlm_status status = BITLM_OK;
    v->spm = v->have_scores = v->add_space_prefix = 1;
    while ((more = next_field(&p, end, &f)) > 0 && !status) {
        if (f.wire != 2)
            continue;
        const uint8_t *q = f.data, *inner = q + f.value;
        if (f.number == 1)
            status = read_piece(v, f.data, (size_t)f.value, id++);
        while ((f.number == 2 || f.number == 3) && (more = next_field(&q, inner, &g)) > 0)
            if (g.wire == 0 && g.number == 3) {
                if (f.number == 2)
                    model_type = g.value;
                else
                    v->add_space_prefix = g.value != 0;
            }
        if (more < 0)
            break;
    }
    if (!status && more < 0)
        status = BL_PLAN_FAIL(v->plan, BITLM_FORMAT, "tokenizer.model is no SentencePiece model: a field of it is malformed");
    if (!status && model_type != 2)
        status = BL_PLAN_FAIL(v->plan, BITLM_UNSUPPORTED, "tokenizer.model is of kind %llu, but bitlm runs 2 (BPE)",
                              (ull)model_type);
    if (status)
        return status;
    v->add_bos = 1; /* LLaMA's own default */
    read_frame_flags(v);
    return read_added(v);
}

/* ---- keys -------------------------------------------------------------------------------------------------- */

static int64_t find_token(const vocabulary *v, const char *text, size_t length) {
    for (uint64_t i = 0; length && i < v->n; i++)
        if (v->texts[i].length == length && memcmp(v->texts[i].data, text, length) == 0 && v->types[i] != UNUSED)
            return (int64_t)i;
    return -1;
}

/* The id of "bos_token", …: a text or {"content": text} in tokenizer_config.json, else NAME_id of the others. */
static int64_t special_id(const vocabulary *v, const char *name) {
    char id_name[40];
    const json_t *t = json_object_get(v->config, name), *sources[2] = {v->generation, v->model_config};
    if (json_is_object(t))
        t = json_object_get(t, "content");
    if (json_is_string(t))
        return find_token(v, json_string_value(t), json_string_length(t));
    snprintf(id_name, sizeof id_name, "%s_id", name);
    for (int i = 0; i < 2; i++) {
        const json_t *id = json_object_get(sources[i], id_name);
        if (json_is_array(id))
            id = json_array_get(id, 0);
        if (json_is_integer(id))
            return json_integer_value(id);
    }
    return -1;
}

static bitlm_status write_ids(vocabulary *v) {
    static const struct {
        const char *name, *key;
    } ids[] = {{"bos_token", "tokenizer.ggml.bos_token_id"},
               {"eos_token", "tokenizer.ggml.eos_token_id"},
               {"unk_token", "tokenizer.ggml.unknown_token_id"},
               {"pad_token", "tokenizer.ggml.padding_token_id"}};
    bl_gguf_writer *w = v->plan->writer;
    int64_t eos = special_id(v, "eos_token");
    const json_t *list = json_object_get(v->generation, "eos_token_id");
    for (size_t i = 0; i < BL_COUNT(ids); i++) {
        int64_t id = special_id(v, ids[i].name);
        if (id >= (int64_t)v->n)
            return BL_PLAN_FAIL(v->plan, BITLM_FORMAT, "%s has the id %lld, but the model has %llu tokens", ids[i].name,
                                (long long)id, (ull)v->n);
        if (id >= 0)
            bl_gguf_write_u32(w, ids[i].key, (uint32_t)id);
    }
    for (size_t i = 0; i < json_array_size(list); i++) { /* a second token that ends an answer */
        int64_t id = json_integer_value(json_array_get(list, i));
        if (id != eos && id > 0 && (uint64_t)id < v->n)
            return bl_gguf_write_u32(w, "tokenizer.ggml.eot_token_id", (uint32_t)id);
    }
    return BITLM_OK;
}

static bitlm_status write_template(vocabulary *v, const char *folder) {
    const json_t *t = json_object_get(v->config, "chat_template"), *each;
    size_t length = 0;
    char *text = NULL;
    bitlm_status status = BITLM_OK;
    for (size_t i = 0; json_is_array(t) && i < json_array_size(t); i++) {
        each = json_array_get(t, i);
        if (is_text(each, "name", "default")) {
            t = json_object_get(each, "template");
            break;
        }
    }
    if (json_is_string(t))
        return bl_gguf_write_string(v->plan->writer, "tokenizer.chat_template", json_string_value(t),
                                    json_string_length(t));
    status = bl_read_small_file(folder, "chat_template.jinja", (size_t)1 << 20, &v->plan->alloc, &text, &length,
                                v->plan->error);
    if (!status && text && bl_utf8_valid(text, length))
        status = bl_gguf_write_string(v->plan->writer, "tokenizer.chat_template", text, length);
    bl_free(&v->plan->alloc, text);
    return status;
}

static bitlm_status write_vocabulary(vocabulary *v, const char *folder) {
    bl_gguf_writer *w = v->plan->writer;
    const char *model = v->spm ? "llama" : "gpt2", *pre = v->spm ? "default" : v->pre;
    size_t pre_length = !v->spm && v->plan->options->pre.length ? v->plan->options->pre.length : strlen(pre);
    bl_gguf_write_string(w, "tokenizer.ggml.model", model, strlen(model));
    bl_gguf_write_string(w, "tokenizer.ggml.pre", pre, pre_length);
    bl_gguf_write_strings(w, "tokenizer.ggml.tokens", v->texts, v->n);
    if (v->spm)
        bl_gguf_write_f32s(w, "tokenizer.ggml.scores", v->scores, v->n);
    bl_gguf_write_i32s(w, "tokenizer.ggml.token_type", v->types, v->n);
    if (!v->spm)
        bl_gguf_write_strings(w, "tokenizer.ggml.merges", v->merges, v->n_merges);
    if (v->spm)
        bl_gguf_write_bool(w, "tokenizer.ggml.add_space_prefix", v->add_space_prefix);
    bl_gguf_write_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos);
    bl_gguf_write_bool(w, "tokenizer.ggml.add_eos_token", v->add_eos);
    bitlm_status status = write_ids(v);
    return status ? status : write_template(v, folder);
}

static bitlm_status read_vocabulary(vocabulary *v, const char *folder) {
    bl_plan *plan = v->plan;
    bitlm_status status = load_json(plan, folder, "tokenizer.json", &v->json);
    if (!status)
        status = load_json(plan, folder, "tokenizer_config.json", &v->config);
    if (!status)
        status = load_json(plan, folder, "generation_config.json", &v->generation);
    if (status)
        return status;
    const json_t *model = json_object_get(v->json, "model"), *stages[8];
    size_t n = stages_of(json_object_get(v->json, "pre_tokenizer"), stages);
    if (v->json && is_text(model, "type", "BPE") && n && is_text(stages[n - 1], "type", "ByteLevel"))
        return read_byte_level(v, model);
    status = bl_read_small_file(folder, "tokenizer.model", MAX_FILE, &plan->alloc, &v->proto, &v->proto_size, plan->error);
    if (status)
        return status;
    if (v->proto)
        return read_spm_model(v);
    if (!v->json)
        return BL_PLAN_FAIL(plan, BITLM_IO, "the folder has neither tokenizer.json nor tokenizer.model");
    if (is_text(model, "type", "BPE") && json_is_true(json_object_get(model, "byte_fallback")))
        return read_spm_json(v, model);
    return BL_PLAN_FAIL(plan, BITLM_UNSUPPORTED, "tokenizer.json is of type '%.30s', but bitlm converts byte-level BPE and BPE "
                        "with byte_fallback", text_of(model, "type"));
}

bitlm_status bl_convert_tokenizer(bl_plan *plan, const char *folder, uint64_t vocab_size, const void *config) {
    const bl_alloc *a = &plan->alloc;
    vocabulary v = {.plan = plan, .n = vocab_size, .model_config = config};
    bitlm_status status = BITLM_OK;
    v.texts = bl_calloc(a, (size_t)v.n, sizeof *v.texts);
    v.types = bl_calloc(a, (size_t)v.n, sizeof *v.types);
    v.scores = bl_calloc(a, (size_t)v.n, sizeof *v.scores);
    v.pads = bl_calloc(a, (size_t)v.n, sizeof *v.pads);
    if (!v.texts || !v.types || !v.scores || !v.pads)
        status = bl_error_nomem(plan->error, (size_t)v.n * sizeof *v.texts, "the vocabulary");
    if (!status)
        status = read_vocabulary(&v, folder);
    if (!status)
        status = fill_gaps(&v);
    if (!status && v.spm && !v.have_scores)
        status = rank_scores(&v);
    if (!status)
        status = write_vocabulary(&v, folder);
    bl_free(a, v.texts);
    bl_free(a, v.types);
    bl_free(a, v.scores);
    bl_free(a, v.pads);
    bl_free(a, v.merges);
    bl_free(a, v.merge_text);
    bl_free(a, v.proto);
    json_decref(v.json);
    json_decref(v.config);
    json_decref(v.generation);
    return status;
}
