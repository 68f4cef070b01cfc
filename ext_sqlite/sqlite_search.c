/* sqlite_search.c - CREATE VIRTUAL TABLE s USING bitlm_search(title, body, …): search by meaning, with
 * FTS5's habits.
 *
 *     CREATE VIRTUAL TABLE s USING bitlm_search(title, body, lang UNINDEXED,
 *         content='notes', content_rowid='id',   -- the columns live in another table; '': nowhere
 *         model='name',                          -- one that bitlm_load named; else the built-in
 *         chunk_size=256, overlap=32,            -- tokens
 *         bits=384, cache_mb=4096, fts='notes_fts');
 *     INSERT INTO s(title, body) VALUES ('Bicycle', 'How to mend a flat tyre.');
 *     SELECT rowid, title, rank FROM s WHERE s MATCH 'my wheel lost its air' ORDER BY rank LIMIT 10;
 *     SELECT rowid, chunk FROM s('my wheel lost its air', 10);
 *     INSERT INTO s(s) VALUES ('rebuild');
 *
 * docs/SQL.md is the manual.  Hidden columns behind those declared: one named as the table (MATCH, commands),
 * k, rank, chunk, chunk_start, chunk_length.
 *
 * The texts of a transaction are embedded together (sqlite_search_queue.c).  The codes are in a store
 * (code_store.h), whose cache, stamps and savepoints bitlm_index uses too.  Codes of another model
 * mean nothing, so NAME_config holds the model_id, and a search with another model is refused.  The
 * module is INNOCUOUS: it opens no file.
 *
 * This file: the declaration, connecting, transactions, renaming, dropping. */
#include "sqlite_search.h"
#include "sqlite_declaration.h"
#include "sqlite_table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int search_fail(search_table *table, int rc, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    rc = bls_table_fail(&table->base, "bitlm_search", table->name, rc, format, arguments);
    va_end(arguments);
    return rc;
}

int search_store_failed(search_table *table, int rc)
{
    const char *message = table->store ? bls_store_message(table->store) : "";

    if (rc == SQLITE_OK || !message[0])
        return rc;
    return search_fail(table, rc, "%s", message);
}

/* ---- the declaration ------------------------------------------------------------------ */

typedef struct declaration {
    search_table *table;
    char **message;
} declaration;

static int refuse(declaration *d, const char *format, ...)
{
    va_list arguments;
    int rc;

    va_start(arguments, format);
    rc = bls_refuse(d->message, "bitlm_search", format, arguments);
    va_end(arguments);
    return rc;
}

static int number_option(declaration *d, const char *name, const char *value, int64_t least, int64_t most,
                         int64_t *number)
{
    char *end;
    long long n = strtoll(value, &end, 10);

    if (end == value || *end || n < least || n > most)
        return refuse(d, "%s is '%.40s', but must be an integer from %lld to %lld", name, value,
                      (sqlite3_int64)least, (sqlite3_int64)most);
    *number = n;
    return SQLITE_OK;
}

/* Takes value over. */
static int option(declaration *d, const char *name, char *value)
{
    search_table *table = d->table;
    char **text = NULL;
    int rc;

    if (sqlite3_stricmp(name, "content") == 0)
        text = &table->content_table;
    else if (sqlite3_stricmp(name, "content_rowid") == 0)
        text = &table->content_rowid;
    else if (sqlite3_stricmp(name, "model") == 0)
        text = &table->model;
    else if (sqlite3_stricmp(name, "fts") == 0)
        text = &table->fts;
    if (text) {
        sqlite3_free(*text);
        *text = value;
        return SQLITE_OK;
    }
    if (sqlite3_stricmp(name, "chunk_size") == 0)
        rc = number_option(d, "chunk_size", value, SEARCH_LEAST_CHUNK, 4096, &table->chunk_size);
    else if (sqlite3_stricmp(name, "overlap") == 0)
        rc = number_option(d, "overlap", value, 0, 4095, &table->overlap);
    else if (sqlite3_stricmp(name, "bits") == 0)
        rc = number_option(d, "bits", value, 8, BLS_STORE_MOST_CODE_BYTES * 8, &table->bits_wanted);
    else if (sqlite3_stricmp(name, "cache_mb") == 0)
        rc = number_option(d, "cache_mb", value, 0, 1 << 24, &table->cache_mb);
    else
        rc = refuse(d, "there is no option '%.40s'; the options are model, chunk_size, overlap, bits, content, "
                       "content_rowid, fts and cache_mb", name);
    sqlite3_free(value);
    return rc;
}

