/* topk.c - bitlm_codes_topk, _search and _within: exact search of codes that lie in one array.
 *
 * The array is cut into tiles of some 100 KB, which threads claim; a tile is compared with all
 * queries while it is in the cache.  Each thread has its own heaps; they are merged at the end, and as order is
 * by (distance, row) the number of threads does not show.
 *
 * Called by hosts through bitlm.h and by index.c. */
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "search/codes.h"
#include "search/search.h"

#define TILE_BYTES 131072     /* of codes; a quarter of a second-level cache */
#define TILE_WORK 4194304     /* of codes times queries: about a millisecond */
#define MOST_QUERIES 1048576u
#define GROUP_HITS 1048576   /* hits of such a pass, if more than one query has them */
#define GROUP 128             /* queries in one pass: a tile then stays within the time between two polls */

typedef struct search {
    const uint8_t *codes;
    uint64_t n;
    int64_t tile_rows;
    const uint8_t *filter;
    const bl_query *queries;
    size_t n_queries;
    bl_nearest *nearest;  /* (threads, n_queries) */
    bl_scan_scratch *scratch; /* (threads) */
} search;

static void search_tile(void *arg, int64_t tile, int thread) {
    const search *s = arg;
    uint64_t first = (uint64_t)(tile * s->tile_rows);
    int64_t n = (int64_t)BL_MIN((uint64_t)s->tile_rows, s->n - first), bytes = s->queries[0].bytes;
    /* Pieces that stay in the first-level cache while every query passes over them. */
    int64_t piece = BL_MIN(BL_MAX(16384 / bytes, 64), BL_SCAN_ROWS) / 64 * 64;
    if (s->n_queries == 1)
        piece = BL_SCAN_ROWS;
    for (int64_t i = 0; i < n; i += piece) {
        for (size_t q = 0; q < s->n_queries; q++)
            bl_scan_block(&s->queries[q], s->codes + (first + (uint64_t)i) * (uint64_t)bytes, BL_MIN(piece, n - i),
                          s->filter, first + (uint64_t)i, first + (uint64_t)i, NULL, &s->scratch[thread],
                          &s->nearest[(size_t)thread * s->n_queries + q]);
    }
}

static uint64_t count_passing(const uint8_t *filter, uint64_t n) {
    return filter ? bl_bits_set(filter, n) : n;
}

static bitlm_status check(const void *codes, size_t n, size_t code_bytes, const void *queries, size_t n_queries,
                          int32_t metric, int32_t threads, bitlm_error *error) {
    size_t all;
    if (code_bytes == 0 || code_bytes > BL_CODE_MOST_BYTES)
        return bl_error(error, BITLM_ARG, "codes of %zu bytes, but a code has 1 to %u bytes", code_bytes,
                        BL_CODE_MOST_BYTES);
    if ((!codes && n) || (!queries && n_queries))
        return bl_error(error, BITLM_ARG, "%s is NULL", codes || !n ? "queries" : "codes");
    if (!bl_mul_size(n, code_bytes, &all) || all > PTRDIFF_MAX)
        return bl_error(error, BITLM_LIMIT, "%zu codes of %zu bytes are more than memory can hold", n, code_bytes);
    if (n_queries > MOST_QUERIES)
        return bl_error(error, BITLM_LIMIT, "%zu queries, but at most %u can be asked at once", n_queries,
                        MOST_QUERIES);
    if (metric < BITLM_METRIC_HAMMING || metric > BITLM_METRIC_ASYMMETRIC)
        return bl_error(error, BITLM_ARG, "metric is %d, but must be 0 (Hamming), 1 (Jaccard) or 2 (asymmetric)",
                        metric);
    if (threads < 0 || threads > 256)
        return bl_error(error, BITLM_ARG, "threads is %d, but must be 0 to 256", threads);
    return BITLM_OK;
}

