/* session.c - a session: one arena with KV cache, scratch and sampler memory over a model, and
 * the rules under which a call may use it.  Called through bitlm.h. */
#include <stdatomic.h>
#include <string.h>

#include "run/run.h"

#define DECODER_BATCH 256  /* tokens of a prefill step: enough to share each expanded weight panel */
#define ENCODER_BATCH 512
#define DEFAULT_N_CTX 4096
#define SHARED_POSITIONS 4096  /* most that option rows makes of a cache */
#define MIN_N_CTX 16

static void lay_out(bitlm_session *s, const bitlm_options *o, int64_t max_batch, int64_t capacity,
                    int n_threads, bl_arena *arena) {
    const bitlm_model *m = s->model;
    int32_t kv_type = m->causal ? o->kv_type : BITLM_KV_F32; /* an encoder's cache lives for one batch */
    int is_short = o->head == BITLM_HEAD_SHORTLIST && bl_shortlist_fits(m);
    bl_context_layout(&s->context, m, s->n_ctx, capacity, kv_type, max_batch, n_threads, arena);
    s->context.activations = o->activations;
    s->tokens = bl_arena_take(arena, (size_t)capacity + BL_MAX_ROWS, sizeof(int32_t));
    s->batch_tokens = bl_arena_take(arena, (size_t)max_batch, sizeof(int32_t));
    s->batch_pos = bl_arena_take(arena, (size_t)max_batch, sizeof(int32_t));
    s->batch_base = bl_arena_take(arena, (size_t)max_batch, sizeof(int32_t));
    if (m->head.data) {
        s->logits = bl_arena_take(arena, (size_t)m->vocab_size * BL_LOGIT_ROWS, sizeof(float));
        s->candidates = bl_arena_take(arena, (size_t)m->vocab_size + BL_REPEAT_WINDOW + 1, sizeof(bl_candidate));
    }
    if (is_short)
        bl_short_layout(s, arena);
    if (m->pool != BL_POOL_NONE) {
        size_t most = (size_t)max_batch / 2 + 1; /* a sequence has at least 2 tokens: its frame */
        s->pooled = bl_arena_take(arena, most * (size_t)m->embedding_size, sizeof(float));
        s->first = bl_arena_take(arena, most + 1, sizeof(int64_t));
    }
}

static bitlm_status too_long(int64_t n_ctx, bitlm_error *error) {
    return bl_error(error, BITLM_LIMIT, "a session of %lld tokens does not fit the address space", (long long)n_ctx);
}

static bitlm_status check_options(const bitlm_model *m, const bitlm_options *o, int64_t *n_ctx,
                                  bitlm_error *error) {
    *n_ctx = o->n_ctx ? o->n_ctx : BL_MIN(m->context_length, DEFAULT_N_CTX);
    if (*n_ctx < MIN_N_CTX)
        return bl_error(error, BITLM_ARG, "n_ctx is %lld, but must be at least %d", (long long)*n_ctx, MIN_N_CTX);
    if (*n_ctx > m->context_length)
        return bl_error(error, BITLM_LIMIT, "n_ctx is %lld, but the model's context has %lld tokens",
                        (long long)*n_ctx, (long long)m->context_length);
    if (o->kv_type < BITLM_KV_F16 || o->kv_type > BITLM_KV_INT4)
        return bl_error(error, BITLM_ARG, "kv_type is %d, but must be f16, f32, int8 or int4", o->kv_type);
    if (bl_kv_bits(o->kv_type) <= 8 && m->head_dim % 8)
        return bl_error(error, BITLM_UNSUPPORTED, "an int8 or int4 KV cache needs heads of a multiple of 8, but %s has "
                        "heads of %lld", m->path, (long long)m->head_dim);
    if (o->activations < BITLM_ACTIVATIONS_INT8 || o->activations > BITLM_ACTIVATIONS_BINARY)
        return bl_error(error, BITLM_ARG, "activations is %d, but must be int8, a4.8 or binary", o->activations);
    if (o->head < BITLM_HEAD_FULL || o->head > BITLM_HEAD_SHORTLIST)
        return bl_error(error, BITLM_ARG, "head is %d, but must be full or shortlist", o->head);
    if (o->rows < 0 || o->rows > BL_MAX_ROWS)
        return bl_error(error, BITLM_ARG, "rows is %d, but must be 0 to %d", o->rows, BL_MAX_ROWS);
    if (o->threads < 0 || o->threads > 256)
        return bl_error(error, BITLM_ARG, "threads is %d, but must be 0 to 256", o->threads);
    return BITLM_OK;
}

