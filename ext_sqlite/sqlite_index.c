/* sqlite_index.c - CREATE VIRTUAL TABLE v USING bitlm_index(bits=384, …): exact nearest-neighbour
 * search over binary codes.
 *
 *     CREATE VIRTUAL TABLE v USING bitlm_index(
 *         bits=384,               -- any multiple of 8 up to 16,384
 *         id TEXT PRIMARY KEY,    -- or INTEGER PRIMARY KEY, the rowid's name; or neither
 *         user INTEGER PARTITION KEY, lang TEXT, year INTEGER,   -- metadata: filtered inside the scan
 *         +title TEXT,            -- auxiliary: only stored
 *         vector FLOAT[384],      -- float32 vectors: codes are made of them, results rescored by them
 *         cache_mb=4096, rescore=8);
 *     INSERT INTO v(id, lang, code) VALUES ('a', 'de', bitlm_embed('…'));
 *     SELECT id, distance FROM v WHERE code MATCH bitlm_embed('…') AND k = 10 AND lang = 'de';
 *
 * docs/SQL.md is the manual.  Columns in the order of declaration behind `code`, then
 * hidden ones: distance, k, and one named as the table, for commands:
 *
 *     INSERT INTO v(v) VALUES ('integrity-check');
 *
 * Shadow tables: NAME_config and NAME_blocks of the store (code_store.h), and with a text key, an auxiliary
 * or a vector column NAME_rows.  State lives nowhere else.  The module is INNOCUOUS: it
 * opens no file.
 *
 * This file: the declaration, connecting, transactions, renaming, dropping. */
#include "sqlite_index.h"
#include "sqlite_declaration.h"
#include "sqlite_table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int index_fail(index_table *table, int rc, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    rc = bls_table_fail(&table->base, "bitlm_index", table->name, rc, format, arguments);
    va_end(arguments);
    return rc;
}

int index_store_failed(index_table *table, int rc)
{
    const char *message = bls_store_message(table->store);

    if (rc == SQLITE_OK || !message[0])
        return rc;
    return index_fail(table, rc, "%s", message);
}

/* ---- the declaration ------------------------------------------------------------------ */

typedef struct declaration {
    index_table *table;
    char **message;
    sqlite3_str *columns; /* of the visible table */
    int is_new;           /* the table is being created, not found in a database */
} declaration;

static int refuse(declaration *d, const char *format, ...)
{
    va_list arguments;
    int rc;

    va_start(arguments, format);
    rc = bls_refuse(d->message, "bitlm_index", format, arguments);
    va_end(arguments);
    return rc;
}

static int contains(const char *text, const char *word)
{
    size_t n = strlen(word);

    for (; *text; text++)
        if (sqlite3_strnicmp(text, word, (int)n) == 0)
            return 1;
    return 0;
}

/* SQLite's own rules, in its order. */
static char affinity_of(const char *type)
{
    if (contains(type, "INT"))
        return 'i';
    if (contains(type, "CHAR") || contains(type, "CLOB") || contains(type, "TEXT"))
        return 't';
    if (contains(type, "BLOB") || !*type)
        return 'b';
    if (contains(type, "REAL") || contains(type, "FLOA") || contains(type, "DOUB"))
        return 'r';
    return 'n';
}

