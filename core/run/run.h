/* run.h - a session and its parts, shared by the files of core/run.
 *
 * session.c owns the struct and the rules of entry (one user, float environment, poll);
 * generate.c, rows.c, sampler.c and embed.c work on it. */
#ifndef BL_RUN_H
#define BL_RUN_H

#include "model/shortlist.h"
#include "run/constraint.h"
#include "run/lookup.h"

#define BL_REPEAT_WINDOW 64  /* tokens that repeat_penalty looks back on */
#define BL_MAX_ROWS 16       /* texts that step together */
#define BL_LOGIT_ROWS 16     /* logits of one step: a row's last token and each token of its draft */

/* A prompt that waits for a place: n ids from `first` in the generation's list. */
typedef struct bl_prompt {
    size_t first;
    int64_t n;              /* 0: refused, its only piece says so */
    int32_t keep_space;     /* the answer's own first space belongs to it */
} bl_prompt;

/* A place in the KV cache and the text that is made there.  Also when the text is over, the
 * cache holds tokens[0 .. n_past), for the next prompt that begins like it. */
typedef struct bl_row {
    int32_t active;
    int32_t number;         /* of the prompt */
    int64_t base;           /* where its stretch of the cache begins */
    int32_t *tokens;        /* ids: prompt, generated, then the draft of the running step */
    int64_t n_tokens;       /* prompt and generated */
    int64_t n_past;         /* of these, in the KV cache */
    int64_t n_generated;
    int64_t n_draft, n_held; /* tokens guessed in the last step, and how many of them came */
    int64_t n_ready;        /* logits that wait: after n_tokens, and after each guess that holds */
    float *logits;          /* the first of them */
    bl_guess guess;
    bl_detok detok;
    bl_constraint *constraint;  /* NULL: any answer; made for the place, begun again for each prompt */
    int32_t said;           /* some text of a constrained answer has left */
    char *pending;          /* text that is not given out yet */
    size_t n_pending, n_given;  /* bytes held, of these given by the last piece */
} bl_row;

/* One running generation of one or many texts. */
typedef struct bl_generation {
    int32_t active;
    bitlm_options options;  /* scalars only: stop lies in `memory` */
    uint64_t deadline_ns;
    void *memory;           /* stop texts and the pending buffers */
    bitlm_text *stop;
    size_t n_stop, longest_stop;
    size_t pending_cap;
    bl_ids ids;             /* of all prompts, one after the other */
    bl_prompt *prompts;     /* (n_prompts) */
    int64_t n_prompts, next_prompt;
    bl_row rows[BL_MAX_ROWS];
    int64_t n_rows;         /* places, each of `stretch` positions */
    int64_t stretch;
    int64_t n_logits;       /* rows of session->logits in use */
} bl_generation;

/* Option head = shortlist (settle.c). */
typedef struct bl_short_head {
    const bl_shortlist *list;  /* NULL: the full head */
    float *inputs;             /* (BL_LOGIT_ROWS, hidden_size) of the head, for the logits that wait */
    int8_t *codes;             /* (2, BL_LOGIT_ROWS, hidden_size) they in int8, for a step */
    bl_head_bound bounds[BL_LOGIT_ROWS];
    uint8_t rough[BL_LOGIT_ROWS]; /* these logits are the copy's */
    int64_t limit;             /* tokens that may be computed, beside those of the penalty */
    int32_t *kept;             /* (limit + BL_REPEAT_WINDOW + 1) tokens to compute */
    double *lows;              /* (limit + 1) the greatest, for top_k */
    int32_t on;                /* the running generation can use it */
    int32_t misses, wait;      /* after a row that needed the full head so many steps go without */
    uint64_t n_settled, n_kept, n_whole; /* of the generation: rows of logits, tokens computed for them, rows that needed all */
} bl_short_head;

