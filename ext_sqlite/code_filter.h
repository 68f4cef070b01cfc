/* code_filter.h - which rows of a block may answer: conditions on metadata columns and rowids.
 *
 * A filter is a conjunction.  bls_filter_block turns it into one bit a row, from
 * the block's dictionaries: a condition becomes a range or a set of dictionary
 * numbers first, so that a block whose dictionary has none of them costs a binary search.
 *
 * Called by sqlite_index_cursor.c. */
#ifndef BLS_CODE_FILTER_H
#define BLS_CODE_FILTER_H

#include "code_image.h"

#define BLS_FILTER_EQ 0
#define BLS_FILTER_NE 1 /* and not NULL */
#define BLS_FILTER_LT 2
#define BLS_FILTER_LE 3
#define BLS_FILTER_GT 4
#define BLS_FILTER_GE 5
#define BLS_FILTER_IS 6
#define BLS_FILTER_IS_NOT 7
#define BLS_FILTER_IN 8

typedef struct bls_filter_term {
    uint32_t column;
    uint32_t op;
    uint32_t n_cells;
    bls_cell *cells; /* (n_cells) 1 but for IN, there ascending and without NULL; texts are the filter's own */
} bls_filter_term;

typedef struct bls_filter {
    bls_filter_term *terms;
    size_t n_terms, n_allocated;
    int64_t low, high;  /* rowids; INT64_MIN and INT64_MAX: any */
    int64_t *rowids;    /* (n_rowids) ascending, no doubles */
    size_t n_rowids;
    int has_rowids;
    int nothing;        /* no row can match */
} bls_filter;

void bls_filter_init(bls_filter *filter);
void bls_filter_clear(bls_filter *filter);
/* Adds a condition; copies the cells.  SQLITE_NOMEM or SQLITE_OK. */
int bls_filter_add(bls_filter *filter, uint32_t column, uint32_t op, const bls_cell *cells, size_t n);
/* Narrows rowids to a range, or to a set (sorted here; the filter's from now on, on
 * failure too). */
void bls_filter_range(bls_filter *filter, int64_t low, int64_t high);
int bls_filter_rowids(bls_filter *filter, int64_t *rowids, size_t n);
/* 1 if every row passes whatever the block. */
int bls_filter_is_open(const bls_filter *filter);
/* 0 if a block with rowids in [first, last] cannot hold a row. */
int bls_filter_may_touch(const bls_filter *filter, int64_t first, int64_t last);

#define BLS_FILTER_WORDS(n) (((n) + 63) / 64)
/* bits: (BLS_FILTER_WORDS(image->n)) bit i%64 of word i/64 is row i, bits past n are 0.  Returns
 * how many rows pass. */
uint32_t bls_filter_block(const bls_filter *filter, const bls_image *image, uint64_t *bits);
/* 1 if this row passes: for few rows of a block. */
int bls_filter_row(const bls_filter *filter, const bls_image *image, uint32_t row);

#endif