static int option(declaration *d, const char *name, const char *value)
{
    index_table *table = d->table;
    char *end;
    long long number = strtoll(value, &end, 10);

    if (end == value || *bls_skip(end))
        return refuse(d, "option %s is '%.40s', but must be an integer", name, value);
    if (sqlite3_stricmp(name, "bits") == 0) {
        if (number < 8 || number > BLS_STORE_MOST_CODE_BYTES * 8 || number % 8)
            return refuse(d, "bits is %lld, but must be a multiple of 8 from 8 to %d", number,
                          BLS_STORE_MOST_CODE_BYTES * 8);
        if (table->bits && table->bits != (uint32_t)number)
            return table->vector >= 0 ? refuse(d, "bits is %lld, but the vector column has %u values", number, table->bits)
                                      : refuse(d, "there are two options bits");
        table->bits = (uint32_t)number;
    } else if (sqlite3_stricmp(name, "cache_mb") == 0) {
        if (number < 0 || number > 1 << 24)
            return refuse(d, "cache_mb is %lld, but must be 0 to %d", number, 1 << 24);
        table->cache_mb = number;
    } else if (sqlite3_stricmp(name, "rescore") == 0) {
        if (number < 1 || number > 1000)
            return refuse(d, "rescore is %lld, but must be 1 to 1000", number);
        table->rescore = number;
    } else {
        return refuse(d, "there is no option '%.40s'; the options are bits, cache_mb and rescore", name);
    }
    return SQLITE_OK;
}

static index_column *add_column(declaration *d, char *name, enum index_role role, char affinity)
{
    index_table *table = d->table;
    index_column *columns, *column;

    columns = sqlite3_realloc64(table->columns, ((size_t)table->n_columns + 1) * sizeof *columns);
    if (!columns || !name) {
        if (columns)
            table->columns = columns;
        sqlite3_free(name);
        return NULL;
    }
    table->columns = columns;
    column = &columns[table->n_columns];
    memset(column, 0, sizeof *column);
    column->name = name;
    column->role = role;
    column->affinity = affinity;
    switch (role) {
    case ROLE_CODE: table->code = table->n_columns; break;
    case ROLE_ROWID: table->rowid = table->n_columns; break;
    case ROLE_KEY: table->key = table->n_columns; break;
    case ROLE_META: column->number = table->n_meta++; break;
    case ROLE_AUX: column->number = 2 + table->n_aux++; break;
    case ROLE_VECTOR: table->vector = table->n_columns; break;
    case ROLE_DISTANCE: table->distance = table->n_columns; break;
    case ROLE_K: table->k = table->n_columns; break;
    case ROLE_COMMAND: table->command = table->n_columns; break;
    }
    table->n_columns++;
    return column;
}

/* `rest`: what follows the name.  Splits off PRIMARY KEY or PARTITION KEY; 'p', 'q' or 0. */
static char key_words(char *rest)
{
    static const char *const words[2] = {"PRIMARY", "PARTITION"};
    size_t length = strlen(rest), n;
    char *p;
    int i;

    while (length && bls_is_space(rest[length - 1]))
        rest[--length] = 0;
    if (length < 4 || sqlite3_stricmp(rest + length - 3, "KEY") != 0 || !bls_is_space(rest[length - 4]))
        return 0;
    p = rest + length - 3;
    while (p > rest && bls_is_space(p[-1]))
        p--;
    for (i = 0; i < 2; i++) {
        n = strlen(words[i]);
        if ((size_t)(p - rest) >= n && sqlite3_strnicmp(p - n, words[i], (int)n) == 0 &&
            ((size_t)(p - rest) == n || bls_is_space(p[-(long)n - 1]))) {
            p -= n;
            while (p > rest && bls_is_space(p[-1]))
                p--;
            *p = 0;
            return i == 0 ? 'p' : 'q';
        }
    }
    return 0;
}

