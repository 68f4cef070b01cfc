/* topk.c - the nearest of many packed codes: bitlm_codes_topk.
 *
 * One pass over the codes for each query, a heap of the k nearest with the farthest at its root.
 * Order is (distance, row), so equal distances come out by row and the answer is one only.
 *
 * Called by hosts through bitlm.h and by index.c. */
#include <string.h>

#include "search/codes.h"

#define BLOCK 512
#define POLL_BLOCKS 64 /* a few milliseconds of the longest codes, far less of common ones */

typedef struct hit {
    uint64_t distance;
    int64_t row;
} hit;

static int behind(const hit *a, const hit *b) {
    return a->distance != b->distance ? a->distance > b->distance : a->row > b->row;
}

/* The hole at `at` moves down until x fits. */
static void sift_down(hit *heap, int64_t n, int64_t at, hit x) {
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && behind(&heap[child + 1], &heap[child]))
            child++;
        if (!behind(&heap[child], &x))
            break;
        heap[at] = heap[child];
    }
    heap[at] = x;
}

static void sift_up(hit *heap, int64_t at, hit x) {
    for (int64_t up; at > 0 && behind(&x, &heap[up = (at - 1) / 2]); at = up)
        heap[at] = heap[up];
    heap[at] = x;
}

typedef struct scan {
    const uint8_t *codes, *query, *filter;
    int64_t n, bytes, k;
    hit *heap;
    int64_t n_heap;
} scan;

/* `count` rows from `first` on: those that are near enough come back from the kernel, few of them
 * once the heap is full. */
static void scan_block(scan *s, int64_t first, int64_t count) {
    uint32_t rows[BLOCK], distances[BLOCK];
    uint32_t below = s->n_heap < s->k ? UINT32_MAX : (uint32_t)s->heap[0].distance;
    int64_t n = bl_codes_below(s->query, s->codes + first * s->bytes, count, s->bytes, below, rows, distances);
    for (int64_t i = 0; i < n; i++) {
        hit x = {distances[i], first + rows[i]};
        if (s->filter && !(s->filter[x.row >> 3] >> (x.row & 7) & 1))
            continue;
        if (s->n_heap < s->k) {
            sift_up(s->heap, s->n_heap, x);
            s->n_heap++;
        } else if (x.distance < s->heap[0].distance) {
            sift_down(s->heap, s->n_heap, 0, x);
        }
    }
}

/* Empties the heap from its root: the farthest goes to the last place. */
static void unload(scan *s, int64_t *rows, uint32_t *distances) {
    for (int64_t i = s->k - 1; i >= s->n_heap; i--) {
        rows[i] = -1;
        distances[i] = UINT32_MAX;
    }
    while (s->n_heap > 0) {
        hit top = s->heap[0], last = s->heap[--s->n_heap];
        rows[s->n_heap] = top.row;
        distances[s->n_heap] = (uint32_t)top.distance;
        if (s->n_heap > 0)
            sift_down(s->heap, s->n_heap, 0, last);
    }
}

bitlm_status bitlm_codes_topk(const void *codes, size_t n, size_t code_bytes, const void *queries, size_t n_queries,
                              const uint8_t *filter, size_t k, const bitlm_host *host, int64_t *rows,
                              uint32_t *distances, bitlm_error *error) {
    size_t bytes;
    bl_error_clear(error);
    if (code_bytes == 0 || code_bytes > UINT32_MAX / 8)
        return bl_error(error, BITLM_ARG, "a code has %zu bytes, but must have 1 to %u", code_bytes, UINT32_MAX / 8);
    if (k > INT64_MAX / sizeof(hit) || !bl_mul_size(n, code_bytes, &bytes) || bytes > INT64_MAX)
        return bl_error(error, BITLM_LIMIT, "%zu codes of %zu bytes and k = %zu do not fit the address space", n,
                        code_bytes, k);
    if (k == 0 || n_queries == 0)
        return BITLM_OK;
    bl_alloc alloc = bl_alloc_from_host(host);
    bl_poll poll;
    bl_poll_init(&poll, host, NULL, 0);
    int64_t kept = (int64_t)BL_MIN(k, n ? n : 1);
    scan s = {.codes = codes, .filter = filter, .n = (int64_t)n, .bytes = (int64_t)code_bytes, .k = kept};
    s.heap = bl_malloc(&alloc, (size_t)kept * sizeof *s.heap);
    if (!s.heap)
        return bl_error_nomem(error, (size_t)kept * sizeof *s.heap, "the nearest codes");
    bitlm_status status = BITLM_OK;
    for (size_t q = 0; q < n_queries && !status; q++) {
        s.query = (const uint8_t *)queries + q * code_bytes;
        s.k = kept;
        for (int64_t row = 0; row < s.n && !status; row += BLOCK) {
            scan_block(&s, row, BL_MIN(BLOCK, s.n - row));
            if (row / BLOCK % POLL_BLOCKS == POLL_BLOCKS - 1)
                status = bl_poll_check(&poll);
        }
        if (!status) {
            s.k = (int64_t)k;
            unload(&s, rows + q * k, distances + q * k);
        }
    }
    bl_free(&alloc, s.heap);
    return status ? bl_poll_error(&poll, error) : BITLM_OK;
}
