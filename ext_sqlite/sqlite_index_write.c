/* sqlite_index_write.c - xUpdate of bitlm_index: INSERT, UPDATE, DELETE, REPLACE, commands.
 *
 * A row is checked whole before anything changes, so that a refused row leaves nothing behind even
 * where SQLite opened no statement journal.  Codes and metadata go to the
 * store's drafts, keys, auxiliary columns and vectors to NAME_rows at once.
 *
 * Conflicts: a rowid or key that is there is SQLITE_CONSTRAINT, from which SQLite makes IGNORE, FAIL,
 * ABORT or ROLLBACK; REPLACE removes the other row here.
 *
 * Called by SQLite through the module in sqlite_index.c. */
#include "sqlite_index.h"
#include "sqlite_table.h"

#include <string.h>

#define MOST_TEXT 1048576 /* bytes of all metadata of a row */

/* What a row becomes. */
typedef struct new_row {
    int64_t old_rowid, rowid;
    int is_update, has_rowid;
    const uint8_t *code;   /* NULL: as it was */
    uint8_t *made;         /* the code made of the vector */
    int change_cells, change_rows;
    bls_cell cells[BLS_IMAGE_MOST_COLUMNS];
    char *texts[BLS_IMAGE_MOST_COLUMNS];
    bls_image *image;      /* of the old row */
    uint32_t image_row;
    sqlite3_value *values[2 + INDEX_MOST_AUX + 1]; /* of NAME_rows from column 1 on; NULL: SQL's NULL */
    uint8_t owned[2 + INDEX_MOST_AUX + 1];
} new_row;

static void clear(new_row *row)
{
    int i;

    for (i = 0; i < BLS_IMAGE_MOST_COLUMNS; i++)
        sqlite3_free(row->texts[i]);
    for (i = 0; i < 2 + INDEX_MOST_AUX + 1; i++)
        if (row->owned[i])
            sqlite3_value_free(row->values[i]);
    sqlite3_free(row->made);
    bls_image_release(row->image);
}

static int integer_of(index_table *table, sqlite3_value *value, int64_t *number)
{
    sqlite3_int64 n;

    if (!bls_is_integer(value, &n))
        return index_fail(table, SQLITE_MISMATCH, "a rowid is %s, but must be an integer", bls_type_name(value));
    *number = n;
    return SQLITE_OK;
}

static int read_rowid(index_table *table, sqlite3_value **argv, new_row *row)
{
    sqlite3_value *alias = table->rowid >= 0 ? argv[2 + table->rowid] : NULL;
    int64_t number = 0;
    int rc;

    if (row->is_update || sqlite3_value_type(argv[1]) != SQLITE_NULL) {
        rc = integer_of(table, argv[1], &row->rowid);
        if (rc != SQLITE_OK)
            return rc;
        row->has_rowid = 1;
    }
    if (alias && sqlite3_value_type(alias) != SQLITE_NULL) {
        rc = integer_of(table, alias, &number);
        if (rc != SQLITE_OK)
            return rc;
        if (!row->is_update || number != row->old_rowid)
            row->rowid = number;
        row->has_rowid = 1;
    } else if (alias && row->is_update) {
        return index_fail(table, SQLITE_CONSTRAINT, "%s must not be NULL", table->columns[table->rowid].name);
    }
    return SQLITE_OK;
}

