/* sqlite_index_functions.c - what works on a bitlm_index by its name.
 *
 *     SELECT query, id, distance FROM bitlm_knn('v', codes, k)      many queries in one pass: codes is a
 *                                    BLOB of codes one behind the other; query counts from 0, id is the rowid
 *     SELECT a, b, distance FROM bitlm_duplicates('v', distance)    pairs of rows at most so far apart, a < b
 *     bitlm_index_check('v')         'ok', or a sentence that says what is damaged
 *
 * The name may be 'schema.v'.  A statement over NAME_config is held open meanwhile, because the
 * calling statement need not have begun to read that database.
 *
 * Called by SQLite; registered by sqlite_index.c. */
#include "sqlite_index.h"

#include <string.h>

#include "search/codes.h"

#define POLL_BYTES 4000000u
#define PIECES_LEAST_ROWS 1024u
#define PIECES_MOST_BYTES 0x40000000u /* of codes that are laid side by side */
#define FEW_PAIRS ((size_t)1 << 18)
#define MOST_PAIRS ((size_t)1 << 24)

/* ---- finding a table --------------------------------------------------------------------- */

typedef struct use {
    index_table *table;
    sqlite3_stmt *hold; /* keeps the database's state while it is read */
} use;

static index_table *find(bls_state *state, const char *schema, const char *name)
{
    static const char *const first[2] = {"temp", "main"};
    index_table *table;
    int i;

    for (i = 0; i < 2 && !schema; i++)
        for (table = state->indexes; table; table = table->next)
            if (sqlite3_stricmp(table->name, name) == 0 && sqlite3_stricmp(table->schema, first[i]) == 0)
                return table;
    for (table = state->indexes; table; table = table->next)
        if (sqlite3_stricmp(table->name, name) == 0 && (!schema || sqlite3_stricmp(table->schema, schema) == 0))
            return table;
    return NULL;
}

/* Connects and finds the table, and begins to read it. */
static bitlm_status use_table(bls_call *call, const char *given, use *u, int *rc)
{
    bls_state *state = call->state;
    const char *dot = strchr(given, '.');
    char *schema = NULL, *name = NULL, *sql = NULL;
    bitlm_status status = BITLM_OK;
    sqlite3_stmt *statement = NULL;

    memset(u, 0, sizeof *u);
    *rc = SQLITE_OK;
    name = sqlite3_mprintf("%s", dot ? dot + 1 : given);
    if (dot)
        schema = sqlite3_mprintf("%.*s", (int)(dot - given), given);
    if (name && (!dot || schema))
        sql = dot ? sqlite3_mprintf("SELECT 1 FROM \"%w\".\"%w\" LIMIT 0", schema, name)
                  : sqlite3_mprintf("SELECT 1 FROM \"%w\" LIMIT 0", name);
    if (!sql) {
        status = bls_error(call, BITLM_NOMEM, "out of memory");
        goto end;
    }
    /* SQLite connects a table when a statement names it. */
    *rc = sqlite3_prepare_v2(state->db, sql, -1, &statement, NULL);
    if (*rc == SQLITE_OK)
        u->table = find(state, schema, name);
    if (!u->table) {
        if (*rc == SQLITE_OK || *rc == SQLITE_ERROR)
            status = bls_error(call, BITLM_ARG, "'%.60s' is no bitlm_index table", given);
        goto end;
    }
    sqlite3_free(sql);
    sql = sqlite3_mprintf("SELECT k FROM \"%w\".\"%w_config\"", u->table->schema, u->table->name);
    if (!sql) {
        status = bls_error(call, BITLM_NOMEM, "out of memory");
        goto end;
    }
    *rc = sqlite3_prepare_v2(state->db, sql, -1, &u->hold, NULL);
    if (*rc == SQLITE_OK) {
        sqlite3_step(u->hold);
    } else if (*rc == SQLITE_ERROR) {
        bls_error(call, BITLM_CORRUPT, "a shadow table is missing or malformed");
        *rc = SQLITE_CORRUPT_VTAB;
    }
    if (*rc == SQLITE_OK)
        *rc = bls_store_begin(u->table->store);
    if (*rc != SQLITE_OK && bls_store_message(u->table->store)[0])
        bls_error(call, BITLM_CORRUPT, "%s", bls_store_message(u->table->store));
end:
    sqlite3_finalize(statement);
    sqlite3_free(sql);
    sqlite3_free(schema);
    sqlite3_free(name);
    return status;
}

