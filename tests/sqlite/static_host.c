/* static_host.c - an application that has the extension linked in (-DSQLITE_CORE) instead of loading it.
 *
 * It registers the entry point for every connection to come and runs each argument as SQL on a connection that
 * was never allowed to load anything, printing the values of the rows.  Exit status 0: all of it ran.
 * --noload as the first argument takes the other entry point.  tests/sqlite/test_static.py runs it. */
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

int sqlite3_bitlm_init(sqlite3 *db, char **message, const struct sqlite3_api_routines *api);
int sqlite3_bitlm_noload_init(sqlite3 *db, char **message, const struct sqlite3_api_routines *api);

static int print_row(void *context, int n, char **values, char **names)
{
    int i;

    (void)context;
    (void)names;
    for (i = 0; i < n; i++)
        printf("%s%s", i ? "|" : "", values[i] ? values[i] : "NULL");
    putchar('\n');
    return 0;
}

int main(int argc, char **argv)
{
    int at = argc > 1 && strcmp(argv[1], "--noload") == 0 ? 2 : 1;
    char *message = NULL;
    sqlite3 *db = NULL;
    int rc = sqlite3_auto_extension((void (*)(void))(at == 2 ? sqlite3_bitlm_noload_init : sqlite3_bitlm_init));

    if (rc == SQLITE_OK)
        rc = sqlite3_open(":memory:", &db);
    for (; at < argc && rc == SQLITE_OK; at++)
        rc = sqlite3_exec(db, argv[at], print_row, NULL, &message);
    if (rc != SQLITE_OK)
        fprintf(stderr, "%s\n", message ? message : sqlite3_errmsg(db));
    sqlite3_free(message);
    if (sqlite3_close(db) != SQLITE_OK) {
        fprintf(stderr, "the connection is still in use\n");
        return 1;
    }
    return rc == SQLITE_OK ? 0 : 1;
}
