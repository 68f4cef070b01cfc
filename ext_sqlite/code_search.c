/* code_search.c - runs queries over the blocks of a store.
 *
 * Each block is filtered to one bit a row, then its codes are compared where they lie.  A heap for each query
 * keeps the k nearest; its root is the distance that the next row must stay under.  Where tables of pieces cover the
 * blocks (code_multi.h) a query asks those first, and is done with what they do not cover if they answer.
 *
 * Called by sqlite_index_cursor.c and sqlite_index_functions.c. */
#include "code_search.h"

#include <stdlib.h>
#include <string.h>

#include "code_multi.h"
#include "search/codes.h"
#include "search/multi_index.h"

#define POLL_BYTES 33554432u /* a few milliseconds of scanning */
#define FEW 8                /* one row in so many passes a filter, or fewer: they are compared alone ... */
#define FEW_COST 4           /* ... each in the time of so many that lie side by side */

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

    if (n_pass >= image->n / FEW) {
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

/* Distances under this may still count: a row found later may come before one as far. */
static uint32_t bound(const bls_search *search, const bls_hit *heap, size_t n_heap)
{
    return n_heap == search->k && heap[0].distance < search->most ? heap[0].distance + 1 : search->most + 1;
}

static void offer(const bls_search *search, const bls_image *image, size_t block, uint32_t row, uint32_t distance,
                  bls_hit *heap, size_t *n_heap)
{
    bls_hit hit = {.distance = distance, .place = (int64_t)block << 16 | row};

    if (*n_heap == search->k && !behind(&heap[0], &hit))
        return;
    hit.rowid = bls_image_rowid(image, row);
    if ((int64_t)distance < search->after_distance ||
        ((int64_t)distance == search->after_distance && hit.rowid <= search->after_rowid))
        return;
    if (*n_heap < search->k) {
        heap[*n_heap] = hit;
        sift_up(heap, (*n_heap)++);
    } else {
        heap[0] = hit;
        sift_down(heap, *n_heap, 0);
    }
}

static void scan(const bls_search *search, const bls_image *image, size_t block, uint32_t n_pass,
                 const uint8_t *query, bls_hit *heap, size_t *n_heap, scratch *s)
{
    int64_t n = near_rows(search, image, n_pass, bound(search, heap, *n_heap), query, s), i;

    for (i = 0; i < n; i++)
        offer(search, image, block, s->rows[i], s->distances[i], heap, n_heap);
}

/* ---- with tables of pieces ----------------------------------------------------------- */

typedef struct asked {
    const bls_search *search;
    bls_hit *heap;
    size_t *n_heap;
} asked;

static uint32_t near_row(void *context, size_t block, const bls_image *image, uint32_t row, uint32_t distance)
{
    asked *a = context;

    if (!a->search->filter || bls_filter_row(a->search->filter, image, row))
        offer(a->search, image, block, row, distance, a->heap, a->n_heap);
    return bound(a->search, a->heap, *a->n_heap);
}

/* A block's image, NULL if no row of it can pass the filter, and how many do (which ones: s->bits). */
static int look_at(const bls_search *search, size_t block, scratch *s, bls_image **image, uint32_t *n, int *pinned)
{
    int64_t first, last;
    int rc;

    *image = NULL;
    if (search->filter) {
        bls_store_range(search->store, block, &first, &last);
        if (!bls_filter_may_touch(search->filter, first, last))
            return SQLITE_OK;
    }
    rc = bls_store_peek(search->store, block, image, pinned);
    if (rc == SQLITE_OK && *image)
        *n = search->filter ? bls_filter_block(search->filter, *image, s->bits) : (*image)->n;
    return rc;
}

/* 1 in *done if the hits are complete; else there are none. */
static int ask(bls_state *state, const bls_search *search, bls_cover *cover, uint64_t rows, const uint8_t *query,
               bls_hit *heap, size_t *n_heap, scratch *s, int *done)
{
    size_t n_blocks = bls_store_blocks(search->store), block;
    asked a = {search, heap, n_heap};
    bls_image *image;
    int rc, pinned, answer;
    uint32_t n;

    *done = 0;
    for (block = 0; block < n_blocks; block++) {
        if (bls_cover_has(cover, block))
            continue;
        rc = look_at(search, block, s, &image, &n, &pinned);
        if (rc != SQLITE_OK)
            return rc;
        if (!image)
            continue;
        if (n)
            scan(search, image, block, n, query, heap, n_heap, s);
        if (pinned)
            bls_image_release(image);
    }
    answer = bls_cover_search(cover, state, query, bound(search, heap, *n_heap), rows, search->k < rows, near_row, &a);
    if (answer == BL_MULTI_STOPPED)
        return SQLITE_INTERRUPT;
    *done = answer == BL_MULTI_DONE;
    if (!*done)
        *n_heap = 0;
    return SQLITE_OK;
}

/* Rows that a flat scan compares. */
static uint64_t count_rows(const bls_search *search)
{
    size_t n_blocks = bls_store_blocks(search->store), block, touched = 0;
    int64_t first, last;

    if (!search->filter)
        return bls_store_rows(search->store);
    for (block = 0; block < n_blocks; block++) {
        bls_store_range(search->store, block, &first, &last);
        touched += (size_t)bls_filter_may_touch(search->filter, first, last);
    }
    return n_blocks ? bls_store_rows(search->store) * touched / n_blocks : 0;
}

/* Compares all rows with the queries that are not done.  *compared: rows, those alone counted as FEW_COST of them. */
static int scan_all(bls_state *state, const bls_search *search, const uint8_t *done, bls_hit *hits, size_t *n_hits,
                    scratch *s, uint64_t *compared)
{
    size_t n_blocks = bls_store_blocks(search->store), block, q, unpolled = 0;
    bls_image *image;
    uint32_t n;
    int rc, pinned;

    for (block = 0; block < n_blocks; block++) {
        rc = look_at(search, block, s, &image, &n, &pinned);
        if (rc != SQLITE_OK)
            return rc;
        if (!image)
            continue;
        for (q = 0; q < search->n_queries && n; q++)
            if (!done[q])
                scan(search, image, block, n, search->queries + q * search->code_bytes, hits + q * search->k,
                     &n_hits[q], s);
        *compared += n >= image->n / FEW ? image->n : n * FEW_COST;
        unpolled += image->length * search->n_queries;
        if (pinned)
            bls_image_release(image);
        if (unpolled > POLL_BYTES) {
            unpolled = 0;
            if (bls_poll(state))
                return SQLITE_INTERRUPT;
        }
    }
    return SQLITE_OK;
}

int bls_search_run(bls_state *state, const bls_search *search, bls_hit *hits, size_t *n_hits)
{
    bls_cover *cover = NULL;
    uint64_t rows, compared = 0;
    scratch *s;
    uint8_t *done; /* (n_queries) */
    size_t q, n_done = 0;
    int rc = SQLITE_OK, answered;

    memset(n_hits, 0, search->n_queries * sizeof *n_hits);
    if (search->k == 0)
        return SQLITE_OK;
    s = sqlite3_malloc64(sizeof *s + search->n_queries);
    if (!s)
        return SQLITE_NOMEM;
    done = (uint8_t *)(s + 1);
    memset(done, 0, search->n_queries);
    rc = bls_cover_find(search->store, &cover);
    if (rc == SQLITE_OK && cover) {
        rows = count_rows(search);
        for (q = 0; q < search->n_queries && rc == SQLITE_OK; q++) {
            rc = ask(state, search, cover, rows, search->queries + q * search->code_bytes, hits + q * search->k,
                     &n_hits[q], s, &answered);
            done[q] = (uint8_t)answered;
            n_done += (size_t)answered;
        }
    }
    if (rc == SQLITE_OK && n_done < search->n_queries)
        rc = scan_all(state, search, done, hits, n_hits, s, &compared);
    for (q = 0; q < search->n_queries && rc == SQLITE_OK; q++) {
        if (done[q] || compared)
            rc = bls_cover_learn(search->store, state, bound(search, hits + q * search->k, n_hits[q]) - 1,
                                 done[q] ? 0 : compared);
        if (n_hits[q] > 1)
            qsort(hits + q * search->k, n_hits[q], sizeof *hits, compare_hits);
    }
    sqlite3_free(s);
    return rc;
}