static int reserved(const search_table *table, const char *name)
{
    static const char *const names[] = {"rank", "k", "rowid", "chunk", "chunk_start", "chunk_length"};
    size_t i;

    for (i = 0; i < sizeof names / sizeof names[0]; i++)
        if (sqlite3_stricmp(name, names[i]) == 0)
            return 1;
    return sqlite3_stricmp(name, table->name) == 0;
}

/* Takes name over. */
static int column(declaration *d, char *name, const char *rest)
{
    search_table *table = d->table;
    search_column *columns;
    const char *end;
    char *word;
    int i, unindexed = 0, rc = SQLITE_OK;

    if (*rest) {
        word = bls_read_name(rest, &end);
        unindexed = word && sqlite3_stricmp(word, "UNINDEXED") == 0 && !*bls_skip(end);
        if (!word)
            rc = SQLITE_NOMEM;
        else if (!unindexed)
            rc = refuse(d, "'%.40s' behind column %.40s: a column has no type, and may only be UNINDEXED", rest, name);
        sqlite3_free(word);
    }
    for (i = 0; i < table->n_columns && rc == SQLITE_OK; i++)
        if (sqlite3_stricmp(table->columns[i].name, name) == 0)
            rc = refuse(d, "there are two columns '%.60s'", name);
    if (rc == SQLITE_OK && reserved(table, name))
        rc = refuse(d, "a column cannot be named '%.60s', which bitlm_search uses itself", name);
    if (rc == SQLITE_OK && table->n_columns >= SEARCH_MOST_COLUMNS)
        rc = refuse(d, "there are more than %d columns", SEARCH_MOST_COLUMNS);
    if (rc == SQLITE_OK) {
        columns = sqlite3_realloc64(table->columns, ((size_t)table->n_columns + 1) * sizeof *columns);
        if (columns) {
            table->columns = columns;
            columns[table->n_columns].name = name;
            columns[table->n_columns++].unindexed = unindexed;
            return SQLITE_OK;
        }
        rc = SQLITE_NOMEM;
    }
    sqlite3_free(name);
    return rc;
}

static int argument(declaration *d, const char *text)
{
    const char *p = bls_skip(text), *end;
    char *name = bls_read_name(p, &end), *value;
    int rc;

    if (!name)
        return SQLITE_NOMEM;
    if (!name[0] || (*end && !bls_is_space(*end) && *end != '=')) {
        rc = refuse(d, "'%.60s' is neither a column nor an option", text);
        sqlite3_free(name);
        return rc;
    }
    end = bls_skip(end);
    if (*end != '=')
        return column(d, name, end);
    p = bls_skip(end + 1);
    value = bls_read_name(p, &end);
    if (!value)
        rc = SQLITE_NOMEM;
    else if (*bls_skip(end) || (end == p)) {
        rc = refuse(d, "option %s is '%.40s', but must be a number or a text in quotes", name, p);
        sqlite3_free(value);
    } else
        rc = option(d, name, value);
    sqlite3_free(name);
    return rc;
}

