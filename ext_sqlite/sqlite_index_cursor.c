/* sqlite_index_cursor.c - rows of bitlm_index: searching, streaming, scanning.
 *
 * xFilter reads the plan (sqlite_index_plan.c) and its arguments into a filter and either
 *   searches   the k nearest at once; without k a batch, and the next, larger one
 *              when SQLite has used it up, so `ORDER BY distance LIMIT n` and a join stop early;
 *   scans      block by block in order of rowid.
 * Rows found are kept by rowid; their columns are fetched when asked for, from the
 * blocks and from NAME_rows.  A row that is gone by then (a statement of the same connection
 * deleted it) has NULLs.
 *
 * A search over a vector column takes rescore * k nearest codes and orders them by the cosine distance
 * of their vectors.
 *
 * Called by SQLite through the module in sqlite_index.c. */
#include "sqlite_index.h"
#include "sqlite_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BATCH 64
#define BATCH_GROWTH 16

typedef struct index_result {
    int64_t rowid;
    double distance;
} index_result;

typedef struct index_cursor {
    sqlite3_vtab_cursor base;
    bls_filter filter;
    int search, at_end;
    /* a search */
    index_result *results;
    size_t n_results, at;
    size_t batch;        /* of a stream; 0: all results are there */
    uint8_t *code;       /* the query */
    uint32_t most;       /* largest distance */
    int is_vector;       /* distances are reals */
    sqlite3_int64 k;
    /* a scan */
    size_t block;
    bls_image *image; /* pinned */
    uint64_t *bits;   /* rows of it that pass */
    uint32_t row;
    uint64_t version;
    /* the row whose columns are asked for */
    int64_t rowid;
    bls_image *found;
    uint32_t found_row;
    int has_found;
} index_cursor;

/* ---- values -------------------------------------------------------------------------- */

int index_cell(char affinity, int stored, sqlite3_value *value, bls_cell *cell, char **text)
{
    int type = sqlite3_value_type(value), rc;

    *text = NULL;
    if (affinity == 't' && (type == SQLITE_INTEGER || type == SQLITE_FLOAT)) {
        /* A copy: asking for the text would change the value's own type for others. */
        sqlite3_value *copy = sqlite3_value_dup(value);
        const char *written = copy ? (const char *)sqlite3_value_text(copy) : NULL;
        *text = written ? sqlite3_mprintf("%s", written) : NULL;
        sqlite3_value_free(copy);
        if (!*text)
            return SQLITE_NOMEM;
        memset(cell, 0, sizeof *cell);
        cell->tag = BLS_CELL_TEXT;
        cell->as.bytes = (const uint8_t *)*text;
        cell->length = (uint32_t)strlen(*text);
        return SQLITE_OK;
    }
    if (type == SQLITE_TEXT && (affinity == 'i' || affinity == 'n' || affinity == 'r'))
        sqlite3_value_numeric_type(value);
    rc = bls_cell_of(value, cell);
    if (rc != SQLITE_OK || !stored)
        return rc;
    if (affinity == 'r' && cell->tag == BLS_CELL_INTEGER) {
        cell->tag = BLS_CELL_REAL;
        cell->as.real = (double)cell->as.integer;
    } else if ((affinity == 'i' || affinity == 'n') && cell->tag == BLS_CELL_REAL &&
               cell->as.real >= -9.2e18 && cell->as.real <= 9.2e18 &&
               (double)(int64_t)cell->as.real == cell->as.real) {
        cell->tag = BLS_CELL_INTEGER;
        cell->as.integer = (int64_t)cell->as.real;
    }
    return SQLITE_OK;
}

static int blob_of(index_table *table, sqlite3_value *value, const char *what, size_t length, const uint8_t **bytes)
{
    if (sqlite3_value_type(value) != SQLITE_BLOB)
        return index_fail(table, SQLITE_ERROR, "%s is %s, but must be a BLOB of %lld bytes", what, bls_type_name(value),
                          (sqlite3_int64)length);
    if ((size_t)sqlite3_value_bytes(value) != length)
        return index_fail(table, SQLITE_ERROR, "%s has %d bytes, but must have %lld (bits=%u)", what,
                          sqlite3_value_bytes(value), (sqlite3_int64)length, table->bits);
    *bytes = sqlite3_value_blob(value);
    return *bytes ? SQLITE_OK : SQLITE_NOMEM;
}

