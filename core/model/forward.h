/* forward.h - the one forward pass: a batch of tokens of one or more sequences
 * through the blocks, into KV caches, out as hidden states or logits.
 *
 * A token's result depends on its sequence alone, never on what else is in the
 * batch, how a prompt was cut, or the number of threads.  Called by core/run. */
#ifndef BL_FORWARD_H
#define BL_FORWARD_H

#include "base/pool.h"
#include "model/model.h"

/* KV cache of n_seq sequences of at most n_ctx positions; layout in kv_cache.c. */
typedef struct bl_kv_cache {
    int32_t type;          /* BITLM_KV_F16 or BITLM_KV_F32 */
    int64_t n_seq, n_ctx;  /* n_ctx rounded up to 16 */
    int64_t k_head, v_head;/* elements of one head's K tiles, V rows */
    uint8_t *k, *v;        /* (n_layers, n_seq, n_kv_heads, …) */
} bl_kv_cache;

/* One forward pass's memory: allocated with the session, no allocation later. */
typedef struct bl_context {
    const bitlm_model *model;
    const bl_kernels *kernels;
    bl_pool *pool;
    bl_poll *poll;                 /* set for each call */
    bl_kv_cache kv;
    int64_t max_batch;             /* tokens a pass may hold */
    int64_t score_len;             /* floats of one score row: n_ctx rounded to 16 */
    /* (max_batch, …) scratch */
    float *x;                      /* residual stream (hidden_size) */
    float *h;                      /* normalised input, attention output (max(hidden, heads*dim)) */
    float *q, *k, *v;              /* (n_heads*head_dim), (n_kv_heads*head_dim) */
    float *gate, *up;              /* (ffn_size) */
    float *y;                      /* layer output before the residual add (hidden_size) */
    int8_t *xq;                    /* quantized input of a linear layer (widest k) */
    float *xs;                     /* its scales: 1 or k/group a token */
    int32_t *xsum;                 /* its sums, likewise */
    float *factor;                 /* (max_batch) scale of y per token */
    float *cs, *sn;                /* RoPE table of this batch (max_batch, n_rot/2) */
    float *scores;                 /* (n_threads, 8, score_len) */
    uint8_t *scratch;              /* (n_threads, scratch_bytes) for kernels */
    size_t scratch_bytes;
} bl_context;

/* A batch: token i is tokens[i] at position pos[i] of sequence seq[i].  Tokens of one
 * sequence stand together in ascending, consecutive positions. */
typedef struct bl_batch {
    int64_t n;
    const int32_t *tokens, *pos, *seq;  /* (n) */
} bl_batch;

/* Lays the context out in an arena (called twice: measuring, then for real). */
void bl_context_layout(bl_context *c, const bitlm_model *model, int64_t n_seq, int64_t n_ctx,
                       int32_t kv_type, int64_t max_batch, int n_threads, bl_arena *arena);

/* Runs the batch (n <= max_batch); c->x then holds the residual stream after the last
 * block, (n, hidden_size).  CANCELED or TIMEOUT from poll. */
bitlm_status bl_forward(bl_context *c, const bl_batch *batch);
/* Logits of batch rows `rows` (n_rows of c->x): (n_rows, vocab_size). */
bitlm_status bl_forward_logits(bl_context *c, const int32_t *rows, int64_t n_rows, float *logits);
/* Pools batch rows first .. first+n-1 of c->x into out (embedding_size), unit length;
 * *finite = 0 if the arithmetic overflowed. */
bitlm_status bl_forward_pool(bl_context *c, int64_t first, int64_t n, float *out, int *finite);

/* y = linear(x) for n tokens, ldx and ldy floats apart. */
bitlm_status bl_linear_run(bl_context *c, const bl_linear *const *layers, int n_layers, const float *x,
                           int64_t ldx, int64_t n, float *const *y, const int64_t *ldy);

#endif
