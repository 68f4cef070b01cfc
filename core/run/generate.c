/* generate.c - one text generated a token at a time: tokenize, prefill, sample, detokenize, stop.
 *
 * Pull: the host asks for the next piece, so it can stop, stream or interleave as its own
 * iteration allows.  Text leaves only when it is final: whole UTF-8 characters, and nothing that
 * may turn out to be the beginning of a stop text.  Called through bitlm.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "run/run.h"

void bl_generation_end(bitlm_session *s) {
    bl_free(&s->alloc, s->gen.memory);
    bl_constraint_free(s->gen.constraint);
    memset(&s->gen, 0, sizeof s->gen);
}

/* ---- the prompt ----------------------------------------------------------------------------- */

static bitlm_status chat_tokens(bitlm_session *s, bitlm_text messages, size_t limit, bl_ids *ids,
                                bitlm_error *error) {
    const bitlm_model *m = s->model;
    char *text = NULL;
    size_t length, *segments = NULL, n_segments;
    bitlm_text jinja;
    if (!m->chat && bl_gguf_string(m->gguf, "tokenizer.chat_template", &jinja) == 1)
        return bl_error(error, BITLM_UNSUPPORTED, "the chat template of %s is none that bitlm renders (%s); write the "
                        "prompt out and use generate", m->path, bl_chat_names());
    if (!m->chat)
        return bl_error(error, BITLM_UNSUPPORTED, "the model %s has no chat template; chat needs a model that has "
                        "one, generate works with any", m->path);
    bitlm_status status = bl_chat_render(m->chat, messages.data, messages.length, &s->alloc, &text, &length,
                                         &segments, &n_segments, error);
    if (!status)
        status = bl_tokenize_marked(m->tokenizer, text, length, segments, n_segments,
                                    BITLM_TOKENS_FRAME | BITLM_TOKENS_SPECIAL, limit,
                                    &s->poll, ids, error);
    bl_free(&s->alloc, text);
    bl_free(&s->alloc, segments);
    return status;
}

/* Drops tokens so that the prompt and some room for the answer fit n_ctx; a BOS stays first. */
static void truncate_ids(const bitlm_session *s, const bitlm_options *o, bl_ids *ids) {
    int64_t room = BL_MAX(1, BL_MIN((int64_t)o->max_tokens, s->n_ctx / 2));
    size_t keep = (size_t)(s->n_ctx - room);
    if (ids->n <= keep)
        return;
    if (o->truncate == BITLM_TRUNCATE_START) {
        size_t head = ids->data[0] == bl_tokenizer_bos(s->model->tokenizer);
        memmove(ids->data + head, ids->data + ids->n - (keep - head), (keep - head) * sizeof *ids->data);
    }
    ids->n = keep;
}

bitlm_status bl_prompt_tokens(bitlm_session *s, bitlm_text prompt, uint32_t flags, const bitlm_options *o,
                              bitlm_error *error) {
    bl_ids ids = {.alloc = &s->alloc};
    size_t limit = o->truncate ? 0 : (size_t)s->n_ctx - 1;
    bitlm_status status = flags & BITLM_GENERATE_CHAT
                              ? chat_tokens(s, prompt, limit, &ids, error)
                              : bl_tokenize(s->model->tokenizer, prompt.data, prompt.length, BITLM_TOKENS_FRAME,
                                            limit, &s->poll, &ids, error);
    if (status == BITLM_LIMIT)
        bl_error(error, BITLM_LIMIT, "the prompt of %zu bytes has n_ctx = %lld tokens or more; shorten it, raise "
                 "n_ctx or give truncate", prompt.length, (long long)s->n_ctx);
    if (!status && o->truncate)
        truncate_ids(s, o, &ids);
    if (!status && ids.n == 0)
        status = bl_error(error, BITLM_ARG, "the prompt has no tokens");
    if (!status) {
        memcpy(s->tokens, ids.data, ids.n * sizeof *ids.data);
        s->gen.n_tokens = (int64_t)ids.n;
        /* Only a prompt that says something is continued with its space. */
        s->gen.detok.keep_space =
            !(flags & BITLM_GENERATE_CHAT) && ids.data[ids.n - 1] != bl_tokenizer_bos(s->model->tokenizer);
    }
    bl_ids_free(&ids);
    return status;
}

