/* code_search.c - runs queries over the blocks of a store.
 *
 * Each block is filtered to one bit a row, then its codes are compared where they lie.  A heap for each query
 * keeps the k nearest; its root is the distance that the next row must stay under.
 *
 * Called by sqlite_index_cursor.c and sqlite_index_functions.c. */
#include "code_search.h"

#include <stdlib.h>
#include <string.h>

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

static void scan(const bls_search *search, const bls_image *image, size_t block, const uint64_t *bits,
                 const uint8_t *query, bls_hit *heap, size_t *n_heap)
{
    uint32_t row, distance;
    bls_hit hit;

    for (row = 0; row < image->n; row++) {
        if (bits && !(bits[row / 64] >> (row % 64) & 1)) {
            if (!bits[row / 64])
                row |= 63;
            continue;
        }
        distance = (uint32_t)bitlm_hamming(query, image->codes + (size_t)row * search->code_bytes, search->code_bytes);
        if (distance > search->most)
            continue;
        if ((int64_t)distance <= search->after_distance &&
            ((int64_t)distance < search->after_distance || bls_image_rowid(image, row) <= search->after_rowid))
            continue;
        hit.distance = distance;
        hit.query = 0;
        hit.place = (int64_t)block << 16 | row;
        hit.rowid = 0;
        if (*n_heap < search->k) {
            hit.rowid = bls_image_rowid(image, row);
            heap[*n_heap] = hit;
            sift_up(heap, (*n_heap)++);
        } else if (behind(&heap[0], &hit)) {
            hit.rowid = bls_image_rowid(image, row);
            heap[0] = hit;
            sift_down(heap, *n_heap, 0);
        }
    }
}

int bls_search_run(bls_state *state, const bls_search *search, bls_hit *hits, size_t *n_hits)
{
    uint64_t bits[BLS_FILTER_WORDS(BLS_IMAGE_MOST_ROWS)];
    size_t n_blocks = bls_store_blocks(search->store), block, q, unpolled = 0;
    int64_t first, last;
    bls_image *image;
    uint32_t n;
    int rc;

    memset(n_hits, 0, search->n_queries * sizeof *n_hits);
    if (search->k == 0)
        return SQLITE_OK;
    for (block = 0; block < n_blocks; block++) {
        if (search->filter) {
            bls_store_range(search->store, block, &first, &last);
            if (!bls_filter_may_touch(search->filter, first, last))
                continue;
        }
        rc = bls_store_block(search->store, block, &image);
        if (rc != SQLITE_OK)
            return rc;
        if (!image)
            continue;
        n = search->filter ? bls_filter_block(search->filter, image, bits) : image->n;
        for (q = 0; q < search->n_queries && n; q++)
            scan(search, image, block, n < image->n ? bits : NULL, search->queries + q * search->code_bytes,
                 hits + q * search->k, &n_hits[q]);
        unpolled += image->length * search->n_queries;
        bls_image_release(image);
        if (unpolled > POLL_BYTES) {
            unpolled = 0;
            if (bls_poll(state))
                return SQLITE_INTERRUPT;
        }
    }
    for (q = 0; q < search->n_queries; q++)
        qsort(hits + q * search->k, n_hits[q], sizeof *hits, compare_hits);
    return SQLITE_OK;
}
