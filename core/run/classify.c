/* classify.c - how probable each of some labels is for a text: bitlm_classify.
 *
 * A decoder is asked in words and its answer is held to the trie of labels: at each node the weights of the
 * tokens that go on (and of stopping, where a label ends there) are made to sum to 1, and a label's
 * probability is the product along its way, summed over its ways.  It is what generating with these choices
 * at temperature 1 draws from.  An encoder compares: softmax of cosine(text, label) / 0.05.
 *
 * Called through bitlm.h. */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "base/utf8.h"
#include "run/run.h"

#define COSINE_TEMPERATURE 0.05
#define CONTENT "Which of these labels fits the text best? Labels: "

/* ---- the question ------------------------------------------------------------------------------- */

/* Labels with commas between. */
static json_t *list_labels(const bitlm_options *o) {
    json_t *list = json_string("");
    for (size_t i = 0; i < o->n_choices && list; i++) {
        json_t *next = json_sprintf("%s%s%.*s", json_string_value(list), i ? ", " : "", (int)o->choices[i].length,
                                    o->choices[i].data);
        json_decref(list);
        list = next;
    }
    return list;
}

/* Bytes that are no UTF-8 would be refused by jansson: the tokenizer reads them as U+FFFD anyway. */
static char *clean(const bl_alloc *alloc, bitlm_text text, size_t *length) {
    char *out = bl_malloc(alloc, text.length * 3 + 1);
    size_t n = 0, i = 0;
    while (out && i < text.length) {
        size_t used;
        int valid;
        bl_utf8_decode((const uint8_t *)text.data + i, text.length - i, &used, &valid);
        memcpy(out + n, valid ? text.data + i : "\xEF\xBF\xBD", valid ? used : 3);
        n += valid ? used : 3;
        i += used;
    }
    *length = n;
    return out;
}

/* The prompt: for a chat model a list of messages, else a text.  malloc'ed by jansson or by us. */
static bitlm_status build_prompt(bitlm_session *s, bitlm_text text, const bitlm_options *o, char **prompt,
                                 size_t *length, bitlm_error *error) {
    json_t *labels = list_labels(o), *content = NULL, *messages = NULL;
    size_t n = 0;
    char *words = clean(&s->alloc, text, &n);
    *prompt = NULL;
    if (labels && words && s->model->chat) {
        size_t bytes = sizeof CONTENT + json_string_length(labels) + n + 80, used;
        char *joined = bl_malloc(&s->alloc, bytes);
        if (joined) {
            used = (size_t)snprintf(joined, bytes, "%s%s.\n\nText: ", CONTENT, json_string_value(labels));
            memcpy(joined + used, words, n);
            used += n;
            used += (size_t)snprintf(joined + used, bytes - used, "\n\nAnswer with the label only.");
            content = json_stringn(joined, used);
            messages = content ? json_pack("[{s:s,s:O}]", "role", "user", "content", content) : NULL;
            char *dumped = messages ? json_dumps(messages, JSON_COMPACT) : NULL;
            if (dumped && (*prompt = bl_malloc(&s->alloc, strlen(dumped) + 1)))
                memcpy(*prompt, dumped, *length = strlen(dumped));
            free(dumped);
        }
        bl_free(&s->alloc, joined);
    } else if (labels && words) {
        size_t bytes = json_string_length(labels) + n + 40;
        if ((*prompt = bl_malloc(&s->alloc, bytes))) {
            memcpy(*prompt, words, n);
            *length = n + (size_t)snprintf(*prompt + n, bytes - n, "\nLabel (%s):", json_string_value(labels));
        }
    }
    bl_free(&s->alloc, words);
    json_decref(content);
    json_decref(messages);
    json_decref(labels);
    return *prompt ? BITLM_OK : bl_error_nomem(error, text.length, "the prompt");
}

/* ---- a decoder ---------------------------------------------------------------------------------------- */

typedef struct visit {
    int32_t node, depth;
    double probability;
} visit;