static int declare(sqlite3 *db, search_table *table, int argc, const char *const *argv, char **message)
{
    declaration d = {table, message};
    sqlite3_str *out;
    char *sql;
    int i, rc = SQLITE_OK, n_indexed = 0;

    for (i = 3; i < argc && rc == SQLITE_OK; i++)
        rc = argument(&d, argv[i]);
    if (rc != SQLITE_OK)
        return rc;
    for (i = 0; i < table->n_columns; i++)
        n_indexed += !table->columns[i].unindexed;
    if (n_indexed == 0)
        return refuse(&d, "there is no column to search: USING bitlm_search(title, body)");
    if (table->content_table)
        table->content = table->content_table[0] ? CONTENT_EXTERNAL : CONTENT_NONE;
    if (table->content_rowid && table->content != CONTENT_EXTERNAL)
        return refuse(&d, "content_rowid needs content='table'");
    if (!table->content_rowid && !(table->content_rowid = sqlite3_mprintf("rowid")))
        return SQLITE_NOMEM;
    if (table->chunk_size && table->overlap >= table->chunk_size)
        return refuse(&d, "overlap is %lld tokens, but must be less than chunk_size, %lld",
                      (sqlite3_int64)table->overlap, (sqlite3_int64)table->chunk_size);
    if (table->bits_wanted % 8)
        return refuse(&d, "bits is %lld, but must be a multiple of 8", (sqlite3_int64)table->bits_wanted);
    out = sqlite3_str_new(db);
    sqlite3_str_appendall(out, "CREATE TABLE x(");
    for (i = 0; i < table->n_columns; i++)
        sqlite3_str_appendf(out, "\"%w\", ", table->columns[i].name);
    sqlite3_str_appendf(out, "\"%w\" HIDDEN, k HIDDEN, rank HIDDEN, chunk HIDDEN, chunk_start HIDDEN, "
                             "chunk_length HIDDEN)", table->name);
    sql = sqlite3_str_finish(out);
    rc = sql ? sqlite3_declare_vtab(db, sql) : SQLITE_NOMEM;
    if (rc == SQLITE_ERROR)
        refuse(&d, "%s", sqlite3_errmsg(db));
    sqlite3_free(sql);
    return rc;
}

/* ---- shadow tables ---------------------------------------------------------------------- */

static int create_tables(search_table *table, char **message)
{
    sqlite3 *db = table->state->db;
    sqlite3_str *out;
    char *sql;
    int i, rc;

    rc = bls_store_create(db, table->schema, table->name, message);
    if (rc == SQLITE_OK)
        rc = bls_execute(db, message, "CREATE TABLE \"%w\".\"%w_docs\"(id INTEGER PRIMARY KEY, ticket INTEGER, first INTEGER, "
                                      "n INTEGER, places BLOB)", table->schema, table->name);
    if (rc == SQLITE_OK && table->content == CONTENT_OWN) {
        out = sqlite3_str_new(db);
        sqlite3_str_appendf(out, "CREATE TABLE \"%w\".\"%w_content\"(id INTEGER PRIMARY KEY", table->schema, table->name);
        for (i = 0; i < table->n_columns; i++)
            sqlite3_str_appendf(out, ", c%d", i);
        sqlite3_str_appendall(out, ")");
        sql = sqlite3_str_finish(out);
        rc = sql ? bls_execute(db, message, "%s", sql) : SQLITE_NOMEM;
        sqlite3_free(sql);
    }
    return rc;
}

/* The columns of a row, by its id; of another table under its own names. */
static void content_columns(const search_table *table, sqlite3_str *out)
{
    int i;

    if (table->content == CONTENT_EXTERNAL) {
        sqlite3_str_appendf(out, "SELECT \"%w\"", table->content_rowid);
        for (i = 0; i < table->n_columns; i++)
            sqlite3_str_appendf(out, ", \"%w\"", table->columns[i].name);
        sqlite3_str_appendf(out, " FROM \"%w\".\"%w\" WHERE \"%w\"=?1", table->schema, table->content_table,
                            table->content_rowid);
    } else {
        sqlite3_str_appendf(out, "SELECT * FROM \"%w\".\"%w_content\" WHERE id=?1", table->schema, table->name);
    }
}

