/* sqlite_search_cursor.c - rows of bitlm_search: searching and scanning.
 *
 * A search asks the store for the nearest chunks, keeps the best one of each row and orders rows by (rank,
 * rowid).  Only ranks smaller than that of the last chunk seen are final, since the next chunk may belong to a row with a
 * smaller rowid; so it asks for more chunks until enough rows are.  Without k it starts with a batch, and when SQLite
 * has used that up it searches again for more and goes on behind the last row it gave.
 *
 * With fts= the ranks of two lists are fused: score = sum of 1 / (60 + place), as in
 *   Cormack, Clarke, Buettcher: Reciprocal Rank Fusion outperforms Condorcet (2009);
 * each list has up to LIST_ROWS rows (or k, if that is more).  rank is minus the score.
 *
 * A scan goes through NAME_docs by rowid.  The columns come from the content table when asked for.
 *
 * Called by SQLite through the module in sqlite_search.c. */
#include "sqlite_search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BATCH 64
#define BATCH_GROWTH 16
#define LIST_ROWS 1000
#define FUSION 60
#define SCAN_ROWS 128

typedef struct search_result {
    double rank;
    int64_t rowid, chunk; /* chunk: of the store, -1: not known */
} search_result;

typedef struct search_cursor {
    sqlite3_vtab_cursor base;
    bls_filter filter;
    int search, at_end;
    search_result *results;
    size_t n_results, at, batch; /* batch: of a stream; 0: all results are there */
    uint8_t *code;
    char *text;                  /* the query, for fts */
    size_t length;
    uint32_t most;
    sqlite3_int64 k;
    int64_t low, high;           /* of a scan */
    sqlite3_stmt *content;       /* stands on the row, or NULL */
    int has_content;             /* 1: asked for this row, 2: and there is one */
} search_cursor;

int search_open(sqlite3_vtab *base, sqlite3_vtab_cursor **result)
{
    search_cursor *cursor = sqlite3_malloc64(sizeof *cursor);

    (void)base;
    if (!cursor)
        return SQLITE_NOMEM;
    memset(cursor, 0, sizeof *cursor);
    bls_filter_init(&cursor->filter);
    *result = &cursor->base;
    return SQLITE_OK;
}

static void leave_row(search_cursor *cursor)
{
    if (cursor->has_content)
        sqlite3_reset(cursor->content);
    cursor->has_content = 0;
}

static void clear(search_cursor *cursor)
{
    leave_row(cursor);
    sqlite3_finalize(cursor->content);
    cursor->content = NULL;
    bls_filter_clear(&cursor->filter);
    sqlite3_free(cursor->results);
    sqlite3_free(cursor->code);
    sqlite3_free(cursor->text);
    cursor->results = NULL;
    cursor->code = NULL;
    cursor->text = NULL;
    cursor->n_results = cursor->at = cursor->batch = 0;
    cursor->at_end = 1;
}

