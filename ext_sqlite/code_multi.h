/* code_multi.h - tables of pieces (core/search/multi_index.h) over the blocks of a store: built where they pay.
 *
 * The tables are made over images, which do not change; all connections of the process that have the table
 * open share them.  A connection knows which of its blocks they cover: those whose image is the same.  What was written
 * since is compared one by one, until that is a quarter of the rows and the tables are dropped.
 *
 * They grow by a piece once all of them would have spared as much time, in the queries since the last one, as a piece
 * costs: flat scans at first, later lookups in few pieces where more would need fewer.  So a query waits for one piece at
 * most, and a table that is written more than it is asked, or whose answers lie too far from the query, has none.
 *
 * Called by code_search.c and code_store.c. */
#ifndef BLS_CODE_MULTI_H
#define BLS_CODE_MULTI_H

#include "code_store.h"
#include "sqlite_adapter.h"

typedef struct bls_cover bls_cover;

void bls_cover_free(bls_cover *cover); /* NULL is ignored */

/* The tables of a store as its directory stands now; *cover NULL if there are none. */
int bls_cover_find(bls_store *store, bls_cover **cover);
/* 1 if the tables know the block's rows. */
int bls_cover_has(const bls_cover *cover, size_t block);

/* As bl_multi_search, with places of the store: block << 16 | row.  near gets the image too. */
typedef uint32_t bls_near(void *context, size_t block, const bls_image *image, uint32_t row, uint32_t distance);
int bls_cover_search(bls_cover *cover, bls_state *state, const uint8_t *query, uint32_t below, uint64_t rows,
                     int shrinks, bls_near *near, void *context);

/* After a query whose last hit lay at `distance`, for which `compared` rows were compared by a flat scan, or 0 if the tables
 * answered: they may be begun or grow.  SQLITE_INTERRUPT if the host stops that; without memory they stay as they are. */
int bls_cover_learn(bls_store *store, bls_state *state, uint32_t distance, uint64_t compared);

#endif
