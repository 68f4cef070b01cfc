/* sqlite_search_write.c - xUpdate of bitlm_search: INSERT, UPDATE, DELETE, REPLACE, commands.
 *
 * A row is read and checked whole, and the queue emptied if it is full, before anything changes.  What may
 * fail after that (memory, files) makes SQLite roll back the transaction by itself.
 *
 * Deleting needs only the rowid, not the old text, so that triggers are simple; FTS5's way (INSERT INTO
 * s(s, rowid, …) VALUES('delete', …)) works too.
 *
 * Called by SQLite through the module in sqlite_search.c. */
#include "sqlite_search.h"
#include "sqlite_table.h"

#include <string.h>

int search_doc_get(search_table *table, int64_t rowid, search_doc *doc)
{
    sqlite3_stmt *get;
    int rc = search_statement_of(table, DOCS_GET, &get), end, bytes;

    memset(doc, 0, sizeof *doc);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(get, 1, rowid);
    if (sqlite3_step(get) == SQLITE_ROW) {
        doc->found = 1;
        doc->waiting = sqlite3_column_type(get, 0) != SQLITE_NULL;
        doc->first = sqlite3_column_int64(get, 1);
        doc->n = sqlite3_column_int64(get, 2);
        bytes = sqlite3_column_bytes(get, 3);
        if (!doc->waiting && (doc->n < 0 || doc->n > 0x7fffffff / 8 || bytes != doc->n * 8 || doc->first > INT64_MAX - doc->n))
            rc = search_fail(table, SQLITE_CORRUPT_VTAB, "row %lld of %s_docs is damaged", (sqlite3_int64)rowid, table->name);
        if (rc == SQLITE_OK && !doc->waiting && bytes) {
            doc->places = sqlite3_malloc64((size_t)bytes);
            if (doc->places && sqlite3_column_blob(get, 3))
                memcpy(doc->places, sqlite3_column_blob(get, 3), (size_t)bytes);
            else
                rc = SQLITE_NOMEM;
        }
        if (doc->waiting)
            doc->n = 0;
    }
    end = sqlite3_reset(get);
    if (rc == SQLITE_OK)
        rc = end;
    if (rc != SQLITE_OK) {
        sqlite3_free(doc->places);
        doc->places = NULL;
    }
    return rc;
}

