/* shared_index.c - what the connections of one process share of a bitlm_index: blocks and tables of pieces.
 *
 *     shared_index copies DATABASE     counts the bytes that searches allocate: a block is copied once, into the process's cache;
 *                                      later searches, of other connections too, copy none
 *     shared_index threads DATABASE    searching threads, each with its connection, and one that writes; the tables of pieces are
 *                                      made meanwhile, and each answer is compared with the plain scan's
 *
 * The extension is linked in (-DSQLITE_CORE), so that a build under a sanitizer sees both sides.  Exit status 0: all is well.
 * tests/sqlite/test_index_shared.py runs it, .ci/sanitize.sh under the thread sanitizer. */
#include <pthread.h>
#include <sqlite3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROWS 33000 /* enough for tables of pieces */
#define SEARCHERS 3
#define QUESTIONS 80
#define RADIUS 8

int sqlite3_bitlm_init(sqlite3 *db, char **message, const struct sqlite3_api_routines *api);

static const char *path;

/* ---- memory ----------------------------------------------------------------------------------- */

static sqlite3_mem_methods system_memory;
static sqlite3_int64 allocated; /* in all; one thread */
static int counts;

static void *counting_malloc(int n)
{
    if (counts)
        allocated += n;
    return system_memory.xMalloc(n);
}

static void *counting_realloc(void *p, int n)
{
    if (counts)
        allocated += n;
    return system_memory.xRealloc(p, n);
}

/* ---- SQL ---------------------------------------------------------------------------------------- */

static void *fail(sqlite3 *db, const char *what)
{
    fprintf(stderr, "%s: %s\n", what, sqlite3_errmsg(db));
    exit(1);
}

static sqlite3 *open_db(void)
{
    sqlite3 *db = NULL;

    if (sqlite3_open(path, &db) != SQLITE_OK || sqlite3_busy_timeout(db, 60000) != SQLITE_OK)
        fail(db, path);
    return db;
}

static void run(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail(db, sql);
}

static sqlite3_int64 bytes_of(sqlite3 *db, const char *sql)
{
    allocated = 0;
    counts = 1;
    run(db, sql);
    counts = 0;
    return allocated;
}

/* ---- copies ------------------------------------------------------------------------------------- */

static int bounded(const char *what, sqlite3_int64 bytes, sqlite3_int64 least, sqlite3_int64 most)
{
    int ok = bytes >= least && bytes <= most;

    printf("%s: %lld bytes allocated%s\n", what, (long long)bytes, ok ? "" : ", out of bounds");
    return ok;
}

static int copies(void)
{
    static const char search[] = "SELECT count(*) FROM v WHERE code MATCH zeroblob(1024) AND k = 10 AND n < 3";
    const sqlite3_int64 codes = 8192 * 1024, little = 1000000; /* a search's own lists */
    sqlite3 *db = open_db(), *other;
    int ok;

    run(db, "CREATE VIRTUAL TABLE v USING bitlm_index(bits=8192, n INTEGER); BEGIN; WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL "
            "SELECT n + 1 FROM i WHERE n < 8192) INSERT INTO v(code, n) SELECT randomblob(1024), n % 5 FROM i; COMMIT");
    sqlite3_close(db); /* its blocks go */
    db = open_db();
    other = open_db();
    /* SQLite's pages would be counted as well. */
    run(db, "PRAGMA cache_size = 10; SELECT v FROM v_config");
    run(other, "PRAGMA cache_size = 10; SELECT v FROM v_config");
    ok = bounded("first search", bytes_of(db, search), codes, codes + codes / 10 + little);
    ok &= bounded("second search", bytes_of(db, search), 1, little);
    ok &= bounded("first search of another connection", bytes_of(other, search), 1, little);
    run(db, "BEGIN; INSERT INTO v(code, n) VALUES (zeroblob(1024), 1)");
    ok &= bounded("after an INSERT", bytes_of(db, search), 1, little);
    run(db, "COMMIT");
    ok &= bounded("after its COMMIT", bytes_of(db, search), 1, little);
    ok &= bounded("the other connection then", bytes_of(other, search), 1, little);
    sqlite3_close(db);
    sqlite3_close(other);
    return ok;
}

/* ---- threads ------------------------------------------------------------------------------------- */

