/* fault_index.c - bitlm_index or bitlm_search with every allocation failing in turn, and every read, write, sync and
 * truncation of the database's files.
 *
 *     fault_index EXTENSION DATABASE oom|io [LIMIT [FIRST [SCENE]]]
 *
 * Each round takes a small database that was made without faults, arms fault number n (failing once, in a second
 * sweep from then on), runs the scene and disarms.  Whatever a statement answered, afterwards the
 * index must hold exactly what a plain table holds that every transaction changed with it, and its
 * integrity check must say ok, and no memory may stay behind.  The sweep ends with the first n that is never reached, or at LIMIT faults,
 * taken evenly.  If the process dies, it says of which fault.
 *
 *     index    all kinds of statements on a bitlm_index of three blocks
 *     search   the same for bitlm_search, own and external content
 *     rename, rename_search   either inside a transaction; apart, because SQLite itself allocates thousands of times for it
 *     reread   changes of a bitlm_index whose blocks do not stay in memory
 *     pieces   a bitlm_index large enough for tables of pieces: they are made, found by another table object of the process,
 *              kept over changes, dropped; answers are compared with a plain scan by the connection that had the fault
 *
 * BITLM_FAULT_PLACES=1 prints the number of places before each statement.
 *
 * Run by tests/sqlite/test_index_faults.py and test_search_faults.py. */
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long countdown; /* faults happen when it reaches 0; below 0: reached */
static int armed, persistent;
static long hits;

static int fault(void)
{
    if (!armed)
        return 0;
    countdown--;
    if (countdown == 0 || (persistent && countdown < 0)) {
        hits++;
        return 1;
    }
    return 0;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static sqlite3_mem_methods system_memory;
static int memory_faults;

static void *bad_malloc(int n)
{
    return memory_faults && fault() ? NULL : system_memory.xMalloc(n);
}

static void *bad_realloc(void *p, int n)
{
    return memory_faults && fault() ? NULL : system_memory.xRealloc(p, n);
}

/* ---- files ------------------------------------------------------------------------------------ */

typedef struct bad_file {
    sqlite3_file base;
    sqlite3_file *real;
} bad_file;

static sqlite3_vfs *real_vfs;
#define REAL(f) (((bad_file *)(f))->real)

static int f_close(sqlite3_file *f) { return REAL(f)->pMethods ? REAL(f)->pMethods->xClose(REAL(f)) : SQLITE_OK; }
static int f_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at)
{
    return fault() ? SQLITE_IOERR_READ : REAL(f)->pMethods->xRead(REAL(f), p, n, at);
}
static int f_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
    if (fault()) { /* half of it, as a full disk does */
        REAL(f)->pMethods->xWrite(REAL(f), p, n / 2, at);
        return hits % 2 ? SQLITE_FULL : SQLITE_IOERR_WRITE;
    }
    return REAL(f)->pMethods->xWrite(REAL(f), p, n, at);
}
static int f_truncate(sqlite3_file *f, sqlite3_int64 n)
{
    return fault() ? SQLITE_IOERR_TRUNCATE : REAL(f)->pMethods->xTruncate(REAL(f), n);
}
static int f_sync(sqlite3_file *f, int flags)
{
    return fault() ? SQLITE_IOERR_FSYNC : REAL(f)->pMethods->xSync(REAL(f), flags);
}
static int f_size(sqlite3_file *f, sqlite3_int64 *n)
{
    return fault() ? SQLITE_IOERR_FSTAT : REAL(f)->pMethods->xFileSize(REAL(f), n);
}
static int f_lock(sqlite3_file *f, int l) { return REAL(f)->pMethods->xLock(REAL(f), l); }
static int f_unlock(sqlite3_file *f, int l) { return REAL(f)->pMethods->xUnlock(REAL(f), l); }
static int f_reserved(sqlite3_file *f, int *r) { return REAL(f)->pMethods->xCheckReservedLock(REAL(f), r); }
static int f_control(sqlite3_file *f, int op, void *p) { return REAL(f)->pMethods->xFileControl(REAL(f), op, p); }
static int f_sector(sqlite3_file *f) { return REAL(f)->pMethods->xSectorSize(REAL(f)); }
static int f_device(sqlite3_file *f) { return REAL(f)->pMethods->xDeviceCharacteristics(REAL(f)); }

