/* pairs.c - all pairs of codes within a distance, without comparing every pair.
 *
 * Two codes that differ in at most r bits agree in one of r + 1 pieces.  So for each piece the rows are
 * sorted by its bits, and only rows with the same bits are compared.  A pair that agrees in several pieces
 * is reported by the first.  A sample tells beforehand how many comparisons that will take; where
 * pieces are so short that it is no gain, all rows are one group.
 *
 * Called through bitlm.h; bl_pairs_pay by ext_sqlite. */
#include <stdlib.h>
#include <string.h>

#include "search/codes.h"
#include "search/search.h"

#define SAMPLE 2048u
#define ALL_ROWS SIZE_MAX
#define SORT_COST 20.0 /* of a row and a piece, in comparisons */

typedef struct keyed {
    uint64_t key;
    uint32_t row;
} keyed;

typedef struct pair {
    uint32_t a, b, distance;
} pair;

typedef struct pairs {
    const bl_kernels *kernels;
    const uint8_t *codes;
    size_t n, bytes, n_pieces;
    uint32_t most;
    keyed *keys, *spare;  /* (n) */
    uint8_t *tile;        /* (BL_SCAN_ROWS, bytes) */
    uint32_t *rows, *distances; /* (BL_SCAN_ROWS) */
    pair *found;
    size_t n_found, capacity, room;
    const bl_alloc *alloc;
    bl_poll *poll;
    uint64_t unpolled;
} pairs;

/* The first 64 bits at most of a piece: piece p begins at bit p * bits / n_pieces. */
static uint64_t key_of(const pairs *s, size_t row, size_t piece) {
    const uint8_t *code = s->codes + row * s->bytes;
    size_t bits = s->bytes * 8, from = piece * bits / s->n_pieces, to = (piece + 1) * bits / s->n_pieces;
    uint64_t key = 0;
    if (to - from > 64)
        to = from + 64;
    size_t last = (to - 1) / 8;
    for (size_t i = from / 8; i <= last; i++) {
        uint64_t byte = code[i];
        if (i == from / 8)
            byte &= 0xffu >> from % 8;
        if (i == last) {
            byte >>= 7 - (to - 1) % 8;
            key = key << ((to - 1) % 8 + 1) | byte;
        } else {
            key = key << 8 | byte;
        }
    }
    return key;
}

/* By the lower 32 bits of a scrambled key, 11 bits at a time: equal keys then lie side by side, with
 * rows in ascending order; keys that only share those bits may be mixed with them, which costs a few
 * comparisons. */
static void sort_by_piece(pairs *s, size_t piece) {
    for (size_t i = 0; i < s->n; i++) {
        s->keys[i].key = key_of(s, i, piece) * UINT64_C(0x9e3779b97f4a7c15) >> 32;
        s->keys[i].row = (uint32_t)i;
    }
    for (unsigned shift = 0; shift < 33; shift += 11) {
        size_t at[2048] = {0}, sum = 0;
        for (size_t i = 0; i < s->n; i++)
            at[s->keys[i].key >> shift & 2047]++;
        for (size_t i = 0; i < 2048; i++) {
            size_t count = at[i];
            at[i] = sum;
            sum += count;
        }
        for (size_t i = 0; i < s->n; i++)
            s->spare[at[s->keys[i].key >> shift & 2047]++] = s->keys[i];
        keyed *swap = s->keys;
        s->keys = s->spare;
        s->spare = swap;
    }
}

static bitlm_status add(pairs *s, uint32_t a, uint32_t b, uint32_t distance, bitlm_error *error) {
    if (s->n_found == s->capacity)
        return bl_error(error, BITLM_LIMIT, "more than %zu pairs differ in at most %u bits, the room there is for them",
                        s->capacity, s->most);
    if (s->n_found == s->room) {
        size_t room = s->room ? 2 * s->room : 256;
        pair *more = bl_regrow(s->alloc, s->found, s->room * sizeof *more, room * sizeof *more);
        if (!more)
            return bl_error_nomem(error, room * sizeof *more, "the pairs");
        s->found = more;
        s->room = room;
    }
    s->found[s->n_found++] = (pair){a, b, distance};
    return BITLM_OK;
}

