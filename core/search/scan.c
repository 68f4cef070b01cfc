/* scan.c - one query against blocks of codes, and the k nearest so far.
 *
 * Codes are compared BL_SCAN_ROWS at a time.  The Hamming kernel drops what is not under the k-th distance
 * so far, so the heap is touched some k * ln(n/k) times in n rows.  Where few rows pass the filter they
 * are compared one by one.  The two other metrics are made of Hamming distances:
 *
 *     Jaccard     |a and b| / |a or b| = (A + B - h) / (A + B + h), A and B the bits set in a and b
 *     asymmetric  a query of 4 bits a value, u - 7.5 = 1/2 * sum of 2^p * (+-1 of plane p), so its product
 *                 with the +-1 of a code is larger where h0 + 2*h1 + 4*h2 + 8*h3 is smaller
 *
 * Called by topk.c. */
#include <stdlib.h>
#include <string.h>

#include "search/search.h"

#define FEW 8 /* under 1 row in 8 passes: one by one is faster than all */

void bl_query_init(bl_query *query, int32_t metric, const uint8_t *code, int64_t bytes) {
    static const uint8_t zero[BL_CODE_MOST_BYTES];
    query->kernels = bl_kernels_usual();
    query->metric = metric;
    query->code = code;
    query->bytes = bytes;
    query->weight = metric == BITLM_METRIC_JACCARD ? (uint32_t)query->kernels->hamming(code, zero, bytes) : 0;
}

/* ---- the nearest so far ------------------------------------------------------------- */

static int behind(const bl_hit *a, const bl_hit *b) {
    return a->distance != b->distance ? a->distance > b->distance : a->row > b->row;
}

int bl_hit_compare(const void *a, const void *b) {
    const bl_hit *x = a, *y = b;
    return behind(x, y) ? 1 : behind(y, x) ? -1 : 0;
}

void bl_nearest_init(bl_nearest *nearest, bl_hit *room, size_t k, double most) {
    nearest->hits = room;
    nearest->n = 0;
    nearest->k = k;
    nearest->most = most;
}

void bl_nearest_offer(bl_nearest *nearest, double distance, uint64_t row) {
    bl_hit hit = {distance, row}, *heap = nearest->hits;
    size_t at, child;
    if (distance > nearest->most || nearest->k == 0)
        return;
    if (nearest->n < nearest->k) {
        for (at = nearest->n++; at > 0 && behind(&hit, &heap[(at - 1) / 2]); at = (at - 1) / 2)
            heap[at] = heap[(at - 1) / 2];
        heap[at] = hit;
        return;
    }
    if (!behind(&heap[0], &hit))
        return;
    for (at = 0; (child = 2 * at + 1) < nearest->n; at = child) {
        if (child + 1 < nearest->n && behind(&heap[child + 1], &heap[child]))
            child++;
        if (!behind(&heap[child], &hit))
            break;
        heap[at] = heap[child];
    }
    heap[at] = hit;
}

void bl_nearest_merge(bl_nearest *into, const bl_nearest *from) {
    for (size_t i = 0; i < from->n; i++)
        bl_nearest_offer(into, from->hits[i].distance, from->hits[i].row);
}

void bl_nearest_sort(bl_nearest *nearest) {
    if (nearest->n > 1)
        qsort(nearest->hits, nearest->n, sizeof *nearest->hits, bl_hit_compare);
}

/* ---- comparing ------------------------------------------------------------------------ */

/* Distances of integer metrics under this may still count.  Rows need not come in ascending order, so
 * one as far as the root may replace it. */
static uint32_t threshold(const bl_nearest *nearest) {
    double most = nearest->most;
    if (nearest->n == nearest->k && nearest->hits[0].distance < most)
        most = nearest->hits[0].distance;
    return most >= 4294967294.0 ? UINT32_MAX : most < 0.0 ? 0 : (uint32_t)most + 1;
}

static double jaccard(uint32_t a, uint32_t b, uint64_t distance) {
    uint64_t either = (uint64_t)a + b + distance; /* twice the bits of a or b */
    return either ? (double)(2 * distance) / (double)either : 0.0;
}