static uint64_t code_of(uint64_t i) /* splitmix64 */
{
    uint64_t z = i * UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void random_code(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    uint64_t code = code_of((uint64_t)sqlite3_value_int64(argv[0]));

    (void)argc;
    sqlite3_result_blob(context, &code, sizeof code, SQLITE_TRANSIENT);
}

static pthread_barrier_t ended; /* the questions; connections are open still */

static void *search(void *argument)
{
    unsigned seed = *(unsigned *)argument;
    sqlite3 *db = open_db();
    sqlite3_stmt *select;
    int i;

    if (sqlite3_prepare_v2(db, "SELECT rowid, distance FROM v WHERE code MATCH ?1 AND distance < ?2 AND n < ?3", -1, &select, NULL) != SQLITE_OK)
        fail(db, "the search");
    for (i = 0; i < QUESTIONS; i++) {
        uint64_t query = code_of(1 + code_of(seed + (unsigned)i * 16) % ROWS) ^ (i % 3 ? 5 : 0), rows = 0, sum = 0, row;
        int most_n = i % 4 ? 7 : 4, distance;
        for (row = 1; row <= ROWS; row++) {
            distance = __builtin_popcountll(code_of(row) ^ query);
            if (distance < RADIUS && (int)(row % 7) < most_n) {
                rows++;
                sum += row * 64 + (unsigned)distance;
            }
        }
        sqlite3_bind_blob(select, 1, &query, sizeof query, SQLITE_TRANSIENT);
        sqlite3_bind_int(select, 2, RADIUS);
        sqlite3_bind_int(select, 3, most_n);
        while (sqlite3_step(select) == SQLITE_ROW) {
            if (sqlite3_column_int64(select, 0) > ROWS) /* the writer's */
                continue;
            rows--;
            sum -= (uint64_t)sqlite3_column_int64(select, 0) * 64 + (uint64_t)sqlite3_column_int64(select, 1);
        }
        if (sqlite3_reset(select) != SQLITE_OK)
            fail(db, "the search");
        if (rows || sum)
            fail(db, "an answer is not the plain scan's");
    }
    sqlite3_finalize(select);
    run(db, "PRAGMA shrink_memory");
    pthread_barrier_wait(&ended);
    pthread_barrier_wait(&ended);
    sqlite3_close(db);
    return NULL;
}

static void *write_rows(void *argument)
{
    sqlite3 *db = open_db();
    int i;

    (void)argument;
    sqlite3_create_function(db, "random_code", 1, SQLITE_UTF8, NULL, random_code, NULL, NULL);
    for (i = 0; i < 12; i++) {
        run(db, "BEGIN IMMEDIATE; INSERT INTO v(code, n) SELECT random_code(rowid * 31), n FROM v WHERE rowid % 1000 = 0");
        run(db, i % 3 ? "COMMIT" : "ROLLBACK");
        run(db, "DELETE FROM v WHERE rowid > 33020");
    }
    sqlite3_close(db);
    return NULL;
}

static int threads(void)
{
    pthread_t thread[SEARCHERS + 1];
    unsigned seed[SEARCHERS], i;
    sqlite3_int64 before = sqlite3_memory_used(), most, after;
    sqlite3 *db = open_db();

    sqlite3_create_function(db, "random_code", 1, SQLITE_UTF8, NULL, random_code, NULL, NULL);
    run(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = off; CREATE VIRTUAL TABLE v USING bitlm_index(bits=64, n INTEGER); BEGIN; "
            "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 33000) "
            "INSERT INTO v(rowid, code, n) SELECT n, random_code(n), n % 7 FROM i; COMMIT");
    if (pthread_barrier_init(&ended, NULL, SEARCHERS + 1) != 0)
        return 0;
    for (i = 0; i < SEARCHERS; i++) {
        seed[i] = i * 7919;
        if (pthread_create(&thread[i], NULL, search, &seed[i]) != 0)
            return 0;
    }
    if (pthread_create(&thread[SEARCHERS], NULL, write_rows, NULL) != 0)
        return 0;
    pthread_join(thread[SEARCHERS], NULL);
    pthread_barrier_wait(&ended);
    sqlite3_close(db);
    most = sqlite3_memory_used() - before;
    pthread_barrier_wait(&ended);
    for (i = 0; i < SEARCHERS; i++)
        pthread_join(thread[i], NULL);
    after = sqlite3_memory_used() - before;
    printf("%lld bytes for %d connections, %lld stay\n", (long long)most, SEARCHERS, (long long)after);
    /* Four tables of 263 KB once, blocks of 396 KB, and what connections have. */
    return most > 1400000 && most < 2000000 && after < 20000;
}

int main(int argc, char **argv)
{
    sqlite3_mem_methods memory;
    int ok = 0;

    if (argc != 3) {
        fprintf(stderr, "shared_index copies|threads DATABASE\n");
        return 2;
    }
    path = argv[2];
    if (strcmp(argv[1], "copies") == 0) {
        sqlite3_config(SQLITE_CONFIG_GETMALLOC, &system_memory);
        memory = system_memory;
        memory.xMalloc = counting_malloc;
        memory.xRealloc = counting_realloc;
        sqlite3_config(SQLITE_CONFIG_MALLOC, &memory);
    }
    sqlite3_initialize();
    sqlite3_auto_extension((void (*)(void))sqlite3_bitlm_init);
    unlink(path);
    ok = strcmp(argv[1], "copies") == 0 ? copies() : threads();
    unlink(path);
    return !ok;
}
