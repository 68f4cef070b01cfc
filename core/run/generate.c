/* generate.c - texts generated a token at a time: tokenize, step, sample, detokenize, stop.
 *
 * Pull: the host asks for the next piece, so it can stop, stream or interleave as its own
 * iteration allows.  Text leaves only when it is final: whole UTF-8 characters, and nothing that
 * may turn out to be the beginning of a stop text.  Which texts step together and where they stand
 * in the cache is rows.c's.  Called through bitlm.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "run/run.h"

void bl_generation_end(bitlm_session *s) {
    if (s->gen.n_rows)
        s->n_cached = s->gen.rows[0].n_past;
    for (int64_t i = 0; i < s->gen.n_rows; i++)
        bl_constraint_free(s->gen.rows[i].constraint);
    bl_free(&s->alloc, s->gen.memory);
    bl_free(&s->alloc, s->gen.prompts);
    bl_ids_free(&s->gen.ids);
    memset(&s->gen, 0, sizeof s->gen);
}

/* ---- the prompt ----------------------------------------------------------------------------- */

static bitlm_status chat_tokens(bitlm_session *s, bitlm_text messages, const bitlm_options *o, size_t limit,
                                bl_ids *ids, bitlm_error *error) {
    const bitlm_model *m = s->model;
    char *text = NULL;
    size_t length, *segments = NULL, n_segments;
    char shown[60];
    bitlm_text jinja, system = o->chat_template ? (bitlm_text){"", 0} : m->chat_system;
    const bl_chat_template *chat = o->chat_template ? bl_chat_number(o->chat_template) : m->chat;
    if (!chat && bl_gguf_string(m->gguf, "tokenizer.chat_template", &jinja) == 1)
        return bl_error(error, BITLM_UNSUPPORTED, "the chat template of %s, which begins '%s', is none that bitlm renders; "
                        "choose one with the option chat_template (%s), or write the prompt out and use generate",
                        m->path, bl_show(shown, sizeof shown, jinja.data, jinja.length), bl_chat_names());
    if (!chat)
        return bl_error(error, BITLM_UNSUPPORTED, "the model %s has no chat template; choose one with the option "
                        "chat_template (%s), or use generate, which works with any model", m->path, bl_chat_names());
    bitlm_status status = bl_chat_render(chat, system, messages.data, messages.length, &s->alloc, &text, &length,
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
                              bl_ids *ids, bitlm_error *error) {
    size_t limit = o->truncate ? 0 : (size_t)s->n_ctx - 1;
    ids->n = 0;
    bitlm_status status = flags & BITLM_GENERATE_CHAT
                              ? chat_tokens(s, prompt, o, limit, ids, error)
                              : bl_tokenize(s->model->tokenizer, prompt.data, prompt.length, BITLM_TOKENS_FRAME,
                                            limit, &s->poll, ids, error);
    if (status == BITLM_LIMIT)
        bl_error(error, BITLM_LIMIT, "the prompt of %zu bytes has n_ctx = %lld tokens or more; shorten it, raise "
                 "n_ctx or give truncate", prompt.length, (long long)s->n_ctx);
    if (!status && o->truncate)
        truncate_ids(s, o, ids);
    if (!status && ids->n == 0)
        status = bl_error(error, BITLM_ARG, "the prompt has no tokens");
    return status;
}

static int is_about_the_prompt(bitlm_status status) {
    return status == BITLM_LIMIT || status == BITLM_ARG || status == BITLM_UNSUPPORTED;
}

/* All prompts' ids, one after the other. */
static bitlm_status take_prompts(bitlm_session *s, const bitlm_text *prompts, size_t n, uint32_t flags,
                                 const bitlm_options *o, bitlm_error *error) {
    bl_generation *g = &s->gen;
    bl_ids ids = {.alloc = &s->alloc};
    bitlm_status status = BITLM_OK;
    size_t bytes;
    if (n > INT32_MAX)
        return bl_error(error, BITLM_LIMIT, "%zu prompts were given, but a call takes at most 2147483647", n);
    if (!bl_mul_size(BL_MAX(n, 1), sizeof *g->prompts, &bytes) || !(g->prompts = bl_malloc(&s->alloc, bytes)))
        return bl_error(error, BITLM_NOMEM, "no memory for %zu prompts", n);
    g->ids.alloc = &s->alloc;
    for (size_t i = 0; i < n && !status; i++) {
        bl_prompt *p = &g->prompts[i];
        status = bl_prompt_tokens(s, prompts[i], flags, o, &ids, error);
        if (is_about_the_prompt(status) && flags & BITLM_GENERATE_SKIP) {
            bl_error_clear(error);
            status = BITLM_OK;
            ids.n = 0;
        } else if (status && n > 1 && error && is_about_the_prompt(status)) {
            char why[sizeof error->text];
            memcpy(why, error->text, sizeof why);
            bl_error(error, status, "prompt %zu: %s", i, why);
        }
        *p = (bl_prompt){.first = g->ids.n, .n = (int64_t)ids.n};
        /* Only a prompt that says something is continued with its space. */
        p->keep_space = ids.n > 0 && !(flags & BITLM_GENERATE_CHAT) &&
                        ids.data[ids.n - 1] != bl_tokenizer_bos(s->model->tokenizer);
        for (size_t j = 0; j < ids.n && !status; j++)
            status = bl_ids_push(&g->ids, ids.data[j], error);
    }
    g->n_prompts = (int64_t)n;
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
    size_t total = o->n_stop * sizeof(bitlm_text) + bytes + (size_t)g->n_rows * g->pending_cap + 1;
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
    for (int64_t i = 0; i < g->n_rows; i++)
        g->rows[i].pending = at + (size_t)i * g->pending_cap;
    return BITLM_OK;
}

/* One for each place, open to any prompt: the longest leaves the fewest tokens. */
static bitlm_status open_constraints(bitlm_session *s, const bitlm_options *o, bitlm_error *error) {
    bl_generation *g = &s->gen;
    bitlm_status status = BITLM_OK;
    int64_t longest = 0;
    for (int64_t i = 0; i < g->n_prompts; i++)
        longest = BL_MAX(longest, g->prompts[i].n);
    for (int64_t i = 0; i < g->n_rows && !status; i++)
        status = bl_constraint_open(s->model->tokenizer, o, BL_MIN((int64_t)o->max_tokens, s->n_ctx + 1 - longest),
                                    &s->alloc, &s->poll, &g->rows[i].constraint, error);
    return status;
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
    if (o->lookup < 0 || o->lookup >= BL_LOGIT_ROWS)
        return bl_error(error, BITLM_ARG, "lookup is %d, but must be 0 to %d", o->lookup, BL_LOGIT_ROWS - 1);
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
        status = bl_error(error, BITLM_UNSUPPORTED, "the model %s is an encoder: it embeds, but does not generate",
                          s->model->path);
    else
        status = check_sampling(options, error);
    if (!status)
        status = take_prompts(s, prompts, n, flags, options, error);
    s->gen.options = *options;
    s->gen.options.stop = s->gen.options.choices = NULL; /* the caller's memory */
    s->gen.options.json_schema = (bitlm_text){NULL, 0};
    s->gen.options.owned = NULL;
    if (!status) {
        bl_rows_begin(s);
        bl_short_begin(s, options);
        status = keep_stops(s, options, error);
    }
    if (!status)
        status = open_constraints(s, options, error);
    if (status) {
        bl_generation_end(s);
        return bl_session_leave(s, status, error);
    }
    s->gen.deadline_ns = s->poll.deadline_ns;
    s->gen.active = n > 0;
    return bl_session_leave(s, BITLM_OK, error);
}

/* ---- next ---------------------------------------------------------------------------------------- */

/* Length of the text before the first stop text; SIZE_MAX if none is there. */
static size_t find_stop(const bl_generation *g, const bl_row *r) {
    size_t first = SIZE_MAX;
    for (size_t i = 0; i < g->n_stop; i++) {
        size_t n = g->stop[i].length;
        for (size_t at = 0; at + n <= r->n_pending && at < first; at++)
            if (memcmp(r->pending + at, g->stop[i].data, n) == 0)
                first = at;
    }
    return first;
}

/* Bytes at the end of the pending text that may begin a stop text, back to a whole character. */
static size_t held_back(const bl_generation *g, const bl_row *r) {
    size_t most = 0;
    for (size_t i = 0; i < g->n_stop; i++)
        for (size_t n = BL_MIN(g->stop[i].length - 1, r->n_pending); n > most; n--)
            if (memcmp(r->pending + r->n_pending - n, g->stop[i].data, n) == 0)
                most = n;
    while (most && most < r->n_pending && (r->pending[r->n_pending - most] & 0xC0) == 0x80)
        most++;
    return most;
}

static void finish_piece(bl_row *r, bitlm_piece *piece, int32_t finish, size_t text_length) {
    piece->finish = finish;
    piece->text = r->pending;
    piece->text_length = text_length;
    r->active = 0;
}

/* The answer is whole: choices give their text now, an object what is left of it. */
static void finish_answer(bl_row *r, bitlm_piece *piece) {
    const bitlm_text *answer = bl_constraint_answer(r->constraint);
    if (answer) {
        memcpy(r->pending, answer->data, answer->length);
        r->n_pending = answer->length;
    }
    finish_piece(r, piece, BITLM_FINISH_STOP, r->n_pending);
}

/* Text that may leave: none of a choice before it is certain, and not the space in front of an object. */
static void constrained_piece(bitlm_session *s, bl_row *r, bitlm_piece *piece, int32_t token) {
    int over = bl_constraint_accept(r->constraint, s->model->tokenizer, token);
    if (!r->constraint->schema) {
        r->n_pending = 0;
    } else if (r->n_pending && r->pending[0] == ' ' && !r->said) {
        memmove(r->pending, r->pending + 1, --r->n_pending);
    }
    r->said |= r->n_pending > 0;
    if (over) {
        finish_answer(r, piece);
        return;
    }
    r->n_given = r->n_pending;
    piece->text = r->pending;
    piece->text_length = r->n_given;
}

/* The row's next piece, from logits that are there. */
static bitlm_status row_piece(bitlm_session *s, bl_row *r, bitlm_piece *piece, bitlm_error *error) {
    bl_generation *g = &s->gen;
    const bl_tokenizer *t = s->model->tokenizer;
    int32_t token;
    float logprob;
    memmove(r->pending, r->pending + r->n_given, r->n_pending - r->n_given);
    r->n_pending -= r->n_given;
    r->n_given = 0;
    int64_t left = BL_MIN(g->options.max_tokens - r->n_generated, s->n_ctx + 1 - r->n_tokens);
    int op = bl_profile_switch(&s->context.profile, BL_OP_SAMPLING);
    bitlm_status status = bl_sample(s, r, left, &token, &logprob, error);
    bl_profile_switch(&s->context.profile, op);
    if (status)
        return status;
    if (r->constraint && token == BL_STOP_HERE) {
        finish_answer(r, piece);
        return BITLM_OK;
    }
    if (!r->constraint && bl_tokenizer_is_end(t, token) && !g->options.ignore_eos) {
        r->n_pending += bl_detok_end(t, &r->detok, r->pending + r->n_pending);
        finish_piece(r, piece, BITLM_FINISH_STOP, r->n_pending);
        return BITLM_OK;
    }
    piece->token = token;
    piece->logprob = logprob;
    bl_row_accept(s, r, token);
    r->n_pending += bl_detok_next(t, &r->detok, token, 0, r->pending + r->n_pending);
    if (r->constraint) {
        constrained_piece(s, r, piece, token);
        return BITLM_OK;
    }
    size_t cut = find_stop(g, r);
    if (cut != SIZE_MAX) {
        finish_piece(r, piece, BITLM_FINISH_STOP, cut);
        return BITLM_OK;
    }
    int32_t finish = r->n_generated >= g->options.max_tokens ? BITLM_FINISH_LENGTH
                     : r->n_tokens > s->n_ctx                ? BITLM_FINISH_CONTEXT
                                                             : BITLM_FINISH_NONE;
    if (finish) {
        r->n_pending += bl_detok_end(t, &r->detok, r->pending + r->n_pending);
        finish_piece(r, piece, finish, r->n_pending);
        return BITLM_OK;
    }
    r->n_given = r->n_pending - held_back(g, r);
    piece->text = r->pending;
    piece->text_length = r->n_given;
    return BITLM_OK;
}

static bl_row *ready_row(bl_generation *g) {
    for (int64_t i = 0; i < g->n_rows; i++)
        if (g->rows[i].active && g->rows[i].n_ready)
            return &g->rows[i];
    return NULL;
}

/* A prompt that makes nothing: refused, or max_tokens is 0.  1 if there was one. */
static int empty_row(bl_generation *g, bitlm_piece *piece) {
    if (g->next_prompt == g->n_prompts)
        return 0;
    int refused = g->prompts[g->next_prompt].n == 0;
    if (!refused && g->options.max_tokens > 0)
        return 0;
    piece->row = (int32_t)g->next_prompt++;
    piece->finish = refused ? BITLM_FINISH_REFUSED : BITLM_FINISH_LENGTH;
    piece->text = "";
    return 1;
}

static bitlm_status next_piece(bitlm_session *s, bitlm_piece *piece, bitlm_error *error) {
    bl_generation *g = &s->gen;
    bitlm_status status = BITLM_OK;
    bl_row *r = ready_row(g);
    piece->row = piece->n = 0;
    piece->token = -1;
    piece->finish = BITLM_FINISH_NONE;
    piece->logprob = NAN;
    piece->text_length = 0;
    if (!r && empty_row(g, piece)) {
        g->active = g->next_prompt < g->n_prompts;
        for (int64_t i = 0; i < g->n_rows; i++)
            g->active |= g->rows[i].active;
        return BITLM_OK;
    }
    if (!r) {
        status = bl_rows_step(s);
        r = ready_row(g);
    }
    if (status)
        return status;
    piece->row = r->number;
    piece->n = (int32_t)r->n_generated;
    status = row_piece(s, r, piece, error);
    if (!r->active) {
        g->active = g->next_prompt < g->n_prompts;
        for (int64_t i = 0; i < g->n_rows; i++)
            g->active |= g->rows[i].active;
    }
    return status;
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