int index_code(index_table *table, sqlite3_value *value, const char *what, const uint8_t **code)
{
    return blob_of(table, value, what, table->bits / 8, code);
}

int index_vector(index_table *table, sqlite3_value *value, const char *what, const uint8_t **vector)
{
    return blob_of(table, value, what, (size_t)table->bits * 4, vector);
}

int index_binarize(index_table *table, const uint8_t *vector, uint8_t *code)
{
    float *values = sqlite3_malloc64((uint64_t)table->bits * 4);

    if (!values)
        return SQLITE_NOMEM;
    memcpy(values, vector, (size_t)table->bits * 4); /* SQLite aligns no BLOB */
    bitlm_binarize(values, table->bits, 0.0f, code);
    sqlite3_free(values);
    return SQLITE_OK;
}

int index_key_rowid(index_table *table, sqlite3_value *key, int64_t *rowid, int *found)
{
    sqlite3_stmt *select;
    int rc = index_statement(table, ROWS_BY_KEY, &select);

    *found = 0;
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_value(select, 1, key);
    if (sqlite3_step(select) == SQLITE_ROW) {
        *rowid = sqlite3_column_int64(select, 0);
        *found = 1;
    }
    sqlite3_clear_bindings(select);
    return sqlite3_reset(select);
}

/* ---- the cursor ------------------------------------------------------------------------ */

int index_open(sqlite3_vtab *base, sqlite3_vtab_cursor **result)
{
    index_cursor *cursor = sqlite3_malloc64(sizeof *cursor);

    (void)base;
    if (!cursor)
        return SQLITE_NOMEM;
    memset(cursor, 0, sizeof *cursor);
    bls_filter_init(&cursor->filter);
    *result = &cursor->base;
    return SQLITE_OK;
}

static void forget_row(index_cursor *cursor)
{
    bls_image_release(cursor->found);
    cursor->found = NULL;
    cursor->has_found = 0;
}

static void clear(index_cursor *cursor)
{
    forget_row(cursor);
    bls_image_release(cursor->image);
    cursor->image = NULL;
    bls_filter_clear(&cursor->filter);
    sqlite3_free(cursor->results);
    sqlite3_free(cursor->code);
    sqlite3_free(cursor->bits);
    cursor->results = NULL;
    cursor->code = NULL;
    cursor->bits = NULL;
    cursor->n_results = cursor->at = cursor->batch = 0;
    cursor->at_end = 1;
}