/* Fills row from the arguments; for an UPDATE with what does not change. */
static int read_columns(index_table *table, sqlite3_value **argv, new_row *row)
{
    sqlite3_value *value;
    const uint8_t *vector = NULL;
    sqlite3_int64 text = 0;
    int i, rc = SQLITE_OK, kept_cells = 0, kept_rows = 0;
    const index_column *column;
    sqlite3_stmt *select;

    for (i = 0; i < table->n_columns && rc == SQLITE_OK; i++) {
        column = &table->columns[i];
        value = argv[2 + i];
        if (row->is_update && sqlite3_value_nochange(value)) {
            kept_cells |= column->role == ROLE_META;
            kept_rows |= column->role == ROLE_AUX || column->role == ROLE_VECTOR;
            continue;
        }
        switch (column->role) {
        case ROLE_CODE:
            if (sqlite3_value_type(value) != SQLITE_NULL)
                rc = index_code(table, value, "code", &row->code);
            else if (table->vector < 0 || row->is_update)
                rc = index_fail(table, SQLITE_CONSTRAINT, "code must not be NULL");
            break;
        case ROLE_VECTOR:
            if (sqlite3_value_type(value) != SQLITE_NULL)
                rc = index_vector(table, value, column->name, &vector);
            row->values[column->number] = value;
            row->change_rows = 1;
            break;
        case ROLE_KEY:
            if (sqlite3_value_type(value) == SQLITE_NULL)
                rc = index_fail(table, SQLITE_CONSTRAINT, "%s must not be NULL", column->name);
            row->values[1] = value;
            row->change_rows = 1;
            break;
        case ROLE_AUX:
            row->values[column->number] = value;
            row->change_rows = 1;
            break;
        case ROLE_META:
            rc = index_cell(column->affinity, 1, value, &row->cells[column->number], &row->texts[column->number]);
            if (row->cells[column->number].tag >= BLS_CELL_TEXT)
                text += row->cells[column->number].length;
            row->change_cells = 1;
            break;
        default: break;
        }
    }
    if (rc == SQLITE_OK && text > MOST_TEXT)
        rc = index_fail(table, SQLITE_TOOBIG,
                        "the metadata of a row have %lld bytes, but may have %d; +name declares an auxiliary "
                        "column, which has no limit",
                        text, MOST_TEXT);
    if (rc == SQLITE_OK && !row->code && vector) {
        row->made = sqlite3_malloc64(table->bits / 8);
        rc = row->made ? index_binarize(table, vector, row->made) : SQLITE_NOMEM;
        row->code = row->made;
    }
    if (rc == SQLITE_OK && !row->code && !row->is_update)
        rc = index_fail(table, SQLITE_CONSTRAINT, "code and %s must not both be NULL",
                        table->columns[table->vector].name);
    /* Cells that stay, when another changes or the row moves. */
    if (rc == SQLITE_OK && row->is_update && ((kept_cells && row->change_cells) || row->rowid != row->old_rowid)) {
        rc = bls_store_find(table->store, row->old_rowid, &row->image, &row->image_row);
        if (rc == SQLITE_OK && !row->image)
            return SQLITE_OK; /* gone meanwhile; the caller sees it too */
        for (i = 0; i < table->n_columns && rc == SQLITE_OK; i++) {
            column = &table->columns[i];
            if (column->role == ROLE_META && sqlite3_value_nochange(argv[2 + i])) {
                const bls_image_column *meta = &row->image->columns[column->number];
                bls_image_entry(meta, bls_image_number(meta, row->image_row), &row->cells[column->number]);
            } else if (column->role == ROLE_CODE && !row->code) {
                row->code = row->image->codes + (size_t)row->image_row * row->image->code_bytes;
            }
        }
        row->change_cells = 1;
    }
    if (rc == SQLITE_OK && row->is_update && table->has_rows && row->rowid != row->old_rowid)
        row->change_rows = 1;
    if (rc == SQLITE_OK && kept_rows && row->change_rows) {
        rc = index_statement(table, ROWS_SELECT, &select);
        if (rc != SQLITE_OK)
            return rc;
        sqlite3_bind_int64(select, 1, row->old_rowid);
        if (sqlite3_step(select) == SQLITE_ROW) {
            for (i = 0; i < table->n_columns && rc == SQLITE_OK; i++) {
                column = &table->columns[i];
                if ((column->role == ROLE_AUX || column->role == ROLE_VECTOR) && sqlite3_value_nochange(argv[2 + i])) {
                    row->values[column->number] = sqlite3_value_dup(sqlite3_column_value(select, column->number));
                    if (!row->values[column->number])
                        rc = SQLITE_NOMEM;
                    else
                        row->owned[column->number] = 1;
                }
            }
        }
        i = sqlite3_reset(select);
        if (rc == SQLITE_OK)
            rc = i;
    }
    return rc;
}