static void leave(use *u)
{
    if (u->table)
        bls_store_end(u->table->store);
    sqlite3_finalize(u->hold);
    u->hold = NULL;
    u->table = NULL;
}

/* ---- bitlm_index_check -------------------------------------------------------------------- */

static void fn_check(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    bls_call call;
    bitlm_status status;
    bitlm_text name;
    char *sentence = NULL;
    use u = {0};
    int rc = SQLITE_OK;

    (void)argc;
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    bls_begin(&call, sqlite3_user_data(context), "bitlm_index_check", NULL);
    status = bls_text(&call, argv[0], "the table", &name);
    if (status == BITLM_OK)
        status = use_table(&call, name.data, &u, &rc);
    if (status == BITLM_OK && (rc & 0xff) == SQLITE_CORRUPT) {
        sqlite3_result_text(context, call.error.text[0] ? call.error.text : "the database file is damaged", -1,
                            SQLITE_TRANSIENT);
        rc = SQLITE_OK;
    } else if (status == BITLM_OK && rc == SQLITE_OK) {
        rc = index_check(u.table, &sentence);
        if (rc == SQLITE_OK)
            sqlite3_result_text(context, sentence ? sentence : "ok", -1, SQLITE_TRANSIENT);
        sqlite3_free(sentence);
    }
    leave(&u);
    if (status)
        bls_fail(&call, context, status);
    else if (rc != SQLITE_OK)
        sqlite3_result_error_code(context, rc);
    bls_end(&call);
}

/* ---- the table functions ------------------------------------------------------------------ */

/* Both have three columns and then their arguments, hidden. */
typedef struct function_table {
    sqlite3_vtab base;
    bls_state *state;
    int is_knn;
} function_table;

typedef struct function_cursor {
    sqlite3_vtab_cursor base;
    bls_call call;
    use u;
    int at_end;
    sqlite3_int64 n;
    /* bitlm_knn */
    bls_hit *hits;
    size_t *n_hits;
    size_t n_queries, k, query, at;
    /* bitlm_duplicates: the pair is row i of block a and row_b of block b, the j-th of those near i */
    bls_image *a, *b;
    size_t block_a, block_b;
    uint32_t i, row_b, most, room;
    int64_t j, found; /* found: -1 before row i was compared */
    uint32_t *rows, *distances; /* (room) each, one block of memory */
    uint64_t version, distance, unpolled;
    /* the same where all pairs were found at once: pair `pair` of n_pairs, rows by their place in ids */
    int64_t *ids, *pair_a, *pair_b;
    uint32_t *pair_distances;
    size_t n_pairs, pair;
} function_cursor;

static int function_connect(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **result,
                            char **message)
{
    function_table *table;
    int is_knn = strcmp(argv[0], "bitlm_knn") == 0, rc;

    (void)argc;
    (void)message;
    rc = sqlite3_declare_vtab(db, is_knn ? "CREATE TABLE x(query INTEGER, id INTEGER, distance INTEGER, "
                                           "tbl TEXT HIDDEN, codes BLOB HIDDEN, k INTEGER HIDDEN)"
                                         : "CREATE TABLE x(a INTEGER, b INTEGER, distance INTEGER, "
                                           "tbl TEXT HIDDEN, most INTEGER HIDDEN)");
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_vtab_config(db, SQLITE_VTAB_INNOCUOUS);
    table = sqlite3_malloc64(sizeof *table);
    if (!table)
        return SQLITE_NOMEM;
    memset(table, 0, sizeof *table);
    table->state = aux;
    table->is_knn = is_knn;
    bls_state_ref(table->state);
    *result = &table->base;
    return SQLITE_OK;
}

