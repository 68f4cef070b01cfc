/* multi_index.h - exact search among codes without comparing all of them: tables of pieces of the codes.
 *
 *     bl_multi_new(segments ...)          over codes that stay where they are and do not change
 *     bl_multi_grow(...)                  adds one more piece; each costs a few scans and n * 4 bytes
 *     bl_multi_cost(n, bytes, pieces, d)  what share of a flat scan's time all codes within d would take
 *     bl_multi_search(...)                offers every code nearer than a bound, or gives up early
 *
 * A place is segment << 16 | row.  Searching changes nothing, so threads may search while one grows.
 * Called by ext_sqlite/code_multi.c. */
#ifndef BL_MULTI_INDEX_H
#define BL_MULTI_INDEX_H

#include "base/base.h"

#define BL_MULTI_LEAST_ROWS 32768u /* under this a flat scan takes as long as asking */
#define BL_MULTI_MOST_SEGMENTS 65536u
#define BL_MULTI_WINS 0.5          /* bl_multi_cost under this is worth it */
#define BL_MULTI_BUILD_SCANS 6.0   /* flat scans in the time of bl_multi_grow */

typedef struct bl_segment {
    const uint8_t *codes; /* (n, bytes) */
    uint32_t n;           /* at most 65,536 */
} bl_segment;

typedef struct bl_multi bl_multi;

/* What a search does with what it finds. */
typedef struct bl_multi_sink {
    /* A code nearer than the bound, each once; returns the bound from now on, never a larger one. */
    uint32_t (*near)(void *context, uint32_t place, uint32_t distance);
    int32_t (*stop)(void *context); /* asked about every millisecond; non-zero ends the search */
    void *context;
} bl_multi_sink;

#define BL_MULTI_GAVE_UP 0 /* all are to be compared; what was offered is not complete */
#define BL_MULTI_DONE 1
#define BL_MULTI_STOPPED 2

/* segments are copied, their codes are not.  BITLM_ARG if there are too few rows or too many segments. */
bitlm_status bl_multi_new(const bl_segment *segments, size_t n_segments, size_t bytes, const bl_alloc *alloc,
                          bl_multi **multi, bitlm_error *error);
void bl_multi_free(bl_multi *multi); /* NULL is ignored */
/* Memory of one piece, and how many pieces a code has. */
size_t bl_multi_piece_bytes(const bl_multi *multi);
uint32_t bl_multi_most_pieces(const bl_multi *multi);
uint32_t bl_multi_pieces(const bl_multi *multi); /* that are there */
/* Adds a piece.  One thread at a time. */
bitlm_status bl_multi_grow(bl_multi *multi, bl_poll *poll, bitlm_error *error);
/* With so many pieces (UINT32_MAX: all), for codes of independent bits; more than 1 where it cannot win. */
double bl_multi_cost(uint64_t n, size_t bytes, uint32_t pieces, uint32_t distance);
/* Offers the codes nearer to query than `below`.  rows: how many a flat scan would compare.  shrinks: the bound may come down
 * as near codes are found, so that a little is spent on finding some. */
int bl_multi_search(const bl_multi *multi, const uint8_t *query, uint32_t below, uint64_t rows, int shrinks,
                    const bl_multi_sink *sink);

#endif