static int column_argument(declaration *d, const char *argument)
{
    index_table *table = d->table;
    static const char *const unkept[] = {"NOT NULL", "DEFAULT", "UNIQUE", "CHECK", "REFERENCES", "GENERATED"};
    const char *p = bls_skip(argument), *end;
    int auxiliary = *p == '+', i, rc = SQLITE_OK;
    enum index_role role = ROLE_META;
    char *name, *type, *bracket, key;
    index_column *column;
    long long values;

    if (auxiliary)
        p = bls_skip(p + 1);
    name = bls_read_name(p, &end);
    type = sqlite3_mprintf("%s", bls_skip(end));
    if (!name || !type) {
        sqlite3_free(name);
        sqlite3_free(type);
        return SQLITE_NOMEM;
    }
    key = key_words(type);
    if (!name[0] || *p == '\'' || (*end && !bls_is_space(*end))) {
        rc = refuse(d, "'%.60s' is neither a column nor an option", argument);
        goto end;
    }
    for (i = 0; i < table->n_columns && rc == SQLITE_OK; i++)
        if (sqlite3_stricmp(table->columns[i].name, name) == 0)
            rc = refuse(d, "there are two columns '%.60s'", name);
    if (rc == SQLITE_OK && (sqlite3_stricmp(name, "distance") == 0 || sqlite3_stricmp(name, "k") == 0 ||
                            sqlite3_stricmp(name, "rowid") == 0 || sqlite3_stricmp(name, table->name) == 0))
        rc = refuse(d, "a column cannot be named '%.60s', which bitlm_index uses itself", name);
    for (i = 0; d->is_new && i < (int)(sizeof unkept / sizeof unkept[0]) && rc == SQLITE_OK; i++)
        if (contains(type, unkept[i]))
            rc = refuse(d, "%s of column '%.60s' would not be kept: SQLite asks no virtual table for it", unkept[i], name);
    if (rc != SQLITE_OK)
        goto end;
    bracket = strchr(type, '[');
    if (auxiliary) {
        role = ROLE_AUX;
        if (key)
            rc = refuse(d, "auxiliary column '%.60s' cannot be a key", name);
        else if (table->n_aux >= INDEX_MOST_AUX)
            rc = refuse(d, "there are more than %d auxiliary columns", INDEX_MOST_AUX);
    } else if (key == 'p') {
        role = sqlite3_stricmp(type, "INTEGER") == 0 ? ROLE_ROWID : ROLE_KEY;
        if (role == ROLE_KEY && sqlite3_stricmp(type, "TEXT") != 0)
            rc = refuse(d, "a PRIMARY KEY is INTEGER or TEXT, not '%.40s'", type);
        else if (table->key >= 0 || table->rowid >= 0)
            rc = refuse(d, "there are two PRIMARY KEY columns");
    } else if (bracket && sqlite3_strnicmp(type, "FLOAT", 5) == 0) {
        role = ROLE_VECTOR;
        values = strtoll(bracket + 1, NULL, 10);
        if (table->vector >= 0)
            rc = refuse(d, "there are two FLOAT[n] columns");
        else if (values < 8 || values > BLS_STORE_MOST_CODE_BYTES * 8 || values % 8)
            rc = refuse(d, "a vector has %lld values, but must have a multiple of 8 from 8 to %d", values,
                        BLS_STORE_MOST_CODE_BYTES * 8);
        else if (table->bits && table->bits != (uint32_t)values)
            rc = refuse(d, "bits is %u, but the vector column has %lld values", table->bits, values);
        else
            table->bits = (uint32_t)values;
    } else if (table->n_meta >= BLS_IMAGE_MOST_COLUMNS) {
        rc = refuse(d, "there are more than %d metadata columns", BLS_IMAGE_MOST_COLUMNS);
    }
    if (rc == SQLITE_OK) {
        sqlite3_str_appendf(d->columns, ", \"%w\" %s", name, role == ROLE_VECTOR ? "BLOB" : type);
        column = add_column(d, name, role, affinity_of(type));
        name = NULL;
        if (!column)
            rc = SQLITE_NOMEM;
    }
end:
    sqlite3_free(name);
    sqlite3_free(type);
    return rc;
}

static int argument(declaration *d, const char *text)
{
    const char *p = bls_skip(text), *end = p;
    char *name;
    int rc;

    while (bls_is_word(*end))
        end++;
    if (end > p && *bls_skip(end) == '=') {
        name = sqlite3_mprintf("%.*s", (int)(end - p), p);
        if (!name)
            return SQLITE_NOMEM;
        rc = option(d, name, bls_skip(bls_skip(end) + 1));
        sqlite3_free(name);
        return rc;
    }
    return column_argument(d, p);
}