/* What a session is made for. */
typedef struct session_plan {
    int64_t n_ctx, max_batch, capacity;
    int n_threads;
} session_plan;

static bitlm_status make_plan(const bitlm_model *model, const bitlm_options *options, session_plan *plan,
                              bitlm_error *error) {
    bitlm_status status = check_options(model, options, &plan->n_ctx, error);
    if (status)
        return status;
    int64_t padded = (plan->n_ctx + 15) / 16 * 16;
    plan->n_threads = options->threads ? options->threads : 1;
    /* A text that is pooled goes through in one pass. */
    plan->max_batch = model->pool == BL_POOL_NONE ? BL_MIN(padded, DECODER_BATCH) : BL_MAX(padded, ENCODER_BATCH);
    plan->capacity = model->pool == BL_POOL_NONE ? padded : 2 * plan->max_batch;
    if (model->causal) /* rows share what there is; many long texts are not worth gigabytes */
        plan->capacity = BL_MAX(plan->capacity, BL_MIN(padded * BL_MAX(options->rows, 1), SHARED_POSITIONS));
    return BITLM_OK;
}

bitlm_status bl_session_measure(const bitlm_model *model, const bitlm_options *options, bitlm_memory_parts *parts,
                                bitlm_error *error) {
    session_plan plan;
    bl_arena arena = {0};
    bitlm_status status = make_plan(model, options, &plan, error);
    if (status)
        return status;
    bl_alloc alloc = bl_alloc_from_host(NULL);
    bitlm_session *s = bl_calloc(&alloc, 1, sizeof *s);
    if (!s)
        return bl_error_nomem(error, sizeof *s, "the session");
    s->model = (bitlm_model *)(uintptr_t)model;
    s->n_ctx = plan.n_ctx;
    lay_out(s, options, plan.max_batch, plan.capacity, plan.n_threads, &arena);
    if (arena.overflow || arena.used > SIZE_MAX - 64) {
        status = too_long(plan.n_ctx, error);
    } else {
        uint64_t width = (uint64_t)(model->n_kv_heads * model->head_dim), cells = (uint64_t)(plan.capacity * s->context.kv.n_layers);
        parts->n_ctx = (int32_t)plan.n_ctx;
        parts->kv_positions = (uint64_t)plan.capacity;
        parts->kv_bytes = 2 * cells * width * (uint64_t)s->context.kv.bits / 8;
        if (s->context.kv.bits <= 8)
            parts->kv_bytes += 2 * cells * (uint64_t)model->n_kv_heads * sizeof(float);
        parts->scratch_bytes = arena.used + 64 + sizeof *s - parts->kv_bytes;
        parts->shortlist_bytes = options->head == BITLM_HEAD_SHORTLIST && bl_shortlist_fits(model) ? bl_shortlist_bytes(model) : 0;
    }
    bl_free(&alloc, s);
    return status;
}

bitlm_status bitlm_session_open(bitlm_model *model, const bitlm_options *options, const bitlm_host *host,
                                bitlm_session **session, bitlm_error *error) {
    bitlm_options defaults;
    bitlm_session *s = NULL;
    bl_arena arena = {0};
    session_plan plan;
    bl_error_clear(error);
    if (!model)
        return bl_error(error, BITLM_ARG, "bitlm_session_open needs a model");
    if (!options) {
        bitlm_options_init(&defaults);
        options = &defaults;
    }
    bitlm_status status = make_plan(model, options, &plan, error);
    if (status)
        return status;
    bl_alloc alloc = bl_alloc_from_host(host);
    s = bl_calloc(&alloc, 1, sizeof *s);
    if (!s)
        return bl_error_nomem(error, sizeof *s, "the session");
    s->alloc = alloc;
    if (host)
        memcpy(&s->host, host, BL_MIN(host->size, sizeof s->host));
    s->model = model;
    bitlm_model_retain(model);
    s->n_ctx = plan.n_ctx;
    status = bl_pool_create(&s->alloc, plan.n_threads, &s->pool, error);
    if (status)
        goto fail;
    lay_out(s, options, plan.max_batch, plan.capacity, plan.n_threads, &arena);
    if (arena.overflow || arena.used > SIZE_MAX - 64) {
        status = too_long(plan.n_ctx, error);
        goto fail;
    }
    size_t size = arena.used;
    s->memory = bl_malloc(&s->alloc, size + 64);
    if (!s->memory) {
        status = bl_error_nomem(error, size + 64, "the session's cache");
        goto fail;
    }
    arena = (bl_arena){.base = (uint8_t *)(((uintptr_t)s->memory + 63) & ~(uintptr_t)63), .size = size};
    lay_out(s, options, plan.max_batch, plan.capacity, plan.n_threads, &arena);
    s->context.pool = s->pool;
    if (options->head == BITLM_HEAD_SHORTLIST && bl_shortlist_fits(model)) {
        bl_float_enter(&s->env);
        bl_poll_init(&s->poll, &s->host, &s->env, options->timeout_ms);
        status = bl_shortlist_get(model, s->pool, &s->poll, &s->head.list, error);
        bl_float_leave(&s->env);
        if (status)
            goto fail;
    }
    *session = s;
    return BITLM_OK;
fail:
    bitlm_session_free(s);
    return status;
}