static int function_disconnect(sqlite3_vtab *base)
{
    function_table *table = (function_table *)base;

    bls_state_unref(table->state);
    sqlite3_free(table);
    return SQLITE_OK;
}

static int function_best(sqlite3_vtab *base, sqlite3_index_info *info)
{
    function_table *table = (function_table *)base;
    int at[3] = {-1, -1, -1}, i, column, n = table->is_knn ? 3 : 2;

    for (i = 0; i < info->nConstraint; i++) {
        column = info->aConstraint[i].iColumn - 3;
        if (column < 0 || info->aConstraint[i].op != SQLITE_INDEX_CONSTRAINT_EQ)
            continue;
        if (!info->aConstraint[i].usable)
            return SQLITE_CONSTRAINT;
        at[column] = i;
    }
    for (i = 0; i < n; i++) {
        if (at[i] < 0) {
            sqlite3_free(base->zErrMsg);
            base->zErrMsg = sqlite3_mprintf(table->is_knn ? "write bitlm_knn('table', codes, k)"
                                                          : "write bitlm_duplicates('table', distance)");
            return SQLITE_ERROR;
        }
        info->aConstraintUsage[at[i]].argvIndex = i + 1;
        info->aConstraintUsage[at[i]].omit = 1;
    }
    info->estimatedCost = 1e7;
    info->estimatedRows = 1000;
    return SQLITE_OK;
}

static int function_open(sqlite3_vtab *base, sqlite3_vtab_cursor **result)
{
    function_cursor *cursor = sqlite3_malloc64(sizeof *cursor);

    (void)base;
    if (!cursor)
        return SQLITE_NOMEM;
    memset(cursor, 0, sizeof *cursor);
    *result = &cursor->base;
    return SQLITE_OK;
}

static void free_pairs(function_cursor *cursor)
{
    sqlite3_free(cursor->pair_a);
    sqlite3_free(cursor->pair_b);
    sqlite3_free(cursor->pair_distances);
    cursor->pair_a = cursor->pair_b = NULL;
    cursor->pair_distances = NULL;
    cursor->n_pairs = cursor->pair = 0;
}

static void function_clear(function_cursor *cursor)
{
    free_pairs(cursor);
    sqlite3_free(cursor->ids);
    cursor->ids = NULL;
    bls_image_release(cursor->a);
    bls_image_release(cursor->b);
    sqlite3_free(cursor->hits);
    sqlite3_free(cursor->n_hits);
    sqlite3_free(cursor->rows);
    cursor->rows = NULL;
    cursor->room = 0;
    leave(&cursor->u);
    cursor->a = cursor->b = NULL;
    cursor->hits = NULL;
    cursor->n_hits = NULL;
    cursor->query = cursor->at = cursor->n_queries = 0;
    cursor->n = 0;
    cursor->at_end = 1;
}