/* ---- start ------------------------------------------------------------------------------------ */

static bitlm_status keep_stops(bitlm_session *s, const bitlm_options *o, bitlm_error *error) {
    bl_generation *g = &s->gen;
    size_t bytes = 0;
    for (size_t i = 0; i < o->n_stop; i++) {
        bytes += o->stop[i].length;
        g->longest_stop = BL_MAX(g->longest_stop, o->stop[i].length);
    }
    g->pending_cap = g->longest_stop + 2 * BL_DETOK_CAP(bl_tokenizer_max_bytes(s->model->tokenizer));
    for (size_t i = 0; i < o->n_choices; i++) /* a choice comes out whole */
        g->pending_cap = BL_MAX(g->pending_cap, o->choices[i].length);
    size_t total = o->n_stop * sizeof(bitlm_text) + bytes + g->pending_cap;
    g->memory = bl_malloc(&s->alloc, total);
    if (!g->memory)
        return bl_error_nomem(error, total, "the generation");
    g->stop = g->memory;
    g->n_stop = o->n_stop;
    char *at = (char *)(g->stop + o->n_stop);
    for (size_t i = 0; i < o->n_stop; i++) {
        memcpy(at, o->stop[i].data, o->stop[i].length);
        g->stop[i] = (bitlm_text){at, o->stop[i].length};
        at += o->stop[i].length;
    }
    g->pending = at;
    return BITLM_OK;
}

static bitlm_status check_sampling(const bitlm_options *o, bitlm_error *error) {
    if (o->max_tokens < 0)
        return bl_error(error, BITLM_ARG, "max_tokens is %d, but must not be negative", o->max_tokens);
    if (!(o->temperature >= 0.0f && o->temperature <= 100.0f))
        return bl_error(error, BITLM_ARG, "temperature is %g, but must be 0 to 100", (double)o->temperature);
    if (!(o->top_p > 0.0f && o->top_p <= 1.0f))
        return bl_error(error, BITLM_ARG, "top_p is %g, but must be above 0 and at most 1", (double)o->top_p);
    if (!(o->min_p >= 0.0f && o->min_p <= 1.0f))
        return bl_error(error, BITLM_ARG, "min_p is %g, but must be 0 to 1", (double)o->min_p);
    if (!(o->repeat_penalty > 0.0f && o->repeat_penalty <= 10.0f))
        return bl_error(error, BITLM_ARG, "repeat_penalty is %g, but must be above 0 and at most 10",
                        (double)o->repeat_penalty);
    if (o->top_k < 0 || o->timeout_ms < 0)
        return bl_error(error, BITLM_ARG, "top_k and timeout_ms must not be negative");
    return BITLM_OK;
}