static const sqlite3_io_methods bad_methods = {
    1, f_close, f_read, f_write, f_truncate, f_sync, f_size, f_lock, f_unlock, f_reserved, f_control, f_sector, f_device,
    NULL, NULL, NULL, NULL, NULL, NULL};

static int v_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
    bad_file *file = (bad_file *)f;
    int rc;

    (void)vfs;
    file->real = (sqlite3_file *)(file + 1);
    file->base.pMethods = NULL;
    if (fault())
        return SQLITE_CANTOPEN;
    rc = real_vfs->xOpen(real_vfs, name, file->real, flags, out);
    if (rc == SQLITE_OK)
        file->base.pMethods = &bad_methods;
    return rc;
}

static int v_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
    (void)vfs;
    return fault() ? SQLITE_IOERR_DELETE : real_vfs->xDelete(real_vfs, name, sync);
}

/* ---- the scenario ------------------------------------------------------------------------------- */

#define FAR_AWAY 1000000000 /* the number of no fault */

static const char *extension, *path;
static int show_places;

static int run(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    int rc;

    if (show_places && armed)
        fprintf(stderr, "%8ld  %s\n", FAR_AWAY - countdown, sql);
    rc = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
    if (rc != SQLITE_OK)
        return rc;
    while ((rc = sqlite3_step(statement)) == SQLITE_ROW)
        continue;
    return sqlite3_finalize(statement);
}

static void must(sqlite3 *db, const char *sql)
{
    int rc = run(db, sql);

    if (rc != SQLITE_OK) {
        fprintf(stderr, "%s: %s\n", sql, sqlite3_errmsg(db));
        exit(1);
    }
}

/* random_code(i): eight bytes, always the same (splitmix64). */
static void random_code(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    sqlite3_uint64 z = (sqlite3_uint64)sqlite3_value_int64(argv[0]) * 0x9e3779b97f4a7c15u;

    (void)argc;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    sqlite3_result_blob(context, &z, sizeof z, SQLITE_TRANSIENT);
}

static sqlite3 *open_file(const char *name)
{
    sqlite3 *db = NULL;
    char *message = NULL;

    if (sqlite3_open(name, &db) != SQLITE_OK) {
        fprintf(stderr, "cannot open %s\n", name);
        exit(1);
    }
    sqlite3_create_function(db, "random_code", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL, random_code, NULL, NULL);
    sqlite3_enable_load_extension(db, 1);
    if (sqlite3_load_extension(db, extension, "sqlite3_bitlm_init", &message) != SQLITE_OK) {
        fprintf(stderr, "%s\n", message);
        exit(1);
    }
    return db;
}

static sqlite3 *open_db(void) { return open_file(path); }

/* What is run: statements that make the database; transactions, one after the other, the next beginning even where
 * one failed; queries; and what must hold afterwards: `answers`, asked by the same connection, and `checks` give 'ok' or nothing,
 * `differences` 0.  Without a fault the connection then has at least `memory` bytes. */
typedef struct scene {
    const char *name;
    const char *const *make;
    const char *const (*transactions)[7];
    const char *const *queries, *const *answers, *const *checks;
    const char *differences;
    sqlite3_int64 memory;
} scene;

static const char *const none[] = {NULL};

