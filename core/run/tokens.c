/* tokens.c - tokens, text and chunks of a model for callers outside core: the public faces of
 * core/text.  Called through bitlm.h. */
#include <string.h>

#include "run/run.h"
#include "text/chunk.h"

static bitlm_status give_ids(const bl_ids *ids, int32_t *out, size_t capacity, size_t *n, bitlm_error *error) {
    *n = ids->n;
    if (ids->n > capacity)
        return bl_error(error, BITLM_LIMIT, "the text has %zu tokens, but there is room for %zu", ids->n, capacity);
    if (ids->n)
        memcpy(out, ids->data, ids->n * sizeof *out);
    return BITLM_OK;
}

bitlm_status bitlm_tokenize(const bitlm_model *model, const char *text, size_t length, uint32_t flags,
                            const bitlm_host *host, int32_t *ids, size_t capacity, size_t *n_ids, bitlm_error *error) {
    bl_error_clear(error);
    if (!model || !n_ids)
        return bl_error(error, BITLM_ARG, "bitlm_tokenize needs a model and a place for the number of tokens");
    bl_alloc alloc = bl_alloc_from_host(host);
    bl_ids list = {.alloc = &alloc};
    bl_poll poll;
    bl_poll_init(&poll, host, NULL, 0); /* integers only: the host's float environment stays */
    bitlm_status status = bl_tokenize(model->tokenizer, text, length, flags, 0, &poll, &list, error);
    if (status == BITLM_CANCELED)
        bl_poll_error(&poll, error);
    if (!status)
        status = give_ids(&list, ids, capacity, n_ids, error);
    bl_ids_free(&list);
    return status;
}

bitlm_status bitlm_detokenize(const bitlm_model *model, const int32_t *ids, size_t n_ids, uint32_t flags,
                              char *text, size_t capacity, size_t *length, bitlm_error *error) {
    bl_error_clear(error);
    if (!model || !length)
        return bl_error(error, BITLM_ARG, "bitlm_detokenize needs a model and a place for the length");
    const bl_tokenizer *t = model->tokenizer;
    bl_alloc alloc = bl_alloc_from_host(NULL);
    size_t cap = BL_DETOK_CAP(bl_tokenizer_max_bytes(t)), total = 0, used = 0;
    for (size_t i = 0; i < n_ids; i++)
        if (ids[i] < 0 || ids[i] >= model->vocab_size)
            return bl_error(error, BITLM_ARG, "token %d is outside the vocabulary of %lld", ids[i],
                            (long long)model->vocab_size);
    char *piece = bl_malloc(&alloc, cap);
    if (!piece)
        return bl_error_nomem(error, cap, "a token's text");
    bl_detok state = {0};
    for (size_t i = 0; i <= n_ids; i++) {
        size_t n = i < n_ids ? bl_detok_next(t, &state, ids[i], flags & BITLM_TOKENS_SPECIAL, piece)
                             : bl_detok_end(t, &state, piece);
        if (total == used && n <= capacity - used) {
            if (n)
                memcpy(text + used, piece, n);
            used += n;
        }
        total += n;
    }
    bl_free(&alloc, piece);
    *length = total;
    if (total != used)
        return bl_error(error, BITLM_LIMIT, "the text has %zu bytes, but there is room for %zu", total, capacity);
    return BITLM_OK;
}

bitlm_status bitlm_chunks(const bitlm_model *model, const char *text, size_t length, size_t size,
                          size_t overlap, const bitlm_host *host, bitlm_chunk *chunks, size_t capacity,
                          size_t *n_chunks, bitlm_error *error) {
    bl_error_clear(error);
    if (!model || !n_chunks)
        return bl_error(error, BITLM_ARG, "bitlm_chunks needs a model and a place for the number of chunks");
    if (size < 1 || size > (1u << 20))
        return bl_error(error, BITLM_ARG, "a chunk of %zu tokens was asked for, but it must have 1 to %u", size,
                        1u << 20);
    if (overlap >= size)
        return bl_error(error, BITLM_ARG, "an overlap of %zu tokens was asked for, but it must be less than the "
                        "chunk's %zu", overlap, size);
    bl_alloc alloc = bl_alloc_from_host(host);
    bitlm_chunk *list = NULL;
    bl_poll poll;
    size_t n = 0;
    bl_poll_init(&poll, host, NULL, 0);
    bitlm_status status = bl_chunk_text(model->tokenizer, text, length, size, overlap, &alloc, &poll, &list, &n,
                                        error);
    if (status == BITLM_CANCELED)
        bl_poll_error(&poll, error);
    if (!status) {
        *n_chunks = n;
        if (n > capacity)
            status = bl_error(error, BITLM_LIMIT, "the text has %zu chunks, but there is room for %zu", n, capacity);
        else if (n)
            memcpy(chunks, list, n * sizeof *chunks);
    }
    bl_free(&alloc, list);
    return status;
}
