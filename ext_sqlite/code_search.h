/* code_search.h - the nearest codes among blocks: the bridge to core/search.
 *
 * A result is (distance, place), place = block number << 16 | row.  Blocks and rows
 * are in order of rowid, so order of places is order of rowids and ties come out by rowid.
 *
 * Called by sqlite_index_cursor.c and sqlite_index_functions.c. */
#ifndef BLS_CODE_SEARCH_H
#define BLS_CODE_SEARCH_H

#include "code_filter.h"
#include "code_store.h"
#include "sqlite_adapter.h"

typedef struct bls_hit {
    uint32_t distance;
    uint32_t query;
    int64_t place;
    int64_t rowid;
} bls_hit;

typedef struct bls_search {
    bls_store *store;          /* begun */
    const uint8_t *queries;    /* (n_queries, code_bytes) */
    size_t n_queries;
    size_t code_bytes;
    const bls_filter *filter;  /* NULL: all rows */
    size_t k;                  /* for each query */
    uint32_t most;             /* largest distance that counts */
    int64_t after_distance;    /* only hits behind (after_distance, after_rowid); -1: all */
    int64_t after_rowid;
} bls_search;

/* hits: (n_queries, k) the caller's room, nearest first; n_hits (n_queries).  A poll of the
 * host may end it with SQLITE_INTERRUPT. */
int bls_search_run(bls_state *state, const bls_search *search, bls_hit *hits, size_t *n_hits);

#endif
