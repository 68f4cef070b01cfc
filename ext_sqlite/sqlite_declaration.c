/* sqlite_declaration.c - reads names as SQL writes them, out of the arguments that SQLite hands
 * to a virtual table as plain text.
 *
 * Called by sqlite_index.c and sqlite_search.c. */
#include "sqlite_declaration.h"

#include <stddef.h>

#include "sqlite_compat.h"

int bls_is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f';
}

int bls_is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || (c & 0x80);
}

const char *bls_skip(const char *text)
{
    while (bls_is_space(*text))
        text++;
    return text;
}

char *bls_read_name(const char *p, const char **end)
{
    char close = *p == '"' || *p == '`' || *p == '\'' ? *p : *p == '[' ? ']' : 0;
    sqlite3_str *out;
    const char *start = p;
    char *name;

    if (!close) {
        while (bls_is_word(*p))
            p++;
        *end = p;
        return sqlite3_mprintf("%.*s", (int)(p - start), start);
    }
    out = sqlite3_str_new(NULL);
    for (p++; *p; p++) {
        if (*p == close) {
            if (p[1] != close || close == ']')
                break;
            p++;
        }
        sqlite3_str_appendchar(out, 1, *p);
    }
    *end = *p ? p + 1 : p;
    if (sqlite3_str_errcode(out) != SQLITE_OK) {
        sqlite3_free(sqlite3_str_finish(out));
        return NULL;
    }
    name = sqlite3_str_finish(out);
    return name ? name : sqlite3_mprintf("");
}