static int function_close(sqlite3_vtab_cursor *base)
{
    function_clear((function_cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

static void knn_settle(function_cursor *cursor)
{
    while (cursor->query < cursor->n_queries && cursor->at >= cursor->n_hits[cursor->query]) {
        cursor->query++;
        cursor->at = 0;
    }
    cursor->at_end = cursor->query >= cursor->n_queries;
}

static bitlm_status knn_start(function_cursor *cursor, sqlite3_value **argv, int *rc)
{
    bls_call *call = &cursor->call;
    index_table *table = cursor->u.table;
    size_t bytes = table->bits / 8, length;
    bls_search search = {.store = table->store, .code_bytes = bytes, .most = table->bits, .after_distance = -1};
    bitlm_status status;
    int64_t k;

    status = bls_integer(call, argv[2], "k", 0, INDEX_MOST_K, &k);
    if (status)
        return status;
    if (sqlite3_value_type(argv[1]) != SQLITE_BLOB)
        return bls_error(call, BITLM_ARG, "codes must be a BLOB of codes of %d bytes one behind the other", (int)bytes);
    length = (size_t)sqlite3_value_bytes(argv[1]);
    if (length % bytes)
        return bls_error(call, BITLM_ARG, "codes has %lld bytes, which is no multiple of the %d bytes of a code",
                         (sqlite3_int64)length, (int)bytes);
    if ((uint64_t)k > bls_store_rows(table->store))
        k = (int64_t)bls_store_rows(table->store);
    if (k == 0 || length == 0)
        return BITLM_OK;
    if (length / bytes > 5000000 / (uint64_t)k)
        return bls_error(call, BITLM_LIMIT, "%lld queries times k = %lld are more than 5000000 results",
                         (sqlite3_int64)(length / bytes), (sqlite3_int64)k);
    search.queries = sqlite3_value_blob(argv[1]);
    search.n_queries = cursor->n_queries = length / bytes;
    search.k = cursor->k = (size_t)k;
    cursor->hits = sqlite3_malloc64(search.n_queries * search.k * sizeof *cursor->hits);
    cursor->n_hits = sqlite3_malloc64(search.n_queries * sizeof *cursor->n_hits);
    if (!search.queries || !cursor->hits || !cursor->n_hits)
        return bls_error(call, BITLM_NOMEM, "out of memory");
    *rc = bls_search_run(call->state, &search, cursor->hits, cursor->n_hits);
    if (*rc == SQLITE_OK)
        knn_settle(cursor);
    return BITLM_OK;
}

/* Copies all codes and rowids, in order of rowid. */
static int lay_side_by_side(function_cursor *cursor, uint8_t *codes, int64_t *ids, size_t n)
{
    bls_store *store = cursor->u.table->store;
    size_t bytes = cursor->u.table->bits / 8, at = 0, block;
    bls_image *image;
    uint32_t i;
    int rc, pinned;

    for (block = 0; block < bls_store_blocks(store); block++) {
        rc = bls_store_peek(store, block, &image, &pinned);
        if (rc != SQLITE_OK)
            return rc;
        if (!image)
            continue;
        if (image->n > n - at) {
            rc = SQLITE_CORRUPT_VTAB;
        } else {
            memcpy(codes + at * bytes, image->codes, image->n * bytes);
            for (i = 0; i < image->n; i++)
                ids[at++] = bls_image_rowid(image, i);
        }
        if (pinned)
            bls_image_release(image);
        if (rc == SQLITE_OK && bls_poll(cursor->call.state))
            rc = SQLITE_INTERRUPT;
        if (rc != SQLITE_OK)
            return rc;
    }
    return at == n ? SQLITE_OK : SQLITE_CORRUPT_VTAB;
}

/* Finds all pairs at once by pieces of the codes (core/search/pairs.c), where that compares far fewer: distances that are small
 * beside the bits.  Leaves cursor->ids NULL where it does not, or there are too many pairs or too little memory for it: then
 * pairs_on compares all, a row at a time. */
static bitlm_status pairs_by_pieces(function_cursor *cursor, int *rc)
{
    bls_call *call = &cursor->call;
    bls_store *store = cursor->u.table->store;
    size_t bytes = cursor->u.table->bits / 8, n = (size_t)bls_store_rows(store), room;
    bitlm_status status = BITLM_LIMIT;
    uint8_t *codes = NULL;
    bitlm_host host;

    if (n < PIECES_LEAST_ROWS || n > PIECES_MOST_BYTES / bytes)
        return BITLM_OK;
    bls_host(call->state, &host);
    codes = sqlite3_malloc64(n * bytes);
    cursor->ids = sqlite3_malloc64(n * sizeof *cursor->ids);
    if (codes && cursor->ids) {
        *rc = lay_side_by_side(cursor, codes, cursor->ids, n);
        if (*rc == SQLITE_OK && bl_pairs_pay(codes, n, bytes, cursor->most, &host)) {
            for (room = FEW_PAIRS; status == BITLM_LIMIT && room <= MOST_PAIRS; room *= 8) {
                free_pairs(cursor);
                cursor->pair_a = sqlite3_malloc64(room * sizeof *cursor->pair_a);
                cursor->pair_b = sqlite3_malloc64(room * sizeof *cursor->pair_b);
                cursor->pair_distances = sqlite3_malloc64(room * sizeof *cursor->pair_distances);
                if (!cursor->pair_a || !cursor->pair_b || !cursor->pair_distances)
                    break;
                bls_enter(call->state);
                status = bitlm_codes_pairs(codes, n, bytes, cursor->most, &host, cursor->pair_a, cursor->pair_b, cursor->pair_distances,
                                           room, &cursor->n_pairs, &call->error);
                bls_leave(call->state);
            }
        }
    }
    sqlite3_free(codes);
    if (status != BITLM_OK) {
        free_pairs(cursor);
        sqlite3_free(cursor->ids);
        cursor->ids = NULL;
    }
    return status == BITLM_LIMIT ? BITLM_OK : status;
}

/* Blocks are in order of rowid, so every pair comes once with a < b. */
static int pairs_on(function_cursor *cursor)
{
    bls_store *store = cursor->u.table->store;
    size_t bytes = cursor->u.table->bits / 8;
    int rc;

    if (cursor->ids) {
        cursor->at_end = cursor->pair >= cursor->n_pairs;
        return SQLITE_OK;
    }

    if (cursor->version != bls_store_version(store)) { /* written meanwhile: what is left is not defined */
        cursor->at_end = 1;
        return SQLITE_OK;
    }
    for (; cursor->block_a < bls_store_blocks(store); cursor->block_a++) {
        if (!cursor->a) {
            rc = bls_store_block(store, cursor->block_a, &cursor->a);
            if (rc != SQLITE_OK)
                return rc;
            cursor->version = bls_store_version(store);
            cursor->block_b = cursor->block_a;
        }
        for (; cursor->a && cursor->block_b < bls_store_blocks(store); cursor->block_b++) {
            if (!cursor->b) {
                rc = bls_store_block(store, cursor->block_b, &cursor->b);
                if (rc != SQLITE_OK)
                    return rc;
                cursor->i = 0;
                cursor->found = -1;
                if (cursor->b && cursor->b->n > cursor->room) {
                    sqlite3_free(cursor->rows);
                    cursor->room = 0;
                    cursor->rows = sqlite3_malloc64(2 * sizeof *cursor->rows * (uint64_t)cursor->b->n);
                    if (!cursor->rows)
                        return SQLITE_NOMEM;
                    cursor->room = cursor->b->n;
                    cursor->distances = cursor->rows + cursor->room;
                }
            }
            for (; cursor->b && cursor->i < cursor->a->n; cursor->i++, cursor->found = -1) {
                /* In its own block a row is compared with those behind it. */
                uint32_t from = cursor->block_b == cursor->block_a ? cursor->i + 1 : 0;
                if (cursor->found < 0) {
                    cursor->j = 0;
                    cursor->found = bl_codes_below(cursor->a->codes + cursor->i * bytes, cursor->b->codes + from * bytes,
                                                   cursor->b->n - from, (int64_t)bytes, cursor->most + 1, cursor->rows,
                                                   cursor->distances);
                    cursor->unpolled += (uint64_t)cursor->b->n * bytes;
                    if (cursor->unpolled > POLL_BYTES) {
                        cursor->unpolled = 0;
                        if (bls_poll(cursor->call.state))
                            return SQLITE_INTERRUPT;
                    }
                }
                if (cursor->j < cursor->found) {
                    cursor->row_b = from + cursor->rows[cursor->j];
                    cursor->distance = cursor->distances[cursor->j++];
                    return SQLITE_OK;
                }
            }
            bls_image_release(cursor->b);
            cursor->b = NULL;
        }
        bls_image_release(cursor->a);
        cursor->a = NULL;
    }
    cursor->at_end = 1;
    return SQLITE_OK;
}

static int function_filter(sqlite3_vtab_cursor *base, int number, const char *string, int argc, sqlite3_value **argv)
{
    function_cursor *cursor = (function_cursor *)base;
    function_table *table = (function_table *)base->pVtab;
    bls_call *call = &cursor->call;
    bitlm_status status;
    bitlm_text name;
    int64_t most;
    int rc = SQLITE_OK, i;

    (void)number;
    (void)string;
    function_clear(cursor);
    for (i = 0; i < argc; i++)
        if (sqlite3_value_type(argv[i]) == SQLITE_NULL)
            return SQLITE_OK;
    bls_begin(call, table->state, table->is_knn ? "bitlm_knn" : "bitlm_duplicates", NULL);
    status = bls_text(call, argv[0], "the table", &name);
    if (status == BITLM_OK)
        status = use_table(call, name.data, &cursor->u, &rc);
    if (status == BITLM_OK && rc == SQLITE_OK && table->is_knn) {
        status = knn_start(cursor, argv, &rc);
    } else if (status == BITLM_OK && rc == SQLITE_OK) {
        status = bls_integer(call, argv[1], "distance", 0, INT32_MAX, &most);
        if (status == BITLM_OK) {
            cursor->most = (uint32_t)most;
            cursor->block_a = 0;
            cursor->version = bls_store_version(cursor->u.table->store);
            cursor->at_end = 0;
            status = pairs_by_pieces(cursor, &rc);
            if (status == BITLM_OK && rc == SQLITE_OK)
                rc = pairs_on(cursor);
        }
    }
    if (status == BITLM_OK && rc != SQLITE_OK && cursor->u.table && bls_store_message(cursor->u.table->store)[0]) {
        sqlite3_free(base->pVtab->zErrMsg);
        base->pVtab->zErrMsg = sqlite3_mprintf("%s: %s", call->name, bls_store_message(cursor->u.table->store));
    }
    if (status == BITLM_OK && rc == SQLITE_OK)
        return SQLITE_OK;
    function_clear(cursor);
    return status ? bls_fail_table(call, base->pVtab, status) : rc;
}

static int function_next(sqlite3_vtab_cursor *base)
{
    function_cursor *cursor = (function_cursor *)base;

    cursor->n++;
    if (!((function_table *)base->pVtab)->is_knn) {
        cursor->pair++;
        return pairs_on(cursor);
    }
    cursor->at++;
    knn_settle(cursor);
    return SQLITE_OK;
}

static int function_eof(sqlite3_vtab_cursor *base)
{
    return ((function_cursor *)base)->at_end;
}

static int function_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    *rowid = ((function_cursor *)base)->n;
    return SQLITE_OK;
}

static int function_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    const function_cursor *cursor = (const function_cursor *)base;
    const bls_hit *hit;

    if (((function_table *)base->pVtab)->is_knn) {
        hit = &cursor->hits[cursor->query * cursor->k + cursor->at];
        if (column < 3)
            sqlite3_result_int64(context, column == 0   ? (sqlite3_int64)cursor->query
                                          : column == 1 ? hit->rowid
                                                        : (sqlite3_int64)hit->distance);
    } else if (column < 3 && cursor->ids) {
        sqlite3_result_int64(context, column == 0   ? cursor->ids[cursor->pair_a[cursor->pair]]
                                      : column == 1 ? cursor->ids[cursor->pair_b[cursor->pair]]
                                                    : (sqlite3_int64)cursor->pair_distances[cursor->pair]);
    } else if (column < 3) {
        sqlite3_result_int64(context, column == 0   ? bls_image_rowid(cursor->a, cursor->i)
                                      : column == 1 ? bls_image_rowid(cursor->b, cursor->row_b)
                                                    : (sqlite3_int64)cursor->distance);
    }
    return SQLITE_OK;
}

static const sqlite3_module function_module = {
    .xConnect = function_connect,
    .xBestIndex = function_best,
    .xDisconnect = function_disconnect,
    .xOpen = function_open,
    .xClose = function_close,
    .xFilter = function_filter,
    .xNext = function_next,
    .xEof = function_eof,
    .xColumn = function_column,
    .xRowid = function_rowid,
};

int bls_register_index_functions(bls_state *state)
{
    int rc = bls_function(state, "bitlm_index_check", 1, SQLITE_INNOCUOUS, fn_check);

    if (rc == SQLITE_OK)
        rc = bls_module(state, "bitlm_knn", &function_module);
    if (rc == SQLITE_OK)
        rc = bls_module(state, "bitlm_duplicates", &function_module);
    return rc;
}