/* Divides the node's probability among what may follow it. */
static int32_t divide(bitlm_session *s, const bl_trie *trie, const visit *at, visit *stack, double *probabilities) {
    const bl_choice_node *nodes = trie->nodes;
    bl_candidate *c = s->candidates + BL_REPEAT_WINDOW;
    int64_t n = bl_trie_candidates(trie, at->node, s->logits, s->model->vocab_size, INT32_MAX, c);
    double max = -INFINITY, sum = 0;
    int32_t pushed = 0;
    for (int64_t i = 0; i < n; i++)
        max = (double)c[i].logit > max ? (double)c[i].logit : max;
    for (int64_t i = 0; i < n; i++)
        sum += bl_exp(BL_MAX((double)c[i].logit - max, -700.0));
    for (int64_t i = 0; i < n; i++) {
        double p = at->probability * bl_exp(BL_MAX((double)c[i].logit - max, -700.0)) / sum;
        if (c[i].id == BL_STOP_HERE) {
            probabilities[nodes[at->node].choice] += p;
            continue;
        }
        int32_t child = bl_trie_child(trie, at->node, c[i].id);
        if (nodes[child].child < 0)
            probabilities[nodes[child].choice] += p;
        else
            stack[pushed++] = (visit){child, at->depth + 1, p};
    }
    return pushed;
}

/* Depth first: what a node leaves in the cache beyond its depth, the next one overwrites. */
static bitlm_status walk(bitlm_session *s, const bl_ids *prompt, const bl_trie *trie, double *probabilities,
                         bitlm_error *error) {
    int64_t n_prompt = (int64_t)prompt->n;
    /* Texts of one query begin alike: what the last call left is not computed again. */
    int64_t past = bl_common_ids(prompt->data, s->tokens, BL_MIN(n_prompt - 1, s->n_cached));
    int32_t n = 0;
    visit *stack = bl_calloc(&s->alloc, (size_t)trie->n, sizeof *stack);
    bitlm_status status = BITLM_OK;
    if (!stack)
        return bl_error_nomem(error, (size_t)trie->n * sizeof *stack, "the labels");
    memcpy(s->tokens, prompt->data, prompt->n * sizeof *s->tokens);
    s->n_cached = past;
    stack[n++] = (visit){0, 0, 1.0};
    while (n > 0 && !status) {
        visit at = stack[--n];
        int64_t from = at.depth ? n_prompt + at.depth - 1 : past, count = at.depth ? 1 : n_prompt - past;
        if (n_prompt + at.depth > s->n_ctx) {
            status = bl_error(error, BITLM_LIMIT, "the text and its labels take more than n_ctx = %lld tokens",
                              (long long)s->n_ctx);
            break;
        }
        if (at.depth)
            s->tokens[from] = trie->nodes[at.node].token;
        status = bl_session_prefill(s, s->tokens + from, count, from);
        int32_t last = (int32_t)((count - 1) % s->context.max_batch);
        if (!status)
            status = bl_forward_logits(&s->context, &last, 1, s->logits);
        if (!status)
            n += divide(s, trie, &at, stack + n, probabilities);
    }
    if (!status)
        s->n_cached = n_prompt;
    bl_free(&s->alloc, stack);
    return status;
}

static bitlm_status classify_by_words(bitlm_session *s, bitlm_text text, const bitlm_options *o,
                                      double *probabilities, bitlm_error *error) {
    bl_trie trie = {0};
    bl_ids ids = {.alloc = &s->alloc};
    char *prompt = NULL;
    size_t length = 0;
    bitlm_status status = bl_session_enter(s, o->timeout_ms, error);
    if (status)
        return status;
    bl_generation_end(s);
    memset(probabilities, 0, o->n_choices * sizeof *probabilities);
    status = build_prompt(s, text, o, &prompt, &length, error);
    if (!status)
        status = bl_prompt_tokens(s, (bitlm_text){prompt, length}, s->model->chat ? BITLM_GENERATE_CHAT : 0, o, &ids,
                                  error);
    if (!status)
        status = bl_trie_build(s->model->tokenizer, o->choices, o->n_choices, &s->alloc, &s->poll, &trie, error);
    if (!status)
        status = walk(s, &ids, &trie, probabilities, error);
    bl_trie_free(&trie, &s->alloc);
    bl_free(&s->alloc, prompt);
    bl_ids_free(&ids);
    return bl_session_leave(s, status, error);
}

