/* shortlist.h - an int8 copy of a float output head, and how far its logits can be from the head's own.
 *
 * With it most tokens are known to lose without their row of the head being read: core/run/settle.c computes the few that may
 * still win from the head itself. */
#ifndef BL_SHORTLIST_H
#define BL_SHORTLIST_H

#include "model/forward.h"

/* Made once for a model, then shared and never changed. */
typedef struct bl_shortlist {
    int64_t k, n;        /* of the head */
    uint8_t *rows;       /* (n rounded up to 16, k) int8, as keys lie in an int8 cache */
    float *scale;        /* (n rounded up) of a row */
    float *error;        /* (n) at least |w - copy| of a row */
    float *norm;         /* (n) at least |w| and |copy| */
    float most;          /* greatest of norm; infinite where a weight is not finite */
    void *memory;
} bl_shortlist;

/* |logit of the head - logit of the copy| <= a * error[i] + b * norm[i] + BL_HEAD_TINY, for one input. */
typedef struct bl_head_bound {
    double a, b;
} bl_head_bound;
#define BL_HEAD_TINY 1e-30

/* 1: the head is float and of a shape that can be copied. */
int bl_shortlist_fits(const bitlm_model *m);
uint64_t bl_shortlist_bytes(const bitlm_model *m);
/* The model's copy, made by the pool if there is none; it belongs to the model.  NOMEM, CANCELED, TIMEOUT. */
bitlm_status bl_shortlist_get(bitlm_model *m, bl_pool *pool, bl_poll *poll, const bl_shortlist **list, bitlm_error *error);
void bl_shortlist_free(bitlm_model *m);

/* The copy's logits of n_rows (1 .. BL_SHORTLIST_INPUTS) rows of c->x: (n_rows, vocab_size), each with its bound; a bound that
 * cannot be given is infinite.  inputs (n_rows, hidden_size) gets the head's inputs; codes: room for (2, n_rows, hidden_size). */
#define BL_SHORTLIST_INPUTS 16
bitlm_status bl_shortlist_logits(bl_context *c, const bl_shortlist *list, const int32_t *rows, int64_t n_rows, float *inputs,
                                 int8_t *codes, float *logits, bl_head_bound *bounds);
/* The head's own logits of one input for n different tokens, each in its place in logits; and for all. */
bitlm_status bl_head_some(bl_context *c, const float *input, const int32_t *ids, int64_t n, float *logits);
bitlm_status bl_head_all(bl_context *c, const float *input, float *logits);

#endif