int index_close(sqlite3_vtab_cursor *base)
{
    clear((index_cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

int index_eof(sqlite3_vtab_cursor *base)
{
    return ((index_cursor *)base)->at_end;
}

int index_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    *rowid = ((index_cursor *)base)->rowid;
    return SQLITE_OK;
}

/* ---- a search --------------------------------------------------------------------------- */

/* Appends up to `want` hits behind the last result. */
static int run_search(index_cursor *cursor, size_t want)
{
    index_table *table = (index_table *)cursor->base.pVtab;
    uint64_t rows = bls_store_rows(table->store);
    const index_result *last = cursor->n_results ? &cursor->results[cursor->n_results - 1] : NULL;
    bls_search search = {.store = table->store, .queries = cursor->code, .n_queries = 1,
                         .code_bytes = table->bits / 8, .most = cursor->most, .after_distance = -1};
    index_result *results;
    bls_hit *hits;
    size_t n = 0, i;
    int rc;

    if (want > rows)
        want = (size_t)rows;
    if (want == 0 || cursor->filter.nothing)
        return SQLITE_OK;
    search.k = want;
    search.filter = bls_filter_is_open(&cursor->filter) ? NULL : &cursor->filter;
    if (last) {
        search.after_distance = (int64_t)last->distance;
        search.after_rowid = last->rowid;
    }
    hits = sqlite3_malloc64(want * sizeof *hits);
    if (!hits)
        return SQLITE_NOMEM;
    rc = bls_search_run(table->state, &search, hits, &n);
    if (rc == SQLITE_OK && n) {
        results = sqlite3_realloc64(cursor->results, (cursor->n_results + n) * sizeof *results);
        if (!results) {
            rc = SQLITE_NOMEM;
        } else {
            cursor->results = results;
            for (i = 0; i < n; i++) {
                results[cursor->n_results + i].rowid = hits[i].rowid;
                results[cursor->n_results + i].distance = hits[i].distance;
            }
            cursor->n_results += n;
        }
    }
    sqlite3_free(hits);
    return rc;
}

static int compare_results(const void *a, const void *b)
{
    const index_result *x = a, *y = b;

    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->rowid > y->rowid) - (x->rowid < y->rowid);
}

/* Orders the candidates by their vectors and keeps k within `most`. */
static int rescore(index_cursor *cursor, const uint8_t *query, double most, int strict)
{
    index_table *table = (index_table *)cursor->base.pVtab;
    size_t bytes = (size_t)table->bits * 4, i, to = 0;
    int number = table->columns[table->vector].number, rc, step;
    sqlite3_stmt *select;
    float *pair;

    rc = index_statement(table, ROWS_SELECT, &select);
    if (rc != SQLITE_OK)
        return rc;
    pair = sqlite3_malloc64(2 * bytes);
    if (!pair)
        return SQLITE_NOMEM;
    memcpy(pair, query, bytes);
    for (i = 0; i < cursor->n_results && rc == SQLITE_OK; i++) {
        index_result *result = &cursor->results[i];
        sqlite3_bind_int64(select, 1, result->rowid);
        step = sqlite3_step(select);
        if (step == SQLITE_ROW && sqlite3_column_type(select, number) == SQLITE_BLOB &&
            (size_t)sqlite3_column_bytes(select, number) == bytes) {
            memcpy(pair + table->bits, sqlite3_column_blob(select, number), bytes);
            result->distance = 1.0 - bitlm_cosine(pair, pair + table->bits, table->bits);
            if (strict ? result->distance < most : result->distance <= most)
                cursor->results[to++] = *result;
        } else if (step == SQLITE_ROW && sqlite3_column_type(select, number) == SQLITE_NULL) {
            rc = SQLITE_OK; /* a row that was given as a code has no vector to be found by */
        } else if (step == SQLITE_ROW || step == SQLITE_DONE) {
            rc = index_fail(table, SQLITE_CORRUPT_VTAB, "row %lld has no vector", (sqlite3_int64)result->rowid);
        }
        step = sqlite3_reset(select);
        if (rc == SQLITE_OK)
            rc = step;
    }
    sqlite3_free(pair);
    if (rc != SQLITE_OK)
        return rc;
    if (to > 1)
        qsort(cursor->results, to, sizeof *cursor->results, compare_results);
    cursor->n_results = to < (size_t)cursor->k ? to : (size_t)cursor->k;
    return SQLITE_OK;
}

/* ---- a scan ----------------------------------------------------------------------------- */

/* From (block, row) on, the next row that passes. */
static int scan_on(index_cursor *cursor)
{
    index_table *table = (index_table *)cursor->base.pVtab;
    bls_image *image;
    int64_t first, last;
    int rc;

    for (;;) {
        if (cursor->image) {
            while (cursor->row < cursor->image->n) {
                uint64_t word = cursor->bits[cursor->row / 64] >> (cursor->row % 64);
                if (word) {
                    cursor->row += (uint32_t)__builtin_ctzll(word);
                    cursor->rowid = bls_image_rowid(cursor->image, cursor->row);
                    return SQLITE_OK;
                }
                cursor->row = (cursor->row / 64 + 1) * 64;
            }
            last = bls_image_rowid(cursor->image, cursor->image->n - 1);
            bls_image_release(cursor->image);
            cursor->image = NULL;
            cursor->block++;
            cursor->row = 0;
            if (cursor->version != bls_store_version(table->store)) {
                /* Written meanwhile: go on behind the last rowid seen. */
                if (last == INT64_MAX) {
                    cursor->at_end = 1;
                    return SQLITE_OK;
                }
                bls_filter_range(&cursor->filter, last + 1, INT64_MAX);
                cursor->version = bls_store_version(table->store);
                cursor->block = bls_store_blocks(table->store) ? bls_store_block_of(table->store, last + 1) : 0;
            }
        }
        if (cursor->filter.nothing || cursor->block >= bls_store_blocks(table->store)) {
            cursor->at_end = 1;
            return SQLITE_OK;
        }
        bls_store_range(table->store, cursor->block, &first, &last);
        if (first > cursor->filter.high) {
            cursor->at_end = 1;
            return SQLITE_OK;
        }
        if (!bls_filter_may_touch(&cursor->filter, first, last)) {
            cursor->block++;
            continue;
        }
        rc = bls_store_block(table->store, cursor->block, &image);
        bls_store_end(table->store);
        if (rc != SQLITE_OK)
            return index_store_failed(table, rc);
        if (!image) {
            cursor->block++;
            continue;
        }
        cursor->image = image;
        cursor->row = 0;
        sqlite3_free(cursor->bits);
        cursor->bits = sqlite3_malloc64(BLS_FILTER_WORDS(image->n) * sizeof(uint64_t));
        if (!cursor->bits)
            return SQLITE_NOMEM;
        if (bls_filter_block(&cursor->filter, image, cursor->bits) == 0)
            cursor->row = image->n;
    }
}

int index_next(sqlite3_vtab_cursor *base)
{
    index_cursor *cursor = (index_cursor *)base;
    index_table *table = (index_table *)base->pVtab;
    int rc;

    forget_row(cursor);
    if (!cursor->search) {
        cursor->row++;
        return scan_on(cursor);
    }
    cursor->at++;
    if (cursor->at == cursor->n_results && cursor->batch) {
        cursor->batch = cursor->batch > INDEX_MOST_K ? cursor->batch : cursor->batch * BATCH_GROWTH;
        rc = bls_store_begin(table->store);
        if (rc == SQLITE_OK)
            rc = run_search(cursor, cursor->batch);
        bls_store_end(table->store);
        if (rc != SQLITE_OK)
            return index_store_failed(table, rc);
    }
    cursor->at_end = cursor->at >= cursor->n_results;
    if (!cursor->at_end)
        cursor->rowid = cursor->results[cursor->at].rowid;
    return SQLITE_OK;
}

/* ---- xFilter ------------------------------------------------------------------------------ */

/* The integers r for which `r op number` may hold, as [low, high]; 0: none. */
static int rowid_range(int op, sqlite3_value *value, int64_t *low, int64_t *high)
{
    int type = sqlite3_value_numeric_type(value);
    int64_t n = 0;
    double real, down;

    *low = INT64_MIN;
    *high = INT64_MAX;
    if (type == SQLITE_NULL)
        return 0;
    if (type == SQLITE_TEXT || type == SQLITE_BLOB) /* behind all numbers */
        return op == BLS_FILTER_LT || op == BLS_FILTER_LE;
    if (type == SQLITE_INTEGER) {
        n = sqlite3_value_int64(value);
    } else {
        real = sqlite3_value_double(value);
        down = floor(real);
        if (real >= 9223372036854775808.0)
            return op == BLS_FILTER_LT || op == BLS_FILTER_LE;
        if (real < -9223372036854775808.0)
            return op == BLS_FILTER_GT || op == BLS_FILTER_GE;
        n = (int64_t)down;
        if (down != real) { /* between n and n + 1 */
            if (op == BLS_FILTER_EQ || op == BLS_FILTER_IS)
                return 0;
            op = op == BLS_FILTER_LT || op == BLS_FILTER_LE ? BLS_FILTER_LE : BLS_FILTER_GT;
        }
    }
    switch (op) {
    case BLS_FILTER_EQ:
    case BLS_FILTER_IS:
        *low = *high = n;
        return 1;
    case BLS_FILTER_LT:
        if (n == INT64_MIN)
            return 0;
        *high = n - 1;
        return 1;
    case BLS_FILTER_LE: *high = n; return 1;
    case BLS_FILTER_GT:
        if (n == INT64_MAX)
            return 0;
        *low = n + 1;
        return 1;
    default: *low = n; return 1;
    }
}

typedef struct list {
    void *items;
    size_t n, allocated, size;
} list;

static void *append(list *l)
{
    size_t more;
    void *items;

    if (l->n == l->allocated) {
        more = l->allocated ? l->allocated * 2 : 16;
        items = sqlite3_realloc64(l->items, more * l->size);
        if (!items)
            return NULL;
        l->items = items;
        l->allocated = more;
    }
    return (char *)l->items + l->size * l->n++;
}

/* rowid IN (…), key = …, key IN (…): a set of rowids. */
static int rowid_set(index_cursor *cursor, char kind, int op, sqlite3_value *argument)
{
    index_table *table = (index_table *)cursor->base.pVtab;
    list set = {.size = sizeof(int64_t)};
    sqlite3_value *value = argument;
    int64_t low, high, *slot;
    int rc = op == BLS_FILTER_IN ? bls_vtab_in_first(argument, &value) : SQLITE_OK, found;

    while (rc == SQLITE_OK) {
        if (kind == ITEM_KEY) {
            rc = sqlite3_value_type(value) == SQLITE_NULL ? (found = 0, SQLITE_OK)
                                                          : index_key_rowid(table, value, &low, &found);
            if (rc != SQLITE_OK)
                break;
        } else {
            found = rowid_range(BLS_FILTER_EQ, value, &low, &high);
        }
        if (found) {
            slot = append(&set);
            if (!slot) {
                rc = SQLITE_NOMEM;
                break;
            }
            *slot = low;
        }
        if (op != BLS_FILTER_IN)
            break;
        rc = bls_vtab_in_next(argument, &value);
    }
    if (rc == SQLITE_DONE)
        rc = SQLITE_OK;
    if (rc != SQLITE_OK) {
        sqlite3_free(set.items);
        return rc;
    }
    return bls_filter_rowids(&cursor->filter, set.items, set.n);
}

static int meta_term(index_cursor *cursor, int number, int op, sqlite3_value *argument)
{
    index_table *table = (index_table *)cursor->base.pVtab;
    list cells = {.size = sizeof(bls_cell)}, texts = {.size = sizeof(char *)};
    sqlite3_value *value = argument;
    char affinity = 'b', *text, **slot;
    int rc = op == BLS_FILTER_IN ? bls_vtab_in_first(argument, &value) : SQLITE_OK;
    bls_cell *cell, one;
    size_t i;

    for (i = 0; i < (size_t)table->n_columns; i++)
        if (table->columns[i].role == ROLE_META && table->columns[i].number == number)
            affinity = table->columns[i].affinity;
    while (rc == SQLITE_OK) {
        rc = index_cell(affinity, 0, value, &one, &text);
        if (rc != SQLITE_OK)
            break;
        if (op == BLS_FILTER_IN && one.tag >= BLS_CELL_TEXT && !text) {
            /* The next value of the list may overwrite it. */
            text = sqlite3_malloc64((uint64_t)one.length + 1);
            if (!text) {
                rc = SQLITE_NOMEM;
                break;
            }
            if (one.length)
                memcpy(text, one.as.bytes, one.length);
            one.as.bytes = (const uint8_t *)text;
        }
        if (text) {
            slot = append(&texts);
            if (!slot) {
                sqlite3_free(text);
                rc = SQLITE_NOMEM;
                break;
            }
            *slot = text;
        }
        cell = append(&cells);
        if (!cell) {
            rc = SQLITE_NOMEM;
            break;
        }
        *cell = one;
        if (op != BLS_FILTER_IN)
            break;
        rc = bls_vtab_in_next(argument, &value);
    }
    if (rc == SQLITE_DONE)
        rc = SQLITE_OK;
    if (rc == SQLITE_OK)
        rc = bls_filter_add(&cursor->filter, (uint32_t)number, (uint32_t)op, cells.items, cells.n);
    for (i = 0; i < texts.n; i++)
        sqlite3_free(((char **)texts.items)[i]);
    sqlite3_free(texts.items);
    sqlite3_free(cells.items);
    return rc;
}

static int unhex(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

int index_filter(sqlite3_vtab_cursor *base, int number, const char *plan, int argc, sqlite3_value **argv)
{
    index_cursor *cursor = (index_cursor *)base;
    index_table *table = (index_table *)base->pVtab;
    sqlite3_int64 limit = -1, offset = 0;
    const uint8_t *bytes = NULL;
    double most = INFINITY, bound;
    int i, rc, op, strict = 0, null_query = 0;
    int64_t low, high;
    size_t want;

    clear(cursor);
    cursor->search = (number & PLAN_KNN) != 0;
    cursor->is_vector = 0;
    cursor->k = -1;
    cursor->at_end = 0;
    rc = bls_store_begin(table->store);
    if (rc != SQLITE_OK)
        goto fail;
    for (i = 0; i < argc && rc == SQLITE_OK; i++) {
        const char *item = plan + i * ITEM_BYTES;
        op = item[3] - 'a';
        switch (item[0]) {
        case ITEM_CODE:
        case ITEM_VECTOR:
            if (sqlite3_value_type(argv[i]) == SQLITE_NULL) {
                null_query = 1;
                break;
            }
            cursor->is_vector = item[0] == ITEM_VECTOR;
            cursor->code = sqlite3_malloc64(table->bits / 8);
            if (!cursor->code)
                rc = SQLITE_NOMEM;
            else if (cursor->is_vector)
                rc = index_vector(table, argv[i], "the query", &bytes);
            else
                rc = index_code(table, argv[i], "the query", &bytes);
            if (rc == SQLITE_OK && cursor->is_vector)
                rc = index_binarize(table, bytes, cursor->code);
            else if (rc == SQLITE_OK)
                memcpy(cursor->code, bytes, table->bits / 8);
            break;
        case ITEM_K:
            if (sqlite3_value_numeric_type(argv[i]) != SQLITE_INTEGER)
                rc = index_fail(table, SQLITE_ERROR, "k is %s, but must be an integer", bls_type_name(argv[i]));
            else if ((cursor->k = sqlite3_value_int64(argv[i])) < 0 || cursor->k > INDEX_MOST_K)
                rc = index_fail(table, SQLITE_ERROR, "k is %lld, but must be 0 to %d", cursor->k, INDEX_MOST_K);
            break;
        case ITEM_DISTANCE:
            if (sqlite3_value_numeric_type(argv[i]) == SQLITE_NULL) {
                cursor->filter.nothing = 1;
            } else if (sqlite3_value_type(argv[i]) == SQLITE_INTEGER || sqlite3_value_type(argv[i]) == SQLITE_FLOAT) {
                bound = sqlite3_value_double(argv[i]);
                if (bound < most || (bound == most && op == BLS_FILTER_LT)) {
                    most = bound;
                    strict = op == BLS_FILTER_LT;
                }
            } /* a text is larger than any number */
            break;
        case ITEM_ROWID:
            if (op == BLS_FILTER_IN)
                rc = rowid_set(cursor, ITEM_ROWID, op, argv[i]);
            else if (rowid_range(op, argv[i], &low, &high))
                bls_filter_range(&cursor->filter, low, high);
            else
                cursor->filter.nothing = 1;
            break;
        case ITEM_KEY: rc = rowid_set(cursor, ITEM_KEY, op, argv[i]); break;
        case ITEM_META: rc = meta_term(cursor, unhex(item[1]) * 16 + unhex(item[2]), op, argv[i]); break;
        case ITEM_LIMIT: limit = sqlite3_value_int64(argv[i]); break;
        case ITEM_OFFSET: offset = sqlite3_value_int64(argv[i]); break;
        default: rc = SQLITE_INTERNAL; break;
        }
    }
    if (rc != SQLITE_OK)
        goto fail;
    if (null_query) {
        cursor->at_end = 1;
        goto done;
    }
    if (!cursor->search) {
        cursor->version = bls_store_version(table->store);
        cursor->block = bls_store_blocks(table->store) ? bls_store_block_of(table->store, cursor->filter.low) : 0;
        rc = scan_on(cursor);
        if (rc != SQLITE_OK)
            goto fail;
        goto done;
    }
    /* The largest integer distance that counts. */
    cursor->most = table->bits;
    if (!cursor->is_vector && most < (double)table->bits) {
        if (most < 0 || (most == 0 && strict))
            cursor->filter.nothing = 1;
        else
            cursor->most = (uint32_t)most - (strict && floor(most) == most);
    } else if (!cursor->is_vector && most == (double)table->bits && strict) {
        cursor->most = table->bits - 1;
    }
    if (cursor->is_vector && cursor->k < 0) {
        if (limit < 0 || !(number & PLAN_ALL)) {
            rc = index_fail(table, SQLITE_ERROR,
                            "a search by vector needs k: WHERE %s MATCH ? AND k = 10",
                            table->columns[table->vector].name);
            goto fail;
        }
        offset = offset > 0 ? offset : 0;
        if (limit > INDEX_MOST_K || offset > INDEX_MOST_K - limit) {
            rc = index_fail(table, SQLITE_ERROR, "LIMIT and OFFSET ask for more than %d rows by a vector", INDEX_MOST_K);
            goto fail;
        }
        cursor->k = limit + offset;
    }
    if (cursor->k < 0) {
        want = FIRST_BATCH;
        if (limit >= 0 && limit < INDEX_MOST_K && offset < INDEX_MOST_K)
            want = (size_t)(limit + (offset > 0 ? offset : 0));
        if (want == 0)
            want = 1;
        cursor->batch = want;
    } else {
        want = (size_t)cursor->k;
    }
    if (cursor->is_vector) {
        want = (size_t)cursor->k * (size_t)table->rescore;
        want = want < 64 && cursor->k ? 64 : want;
    }
    rc = run_search(cursor, want);
    if (rc == SQLITE_OK && cursor->is_vector)
        rc = rescore(cursor, bytes, most, strict);
    if (rc != SQLITE_OK)
        goto fail;
    if (cursor->n_results < want)
        cursor->batch = 0; /* there are no more */
    cursor->at_end = cursor->n_results == 0;
    if (!cursor->at_end)
        cursor->rowid = cursor->results[0].rowid;
done:
    bls_store_end(table->store);
    return SQLITE_OK;
fail:
    bls_store_end(table->store);
    clear(cursor);
    return index_store_failed(table, rc);
}

/* ---- columns ------------------------------------------------------------------------------- */

/* Pins the image of the cursor's row; *image NULL if the row is gone. */
static int find_row(index_cursor *cursor, bls_image **image, uint32_t *row)
{
    index_table *table = (index_table *)cursor->base.pVtab;
    int rc;

    if (!cursor->search) {
        *image = cursor->image;
        *row = cursor->row;
        return SQLITE_OK;
    }
    if (!cursor->has_found) {
        rc = bls_store_find(table->store, cursor->rowid, &cursor->found, &cursor->found_row);
        bls_store_end(table->store);
        if (rc != SQLITE_OK)
            return index_store_failed(table, rc);
        cursor->has_found = 1;
    }
    *image = cursor->found;
    *row = cursor->found_row;
    return SQLITE_OK;
}

static int row_column(index_cursor *cursor, sqlite3_context *context, int number)
{
    index_table *table = (index_table *)cursor->base.pVtab;
    sqlite3_stmt *select;
    int rc = index_statement(table, ROWS_SELECT, &select);

    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(select, 1, cursor->rowid);
    if (sqlite3_step(select) == SQLITE_ROW)
        sqlite3_result_value(context, sqlite3_column_value(select, number));
    return sqlite3_reset(select);
}

int index_column_of(sqlite3_vtab_cursor *base, sqlite3_context *context, int number)
{
    index_cursor *cursor = (index_cursor *)base;
    index_table *table = (index_table *)base->pVtab;
    const index_column *column = &table->columns[number];
    bls_image *image = NULL;
    bls_cell cell;
    uint32_t row = 0;
    int rc;

    /* An UPDATE that leaves the column as it is: xUpdate keeps what is stored. */
    if ((column->role == ROLE_CODE || column->role == ROLE_AUX || column->role == ROLE_VECTOR ||
         column->role == ROLE_META) &&
        sqlite3_vtab_nochange(context))
        return SQLITE_OK;
    switch (column->role) {
    case ROLE_ROWID: sqlite3_result_int64(context, cursor->rowid); return SQLITE_OK;
    case ROLE_KEY: return row_column(cursor, context, 1);
    case ROLE_AUX:
    case ROLE_VECTOR: return row_column(cursor, context, column->number);
    case ROLE_CODE:
    case ROLE_META:
        rc = find_row(cursor, &image, &row);
        if (rc != SQLITE_OK || !image)
            return rc;
        if (column->role == ROLE_CODE) {
            sqlite3_result_blob(context, image->codes + (size_t)row * image->code_bytes, (int)image->code_bytes,
                                SQLITE_TRANSIENT);
        } else {
            const bls_image_column *meta = &image->columns[column->number];
            bls_image_entry(meta, bls_image_number(meta, row), &cell);
            bls_cell_result(context, &cell);
        }
        return SQLITE_OK;
    case ROLE_DISTANCE:
        if (cursor->search && cursor->is_vector)
            sqlite3_result_double(context, cursor->results[cursor->at].distance);
        else if (cursor->search)
            sqlite3_result_int64(context, (sqlite3_int64)cursor->results[cursor->at].distance);
        return SQLITE_OK;
    case ROLE_K:
        if (cursor->search && cursor->k >= 0)
            sqlite3_result_int64(context, cursor->k);
        return SQLITE_OK;
    case ROLE_COMMAND: return SQLITE_OK;
    }
    return SQLITE_OK;
}