/* Codes so long that a block has 64 rows. */
static const char *const index_make[] = {
    "PRAGMA synchronous=off",
    "CREATE VIRTUAL TABLE v USING bitlm_index(bits=6144, n INTEGER, s TEXT, id TEXT PRIMARY KEY, +a)",
    "CREATE TABLE o(r INTEGER PRIMARY KEY, c BLOB, n INTEGER, s TEXT, id TEXT UNIQUE, a)",
    "CREATE TABLE more(r INTEGER PRIMARY KEY, c BLOB, n INTEGER, s TEXT, id TEXT, a)",
    "WITH RECURSIVE g(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < 150) INSERT INTO o "
    "SELECT i, CAST(substr(printf('%.768d', i * 7919), 1, 768) AS BLOB), i % 97, 's' || (i % 4), 'key ' || i, i FROM g",
    "INSERT INTO more SELECT r + 2000, c, n, s, 'more ' || r, a FROM o WHERE r <= 20",
    "BEGIN",
    "INSERT INTO v(rowid, code, n, s, id, a) SELECT * FROM o",
    "COMMIT",
    NULL,
};
static const char *const index_transactions[][7] = {
    {"INSERT INTO v(rowid, code, n, s, id, a) SELECT r, c, n, s, id, a FROM more",
     "INSERT INTO o SELECT r, c, n, s, id, a FROM more"},
    {"DELETE FROM v WHERE n % 5 = 0", "DELETE FROM o WHERE n % 5 = 0"},
    {"SAVEPOINT a", "UPDATE v SET n = n + 1 WHERE n < 20", "ROLLBACK TO a", "UPDATE v SET s = 'new', a = 'also' WHERE n < 20",
     "UPDATE o SET s = 'new', a = 'also' WHERE n < 20"},
    {"INSERT OR REPLACE INTO v(rowid, code, n, s, id, a) VALUES (3, zeroblob(768), 7, 'z', 'key 9', NULL)",
     "INSERT OR REPLACE INTO o VALUES (3, zeroblob(768), 7, 'z', 'key 9', NULL)"},
    {"UPDATE v SET rowid = 5000 WHERE rowid = 12", "UPDATE o SET r = 5000 WHERE r = 12"},
    {"INSERT INTO v(v) VALUES ('optimize')"},
    {NULL},
};
static const char *const index_queries[] = {
    "SELECT rowid, distance, s, a FROM v WHERE code MATCH zeroblob(768) AND k = 20 AND n IN (1, 2, 3, 14) AND s = 'new'",
    "SELECT count(*) FROM v WHERE code MATCH zeroblob(768)",
    "SELECT id FROM v WHERE id IN ('key 3', 'key 4')",
    "SELECT * FROM bitlm_knn('v', zeroblob(1536), 4)",
    "SELECT count(*) FROM bitlm_duplicates('v', 3)",
    "SELECT bitlm_index_check('v')",
    NULL,
};
static const char *const index_checks[] = {"SELECT bitlm_index_check('v')", NULL};