/* Leaves in out[q], which has room for k hits (at most n), what query q finds. */
static bitlm_status run(const uint8_t *codes, size_t n, size_t code_bytes, const uint8_t *queries,
                        size_t n_queries, const uint8_t *filter, size_t k, double most, int32_t metric,
                        int32_t threads, const bl_alloc *alloc, bl_poll *poll, bl_nearest *out,
                        bitlm_error *error) {
    size_t query_bytes = metric == BITLM_METRIC_ASYMMETRIC ? 4 * code_bytes : code_bytes;
    search s = {.codes = codes, .n = n, .filter = filter, .n_queries = n_queries};
    bl_query *prepared = bl_calloc(alloc, n_queries, sizeof *prepared);
    bl_pool *pool = NULL;
    bl_hit *hits = NULL;
    bitlm_status status = BITLM_OK;
    size_t n_tiles, others, n_hits;

    s.tile_rows = BL_MIN(TILE_BYTES, TILE_WORK / (int64_t)n_queries) / (int64_t)code_bytes;
    s.tile_rows = BL_MAX(s.tile_rows / 64 * 64, 64); /* tiles begin at whole bytes of the filter */
    n_tiles = n / (size_t)s.tile_rows + (n % (size_t)s.tile_rows != 0);
    if (threads == 0)
        threads = bl_physical_cores();
    threads = (int32_t)BL_MIN((size_t)threads, n_tiles);
    others = (size_t)threads - 1;
    s.nearest = bl_calloc(alloc, (size_t)threads * n_queries, sizeof *s.nearest);
    s.scratch = bl_malloc(alloc, (size_t)threads * sizeof *s.scratch);
    /* The caller's thread fills the result itself. */
    if (!bl_mul_size(others * n_queries, k, &n_hits)) {
        status = bl_error(error, BITLM_LIMIT, "k is %zu, too many for %zu queries", k, n_queries);
        goto fail;
    }
    hits = n_hits ? bl_calloc(alloc, n_hits, sizeof *hits) : NULL;
    if (!prepared || !s.nearest || !s.scratch || (n_hits && !hits)) {
        status = bl_error_nomem(error, n_hits * sizeof *hits + (size_t)threads * sizeof *s.scratch, "the search");
        goto fail;
    }
    s.queries = prepared;
    for (size_t q = 0; q < n_queries; q++) {
        bl_query_init(&prepared[q], metric, queries + q * query_bytes, (int64_t)code_bytes);
        bl_nearest_init(&s.nearest[q], out[q].hits, k, most);
        for (size_t t = 0; t < others; t++)
            bl_nearest_init(&s.nearest[(t + 1) * n_queries + q], hits + (t * n_queries + q) * k, k, most);
    }
    if (threads > 1) {
        status = bl_pool_create(alloc, threads, &pool, error);
        if (status != BITLM_OK)
            goto fail;
        status = bl_pool_run(pool, search_tile, &s, (int64_t)n_tiles, poll);
    } else {
        for (size_t tile = 0; tile < n_tiles && status == BITLM_OK; tile++) {
            status = bl_poll_check(poll);
            if (status == BITLM_OK)
                search_tile(&s, (int64_t)tile, 0);
        }
    }
    if (status != BITLM_OK) {
        status = bl_poll_error(poll, error);
        goto fail;
    }
    for (size_t q = 0; q < n_queries; q++) {
        out[q] = s.nearest[q];
        for (size_t t = 1; t <= others; t++)
            bl_nearest_merge(&out[q], &s.nearest[t * n_queries + q]);
        bl_nearest_sort(&out[q]);
    }
fail:
    bl_pool_free(pool);
    bl_free(alloc, hits);
    bl_free(alloc, s.scratch);
    bl_free(alloc, s.nearest);
    bl_free(alloc, prepared);
    return status;
}

typedef struct outputs {
    int64_t *rows;
    uint32_t *whole;   /* either these */
    double *distances; /* or these */
} outputs;

/* Checked arguments, `found` >= 1 rows for each query, n_queries >= 1.  Writes groups of queries as they are done. */
static bitlm_status search_groups(const void *codes, size_t n, size_t code_bytes, const uint8_t *queries,
                                  size_t n_queries, const uint8_t *filter, size_t k, size_t found, int32_t metric,
                                  int32_t threads, const bitlm_host *host, outputs out, bitlm_error *error) {
    bl_alloc alloc = bl_alloc_from_host(host);
    size_t group = BL_MIN(n_queries, BL_MAX(GROUP_HITS / found, 1)), total, size;
    size_t query_bytes = metric == BITLM_METRIC_ASYMMETRIC ? 4 * code_bytes : code_bytes;
    bl_nearest *nearest = NULL;
    bl_hit *hits = NULL;
    bl_poll poll;
    bitlm_status status = BITLM_OK;

    group = BL_MIN(group, GROUP);
    if (!bl_mul_size(found, group, &total) || !bl_mul_size(total, sizeof *hits, &size))
        return bl_error(error, BITLM_LIMIT, "k is %zu, too many for memory", k);
    bl_poll_init(&poll, host, NULL, 0);
    hits = bl_malloc(&alloc, size);
    nearest = bl_calloc(&alloc, group, sizeof *nearest);
    if (!hits || !nearest) {
        status = bl_error_nomem(error, size, "the nearest codes");
        goto fail;
    }
    for (size_t first = 0; first < n_queries; first += group) {
        size_t count = BL_MIN(group, n_queries - first);
        for (size_t q = 0; q < count; q++)
            nearest[q].hits = hits + q * found;
        status = run(codes, n, code_bytes, queries + first * query_bytes, count, filter, found, 1e300, metric, threads,
                     &alloc, &poll, nearest, error);
        if (status != BITLM_OK)
            goto fail;
        for (size_t q = 0; q < count; q++) {
            for (size_t i = 0, to = (first + q) * k; i < found; i++, to++) {
                out.rows[to] = (int64_t)hits[q * found + i].row;
                if (out.whole)
                    out.whole[to] = (uint32_t)hits[q * found + i].distance;
                else
                    out.distances[to] = hits[q * found + i].distance;
            }
        }
    }
fail:
    bl_free(&alloc, nearest);
    bl_free(&alloc, hits);
    return status;
}

