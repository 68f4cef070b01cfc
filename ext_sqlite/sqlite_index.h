/* sqlite_index.h - the virtual table bitlm_index: what its files share.
 *
 *     sqlite_index.c            the module: declaration, shadow tables, transactions
 *     sqlite_index_plan.c       xBestIndex: conditions to a plan
 *     sqlite_index_cursor.c     xFilter, xNext, xColumn: a plan to rows
 *     sqlite_index_write.c      xUpdate: INSERT, UPDATE, DELETE, commands
 *     sqlite_index_functions.c  bitlm_knn, bitlm_duplicates, bitlm_index_check
 *
 * A plan is a string: one item for each argument of xFilter, ITEM_BYTES bytes: its
 * kind, the column as two hex digits, the comparison as a letter. */
#ifndef BLS_SQLITE_INDEX_H
#define BLS_SQLITE_INDEX_H

#include "code_filter.h"
#include "code_search.h"
#include "code_store.h"
#include "sqlite_adapter.h"

#define INDEX_MOST_AUX 64
#define INDEX_DEFAULT_CACHE_MB 4096
#define INDEX_DEFAULT_RESCORE 8
#define INDEX_MOST_K 1000000

enum index_role {
    ROLE_CODE,
    ROLE_ROWID,    /* INTEGER PRIMARY KEY: the rowid by another name */
    ROLE_KEY,      /* TEXT PRIMARY KEY */
    ROLE_META,     /* in the blocks; PARTITION KEY too */
    ROLE_AUX,      /* +column, in NAME_rows */
    ROLE_VECTOR,   /* FLOAT[n], in NAME_rows */
    ROLE_DISTANCE, /* hidden from here on */
    ROLE_K,
    ROLE_COMMAND   /* has the table's name */
};

typedef struct index_column {
    char *name;
    enum index_role role;
    char affinity; /* 'i'nteger, 'r'eal, 'n'umeric, 't'ext, 'b'lob */
    int number;    /* ROLE_META: of the cell; ROLE_AUX, ROLE_VECTOR: column of NAME_rows from 2 on */
} index_column;

enum { ROWS_SELECT, ROWS_BY_KEY, ROWS_INSERT, ROWS_DELETE, N_ROWS_STATEMENTS };

typedef struct index_table {
    sqlite3_vtab base;
    struct index_table *next; /* of the connection */
    bls_state *state;
    bls_store *store;
    char *schema, *name;
    index_column *columns;
    int n_columns;
    int code, key, rowid, vector, distance, k, command; /* columns; -1: none */
    int n_meta, n_aux;
    uint32_t bits;
    int64_t cache_mb, rescore;
    int has_rows; /* NAME_rows exists: a key, aux or vector column */
    sqlite3_stmt *statements[N_ROWS_STATEMENTS];
} index_table;

#define ITEM_BYTES 4
#define ITEM_CODE 'M'     /* code MATCH */
#define ITEM_VECTOR 'V'   /* vector MATCH */
#define ITEM_K 'K'
#define ITEM_DISTANCE 'D' /* < or <= */
#define ITEM_ROWID 'R'
#define ITEM_KEY 'T'
#define ITEM_META 'C'
#define ITEM_LIMIT 'L'
#define ITEM_OFFSET 'O'
/* letters: a + BLS_FILTER_*; idxNum: */
#define PLAN_KNN 1
#define PLAN_ALL 2 /* with it: SQLite neither drops nor reorders rows, so that LIMIT says how many are wanted */

/* Sets zErrMsg; returns rc. */
int index_fail(index_table *table, int rc, const char *format, ...);
/* The same with what the store says, if rc is not SQLITE_OK. */
int index_store_failed(index_table *table, int rc);
/* A prepared statement over NAME_rows. */
int index_statement(index_table *table, int which, sqlite3_stmt **statement);
/* A value with a column's affinity, as SQLite stores it (stored = 1) or compares with it (0).  Points
 * into value or into *text, which is the caller's to sqlite3_free. */
int index_cell(char affinity, int stored, sqlite3_value *value, bls_cell *cell, char **text);
/* The rowid that a text key has; *found 0 if none. */
int index_key_rowid(index_table *table, sqlite3_value *key, int64_t *rowid, int *found);
/* A value as a code of this table, or a sentence. */
int index_code(index_table *table, sqlite3_value *value, const char *what, const uint8_t **code);
int index_vector(index_table *table, sqlite3_value *value, const char *what, const uint8_t **vector);
/* Its signs; code: (bits / 8). */
int index_binarize(index_table *table, const uint8_t *vector, uint8_t *code);

int index_best(sqlite3_vtab *base, sqlite3_index_info *info);
int index_update(sqlite3_vtab *base, int argc, sqlite3_value **argv, sqlite3_int64 *rowid);
int index_open(sqlite3_vtab *base, sqlite3_vtab_cursor **cursor);
int index_close(sqlite3_vtab_cursor *base);
int index_filter(sqlite3_vtab_cursor *base, int number, const char *plan, int argc, sqlite3_value **argv);
int index_next(sqlite3_vtab_cursor *base);
int index_eof(sqlite3_vtab_cursor *base);
int index_column_of(sqlite3_vtab_cursor *base, sqlite3_context *context, int column);
int index_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid);

/* All that is in NAME_rows against the blocks, and the blocks themselves; *sentence: NULL or
 * the first thing wrong. */
int index_check(index_table *table, char **sentence);
int bls_register_index_functions(bls_state *state);

#endif