static const char *const search_make[] = {
    "PRAGMA synchronous=off",
    "CREATE VIRTUAL TABLE v USING bitlm_search(t, a UNINDEXED, chunk_size=32)",
    "CREATE TABLE o(r INTEGER PRIMARY KEY, t, a)",
    "CREATE VIRTUAL TABLE x USING bitlm_search(t, content='o', content_rowid='r')",
    "CREATE TRIGGER o1 AFTER INSERT ON o BEGIN INSERT INTO x(rowid, t) VALUES (new.r, new.t); END",
    "CREATE TRIGGER o2 AFTER DELETE ON o BEGIN DELETE FROM x WHERE rowid = old.r; END",
    "CREATE TRIGGER o3 AFTER UPDATE OF t ON o BEGIN UPDATE x SET t = new.t WHERE rowid = old.r; END",
    "BEGIN",
    "INSERT INTO o VALUES (1, 'a letter', 1), (2, 'a flat tyre', 2), (3, NULL, 3), (4, 'carrots and salt, the sea and a long journey "
    "by train to the mountains where snow falls all year and nobody sells umbrellas or soup in the only shop', 4)",
    "INSERT INTO v(rowid, t, a) SELECT * FROM o",
    "COMMIT",
    NULL,
};
static const char *const search_transactions[][7] = {
    {"INSERT INTO v(rowid, t, a) VALUES (5, 'rain', 5)", "INSERT INTO o VALUES (5, 'rain', 5)", "SELECT * FROM v('rain')",
     "DELETE FROM v WHERE rowid = 1", "DELETE FROM o WHERE r = 1"},
    {"SAVEPOINT a", "INSERT INTO v(rowid, t, a) VALUES (6, 'dog', 6)", "SELECT * FROM v('dog')", "ROLLBACK TO a",
     "UPDATE v SET t = 'cat' WHERE rowid = 2", "UPDATE o SET t = 'cat' WHERE r = 2"},
    {"INSERT OR REPLACE INTO v(rowid, t, a) VALUES (4, 'short', NULL)", "INSERT OR REPLACE INTO o VALUES (4, 'short', NULL)",
     "UPDATE v SET rowid = 50 WHERE rowid = 3", "UPDATE o SET r = 50 WHERE r = 3", "INSERT INTO x(x) VALUES ('rebuild')"},
    {"INSERT INTO v(v) VALUES ('rebuild')"},
    {"INSERT INTO v(v) VALUES ('optimize')"},
    {NULL},
};
static const char *const search_queries[] = {
    "SELECT rowid, rank, t, a, chunk, chunk_start FROM v('animals', 2)",
    "SELECT rowid, chunk FROM x('animals') WHERE rowid IN (1, 2, 50) ORDER BY rank LIMIT 2",
    "SELECT bitlm_search_info('v')",
    "INSERT INTO v(v) VALUES ('integrity-check')",
    NULL,
};
static const char *const search_checks[] = {
    "INSERT INTO v(v) VALUES ('integrity-check')", "INSERT INTO x(x, rank) VALUES ('integrity-check', 1)",
    "SELECT CASE WHEN (SELECT count(*) FROM v('a')) = (SELECT count(t) FROM o) THEN 'ok' ELSE 'a row is not found' END",
    "SELECT CASE WHEN (SELECT count(*) FROM x('a')) = (SELECT count(t) FROM o) THEN 'ok' ELSE 'a row is not found' END", NULL,
};

/* Each statement reads blocks through a BLOB handle while a transaction holds changes. */
static const char *const reread_make[] = {
    "PRAGMA synchronous=off",
    "CREATE VIRTUAL TABLE v USING bitlm_index(bits=6144, n INTEGER, s TEXT, id TEXT PRIMARY KEY, +a, cache_mb=0)",
    "CREATE TABLE o(r INTEGER PRIMARY KEY, c BLOB, n INTEGER, s TEXT, id TEXT UNIQUE, a)",
    "WITH RECURSIVE g(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < 150) INSERT INTO o "
    "SELECT i, CAST(substr(printf('%.768d', i * 7919), 1, 768) AS BLOB), i % 97, 's' || (i % 4), 'key ' || i, i FROM g",
    "BEGIN",
    "INSERT INTO v(rowid, code, n, s, id, a) SELECT * FROM o",
    "COMMIT",
    NULL,
};
static const char *const reread_transactions[][7] = {
    {"INSERT INTO v(rowid, code, n, s, id) VALUES (9000, zeroblob(768), 1, 'x', 'new')", "INSERT INTO o VALUES (9000, zeroblob(768), 1, 'x', 'new', NULL)",
     "INSERT OR IGNORE INTO v(rowid, code, id) VALUES (2, zeroblob(768), 'other'), (140, zeroblob(768), 'another')",
     "INSERT OR REPLACE INTO v(rowid, code, n, s, id) VALUES (3, zeroblob(768), 5, 'y', 'third')",
     "INSERT OR REPLACE INTO o VALUES (3, zeroblob(768), 5, 'y', 'third', NULL)"},
    {NULL},
};