void bitlm_session_free(bitlm_session *s) {
    if (!s)
        return;
    bl_generation_end(s);
    bl_pool_free(s->pool);
    bl_free(&s->alloc, s->memory);
    bitlm_model_free(s->model);
    bl_alloc alloc = s->alloc;
    bl_free(&alloc, s);
}

bitlm_status bl_session_enter(bitlm_session *s, int32_t timeout_ms, bitlm_error *error) {
    int32_t expected = 0;
    bl_error_clear(error);
    if (!s)
        return bl_error(error, BITLM_ARG, "the session is NULL");
    if (!atomic_compare_exchange_strong((_Atomic int32_t *)&s->busy, &expected, 1))
        return bl_error(error, BITLM_BUSY, "the session is in use by another caller");
    bl_float_enter(&s->env);
    bl_poll_init(&s->poll, &s->host, &s->env, timeout_ms);
    s->context.poll = &s->poll;
    bl_profile_start(&s->context.profile);
    return BITLM_OK;
}

bl_profile *bl_session_profile(bitlm_session *s) { return &s->context.profile; }

bitlm_status bl_session_leave(bitlm_session *s, bitlm_status status, bitlm_error *error) {
    if (status == BITLM_CANCELED || status == BITLM_TIMEOUT)
        bl_poll_error(&s->poll, error);
    bl_profile_stop(&s->context.profile);
    bl_float_leave(&s->env);
    atomic_store((_Atomic int32_t *)&s->busy, 0);
    return status;
}

bitlm_status bl_session_prefill(bitlm_session *s, const int32_t *ids, int64_t n, int64_t pos) {
    bitlm_status status = BITLM_OK;
    s->n_cached = 0;
    for (int64_t done = 0; done < n && !status;) {
        int64_t count = BL_MIN(n - done, s->context.max_batch);
        for (int64_t i = 0; i < count; i++) {
            s->batch_tokens[i] = ids[done + i];
            s->batch_pos[i] = (int32_t)(pos + done + i);
            s->batch_base[i] = 0;
        }
        bl_batch batch = {count, s->batch_tokens, s->batch_pos, s->batch_base};
        status = bl_forward(&s->context, &batch);
        done += count;
    }
    return status;
}

bitlm_status bitlm_logits(bitlm_session *s, const int32_t *ids, size_t n, float *out, bitlm_error *error) {
    bitlm_status status = bl_session_enter(s, 0, error);
    if (status)
        return status;
    const bitlm_model *m = s->model;
    int64_t total = (int64_t)n;
    bl_generation_end(s);
    if (!m->head.data)
        status = bl_error(error, BITLM_ARG, "the model %s has no output head, so it has no logits", m->path);
    else if (n == 0 || n > (size_t)s->n_ctx)
        status = bl_error(error, BITLM_LIMIT, "%zu tokens were given, but n_ctx allows 1 to %lld", n,
                          (long long)s->n_ctx);
    for (int64_t i = 0; i < total && !status; i++)
        if (ids[i] < 0 || ids[i] >= m->vocab_size)
            status = bl_error(error, BITLM_ARG, "token %d is outside the vocabulary of %lld", ids[i],
                              (long long)m->vocab_size);
    for (int64_t done = 0; done < total && !status;) {
        int64_t count = BL_MIN(total - done, s->context.max_batch);
        status = bl_session_prefill(s, ids + done, count, done);
        for (int64_t i = 0; i < count; i++)
            s->batch_tokens[i] = (int32_t)i;
        if (!status)
            status = bl_forward_logits(&s->context, s->batch_tokens, count, out + done * m->vocab_size);
        done += count;
    }
    return bl_session_leave(s, status, error);
}
