/* sqlite_search_queue.c - the texts of a transaction, embedded together.
 *
 * xUpdate writes a row at once, with a ticket in NAME_docs that says "no codes yet", and puts its text
 * into a queue in memory.  A flush (before a search, at the end of the transaction, when enough has come together) cuts the
 * texts into chunks, embeds all of them in one call of the core, and replaces the tickets.  So a
 * transaction of 10,000 short rows costs ten calls, and a ticket is never committed.
 *
 * Savepoints need no copy of the queue: the database says which tickets still hold, whatever was
 * deleted, changed or rolled back since.  Only one case needs care: a row came before a savepoint, was
 * flushed (or deleted) behind it, and ROLLBACK TO makes its ticket hold again.  So an entry is kept,
 * with its codes in place of its text, while a savepoint is open that began after it.  Statements of a trigger each
 * have a savepoint too; that is why xSavepoint does not flush.
 *
 * Called by sqlite_search.c, sqlite_search_write.c and sqlite_search_cursor.c. */
#include "sqlite_search.h"

#include <string.h>

#define FULL_ROWS 1000
#define FULL_BYTES 1048576

static void clear_entry(search_pending *p)
{
    sqlite3_free(p->text);
    sqlite3_free(p->places);
    p->text = NULL;
    p->places = NULL;
}

void search_forget(search_table *table)
{
    size_t i;

    if (table->flushing) {
        table->ended = 1;
        return;
    }
    table->ended = 0;
    for (i = 0; i < table->n_pending; i++)
        clear_entry(&table->pending[i]);
    table->n_pending = table->n_waiting = table->waiting_bytes = 0;
    table->depth = table->rolled_back = 0;
}

/* Drops what no savepoint can bring back: everything that came after the last one. */
static void drop(search_table *table)
{
    size_t i, to = 0;

    table->n_waiting = table->waiting_bytes = 0;
    for (i = 0; i < table->n_pending; i++) {
        if (table->pending[i].depth < table->depth)
            table->pending[to++] = table->pending[i];
        else
            clear_entry(&table->pending[i]);
    }
    table->n_pending = to;
}

void search_released(search_table *table, int savepoint)
{
    size_t i;

    table->depth = savepoint;
    for (i = 0; i < table->n_pending; i++)
        if (table->pending[i].depth > savepoint)
            table->pending[i].depth = savepoint;
    if (table->n_waiting == 0 && !table->rolled_back)
        drop(table);
}

int search_enqueue(search_table *table, int64_t rowid, char *text, size_t length, int64_t *ticket)
{
    search_pending *pending;
    size_t n = table->n_allocated ? table->n_allocated * 2 : 64;

    if (table->n_pending == table->n_allocated) {
        pending = sqlite3_realloc64(table->pending, n * sizeof *pending);
        if (!pending) {
            sqlite3_free(text);
            return SQLITE_NOMEM;
        }
        table->pending = pending;
        table->n_allocated = n;
    }
    pending = &table->pending[table->n_pending++];
    memset(pending, 0, sizeof *pending);
    pending->rowid = rowid;
    pending->ticket = *ticket = ++table->ticket;
    pending->text = text;
    pending->length = length;
    pending->depth = table->depth;
    table->n_waiting++;
    table->waiting_bytes += length;
    return SQLITE_OK;
}

/* Whether the row is there and waits for just this entry. */
static int holds(search_table *table, const search_pending *p, int *due)
{
    sqlite3_stmt *get;
    int rc = search_statement_of(table, DOCS_GET, &get);

    *due = 0;
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(get, 1, p->rowid);
    if (sqlite3_step(get) == SQLITE_ROW)
        *due = sqlite3_column_type(get, 0) == SQLITE_INTEGER && sqlite3_column_int64(get, 0) == p->ticket;
    return sqlite3_reset(get);
}

/* ---- chunks and codes ------------------------------------------------------------------------ */

typedef struct batch {
    search_table *table;
    bls_call call;
    bitlm_model *model;
    size_t chunk_size, overlap, model_bytes; /* of the model's codes */
    bitlm_chunk *chunks;                     /* of all due entries, one after the other */
    bitlm_text *texts;
    size_t n, n_allocated;
    uint8_t *codes;                          /* (n, model_bytes) */
} batch;

static int grow(batch *b, size_t more)
{
    size_t n = b->n_allocated ? b->n_allocated : 256;
    void *memory;

    while (n < b->n + more)
        n *= 2;
    if (n == b->n_allocated)
        return SQLITE_OK;
    memory = sqlite3_realloc64(b->chunks, n * sizeof *b->chunks);
    if (!memory)
        return SQLITE_NOMEM;
    b->chunks = memory;
    memory = sqlite3_realloc64(b->texts, n * sizeof *b->texts);
    if (!memory)
        return SQLITE_NOMEM;
    b->texts = memory;
    b->n_allocated = n;
    return SQLITE_OK;
}