static const char *const rename_make[] = {
    "PRAGMA synchronous=off",
    "CREATE VIRTUAL TABLE v USING bitlm_index(bits=64, id TEXT PRIMARY KEY)",
    "CREATE TABLE o(r INTEGER PRIMARY KEY, id)",
    "INSERT INTO v(rowid, code, id) VALUES (1, zeroblob(8), 'a')",
    "INSERT INTO o VALUES (1, 'a')",
    NULL,
};
static const char *const rename_transactions[][7] = {
    {"INSERT INTO v(rowid, code, id) VALUES (2, zeroblob(8), 'b')", "INSERT INTO o VALUES (2, 'b')", "ALTER TABLE v RENAME TO w",
     "INSERT INTO w(rowid, code, id) VALUES (3, zeroblob(8), 'c')", "INSERT INTO o VALUES (3, 'c')"},
    {NULL},
};

static const char *const rename_search_make[] = {
    "PRAGMA synchronous=off",
    "CREATE VIRTUAL TABLE v USING bitlm_search(id)",
    "CREATE TABLE o(r INTEGER PRIMARY KEY, id)",
    "INSERT INTO v(rowid, id) VALUES (1, 'rain')",
    "INSERT INTO o VALUES (1, 'rain')",
    NULL,
};
static const char *const rename_search_transactions[][7] = {
    {"INSERT INTO v(rowid, id) VALUES (2, 'snow')", "INSERT INTO o VALUES (2, 'snow')", "ALTER TABLE v RENAME TO w",
     "INSERT INTO w(rowid, id) VALUES (3, 'hail')", "INSERT INTO o VALUES (3, 'hail')"},
    {NULL},
};
static const char *const rename_search_checks[] = {"INSERT INTO v(v) VALUES ('integrity-check')", NULL};
#define SAME_IDS "SELECT (SELECT group_concat(rowid || id) FROM v) IS NOT (SELECT group_concat(r || id) FROM o)"

/* 33,000 rows: the least for tables of pieces.  Fewer than 8 of 64 bits off, four pieces pay. */
#define ANSWERS(table)                                                                                                      \
    "SELECT CASE WHEN (SELECT group_concat(rowid || ' ' || distance) FROM " table " WHERE code MATCH random_code(77) AND "        \
    "distance < 8) IS (SELECT group_concat(r || ' ' || d) FROM (SELECT r, bitlm_hamming(c, random_code(77)) AS d FROM o " \
    "WHERE bitlm_hamming(c, random_code(77)) < 8 ORDER BY d, r)) THEN 'ok' ELSE 'the answers of " table " are wrong' END"
static const char *const pieces_make[] = {
    "PRAGMA synchronous=off",
    "CREATE VIRTUAL TABLE v USING bitlm_index(bits=64, n INTEGER)",
    "CREATE TABLE o(r INTEGER PRIMARY KEY, c BLOB, n INTEGER)",
    "WITH RECURSIVE g(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < 33000) INSERT INTO o "
    "SELECT i, random_code(i), i % 7 FROM g",
    "BEGIN",
    "INSERT INTO v(rowid, code, n) SELECT * FROM o",
    "COMMIT",
    NULL,
};
static const char *const pieces_transactions[][7] = {
    {"SELECT count(*) FROM o CROSS JOIN v ON v.code MATCH o.c AND v.distance < 8 WHERE o.r <= 36",
     "SELECT count(*) FROM v WHERE code MATCH random_code(78) AND k = 3 AND n IN (1, 2)"},
    {"INSERT INTO v(rowid, code, n) VALUES (50000, random_code(77), 1), (50001, random_code(5), 2)",
     "INSERT INTO o VALUES (50000, random_code(77), 1), (50001, random_code(5), 2)", "DELETE FROM v WHERE rowid IN (32998, 33000)",
     "DELETE FROM o WHERE r IN (32998, 33000)", "SELECT count(*) FROM v WHERE code MATCH random_code(77) AND distance < 8"},
    {"SAVEPOINT a", "UPDATE v SET code = random_code(-1) WHERE rowid BETWEEN 32900 AND 32940",
     "SELECT count(*) FROM v WHERE code MATCH random_code(77) AND distance < 8 AND n < 5", "ROLLBACK TO a"},
    {NULL},
};
static const char *const pieces_queries[] = {
    "ATTACH DATABASE (SELECT file FROM pragma_database_list WHERE name = 'main') AS again", /* one more table object */
    "SELECT count(*) FROM again.v WHERE code MATCH random_code(77) AND distance < 8",
    "SELECT count(*) FROM bitlm_knn('v', CAST(random_code(77) || random_code(5) AS BLOB), 1)",
    NULL,
};
static const char *const pieces_answers[] = {ANSWERS("v"), NULL};