static double one_distance(const bl_query *query, const uint8_t *code) {
    static const uint8_t zero[BL_CODE_MOST_BYTES];
    const bl_kernels *k = query->kernels;
    uint64_t distance = k->hamming(query->code, code, query->bytes);
    if (query->metric == BITLM_METRIC_JACCARD)
        return jaccard(query->weight, (uint32_t)k->hamming(code, zero, query->bytes), distance);
    if (query->metric == BITLM_METRIC_ASYMMETRIC) {
        for (int p = 1; p < 4; p++)
            distance += k->hamming(query->code + p * query->bytes, code, query->bytes) << p;
    }
    return (double)distance;
}

/* All distances of n <= BL_SCAN_ROWS rows: into s->distances, JACCARD's bits set into s->more. */
static void all_distances(const bl_query *query, const uint8_t *codes, int64_t n, bl_scan_scratch *s) {
    static const uint8_t zero[BL_CODE_MOST_BYTES];
    const bl_kernels *k = query->kernels;
    k->hamming_below(query->code, codes, n, query->bytes, UINT32_MAX, s->rows, s->distances);
    if (query->metric == BITLM_METRIC_JACCARD) {
        k->hamming_below(zero, codes, n, query->bytes, UINT32_MAX, s->rows, s->more);
        return;
    }
    for (int p = 1; p < 4; p++) {
        k->hamming_below(query->code + p * query->bytes, codes, n, query->bytes, UINT32_MAX, s->rows, s->more);
        for (int64_t i = 0; i < n; i++)
            s->distances[i] += s->more[i] << p;
    }
}

static int passes(const bl_scan_scratch *s, int64_t i) { return (int)(s->pass[i / 64] >> (i % 64) & 1); }

static void scan_piece(const bl_query *query, const uint8_t *codes, int64_t n, int64_t n_pass, uint64_t first,
                       const int64_t *ids, bl_scan_scratch *s, bl_nearest *nearest) {
#define NAME(i) (ids ? (uint64_t)ids[i] : first + (uint64_t)(i))
    if (n_pass < n / FEW) {
        for (int64_t w = 0; w * 64 < n; w++) {
            for (uint64_t word = s->pass[w]; word; word &= word - 1) {
                int64_t i = w * 64 + __builtin_ctzll(word);
                bl_nearest_offer(nearest, one_distance(query, codes + i * query->bytes), NAME(i));
            }
        }
    } else if (query->metric == BITLM_METRIC_HAMMING) {
        int64_t found = query->kernels->hamming_below(query->code, codes, n, query->bytes, threshold(nearest),
                                                      s->rows, s->distances);
        for (int64_t j = 0; j < found; j++) {
            if (n_pass == n || passes(s, s->rows[j]))
                bl_nearest_offer(nearest, (double)s->distances[j], NAME(s->rows[j]));
        }
    } else {
        all_distances(query, codes, n, s);
        uint32_t below = threshold(nearest);
        for (int64_t i = 0; i < n; i++) {
            if (n_pass != n && !passes(s, i))
                continue;
            if (query->metric == BITLM_METRIC_JACCARD)
                bl_nearest_offer(nearest, jaccard(query->weight, s->more[i], s->distances[i]), NAME(i));
            else if (s->distances[i] < below)
                bl_nearest_offer(nearest, (double)s->distances[i], NAME(i));
        }
    }
#undef NAME
}

void bl_scan_block(const bl_query *query, const uint8_t *codes, int64_t n, const uint8_t *filter,
                   uint64_t first_bit, uint64_t first, const int64_t *ids, bl_scan_scratch *scratch,
                   bl_nearest *nearest) {
    for (int64_t i = 0; i < n; i += BL_SCAN_ROWS) {
        int64_t rows = BL_MIN(n - i, BL_SCAN_ROWS), n_pass = rows;
        if (filter) {
            const uint8_t *bytes = filter + (first_bit + (uint64_t)i) / 8;
            n_pass = 0;
            for (int64_t w = 0; w * 64 < rows; w++) {
                int64_t left = rows - w * 64;
                uint64_t word = 0;
                if (left >= 64) {
                    word = bl_read_u64(bytes + w * 8);
                } else { /* the filter ends with the byte of the last row */
                    for (int64_t j = 0; j * 8 < left; j++)
                        word |= (uint64_t)bytes[w * 8 + j] << 8 * j;
                    word &= (UINT64_C(1) << left) - 1;
                }
                scratch->pass[w] = word;
                n_pass += __builtin_popcountll(word);
            }
        }
        if (n_pass > 0)
            scan_piece(query, codes + i * query->bytes, rows, n_pass, first + (uint64_t)i, ids ? ids + i : NULL,
                       scratch, nearest);
    }
}
