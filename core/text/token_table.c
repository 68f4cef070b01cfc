/* token_table.c - the vocabulary's bytes sorted: see token_table.h.
 *
 * Built by the first answer that needs it (a few 10 ms for 128,000 tokens) and kept with the tokenizer,
 * where the first of several threads to finish wins.  Called by core/run/constraint.c. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "text/token_table.h"
#include "text/tokenizer_private.h"

typedef struct row {
    const uint8_t *bytes;
    uint32_t length;
    int32_t id;
} row;

static int compare_rows(const void *a, const void *b) {
    const row *x = a, *y = b;
    int order = memcmp(x->bytes, y->bytes, BL_MIN(x->length, y->length));
    if (order)
        return order;
    if (x->length != y->length)
        return x->length < y->length ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* Heap sort: qsort may allocate with malloc, which a host may not want. */
static void sift(row *rows, size_t n, size_t i) {
    row moving = rows[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && compare_rows(&rows[child], &rows[child + 1]) < 0)
            child++;
        if (compare_rows(&moving, &rows[child]) >= 0)
            break;
        rows[i] = rows[child];
    }
    rows[i] = moving;
}

static void sort_rows(row *rows, size_t n) {
    for (size_t i = n / 2; i-- > 0;)
        sift(rows, n, i);
    for (size_t end = n; end-- > 1;) {
        row last = rows[end];
        rows[end] = rows[0];
        rows[0] = last;
        sift(rows, end, 0);
    }
}

void bl_token_table_free(const bl_alloc *alloc, bl_token_table *table) {
    if (!table)
        return;
    bl_free(alloc, table->ids);
    bl_free(alloc, table->offsets);
    bl_free(alloc, table->common);
    bl_free(alloc, table->bytes);
    bl_free(alloc, table);
}

int bl_token_table_has(const bl_token_table *t, const void *bytes, size_t length) {
    int32_t low = 0, high = t->n;
    while (low < high) {
        int32_t i = low + (high - low) / 2;
        size_t n = t->offsets[i + 1] - t->offsets[i];
        int order = memcmp(t->bytes + t->offsets[i], bytes, BL_MIN(n, length));
        if (order == 0 && n == length)
            return 1;
        if (order < 0 || (order == 0 && n < length))
            low = i + 1;
        else
            high = i;
    }
    return 0;
}

/* The bytes of all tokens that render, one after another; *n rows. */
static row *render_all(const bl_tokenizer *t, uint8_t **bytes, int32_t *n, size_t *n_bytes) {
    size_t total = 0, used = 0;
    int32_t count = 0;
    uint8_t *piece = bl_malloc(&t->alloc, t->max_bytes + 8), *all = NULL;
    row *rows = NULL;
    for (int pass = 0; pass < 2 && piece; pass++) {
        if (pass) {
            all = bl_malloc(&t->alloc, total);
            rows = bl_calloc(&t->alloc, (size_t)count, sizeof *rows);
            if (!all || !rows)
                break;
            count = 0;
        }
        for (int32_t id = 0; id < t->n_tokens; id++) {
            size_t length = bl_token_bytes(t, id, piece);
            if (length == 0)
                continue;
            if (pass) {
                memcpy(all + used, piece, length);
                rows[count] = (row){all + used, (uint32_t)length, id};
                used += length;
            }
            total += length;
            count++;
        }
    }
    bl_free(&t->alloc, piece);
    if (!all || !rows) {
        bl_free(&t->alloc, all);
        bl_free(&t->alloc, rows);
        return NULL;
    }
    *bytes = all;
    *n = count;
    *n_bytes = used;
    return rows;
}

static bl_token_table *build(const bl_tokenizer *t) {
    uint8_t *bytes = NULL;
    size_t n_bytes = 0, used = 0;
    int32_t n = 0;
    bl_token_table *table = bl_calloc(&t->alloc, 1, sizeof *table);
    row *rows = table ? render_all(t, &bytes, &n, &n_bytes) : NULL;
    if (!rows)
        goto fail;
    table->n = n;
    table->ids = bl_calloc(&t->alloc, (size_t)n + 1, sizeof *table->ids);
    table->offsets = bl_calloc(&t->alloc, (size_t)n + 1, sizeof *table->offsets);
    table->common = bl_calloc(&t->alloc, (size_t)n + 1, sizeof *table->common);
    table->bytes = bl_malloc(&t->alloc, n_bytes);
    if (!table->ids || !table->offsets || !table->common || !table->bytes)
        goto fail;
    sort_rows(rows, (size_t)n);
    for (int32_t i = 0; i < n; i++) {
        uint32_t most = i ? BL_MIN(rows[i].length, rows[i - 1].length) : 0;
        while (table->common[i] < most && rows[i].bytes[table->common[i]] == rows[i - 1].bytes[table->common[i]])
            table->common[i]++;
        memcpy(table->bytes + used, rows[i].bytes, rows[i].length);
        table->ids[i] = rows[i].id;
        used += rows[i].length;
        table->offsets[i + 1] = (uint32_t)used;
        table->max_bytes = BL_MAX(table->max_bytes, (size_t)rows[i].length);
    }
    table->whole_utf8 = 1;
    for (int b = 0x80; b < 0xC0; b++) {
        uint8_t byte = (uint8_t)b;
        table->whole_utf8 &= bl_token_table_has(table, &byte, 1);
    }
    bl_free(&t->alloc, rows);
    bl_free(&t->alloc, bytes);
    return table;
fail:
    bl_free(&t->alloc, rows);
    bl_free(&t->alloc, bytes);
    bl_token_table_free(&t->alloc, table);
    return NULL;
}

bitlm_status bl_token_table_get(const bl_tokenizer *t, const bl_token_table **table, bitlm_error *error) {
    _Atomic(bl_token_table *) *slot = (_Atomic(bl_token_table *) *)(uintptr_t)&t->table;
    bl_token_table *made, *there = atomic_load(slot);
    if (t->kind == BL_TOKENIZER_NONE)
        return bl_error(error, BITLM_UNSUPPORTED, "%s", t->refusal);
    if (!there) {
        made = build(t);
        if (!made)
            return bl_error(error, BITLM_NOMEM, "no memory for the sorted bytes of %d tokens", t->n_tokens);
        if (atomic_compare_exchange_strong(slot, &there, made))
            there = made;
        else
            bl_token_table_free(&t->alloc, made);
    }
    *table = there;
    return BITLM_OK;
}

bitlm_status bl_tokenize_inner(const bl_tokenizer *t, const char *text, size_t length, int after_space,
                               bl_poll *poll, bl_ids *ids, bitlm_error *error) {
    size_t total = length + (after_space != 0), start = ids->n;
    if (t->kind != BL_TOKENIZER_SPM && t->kind != BL_TOKENIZER_BPE)
        return bl_error(error, BITLM_UNSUPPORTED, "this model's vocabulary does not continue texts");
    uint8_t *joined = bl_malloc(&t->alloc, total + 1);
    if (!joined)
        return bl_error_nomem(error, total, "a text");
    joined[0] = ' ';
    memcpy(joined + (after_space != 0), text, length);
    bl_sink sink = {.ids = ids, .start = start, .limit = 0, .poll = poll, .error = error};
    bitlm_status status = t->kind == BL_TOKENIZER_SPM ? bl_spm_encode(t, joined, total, 0, &sink)
                                                      : bl_bpe_encode(t, joined, total, &sink);
    if (status)
        ids->n = start;
    bl_free(&t->alloc, joined);
    return status;
}