static int write_rows(index_table *table, const new_row *row)
{
    sqlite3_stmt *insert;
    int i, rc = index_statement(table, ROWS_INSERT, &insert);

    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(insert, 1, row->rowid);
    for (i = 1; i < 2 + table->n_aux + (table->vector >= 0) && rc == SQLITE_OK; i++)
        rc = row->values[i] ? sqlite3_bind_value(insert, i + 1, row->values[i]) : sqlite3_bind_null(insert, i + 1);
    if (rc == SQLITE_OK)
        sqlite3_step(insert);
    sqlite3_clear_bindings(insert);
    i = sqlite3_reset(insert);
    return rc == SQLITE_OK ? i : rc;
}

static int delete_rows(index_table *table, int64_t rowid)
{
    sqlite3_stmt *delete;
    int rc = index_statement(table, ROWS_DELETE, &delete);

    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(delete, 1, rowid);
    sqlite3_step(delete);
    return sqlite3_reset(delete);
}

static int remove_row(index_table *table, int64_t rowid)
{
    int rc = bls_store_remove(table->store, rowid);

    if (rc == SQLITE_NOTFOUND) /* deleted meanwhile by the same statement's REPLACE */
        rc = SQLITE_OK;
    if (rc == SQLITE_OK && table->has_rows)
        rc = delete_rows(table, rowid);
    return rc;
}

/* Another row stands where this one goes: removes it for REPLACE, else refuses. */
static int resolve(index_table *table, int64_t rowid, int column)
{
    if (sqlite3_vtab_on_conflict(table->state->db) == SQLITE_REPLACE)
        return remove_row(table, rowid);
    sqlite3_free(table->base.zErrMsg);
    table->base.zErrMsg = sqlite3_mprintf("UNIQUE constraint failed: %s.%s", table->name,
                                          column >= 0 ? table->columns[column].name : "rowid");
    return table->base.zErrMsg ? SQLITE_CONSTRAINT : SQLITE_NOMEM;
}

static int put(index_table *table, sqlite3_value **argv, new_row *row)
{
    int64_t other;
    int rc, found;

    rc = read_rowid(table, argv, row);
    if (rc == SQLITE_OK)
        rc = read_columns(table, argv, row);
    if (rc == SQLITE_OK && row->is_update) {
        rc = bls_store_has(table->store, row->old_rowid, &found);
        if (rc != SQLITE_OK || !found)
            return rc;
    }
    if (rc == SQLITE_OK && row->has_rowid && (!row->is_update || row->rowid != row->old_rowid)) {
        rc = bls_store_has(table->store, row->rowid, &found);
        if (rc == SQLITE_OK && found)
            rc = resolve(table, row->rowid, table->rowid);
    }
    if (rc == SQLITE_OK && table->key >= 0 && row->values[1]) {
        rc = index_key_rowid(table, row->values[1], &other, &found);
        if (rc == SQLITE_OK && found && !(row->is_update && other == row->old_rowid))
            rc = resolve(table, other, table->key);
    }
    if (rc == SQLITE_OK && !row->has_rowid)
        rc = bls_store_next_rowid(table->store, &row->rowid);
    if (rc != SQLITE_OK)
        return rc;
    if (row->is_update && row->rowid == row->old_rowid) {
        if (row->code || row->change_cells)
            rc = bls_store_replace(table->store, row->rowid, row->code, row->change_cells ? row->cells : NULL);
    } else {
        if (row->is_update)
            rc = remove_row(table, row->old_rowid);
        if (rc == SQLITE_OK)
            rc = bls_store_insert(table->store, row->rowid, row->code, row->cells);
        row->change_rows |= !row->is_update;
    }
    if (rc == SQLITE_OK && table->has_rows && row->change_rows)
        rc = write_rows(table, row);
    return rc;
}

