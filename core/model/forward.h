/* forward.h - the one forward pass: a batch of tokens of one or more sequences
 * through the blocks, into KV caches, out as hidden states or logits.
 *
 * A token's result depends on its sequence alone, never on what else is in the
 * batch, how a prompt was cut, or the number of threads.  Called by core/run. */
#ifndef BL_FORWARD_H
#define BL_FORWARD_H

#include "base/pool.h"
#include "model/model.h"
#include "model/profile.h"

/* KV cache: `capacity` positions that the sequences of a session share out; each begins at
 * a base that is a multiple of 16.  K of a head is in tiles of 16 positions, V in rows. */
typedef struct bl_kv_cache {
    int32_t type;        /* BITLM_KV_* */
    int32_t bits;        /* of an element: 32, 16, 8 or 4 */
    int64_t n_layers;    /* 1 where no step comes back to earlier positions (encoders) */
    int64_t capacity;    /* positions, a multiple of 16 */
    uint8_t *k;          /* (n_layers, n_kv_heads, capacity/16, head_dim, 16) */
    uint8_t *v;          /* (n_layers, n_kv_heads, capacity, head_dim) */
    float *kd, *vd;      /* (n_layers, n_kv_heads, capacity) scales; int8 and int4 only */
} bl_kv_cache;

/* One forward pass's memory: allocated with the session, no allocation later. */
typedef struct bl_context {
    const bitlm_model *model;
    const bl_kernels *kernels;
    bl_pool *pool;
    bl_poll *poll;                 /* set for each call */
    bl_profile profile;            /* off unless somebody measures */
    bl_kv_cache kv;
    int32_t activations;           /* BITLM_ACTIVATIONS_*, of the session's options */
    int64_t max_batch;             /* tokens a pass may hold */
    int64_t score_len;             /* floats of one score row: max_seq rounded to 16 */
    int64_t act_width;             /* widest input of a linear layer */
    int64_t max_groups;            /* most activation scales a token needs */
    int64_t normed_width;          /* widest input that a layer normalises for itself */
    /* (max_batch, …) scratch */
    float *x;                      /* residual stream (hidden_size) */
    float *h;                      /* normalised input, attention output (max(hidden, heads*dim)) */
    float *q, *k, *v;              /* (n_heads*head_dim), (n_kv_heads*head_dim) */
    float *gate, *up;              /* (ffn_size); in the place of q, k and v */
    float *y;                      /* layer output before the residual add (hidden_size); in the place of up */
    int8_t *xq;                    /* quantized input of a linear layer (widest k) */
    float *xs;                     /* its scales: 1 or k/group a token */
    int32_t *xsum;                 /* its sums, likewise */
    float *factor;                 /* (3, max_batch) scale of y per token, for up to 3 layers */
    float *normed;                 /* input of a layer with a norm of its own (widest such k) */
    float *router;                 /* experts: (n_experts) probabilities */
    int32_t *route_experts;        /* (n_experts_used) chosen, likeliest first */
    float *route_weights;          /* (n_experts_used) */
    float *gathered;               /* (hidden_size) inputs of one expert's tokens */
    int32_t *members;              /* (1) those tokens */
    float *member_weights;         /* (1) */
    float *cs, *sn;                /* RoPE table of this batch (max_batch, n_rot/2) */
    float *scores;                 /* (n_threads, 8, score_len) */
    int8_t *q8;                    /* int8 and int4 KV: q in int8 (max_batch, n_heads*head_dim) */
    float *qd;                     /* its scales (max_batch, n_heads) */
    uint8_t *probs;                /* (n_threads, 8, score_len up to a chunk) */
    float *chunk_scales;           /* (n_threads, 8, their chunks) */
    uint8_t *scratch;              /* (n_threads, scratch_bytes) for kernels */
    size_t scratch_bytes;
} bl_context;

/* A batch: token i is tokens[i] at position pos[i] of the sequence whose KV begins at
 * base[i] (a multiple of 16).  Tokens of one sequence stand together, positions ascending by
 * one; a causal model finds the earlier positions in the cache. */
