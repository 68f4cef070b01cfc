/* sqlite_adapter.h - what the files of ext_sqlite share: the state of a
 * connection and the frame of one call.
 *
 * The adapter translates between SQL values and bitlm.h and computes nothing.
 * A function of SQL runs as
 *
 *     bls_begin     reads the options argument
 *     bls_text …    checks the other arguments
 *     bls_borrow    finds the model and a session of the connection
 *     core calls    between bls_enter and bls_leave, which bound the time in
 *                   which the core may poll
 *     bls_fail      turns a status into SQLite's result code, keeping the sentence
 *     bls_end       gives everything back
 *
 * Memory is SQLite's (sqlite3_malloc64), so a heap limit of the host counts it;
 * only models are not, because they outlive connections. */
#ifndef BLS_SQLITE_ADAPTER_H
#define BLS_SQLITE_ADAPTER_H

#include <stddef.h>
#include <stdint.h>

#include "sqlite_compat.h"

#include "bitlm.h"

/* Ceilings of sqlite3_bitlm_noload_init, where strangers write the SQL. */
#define BLS_CEILING_MAX_TOKENS 256
#define BLS_CEILING_N_CTX 2048
#define BLS_CEILING_TIMEOUT_MS 10000
#define BLS_CEILING_THREADS 1
#define BLS_CEILING_TEXT 1048576 /* bytes of an argument */

/* A model that bitlm_load named on this connection. */
typedef struct bls_named {
    struct bls_named *next;
    bitlm_model *model;
    char *path;    /* behind name, one block */
    char name[];
} bls_named;

/* A core session kept for the next call that asks for the same shape. */
typedef struct bls_session {
    struct bls_session *next;
    bitlm_model *model; /* a reference of its own: bitlm_unload may come first */
    bitlm_session *core;
    int32_t n_ctx, kv_type, threads, rows, activations, head;
    int busy;
} bls_session;

typedef struct bls_state {
    sqlite3 *db;
    int references; /* registered functions and modules, open tables; SQLite's mutex guards it */
    int noload;
    bls_named *named;             /* in the order of loading */
    bitlm_model *story, *embed;   /* the built-ins, opened at first use */
    bls_session *sessions;        /* most recently used first */
    struct index_table *indexes;  /* connected bitlm_index tables */
    struct search_table *searches; /* connected bitlm_search tables */
    uint64_t generation;          /* rises when a name changes its model */
    sqlite3_stmt *poll_statement; /* lives while entered > 0, see sqlite_state.c */
    int entered;
    int polling;
    uint64_t polled_ns;
} bls_state;

/* One call of a function, or one cursor of a table. */
typedef struct bls_call {
    bls_state *state;
    const char *name; /* of the SQL function, for messages */
    bitlm_options options;
    bitlm_error error;
} bls_call;

/* ---- sqlite_state.c --------------------------------------------------------- */

/* NULL without memory.  The caller has one reference. */
bls_state *bls_state_new(sqlite3 *db, int noload);
void bls_state_ref(bls_state *state);
void bls_state_unref(void *state); /* SQLite's xDestroy */

/* The host of core objects that belong to this connection. */
void bls_host(bls_state *state, bitlm_host *host);
/* The host of models: they outlive the connection, so their memory is not SQLite's. */
void bls_model_host(bls_state *state, bitlm_host *host);
/* What the core's polling asks, for loops of the adapter: non-zero to stop. */
int32_t bls_poll(bls_state *state);
/* Around core calls that poll. */
void bls_enter(bls_state *state);
void bls_leave(bls_state *state);

/* options: the SQL argument, NULL if there is none.  bls_end is due in any case. */
bitlm_status bls_begin(bls_call *call, bls_state *state, const char *name,
                       sqlite3_value *options);
void bls_end(bls_call *call);
/* Writes call->error, returns status. */
bitlm_status bls_error(bls_call *call, bitlm_status status, const char *format, ...);
/* A text argument, valid as long as value: numbers as SQL writes them, a BLOB is ARG. */
bitlm_status bls_text(bls_call *call, sqlite3_value *value, const char *what, bitlm_text *text);
/* A BLOB argument (sqlite_codes.c); "" if it has no bytes. */
bitlm_status bls_blob(bls_call *call, sqlite3_value *value, const char *what, const void **data, size_t *length);
/* The same bytes where a float may stand: SQLite aligns no BLOB.  *copy is the caller's to sqlite3_free. */
bitlm_status bls_floats(bls_call *call, const void *data, size_t length, const float **values, void **copy);
/* An integer argument of [least, most]; 2.0 and '2' are integers as in a column of
 * INTEGER affinity, 2.5 and 'two' are not. */
bitlm_status bls_integer(bls_call *call, sqlite3_value *value, const char *what, int64_t least,
                         int64_t most, int64_t *number);

/* The result of a failed call: its sentence with the SQL function's name before it. */
void bls_fail(bls_call *call, sqlite3_context *context, bitlm_status status);
/* The same for a virtual table; returns SQLite's code. */
int bls_fail_table(bls_call *call, sqlite3_vtab *table, bitlm_status status);
/* 1 if on_error = null covers this status: never the host's interrupt, lack of
 * memory or a defect, which are not about the row. */
int bls_forgiven(const bls_call *call, bitlm_status status);

/* The model that options.model or else `builtin` names; the caller owns a reference. */
bitlm_status bls_model(bls_call *call, const char *builtin, bitlm_model **model);
/* The same for a name given as such. */
bitlm_status bls_model_named(bls_call *call, const char *name, size_t length,
                             bitlm_model **model);
bitlm_status bls_describe(bls_call *call, bitlm_model *model, bitlm_model_info *info);

/* sqlite_text.c: bytes of one embedding; UNSUPPORTED if the model cannot embed. */
bitlm_status bls_embedding_bytes(bls_call *call, bitlm_model *model, int32_t format,
                                 size_t *bytes);

/* sqlite_models.c: its model_id in hexadecimal digits. */
bitlm_status bls_model_id(bls_call *call, bitlm_model *model, char hex[33]);

/* A session nobody uses, of the shape that the options ask for. */
bitlm_status bls_borrow(bls_call *call, bitlm_model *model, bls_session **session);
/* status: how the use ended.  NULL is ignored. */
void bls_return(bls_state *state, bls_session *session, bitlm_status status);
/* After a name lost its model: frees the sessions that nothing can reach. */
void bls_sweep(bls_state *state);

/* ---- one for each file: register what it holds ------------------------------- */

int bls_register_text(bls_state *state);   /* sqlite_text.c */
int bls_register_codes(bls_state *state);  /* sqlite_codes.c */
int bls_register_quantize(bls_state *state); /* sqlite_quantize.c */
int bls_register_models(bls_state *state); /* sqlite_models.c */
int bls_register_stream(bls_state *state); /* sqlite_stream.c */
int bls_register_each(bls_state *state);   /* sqlite_each.c */
int bls_register_embed_each(bls_state *state); /* sqlite_embed_each.c */
int bls_register_chunk(bls_state *state);  /* sqlite_chunk.c */
int bls_register_index(bls_state *state);  /* sqlite_index.c */
int bls_register_search(bls_state *state); /* sqlite_search.c */

/* sqlite_main.c: a function under state's care. */
int bls_function(bls_state *state, const char *name, int n_arguments, int flags,
                 void (*function)(sqlite3_context *, int, sqlite3_value **));
int bls_module(bls_state *state, const char *name, const sqlite3_module *module);

#endif