static bitlm_status chunk_text(batch *b, const char *text, size_t length, size_t *n_chunks)
{
    bitlm_status status;
    bitlm_host host;
    size_t room, n = 0, i;

    /* A row without text has no chunk, so nothing finds it. */
    *n_chunks = 0;
    if (length == 0)
        return BITLM_OK;
    bls_host(b->table->state, &host);
    if (grow(b, 1) != SQLITE_OK)
        return bls_error(&b->call, BITLM_NOMEM, "out of memory");
    for (;;) {
        room = b->n_allocated - b->n;
        bls_enter(b->table->state);
        status = bitlm_chunks(b->model, text, length, b->chunk_size, b->overlap, &host, b->chunks + b->n, room, &n,
                              &b->call.error);
        bls_leave(b->table->state);
        if (status != BITLM_LIMIT || n <= room)
            break;
        if (grow(b, n) != SQLITE_OK)
            return bls_error(&b->call, BITLM_NOMEM, "out of memory");
    }
    if (status)
        return status;
    for (i = b->n; i < b->n + n; i++) {
        b->texts[i].data = text + b->chunks[i].byte_start;
        b->texts[i].length = b->chunks[i].byte_length;
    }
    b->n += n;
    *n_chunks = n;
    return BITLM_OK;
}

static bitlm_status begin_batch(batch *b, search_table *table)
{
    bitlm_model_info info;
    bitlm_status status;
    int64_t size;

    memset(b, 0, sizeof *b);
    b->table = table;
    status = bls_begin(&b->call, table->state, "bitlm_search", NULL);
    b->call.options.truncate = BITLM_TRUNCATE_END;
    if (status == BITLM_OK)
        status = search_model(table, &b->call, 0, &b->model);
    if (status == BITLM_OK)
        status = bls_describe(&b->call, b->model, &info);
    if (status)
        return status;
    /* Room for the marks around a text. */
    size = table->chunk_size ? table->chunk_size : SEARCH_DEFAULT_CHUNK;
    if (size > info.context_length - 2)
        size = info.context_length - 2;
    b->chunk_size = (size_t)(size < 1 ? 1 : size);
    b->overlap = (size_t)table->overlap < b->chunk_size ? (size_t)table->overlap : b->chunk_size - 1;
    b->model_bytes = (size_t)info.embedding_bits / 8;
    return BITLM_OK;
}

static void end_batch(batch *b)
{
    sqlite3_free(b->chunks);
    sqlite3_free(b->texts);
    sqlite3_free(b->codes);
    bitlm_model_free(b->model);
    bls_end(&b->call);
}

static bitlm_status embed(batch *b)
{
    bls_session *session = NULL;
    bitlm_status status;

    b->codes = sqlite3_malloc64(b->n * b->model_bytes + 1);
    if (!b->codes)
        return bls_error(&b->call, BITLM_NOMEM, "out of memory");
    if (b->n == 0)
        return BITLM_OK;
    status = bls_borrow(&b->call, b->model, &session);
    if (status == BITLM_OK) {
        bls_enter(b->table->state);
        status = bitlm_embed_batch(session->core, b->texts, b->n, BITLM_EMBED_BITS, &b->call.options, b->codes,
                                   b->model_bytes, NULL, &b->call.error);
        bls_leave(b->table->state);
    }
    bls_return(b->table->state, session, status);
    return status;
}

/* Gives the codes at `from` to an entry. */
static int keep_codes(batch *b, search_pending *p, size_t from, size_t n)
{
    size_t code_bytes = b->table->bits / 8, i;
    uint8_t *places = sqlite3_malloc64(n * (8 + code_bytes) + 1), *codes = places + n * 8;
    uint32_t place[2];

    if (!places)
        return SQLITE_NOMEM;
    for (i = 0; i < n; i++) {
        place[0] = (uint32_t)b->chunks[from + i].char_start;
        place[1] = (uint32_t)b->chunks[from + i].char_length;
        memcpy(places + i * 8, place, 8);
        memcpy(codes + i * code_bytes, b->codes + (from + i) * b->model_bytes, code_bytes);
    }
    p->places = places;
    p->n = n;
    sqlite3_free(p->text);
    p->text = NULL;
    return SQLITE_OK;
}

/* The codes of all entries that are due and have none.  Writes nothing. */
static int embed_due(search_table *table, const uint8_t *due)
{
    size_t i, at = 0, *counts = NULL;
    bitlm_status status;
    int rc = SQLITE_OK;
    batch b;

    status = begin_batch(&b, table);
    counts = sqlite3_malloc64(table->n_pending * sizeof *counts);
    if (status == BITLM_OK && !counts)
        status = bls_error(&b.call, BITLM_NOMEM, "out of memory");
    for (i = 0; i < table->n_pending && status == BITLM_OK; i++)
        if (due[i] && table->pending[i].text)
            status = chunk_text(&b, table->pending[i].text, table->pending[i].length, &counts[i]);
    if (status == BITLM_OK)
        status = embed(&b);
    if (status)
        rc = bls_fail_table(&b.call, &table->base, status);
    for (i = 0; i < table->n_pending && rc == SQLITE_OK; i++) {
        if (due[i] && table->pending[i].text) {
            rc = keep_codes(&b, &table->pending[i], at, counts[i]);
            at += counts[i];
        }
    }
    if (rc == SQLITE_OK && b.n) {
        table->n_embedded += b.n;
        table->n_batches++;
    }
    sqlite3_free(counts);
    end_batch(&b);
    return rc;
}