int index_check(index_table *table, char **sentence)
{
    sqlite3_stmt *select = NULL;
    uint64_t n = 0;
    int rc, found, end;
    char *sql;

    rc = bls_store_check(table->store, sentence);
    if (rc != SQLITE_OK || *sentence || !table->has_rows)
        return rc;
    sql = sqlite3_mprintf("SELECT id FROM \"%w\".\"%w_rows\"", table->schema, table->name);
    rc = sql ? sqlite3_prepare_v2(table->state->db, sql, -1, &select, NULL) : SQLITE_NOMEM;
    sqlite3_free(sql);
    while (rc == SQLITE_OK && !*sentence && sqlite3_step(select) == SQLITE_ROW) {
        n++;
        rc = bls_store_has(table->store, sqlite3_column_int64(select, 0), &found);
        if (rc == SQLITE_OK && !found) {
            *sentence = sqlite3_mprintf("%s_rows has row %lld, which no block has", table->name,
                                        sqlite3_column_int64(select, 0));
            rc = *sentence ? SQLITE_OK : SQLITE_NOMEM;
        }
    }
    end = sqlite3_finalize(select);
    if (rc == SQLITE_OK && !*sentence)
        rc = end;
    if (rc == SQLITE_OK && !*sentence && n != bls_store_rows(table->store)) {
        *sentence = sqlite3_mprintf("the blocks have %lld rows, %s_rows has %lld",
                                    (sqlite3_int64)bls_store_rows(table->store), table->name, (sqlite3_int64)n);
        rc = *sentence ? SQLITE_OK : SQLITE_NOMEM;
    }
    if ((rc & 0xff) == SQLITE_CORRUPT) {
        *sentence = sqlite3_mprintf("%s", "a shadow table is missing or malformed");
        rc = *sentence ? SQLITE_OK : SQLITE_NOMEM;
    }
    return rc;
}

static int command(index_table *table, sqlite3_value *value)
{
    const char *name = (const char *)sqlite3_value_text(value);
    char *sentence = NULL;
    int rc;

    if (!name)
        return SQLITE_NOMEM;
    if (sqlite3_stricmp(name, "integrity-check") == 0) {
        rc = index_check(table, &sentence);
        if (rc == SQLITE_OK && sentence)
            rc = index_fail(table, SQLITE_CORRUPT_VTAB, "%s", sentence);
        sqlite3_free(sentence);
        return rc;
    }
    if (sqlite3_stricmp(name, "optimize") == 0)
        return bls_store_optimize(table->store);
    return index_fail(table, SQLITE_ERROR, "there is no command '%.40s'; the commands are integrity-check and optimize",
                      name);
}

int index_update(sqlite3_vtab *base, int argc, sqlite3_value **argv, sqlite3_int64 *rowid)
{
    index_table *table = (index_table *)base;
    new_row row;
    int rc = bls_store_begin(table->store);

    if (rc != SQLITE_OK)
        return index_store_failed(table, rc);
    if (argc == 1) {
        rc = remove_row(table, sqlite3_value_int64(argv[0]));
    } else if (sqlite3_value_type(argv[0]) == SQLITE_NULL &&
               sqlite3_value_type(argv[2 + table->command]) != SQLITE_NULL) {
        rc = command(table, argv[2 + table->command]);
    } else {
        memset(&row, 0, sizeof row);
        row.is_update = sqlite3_value_type(argv[0]) != SQLITE_NULL;
        if (row.is_update)
            row.old_rowid = row.rowid = sqlite3_value_int64(argv[0]);
        rc = put(table, argv, &row);
        if (rc == SQLITE_OK)
            *rowid = row.rowid;
        clear(&row);
    }
    bls_store_end(table->store);
    return table->base.zErrMsg ? rc : index_store_failed(table, rc);
}