bitlm_status bitlm_generate_start(bitlm_session *s, const bitlm_text *prompts, size_t n, uint32_t flags,
                                  const bitlm_options *options, bitlm_error *error) {
    bitlm_options defaults;
    if (!options) {
        bitlm_options_init(&defaults);
        options = &defaults;
    }
    bitlm_status status = bl_session_enter(s, options->timeout_ms, error);
    if (status)
        return status;
    bl_generation_end(s);
    if (!s->model->head.data)
        status = bl_error(error, BITLM_ARG, "the model %s is an encoder: it embeds, but does not generate",
                          s->model->path);
    else if (n != 1)
        status = bl_error(error, BITLM_LIMIT, "%zu prompts were given, but a session takes 1", n);
    else
        status = check_sampling(options, error);
    if (!status)
        status = keep_stops(s, options, error);
    if (!status)
        status = bl_prompt_tokens(s, prompts[0], flags, options, error);
    if (!status)
        status = bl_constraint_open(s->model->tokenizer, options,
                                    BL_MIN((int64_t)options->max_tokens, s->n_ctx + 1 - s->gen.n_tokens), &s->alloc,
                                    &s->poll, &s->gen.constraint, error);
    if (status) {
        bl_generation_end(s);
        return bl_session_leave(s, status, error);
    }
    s->gen.options = *options;
    s->gen.options.stop = s->gen.options.choices = NULL; /* the caller's memory */
    s->gen.options.json_schema = (bitlm_text){NULL, 0};
    s->gen.options.owned = NULL;
    s->gen.deadline_ns = s->poll.deadline_ns;
    s->gen.active = 1;
    return bl_session_leave(s, BITLM_OK, error);
}

/* ---- next ---------------------------------------------------------------------------------------- */

/* Length of the text before the first stop text; SIZE_MAX if none is there. */
static size_t find_stop(const bl_generation *g) {
    size_t first = SIZE_MAX;
    for (size_t i = 0; i < g->n_stop; i++) {
        size_t n = g->stop[i].length;
        for (size_t at = 0; at + n <= g->n_pending && at < first; at++)
            if (memcmp(g->pending + at, g->stop[i].data, n) == 0)
                first = at;
    }
    return first;
}

/* Bytes at the end of the pending text that may begin a stop text, back to a whole character. */
static size_t held_back(const bl_generation *g) {
    size_t most = 0;
    for (size_t i = 0; i < g->n_stop; i++)
        for (size_t n = BL_MIN(g->stop[i].length - 1, g->n_pending); n > most; n--)
            if (memcmp(g->pending + g->n_pending - n, g->stop[i].data, n) == 0)
                most = n;
    while (most && most < g->n_pending && (g->pending[g->n_pending - most] & 0xC0) == 0x80)
        most++;
    return most;
}

/* The logits after all tokens so far. */
static bitlm_status advance(bitlm_session *s) {
    bl_generation *g = &s->gen;
    int64_t n = g->n_tokens - g->n_past;
    bitlm_status status = bl_session_prefill(s, s->tokens + g->n_past, n, g->n_past);
    if (status)
        return status;
    g->n_past = g->n_tokens;
    int32_t last = (int32_t)((n - 1) % s->context.max_batch);
    return bl_forward_logits(&s->context, &last, 1, s->logits);
}

/* Tokens that the answer may still have. */
static int64_t tokens_left(const bitlm_session *s) {
    const bl_generation *g = &s->gen;
    return BL_MIN(g->options.max_tokens - g->n_generated, s->n_ctx + 1 - g->n_tokens);
}

static void finish_piece(bitlm_session *s, bitlm_piece *piece, int32_t finish, size_t text_length) {
    bl_generation *g = &s->gen;
    piece->finish = finish;
    piece->text = g->pending;
    piece->text_length = text_length;
    g->active = 0;
}

/* The answer is whole: choices give their text now, an object what is left of it. */
static void finish_answer(bitlm_session *s, bitlm_piece *piece) {
    bl_generation *g = &s->gen;
    const bitlm_text *answer = bl_constraint_answer(g->constraint);
    if (answer) {
        memcpy(g->pending, answer->data, answer->length);
        g->n_pending = answer->length;
    }
    finish_piece(s, piece, BITLM_FINISH_STOP, g->n_pending);
}

/* Text that may leave: none of a choice before it is certain, and not the space in front of an object. */
static void constrained_piece(bitlm_session *s, bitlm_piece *piece, int32_t token) {
    bl_generation *g = &s->gen;
    int over = bl_constraint_accept(g->constraint, s->model->tokenizer, token);
    if (!g->constraint->schema) {
        g->n_pending = 0;
    } else if (g->n_pending && g->pending[0] == ' ' && !g->said) {
        memmove(g->pending, g->pending + 1, --g->n_pending);
    }
    g->said |= g->n_pending > 0;
    if (over) {
        finish_answer(s, piece);
        return;
    }
    g->n_given = g->n_pending;
    piece->text = g->pending;
    piece->text_length = g->n_given;
}

