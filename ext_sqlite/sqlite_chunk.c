/* sqlite_chunk.c - a long text as a table of overlapping chunks.
 *
 *     SELECT seq, chunk, start, length FROM bitlm_chunk(text, size [,overlap [,opts]]);
 *
 *     size     tokens of a chunk at most, 1 to 1048576
 *     overlap  tokens that a chunk shares with the one before, about; 0 to size-1
 *     opts     {"model": …}: whose tokens are counted; 'embed' if none is named
 *     seq      which chunk, from 1
 *     chunk    its text
 *     start    its first character, counted from 1, and
 *     length   its characters, so that substr(text, start, length) = chunk (SQLite's
 *              substr stops at a zero byte, if the text holds one)
 *
 * All chunks are computed when the scan begins.  NULL text, size or overlap: no
 * rows.  An empty text has one empty chunk. */
#include "sqlite_adapter.h"

#include <string.h>

#define MAX_SIZE (1 << 20)
#define GENEROUS 50000 /* chunks, 2 MB of them */

enum chunk_column {
    COLUMN_SEQ,
    COLUMN_CHUNK,
    COLUMN_START,
    COLUMN_LENGTH,
    COLUMN_TEXT, /* the arguments follow one another */
    COLUMN_SIZE,
    COLUMN_OVERLAP,
    COLUMN_OPTIONS
};
#define N_ARGUMENTS 4

static const char chunk_schema[] =
    "CREATE TABLE x(seq INTEGER, chunk TEXT, start INTEGER, length INTEGER, "
    "text HIDDEN, size HIDDEN, overlap HIDDEN, opts HIDDEN)";

typedef struct chunk_table {
    sqlite3_vtab base;
    bls_state *state;
} chunk_table;

typedef struct chunk_cursor {
    sqlite3_vtab_cursor base;
    sqlite3_value *arguments[N_ARGUMENTS]; /* copies; NULL where none was given */
    bitlm_text text;                       /* in the first */
    bitlm_chunk *chunks;
    size_t n_chunks, at;
} chunk_cursor;

static int chunk_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
                         sqlite3_vtab **result, char **message)
{
    chunk_table *table;
    int rc = sqlite3_declare_vtab(db, chunk_schema);

    (void)argc;
    (void)argv;
    (void)message;
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_vtab_config(db, SQLITE_VTAB_INNOCUOUS);
    table = sqlite3_malloc64(sizeof *table);
    if (!table)
        return SQLITE_NOMEM;
    memset(table, 0, sizeof *table);
    table->state = aux;
    bls_state_ref(table->state);
    *result = &table->base;
    return SQLITE_OK;
}

static int chunk_disconnect(sqlite3_vtab *base)
{
    chunk_table *table = (chunk_table *)base;

    bls_state_unref(table->state);
    sqlite3_free(table);
    return SQLITE_OK;
}

/* idxNum: bit i says that argument i is given. */
static int chunk_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    int at[N_ARGUMENTS] = {-1, -1, -1, -1};
    int unusable[N_ARGUMENTS] = {0, 0, 0, 0};
    int i, argument, n = 0;

    (void)base;
    for (i = 0; i < info->nConstraint; i++) {
        argument = info->aConstraint[i].iColumn - COLUMN_TEXT;
        if (argument < 0 || info->aConstraint[i].op != SQLITE_INDEX_CONSTRAINT_EQ)
            continue;
        if (!info->aConstraint[i].usable)
            unusable[argument] = 1;
        else if (at[argument] < 0)
            at[argument] = i;
    }
    info->idxNum = 0;
    for (i = 0; i < N_ARGUMENTS; i++) {
        /* The argument comes from a table that this plan would read later. */
        if (unusable[i] && at[i] < 0)
            return SQLITE_CONSTRAINT;
        if (at[i] >= 0) {
            info->idxNum |= 1 << i;
            info->aConstraintUsage[at[i]].argvIndex = ++n;
            info->aConstraintUsage[at[i]].omit = 1;
        }
    }
    if (info->nOrderBy == 1 && info->aOrderBy[0].iColumn <= COLUMN_SEQ && !info->aOrderBy[0].desc)
        info->orderByConsumed = 1;
    info->estimatedCost = 1e4;
    info->estimatedRows = 20;
    return SQLITE_OK;
}

static int chunk_open(sqlite3_vtab *base, sqlite3_vtab_cursor **result)
{
    chunk_cursor *cursor = sqlite3_malloc64(sizeof *cursor);

    (void)base;
    if (!cursor)
        return SQLITE_NOMEM;
    memset(cursor, 0, sizeof *cursor);
    *result = &cursor->base;
    return SQLITE_OK;
}

static void chunk_clear(chunk_cursor *cursor)
{
    int i;

    for (i = 0; i < N_ARGUMENTS; i++) {
        sqlite3_value_free(cursor->arguments[i]);
        cursor->arguments[i] = NULL;
    }
    sqlite3_free(cursor->chunks);
    cursor->chunks = NULL;
    cursor->n_chunks = cursor->at = 0;
}