/* A type as a user wrote it goes into the declaration: letters, digits, spaces, brackets. */
static int declare(sqlite3 *db, index_table *table, int argc, const char *const *argv, char **message, int is_new)
{
    declaration d = {.table = table, .message = message, .is_new = is_new};
    char *sql;
    int i, rc = SQLITE_OK;
    index_column *column;

    d.columns = sqlite3_str_new(db);
    sqlite3_str_appendall(d.columns, "CREATE TABLE x(code BLOB");
    if (!add_column(&d, sqlite3_mprintf("code"), ROLE_CODE, 'b'))
        rc = SQLITE_NOMEM;
    for (i = 3; i < argc && rc == SQLITE_OK; i++)
        rc = argument(&d, argv[i]);
    if (rc == SQLITE_OK && !table->bits)
        rc = refuse(&d, "bits is missing: USING bitlm_index(bits=384)");
    table->has_rows = table->key >= 0 || table->n_aux || table->vector >= 0;
    if (rc == SQLITE_OK && table->vector >= 0)
        table->columns[table->vector].number = 2 + table->n_aux;
    sqlite3_str_appendf(d.columns, ", distance HIDDEN, k HIDDEN, \"%w\" HIDDEN)", table->name);
    if (rc == SQLITE_OK) {
        column = add_column(&d, sqlite3_mprintf("distance"), ROLE_DISTANCE, 'n');
        column = column ? add_column(&d, sqlite3_mprintf("k"), ROLE_K, 'n') : NULL;
        column = column ? add_column(&d, sqlite3_mprintf("%s", table->name), ROLE_COMMAND, 't') : NULL;
        rc = column ? SQLITE_OK : SQLITE_NOMEM;
    }
    sql = sqlite3_str_finish(d.columns);
    if (rc == SQLITE_OK)
        rc = sql ? sqlite3_declare_vtab(db, sql) : SQLITE_NOMEM;
    if (rc == SQLITE_ERROR && !*message)
        *message = sqlite3_mprintf("bitlm_index: %s", sqlite3_errmsg(db));
    sqlite3_free(sql);
    return rc;
}

/* ---- shadow table NAME_rows ------------------------------------------------------------- */

static int create_rows(index_table *table, char **message)
{
    sqlite3_str *out = sqlite3_str_new(NULL);
    char *sql;
    int i, rc;

    sqlite3_str_appendf(out, "CREATE TABLE \"%w\".\"%w_rows\"(id INTEGER PRIMARY KEY, key TEXT%s", table->schema,
                        table->name, table->key >= 0 ? " NOT NULL UNIQUE" : "");
    for (i = 0; i < table->n_aux; i++)
        sqlite3_str_appendf(out, ", c%d", i);
    if (table->vector >= 0)
        sqlite3_str_appendall(out, ", vector BLOB");
    sqlite3_str_appendall(out, ")");
    sql = sqlite3_str_finish(out);
    rc = sql ? bls_execute(table->state->db, message, "%s", sql) : SQLITE_NOMEM;
    sqlite3_free(sql);
    return rc;
}

int index_statement(index_table *table, int which, sqlite3_stmt **statement)
{
    static const char *const sql[N_ROWS_STATEMENTS] = {
        "SELECT * FROM \"%w\".\"%w_rows\" WHERE id=?1",
        "SELECT id FROM \"%w\".\"%w_rows\" WHERE key=?1",
        "REPLACE INTO \"%w\".\"%w_rows\" VALUES(?1, ?2",
        "DELETE FROM \"%w\".\"%w_rows\" WHERE id=?1",
    };
    sqlite3_str *out;
    int i, rc;

    if (!table->statements[which]) {
        out = sqlite3_str_new(NULL);
        sqlite3_str_appendf(out, sql[which], table->schema, table->name);
        if (which == ROWS_INSERT) {
            for (i = 0; i < table->n_aux + (table->vector >= 0); i++)
                sqlite3_str_appendf(out, ", ?%d", i + 3);
            sqlite3_str_appendall(out, ")");
        }
        rc = bls_prepare(table->state->db, sqlite3_str_finish(out), &table->statements[which]);
        if (rc == SQLITE_ERROR)
            return index_fail(table, SQLITE_CORRUPT_VTAB, "a shadow table is missing or malformed");
        if (rc != SQLITE_OK)
            return rc;
    }
    *statement = table->statements[which];
    return SQLITE_OK;
}

