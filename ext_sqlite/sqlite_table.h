/* sqlite_table.h - what bitlm_index and bitlm_search both ask of SQLite: sentences of errors, statements over
 * shadow tables.
 *
 * Called by code_store.c, sqlite_index*.c and sqlite_search*.c. */
#ifndef BLS_SQLITE_TABLE_H
#define BLS_SQLITE_TABLE_H

#include <stdarg.h>

#include "sqlite_compat.h"

/* Sets zErrMsg to "MODULE NAME: sentence"; returns rc, or SQLITE_NOMEM. */
int bls_table_fail(sqlite3_vtab *table, const char *module, const char *name, int rc, const char *format, va_list arguments);
/* Sets *message of xCreate or xConnect to "MODULE: sentence"; SQLITE_ERROR, or SQLITE_NOMEM. */
int bls_refuse(char **message, const char *module, const char *format, va_list arguments);
/* Runs statements; message as in sqlite3_exec, or NULL. */
int bls_execute(sqlite3 *db, char **message, const char *format, ...);
/* Prepares a statement that is kept; takes sql over, NULL is SQLITE_NOMEM. */
int bls_prepare(sqlite3 *db, char *sql, sqlite3_stmt **statement);
/* Sets all of them to NULL. */
void bls_finalize(sqlite3_stmt **statements, int n);
/* 1 if it is an integer, as 2.0 and '2' are where a column has INTEGER affinity. */
int bls_is_integer(sqlite3_value *value, sqlite3_int64 *number);
/* "an INTEGER", "NULL" ... */
const char *bls_type_name(sqlite3_value *value);

#endif