/* ---- writing --------------------------------------------------------------------------------- */

static int write_entry(search_table *table, const search_pending *p)
{
    size_t code_bytes = table->bits / 8, i;
    const uint8_t *codes = p->places + p->n * 8;
    bls_cell row = {.tag = BLS_CELL_INTEGER, .as.integer = p->rowid};
    sqlite3_stmt *done;
    int64_t first = 0;
    int rc = search_statement_of(table, DOCS_DONE, &done);

    if (rc == SQLITE_OK && p->n)
        rc = bls_store_next_rowid(table->store, &first);
    for (i = 0; i < p->n && rc == SQLITE_OK; i++)
        rc = bls_store_insert(table->store, first + (int64_t)i, codes + i * code_bytes, &row);
    if (rc != SQLITE_OK)
        return search_store_failed(table, rc);
    sqlite3_bind_int64(done, 1, p->rowid);
    sqlite3_bind_int64(done, 2, first);
    sqlite3_bind_int64(done, 3, (sqlite3_int64)p->n);
    rc = sqlite3_bind_blob64(done, 4, p->places, p->n * 8, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        return search_run_statement(done);
    sqlite3_clear_bindings(done);
    return rc;
}

static int flush(search_table *table)
{
    uint8_t *due;
    size_t i;
    int rc, is_due, to_embed = 0;

    rc = search_begin(table);
    if (rc != SQLITE_OK)
        return rc;
    due = sqlite3_malloc64(table->n_pending);
    if (!due)
        return SQLITE_NOMEM;
    for (i = 0; i < table->n_pending && rc == SQLITE_OK; i++) {
        rc = holds(table, &table->pending[i], &is_due);
        due[i] = (uint8_t)is_due;
        to_embed |= is_due && table->pending[i].text;
    }
    if (rc == SQLITE_OK && to_embed)
        rc = embed_due(table, due);
    for (i = 0; i < table->n_pending && rc == SQLITE_OK; i++)
        if (due[i])
            rc = write_entry(table, &table->pending[i]);
    sqlite3_free(due);
    bls_store_end(table->store);
    return rc;
}

int search_flush(search_table *table, int only_if_full)
{
    int rc;

    if (only_if_full && table->n_waiting < FULL_ROWS && table->waiting_bytes < FULL_BYTES)
        return SQLITE_OK;
    if (table->n_waiting == 0 && !(table->rolled_back && table->n_pending)) {
        table->rolled_back = 0;
        return SQLITE_OK;
    }
    /* A statement of ours that lacks memory makes SQLite roll back at once, and call xRollback in the
     * midst of this: the queue is freed afterwards. */
    table->flushing = 1;
    rc = flush(table);
    table->flushing = 0;
    if (table->ended) {
        search_forget(table);
        return rc == SQLITE_OK ? SQLITE_ABORT : rc;
    }
    if (rc == SQLITE_OK) {
        table->rolled_back = 0;
        drop(table);
    }
    return rc;
}

/* ---- queries --------------------------------------------------------------------------------- */

int search_query_code(search_table *table, sqlite3_value *value, uint8_t **code)
{
    size_t code_bytes = table->bits / 8;
    bitlm_status status;
    bitlm_text text;
    int rc = SQLITE_OK;
    batch b;

    *code = sqlite3_malloc64(code_bytes);
    if (!*code)
        return SQLITE_NOMEM;
    if (sqlite3_value_type(value) == SQLITE_BLOB) {
        if ((size_t)sqlite3_value_bytes(value) != code_bytes)
            return search_fail(table, SQLITE_ERROR, "the query is a BLOB of %d bytes, but must be a text, or a code of %d",
                               sqlite3_value_bytes(value), (int)code_bytes);
        memcpy(*code, sqlite3_value_blob(value), code_bytes);
        return SQLITE_OK;
    }
    status = begin_batch(&b, table);
    if (status == BITLM_OK)
        status = bls_text(&b.call, value, "the query", &text);
    if (status == BITLM_OK && grow(&b, 1) != SQLITE_OK)
        status = bls_error(&b.call, BITLM_NOMEM, "out of memory");
    if (status == BITLM_OK) {
        b.texts[b.n++] = text;
        status = embed(&b);
    }
    if (status)
        rc = bls_fail_table(&b.call, &table->base, status);
    else
        memcpy(*code, b.codes, code_bytes);
    end_batch(&b);
    return rc;
}