/* ---- an encoder ------------------------------------------------------------------------------------------ */

static bitlm_status classify_by_likeness(bitlm_session *s, bitlm_text text, const bitlm_options *o,
                                         double *probabilities, bitlm_error *error) {
    size_t n = o->n_choices, dim = (size_t)s->model->embedding_size;
    bitlm_text *texts = bl_calloc(&s->alloc, n + 1, sizeof *texts);
    float *vectors = bl_calloc(&s->alloc, (n + 1) * dim, sizeof *vectors);
    bitlm_status status = texts && vectors ? BITLM_OK : bl_error_nomem(error, (n + 1) * dim * 4, "the labels");
    if (!status) {
        texts[0] = text;
        memcpy(texts + 1, o->choices, n * sizeof *texts);
        status = bitlm_embed_batch(s, texts, n + 1, BITLM_EMBED_F32, o, vectors, dim * sizeof *vectors, NULL, error);
    }
    if (!status) {
        double max = -INFINITY, sum = 0;
        for (size_t i = 0; i < n; i++) {
            double likeness = bitlm_cosine(vectors, vectors + (i + 1) * dim, dim) / COSINE_TEMPERATURE;
            probabilities[i] = likeness;
            max = BL_MAX(max, likeness);
        }
        for (size_t i = 0; i < n; i++)
            sum += probabilities[i] = bl_exp(probabilities[i] - max);
        for (size_t i = 0; i < n; i++)
            probabilities[i] /= sum;
    }
    bl_free(&s->alloc, texts);
    bl_free(&s->alloc, vectors);
    return status;
}

bitlm_status bitlm_classify(bitlm_session *s, const char *text, size_t length, const bitlm_options *options,
                            double *probabilities, bitlm_error *error) {
    bl_error_clear(error);
    if (!s || !options || !probabilities)
        return bl_error(error, BITLM_ARG, "bitlm_classify needs a session, options and room for the result");
    if (options->n_choices == 0)
        return bl_error(error, BITLM_ARG, "bitlm_classify needs at least one label");
    bitlm_text all = {text, length};
    bitlm_status status = bl_check_choices(options->choices, options->n_choices, error);
    if (status)
        return status;
    return s->model->head.data ? classify_by_words(s, all, options, probabilities, error)
                               : classify_by_likeness(s, all, options, probabilities, error);
}

bitlm_status bitlm_classification_json(const bitlm_options *options, const double *probabilities, char *json,
                                       size_t capacity, size_t *length, bitlm_error *error) {
    size_t n = options->n_choices;
    bitlm_status status = BITLM_NOMEM;
    char *dumped = NULL;
    bl_error_clear(error);
    json_t *object = json_pack("{}"); /* PostgreSQL exports a json_object() of its own, which would come first */
    uint8_t *used = calloc(n + 1, 1);
    for (size_t i = 0; i < n && object && used; i++) {
        size_t best = n;
        for (size_t j = 0; j < n; j++)
            if (!used[j] && (best == n || probabilities[j] > probabilities[best]))
                best = j;
        used[best] = 1;
        if (json_object_set_new(object, options->choices[best].data, json_real(probabilities[best])) != 0)
            goto done;
    }
    dumped = object && used ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    if (dumped) {
        *length = strlen(dumped);
        status = *length > capacity ? BITLM_LIMIT : BITLM_OK;
        if (!status)
            memcpy(json, dumped, *length);
    }
done:
    if (status == BITLM_LIMIT)
        bl_error(error, status, "the result has %zu bytes, but there is room for %zu", *length, capacity);
    else if (status)
        bl_error_nomem(error, n * 16, "the result");
    free(dumped);
    free(used);
    json_decref(object);
    return status;
}