int search_statement_of(search_table *table, enum search_statement which, sqlite3_stmt **statement)
{
    static const char *const sql[N_SEARCH_STATEMENTS] = {
        [DOCS_GET] = "SELECT ticket, first, n, places FROM \"%w\".\"%w_docs\" WHERE id=?1",
        [DOCS_PENDING] = "REPLACE INTO \"%w\".\"%w_docs\"(id, ticket) VALUES(?1, ?2)",
        [DOCS_DONE] = "UPDATE \"%w\".\"%w_docs\" SET ticket=NULL, first=?2, n=?3, places=?4 WHERE id=?1",
        [DOCS_DELETE] = "DELETE FROM \"%w\".\"%w_docs\" WHERE id=?1",
        [DOCS_RANGE] = "SELECT id FROM \"%w\".\"%w_docs\" WHERE id>=?1 AND id<=?2 ORDER BY id LIMIT ?3",
        [DOCS_MAX] = "SELECT max(id) FROM \"%w\".\"%w_docs\"",
        [CONTENT_PUT] = "REPLACE INTO \"%w\".\"%w_content\" VALUES(?1",
        [CONTENT_DELETE] = "DELETE FROM \"%w\".\"%w_content\" WHERE id=?1",
        [CONFIG_GET] = "SELECT k, v FROM \"%w\".\"%w_config\" WHERE k IN ('bits', 'model_id')",
    };
    sqlite3_str *out;
    int i, rc;

    if (!table->statements[which]) {
        out = sqlite3_str_new(NULL);
        if (which == CONTENT_GET)
            content_columns(table, out);
        else
            sqlite3_str_appendf(out, sql[which], table->schema, table->name);
        if (which == CONTENT_PUT) {
            for (i = 0; i < table->n_columns; i++)
                sqlite3_str_appendf(out, ", ?%d", i + 2);
            sqlite3_str_appendall(out, ")");
        }
        rc = bls_prepare(table->state->db, sqlite3_str_finish(out), &table->statements[which]);
        if (rc == SQLITE_ERROR && which == CONTENT_GET && table->content == CONTENT_EXTERNAL)
            return search_fail(table, SQLITE_ERROR, "the content table: %s", sqlite3_errmsg(table->state->db));
        if (rc == SQLITE_ERROR)
            return search_fail(table, SQLITE_CORRUPT_VTAB, "a shadow table is missing or malformed");
        if (rc != SQLITE_OK)
            return rc;
    }
    *statement = table->statements[which];
    return SQLITE_OK;
}

int search_run_statement(sqlite3_stmt *statement)
{
    int rc;

    sqlite3_step(statement);
    rc = sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return rc;
}

static void finalize(search_table *table)
{
    bls_finalize(table->statements, N_SEARCH_STATEMENTS);
}

/* ---- the configuration ------------------------------------------------------------------- */

int search_config_set(search_table *table, const char *key, const char *value)
{
    return bls_store_set(table->state->db, table->schema, table->name, key, value);
}

static int open_store(search_table *table, uint32_t bits)
{
    bls_store_shape shape = {.code_bytes = bits / 8, .n_columns = 1, .cache_limit = (uint64_t)table->cache_mb << 20};

    if (table->store && table->bits == bits)
        return SQLITE_OK;
    bls_store_close(table->store);
    table->store = NULL;
    table->bits = bits;
    return bls_store_open(table->state->db, table->schema, table->name, &shape, &table->store);
}

static int read_config(search_table *table)
{
    sqlite3_stmt *select;
    sqlite3_int64 bits = 0;
    const char *key, *value;
    int rc = search_statement_of(table, CONFIG_GET, &select), end;
    char id[33] = "";

    if (rc != SQLITE_OK)
        return rc;
    while (sqlite3_step(select) == SQLITE_ROW) {
        key = (const char *)sqlite3_column_text(select, 0);
        value = (const char *)sqlite3_column_text(select, 1);
        if (key && value && strcmp(key, "bits") == 0)
            bits = sqlite3_column_int64(select, 1);
        else if (key && value && strlen(value) == 32)
            memcpy(id, value, sizeof id);
    }
    end = sqlite3_reset(select);
    if (end != SQLITE_OK)
        return end;
    if (bits < 8 || bits > BLS_STORE_MOST_CODE_BYTES * 8 || bits % 8)
        return search_fail(table, SQLITE_CORRUPT_VTAB, "its configuration is damaged: bits is missing or %lld", bits);
    rc = open_store(table, (uint32_t)bits);
    if (rc != SQLITE_OK)
        return rc;
    if (strcmp(id, table->model_id) != 0) {
        memcpy(table->model_id, id, sizeof id);
        table->checked = 0;
    }
    table->known = 1;
    return SQLITE_OK;
}

