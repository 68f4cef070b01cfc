/* sqlite_declaration.h - reading the arguments of CREATE VIRTUAL TABLE: names, quoted or bare.
 *
 * Called by sqlite_index.c and sqlite_search.c. */
#ifndef BLS_SQLITE_DECLARATION_H
#define BLS_SQLITE_DECLARATION_H

int bls_is_space(char c);
int bls_is_word(char c);
/* Behind white space. */
const char *bls_skip(const char *text);
/* A name, bare or in "…", `…`, […] or '…'; NULL without memory.  *end: behind it.  The caller
 * frees with sqlite3_free. */
char *bls_read_name(const char *text, const char **end);

#endif
