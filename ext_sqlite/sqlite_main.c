/* sqlite_main.c - bitlm0.so: 1-bit language models as SQL functions.
 *
 *     .load build/bitlm0
 *     SELECT bitlm_generate('Once upon a time');
 *     SELECT body FROM notes ORDER BY bitlm_hamming(code, bitlm_embed('tax letter')) LIMIT 10;
 *
 * Two entry points:
 *
 *   sqlite3_bitlm_init         everything.  SQLite derives the name from
 *                              bitlm0.so (it drops the digit), so none is given.
 *   sqlite3_bitlm_noload_init  for hosts where strangers write the SQL: no
 *                              bitlm_load and bitlm_unload, so no file is ever
 *                              opened, and ceilings: max_tokens 256, n_ctx 2048,
 *                              timeout_ms 10000 (also the default there), threads
 *                              1, arguments of 1 MiB.  More is refused with a
 *                              sentence, not cut down silently.
 *
 * Loading on a connection a second time begins anew: the names that bitlm_load
 * gave are forgotten, and what the other entry point allowed holds no longer.  (From
 * SQL's load_extension() SQLite refuses it, since that statement runs.)  The library
 * stays in the process (SQLITE_OK_LOAD_PERMANENTLY), because models and threads outlive
 * a connection.
 *
 * Flags go by (name, number of arguments).  Without an options argument a
 * function uses a built-in model, the same for ever: it is DETERMINISTIC, so it
 * works in indexes and generated columns, and INNOCUOUS, so it works in the views
 * and triggers of a schema that is not trusted.  With options it may name a model
 * that this connection loaded and is neither.  bitlm_load and bitlm_unload are
 * DIRECTONLY.
 *
 * The functions: sqlite_text.c, sqlite_codes.c, sqlite_quantize.c, sqlite_models.c; the tables:
 * sqlite_stream.c, sqlite_each.c, sqlite_embed_each.c, sqlite_chunk.c, sqlite_models.c,
 * sqlite_index.c, sqlite_search.c; the connection's state and the way in and out of the core: sqlite_state.c. */
#define BLS_MAIN
#include "sqlite_adapter.h"

#ifdef _WIN32
#define ENTRY_POINT __declspec(dllexport)
#else
#define ENTRY_POINT __attribute__((visibility("default")))
#endif

int bls_function(bls_state *state, const char *name, int n_arguments, int flags,
                 void (*function)(sqlite3_context *, int, sqlite3_value **))
{
    bls_state_ref(state); /* SQLite calls bls_state_unref, also when this fails */
    return sqlite3_create_function_v2(state->db, name, n_arguments, SQLITE_UTF8 | flags, state,
                                      function, NULL, NULL, bls_state_unref);
}

int bls_module(bls_state *state, const char *name, const sqlite3_module *module)
{
    bls_state_ref(state);
    return sqlite3_create_module_v2(state->db, name, module, state, bls_state_unref);
}

static int init(sqlite3 *db, char **message, int noload)
{
    static int (*const parts[])(bls_state *) = {
        bls_register_text,   bls_register_codes, bls_register_models, bls_register_quantize,
        bls_register_stream, bls_register_chunk, bls_register_index,
        bls_register_each,   bls_register_embed_each, bls_register_search,
    };
    bls_state *state;
    int rc = SQLITE_OK;
    size_t i;

    if (sqlite3_libversion_number() < BLS_SQLITE_OLDEST) {
        if (message)
            *message = sqlite3_mprintf("bitlm needs SQLite 3.31 or later, this is %s",
                                       sqlite3_libversion());
        return SQLITE_ERROR;
    }
    state = bls_state_new(db, noload);
    if (!state)
        return SQLITE_NOMEM;
    for (i = 0; i < sizeof parts / sizeof parts[0] && rc == SQLITE_OK; i++)
        rc = parts[i](state);
    bls_state_unref(state);
    if (rc != SQLITE_OK) {
        if (message)
            *message = sqlite3_mprintf("bitlm: %s", sqlite3_errmsg(db));
        return rc;
    }
#ifdef SQLITE_CORE
    return SQLITE_OK; /* auto-extensions take any other value as failure */
#else
    return SQLITE_OK_LOAD_PERMANENTLY;
#endif
}

ENTRY_POINT int sqlite3_bitlm_init(sqlite3 *db, char **message, const sqlite3_api_routines *api);
ENTRY_POINT int sqlite3_bitlm_init(sqlite3 *db, char **message, const sqlite3_api_routines *api)
{
    SQLITE_EXTENSION_INIT2(api);
    (void)api;
    return init(db, message, 0);
}

ENTRY_POINT int sqlite3_bitlm_noload_init(sqlite3 *db, char **message,
                                          const sqlite3_api_routines *api);
ENTRY_POINT int sqlite3_bitlm_noload_init(sqlite3 *db, char **message,
                                          const sqlite3_api_routines *api)
{
    SQLITE_EXTENSION_INIT2(api);
    (void)api;
    return init(db, message, 1);
}
