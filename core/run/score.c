/* score.c - how probable a model finds a given text: bitlm_score.
 *
 * Runs the ids through the model a batch at a time, as prefill does, and turns the logits of
 * each position into the natural log of the next id's probability (log-softmax; the sum of
 * exponentials is the kernels' exp_sum, the rest double).  The head runs for ROWS positions at
 * once, so that its weights are read once for all of them.
 *
 * Called by hosts through bitlm.h and by the command's perplexity. */
#include "run/run.h"

#define ROWS 16 /* positions whose logits are held at once */

static bitlm_status check_ids(const bitlm_session *s, const int32_t *ids, size_t n, bitlm_error *error) {
    const bitlm_model *m = s->model;
    if (!m->head.data)
        return bl_error(error, BITLM_ARG, "the model %s has no output head, so it cannot score text", m->path);
    if (n == 0 || n > (size_t)s->n_ctx)
        return bl_error(error, BITLM_LIMIT, "%zu tokens were given, but n_ctx allows 1 to %lld", n,
                        (long long)s->n_ctx);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= m->vocab_size)
            return bl_error(error, BITLM_ARG, "token %d is outside the vocabulary of %lld", ids[i],
                            (long long)m->vocab_size);
    return BITLM_OK;
}

/* Scores ids[done + 1 ..] from the batch of `count` positions that begins at `done`. */
static bitlm_status score_batch(bitlm_session *s, const int32_t *ids, int64_t done, int64_t count, int64_t n,
                                float *logits, float *logprobs) {
    const bitlm_model *m = s->model;
    int64_t useful = BL_MIN(count, n - 1 - done); /* the last position foretells nothing asked for */
    for (int64_t i = 0; i < useful; i += ROWS) {
        int32_t rows[ROWS];
        int64_t n_rows = BL_MIN(ROWS, useful - i);
        for (int64_t j = 0; j < n_rows; j++)
            rows[j] = (int32_t)(i + j);
        bitlm_status status = bl_forward_logits(&s->context, rows, n_rows, logits);
        if (status)
            return status;
        for (int64_t j = 0; j < n_rows; j++) {
            const float *l = logits + j * m->vocab_size;
            int64_t next = done + i + j + 1;
            float max, sum = m->kernels->exp_sum(l, m->vocab_size, &max);
            logprobs[next] = (float)((double)l[ids[next]] - (double)max - bl_log((double)sum));
        }
    }
    return BITLM_OK;
}

bitlm_status bitlm_score(bitlm_session *s, const int32_t *ids, size_t n, float *logprobs, bitlm_error *error) {
    bitlm_status status = bl_session_enter(s, 0, error);
    if (status)
        return status;
    float *logits = NULL;
    size_t bytes;
    int64_t total = (int64_t)n;
    bl_generation_end(s);
    status = check_ids(s, ids, n, error);
    if (!status) {
        if (bl_mul_size((size_t)BL_MIN(total, ROWS) * sizeof *logits, (size_t)s->model->vocab_size, &bytes))
            logits = bl_malloc(&s->alloc, bytes);
        if (!logits)
            status = bl_error(error, BITLM_NOMEM, "no memory for the logits of %lld positions",
                              (long long)BL_MIN(total, ROWS));
    }
    if (!status)
        logprobs[0] = 0.0f;
    for (int64_t done = 0; done < total && !status;) {
        int64_t count = BL_MIN(total - done, s->context.max_batch);
        status = bl_session_prefill(s, ids + done, count, done);
        if (!status)
            status = score_batch(s, ids, done, count, total, logits, logprobs);
        done += count;
    }
    bl_free(&s->alloc, logits);
    return bl_session_leave(s, status, error);
}