static void finalize(index_table *table)
{
    bls_finalize(table->statements, N_ROWS_STATEMENTS);
}

/* ---- connecting ------------------------------------------------------------------------- */

static int index_disconnect(sqlite3_vtab *base)
{
    index_table *table = (index_table *)base, **link;
    int i;

    for (link = &table->state->indexes; *link && *link != table; link = &(*link)->next)
        continue;
    if (*link)
        *link = table->next;
    finalize(table);
    bls_store_close(table->store);
    for (i = 0; i < table->n_columns; i++)
        sqlite3_free(table->columns[i].name);
    sqlite3_free(table->columns);
    sqlite3_free(table->schema);
    sqlite3_free(table->name);
    bls_state_unref(table->state);
    sqlite3_free(table);
    return SQLITE_OK;
}

static int connect(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **result,
                   char **message, int create)
{
    index_table *table = sqlite3_malloc64(sizeof *table);
    bls_store_shape shape;
    int rc;

    if (!table)
        return SQLITE_NOMEM;
    memset(table, 0, sizeof *table);
    table->state = aux;
    bls_state_ref(table->state);
    table->code = table->key = table->rowid = table->vector = table->distance = table->k = table->command = -1;
    table->cache_mb = INDEX_DEFAULT_CACHE_MB;
    table->rescore = INDEX_DEFAULT_RESCORE;
    table->schema = sqlite3_mprintf("%s", argv[1]);
    table->name = sqlite3_mprintf("%s", argv[2]);
    if (!table->schema || !table->name) {
        rc = SQLITE_NOMEM;
        goto fail;
    }
    sqlite3_vtab_config(db, SQLITE_VTAB_CONSTRAINT_SUPPORT, 1);
    sqlite3_vtab_config(db, SQLITE_VTAB_INNOCUOUS);
    rc = declare(db, table, argc, argv, message, create);
    if (rc != SQLITE_OK)
        goto fail;
    shape.code_bytes = table->bits / 8;
    shape.n_columns = (uint32_t)table->n_meta;
    shape.cache_limit = (uint64_t)table->cache_mb << 20;
    rc = bls_store_open(db, table->schema, table->name, &shape, &table->store);
    if (rc == SQLITE_OK && create)
        rc = bls_store_create(db, table->schema, table->name, message);
    if (rc == SQLITE_OK && create)
        rc = bls_store_set(db, table->schema, table->name, "format", "1");
    if (rc == SQLITE_OK && create && table->has_rows)
        rc = create_rows(table, message);
    if (rc != SQLITE_OK)
        goto fail;
    table->next = table->state->indexes;
    table->state->indexes = table;
    *result = &table->base;
    return SQLITE_OK;
fail:
    index_disconnect(&table->base);
    return rc;
}

static int index_create(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **result,
                        char **message)
{
    return connect(db, aux, argc, argv, result, message, 1);
}

static int index_connect(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **result,
                         char **message)
{
    return connect(db, aux, argc, argv, result, message, 0);
}

static int index_destroy(sqlite3_vtab *base)
{
    index_table *table = (index_table *)base;
    int rc;

    finalize(table); /* statements would lock the tables */
    bls_store_release(table->store);
    rc = bls_store_drop(table->state->db, table->schema, table->name);
    if (rc == SQLITE_OK)
        rc = bls_execute(table->state->db, NULL, "DROP TABLE IF EXISTS \"%w\".\"%w_rows\"", table->schema, table->name);
    return rc == SQLITE_OK ? index_disconnect(base) : rc;
}