static bitlm_status next_piece(bitlm_session *s, bitlm_piece *piece, bitlm_error *error) {
    bl_generation *g = &s->gen;
    const bl_tokenizer *t = s->model->tokenizer;
    int32_t token;
    float logprob;
    piece->row = 0;
    piece->n = (int32_t)g->n_generated;
    piece->token = -1;
    piece->finish = BITLM_FINISH_NONE;
    piece->logprob = NAN;
    memmove(g->pending, g->pending + g->n_given, g->n_pending - g->n_given);
    g->n_pending -= g->n_given;
    g->n_given = 0;
    if (g->n_generated >= g->options.max_tokens) { /* max_tokens is 0 */
        finish_piece(s, piece, BITLM_FINISH_LENGTH, 0);
        return BITLM_OK;
    }
    bitlm_status status = advance(s);
    if (!status)
        status = bl_sample(s, s->tokens, g->n_tokens, (uint64_t)g->n_generated, tokens_left(s), &token, &logprob,
                           error);
    if (status)
        return status;
    if (g->constraint && token == BL_STOP_HERE) {
        finish_answer(s, piece);
        return BITLM_OK;
    }
    if (!g->constraint && bl_tokenizer_is_end(t, token) && !g->options.ignore_eos) {
        g->n_pending += bl_detok_end(t, &g->detok, g->pending + g->n_pending);
        finish_piece(s, piece, BITLM_FINISH_STOP, g->n_pending);
        return BITLM_OK;
    }
    piece->token = token;
    piece->logprob = logprob;
    s->tokens[g->n_tokens++] = token;
    g->n_generated++;
    g->n_pending += bl_detok_next(t, &g->detok, token, 0, g->pending + g->n_pending);
    if (g->constraint) {
        constrained_piece(s, piece, token);
        return BITLM_OK;
    }
    size_t cut = find_stop(g);
    if (cut != SIZE_MAX) {
        finish_piece(s, piece, BITLM_FINISH_STOP, cut);
        return BITLM_OK;
    }
    int32_t finish = g->n_generated >= g->options.max_tokens ? BITLM_FINISH_LENGTH
                     : g->n_tokens > s->n_ctx                ? BITLM_FINISH_CONTEXT
                                                             : BITLM_FINISH_NONE;
    if (finish) {
        g->n_pending += bl_detok_end(t, &g->detok, g->pending + g->n_pending);
        finish_piece(s, piece, finish, g->n_pending);
        return BITLM_OK;
    }
    g->n_given = g->n_pending - held_back(g);
    piece->text = g->pending;
    piece->text_length = g->n_given;
    return BITLM_OK;
}

bitlm_status bitlm_generate_next(bitlm_session *s, bitlm_piece *piece, bitlm_error *error) {
    bitlm_status status = bl_session_enter(s, 0, error);
    if (status)
        return status;
    s->poll.deadline_ns = s->gen.deadline_ns; /* of the whole generation */
    s->poll.timeout_ms = s->gen.options.timeout_ms;
    if (!piece || piece->size < sizeof *piece)
        return bl_session_leave(s, bl_error(error, BITLM_ARG, "bitlm_generate_next needs a piece whose size is set"),
                                error);
    if (!s->gen.active) {
        int finished = s->gen.memory != NULL;
        bl_generation_end(s);
        if (finished)
            return bl_session_leave(s, BITLM_DONE, error);
        return bl_session_leave(s, bl_error(error, BITLM_ARG, "no generation is running in this session"), error);
    }
    status = next_piece(s, piece, error);
    if (status)
        bl_generation_end(s);
    return bl_session_leave(s, status, error);
}