int search_close(sqlite3_vtab_cursor *base)
{
    clear((search_cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

int search_eof(sqlite3_vtab_cursor *base)
{
    return ((search_cursor *)base)->at_end;
}

int search_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    const search_cursor *cursor = (const search_cursor *)base;

    *rowid = cursor->results[cursor->at].rowid;
    return SQLITE_OK;
}

/* ---- searching -------------------------------------------------------------------------------- */

static int by_row(const void *a, const void *b)
{
    const search_result *x = a, *y = b;

    if (x->rowid != y->rowid)
        return x->rowid < y->rowid ? -1 : 1;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return (x->chunk > y->chunk) - (x->chunk < y->chunk);
}

static int by_rank(const void *a, const void *b)
{
    const search_result *x = a, *y = b;

    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return (x->rowid > y->rowid) - (x->rowid < y->rowid);
}

/* The row of each hit. */
static int rows_of(search_table *table, const bls_hit *hits, size_t n, search_result *results)
{
    bls_image *image;
    bls_cell cell;
    size_t i;
    int rc, pinned;

    for (i = 0; i < n; i++) {
        rc = bls_store_peek(table->store, (size_t)(hits[i].place >> 16), &image, &pinned);
        if (rc != SQLITE_OK)
            return rc;
        bls_image_entry(&image->columns[0], bls_image_number(&image->columns[0], (uint32_t)(hits[i].place & 0xffff)), &cell);
        if (pinned)
            bls_image_release(image);
        if (cell.tag != BLS_CELL_INTEGER)
            return search_fail(table, SQLITE_CORRUPT_VTAB, "chunk %lld belongs to no row", (sqlite3_int64)hits[i].rowid);
        results[i].rank = hits[i].distance;
        results[i].rowid = cell.as.integer;
        results[i].chunk = hits[i].rowid;
    }
    return SQLITE_OK;
}

/* The rows nearest to the code, at least `want` of them if there are so many, in order; the caller frees *results.  *all: there
 * are no others. */
static int nearest_rows(search_cursor *cursor, size_t want, search_result **results, size_t *n_results, int *all)
{
    search_table *table = (search_table *)cursor->base.pVtab;
    size_t chunks = (size_t)bls_store_rows(table->store), n, i, to, ask;
    bls_search search = {.store = table->store, .queries = cursor->code, .n_queries = 1, .code_bytes = table->bits / 8,
                         .most = cursor->most, .after_distance = -1};
    double last;
    bls_hit *hits;
    search_result *found = NULL;
    int rc = SQLITE_OK;

    *results = NULL;
    *n_results = 0;
    *all = 1;
    if (cursor->filter.nothing || chunks == 0 || want == 0)
        return SQLITE_OK;
    search.filter = bls_filter_is_open(&cursor->filter) ? NULL : &cursor->filter;
    for (ask = want + want / 4 + 16;; ask *= 4) {
        if (ask > chunks)
            ask = chunks;
        search.k = ask;
        hits = sqlite3_malloc64(ask * sizeof *hits);
        sqlite3_free(found);
        found = sqlite3_malloc64(ask * sizeof *found);
        rc = hits && found ? bls_search_run(table->state, &search, hits, &n) : SQLITE_NOMEM;
        if (rc == SQLITE_OK)
            rc = rows_of(table, hits, n, found);
        *all = rc == SQLITE_OK && (n < ask || ask == chunks);
        last = rc == SQLITE_OK && n && !*all ? hits[n - 1].distance : INFINITY;
        sqlite3_free(hits);
        if (rc != SQLITE_OK)
            break;
        if (n > 1)
            qsort(found, n, sizeof *found, by_row);
        for (i = to = 0; i < n; i++)
            if (found[i].rank < last && (to == 0 || found[to - 1].rowid != found[i].rowid))
                found[to++] = found[i];
        if (to > 1)
            qsort(found, to, sizeof *found, by_rank);
        if (to >= want || *all) {
            *results = found;
            *n_results = to;
            return SQLITE_OK;
        }
    }
    sqlite3_free(found);
    return search_store_failed(table, rc);
}

/* Appends rows behind the last one, `want` or more. */
static int search_on(search_cursor *cursor, size_t want)
{
    search_result last = {.rank = -1}, *results, *grown;
    size_t n, i, first = 0;
    int rc, all;

    if (cursor->n_results)
        last = cursor->results[cursor->n_results - 1];
    rc = nearest_rows(cursor, cursor->n_results + want, &results, &n, &all);
    if (rc != SQLITE_OK)
        return rc;
    if (cursor->n_results == 0) {
        sqlite3_free(cursor->results);
        cursor->results = results;
        cursor->n_results = n;
    } else {
        while (first < n && by_rank(&results[first], &last) <= 0)
            first++;
        grown = sqlite3_realloc64(cursor->results, (cursor->n_results + n - first + 1) * sizeof *grown);
        if (!grown) {
            sqlite3_free(results);
            return SQLITE_NOMEM;
        }
        for (i = first; i < n; i++)
            grown[cursor->n_results + i - first] = results[i];
        cursor->results = grown;
        cursor->n_results += n - first;
        sqlite3_free(results);
    }
    if (all)
        cursor->batch = 0;
    return SQLITE_OK;
}

/* ---- words ------------------------------------------------------------------------------------- */

/* Natural text for FTS5: each word in quotes, so that nothing in it is syntax. */
static char *fts_query(const char *text, size_t length)
{
    sqlite3_str *out = sqlite3_str_new(NULL);
    size_t i = 0;

    while (i < length) {
        while (i < length && (text[i] == ' ' || (text[i] >= 9 && text[i] <= 13) || text[i] == 0))
            i++;
        if (i == length)
            break;
        sqlite3_str_appendall(out, sqlite3_str_length(out) ? " OR \"" : "\"");
        for (; i < length && text[i] != ' ' && !(text[i] >= 9 && text[i] <= 13) && text[i]; i++)
            sqlite3_str_appendchar(out, text[i] == '"' ? 2 : 1, text[i]);
        sqlite3_str_appendchar(out, 1, '"');
    }
    return sqlite3_str_finish(out);
}

/* Rows that FTS5 finds, best first: rank is 1, 2, … */
static int word_rows(search_cursor *cursor, size_t want, search_result **results, size_t *n_results)
{
    search_table *table = (search_table *)cursor->base.pVtab;
    char *query = fts_query(cursor->text, cursor->length), *sql;
    sqlite3_stmt *select = NULL;
    search_result *found = sqlite3_malloc64(want * sizeof *found);
    search_doc doc;
    size_t n = 0;
    int rc = SQLITE_OK, end;

    *results = found;
    *n_results = 0;
    if (!found || !query) {
        sqlite3_free(query);
        return found ? SQLITE_OK : SQLITE_NOMEM; /* no words */
    }
    sql = sqlite3_mprintf("SELECT rowid FROM \"%w\".\"%w\" WHERE \"%w\" MATCH ?1 ORDER BY rank, rowid LIMIT ?2", table->schema,
                          table->fts, table->fts);
    rc = sql ? sqlite3_prepare_v2(table->state->db, sql, -1, &select, NULL) : SQLITE_NOMEM;
    sqlite3_free(sql);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(select, 1, query, -1, sqlite3_free);
    else
        sqlite3_free(query);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(select, 2, (sqlite3_int64)want);
    while (rc == SQLITE_OK && n < want && sqlite3_step(select) == SQLITE_ROW) {
        found[n].rowid = sqlite3_column_int64(select, 0);
        found[n].chunk = -1;
        rc = search_doc_get(table, found[n].rowid, &doc);
        sqlite3_free(doc.places);
        if (rc == SQLITE_OK && doc.found) {
            found[n].rank = (double)(n + 1);
            n++;
        }
    }
    end = sqlite3_finalize(select);
    if (rc == SQLITE_OK)
        rc = end;
    *n_results = n;
    if (rc == SQLITE_ERROR && !table->base.zErrMsg)
        return search_fail(table, rc, "the table fts='%s': %s", table->fts, sqlite3_errmsg(table->state->db));
    return rc;
}

static int search_both(search_cursor *cursor)
{
    size_t want = cursor->k > LIST_ROWS ? (size_t)cursor->k : LIST_ROWS, n_meaning = 0, n_words = 0, n, i, to = 0;
    search_result *meaning = NULL, *words = NULL, *fused = NULL;
    int rc, all;

    rc = nearest_rows(cursor, want, &meaning, &n_meaning, &all);
    if (rc == SQLITE_OK)
        rc = word_rows(cursor, want, &words, &n_words);
    if (n_meaning > want)
        n_meaning = want;
    n = n_meaning + n_words;
    if (rc == SQLITE_OK && !(fused = sqlite3_malloc64((n + 1) * sizeof *fused)))
        rc = SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        for (i = 0; i < n_meaning; i++) {
            fused[i] = meaning[i];
            fused[i].rank = -1.0 / (double)(FUSION + 1 + i);
        }
        for (i = 0; i < n_words; i++) {
            fused[n_meaning + i] = words[i];
            fused[n_meaning + i].rank = -1.0 / (double)(FUSION + 1 + i);
        }
        if (n > 1)
            qsort(fused, n, sizeof *fused, by_row);
        for (i = 0; i < n; i++) {
            if (to && fused[to - 1].rowid == fused[i].rowid) {
                fused[to - 1].rank += fused[i].rank;
                if (fused[to - 1].chunk < 0)
                    fused[to - 1].chunk = fused[i].chunk;
            } else {
                fused[to++] = fused[i];
            }
        }
        if (to > 1)
            qsort(fused, to, sizeof *fused, by_rank);
        cursor->results = fused;
        cursor->n_results = to;
    }
    sqlite3_free(meaning);
    sqlite3_free(words);
    return rc;
}

/* ---- a scan --------------------------------------------------------------------------------------- */

static int scan_on(search_cursor *cursor)
{
    search_table *table = (search_table *)cursor->base.pVtab;
    sqlite3_stmt *range;
    int rc = search_statement_of(table, DOCS_RANGE, &range);

    if (rc != SQLITE_OK)
        return rc;
    cursor->n_results = cursor->at = 0;
    cursor->at_end = 1;
    if (cursor->low > cursor->high)
        return SQLITE_OK;
    if (!cursor->results && !(cursor->results = sqlite3_malloc64(SCAN_ROWS * sizeof *cursor->results)))
        return SQLITE_NOMEM;
    sqlite3_bind_int64(range, 1, cursor->low);
    sqlite3_bind_int64(range, 2, cursor->high);
    sqlite3_bind_int64(range, 3, SCAN_ROWS);
    while (sqlite3_step(range) == SQLITE_ROW && cursor->n_results < SCAN_ROWS)
        cursor->results[cursor->n_results++].rowid = sqlite3_column_int64(range, 0);
    rc = sqlite3_reset(range);
    if (rc != SQLITE_OK)
        return rc;
    cursor->at_end = cursor->n_results == 0;
    if (cursor->n_results) {
        int64_t last = cursor->results[cursor->n_results - 1].rowid;
        if (last == INT64_MAX || cursor->n_results < SCAN_ROWS)
            cursor->low = INT64_MAX, cursor->high = INT64_MIN;
        else
            cursor->low = last + 1;
    }
    return SQLITE_OK;
}

int search_next(sqlite3_vtab_cursor *base)
{
    search_cursor *cursor = (search_cursor *)base;
    search_table *table = (search_table *)base->pVtab;
    int rc;

    leave_row(cursor);
    cursor->at++;
    if (!cursor->search)
        return cursor->at < cursor->n_results ? SQLITE_OK : scan_on(cursor);
    if (cursor->at == cursor->n_results && cursor->batch) {
        cursor->batch = cursor->batch > SEARCH_MOST_K ? cursor->batch : cursor->batch * BATCH_GROWTH;
        rc = search_begin(table);
        if (rc == SQLITE_OK)
            rc = search_flush(table, 0);
        if (rc == SQLITE_OK)
            rc = search_on(cursor, cursor->batch);
        if (table->store)
            bls_store_end(table->store);
        if (rc != SQLITE_OK)
            return rc;
    }
    cursor->at_end = cursor->at >= cursor->n_results;
    return SQLITE_OK;
}

/* ---- xFilter -------------------------------------------------------------------------------------- */

static int rowid_term(search_cursor *cursor, int op, sqlite3_value *argument)
{
    bls_cell *cells = NULL, *more;
    size_t n = 0, allocated = 0;
    sqlite3_value *value = argument;
    int rc = op == BLS_FILTER_IN ? bls_vtab_in_first(argument, &value) : SQLITE_OK;

    while (rc == SQLITE_OK) {
        if (n == allocated) {
            allocated = allocated ? allocated * 2 : 16;
            more = sqlite3_realloc64(cells, allocated * sizeof *cells);
            if (!more) {
                rc = SQLITE_NOMEM;
                break;
            }
            cells = more;
        }
        sqlite3_value_numeric_type(value);
        if (op != BLS_FILTER_IN || sqlite3_value_type(value) == SQLITE_INTEGER || sqlite3_value_type(value) == SQLITE_FLOAT)
            rc = bls_cell_of(value, &cells[n++]); /* a text in the list is no rowid */
        if (op != BLS_FILTER_IN || rc != SQLITE_OK)
            break;
        rc = bls_vtab_in_next(argument, &value);
    }
    if (rc == SQLITE_DONE)
        rc = SQLITE_OK;
    if (rc == SQLITE_OK)
        rc = bls_filter_add(&cursor->filter, 0, (uint32_t)op, cells, n);
    sqlite3_free(cells);
    return rc;
}

/* Narrows a scan; SQLite checks again, so what is no integer may be left out. */
static void narrow(search_cursor *cursor, int op, sqlite3_value *value)
{
    int64_t n;

    if (sqlite3_value_type(value) == SQLITE_NULL)
        cursor->high = INT64_MIN, cursor->low = INT64_MAX;
    if (sqlite3_value_numeric_type(value) != SQLITE_INTEGER)
        return;
    n = sqlite3_value_int64(value);
    if ((op == BLS_FILTER_EQ || op == BLS_FILTER_GE || op == BLS_FILTER_GT) && n > cursor->low)
        cursor->low = n;
    if ((op == BLS_FILTER_EQ || op == BLS_FILTER_LE || op == BLS_FILTER_LT) && n < cursor->high)
        cursor->high = n;
}

static int begin_search(search_cursor *cursor, sqlite3_value *query, sqlite3_int64 limit, sqlite3_int64 offset)
{
    search_table *table = (search_table *)cursor->base.pVtab;
    size_t want;
    int rc;

    if (!query || sqlite3_value_type(query) == SQLITE_NULL || cursor->k == 0)
        return SQLITE_OK;
    rc = search_query_code(table, query, &cursor->code);
    if (rc != SQLITE_OK)
        return rc;
    if (table->fts && sqlite3_value_type(query) != SQLITE_BLOB) {
        cursor->length = (size_t)sqlite3_value_bytes(query);
        cursor->text = sqlite3_mprintf("%s", sqlite3_value_text(query));
        if (!cursor->text)
            return SQLITE_NOMEM;
        cursor->length = strlen(cursor->text);
        rc = search_both(cursor);
    } else {
        want = cursor->k > 0 ? (size_t)cursor->k : FIRST_BATCH;
        if (cursor->k < 0 && limit >= 0 && limit < SEARCH_MOST_K && offset < SEARCH_MOST_K)
            want = (size_t)(limit + (offset > 0 ? offset : 0));
        cursor->batch = cursor->k < 0 ? (want ? want : 1) : 0;
        rc = search_on(cursor, want);
    }
    if (rc == SQLITE_OK && cursor->k >= 0 && cursor->n_results > (size_t)cursor->k)
        cursor->n_results = (size_t)cursor->k;
    cursor->at_end = cursor->n_results == 0;
    return rc;
}

int search_filter(sqlite3_vtab_cursor *base, int number, const char *plan, int argc, sqlite3_value **argv)
{
    search_cursor *cursor = (search_cursor *)base;
    search_table *table = (search_table *)base->pVtab;
    sqlite3_value *query = NULL;
    sqlite3_int64 limit = -1, offset = 0;
    double most;
    int i, op, rc;

    clear(cursor);
    cursor->search = number == SEARCH_PLAN_SEARCH;
    cursor->k = -1;
    cursor->low = INT64_MIN;
    cursor->high = INT64_MAX;
    table->known = 0;
    rc = search_begin(table);
    if (rc == SQLITE_OK && cursor->search && table->n_pending) {
        sqlite3_int64 last = sqlite3_last_insert_rowid(table->state->db);
        rc = search_flush(table, 0);
        sqlite3_set_last_insert_rowid(table->state->db, last);
    }
    cursor->most = table->bits;
    for (i = 0; i < argc && rc == SQLITE_OK; i++) {
        op = plan[2 * i + 1] - 'a';
        switch (plan[2 * i]) {
        case SEARCH_ITEM_MATCH: query = argv[i]; break;
        case SEARCH_ITEM_K:
            if (sqlite3_value_numeric_type(argv[i]) != SQLITE_INTEGER)
                rc = search_fail(table, SQLITE_ERROR, "k must be an integer");
            else if ((cursor->k = sqlite3_value_int64(argv[i])) < 0 || cursor->k > SEARCH_MOST_K)
                rc = search_fail(table, SQLITE_ERROR, "k is %lld, but must be 0 to %d", cursor->k, SEARCH_MOST_K);
            break;
        case SEARCH_ITEM_RANK: /* SQLite looks again */
            most = sqlite3_value_double(argv[i]);
            if (sqlite3_value_type(argv[i]) == SQLITE_NULL || most < 0)
                cursor->filter.nothing = 1;
            else if (most < cursor->most &&
                     (sqlite3_value_type(argv[i]) == SQLITE_INTEGER || sqlite3_value_type(argv[i]) == SQLITE_FLOAT))
                cursor->most = (uint32_t)most;
            break;
        case SEARCH_ITEM_ROWID:
            if (cursor->search)
                rc = rowid_term(cursor, op, argv[i]);
            else
                narrow(cursor, op, argv[i]);
            break;
        case SEARCH_ITEM_LIMIT: limit = sqlite3_value_int64(argv[i]); break;
        case SEARCH_ITEM_OFFSET: offset = sqlite3_value_int64(argv[i]); break;
        default: rc = SQLITE_INTERNAL; break;
        }
    }
    if (rc == SQLITE_OK)
        rc = cursor->search ? begin_search(cursor, query, limit, offset) : scan_on(cursor);
    if (table->store)
        bls_store_end(table->store);
    if (rc != SQLITE_OK)
        clear(cursor);
    return rc;
}

/* ---- columns -------------------------------------------------------------------------------------- */

/* Stands on the row of the content; has_content 2 if there is one. */
static int content_row(search_cursor *cursor)
{
    search_table *table = (search_table *)cursor->base.pVtab;
    sqlite3_stmt *shared;
    int rc;

    if (cursor->has_content || table->content == CONTENT_NONE)
        return SQLITE_OK;
    if (!cursor->content) { /* of its own, because several cursors may stand on rows */
        rc = search_statement_of(table, CONTENT_GET, &shared);
        if (rc == SQLITE_OK)
            rc = sqlite3_prepare_v2(table->state->db, sqlite3_sql(shared), -1, &cursor->content, NULL);
        if (rc != SQLITE_OK)
            return rc;
    }
    sqlite3_bind_int64(cursor->content, 1, cursor->results[cursor->at].rowid);
    rc = sqlite3_step(cursor->content);
    cursor->has_content = rc == SQLITE_ROW ? 2 : 1;
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        return SQLITE_OK;
    return sqlite3_reset(cursor->content);
}

/* The best chunk of the row: its number and place. */
static int chunk_place(search_cursor *cursor, uint32_t place[2], int *found)
{
    search_table *table = (search_table *)cursor->base.pVtab;
    search_result *result = &cursor->results[cursor->at];
    bls_search search = {.store = table->store, .queries = cursor->code, .n_queries = 1, .code_bytes = table->bits / 8,
                         .most = table->bits, .after_distance = -1, .k = 1};
    bls_cell cell = {.tag = BLS_CELL_INTEGER, .as.integer = result->rowid};
    bls_filter filter;
    search_doc doc;
    bls_hit hit;
    size_t n = 0;
    int rc = SQLITE_OK;

    *found = 0;
    if (result->chunk < 0) { /* words alone have found it */
        bls_filter_init(&filter);
        rc = bls_filter_add(&filter, 0, BLS_FILTER_EQ, &cell, 1);
        search.filter = &filter;
        if (rc == SQLITE_OK)
            rc = bls_store_begin(table->store);
        if (rc == SQLITE_OK)
            rc = bls_search_run(table->state, &search, &hit, &n);
        bls_store_end(table->store);
        bls_filter_clear(&filter);
        if (rc != SQLITE_OK)
            return search_store_failed(table, rc);
        if (n == 0)
            return SQLITE_OK;
        result->chunk = hit.rowid;
    }
    rc = search_doc_get(table, result->rowid, &doc);
    if (rc == SQLITE_OK && doc.places && result->chunk >= doc.first && result->chunk < doc.first + doc.n) {
        memcpy(place, doc.places + 8 * (result->chunk - doc.first), 8);
        *found = 1;
    }
    sqlite3_free(doc.places);
    return rc; /* not found: changed meanwhile by the same connection */
}

/* `count` characters from character `start` on, as substr() counts them. */
static const char *characters(const char *text, size_t length, uint32_t start, uint32_t count, int *bytes)
{
    size_t i, from = length;
    uint64_t n = 0, end = (uint64_t)start + count;

    for (i = 0; i < length; i++) {
        if (((uint8_t)text[i] & 0xc0) == 0x80)
            continue;
        if (n == start)
            from = i;
        if (n == end)
            break;
        n++;
    }
    *bytes = (int)(from < i ? i - from : 0);
    return text + (from < length ? from : length);
}

static int chunk_column(search_cursor *cursor, sqlite3_context *context, int column)
{
    search_table *table = (search_table *)cursor->base.pVtab;
    sqlite3_value **values;
    uint32_t place[2];
    const char *part;
    char *text = NULL;
    size_t length = 0;
    int rc, found, i, bytes;

    if (!cursor->search)
        return SQLITE_OK;
    rc = chunk_place(cursor, place, &found);
    if (rc != SQLITE_OK || !found)
        return rc;
    if (column == HIDDEN_START) {
        sqlite3_result_int64(context, (sqlite3_int64)place[0] + 1);
    } else if (column == HIDDEN_LENGTH) {
        sqlite3_result_int64(context, place[1]);
    } else {
        rc = content_row(cursor);
        if (rc != SQLITE_OK || cursor->has_content != 2)
            return rc;
        values = sqlite3_malloc64((size_t)table->n_columns * sizeof *values);
        if (!values)
            return SQLITE_NOMEM;
        for (i = 0; i < table->n_columns; i++)
            values[i] = sqlite3_column_value(cursor->content, i + 1);
        rc = search_text(table, cursor->results[cursor->at].rowid, values, &text, &length);
        sqlite3_free(values);
        if (rc != SQLITE_OK)
            return rc;
        part = characters(text, length, place[0], place[1], &bytes);
        sqlite3_result_text(context, part, bytes, SQLITE_TRANSIENT);
        sqlite3_free(text);
    }
    return SQLITE_OK;
}

int search_column_of(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    search_cursor *cursor = (search_cursor *)base;
    search_table *table = (search_table *)base->pVtab;
    int rc;

    if (column < table->n_columns) {
        if (sqlite3_vtab_nochange(context)) /* an UPDATE that leaves it as it is */
            return SQLITE_OK;
        rc = content_row(cursor);
        if (rc == SQLITE_OK && cursor->has_content == 2)
            sqlite3_result_value(context, sqlite3_column_value(cursor->content, column + 1));
        return rc;
    }
    switch (column - table->n_columns) {
    case HIDDEN_K:
        if (cursor->search && cursor->k >= 0)
            sqlite3_result_int64(context, cursor->k);
        break;
    case HIDDEN_RANK:
        if (cursor->search && cursor->text)
            sqlite3_result_double(context, cursor->results[cursor->at].rank);
        else if (cursor->search)
            sqlite3_result_int64(context, (sqlite3_int64)cursor->results[cursor->at].rank);
        break;
    case HIDDEN_CHUNK:
    case HIDDEN_START:
    case HIDDEN_LENGTH: return chunk_column(cursor, context, column - table->n_columns);
    default: break;
    }
    return SQLITE_OK;
}