int search_begin(search_table *table)
{
    int rc = table->known ? SQLITE_OK : read_config(table);

    if (rc == SQLITE_OK)
        rc = search_store_failed(table, bls_store_begin(table->store));
    return rc;
}

bitlm_status search_model(search_table *table, bls_call *call, int any, bitlm_model **model)
{
    const char *name = table->model ? table->model : "embed";
    bitlm_status status = bls_model_named(call, name, strlen(name), model);
    char hex[33];

    if (status || any || table->checked == table->state->generation + 1)
        return status;
    if (!table->model_id[0])
        status = bls_error(call, BITLM_ARG, "the index %s is not complete, because a rebuild ended early: INSERT INTO "
                           "%s(%s) VALUES('rebuild') makes it anew", table->name, table->name, table->name);
    if (status == BITLM_OK)
        status = bls_model_id(call, *model, hex);
    if (status == BITLM_OK && strcmp(hex, table->model_id) != 0)
        status = table->content == CONTENT_NONE
                     ? bls_error(call, BITLM_ARG, "the index %s was made by the model with model_id %s, but '%.60s' has %s; "
                                 "it keeps no texts to 'rebuild' from: drop it and make it anew",
                                 table->name, table->model_id, name, hex)
                     : bls_error(call, BITLM_ARG, "the index %s was made by the model with model_id %s, but '%.60s' has %s; "
                                 "INSERT INTO %s(%s) VALUES('rebuild') makes it anew",
                                 table->name, table->model_id, name, hex, table->name, table->name);
    if (status == BITLM_OK)
        table->checked = table->state->generation + 1;
    if (status) {
        bitlm_model_free(*model);
        *model = NULL;
    }
    return status;
}

/* Makes the index one of this model, which has still to embed: bits and the lengths of chunks. */
int search_set_model(search_table *table, bls_call *call, bitlm_model *model)
{
    bitlm_model_info info;
    bitlm_status status = bls_describe(call, model, &info);
    int64_t bits;
    char text[24];
    int rc;

    if (status == BITLM_OK && !info.can_embed)
        status = bls_error(call, BITLM_UNSUPPORTED, "the model '%.60s' has no embedding",
                           table->model ? table->model : "embed");
    bits = table->bits_wanted ? table->bits_wanted : info.embedding_bits;
    if (status == BITLM_OK && (bits > info.embedding_bits || bits % 8 || bits < 8))
        status = bls_error(call, BITLM_ARG, "bits is %lld, but the model's codes have %d", (sqlite3_int64)bits,
                           (int)info.embedding_bits);
    if (status)
        return bls_fail_table(call, &table->base, status);
    sqlite3_snprintf((int)sizeof text, text, "%lld", (sqlite3_int64)bits);
    rc = search_config_set(table, "bits", text);
    return rc == SQLITE_OK ? open_store(table, (uint32_t)bits) : rc;
}

/* ---- connecting --------------------------------------------------------------------------- */

static int search_disconnect(sqlite3_vtab *base)
{
    search_table *table = (search_table *)base, **link;
    int i;

    for (link = &table->state->searches; *link && *link != table; link = &(*link)->next)
        continue;
    if (*link)
        *link = table->next;
    finalize(table);
    search_forget(table);
    sqlite3_free(table->pending);
    bls_store_close(table->store);
    for (i = 0; i < table->n_columns; i++)
        sqlite3_free(table->columns[i].name);
    sqlite3_free(table->columns);
    sqlite3_free(table->content_table);
    sqlite3_free(table->content_rowid);
    sqlite3_free(table->fts);
    sqlite3_free(table->model);
    sqlite3_free(table->schema);
    sqlite3_free(table->name);
    bls_state_unref(table->state);
    sqlite3_free(table);
    return SQLITE_OK;
}