static const scene scenes[] = {
    {.name = "index", .make = index_make, .transactions = index_transactions, .queries = index_queries, .answers = none,
     .checks = index_checks, .differences =
     "SELECT (SELECT count(*) FROM (SELECT rowid, code, n, s, id, a FROM v EXCEPT SELECT * FROM o)) + "
     "(SELECT count(*) FROM (SELECT * FROM o EXCEPT SELECT rowid, code, n, s, id, a FROM v)) + "
     "((SELECT count(*) FROM v) <> (SELECT count(*) FROM o))"},
    {.name = "search", .make = search_make, .transactions = search_transactions, .queries = search_queries, .answers = none,
     .checks = search_checks, .differences =
     "SELECT (SELECT count(*) FROM (SELECT rowid, t, a FROM v EXCEPT SELECT * FROM o)) + "
     "(SELECT count(*) FROM (SELECT * FROM o EXCEPT SELECT rowid, t, a FROM v)) + "
     "((SELECT count(*) FROM v) <> (SELECT count(*) FROM o))"},
    {.name = "rename", .make = rename_make, .transactions = rename_transactions, .queries = none, .answers = none,
     .checks = index_checks, .differences = SAME_IDS},
    {.name = "rename_search", .make = rename_search_make, .transactions = rename_search_transactions, .queries = none,
     .answers = none, .checks = rename_search_checks, .differences = SAME_IDS},
    {.name = "reread", .make = reread_make, .transactions = reread_transactions, .queries = none, .answers = none,
     .checks = index_checks, .differences =
     "SELECT (SELECT count(*) FROM (SELECT rowid, code, n, s, id, a FROM v EXCEPT SELECT * FROM o)) + "
     "((SELECT count(*) FROM v) <> (SELECT count(*) FROM o))"},
    {.name = "pieces", .make = pieces_make, .transactions = pieces_transactions, .queries = pieces_queries,
     .answers = pieces_answers, .checks = index_checks, .differences =
     "SELECT (SELECT count(*) || sum(n) FROM v) <> (SELECT count(*) || sum(n) FROM o)",
     .memory = 1250000},
};
static const scene *play = &scenes[0];

static void prepare(void)
{
    sqlite3 *db;
    size_t i;

    unlink(path);
    db = open_db();
    for (i = 0; play->make[i]; i++)
        must(db, play->make[i]);
    sqlite3_close(db);
}

/* The file that prepare made, written anew for each round. */
static char *image;
static long image_bytes;

static void keep_file(void)
{
    FILE *file = fopen(path, "rb");

    if (file && fseek(file, 0, SEEK_END) == 0 && (image_bytes = ftell(file)) > 0)
        image = malloc((size_t)image_bytes);
    if (!file || !image || fseek(file, 0, SEEK_SET) != 0 || fread(image, (size_t)image_bytes, 1, file) != 1)
        exit(1);
    fclose(file);
}

