/* sqlite_search.h - what the files of bitlm_search share.
 *
 * A search table keeps for each row one or more chunks of its text, each with a code.  Its shadow tables:
 *
 *     NAME_config, NAME_blocks   of the store (code_store.h): the codes.  Their rowids count chunks; their one
 *                                metadata column is the row that a chunk belongs to
 *     NAME_docs(id INTEGER PRIMARY KEY, ticket, first, n, places)   a row: its chunks are first … first + n - 1;
 *                                places: of each chunk start and length in characters, 32-bit little-endian
 *     NAME_content(id INTEGER PRIMARY KEY, c0, c1, …)   the columns; not with content=
 *
 * The text of a row is that of its indexed columns that are neither NULL nor empty, joined by newlines. */
#ifndef BLS_SQLITE_SEARCH_H
#define BLS_SQLITE_SEARCH_H

#include "code_filter.h"
#include "code_search.h"
#include "code_store.h"
#include "sqlite_adapter.h"

#define SEARCH_MOST_COLUMNS 1000
#define SEARCH_MOST_K 1000000
#define SEARCH_DEFAULT_CACHE_MB 4096
#define SEARCH_LEAST_CHUNK 32   /* tokens: more than one character can have */
#define SEARCH_DEFAULT_CHUNK 256

typedef struct search_column {
    char *name;
    int unindexed;
} search_column;

enum search_content { CONTENT_OWN, CONTENT_EXTERNAL, CONTENT_NONE };

/* Hidden columns, counted from n_columns. */
enum search_hidden { HIDDEN_COMMAND, HIDDEN_K, HIDDEN_RANK, HIDDEN_CHUNK, HIDDEN_START, HIDDEN_LENGTH };

enum search_statement {
    DOCS_GET,      /* ticket, first, n, places of ?1 */
    DOCS_PENDING,  /* makes row ?1 with ticket ?2 */
    DOCS_DONE,     /* first, n, places of ?1 */
    DOCS_DELETE,
    DOCS_RANGE,    /* ids from ?1 to ?2, at most ?3 */
    DOCS_MAX,
    CONTENT_GET,   /* the columns of ?1 */
    CONTENT_PUT,
    CONTENT_DELETE,
    CONFIG_GET,
    N_SEARCH_STATEMENTS
};

/* A row of this transaction that waits for its codes, or that has them but may need them again after a
 * ROLLBACK TO: see sqlite_search_queue.c. */
typedef struct search_pending {
    int64_t rowid, ticket;
    char *text;       /* NULL once it has codes */
    size_t length;
    uint8_t *places;  /* (n, 8), then codes (n, code_bytes) */
    size_t n;
    int depth;        /* savepoints that were open when it came */
} search_pending;

typedef struct search_table {
    sqlite3_vtab base;
    struct search_table *next; /* of the connection */
    bls_state *state;
    bls_store *store;          /* NULL until the configuration is known */
    char *schema, *name;
    search_column *columns;
    int n_columns;
    enum search_content content;
    char *content_table, *content_rowid, *fts;
    char *model;               /* its name, NULL: embed */
    int64_t chunk_size, overlap, cache_mb, bits_wanted; /* 0 tokens: not said */
    /* the configuration in the database */
    int known;
    uint32_t bits;
    char model_id[33];         /* "" while a rebuild has not ended */
    uint64_t checked;          /* generation of names, + 1, for which the model was found to be that one */
    /* rows of this transaction */
    search_pending *pending;
    size_t n_pending, n_allocated;
    size_t n_waiting, waiting_bytes;
    int64_t ticket;
    int depth, rolled_back;
    int flushing, ended;       /* ended: the transaction, in the midst of a flush */
    uint64_t n_embedded, n_batches; /* texts embedded by this connection, and in how many calls */
    sqlite3_stmt *statements[N_SEARCH_STATEMENTS];
} search_table;

#define SEARCH_PLAN_SCAN 0
#define SEARCH_PLAN_SEARCH 1
/* items of the plan, two characters each: a letter and 'a' + BLS_FILTER_* */
#define SEARCH_ITEM_MATCH 'M'
#define SEARCH_ITEM_K 'K'
#define SEARCH_ITEM_RANK 'D'
#define SEARCH_ITEM_ROWID 'R'
#define SEARCH_ITEM_LIMIT 'L'
#define SEARCH_ITEM_OFFSET 'O'

/* ---- sqlite_search.c ---- */
int search_fail(search_table *table, int rc, const char *format, ...);
int search_store_failed(search_table *table, int rc);
int search_statement_of(search_table *table, enum search_statement which, sqlite3_stmt **statement);
/* Steps and resets a statement that gives no rows. */
int search_run_statement(sqlite3_stmt *statement);
/* Reads the configuration if it may have changed, opens the store and begins to read. */
int search_begin(search_table *table);
int search_config_set(search_table *table, const char *key, const char *value);
/* The table's model, which is the one that made the codes (any = 0), or whichever has the name. */
bitlm_status search_model(search_table *table, bls_call *call, int any, bitlm_model **model);
int search_set_model(search_table *table, bls_call *call, bitlm_model *model);

/* ---- sqlite_search_queue.c ---- */
/* Takes text over, also on failure. */
int search_enqueue(search_table *table, int64_t rowid, char *text, size_t length, int64_t *ticket);
/* Embeds what waits and writes it.  1 in full: only if there is enough for a batch. */
int search_flush(search_table *table, int only_if_full);
void search_forget(search_table *table);           /* the transaction has ended */
void search_released(search_table *table, int savepoint);
/* The code of a query. */
int search_query_code(search_table *table, sqlite3_value *value, uint8_t **code);

/* ---- sqlite_search_write.c ---- */
int search_update(sqlite3_vtab *base, int argc, sqlite3_value **argv, sqlite3_int64 *rowid);
/* *sentence: NULL or the first thing wrong.  contents: compares with an external content table too. */
int search_check(search_table *table, int contents, char **sentence);
/* The text of a row from its columns: values (n_columns). *text NULL without memory. */
int search_text(search_table *table, int64_t rowid, sqlite3_value **values, char **text, size_t *length);
/* places of a row's chunk, checked. */
typedef struct search_doc {
    int found, waiting;
    int64_t first, n;
    uint8_t *places; /* (n, 8), sqlite3_free */
} search_doc;
int search_doc_get(search_table *table, int64_t rowid, search_doc *doc);

/* ---- sqlite_search_plan.c, sqlite_search_cursor.c ---- */
int search_best(sqlite3_vtab *base, sqlite3_index_info *info);
int search_open(sqlite3_vtab *base, sqlite3_vtab_cursor **cursor);
int search_close(sqlite3_vtab_cursor *base);
int search_filter(sqlite3_vtab_cursor *base, int number, const char *plan, int argc, sqlite3_value **argv);
int search_next(sqlite3_vtab_cursor *base);
int search_eof(sqlite3_vtab_cursor *base);
int search_column_of(sqlite3_vtab_cursor *base, sqlite3_context *context, int column);
int search_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid);

/* ---- sqlite_search_info.c ---- */
int bls_register_search_info(bls_state *state);

#endif
