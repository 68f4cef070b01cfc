/* code_search.c - runs queries over the blocks of a store.
 *
 * Each block is filtered to one bit a row, then its codes are compared where they lie.  A heap for each query
 * keeps the k nearest; its root is the distance that the next row must stay under.
 *
 * Called by sqlite_index_cursor.c and sqlite_index_functions.c. */
#include "code_search.h"

#include <stdlib.h>
#include <string.h>

#include "search/codes.h"

#define POLL_BYTES 33554432u /* a few milliseconds of scanning */

/* The order of results; a heap has the last of them at its root. */
static int behind(const bls_hit *a, const bls_hit *b)
{
    return a->distance != b->distance ? a->distance > b->distance : a->place > b->place;
}

static void sift_down(bls_hit *heap, size_t n, size_t at)
{
    size_t child;
    bls_hit hit = heap[at];

    while ((child = 2 * at + 1) < n) {
        if (child + 1 < n && behind(&heap[child + 1], &heap[child]))
            child++;
        if (!behind(&heap[child], &hit))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = hit;
}

static void sift_up(bls_hit *heap, size_t at)
{
    bls_hit hit = heap[at];

    while (at > 0 && behind(&hit, &heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = hit;
}

static int compare_hits(const void *a, const void *b)
{
    const bls_hit *x = a, *y = b;

    return behind(x, y) ? 1 : behind(y, x) ? -1 : 0;
}

/* Memory of one run: rows and distances of a block, and its bits. */
typedef struct scratch {
    uint64_t bits[BLS_FILTER_WORDS(BLS_IMAGE_MOST_ROWS)];
    uint32_t rows[BLS_IMAGE_MOST_ROWS], distances[BLS_IMAGE_MOST_ROWS];
} scratch;

/* Most rows pass: all are compared, and of the near ones those are taken that pass.  Few
 * pass: they are compared one by one. */
static int64_t near_rows(const bls_search *search, const bls_image *image, uint32_t n_pass, uint32_t below,
                         const uint8_t *query, scratch *s)
{
    int64_t i, to = 0, n;
    uint32_t w, row, words = BLS_FILTER_WORDS(image->n);
    uint64_t word, distance;

    if (n_pass >= image->n / 8) {
        n = bl_codes_below(query, image->codes, image->n, (int64_t)search->code_bytes, below, s->rows, s->distances);
        if (n_pass == image->n)
            return n;
        for (i = 0; i < n; i++) {
            row = s->rows[i];
            if (s->bits[row / 64] >> (row % 64) & 1) {
                s->rows[to] = row;
                s->distances[to++] = s->distances[i];
            }
        }
        return to;
    }
    for (w = 0; w < words; w++) {
        for (word = s->bits[w]; word; word &= word - 1) {
            row = w * 64 + (uint32_t)__builtin_ctzll(word);
            distance = bitlm_hamming(query, image->codes + (size_t)row * search->code_bytes, search->code_bytes);
            if (distance < below) {
                s->rows[to] = row;
                s->distances[to++] = (uint32_t)distance;
            }
        }
    }
    return to;
}

static void scan(const bls_search *search, const bls_image *image, size_t block, uint32_t n_pass,
                 const uint8_t *query, bls_hit *heap, size_t *n_heap, scratch *s)
{
    uint32_t below = *n_heap < search->k ? search->most + 1 : heap[0].distance;
    int64_t n = near_rows(search, image, n_pass, below, query, s), i;
    bls_hit hit = {0};

    for (i = 0; i < n; i++) {
        hit.distance = s->distances[i];
        if ((int64_t)hit.distance <= search->after_distance &&
            ((int64_t)hit.distance < search->after_distance ||
             bls_image_rowid(image, s->rows[i]) <= search->after_rowid))
            continue;
        hit.place = (int64_t)block << 16 | s->rows[i];
        if (*n_heap < search->k) {
            hit.rowid = bls_image_rowid(image, s->rows[i]);
            heap[*n_heap] = hit;
            sift_up(heap, (*n_heap)++);
        } else if (hit.distance < heap[0].distance) { /* places ascend: a tie comes behind */
            hit.rowid = bls_image_rowid(image, s->rows[i]);
            heap[0] = hit;
            sift_down(heap, *n_heap, 0);
        }
    }
}

int bls_search_run(bls_state *state, const bls_search *search, bls_hit *hits, size_t *n_hits)
{
    scratch *s;
    size_t n_blocks = bls_store_blocks(search->store), block, q, unpolled = 0;
    int64_t first, last;
    bls_image *image;
    uint32_t n;
    int rc = SQLITE_OK, pinned;

    memset(n_hits, 0, search->n_queries * sizeof *n_hits);
    if (search->k == 0)
        return SQLITE_OK;
    s = sqlite3_malloc64(sizeof *s);
    if (!s)
        return SQLITE_NOMEM;
    for (block = 0; block < n_blocks; block++) {
        if (search->filter) {
            bls_store_range(search->store, block, &first, &last);
            if (!bls_filter_may_touch(search->filter, first, last))
                continue;
        }
        rc = bls_store_peek(search->store, block, &image, &pinned);
        if (rc != SQLITE_OK)
            goto end;
        if (!image)
            continue;
        n = search->filter ? bls_filter_block(search->filter, image, s->bits) : image->n;
        for (q = 0; q < search->n_queries && n; q++)
            scan(search, image, block, n, search->queries + q * search->code_bytes, hits + q * search->k, &n_hits[q],
                 s);
        unpolled += image->length * search->n_queries;
        if (pinned)
            bls_image_release(image);
        if (unpolled > POLL_BYTES) {
            unpolled = 0;
            if (bls_poll(state)) {
                rc = SQLITE_INTERRUPT;
                goto end;
            }
        }
    }
    for (q = 0; q < search->n_queries; q++)
        qsort(hits + q * search->k, n_hits[q], sizeof *hits, compare_hits);
end:
    sqlite3_free(s);
    return rc;
}