static void restore_file(void)
{
    FILE *file = fopen(path, "wb");
    char *journal = sqlite3_mprintf("%s-journal", path);

    unlink(journal);
    sqlite3_free(journal);
    if (!file || fwrite(image, (size_t)image_bytes, 1, file) != 1 || fclose(file) != 0)
        exit(1);
}

static int complain(const char *what, long n, sqlite3 *db)
{
    fprintf(stderr, "fault %ld%s: %s (%s)\n", n, persistent ? ", persistent" : "", what, sqlite3_errmsg(db));
    return 1;
}

/* Each of the statements must give 'ok' or no row. */
static int all_ok(sqlite3 *db, const char *const *statements, long n)
{
    sqlite3_stmt *statement;
    const char *text;
    int bad = 0, rc;
    size_t i;

    for (i = 0; statements[i] && !bad; i++) {
        statement = NULL;
        rc = sqlite3_prepare_v2(db, statements[i], -1, &statement, NULL);
        if (rc == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW) {
            text = (const char *)sqlite3_column_text(statement, 0);
            if (!text || strcmp(text, "ok") != 0)
                bad = complain(text ? text : "NULL", n, db);
        }
        if (sqlite3_finalize(statement) != SQLITE_OK || rc != SQLITE_OK)
            bad = complain(statements[i], n, db);
    }
    return bad;
}

static int verify(long n)
{
    sqlite3 *db = open_db();
    sqlite3_stmt *statement;
    int bad;

    run(db, "ALTER TABLE w RENAME TO v"); /* most often there is no w */
    bad = all_ok(db, play->checks, n);
    statement = NULL;
    if (sqlite3_prepare_v2(db, play->differences, -1, &statement, NULL) != SQLITE_OK || sqlite3_step(statement) != SQLITE_ROW)
        bad |= complain("the tables cannot be compared", n, db);
    else if (sqlite3_column_int(statement, 0) != 0)
        bad |= complain("the index and the plain table differ", n, db);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return bad;
}

static int expected_code(int rc)
{
    rc &= 0xff;
    return rc == SQLITE_OK || rc == SQLITE_NOMEM || rc == SQLITE_IOERR || rc == SQLITE_FULL || rc == SQLITE_CANTOPEN ||
           /* What follows from a fault before: the table is named otherwise, no transaction is open. */
           rc == SQLITE_ERROR || rc == SQLITE_CONSTRAINT || rc == SQLITE_ABORT;
}

static int scenario(long n, int *reached)
{
    sqlite3 *db = open_db();
    size_t t, i;
    int rc, failed, bad = 0;

    must(db, "PRAGMA cache_size=20");
    must(db, "PRAGMA synchronous=normal");
    hits = 0;
    countdown = n;
    armed = 1;
    for (t = 0; play->transactions[t][0] && !bad; t++) {
        failed = run(db, "BEGIN") != SQLITE_OK;
        for (i = 0; i < 7 && play->transactions[t][i] && !failed; i++) {
            rc = run(db, play->transactions[t][i]);
            failed = rc != SQLITE_OK;
            if (!expected_code(rc))
                bad = complain(play->transactions[t][i], n, db);
        }
        if (!failed)
            failed = run(db, "COMMIT") != SQLITE_OK;
        if (failed && !sqlite3_get_autocommit(db))
            run(db, "ROLLBACK");
    }
    for (i = 0; play->queries[i] && !bad; i++) {
        rc = run(db, play->queries[i]);
        if (!expected_code(rc))
            bad = complain(play->queries[i], n, db);
    }
    armed = 0;
    *reached = hits > 0;
    if (!sqlite3_get_autocommit(db)) /* ROLLBACK had no memory either */
        run(db, "ROLLBACK");
    if (!bad)
        bad = all_ok(db, play->answers, n);
    if (!bad && n == FAR_AWAY && sqlite3_memory_used() < play->memory) {
        fprintf(stderr, "%lld bytes are in use, fewer than this scene must have\n", (long long)sqlite3_memory_used());
        bad = 1;
    }
    if (sqlite3_close(db) != SQLITE_OK)
        bad = complain("the connection did not close", n, db);
    return bad;
}

