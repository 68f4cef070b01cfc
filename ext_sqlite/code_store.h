/* code_store.h - packed codes in shadow tables: what bitlm_index and bitlm_search stand on.
 *
 * For a virtual table NAME the store owns two shadow tables of the same schema:
 *
 *     NAME_config(k PRIMARY KEY, v)                       'stamp', and what the owner keeps there
 *     NAME_blocks(first INTEGER PRIMARY KEY, n, stamp, data)   the blocks
 *
 * A block is an image (code_image.h) of the rows whose rowids are >= first and < the
 * next block's first.  The store knows rowids, codes of one length and
 * metadata columns; keys, texts and vectors are the owner's, in tables of its own.
 *
 * CONTRACT
 *  - One store for each virtual table object, that is for each connection.  Every function
 *    returns an SQLite code; bls_store_message says more about the last failure.
 *  - bls_store_begin comes first in every xFilter, xBegin and function that reads: it compares the
 *    stamp in the database with the one known and, if another connection (or a
 *    rollback) changed it, reads the directory again.  Blocks that did not change
 *    stay in memory.  bls_store_end afterwards gives back what a read holds
 *    open (a BLOB handle); images that were pinned stay valid until released.
 *  - Writes (insert, replace, remove) go to drafts in memory; reads of the same connection see
 *    them at once.  xSync calls bls_store_flush, xSavepoint bls_store_savepoint, xRollbackTo
 *    bls_store_rollback_to, xRollback bls_store_rollback.  (A flush that fails keeps the drafts: when
 *    xSavepoint fails, SQLite calls xRollbackTo with the same number, and the statements before must
 *    not lose their rows.)  The store flushes by itself past 64 MiB of drafts.
 *  - A failed call leaves no half-made row.
 *  - bls_store_block(i) pins the image of block i, 0 <= i < bls_store_blocks; the
 *    caller releases it with bls_image_release.  *image is NULL for a block whose
 *    rows were all removed.  Block numbers hold until the next write or begin.
 *  - Interrupts: bls_store_block loads one block (about 50 KB) and is quick; poll between.
 */
#ifndef BLS_CODE_STORE_H
#define BLS_CODE_STORE_H

#include "code_cache.h"

#define BLS_STORE_MOST_CODE_BYTES 2048 /* 16,384 bits */

typedef struct bls_store bls_store;

struct bls_cover; /* code_multi.h */

typedef struct bls_store_shape {
    uint32_t code_bytes;   /* 1 .. 2048 */
    uint32_t n_columns;    /* metadata columns, 0 .. 64 */
    uint64_t cache_limit;  /* bytes of images that may stay in memory, in the whole process */
} bls_store_shape;

/* Makes the shadow tables (xCreate); *message as in sqlite3_exec. */
int bls_store_create(sqlite3 *db, const char *schema, const char *name, char **message);
/* Drops them (xDestroy). */
int bls_store_drop(sqlite3 *db, const char *schema, const char *name);
/* Touches no table yet.  shape is copied. */
int bls_store_open(sqlite3 *db, const char *schema, const char *name, const bls_store_shape *shape,
                   bls_store **store);
void bls_store_close(bls_store *store); /* NULL is ignored; drafts are lost */
/* Finalizes what would keep the shadow tables from being dropped; rows stay as they are. */
void bls_store_release(bls_store *store);
/* xRename: the shadow tables' part. */
int bls_store_rename(bls_store *store, const char *name);
/* 1 for the suffixes that belong to the store: xShadowName. */
int bls_store_shadow(const char *suffix);

/* The owner's settings in NAME_config.  text: sqlite3_free, NULL if there is none. */
int bls_store_get(sqlite3 *db, const char *schema, const char *name, const char *key, char **text);
int bls_store_set(sqlite3 *db, const char *schema, const char *name, const char *key,
                  const char *text);

int bls_store_begin(bls_store *store);
void bls_store_end(bls_store *store);
int bls_store_flush(bls_store *store);
int bls_store_savepoint(bls_store *store, int savepoint);
void bls_store_rollback_to(bls_store *store, int savepoint);
void bls_store_rollback(bls_store *store);
/* A sentence about the last failure, "" if SQLite's own message says it. */
const char *bls_store_message(const bls_store *store);

/* ---- reading; after bls_store_begin ---------------------------------------------- */

size_t bls_store_blocks(const bls_store *store);
uint64_t bls_store_rows(const bls_store *store);
/* Rises with every change of the directory or of a row: a cursor that kept block
 * numbers compares it. */
uint64_t bls_store_version(const bls_store *store);
int bls_store_block(bls_store *store, size_t block, bls_image **image);
/* The same without a pin where the store keeps the image anyway: *pinned says whether the caller
 * releases it.  Good until the next write, begin or rollback. */
int bls_store_peek(bls_store *store, size_t block, bls_image **image, int *pinned);
/* The block whose range holds rowid (0 if rowid is below all; the count of blocks must not be 0). */
size_t bls_store_block_of(const bls_store *store, int64_t rowid);
/* Rowids that block may hold: [*first, *last]. */
void bls_store_range(const bls_store *store, size_t block, int64_t *first, int64_t *last);
/* What code_multi.c keeps for this store; freed with it. */
struct bls_cover **bls_store_cover(bls_store *store);
const uint64_t *bls_store_identity(const bls_store *store);
const bls_store_shape *bls_store_shape_of(const bls_store *store);
/* Where a rowid is: *image is pinned, NULL if there is no such row. */
int bls_store_find(bls_store *store, int64_t rowid, bls_image **image, uint32_t *row);
/* 1 in *found if there is such a row; reads drafts without sealing them. */
int bls_store_has(bls_store *store, int64_t rowid, int *found);
/* The rowid after the largest (1 in an empty table); SQLITE_FULL past the last. */
int bls_store_next_rowid(bls_store *store, int64_t *rowid);

/* ---- writing ------------------------------------------------------------------------ */

/* cells: (n_columns).  SQLITE_CONSTRAINT if the rowid is there. */
int bls_store_insert(bls_store *store, int64_t rowid, const uint8_t *code, const bls_cell *cells);
/* code NULL, cells NULL: as it was.  SQLITE_NOTFOUND if there is no such row. */
int bls_store_replace(bls_store *store, int64_t rowid, const uint8_t *code, const bls_cell *cells);
int bls_store_remove(bls_store *store, int64_t rowid);
/* Joins neighbours that fit into one block. */
int bls_store_optimize(bls_store *store);
/* Removes all rows. */
int bls_store_clear(bls_store *store);

/* Reads every block from the database, not from memory.  *sentence: NULL, or the first
 * thing wrong (sqlite3_free). */
int bls_store_check(bls_store *store, char **sentence);

#endif
