/* sqlite_search_info.c - bitlm_search_info('s'): what a search table holds and what this connection did for it.
 *
 *     {"rows":…, "chunks":…, "bits":…, "model":"embed", "model_id":"…", "waiting":…, "embedded":…, "batches":…}
 *
 *     waiting    rows of the open transaction that have no codes yet
 *     embedded   chunks that this connection embedded since it opened the table,
 *     batches    and in how many calls of the core
 *
 * The name may be 'schema.s'.  Called by SQLite; registered by sqlite_search.c. */
#include "sqlite_search.h"

#include <string.h>

static search_table *find(bls_state *state, const char *schema, const char *name)
{
    static const char *const first[2] = {"temp", "main"};
    search_table *table;
    int i;

    for (i = 0; i < 2 && !schema; i++)
        for (table = state->searches; table; table = table->next)
            if (sqlite3_stricmp(table->name, name) == 0 && sqlite3_stricmp(table->schema, first[i]) == 0)
                return table;
    for (table = state->searches; table; table = table->next)
        if (sqlite3_stricmp(table->name, name) == 0 && (!schema || sqlite3_stricmp(table->schema, schema) == 0))
            return table;
    return NULL;
}

static char *describe(search_table *table, int *rc)
{
    sqlite3_stmt *count = NULL;
    sqlite3_int64 rows = 0;
    char *sql = sqlite3_mprintf("SELECT count(*) FROM \"%w\".\"%w_docs\"", table->schema, table->name), *json = NULL;
    int end;

    /* Held open while the store reads, because the calling statement need not have begun to. */
    *rc = sql ? sqlite3_prepare_v2(table->state->db, sql, -1, &count, NULL) : SQLITE_NOMEM;
    sqlite3_free(sql);
    if (*rc == SQLITE_ERROR)
        *rc = search_fail(table, SQLITE_CORRUPT_VTAB, "a shadow table is missing or malformed");
    if (*rc == SQLITE_OK && sqlite3_step(count) == SQLITE_ROW) {
        rows = sqlite3_column_int64(count, 0);
        table->known = 0;
        *rc = search_begin(table);
        if (*rc == SQLITE_OK) {
            json = sqlite3_mprintf("{\"rows\":%lld,\"chunks\":%lld,\"bits\":%u,\"model\":\"%s\",\"model_id\":\"%s\","
                                   "\"waiting\":%lld,\"embedded\":%lld,\"batches\":%lld}",
                                   rows, (sqlite3_int64)bls_store_rows(table->store), table->bits,
                                   table->model ? table->model : "embed", table->model_id,
                                   (sqlite3_int64)table->n_waiting, (sqlite3_int64)table->n_embedded,
                                   (sqlite3_int64)table->n_batches);
            bls_store_end(table->store);
        }
    }
    end = sqlite3_finalize(count);
    if (*rc == SQLITE_OK)
        *rc = json ? end : end ? end : SQLITE_NOMEM;
    if (*rc != SQLITE_OK) {
        sqlite3_free(json);
        json = NULL;
    }
    return json;
}

static void fn_info(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    bls_state *state = sqlite3_user_data(context);
    sqlite3_stmt *statement = NULL;
    search_table *table = NULL;
    bitlm_text given;
    char *schema = NULL, *name, *sql, *json = NULL;
    const char *dot;
    bls_call call;
    bitlm_status status;
    int rc = SQLITE_OK;

    (void)argc;
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    status = bls_begin(&call, state, "bitlm_search_info", NULL);
    if (status == BITLM_OK)
        status = bls_text(&call, argv[0], "the table", &given);
    if (status) {
        bls_fail(&call, context, status);
        bls_end(&call);
        return;
    }
    dot = strchr(given.data, '.');
    name = sqlite3_mprintf("%s", dot ? dot + 1 : given.data);
    if (dot)
        schema = sqlite3_mprintf("%.*s", (int)(dot - given.data), given.data);
    sql = !name || (dot && !schema) ? NULL
          : dot                     ? sqlite3_mprintf("SELECT 1 FROM \"%w\".\"%w\" LIMIT 0", schema, name)
                                    : sqlite3_mprintf("SELECT 1 FROM \"%w\" LIMIT 0", name);
    /* SQLite connects a table when a statement names it. */
    rc = sql ? sqlite3_prepare_v2(state->db, sql, -1, &statement, NULL) : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        table = find(state, schema, name);
    if (table)
        json = describe(table, &rc);
    if (json) {
        sqlite3_result_text(context, json, -1, sqlite3_free);
        sqlite3_result_subtype(context, BLS_SUBTYPE_JSON);
    } else if (table && table->base.zErrMsg && rc != SQLITE_NOMEM) {
        sqlite3_result_error(context, table->base.zErrMsg, -1);
        sqlite3_result_error_code(context, rc);
    } else if (table || (rc != SQLITE_OK && rc != SQLITE_ERROR)) {
        sqlite3_result_error_code(context, rc);
    } else {
        bls_error(&call, BITLM_ARG, "'%.60s' is no bitlm_search table", given.data);
        bls_fail(&call, context, BITLM_ARG);
    }
    sqlite3_finalize(statement);
    sqlite3_free(sql);
    sqlite3_free(schema);
    sqlite3_free(name);
    bls_end(&call);
}

int bls_register_search_info(bls_state *state)
{
    return bls_function(state, "bitlm_search_info", 1, bls_result_subtype(), fn_info);
}
