/* sqlite_compat.h - all that depends on SQLite's version.
 *
 * The extension is built against the host's header and may then be loaded by a
 * library of another version: what came after 3.31 is asked for twice, by the
 * header (#if SQLITE_VERSION_NUMBER) and at run time
 * (sqlite3_libversion_number()).  Every file of ext_sqlite includes this one in
 * place of sqlite3ext.h; sqlite_main.c defines BLS_MAIN first, because one file
 * holds the pointer to SQLite's routines.  With -DSQLITE_CORE the extension is
 * linked into an application and calls SQLite directly. */
#ifndef BLS_SQLITE_COMPAT_H
#define BLS_SQLITE_COMPAT_H

#include <stddef.h>

#include <sqlite3ext.h>
#ifdef BLS_MAIN
SQLITE_EXTENSION_INIT1
#else
SQLITE_EXTENSION_INIT3
#endif

/* SQLITE_INNOCUOUS, SQLITE_DIRECTONLY and SQLITE_VTAB_INNOCUOUS came with it. */
#define BLS_SQLITE_OLDEST 3031000
#if SQLITE_VERSION_NUMBER < 3031000
#error "bitlm needs the header of SQLite 3.31 or later"
#endif

/* 1 once sqlite3_interrupt was called, on 3.41 and later; else 0, and then the
 * statement that polls finds out (sqlite_state.c). */
static inline int bls_is_interrupted(sqlite3 *db)
{
#if SQLITE_VERSION_NUMBER >= 3041000
    if (sqlite3_libversion_number() >= 3041000)
        return sqlite3_is_interrupted(db);
#endif
    (void)db;
    return 0;
}

/* IN (…) as one argument of xFilter, from 3.38 on; before, SQLite calls xFilter for each value. */
static inline int bls_vtab_in(sqlite3_index_info *info, int constraint, int handle)
{
#if SQLITE_VERSION_NUMBER >= 3038000
    if (sqlite3_libversion_number() >= 3038000)
        return sqlite3_vtab_in(info, constraint, handle);
#endif
    (void)info;
    (void)constraint;
    (void)handle;
    return 0;
}
static inline int bls_vtab_in_first(sqlite3_value *list, sqlite3_value **value)
{
#if SQLITE_VERSION_NUMBER >= 3038000
    return sqlite3_vtab_in_first(list, value);
#else
    (void)list;
    (void)value;
    return SQLITE_MISUSE;
#endif
}
static inline int bls_vtab_in_next(sqlite3_value *list, sqlite3_value **value)
{
#if SQLITE_VERSION_NUMBER >= 3038000
    return sqlite3_vtab_in_next(list, value);
#else
    (void)list;
    (void)value;
    return SQLITE_MISUSE;
#endif
}
/* 1 if the right-hand side is known while planning: not a join with another table. */
static inline int bls_vtab_is_constant(sqlite3_index_info *info, int constraint)
{
#if SQLITE_VERSION_NUMBER >= 3038000
    sqlite3_value *value;
    if (sqlite3_libversion_number() >= 3038000)
        return sqlite3_vtab_rhs_value(info, constraint, &value) == SQLITE_OK;
#endif
    (void)info;
    (void)constraint;
    return 0;
}
#ifndef SQLITE_INDEX_CONSTRAINT_LIMIT
#define SQLITE_INDEX_CONSTRAINT_LIMIT 73
#define SQLITE_INDEX_CONSTRAINT_OFFSET 74
#endif

/* xIntegrity came with 3.44 as version 4 of sqlite3_module, one pointer behind what older headers end with.
 * Libraries look at it where iVersion is 4 or more; older ones only ask whether iVersion is at least what
 * they know.  So a module says 4 and has it whatever the header. */
typedef struct bls_module_4 {
    sqlite3_module base;
#if SQLITE_VERSION_NUMBER < 3044000
    int (*xIntegrity)(sqlite3_vtab *table, const char *schema, const char *name, int flags, char **message);
#define BLS_INTEGRITY .xIntegrity
#else
#define BLS_INTEGRITY .base.xIntegrity
#endif
} bls_module_4;
#if SQLITE_VERSION_NUMBER < 3044000
_Static_assert(offsetof(bls_module_4, xIntegrity) == offsetof(sqlite3_module, xShadowName) + sizeof(void (*)(void)),
               "xIntegrity follows xShadowName");
#endif

/* The flag of a function that sets a subtype.  Libraries from 3.45 on may insist on it
 * (those built with SQLITE_STRICT_SUBTYPE do), whatever header we were built with. */
#ifndef SQLITE_RESULT_SUBTYPE
#define SQLITE_RESULT_SUBTYPE 0x001000000
#endif
static inline int bls_result_subtype(void)
{
    return sqlite3_libversion_number() >= 3045000 ? SQLITE_RESULT_SUBTYPE : 0;
}

/* The subtype by which SQLite's json_array() and others take a text as JSON. */
#define BLS_SUBTYPE_JSON 74u

#endif