typedef struct bl_batch {
    int64_t n;
    const int32_t *tokens, *pos, *base;  /* (n) */
} bl_batch;

/* Bits of a KV element of a BITLM_KV_* type. */
int32_t bl_kv_bits(int32_t kv_type);

/* Lays the context out in an arena (called twice: measuring, then for real).  max_seq: the
 * longest sequence; capacity: positions of all sequences together. */
void bl_context_layout(bl_context *c, const bitlm_model *model, int64_t max_seq, int64_t capacity,
                       int32_t kv_type, int64_t max_batch, int n_threads, bl_arena *arena);

/* Runs the batch (n <= max_batch); c->x then holds the residual stream after the last
 * block, (n, hidden_size).  CANCELED or TIMEOUT from poll. */
bitlm_status bl_forward(bl_context *c, const bl_batch *batch);
/* The same for layers first .. last-1 alone, of a batch of whole sequences: x (n, hidden_size) is what the layers before
 * them leave; NULL: the embedding (first = 0). */
bitlm_status bl_forward_layers(bl_context *c, const bl_batch *batch, int64_t first, int64_t last, const float *x);
/* The head's inputs for n_rows rows of c->x, each `rows[i]`: (n_rows, hidden_size). */
void bl_head_inputs(bl_context *c, const int32_t *rows, int64_t n_rows, float *out);
/* Logits of n_rows rows of c->x, each `rows[i]`: (n_rows, vocab_size). */
bitlm_status bl_forward_logits(bl_context *c, const int32_t *rows, int64_t n_rows, float *logits);
/* Pools n_seq sequences of c->x, sequence i being rows first[i] .. first[i+1]-1, into
 * out (n_seq, embedding_size), unit length (a zero vector stays zero). */
bitlm_status bl_forward_pool(bl_context *c, const int64_t *first, int64_t n_seq, float *out);

/* ---- parts, in linear.c and attention.c ------------------------------------------------- */

/* Runs fn over n items in tiles of `step` by the pool. */
typedef void (*bl_range_fn)(void *arg, int64_t begin, int64_t end, int thread);
bitlm_status bl_parallel(bl_context *c, bl_range_fn fn, void *arg, int64_t n, int64_t step);

/* What makes the rows of a layer's input: each row is quantized by the thread that made it, while it
 * is in its cache, and the threads meet once for both. */
typedef struct bl_before {
    bl_range_fn fn;
    void *arg;
    int op;              /* whose time that is, with the quantizing (profile.h) */
} bl_before;

/* y_i = layer_i(x) for n tokens, x ldx floats a token, y_i ldy_i; the layers share the input
 * and its size.  before: makes x's rows first, or NULL. */
bitlm_status bl_linear_run(bl_context *c, const bl_linear *const *layers, int n_layers,
                           const float *x, int64_t ldx, int64_t n, float *const *y,
                           const int64_t *ldy, const bl_before *before);
/* The same for one layer, its input and output dense. */
bitlm_status bl_linear_one(bl_context *c, const bl_linear *l, const float *x, int64_t n, float *y,
                           const bl_before *before);
/* y = down(act(c->gate) * c->up) for n rows, with RMSNorm by sub_norm before down unless NULL. */
bitlm_status bl_act_down(bl_context *c, const bl_linear *down, int64_t n, const float *sub_norm, float *y);
/* The experts of layer l over n rows of c->h, which `before` makes; adds to c->x. */
bitlm_status bl_moe_run(bl_context *c, const bl_layer *l, int64_t n, const bl_before *before);
/* Activation scales a token needs for this layer; 0 for an absent one. */
int64_t bl_linear_groups(const bl_linear *l);
/* Rotates c->q and c->k, stores c->k and c->v into the cache of `layer`, attends; the result is
 * in c->h, (n, n_heads*head_dim). */
bitlm_status bl_attention_run(bl_context *c, const bl_batch *batch, int64_t layer);
/* Copies the keys and values of the first n positions at base `from` to base `to`. */
bitlm_status bl_kv_copy(bl_context *c, int64_t from, int64_t to, int64_t n);

#endif
