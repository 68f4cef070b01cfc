/* code_image.h - one packed block of codes: its bytes, and the draft they are made from.
 *
 * A block holds up to 65,536 rows in ascending order of rowid: their codes one
 * behind the other, the rowids as small differences, and the metadata columns each as a
 * sorted dictionary with a small number a row.  docs/FORMATS.md has the byte
 * layout ("Blocks of bitlm_index").
 *
 *   image   the bytes as they stand in the shadow table.  Immutable once shared;
 *           checked once by bls_image_load, then read in place without doubt.
 *   draft   rows that still change: plain arrays.  bls_draft_seal makes an image.
 *
 * Called by code_store.c, which keeps the blocks of a table; by code_cache.c, which
 * shares images among the connections of the process; by code_filter.c and the
 * virtual tables, which read images.  All memory is SQLite's. */
#ifndef BLS_CODE_IMAGE_H
#define BLS_CODE_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "sqlite_compat.h"

#define BLS_IMAGE_HEADER 64        /* bytes before the codes */
#define BLS_IMAGE_MOST_ROWS 65536
#define BLS_IMAGE_MOST_COLUMNS 64
#define BLS_IMAGE_MOST_BYTES 0x40000000u

/* ---- a value of a metadata column, in SQLite's order: NULL, numbers, text, BLOB --- */

#define BLS_CELL_NULL 0
#define BLS_CELL_INTEGER 1
#define BLS_CELL_REAL 2
#define BLS_CELL_TEXT 3
#define BLS_CELL_BLOB 4

typedef struct bls_cell {
    uint32_t tag;    /* BLS_CELL_* */
    uint32_t length; /* bytes of a text or BLOB */
    union {
        int64_t integer;
        double real;
        const uint8_t *bytes;
    } as;
} bls_cell;

/* <0, 0, >0 as SQLite compares values with collation BINARY: 1 and 1.0 are equal. */
int bls_cell_compare(const bls_cell *a, const bls_cell *b);
/* The cell of a value; text and BLOBs point into it.  SQLITE_NOMEM or SQLITE_OK. */
int bls_cell_of(sqlite3_value *value, bls_cell *cell);
void bls_cell_result(sqlite3_context *context, const bls_cell *cell); /* copies */

/* ---- image ------------------------------------------------------------------------ */

typedef struct bls_image_column {
    uint32_t n_entries;    /* of the dictionary, ascending */
    uint32_t integers;     /* 1: every entry is an INTEGER */
    uint32_t width;        /* bytes of a row's number: 0 (all are entry 0), 1, 2, 4 */
    const uint8_t *tags;   /* (n_entries) */
    const uint8_t *slots;  /* (n_entries) 8 bytes: integer, real, or heap offset and length */
    const uint8_t *heap;
    const uint8_t *numbers; /* (n) of `width` bytes */
} bls_image_column;

typedef struct bls_image {
    struct bls_image *next; /* code_cache.c's, with the three below */
    uint64_t identity[2];
    int32_t references;
    uint8_t shared;
    uint32_t n;          /* rows, at least 1 */
    uint32_t code_bytes;
    uint32_t n_columns;
    uint32_t rowid_width; /* 0 (consecutive), 2, 4, 8 */
    int64_t base;
    uint64_t stamp;
    size_t length;        /* of bytes */
    uint8_t *bytes;       /* 64-byte aligned, inside this allocation */
    const uint8_t *codes; /* (n, code_bytes) */
    const uint8_t *rowids;
    bls_image_column columns[];
} bls_image;

/* Memory for an image of `length` bytes, to be filled and given to bls_image_check; one
 * reference.  NULL without memory. */
bls_image *bls_image_new(size_t length, uint32_t n_columns);
void bls_image_free(bls_image *image);
/* Reads the header and checks everything a reader relies on.  what: NULL, or a
 * phrase that says what is wrong ("its checksum is wrong"). */
int bls_image_check(bls_image *image, uint32_t code_bytes, uint32_t n_columns, int64_t base,
                    uint64_t stamp, const char **what);
/* Writes stamp and checksum into an image that nobody shares yet. */
void bls_image_finish(bls_image *image, uint64_t stamp);

int64_t bls_image_rowid(const bls_image *image, uint32_t row);
/* The first row whose rowid is >= rowid; n if there is none. */
uint32_t bls_image_seek(const bls_image *image, int64_t rowid);
void bls_image_entry(const bls_image_column *column, uint32_t number, bls_cell *cell);
uint32_t bls_image_number(const bls_image_column *column, uint32_t row);
/* The first entry > cell (after = 1) or >= cell (after = 0). */
uint32_t bls_image_bound(const bls_image_column *column, const bls_cell *cell, int after);

/* ---- draft ------------------------------------------------------------------------ */

typedef struct bls_draft bls_draft;

bls_draft *bls_draft_new(uint32_t code_bytes, uint32_t n_columns, uint32_t capacity);
bls_draft *bls_draft_of(const bls_image *image, uint32_t capacity);
void bls_draft_free(bls_draft *draft);
uint32_t bls_draft_count(const bls_draft *draft);
int64_t bls_draft_rowid(const bls_draft *draft, uint32_t row);
uint32_t bls_draft_seek(const bls_draft *draft, int64_t rowid);
/* Puts a row at `row`, where bls_draft_seek says it belongs; there must be room. */
int bls_draft_insert(bls_draft *draft, uint32_t row, int64_t rowid, const uint8_t *code,
                     const bls_cell *cells);
/* Another code (NULL: the same) and other cells (NULL: the same) of a row. */
int bls_draft_replace(bls_draft *draft, uint32_t row, const uint8_t *code, const bls_cell *cells);
void bls_draft_remove(bls_draft *draft, uint32_t row);
/* Moves rows from `row` on into a new draft. */
bls_draft *bls_draft_split(bls_draft *draft, uint32_t row);
/* An image of the rows (at least one), base <= the first rowid; NULL without memory. */
bls_image *bls_draft_seal(bls_draft *draft, int64_t base);
size_t bls_draft_bytes(const bls_draft *draft); /* of memory */
size_t bls_draft_text(const bls_draft *draft);  /* of texts and BLOBs in it, replaced ones too */

#endif