static int chunk_close(sqlite3_vtab_cursor *base)
{
    chunk_clear((chunk_cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

static bitlm_status cut(bls_call *call, chunk_cursor *cursor, size_t size, size_t overlap)
{
    const bitlm_text *text = &cursor->text;
    /* A token has a byte at least.  Where that is too generous, four as in English;
     * a wrong guess costs a second pass. */
    size_t most = text->length / (size - overlap) + 16;
    size_t capacity = most <= GENEROUS ? most : most / 4 + GENEROUS;
    bitlm_model *model = NULL;
    bitlm_status status = bls_model(call, "embed", &model);
    bitlm_host host;
    size_t n = 0;

    bls_host(call->state, &host);
    while (status == BITLM_OK) {
        sqlite3_free(cursor->chunks);
        cursor->chunks = sqlite3_malloc64((sqlite3_uint64)capacity * sizeof *cursor->chunks);
        if (!cursor->chunks) {
            status = bls_error(call, BITLM_NOMEM, "out of memory");
            break;
        }
        n = 0;
        bls_enter(call->state);
        status = bitlm_chunks(model, text->data, text->length, size, overlap, &host,
                              cursor->chunks, capacity, &n, &call->error);
        bls_leave(call->state);
        if (status == BITLM_OK)
            break;
        if (status == BITLM_LIMIT && n > capacity) {
            capacity = n;
            status = BITLM_OK;
        }
    }
    bitlm_model_free(model);
    if (status == BITLM_OK)
        cursor->n_chunks = n;
    return status;
}

static int chunk_filter(sqlite3_vtab_cursor *base, int number, const char *string, int argc,
                        sqlite3_value **argv)
{
    chunk_cursor *cursor = (chunk_cursor *)base;
    sqlite3_value **arguments = cursor->arguments;
    bls_call call;
    bitlm_status status;
    int64_t size, overlap = 0;
    int i, n = 0, rc = SQLITE_OK;

    (void)string;
    (void)argc;
    chunk_clear(cursor);
    for (i = 0; i < N_ARGUMENTS; i++) {
        if (number & (1 << i)) {
            arguments[i] = sqlite3_value_dup(argv[n++]);
            if (!arguments[i])
                return SQLITE_NOMEM;
            if (i < 3 && sqlite3_value_type(arguments[i]) == SQLITE_NULL)
                return SQLITE_OK;
        }
    }
    status = bls_begin(&call, ((chunk_table *)base->pVtab)->state, "bitlm_chunk", arguments[3]);
    if (status)
        goto end;
    if (!arguments[0] || !arguments[1]) {
        status = bls_error(&call, BITLM_ARG,
                           "the text or the size is missing: SELECT chunk FROM bitlm_chunk(body, "
                           "200, 20)");
        goto end;
    }
    if ((status = bls_integer(&call, arguments[1], "the size", 1, MAX_SIZE, &size)) ||
        (arguments[2] &&
         (status = bls_integer(&call, arguments[2], "the overlap", 0, size - 1, &overlap))) ||
        (status = bls_text(&call, arguments[0], "the text", &cursor->text)))
        goto end;
    status = cut(&call, cursor, (size_t)size, (size_t)overlap);
end:
    if (status && !bls_forgiven(&call, status))
        rc = bls_fail_table(&call, base->pVtab, status);
    bls_end(&call);
    return rc;
}

static int chunk_next(sqlite3_vtab_cursor *base)
{
    ((chunk_cursor *)base)->at++;
    return SQLITE_OK;
}

static int chunk_eof(sqlite3_vtab_cursor *base)
{
    const chunk_cursor *cursor = (const chunk_cursor *)base;

    return cursor->at >= cursor->n_chunks;
}

static int chunk_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    *rowid = (sqlite3_int64)((chunk_cursor *)base)->at + 1;
    return SQLITE_OK;
}

static int chunk_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    const chunk_cursor *cursor = (const chunk_cursor *)base;
    const bitlm_chunk *chunk = &cursor->chunks[cursor->at];

    switch ((enum chunk_column)column) {
    case COLUMN_SEQ:
        sqlite3_result_int64(context, (sqlite3_int64)cursor->at + 1);
        break;
    case COLUMN_CHUNK:
        sqlite3_result_text64(context, cursor->text.data + chunk->byte_start, chunk->byte_length,
                              SQLITE_TRANSIENT, SQLITE_UTF8);
        break;
    case COLUMN_START:
        sqlite3_result_int64(context, (sqlite3_int64)chunk->char_start + 1);
        break;
    case COLUMN_LENGTH:
        sqlite3_result_int64(context, (sqlite3_int64)chunk->char_length);
        break;
    case COLUMN_TEXT:
    case COLUMN_SIZE:
    case COLUMN_OVERLAP:
    case COLUMN_OPTIONS:
        if (cursor->arguments[column - COLUMN_TEXT])
            sqlite3_result_value(context, cursor->arguments[column - COLUMN_TEXT]);
        break;
    }
    return SQLITE_OK;
}

static const sqlite3_module chunk_module = {
    .xConnect = chunk_connect,
    .xBestIndex = chunk_best_index,
    .xDisconnect = chunk_disconnect,
    .xOpen = chunk_open,
    .xClose = chunk_close,
    .xFilter = chunk_filter,
    .xNext = chunk_next,
    .xEof = chunk_eof,
    .xColumn = chunk_column,
    .xRowid = chunk_rowid,
};

int bls_register_chunk(bls_state *state)
{
    return bls_module(state, "bitlm_chunk", &chunk_module);
}
