/* sqlite_stream.c - a generation as a table: a row per token, as it is made.
 *
 *     SELECT n, token, piece, logprob FROM bitlm_stream(prompt [,opts]);
 *
 *     n        which token, from 1
 *     token    its id; NULL in a last row that only brings text held back
 *     piece    the text that became final with it: whole UTF-8 characters, perhaps
 *              none yet; all pieces together are what bitlm_generate returns
 *     logprob  natural logarithm of the token's probability, before penalties and
 *              temperature; computed if the statement reads the column
 *
 * The table is eponymous and its arguments are hidden columns, as SQLite's
 * generate_series has them, so it joins: FROM notes, bitlm_stream(notes.body).
 * Each xNext asks the core for one token: LIMIT 5 pays for five.  A cursor borrows
 * a session of its own until it is closed, so streams may run side by side and
 * bitlm_unload of their model harms none.
 *
 * NULL prompt: no rows.  With on_error null an error of the row ends the rows. */
#include "sqlite_adapter.h"

#include <string.h>

enum stream_column {
    COLUMN_N,
    COLUMN_TOKEN,
    COLUMN_PIECE,
    COLUMN_LOGPROB,
    COLUMN_PROMPT,
    COLUMN_OPTIONS
};

static const char stream_schema[] = "CREATE TABLE x(n INTEGER, token INTEGER, piece TEXT, "
                                    "logprob REAL, prompt HIDDEN, opts HIDDEN)";

/* idxNum */
#define HAS_PROMPT 1
#define HAS_OPTIONS 2
#define WANTS_LOGPROB 4

typedef struct stream_table {
    sqlite3_vtab base;
    bls_state *state;
} stream_table;

typedef struct stream_cursor {
    sqlite3_vtab_cursor base;
    bls_call call;
    int began;                   /* bls_begin was called, bls_end is due */
    bitlm_model *model;
    bls_session *session;
    bitlm_status status;         /* of the last core call */
    sqlite3_value *prompt, *options; /* copies, for xColumn and the core */
    bitlm_piece piece;
    sqlite3_int64 n;
    int at_end;
} stream_cursor;

static int stream_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
                          sqlite3_vtab **result, char **message)
{
    stream_table *table;
    int rc = sqlite3_declare_vtab(db, stream_schema);

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

static int stream_disconnect(sqlite3_vtab *base)
{
    stream_table *table = (stream_table *)base;

    bls_state_unref(table->state);
    sqlite3_free(table);
    return SQLITE_OK;
}

static int stream_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    int at[2] = {-1, -1}; /* the constraints on prompt and opts */
    int unusable[2] = {0, 0};
    int i, column, arguments = 0;

    (void)base;
    for (i = 0; i < info->nConstraint; i++) {
        column = info->aConstraint[i].iColumn - COLUMN_PROMPT;
        if (column < 0 || info->aConstraint[i].op != SQLITE_INDEX_CONSTRAINT_EQ)
            continue;
        if (!info->aConstraint[i].usable)
            unusable[column] = 1;
        else if (at[column] < 0)
            at[column] = i;
    }
    /* The argument comes from a table that this plan would read later. */
    if ((unusable[0] && at[0] < 0) || (unusable[1] && at[1] < 0))
        return SQLITE_CONSTRAINT;
    info->idxNum = 0;
    for (i = 0; i < 2; i++) {
        if (at[i] >= 0) {
            info->idxNum |= i == 0 ? HAS_PROMPT : HAS_OPTIONS;
            info->aConstraintUsage[at[i]].argvIndex = ++arguments;
            info->aConstraintUsage[at[i]].omit = 1;
        }
    }
    if (info->colUsed & ((sqlite3_uint64)1 << COLUMN_LOGPROB))
        info->idxNum |= WANTS_LOGPROB;
    if (info->nOrderBy == 1 && info->aOrderBy[0].iColumn <= COLUMN_N && !info->aOrderBy[0].desc)
        info->orderByConsumed = 1;
    /* Dear: what else can filter should run first. */
    info->estimatedCost = 1e6;
    info->estimatedRows = 128;
    return SQLITE_OK;
}

static int stream_open(sqlite3_vtab *base, sqlite3_vtab_cursor **result)
{
    stream_cursor *cursor = sqlite3_malloc64(sizeof *cursor);

    (void)base;
    if (!cursor)
        return SQLITE_NOMEM;
    memset(cursor, 0, sizeof *cursor);
    *result = &cursor->base;
    return SQLITE_OK;
}

static void stream_clear(stream_cursor *cursor)
{
    bls_return(cursor->call.state, cursor->session, cursor->status);
    bitlm_model_free(cursor->model);
    if (cursor->began)
        bls_end(&cursor->call);
    sqlite3_value_free(cursor->prompt);
    sqlite3_value_free(cursor->options);
    cursor->session = NULL;
    cursor->model = NULL;
    cursor->began = 0;
    cursor->prompt = cursor->options = NULL;
    cursor->status = BITLM_OK;
    cursor->at_end = 1;
}