static int create(search_table *table, char **message)
{
    bitlm_model *model = NULL;
    bls_call call;
    bitlm_status status = bls_begin(&call, table->state, "bitlm_search", NULL);
    char hex[33];
    int rc;

    if (status == BITLM_OK)
        status = search_model(table, &call, 1, &model);
    if (status == BITLM_OK)
        status = bls_model_id(&call, model, hex);
    rc = status ? bls_fail_table(&call, &table->base, status) : SQLITE_OK;
    if (rc == SQLITE_OK)
        rc = create_tables(table, message);
    if (rc == SQLITE_OK)
        rc = search_set_model(table, &call, model);
    if (rc == SQLITE_OK)
        rc = search_config_set(table, "format", "1");
    if (rc == SQLITE_OK)
        rc = search_config_set(table, "model_id", hex);
    if (rc != SQLITE_OK && !*message) {
        *message = table->base.zErrMsg; /* SQLite takes that of a table only once it is connected */
        table->base.zErrMsg = NULL;
    }
    bitlm_model_free(model);
    bls_end(&call);
    return rc;
}

static int connect(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **result, char **message,
                   int is_new)
{
    search_table *table = sqlite3_malloc64(sizeof *table);
    int rc;

    if (!table)
        return SQLITE_NOMEM;
    memset(table, 0, sizeof *table);
    table->state = aux;
    bls_state_ref(table->state);
    table->cache_mb = SEARCH_DEFAULT_CACHE_MB;
    table->schema = sqlite3_mprintf("%s", argv[1]);
    table->name = sqlite3_mprintf("%s", argv[2]);
    rc = table->schema && table->name ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        sqlite3_vtab_config(db, SQLITE_VTAB_CONSTRAINT_SUPPORT, 1);
        sqlite3_vtab_config(db, SQLITE_VTAB_INNOCUOUS);
        rc = declare(db, table, argc, argv, message);
    }
    if (rc == SQLITE_OK && is_new)
        rc = create(table, message);
    if (rc != SQLITE_OK) {
        sqlite3_free(table->base.zErrMsg);
        search_disconnect(&table->base);
        return rc;
    }
    table->next = table->state->searches;
    table->state->searches = table;
    *result = &table->base;
    return SQLITE_OK;
}

static int search_create(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **result,
                         char **message)
{
    return connect(db, aux, argc, argv, result, message, 1);
}

static int search_connect(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **result,
                          char **message)
{
    return connect(db, aux, argc, argv, result, message, 0);
}

static int search_destroy(sqlite3_vtab *base)
{
    search_table *table = (search_table *)base;
    int rc;

    finalize(table); /* statements would lock the tables */
    if (table->store)
        bls_store_release(table->store);
    rc = bls_store_drop(table->state->db, table->schema, table->name);
    if (rc == SQLITE_OK)
        rc = bls_execute(table->state->db, NULL,
                         "DROP TABLE IF EXISTS \"%w\".\"%w_docs\"; DROP TABLE IF EXISTS \"%w\".\"%w_content\"",
                         table->schema, table->name, table->schema, table->name);
    return rc == SQLITE_OK ? search_disconnect(base) : rc;
}

static int search_rename(sqlite3_vtab *base, const char *name)
{
    search_table *table = (search_table *)base;
    char *copy = sqlite3_mprintf("%s", name);
    int rc = copy ? search_begin(table) : SQLITE_NOMEM;

    if (rc == SQLITE_OK)
        rc = search_flush(table, 0);
    if (rc == SQLITE_OK)
        rc = bls_store_flush(table->store);
    finalize(table);
    if (rc == SQLITE_OK)
        rc = bls_store_rename(table->store, name);
    if (rc == SQLITE_OK)
        rc = bls_execute(table->state->db, NULL, "ALTER TABLE \"%w\".\"%w_docs\" RENAME TO \"%w_docs\"", table->schema,
                         table->name, name);
    if (rc == SQLITE_OK && table->content == CONTENT_OWN)
        rc = bls_execute(table->state->db, NULL, "ALTER TABLE \"%w\".\"%w_content\" RENAME TO \"%w_content\"", table->schema,
                         table->name, name);
    if (rc == SQLITE_OK) {
        sqlite3_free(table->name);
        table->name = copy;
    } else {
        sqlite3_free(copy);
    }
    return rc;
}