static volatile long now_trying;

static void died(int number)
{
    char text[96];
    int n = snprintf(text, sizeof text, "fault %ld%s: signal %d\n", now_trying, persistent ? ", persistent" : "", number);

    if (write(2, text, (size_t)n) < 0)
        _exit(2);
    _exit(1);
}

int main(int argc, char **argv)
{
    static sqlite3_vfs vfs;
    sqlite3_mem_methods memory;
    long n, total, step, limit, rounds = 0;
    int bad = 0, reached;
    sqlite3_int64 base;
    sqlite3 *keeper;

    if (argc < 4) {
        fprintf(stderr, "fault_index EXTENSION DATABASE oom|io [LIMIT [FIRST [SCENE]]]\n");
        return 2;
    }
    extension = argv[1];
    path = argv[2];
    limit = argc > 4 ? atol(argv[4]) : 1000000;
    show_places = getenv("BITLM_FAULT_PLACES") != NULL;
    for (size_t i = 0; argc > 6 && i < sizeof scenes / sizeof scenes[0]; i++)
        if (strcmp(argv[6], scenes[i].name) == 0)
            play = &scenes[i];
    if (argc > 6 && strcmp(argv[6], play->name) != 0) {
        fprintf(stderr, "there is no scene '%s'\n", argv[6]);
        return 2;
    }
    signal(SIGABRT, died);
    signal(SIGSEGV, died);
    if (strcmp(argv[3], "oom") == 0) {
        sqlite3_config(SQLITE_CONFIG_GETMALLOC, &system_memory);
        memory = system_memory;
        memory.xMalloc = bad_malloc;
        memory.xRealloc = bad_realloc;
        sqlite3_config(SQLITE_CONFIG_MALLOC, &memory);
        memory_faults = 1;
        sqlite3_initialize();
    } else {
        sqlite3_initialize();
        real_vfs = sqlite3_vfs_find(NULL);
        vfs = *real_vfs;
        vfs.zName = "bad";
        vfs.szOsFile += (int)sizeof(bad_file);
        vfs.pNext = NULL;
        vfs.xOpen = v_open;
        vfs.xDelete = v_delete;
        sqlite3_vfs_register(&vfs, 1);
    }
    prepare();
    /* The built-in model stays open meanwhile: it is no one's memory, and opening it takes most of a round's time. */
    keeper = open_file(":memory:");
    must(keeper, "SELECT bitlm_embed('a letter')");
    /* How many there are: a round whose fault lies behind everything. */
    keep_file();
    if (scenario(FAR_AWAY, &reached) || verify(0))
        return 1;
    total = FAR_AWAY - countdown;
    show_places = 0;
    base = sqlite3_memory_used(); /* every other connection is closed */
    step = total / limit > 0 ? total / limit : 1;
    printf("%ld places, every %ld\n", total, step);
    for (persistent = 0; persistent < 2 && !bad; persistent++) {
        for (n = argc > 5 ? atol(argv[5]) : 1; n <= total && !bad; n += step) {
            now_trying = n;
            restore_file();
            bad = scenario(n, &reached);
            if (!bad)
                bad = verify(n);
            if (!bad && sqlite3_memory_used() > base) {
                fprintf(stderr, "fault %ld%s: %lld bytes leaked\n", n, persistent ? ", persistent" : "",
                        (long long)(sqlite3_memory_used() - base));
                bad = 1;
            }
            rounds++;
        }
    }
    sqlite3_close(keeper);
    unlink(path);
    printf("%ld rounds\n", rounds);
    return bad;
}
