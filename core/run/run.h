/* run.h - a session and its parts, shared by the files of core/run.
 *
 * session.c owns the struct and the rules of entry (one user, float environment, poll);
 * generate.c, sampler.c and embed.c work on it. */
#ifndef BL_RUN_H
#define BL_RUN_H

#include "model/forward.h"
#include "run/constraint.h"

#define BL_REPEAT_WINDOW 64  /* tokens that repeat_penalty looks back on */

/* One running generation. */
typedef struct bl_generation {
    int32_t active;
    int32_t prefilled;      /* the prompt is in the cache and logits are ready */
    bitlm_options options;  /* scalars only: stop lies in `memory` */
    uint64_t deadline_ns;
    int64_t n_tokens;       /* in session->tokens: prompt and generated */
    int64_t n_past;         /* of these, in the KV cache */
    int64_t n_generated;
    bl_detok detok;
    void *memory;           /* stop texts and the pending buffer */
    bitlm_text *stop;
    size_t n_stop, longest_stop;
    bl_constraint *constraint;  /* NULL: any answer */
    int32_t said;               /* some text of it has left */
    char *pending;          /* text that is not given out yet */
    size_t n_pending, n_given;  /* bytes held, of these given by the last piece */
    size_t pending_cap;
} bl_generation;

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
    int32_t *tokens;        /* (n_ctx + 1) ids of the running text */
    int32_t *batch_tokens, *batch_pos, *batch_base;  /* (max_batch) */
    float *logits;          /* (vocab_size), NULL without a head */
    bl_candidate *candidates;  /* (BL_REPEAT_WINDOW + vocab_size + 1) raw logits of the window, then candidates */
    float *pooled;          /* (max_batch/2, embedding_size), NULL without pooling */
    int64_t *first;         /* (max_batch/2 + 1) rows where pooled sequences begin */
    bl_generation gen;
};

/* BUSY, or enters: float environment, poll with timeout_ms (0: none). */
bitlm_status bl_session_enter(bitlm_session *s, int32_t timeout_ms, bitlm_error *error);
/* Leaves with `status`; fills in the sentence of CANCELED and TIMEOUT. */
bitlm_status bl_session_leave(bitlm_session *s, bitlm_status status, bitlm_error *error);
void bl_generation_end(bitlm_session *s);
/* Tokenizes a prompt (flags: BITLM_GENERATE_CHAT) into s->tokens and s->gen.n_tokens. */
bitlm_status bl_prompt_tokens(bitlm_session *s, bitlm_text prompt, uint32_t flags, const bitlm_options *o,
                              bitlm_error *error);
/* Runs n ids from position `pos` on through the model in batches; base 0. */
bitlm_status bl_session_prefill(bitlm_session *s, const int32_t *ids, int64_t n, int64_t pos);

/* Chooses the next token from s->logits (which it changes) among those that the generation's constraint
 * allows with `budget` tokens left, perhaps BL_STOP_HERE; sets *logprob if asked.  repeat_penalty does not
 * apply under a constraint, whose form repeats itself. */
bitlm_status bl_sample(bitlm_session *s, const int32_t *history, int64_t n_history, uint64_t counter,
                       int64_t budget, int32_t *token, float *logprob, bitlm_error *error);

#endif