static int search_shadow(const char *suffix)
{
    return bls_store_shadow(suffix) || sqlite3_stricmp(suffix, "docs") == 0 || sqlite3_stricmp(suffix, "content") == 0;
}

/* ---- transactions -------------------------------------------------------------------------- */

static int search_begin_transaction(sqlite3_vtab *base)
{
    search_table *table = (search_table *)base;

    int rc;

    search_forget(table);
    table->known = 0;
    rc = search_begin(table);
    /* A damaged index can still be rebuilt and dropped; other statements begin again and complain. */
    return (rc & 0xff) == SQLITE_CORRUPT ? SQLITE_OK : rc;
}

static int search_sync(sqlite3_vtab *base)
{
    search_table *table = (search_table *)base;
    sqlite3_int64 last = sqlite3_last_insert_rowid(table->state->db);
    int rc = search_flush(table, 0);

    if (rc == SQLITE_OK && table->store)
        rc = search_store_failed(table, bls_store_flush(table->store));
    /* Rows of shadow tables are not what the user inserted last. */
    sqlite3_set_last_insert_rowid(table->state->db, last);
    return rc;
}

static int search_commit(sqlite3_vtab *base)
{
    search_forget((search_table *)base);
    return SQLITE_OK;
}

static int search_rollback(sqlite3_vtab *base)
{
    search_table *table = (search_table *)base;

    search_forget(table);
    table->known = 0;
    if (table->store)
        bls_store_rollback(table->store);
    return SQLITE_OK;
}

static int search_savepoint(sqlite3_vtab *base, int savepoint)
{
    search_table *table = (search_table *)base;

    sqlite3_int64 last = sqlite3_last_insert_rowid(table->state->db);
    int rc = SQLITE_OK;

    table->depth = savepoint + 1;
    if (table->store)
        rc = search_store_failed(table, bls_store_savepoint(table->store, savepoint));
    sqlite3_set_last_insert_rowid(table->state->db, last);
    return rc;
}

static int search_release(sqlite3_vtab *base, int savepoint)
{
    search_released((search_table *)base, savepoint);
    return SQLITE_OK;
}

static int search_rollback_to(sqlite3_vtab *base, int savepoint)
{
    search_table *table = (search_table *)base;

    table->depth = savepoint + 1;
    table->rolled_back = 1;
    table->known = 0;
    if (table->store)
        bls_store_rollback_to(table->store, savepoint);
    return SQLITE_OK;
}

static int search_integrity(sqlite3_vtab *base, const char *schema, const char *name, int flags, char **message)
{
    (void)schema;
    (void)name;
    (void)flags;
    return search_check((search_table *)base, 0, message);
}

static const bls_module_4 search_module = {
    BLS_INTEGRITY = search_integrity,
    .base.iVersion = 4,
    .base.xCreate = search_create,
    .base.xConnect = search_connect,
    .base.xBestIndex = search_best,
    .base.xDisconnect = search_disconnect,
    .base.xDestroy = search_destroy,
    .base.xOpen = search_open,
    .base.xClose = search_close,
    .base.xFilter = search_filter,
    .base.xNext = search_next,
    .base.xEof = search_eof,
    .base.xColumn = search_column_of,
    .base.xRowid = search_rowid,
    .base.xUpdate = search_update,
    .base.xBegin = search_begin_transaction,
    .base.xSync = search_sync,
    .base.xCommit = search_commit,
    .base.xRollback = search_rollback,
    .base.xRename = search_rename,
    .base.xSavepoint = search_savepoint,
    .base.xRelease = search_release,
    .base.xRollbackTo = search_rollback_to,
    .base.xShadowName = search_shadow,
};

int bls_register_search(bls_state *state)
{
    int rc = bls_module(state, "bitlm_search", &search_module.base);

    return rc == SQLITE_OK ? bls_register_search_info(state) : rc;
}
