/* search.h - exact search among packed codes: the pieces that a host's own index is built from.
 *
 * A block is codes (n, bytes) in memory.  Scan blocks one after another, each for all queries while it
 * lies in the cache, into one bl_nearest for each query:
 *
 *     bl_nearest_init(&nearest, room, k, most)
 *     for each block:  bl_scan_block(&query, codes, n, filter, first, rows, &scratch, &nearest)
 *     bl_nearest_sort(&nearest)                  room[0 .. n) nearest first
 *
 * The result is the k least by (distance, row) and does not depend on the order of blocks, so
 * parts of several threads are merged by offering the hits of one to another (bl_nearest_merge).
 * Range search is the same with k = rows and most = radius.
 *
 * Called by topk.c, pairs.c and rescore.c. */
#ifndef BL_SEARCH_H
#define BL_SEARCH_H

#include "base/base.h"
#include "kernels/kernels.h"

#define BL_CODE_MOST_BYTES 2048u /* 16,384 bits: of what bitlm_codes_search and its kin take */
#define BL_SCAN_ROWS 1024        /* rows that are compared before the threshold is read again */

typedef struct bl_hit {
    double distance;  /* a whole number but for Jaccard */
    uint64_t row;
} bl_hit;

/* The k nearest so far: a heap whose root is the farthest once it is full. */
typedef struct bl_nearest {
    bl_hit *hits;     /* (k) the caller's */
    size_t n, k;
    double most;      /* only distances <= most count */
} bl_nearest;

typedef struct bl_query {
    const bl_kernels *kernels;
    int32_t metric;       /* BITLM_METRIC_* */
    const uint8_t *code;  /* (bytes), ASYMMETRIC: (4, bytes) */
    int64_t bytes;
    uint32_t weight;      /* bits set in code, for JACCARD */
} bl_query;

typedef struct bl_scan_scratch {
    uint32_t rows[BL_SCAN_ROWS], distances[BL_SCAN_ROWS], more[BL_SCAN_ROWS];
    uint64_t pass[BL_SCAN_ROWS / 64];
} bl_scan_scratch;

void bl_query_init(bl_query *query, int32_t metric, const uint8_t *code, int64_t bytes);

void bl_nearest_init(bl_nearest *nearest, bl_hit *room, size_t k, double most);
void bl_nearest_offer(bl_nearest *nearest, double distance, uint64_t row);
void bl_nearest_merge(bl_nearest *into, const bl_nearest *from);
void bl_nearest_sort(bl_nearest *nearest); /* the heap is none afterwards */
int bl_hit_compare(const void *a, const void *b); /* for qsort: by distance, then row */

/* Offers rows of codes (n, bytes); row i is named ids[i], or first + i where ids is NULL.  filter: bit
 * j % 8 of byte j / 8 admits row i, j = first_bit + i, first_bit a multiple of 8; NULL admits all. */
void bl_scan_block(const bl_query *query, const uint8_t *codes, int64_t n, const uint8_t *filter,
                   uint64_t first_bit, uint64_t first, const int64_t *ids, bl_scan_scratch *scratch,
                   bl_nearest *nearest);

#endif
