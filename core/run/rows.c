/* rows.c - which texts of a generation stand where in the KV cache, and their common step.
 *
 * The cache is cut into equal places, one for each text that runs; a text that is over makes room
 * for the next.  A prompt that begins like the text of some place, running or over, takes over
 * those keys and values, and for place 0 this holds from one call of a session to the next.  A
 * step runs what every row lacks in one batch: a whole prompt, or the last token and the guesses
 * behind it (lookup.c).  Since a token's result depends on its own text alone (forward.h), none of
 * this changes a bit.  Called by generate.c. */
#include <string.h>

#include "run/run.h"

#define WORTH_A_STEP 16  /* tokens of a common beginning for which another prompt's prefill is waited for */

void bl_rows_begin(bitlm_session *s) {
    bl_generation *g = &s->gen;
    int64_t need = 16, capacity = s->context.kv.capacity;
    for (int64_t i = 0; i < g->n_prompts; i++)
        need = BL_MAX(need, BL_MIN(g->prompts[i].n + g->options.max_tokens, s->n_ctx));
    g->stretch = (need + 15) / 16 * 16;
    g->n_rows = BL_MAX(1, BL_MIN(capacity / g->stretch, BL_MIN(g->n_prompts, BL_MAX_ROWS)));
    if (g->n_rows == 1)
        g->stretch = capacity;
    for (int64_t i = 0; i < g->n_rows; i++) {
        g->rows[i].base = i * g->stretch;
        g->rows[i].tokens = s->tokens + i * (g->stretch + 1);
    }
    g->rows[0].n_past = BL_MIN(s->n_cached, g->stretch);
}

/* ---- one batch after the other ---------------------------------------------------------------- */

typedef struct step {
    bitlm_session *s;
    int64_t n;                       /* tokens in the batch */
    int32_t outputs[BL_LOGIT_ROWS];  /* batch rows whose logits are wanted */
    int64_t n_outputs;
} step;

static bitlm_status run_batch(step *b) {
    bitlm_session *s = b->s;
    bl_batch batch = {b->n, s->batch_tokens, s->batch_pos, s->batch_base};
    if (b->n == 0)
        return BITLM_OK;
    bitlm_status status = bl_forward(&s->context, &batch);
    if (!status && b->n_outputs)
        status = bl_short_logits(s, b->outputs, b->n_outputs, s->gen.n_logits);
    s->gen.n_logits += b->n_outputs;
    b->n = b->n_outputs = 0;
    return status;
}

/* Adds what the row lacks; the tokens whose logits are wanted, its last and the guesses, stay in one batch. */
static bitlm_status add_row(step *b, bl_row *r) {
    bitlm_session *s = b->s;
    int64_t end = r->n_tokens + r->n_draft, wanted = r->n_draft + 1;
    for (int64_t pos = r->n_past; pos < end;) {
        int64_t left = end - pos, take = BL_MIN(left, s->context.max_batch - b->n);
        if (take < left && left - take < wanted)
            take = left - wanted;
        for (int64_t i = 0; i < take; i++, pos++, b->n++) {
            s->batch_tokens[b->n] = r->tokens[pos];
            s->batch_pos[b->n] = (int32_t)pos;
            s->batch_base[b->n] = (int32_t)r->base;
        }
        if (pos < end) {
            bitlm_status status = run_batch(b);
            if (status)
                return status;
        }
    }
    r->logits = s->logits + (s->gen.n_logits + b->n_outputs) * s->model->vocab_size;
    for (int64_t i = 0; i < wanted; i++)
        b->outputs[b->n_outputs++] = (int32_t)(b->n - wanted + i);
    return BITLM_OK;
}

/* Runs every row that has no logits. */
static bitlm_status run_rows(bitlm_session *s) {
    bl_generation *g = &s->gen;
    step b = {.s = s};
    bitlm_status status = BITLM_OK;
    for (int64_t i = 0; i < g->n_rows && !status; i++)
        if (g->rows[i].active && !g->rows[i].n_ready)
            status = add_row(&b, &g->rows[i]);
    if (!status)
        status = run_batch(&b);
    for (int64_t i = 0; i < g->n_rows && !status; i++) {
        bl_row *r = &g->rows[i];
        if (r->active && !r->n_ready) {
            r->n_past = r->n_tokens;
            r->n_ready = r->n_draft + 1;
        }
    }
    return status;
}