/* Is `piece` the first in which they agree? */
static int is_first(const pairs *s, uint32_t a, uint32_t b, size_t piece) {
    for (size_t p = 0; p < piece; p++) {
        if (key_of(s, a, p) == key_of(s, b, p))
            return 0;
    }
    return key_of(s, a, piece) == key_of(s, b, piece);
}

/* Compares keys[0 .. n), n >= 2, rows ascending, with one another. */
static bitlm_status compare_group(pairs *s, const keyed *group, size_t n, size_t piece, bitlm_error *error) {
    bitlm_status status = BITLM_OK;
    for (size_t from = 0; from < n; from += BL_SCAN_ROWS) {
        size_t to = BL_MIN(n, from + BL_SCAN_ROWS);
        for (size_t i = from; i < to; i++)
            memcpy(s->tile + (i - from) * s->bytes, s->codes + (size_t)group[i].row * s->bytes, s->bytes);
        for (size_t i = 0; i + 1 < to; i++) {
            size_t start = i + 1 > from ? i + 1 : from;
            int64_t found = s->kernels->hamming_below(s->codes + (size_t)group[i].row * s->bytes,
                                                      s->tile + (start - from) * s->bytes, (int64_t)(to - start),
                                                      (int64_t)s->bytes, s->most + 1, s->rows, s->distances);
            for (int64_t j = 0; j < found; j++) {
                uint32_t a = group[i].row, b = group[start + s->rows[j]].row;
                if (piece == ALL_ROWS || is_first(s, a, b, piece))
                    status = add(s, a, b, s->distances[j], error);
                if (status != BITLM_OK)
                    return status;
            }
            s->unpolled += (to - start) * s->bytes + 64;
            if (s->unpolled > 1000000) {
                s->unpolled = 0;
                if (bl_poll_check(s->poll) != BITLM_OK)
                    return bl_poll_error(s->poll, error);
            }
        }
    }
    return BITLM_OK;
}

static int by_key(const void *a, const void *b) {
    const keyed *x = a, *y = b;
    return x->key < y->key ? -1 : x->key > y->key;
}

/* Are the comparisons of all groups, as a sample foretells them, fewer than half of all? */
static int pieces_pay(pairs *s) {
    size_t n = BL_MIN(s->n, SAMPLE);
    double all = 0.5 * (double)s->n * (double)s->n, scale = (double)s->n / (double)n, sum = 0.0;
    for (size_t p = 0; p < s->n_pieces; p++) {
        double equal = 0.0;
        for (size_t i = 0; i < n; i++)
            s->spare[i] = (keyed){key_of(s, i * s->n / n, p), 0};
        qsort(s->spare, n, sizeof *s->spare, by_key);
        for (size_t i = 0, first = 0; i < n; i++) {
            if (s->spare[i].key != s->spare[first].key)
                first = i;
            equal += (double)(i - first);
        }
        sum += equal * scale * scale + SORT_COST * (double)s->n;
        if (sum > 0.5 * all)
            return 0;
    }
    return 1;
}

static int use_pieces(pairs *s) {
    s->n_pieces = (size_t)s->most + 1;
    return s->n_pieces * 8 <= s->bytes * 8 && s->n >= 256 && pieces_pay(s);
}

int bl_pairs_pay(const uint8_t *codes, size_t n, size_t bytes, uint32_t distance, const bitlm_host *host) {
    bl_alloc alloc = bl_alloc_from_host(host);
    pairs s = {.codes = codes, .n = n, .bytes = bytes, .most = BL_MIN(distance, (uint32_t)(bytes * 8))};
    s.spare = bl_calloc(&alloc, SAMPLE, sizeof *s.spare);
    int pay = s.spare && use_pieces(&s);
    bl_free(&alloc, s.spare);
    return pay;
}