bitlm_status bitlm_codes_topk(const void *codes, size_t n, size_t code_bytes, const void *queries, size_t n_queries,
                              const uint8_t *filter, size_t k, const bitlm_host *host, int64_t *rows,
                              uint32_t *distances, bitlm_error *error) {
    size_t bytes;
    bl_error_clear(error);
    if (code_bytes == 0 || code_bytes > UINT32_MAX / 8)
        return bl_error(error, BITLM_ARG, "a code has %zu bytes, but must have 1 to %u", code_bytes, UINT32_MAX / 8);
    if (k > INT64_MAX / sizeof(bl_hit) || !bl_mul_size(n, code_bytes, &bytes) || bytes > INT64_MAX)
        return bl_error(error, BITLM_LIMIT, "%zu codes of %zu bytes and k = %zu do not fit the address space", n,
                        code_bytes, k);
    if (k == 0 || n_queries == 0)
        return BITLM_OK;
    size_t found = BL_MIN(k, (size_t)count_passing(filter, n));
    if (found > 0) {
        bitlm_status status = search_groups(codes, n, code_bytes, queries, n_queries, filter, k, found,
                                            BITLM_METRIC_HAMMING, 1, host, (outputs){rows, distances, NULL}, error);
        if (status != BITLM_OK)
            return status;
    }
    for (size_t q = 0; q < n_queries; q++) {
        for (size_t i = found; i < k; i++) {
            rows[q * k + i] = -1;
            distances[q * k + i] = UINT32_MAX;
        }
    }
    return BITLM_OK;
}

bitlm_status bitlm_codes_search(const void *codes, size_t n, size_t code_bytes, const void *queries,
                                size_t n_queries, const uint8_t *filter, size_t k, int32_t metric, int32_t threads,
                                const bitlm_host *host, int64_t *rows, double *distances, size_t *n_found,
                                bitlm_error *error) {
    bl_error_clear(error);
    bitlm_status status = check(codes, n, code_bytes, queries, n_queries, metric, threads, error);
    if (status != BITLM_OK)
        return status;
    if (!n_found || (k && n_queries && (!rows || !distances)))
        return bl_error(error, BITLM_ARG, "a result is NULL");
    size_t found = BL_MIN(k, (size_t)count_passing(filter, n));
    if (found > 0 && n_queries > 0)
        status = search_groups(codes, n, code_bytes, queries, n_queries, filter, k, found, metric, threads, host,
                               (outputs){rows, NULL, distances}, error);
    if (status == BITLM_OK)
        *n_found = found;
    return status;
}

bitlm_status bitlm_codes_within(const void *codes, size_t n, size_t code_bytes, const void *query,
                                const uint8_t *filter, double radius, int32_t metric, int32_t threads,
                                const bitlm_host *host, int64_t *rows, double *distances, size_t capacity,
                                size_t *n_found, bitlm_error *error) {
    bl_alloc alloc = bl_alloc_from_host(host);
    bl_nearest nearest = {0};
    bl_poll poll;
    bitlm_status status;

    bl_error_clear(error);
    status = check(codes, n, code_bytes, query, 1, metric, threads, error);
    if (status != BITLM_OK)
        return status;
    if (!(radius >= 0.0))
        return bl_error(error, BITLM_ARG, "the radius is %g, but must be 0 or more", radius);
    if (!n_found || (capacity && (!rows || !distances)))
        return bl_error(error, BITLM_ARG, "a result is NULL");
    /* One more than fits is looked for, so that too many are noticed. */
    size_t passing = (size_t)count_passing(filter, n);
    size_t k = capacity < passing ? capacity + 1 : passing;
    if (k == 0) {
        *n_found = 0;
        return BITLM_OK;
    }
    bl_poll_init(&poll, host, NULL, 0);
    nearest.hits = bl_calloc(&alloc, k, sizeof *nearest.hits);
    if (!nearest.hits)
        return bl_error_nomem(error, k * sizeof *nearest.hits, "the hits");
    status = run(codes, n, code_bytes, query, 1, filter, k, radius, metric, threads, &alloc, &poll, &nearest, error);
    if (status == BITLM_OK && nearest.n > capacity)
        status = bl_error(error, BITLM_LIMIT, "more than %zu codes lie within %g, the room there is for them",
                          capacity, radius);
    if (status == BITLM_OK) {
        for (size_t i = 0; i < nearest.n; i++) {
            rows[i] = (int64_t)nearest.hits[i].row;
            distances[i] = nearest.hits[i].distance;
        }
        *n_found = nearest.n;
    }
    bl_free(&alloc, nearest.hits);
    return status;
}