int search_text(search_table *table, int64_t rowid, sqlite3_value **values, char **text, size_t *length)
{
    sqlite3_str *out = sqlite3_str_new(table->state->db);
    const char *part;
    int i, bytes, rc = SQLITE_OK;

    *text = NULL;
    for (i = 0; i < table->n_columns && rc == SQLITE_OK; i++) {
        if (table->columns[i].unindexed || !values[i] || sqlite3_value_type(values[i]) == SQLITE_NULL)
            continue;
        if (sqlite3_value_type(values[i]) == SQLITE_BLOB) {
            rc = search_fail(table, SQLITE_MISMATCH, "%s of row %lld is a BLOB, but must be text: CAST(… AS TEXT) reads it "
                             "as UTF-8", table->columns[i].name, (sqlite3_int64)rowid);
            break;
        }
        part = (const char *)sqlite3_value_text(values[i]);
        bytes = sqlite3_value_bytes(values[i]);
        if (!part) {
            rc = SQLITE_NOMEM;
        } else if (bytes) {
            if (sqlite3_str_length(out))
                sqlite3_str_append(out, "\n", 1);
            sqlite3_str_append(out, part, bytes);
        }
    }
    *length = (size_t)sqlite3_str_length(out);
    if (rc == SQLITE_OK && sqlite3_str_errcode(out) != SQLITE_OK)
        rc = sqlite3_str_errcode(out);
    *text = sqlite3_str_finish(out);
    if (rc == SQLITE_OK && !*text && !(*text = sqlite3_mprintf("")))
        rc = SQLITE_NOMEM;
    if (rc != SQLITE_OK) {
        sqlite3_free(*text);
        *text = NULL;
    }
    return rc;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static int run_with_rowid(search_table *table, enum search_statement which, int64_t rowid)
{
    sqlite3_stmt *statement;
    int rc = search_statement_of(table, which, &statement);

    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(statement, 1, rowid);
    return search_run_statement(statement);
}

static int remove_row(search_table *table, int64_t rowid)
{
    search_doc doc;
    int64_t i;
    int rc = search_doc_get(table, rowid, &doc);

    sqlite3_free(doc.places);
    if (rc != SQLITE_OK || !doc.found)
        return rc;
    rc = run_with_rowid(table, DOCS_DELETE, rowid);
    if (rc == SQLITE_OK && table->content == CONTENT_OWN)
        rc = run_with_rowid(table, CONTENT_DELETE, rowid);
    for (i = 0; i < doc.n && rc == SQLITE_OK; i++) {
        rc = bls_store_remove(table->store, doc.first + i);
        if (rc == SQLITE_NOTFOUND)
            rc = search_fail(table, SQLITE_CORRUPT_VTAB, "chunk %lld of row %lld is missing", (sqlite3_int64)(doc.first + i),
                             (sqlite3_int64)rowid);
    }
    return rc;
}

static int write_content(search_table *table, int64_t rowid, sqlite3_value **values)
{
    sqlite3_stmt *put;
    int i, rc = search_statement_of(table, CONTENT_PUT, &put);

    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(put, 1, rowid);
    for (i = 0; i < table->n_columns && rc == SQLITE_OK; i++)
        rc = values[i] ? sqlite3_bind_value(put, i + 2, values[i]) : sqlite3_bind_null(put, i + 2);
    if (rc == SQLITE_OK)
        return search_run_statement(put);
    sqlite3_clear_bindings(put);
    return rc;
}

/* Puts a row that is not there yet into the queue and NAME_docs; takes text over. */
static int add_row(search_table *table, int64_t rowid, char *text, size_t length)
{
    sqlite3_stmt *pending;
    int64_t ticket;
    int rc = search_enqueue(table, rowid, text, length, &ticket);

    if (rc == SQLITE_OK)
        rc = search_statement_of(table, DOCS_PENDING, &pending);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(pending, 1, rowid);
    sqlite3_bind_int64(pending, 2, ticket);
    return search_run_statement(pending);
}

/* The model must be there before a row is taken. */
static int check_model(search_table *table)
{
    bitlm_model *model = NULL;
    bls_call call;
    bitlm_status status;
    int rc;

    if (table->checked == table->state->generation + 1)
        return SQLITE_OK;
    status = bls_begin(&call, table->state, "bitlm_search", NULL);
    if (status == BITLM_OK)
        status = search_model(table, &call, 0, &model);
    rc = status ? bls_fail_table(&call, &table->base, status) : SQLITE_OK;
    bitlm_model_free(model);
    bls_end(&call);
    return rc;
}

typedef struct new_row {
    int is_update;
    int64_t old_rowid, rowid;
    sqlite3_value **values;  /* (n_columns) the caller's, or owned */
    uint8_t *owned;
    int text_changes, content_changes;
} new_row;

/* Columns that an UPDATE leaves as they are come from the content. */
static int fill(search_table *table, new_row *row)
{
    sqlite3_stmt *get = NULL;
    int i, rc = SQLITE_OK, end, missing = 0;

    for (i = 0; i < table->n_columns; i++) {
        if (row->is_update && sqlite3_value_nochange(row->values[i]))
            missing = 1;
        else if (table->columns[i].unindexed)
            row->content_changes = 1;
        else
            row->text_changes = 1;
    }
    if (row->rowid != row->old_rowid)
        row->text_changes = 1;
    row->content_changes |= row->text_changes;
    if (!missing || !row->content_changes)
        return SQLITE_OK;
    if (table->content == CONTENT_NONE) {
        for (i = 0; i < table->n_columns; i++)
            if (!table->columns[i].unindexed && row->text_changes && sqlite3_value_nochange(row->values[i]))
                return search_fail(table, SQLITE_ERROR, "an UPDATE of a contentless table must set all its columns: %s is not "
                                   "there to be kept", table->columns[i].name);
        return SQLITE_OK;
    }
    rc = search_statement_of(table, CONTENT_GET, &get);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(get, 1, row->old_rowid);
    end = sqlite3_step(get);
    for (i = 0; i < table->n_columns && rc == SQLITE_OK; i++) {
        if (sqlite3_value_nochange(row->values[i])) {
            row->values[i] = NULL;
            if (end == SQLITE_ROW) {
                row->values[i] = sqlite3_value_dup(sqlite3_column_value(get, i + 1));
                row->owned[i] = row->values[i] != NULL;
                if (!row->values[i])
                    rc = SQLITE_NOMEM;
            }
        }
    }
    end = sqlite3_reset(get);
    return rc == SQLITE_OK ? end : rc;
}

static int next_rowid(search_table *table, int64_t *rowid)
{
    sqlite3_stmt *max;
    int rc = search_statement_of(table, DOCS_MAX, &max), end;

    if (rc != SQLITE_OK)
        return rc;
    *rowid = 1;
    if (sqlite3_step(max) == SQLITE_ROW && sqlite3_column_type(max, 0) == SQLITE_INTEGER) {
        *rowid = sqlite3_column_int64(max, 0);
        if (*rowid == INT64_MAX)
            rc = search_fail(table, SQLITE_FULL, "the largest rowid is taken");
        else
            *rowid = *rowid < 0 ? 1 : *rowid + 1;
    }
    end = sqlite3_reset(max);
    return rc == SQLITE_OK ? end : rc;
}

static int put(search_table *table, new_row *row, int has_rowid)
{
    size_t length = 0;
    char *text = NULL;
    search_doc doc;
    int rc = SQLITE_OK;

    if (!has_rowid)
        rc = next_rowid(table, &row->rowid);
    if (rc == SQLITE_OK && row->is_update) {
        rc = search_doc_get(table, row->old_rowid, &doc);
        sqlite3_free(doc.places);
        if (rc != SQLITE_OK || !doc.found)
            return rc; /* gone meanwhile, by the same statement's REPLACE */
    }
    if (rc == SQLITE_OK)
        rc = fill(table, row);
    if (rc != SQLITE_OK)
        return rc;
    if (row->text_changes) {
        rc = check_model(table);
        if (rc == SQLITE_OK)
            rc = search_flush(table, 1);
        if (rc == SQLITE_OK)
            rc = search_text(table, row->rowid, row->values, &text, &length);
    }
    if (rc == SQLITE_OK && (!row->is_update || row->rowid != row->old_rowid)) {
        rc = search_doc_get(table, row->rowid, &doc);
        sqlite3_free(doc.places);
        if (rc == SQLITE_OK && doc.found) {
            if (sqlite3_vtab_on_conflict(table->state->db) == SQLITE_REPLACE)
                rc = remove_row(table, row->rowid);
            else {
                sqlite3_free(table->base.zErrMsg);
                table->base.zErrMsg = sqlite3_mprintf("UNIQUE constraint failed: %s.rowid", table->name);
                rc = table->base.zErrMsg ? SQLITE_CONSTRAINT : SQLITE_NOMEM;
            }
        }
    }
    if (rc == SQLITE_OK && row->is_update && row->text_changes)
        rc = remove_row(table, row->old_rowid);
    if (rc == SQLITE_OK && table->content == CONTENT_OWN && row->content_changes)
        rc = write_content(table, row->rowid, row->values);
    if (rc == SQLITE_OK && row->text_changes) {
        rc = add_row(table, row->rowid, text, length);
        text = NULL;
    }
    sqlite3_free(text);
    return rc;
}

static int put_arguments(search_table *table, sqlite3_value **argv, sqlite3_int64 *rowid)
{
    new_row row = {.is_update = sqlite3_value_type(argv[0]) != SQLITE_NULL};
    int has_rowid = row.is_update || sqlite3_value_type(argv[1]) != SQLITE_NULL, i, rc;
    sqlite3_int64 number = 0;

    if (has_rowid && !bls_is_integer(argv[1], &number))
        return search_fail(table, SQLITE_MISMATCH, "a rowid is %s, but must be an integer", bls_type_name(argv[1]));
    if (row.is_update)
        row.old_rowid = sqlite3_value_int64(argv[0]);
    row.rowid = number;
    row.values = sqlite3_malloc64((size_t)table->n_columns * (sizeof *row.values + 1));
    if (!row.values)
        return SQLITE_NOMEM;
    row.owned = (uint8_t *)(row.values + table->n_columns);
    memset(row.owned, 0, (size_t)table->n_columns);
    memcpy(row.values, argv + 2, (size_t)table->n_columns * sizeof *row.values);
    rc = put(table, &row, has_rowid);
    if (rc == SQLITE_OK)
        *rowid = row.rowid;
    for (i = 0; i < table->n_columns; i++)
        if (row.owned[i])
            sqlite3_value_free(row.values[i]);
    sqlite3_free(row.values);
    return rc;
}

/* ---- commands --------------------------------------------------------------------------------- */

/* Empties the index; keeps a message that is there. */
static int clear_index(search_table *table)
{
    int rc = bls_execute(table->state->db, NULL, "DELETE FROM \"%w\".\"%w_docs\"", table->schema, table->name);

    if (rc == SQLITE_OK)
        rc = bls_store_clear(table->store);
    return table->base.zErrMsg ? rc : search_store_failed(table, rc);
}

/* Puts every row of the content into the queue. */
static int queue_content(search_table *table)
{
    sqlite3 *db = table->state->db;
    sqlite3_stmt *select = NULL;
    sqlite3_value **values = sqlite3_malloc64((size_t)table->n_columns * sizeof *values);
    sqlite3_str *out = sqlite3_str_new(db);
    int64_t rowid;
    size_t length;
    char *sql, *text;
    int i, rc, end;

    sqlite3_str_appendf(out, "SELECT \"%w\"", table->content == CONTENT_OWN ? "id" : table->content_rowid);
    for (i = 0; i < table->n_columns; i++) {
        if (table->content == CONTENT_OWN)
            sqlite3_str_appendf(out, ", c%d", i);
        else
            sqlite3_str_appendf(out, ", \"%w\"", table->columns[i].name);
    }
    if (table->content == CONTENT_OWN)
        sqlite3_str_appendf(out, " FROM \"%w\".\"%w_content\" ORDER BY 1", table->schema, table->name);
    else
        sqlite3_str_appendf(out, " FROM \"%w\".\"%w\" ORDER BY 1", table->schema, table->content_table);
    sql = sqlite3_str_finish(out);
    rc = sql && values ? sqlite3_prepare_v2(db, sql, -1, &select, NULL) : SQLITE_NOMEM;
    sqlite3_free(sql);
    if (rc == SQLITE_ERROR)
        rc = search_fail(table, table->content == CONTENT_OWN ? SQLITE_CORRUPT_VTAB : SQLITE_ERROR, "the content table: %s",
                         sqlite3_errmsg(db));
    while (rc == SQLITE_OK && sqlite3_step(select) == SQLITE_ROW) {
        rowid = sqlite3_column_int64(select, 0);
        for (i = 0; i < table->n_columns; i++)
            values[i] = sqlite3_column_value(select, i + 1);
        rc = search_flush(table, 1);
        if (rc == SQLITE_OK)
            rc = search_text(table, rowid, values, &text, &length);
        if (rc == SQLITE_OK)
            rc = add_row(table, rowid, text, length);
    }
    end = sqlite3_finalize(select);
    sqlite3_free(values);
    return rc == SQLITE_OK ? end : rc;
}

/* Errors after which SQLite has rolled back, or will: nothing may be written then. */
static int ends_transaction(int rc)
{
    rc &= 0xff;
    return rc == SQLITE_NOMEM || rc == SQLITE_IOERR || rc == SQLITE_FULL || rc == SQLITE_INTERRUPT || rc == SQLITE_ABORT;
}

static int rebuild(search_table *table)
{
    bitlm_model *model = NULL;
    bls_call call;
    bitlm_status status;
    char hex[33];
    int rc;

    if (table->content == CONTENT_NONE)
        return search_fail(table, SQLITE_ERROR, "a contentless table keeps no texts to 'rebuild' from: drop it and make it anew");
    status = bls_begin(&call, table->state, "bitlm_search", NULL);
    if (status == BITLM_OK)
        status = search_model(table, &call, 1, &model);
    if (status == BITLM_OK)
        status = bls_model_id(&call, model, hex);
    rc = status ? bls_fail_table(&call, &table->base, status) : SQLITE_OK;
    /* Until the end the index is marked as incomplete: an error in between need not undo this. */
    if (rc == SQLITE_OK)
        rc = search_config_set(table, "model_id", "");
    if (rc == SQLITE_OK)
        rc = search_set_model(table, &call, model);
    if (rc == SQLITE_OK)
        rc = clear_index(table);
    if (rc == SQLITE_OK) {
        table->known = 1;
        memcpy(table->model_id, hex, sizeof hex);
        table->checked = table->state->generation + 1;
        rc = queue_content(table);
        if (rc == SQLITE_OK)
            rc = search_flush(table, 0);
        table->model_id[0] = 0;
        table->checked = 0;
    }
    if (rc == SQLITE_OK)
        rc = search_config_set(table, "model_id", hex);
    else if (table->store && !ends_transaction(rc)) /* what waits must not be tried again at the end of the transaction */
        clear_index(table);
    table->known = 0;
    bitlm_model_free(model);
    bls_end(&call);
    return rc;
}

static int complain(char **sentence, char *text)
{
    *sentence = text;
    return text ? SQLITE_OK : SQLITE_NOMEM;
}

/* The chunks of a row are in the store and say that they are its. */
static int check_row(search_table *table, int64_t rowid, uint64_t *n_chunks, char **sentence)
{
    bls_image *image;
    uint32_t at;
    bls_cell cell;
    search_doc doc;
    int64_t i;
    int rc = search_doc_get(table, rowid, &doc);

    if (rc == SQLITE_OK && doc.waiting)
        rc = complain(sentence, sqlite3_mprintf("row %lld has no codes", (sqlite3_int64)rowid));
    for (i = 0; i < doc.n && rc == SQLITE_OK && !*sentence; i++) {
        rc = bls_store_find(table->store, doc.first + i, &image, &at);
        if (rc != SQLITE_OK)
            break;
        cell.tag = BLS_CELL_NULL;
        if (image)
            bls_image_entry(&image->columns[0], bls_image_number(&image->columns[0], at), &cell);
        bls_image_release(image);
        if (cell.tag != BLS_CELL_INTEGER || cell.as.integer != rowid)
            rc = complain(sentence, sqlite3_mprintf("chunk %lld of row %lld is missing or another row's",
                                                    (sqlite3_int64)(doc.first + i), (sqlite3_int64)rowid));
    }
    *n_chunks += (uint64_t)doc.n;
    sqlite3_free(doc.places);
    return rc;
}

static int count_query(search_table *table, sqlite3_int64 *number, char *sql)
{
    sqlite3_stmt *select = NULL;
    int rc = sql ? sqlite3_prepare_v2(table->state->db, sql, -1, &select, NULL) : SQLITE_NOMEM, end;

    sqlite3_free(sql);
    *number = 0;
    if (rc == SQLITE_OK && sqlite3_step(select) == SQLITE_ROW)
        *number = sqlite3_column_int64(select, 0);
    end = sqlite3_finalize(select);
    return rc == SQLITE_OK ? end : rc;
}

int search_check(search_table *table, int contents, char **sentence)
{
    const char *own = table->content == CONTENT_OWN ? "id" : table->content_rowid;
    char *other = NULL;
    sqlite3_stmt *select;
    int64_t ids[128], low = INT64_MIN;
    sqlite3_int64 differ;
    uint64_t n_chunks = 0;
    int rc, i, n, end;

    *sentence = NULL;
    table->known = 0;
    rc = search_begin(table);
    if (rc == SQLITE_OK)
        rc = search_flush(table, 0);
    if (rc == SQLITE_OK)
        rc = bls_store_check(table->store, sentence);
    do {
        n = 0;
        if (rc != SQLITE_OK || *sentence || (rc = search_statement_of(table, DOCS_RANGE, &select)) != SQLITE_OK)
            break;
        sqlite3_bind_int64(select, 1, low);
        sqlite3_bind_int64(select, 2, INT64_MAX);
        sqlite3_bind_int64(select, 3, 128);
        while (sqlite3_step(select) == SQLITE_ROW)
            ids[n++] = sqlite3_column_int64(select, 0);
        end = sqlite3_reset(select);
        rc = end;
        for (i = 0; i < n && rc == SQLITE_OK && !*sentence; i++)
            rc = check_row(table, ids[i], &n_chunks, sentence);
        if (rc == SQLITE_OK && bls_poll(table->state))
            rc = SQLITE_INTERRUPT;
        low = n ? ids[n - 1] + 1 : low;
    } while (n == 128 && ids[n - 1] != INT64_MAX);
    bls_store_end(table->store);
    if (rc == SQLITE_OK && !*sentence && n_chunks != bls_store_rows(table->store))
        rc = complain(sentence, sqlite3_mprintf("the blocks have %lld chunks, the rows %lld",
                                                (sqlite3_int64)bls_store_rows(table->store), (sqlite3_int64)n_chunks));
    if (rc == SQLITE_OK && !*sentence && (table->content == CONTENT_OWN || (contents && table->content == CONTENT_EXTERNAL))) {
        other = table->content == CONTENT_OWN ? sqlite3_mprintf("%s_content", table->name)
                                              : sqlite3_mprintf("%s", table->content_table);
        rc = other ? count_query(table, &differ,
                                 sqlite3_mprintf("SELECT (SELECT count(*) FROM \"%w\".\"%w\" WHERE \"%w\" NOT IN (SELECT id FROM "
                                                 "\"%w\".\"%w_docs\")) + (SELECT count(*) FROM \"%w\".\"%w_docs\" WHERE id NOT "
                                                 "IN (SELECT \"%w\" FROM \"%w\".\"%w\"))",
                                                 table->schema, other, own, table->schema, table->name, table->schema,
                                                 table->name, own, table->schema, other))
                   : SQLITE_NOMEM;
        if (rc == SQLITE_OK && differ)
            rc = complain(sentence, sqlite3_mprintf("%lld rows are only in %s or only in the index", differ, other));
        sqlite3_free(other);
    }
    if ((rc & 0xff) == SQLITE_CORRUPT)
        rc = complain(sentence, table->base.zErrMsg ? sqlite3_mprintf("%s", table->base.zErrMsg)
                                                    : sqlite3_mprintf("a shadow table is missing or malformed"));
    return rc;
}

static int command(search_table *table, sqlite3_value **argv)
{
    const char *name = (const char *)sqlite3_value_text(argv[2 + table->n_columns + HIDDEN_COMMAND]);
    sqlite3_value *rank = argv[2 + table->n_columns + HIDDEN_RANK];
    char *sentence = NULL;
    int rc;

    if (!name)
        return SQLITE_NOMEM;
    if (sqlite3_stricmp(name, "rebuild") == 0)
        return rebuild(table);
    if (sqlite3_stricmp(name, "delete") == 0) {
        if (sqlite3_value_type(argv[1]) != SQLITE_INTEGER)
            return search_fail(table, SQLITE_ERROR, "'delete' needs the rowid");
        return remove_row(table, sqlite3_value_int64(argv[1]));
    }
    if (sqlite3_stricmp(name, "delete-all") == 0) {
        if (table->content == CONTENT_OWN)
            return search_fail(table, SQLITE_ERROR, "'delete-all' is for tables with content=; DELETE FROM %s empties this one",
                               table->name);
        return clear_index(table);
    }
    if (sqlite3_stricmp(name, "optimize") == 0) {
        rc = search_flush(table, 0);
        return rc == SQLITE_OK ? search_store_failed(table, bls_store_optimize(table->store)) : rc;
    }
    if (sqlite3_stricmp(name, "integrity-check") == 0) {
        rc = search_check(table, sqlite3_value_int(rank) == 1, &sentence);
        if (rc == SQLITE_OK && sentence)
            rc = search_fail(table, SQLITE_CORRUPT_VTAB, "%s", sentence);
        sqlite3_free(sentence);
        return rc;
    }
    return search_fail(table, SQLITE_ERROR, "there is no command '%.40s'; the commands are rebuild, optimize, "
                       "integrity-check, delete and delete-all", name);
}

static int is_rebuild(const search_table *table, int argc, sqlite3_value **argv)
{
    const char *name;

    if (argc == 1 || sqlite3_value_type(argv[0]) != SQLITE_NULL)
        return 0;
    name = (const char *)sqlite3_value_text(argv[2 + table->n_columns + HIDDEN_COMMAND]);
    return name && sqlite3_stricmp(name, "rebuild") == 0;
}

int search_update(sqlite3_vtab *base, int argc, sqlite3_value **argv, sqlite3_int64 *rowid)
{
    search_table *table = (search_table *)base;
    int rc = search_begin(table);

    if ((rc & 0xff) == SQLITE_CORRUPT && is_rebuild(table, argc, argv)) { /* which is the way out */
        sqlite3_free(base->zErrMsg);
        base->zErrMsg = NULL;
        rc = SQLITE_OK;
    }
    if (rc != SQLITE_OK)
        return rc;
    if (argc == 1)
        rc = remove_row(table, sqlite3_value_int64(argv[0]));
    else if (sqlite3_value_type(argv[0]) == SQLITE_NULL &&
             sqlite3_value_type(argv[2 + table->n_columns + HIDDEN_COMMAND]) != SQLITE_NULL)
        rc = command(table, argv);
    else
        rc = put_arguments(table, argv, rowid);
    if (table->store)
        bls_store_end(table->store);
    return table->base.zErrMsg ? rc : search_store_failed(table, rc);
}