/* ---- transactions ------------------------------------------------------------------------ */

static int index_begin(sqlite3_vtab *base)
{
    index_table *table = (index_table *)base;
    int rc = bls_store_begin(table->store);

    return index_store_failed(table, rc);
}

static int index_sync(sqlite3_vtab *base)
{
    index_table *table = (index_table *)base;
    sqlite3_int64 last = sqlite3_last_insert_rowid(table->state->db);
    int rc = index_store_failed(table, bls_store_flush(table->store));

    /* Rows of shadow tables are not what the user inserted last. */
    sqlite3_set_last_insert_rowid(table->state->db, last);
    return rc;
}

static int index_commit(sqlite3_vtab *base)
{
    (void)base;
    return SQLITE_OK;
}

static int index_rollback(sqlite3_vtab *base)
{
    bls_store_rollback(((index_table *)base)->store);
    return SQLITE_OK;
}

static int index_savepoint(sqlite3_vtab *base, int savepoint)
{
    index_table *table = (index_table *)base;
    sqlite3_int64 last = sqlite3_last_insert_rowid(table->state->db);
    int rc = index_store_failed(table, bls_store_savepoint(table->store, savepoint));

    sqlite3_set_last_insert_rowid(table->state->db, last);
    return rc;
}

static int index_release(sqlite3_vtab *base, int savepoint)
{
    (void)base;
    (void)savepoint;
    return SQLITE_OK;
}

static int index_rollback_to(sqlite3_vtab *base, int savepoint)
{
    bls_store_rollback_to(((index_table *)base)->store, savepoint);
    return SQLITE_OK;
}

static int index_rename(sqlite3_vtab *base, const char *name)
{
    index_table *table = (index_table *)base;
    char *copy;
    int rc;

    finalize(table);
    rc = bls_store_flush(table->store);
    if (rc == SQLITE_OK)
        rc = bls_store_rename(table->store, name);
    if (rc == SQLITE_OK && table->has_rows)
        rc = bls_execute(table->state->db, NULL, "ALTER TABLE \"%w\".\"%w_rows\" RENAME TO \"%w_rows\"", table->schema,
                         table->name, name);
    if (rc == SQLITE_OK) {
        copy = sqlite3_mprintf("%s", name);
        if (!copy)
            return SQLITE_NOMEM;
        sqlite3_free(table->name);
        table->name = copy;
    }
    return rc;
}

static int index_shadow(const char *suffix)
{
    return bls_store_shadow(suffix) || sqlite3_stricmp(suffix, "rows") == 0;
}

static int index_integrity(sqlite3_vtab *base, const char *schema, const char *name, int flags, char **message)
{
    (void)schema;
    (void)name;
    (void)flags;
    return index_check((index_table *)base, message);
}

static const bls_module_4 index_module = {
    BLS_INTEGRITY = index_integrity,
    .base.iVersion = 4,
    .base.xCreate = index_create,
    .base.xConnect = index_connect,
    .base.xBestIndex = index_best,
    .base.xDisconnect = index_disconnect,
    .base.xDestroy = index_destroy,
    .base.xOpen = index_open,
    .base.xClose = index_close,
    .base.xFilter = index_filter,
    .base.xNext = index_next,
    .base.xEof = index_eof,
    .base.xColumn = index_column_of,
    .base.xRowid = index_rowid,
    .base.xUpdate = index_update,
    .base.xBegin = index_begin,
    .base.xSync = index_sync,
    .base.xCommit = index_commit,
    .base.xRollback = index_rollback,
    .base.xRename = index_rename,
    .base.xSavepoint = index_savepoint,
    .base.xRelease = index_release,
    .base.xRollbackTo = index_rollback_to,
    .base.xShadowName = index_shadow,
};

int bls_register_index(bls_state *state)
{
    int rc = bls_module(state, "bitlm_index", &index_module.base);

    return rc == SQLITE_OK ? bls_register_index_functions(state) : rc;
}