/* ---- new prompts ------------------------------------------------------------------------------- */

int64_t bl_common_ids(const int32_t *a, const int32_t *b, int64_t n) {
    int64_t i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

/* Puts a prompt into a free row, with as much of its beginning as some row has computed. */
static bitlm_status admit(bitlm_session *s, bl_row *r, int64_t number) {
    bl_generation *g = &s->gen;
    const bl_prompt *p = &g->prompts[number];
    const int32_t *ids = g->ids.data + p->first;
    int64_t past = bl_common_ids(ids, r->tokens, BL_MIN(p->n - 1, r->n_past)), soon = past;
    bitlm_status status = BITLM_OK;
    const bl_row *from = r, *waits = r;
    for (int64_t i = 0; i < g->n_rows; i++) {
        const bl_row *other = &g->rows[i];
        int64_t same = bl_common_ids(ids, other->tokens, BL_MIN(p->n - 1, other->active ? other->n_tokens : other->n_past));
        if (BL_MIN(same, other->n_past) > past) {
            past = BL_MIN(same, other->n_past);
            from = other;
        }
        if (same > soon) {
            soon = same;
            waits = other;
        }
    }
    if (soon >= past + WORTH_A_STEP) {
        status = run_rows(s);
        past = soon;
        from = waits;
    }
    if (!status && from != r) {
        r->n_past = 0;
        status = bl_kv_copy(&s->context, from->base, r->base, past);
    }
    if (status)
        return status;
    bl_row fresh = {.active = 1, .number = (int32_t)number, .base = r->base, .tokens = r->tokens, .n_tokens = p->n,
                    .n_past = past, .detok = {.keep_space = p->keep_space}, .pending = r->pending, .constraint = r->constraint};
    if (fresh.constraint)
        bl_constraint_restart(fresh.constraint);
    *r = fresh;
    memcpy(r->tokens, ids, (size_t)p->n * sizeof *ids);
    return BITLM_OK;
}

/* ---- a step --------------------------------------------------------------------------------------- */

static void guess(bitlm_session *s, bl_row *r) {
    bl_generation *g = &s->gen;
    int64_t most = BL_MIN((int64_t)g->options.lookup, BL_LOGIT_ROWS / g->n_rows - 1);
    if (r->n_draft)
        bl_guess_learn(&r->guess, r->n_draft, r->n_held);
    most = BL_MIN(most, (int64_t)g->options.max_tokens - r->n_generated - 1);
    most = BL_MIN(most, BL_MIN(s->n_ctx, g->stretch) - r->n_tokens);
    r->n_draft = bl_guess_make(&r->guess, r->tokens, r->n_tokens, most);
    r->n_held = 0;
}

bitlm_status bl_rows_step(bitlm_session *s) {
    bl_generation *g = &s->gen;
    bitlm_status status = BITLM_OK;
    g->n_logits = 0;
    for (int64_t i = 0; i < g->n_rows; i++)
        if (g->rows[i].active)
            guess(s, &g->rows[i]);
    for (int64_t i = 0; i < g->n_rows && !status; i++) {
        if (g->rows[i].active)
            continue;
        /* A refused prompt is given out before those behind it begin. */
        if (g->next_prompt == g->n_prompts || g->prompts[g->next_prompt].n == 0)
            break;
        status = admit(s, &g->rows[i], g->next_prompt++);
    }
    return status ? status : run_rows(s);
}

void bl_row_accept(const bitlm_session *s, bl_row *r, int32_t token) {
    r->logits += s->model->vocab_size;
    r->n_ready--;
    if (r->n_ready > 0 && r->tokens[r->n_tokens] == token) {
        r->n_past++;
        r->n_held++;
    } else {
        r->n_ready = 0;
    }
    r->tokens[r->n_tokens++] = token;
    r->n_generated++;
}