static int stream_close(sqlite3_vtab_cursor *base)
{
    stream_clear((stream_cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

/* A failure of the row: an error, or with on_error null the end. */
static int stream_fail(stream_cursor *cursor)
{
    cursor->at_end = 1;
    if (bls_forgiven(&cursor->call, cursor->status))
        return SQLITE_OK;
    return bls_fail_table(&cursor->call, cursor->base.pVtab, cursor->status);
}

static int stream_next(sqlite3_vtab_cursor *base)
{
    stream_cursor *cursor = (stream_cursor *)base;
    bls_call *call = &cursor->call;

    cursor->piece.size = sizeof cursor->piece;
    bls_enter(call->state);
    do { /* a last piece without token and text is no row */
        cursor->status = bitlm_generate_next(cursor->session->core, &cursor->piece, &call->error);
    } while (cursor->status == BITLM_OK && cursor->piece.token < 0 &&
             cursor->piece.text_length == 0);
    bls_leave(call->state);
    if (cursor->status == BITLM_DONE) {
        cursor->status = BITLM_OK;
        cursor->at_end = 1;
        return SQLITE_OK;
    }
    if (cursor->status)
        return stream_fail(cursor);
    cursor->n++;
    return SQLITE_OK;
}

static int stream_filter(sqlite3_vtab_cursor *base, int number, const char *string, int argc,
                         sqlite3_value **argv)
{
    stream_cursor *cursor = (stream_cursor *)base;
    bls_state *state = ((stream_table *)base->pVtab)->state;
    bls_call *call = &cursor->call;
    bitlm_text prompt;
    int i = 0;

    (void)string;
    (void)argc;
    stream_clear(cursor);
    cursor->n = 0;
    if (number & HAS_PROMPT) {
        cursor->prompt = sqlite3_value_dup(argv[i++]);
        if (!cursor->prompt)
            return SQLITE_NOMEM;
    }
    if (number & HAS_OPTIONS) {
        cursor->options = sqlite3_value_dup(argv[i]);
        if (!cursor->options)
            return SQLITE_NOMEM;
    }
    if (cursor->prompt && sqlite3_value_type(cursor->prompt) == SQLITE_NULL)
        return SQLITE_OK;
    cursor->began = 1;
    cursor->status = bls_begin(call, state, "bitlm_stream", cursor->options);
    if (cursor->status == BITLM_OK && !cursor->prompt)
        cursor->status = bls_error(call, BITLM_ARG,
                                   "the prompt is missing: SELECT piece FROM "
                                   "bitlm_stream('Once upon a time')");
    if (cursor->status == BITLM_OK)
        cursor->status = bls_model(call, "story", &cursor->model);
    if (cursor->status == BITLM_OK)
        cursor->status = bls_borrow(call, cursor->model, &cursor->session);
    if (cursor->status)
        return bls_fail_table(call, base->pVtab, cursor->status);
    if (number & WANTS_LOGPROB)
        call->options.logprobs = 1;
    cursor->status = bls_text(call, cursor->prompt, "the prompt", &prompt);
    if (cursor->status == BITLM_OK) {
        bls_enter(state);
        cursor->status = bitlm_generate_start(cursor->session->core, &prompt, 1, 0, &call->options,
                                              &call->error);
        bls_leave(state);
    }
    if (cursor->status)
        return stream_fail(cursor);
    cursor->at_end = 0;
    return stream_next(base);
}

static int stream_eof(sqlite3_vtab_cursor *base)
{
    return ((stream_cursor *)base)->at_end;
}

static int stream_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    *rowid = ((stream_cursor *)base)->n;
    return SQLITE_OK;
}

static int stream_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    const stream_cursor *cursor = (const stream_cursor *)base;
    const bitlm_piece *piece = &cursor->piece;

    switch ((enum stream_column)column) {
    case COLUMN_N:
        sqlite3_result_int64(context, cursor->n);
        break;
    case COLUMN_TOKEN:
        if (piece->token >= 0)
            sqlite3_result_int(context, piece->token);
        break;
    case COLUMN_PIECE:
        if (piece->text_length > 0)
            sqlite3_result_text64(context, piece->text, piece->text_length, SQLITE_TRANSIENT,
                                  SQLITE_UTF8);
        else
            sqlite3_result_text(context, "", 0, SQLITE_STATIC);
        break;
    case COLUMN_LOGPROB:
        if (piece->token >= 0)
            sqlite3_result_double(context, (double)piece->logprob); /* NaN becomes NULL */
        break;
    case COLUMN_PROMPT:
        if (cursor->prompt)
            sqlite3_result_value(context, cursor->prompt);
        break;
    case COLUMN_OPTIONS:
        if (cursor->options)
            sqlite3_result_value(context, cursor->options);
        break;
    }
    return SQLITE_OK;
}

static const sqlite3_module stream_module = {
    .xConnect = stream_connect,
    .xBestIndex = stream_best_index,
    .xDisconnect = stream_disconnect,
    .xOpen = stream_open,
    .xClose = stream_close,
    .xFilter = stream_filter,
    .xNext = stream_next,
    .xEof = stream_eof,
    .xColumn = stream_column,
    .xRowid = stream_rowid,
};

int bls_register_stream(bls_state *state)
{
    return bls_module(state, "bitlm_stream", &stream_module);
}