struct bitlm_session {
    bl_alloc alloc;
    bitlm_host host;
    bitlm_model *model;
    int32_t busy;           /* atomic */
    int64_t n_ctx;
    bl_pool *pool;
    void *memory;           /* the arena's block */
    bl_context context;
    bl_float_env env;       /* the caller's, while inside a call */
    bl_poll poll;
    int32_t *tokens;        /* (capacity + BL_MAX_ROWS) ids of the running texts, row 0 first */
    int64_t n_cached;       /* tokens[0 .. n_cached) are in the KV cache from position 0 on, unless one runs */
    int32_t *batch_tokens, *batch_pos, *batch_base;  /* (max_batch) */
    float *logits;          /* (BL_LOGIT_ROWS, vocab_size), NULL without a head */
    bl_candidate *candidates;  /* (BL_REPEAT_WINDOW + vocab_size + 1) raw logits of the window, then candidates */
    float *pooled;          /* (max_batch/2, embedding_size), NULL without pooling */
    int64_t *first;         /* (max_batch/2 + 1) rows where pooled sequences begin */
    bl_short_head head;
    bl_generation gen;
};

/* BUSY, or enters: float environment, poll with timeout_ms (0: none). */
bitlm_status bl_session_enter(bitlm_session *s, int32_t timeout_ms, bitlm_error *error);
/* Leaves with `status`; fills in the sentence of CANCELED and TIMEOUT. */
bitlm_status bl_session_leave(bitlm_session *s, bitlm_status status, bitlm_error *error);
void bl_generation_end(bitlm_session *s);
/* The session's clock (profile.h), for measuring programs: set .on between calls, read .seconds. */
bl_profile *bl_session_profile(bitlm_session *s);
/* The ids of a prompt, in place of what `ids` holds: framed, truncated if asked. */
bitlm_status bl_prompt_tokens(bitlm_session *s, bitlm_text prompt, uint32_t flags, const bitlm_options *o,
                              bl_ids *ids, bitlm_error *error);
/* Runs n ids from position `pos` on through the model in batches; base 0. */
bitlm_status bl_session_prefill(bitlm_session *s, const int32_t *ids, int64_t n, int64_t pos);

/* What repeat_penalty makes of a logit. */
static inline float bl_penalized(float l, float penalty) { return l > 0.0f ? l / penalty : l * penalty; }
/* Its part of the session's arena; what a generation begins with; the logits of a step, from number `at` of the session's on. */
void bl_short_layout(bitlm_session *s, bl_arena *arena);
void bl_short_begin(bitlm_session *s, const bitlm_options *options);
bitlm_status bl_short_logits(bitlm_session *s, const int32_t *rows, int64_t n_rows, int64_t at);
/* Makes the row's logits fit for sampling; budget as for bl_sample.  *n_allowed: the candidates of its constraint, which stand
 * where bl_sample expects them, or -1: not looked for. */
bitlm_status bl_short_settle(bitlm_session *s, const bl_row *row, int64_t budget, int64_t *n_allowed);
/* Chooses the row's next token from its logits (which it changes) among those that its constraint
 * allows with `budget` tokens left, perhaps BL_STOP_HERE; sets *logprob if asked.  repeat_penalty does not
 * apply under a constraint, whose form repeats itself. */
bitlm_status bl_sample(bitlm_session *s, const bl_row *row, int64_t budget, int32_t *token,
                       float *logprob, bitlm_error *error);

/* sampler.c: the first of n logits that is infinite or no number, n if none is; the greatest of n > 0 finite ones, of equal
 * ones the first. */
int64_t bl_first_overflow(const float *logits, int64_t n);
bl_candidate bl_best_token(const float *logits, int64_t n);

/* ---- rows.c: which texts run where ------------------------------------------------------ */

/* Equal ids at the beginning of a and b, at most n. */
int64_t bl_common_ids(const int32_t *a, const int32_t *b, int64_t n);
/* Cuts the cache into places for the generation's prompts. */
void bl_rows_begin(bitlm_session *s);
/* Fills free places with waiting prompts and steps every row that has no logits left. */
bitlm_status bl_rows_step(bitlm_session *s);
/* The row's next token is this one: uses up its logits, keeps the draft as far as it holds. */
void bl_row_accept(const bitlm_session *s, bl_row *row, int32_t token);

/* session.c: n_ctx, kv_positions, kv_bytes and scratch_bytes of a session that the options ask for. */
bitlm_status bl_session_measure(const bitlm_model *model, const bitlm_options *options, bitlm_memory_parts *parts,
                                bitlm_error *error);
/* memory.c: the parts as a JSON object. */
bitlm_status bl_memory_write_json(const bitlm_memory_parts *parts, char *json, size_t capacity, bitlm_error *error);

#endif