static bitlm_status find(pairs *s, bitlm_error *error) {
    bitlm_status status = BITLM_OK;
    if (!use_pieces(s)) {
        for (size_t i = 0; i < s->n; i++)
            s->keys[i].row = (uint32_t)i;
        return compare_group(s, s->keys, s->n, ALL_ROWS, error);
    }
    for (size_t p = 0; p < s->n_pieces; p++) {
        if (bl_poll_check(s->poll) != BITLM_OK)
            return bl_poll_error(s->poll, error);
        sort_by_piece(s, p);
        for (size_t i = 0, end; i < s->n; i = end) {
            for (end = i + 1; end < s->n && s->keys[end].key == s->keys[i].key; end++)
                ;
            if (end - i > 1)
                status = compare_group(s, s->keys + i, end - i, p, error);
            if (status != BITLM_OK)
                return status;
        }
    }
    return BITLM_OK;
}

static int by_rows(const void *a, const void *b) {
    const pair *x = a, *y = b;
    if (x->a != y->a)
        return x->a < y->a ? -1 : 1;
    return x->b < y->b ? -1 : x->b > y->b;
}

bitlm_status bitlm_codes_pairs(const void *codes, size_t n, size_t code_bytes, uint32_t distance,
                               const bitlm_host *host, int64_t *a, int64_t *b, uint32_t *distances,
                               size_t capacity, size_t *n_found, bitlm_error *error) {
    bl_alloc alloc = bl_alloc_from_host(host);
    pairs s = {.kernels = bl_kernels_usual(), .codes = codes, .n = n, .bytes = code_bytes, .capacity = capacity,
               .alloc = &alloc};
    bl_poll poll;
    size_t all;
    bitlm_status status;

    bl_error_clear(error);
    if (code_bytes == 0 || code_bytes > BL_CODE_MOST_BYTES)
        return bl_error(error, BITLM_ARG, "codes of %zu bytes, but a code has 1 to %u bytes", code_bytes,
                        BL_CODE_MOST_BYTES);
    if (n > UINT32_MAX || !bl_mul_size(n, code_bytes, &all))
        return bl_error(error, BITLM_LIMIT, "%zu codes, but pairs are looked for among at most %u", n, UINT32_MAX);
    if ((n && !codes) || !n_found || (capacity && (!a || !b || !distances)))
        return bl_error(error, BITLM_ARG, "an argument is NULL");
    if (n < 2) {
        *n_found = 0;
        return BITLM_OK;
    }
    bl_poll_init(&poll, host, NULL, 0);
    s.poll = &poll;
    s.most = BL_MIN(distance, (uint32_t)(code_bytes * 8));
    s.keys = bl_calloc(&alloc, n, sizeof *s.keys);
    s.spare = bl_calloc(&alloc, n, sizeof *s.spare);
    s.tile = bl_calloc(&alloc, BL_SCAN_ROWS, code_bytes);
    s.rows = bl_calloc(&alloc, BL_SCAN_ROWS, sizeof *s.rows);
    s.distances = bl_calloc(&alloc, BL_SCAN_ROWS, sizeof *s.distances);
    if (!s.keys || !s.spare || !s.tile || !s.rows || !s.distances) {
        status = bl_error_nomem(error, n * sizeof *s.keys, "the search for pairs");
        goto fail;
    }
    status = find(&s, error);
    if (status != BITLM_OK)
        goto fail;
    if (s.n_found > 1)
        qsort(s.found, s.n_found, sizeof *s.found, by_rows);
    for (size_t i = 0; i < s.n_found; i++) {
        a[i] = s.found[i].a;
        b[i] = s.found[i].b;
        distances[i] = s.found[i].distance;
    }
    *n_found = s.n_found;
fail:
    bl_free(&alloc, s.found);
    bl_free(&alloc, s.distances);
    bl_free(&alloc, s.rows);
    bl_free(&alloc, s.tile);
    bl_free(&alloc, s.spare);
    bl_free(&alloc, s.keys);
    return status;
}
