/* sqlite_table.c - sentences of errors and statements over shadow tables.
 *
 * Called by code_store.c, sqlite_index*.c and sqlite_search*.c. */
#include "sqlite_table.h"

static char *sentence(const char *before, const char *format, va_list arguments)
{
    char *text = sqlite3_vmprintf(format, arguments), *whole = NULL;

    if (before && text)
        whole = sqlite3_mprintf("%s: %s", before, text);
    sqlite3_free(text);
    return whole;
}

int bls_table_fail(sqlite3_vtab *table, const char *module, const char *name, int rc, const char *format, va_list arguments)
{
    char *before = sqlite3_mprintf("%s %s", module, name);

    sqlite3_free(table->zErrMsg);
    table->zErrMsg = sentence(before, format, arguments);
    sqlite3_free(before);
    return table->zErrMsg ? rc : SQLITE_NOMEM;
}

int bls_refuse(char **message, const char *module, const char *format, va_list arguments)
{
    sqlite3_free(*message);
    *message = sentence(module, format, arguments);
    return *message ? SQLITE_ERROR : SQLITE_NOMEM;
}

int bls_execute(sqlite3 *db, char **message, const char *format, ...)
{
    va_list arguments;
    char *sql;
    int rc;

    va_start(arguments, format);
    sql = sqlite3_vmprintf(format, arguments);
    va_end(arguments);
    if (!sql)
        return SQLITE_NOMEM;
    rc = sqlite3_exec(db, sql, NULL, NULL, message);
    sqlite3_free(sql);
    return rc;
}

int bls_prepare(sqlite3 *db, char *sql, sqlite3_stmt **statement)
{
    int rc = sql ? sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, statement, NULL) : SQLITE_NOMEM;

    sqlite3_free(sql);
    return rc;
}

void bls_finalize(sqlite3_stmt **statements, int n)
{
    int i;

    for (i = 0; i < n; i++) {
        sqlite3_finalize(statements[i]);
        statements[i] = NULL;
    }
}

int bls_is_integer(sqlite3_value *value, sqlite3_int64 *number)
{
    int type = sqlite3_value_numeric_type(value);

    *number = sqlite3_value_int64(value);
    return type == SQLITE_INTEGER || (type == SQLITE_FLOAT && sqlite3_value_double(value) == (double)*number);
}

const char *bls_type_name(sqlite3_value *value)
{
    switch (sqlite3_value_type(value)) {
    case SQLITE_INTEGER: return "an INTEGER";
    case SQLITE_FLOAT: return "a REAL";
    case SQLITE_TEXT: return "a TEXT";
    case SQLITE_BLOB: return "a BLOB";
    default: return "NULL";
    }
}
