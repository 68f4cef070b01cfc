/* sqlite_each.c - many prompts decoded together, as a table.
 *
 *     SELECT idx, text FROM bitlm_generate_each(json_array [,opts]);
 *
 *     idx   which prompt: its index in the array, from 0, as json_each has it
 *     text  what bitlm_generate gives for it
 *
 * The core steps the prompts together, so that the model's weights are read once for
 * all of them; a row comes out as soon as it and those before it are finished.  The
 * session has room for ROWS texts unless option rows says otherwise.
 *
 * NULL array: no rows; null in the array: a NULL.  With on_error null a prompt that
 * cannot be used has a NULL, and an error of the whole call ends the rows. */
#include "sqlite_adapter.h"

#include <jansson.h>
#include <string.h>

#define ROWS 8

enum each_column {
    COLUMN_IDX,
    COLUMN_TEXT,
    COLUMN_PROMPTS,
    COLUMN_OPTIONS
};

static const char each_schema[] =
    "CREATE TABLE x(idx INTEGER, text TEXT, prompts HIDDEN, opts HIDDEN)";

/* idxNum */
#define HAS_PROMPTS 1
#define HAS_OPTIONS 2

typedef struct each_table {
    sqlite3_vtab base;
    bls_state *state;
} each_table;

/* One element of the array. */
typedef struct each_row {
    sqlite3_str *text; /* what has come of it; NULL: none */
    int finished;
} each_row;

typedef struct each_cursor {
    sqlite3_vtab_cursor base;
    bls_call call;
    int began;                   /* bls_begin was called, bls_end is due */
    bitlm_model *model;
    bls_session *session;
    bitlm_status status;         /* of the last core call */
    sqlite3_value *prompts, *options; /* copies, for xColumn and the core */
    json_t *array;
    each_row *rows;              /* (n) */
    size_t *places;              /* (n) the core's prompt number -> index in the array */
    size_t n, at;
} each_cursor;

static int each_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
                          sqlite3_vtab **result, char **message)
{
    each_table *table;
    int rc = sqlite3_declare_vtab(db, each_schema);

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

static int each_disconnect(sqlite3_vtab *base)
{
    each_table *table = (each_table *)base;

    bls_state_unref(table->state);
    sqlite3_free(table);
    return SQLITE_OK;
}

static int each_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    int at[2] = {-1, -1}; /* the constraints on prompts and opts */
    int unusable[2] = {0, 0};
    int i, column, arguments = 0;

    (void)base;
    for (i = 0; i < info->nConstraint; i++) {
        column = info->aConstraint[i].iColumn - COLUMN_PROMPTS;
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
            info->idxNum |= i == 0 ? HAS_PROMPTS : HAS_OPTIONS;
            info->aConstraintUsage[at[i]].argvIndex = ++arguments;
            info->aConstraintUsage[at[i]].omit = 1;
        }
    }
    if (info->nOrderBy == 1 && info->aOrderBy[0].iColumn <= COLUMN_IDX && !info->aOrderBy[0].desc)
        info->orderByConsumed = 1;
    /* Dear: what else can filter should run first. */
    info->estimatedCost = 1e7;
    info->estimatedRows = 25;
    return SQLITE_OK;
}

static int each_open(sqlite3_vtab *base, sqlite3_vtab_cursor **result)
{
    each_cursor *cursor = sqlite3_malloc64(sizeof *cursor);

    (void)base;
    if (!cursor)
        return SQLITE_NOMEM;
    memset(cursor, 0, sizeof *cursor);
    *result = &cursor->base;
    return SQLITE_OK;
}

static void row_clear(each_row *row)
{
    if (row->text)
        sqlite3_free(sqlite3_str_finish(row->text));
    row->text = NULL;
}

static void each_clear(each_cursor *cursor)
{
    size_t i;

    bls_return(cursor->call.state, cursor->session, cursor->status);
    bitlm_model_free(cursor->model);
    if (cursor->began)
        bls_end(&cursor->call);
    sqlite3_value_free(cursor->prompts);
    sqlite3_value_free(cursor->options);
    json_decref(cursor->array);
    for (i = 0; i < cursor->n; i++)
        row_clear(&cursor->rows[i]);
    sqlite3_free(cursor->rows);
    sqlite3_free(cursor->places);
    cursor->session = NULL;
    cursor->model = NULL;
    cursor->began = 0;
    cursor->prompts = cursor->options = NULL;
    cursor->array = NULL;
    cursor->rows = NULL;
    cursor->places = NULL;
    cursor->status = BITLM_OK;
    cursor->n = cursor->at = 0;
}

static int each_close(sqlite3_vtab_cursor *base)
{
    each_clear((each_cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

/* An error; with on_error null the end, unless model or options are at fault. */
static int each_fail(each_cursor *cursor)
{
    cursor->at = cursor->n;
    if (cursor->session && bls_forgiven(&cursor->call, cursor->status))
        return SQLITE_OK;
    return bls_fail_table(&cursor->call, cursor->base.pVtab, cursor->status);
}

/* Takes pieces until the row at the cursor is finished. */
static bitlm_status finish_row(each_cursor *cursor)
{
    bls_call *call = &cursor->call;
    bitlm_piece piece;
    each_row *row;

    memset(&piece, 0, sizeof piece);
    piece.size = sizeof piece;
    bls_enter(call->state);
    while (cursor->status == BITLM_OK && !cursor->rows[cursor->at].finished) {
        cursor->status = bitlm_generate_next(cursor->session->core, &piece, &call->error);
        if (cursor->status)
            break;
        row = &cursor->rows[cursor->places[piece.row]];
        row->finished = piece.finish != BITLM_FINISH_NONE;
        if (piece.finish == BITLM_FINISH_REFUSED)
            row_clear(row);
        else if (piece.text_length > 0)
            sqlite3_str_append(row->text, piece.text, (int)piece.text_length);
        if (row->text && sqlite3_str_errcode(row->text) != SQLITE_OK)
            cursor->status = bls_error(call, BITLM_NOMEM, "out of memory");
    }
    bls_leave(call->state);
    return cursor->status;
}

static int each_next(sqlite3_vtab_cursor *base)
{
    each_cursor *cursor = (each_cursor *)base;

    row_clear(&cursor->rows[cursor->at]);
    cursor->at++;
    if (cursor->at < cursor->n && finish_row(cursor) != BITLM_OK)
        return each_fail(cursor);
    return SQLITE_OK;
}

/* The array's texts; *n of them are not null. */
static bitlm_status read_prompts(each_cursor *cursor, bitlm_text **texts, size_t *n)
{
    bls_call *call = &cursor->call;
    bitlm_status status;
    bitlm_text json;
    json_error_t why;
    json_t *value;
    size_t i;

    status = bls_text(call, cursor->prompts, "the array of prompts", &json);
    if (status)
        return status;
    cursor->array = json_loadb(json.data, json.length, JSON_ALLOW_NUL, &why);
    if (!cursor->array)
        return bls_error(call, BITLM_ARG, "the prompts are not valid JSON at byte %d; "
                         "json_group_array(body) makes an array of them", why.position);
    if (!json_is_array(cursor->array))
        return bls_error(call, BITLM_ARG, "the prompts are an object, but must be a JSON array of texts");
    cursor->n = json_array_size(cursor->array);
    cursor->rows = sqlite3_malloc64((cursor->n + 1) * sizeof *cursor->rows);
    cursor->places = sqlite3_malloc64((cursor->n + 1) * sizeof *cursor->places);
    *texts = sqlite3_malloc64((cursor->n + 1) * sizeof **texts);
    if (cursor->rows)
        memset(cursor->rows, 0, (cursor->n + 1) * sizeof *cursor->rows);
    if (!cursor->rows || !cursor->places || !*texts) {
        if (!cursor->rows)
            cursor->n = 0;
        return bls_error(call, BITLM_NOMEM, "out of memory");
    }
    for (i = 0; i < cursor->n; i++) {
        value = json_array_get(cursor->array, i);
        cursor->rows[i].finished = json_is_null(value);
        if (json_is_null(value))
            continue;
        if (!json_is_string(value))
            return bls_error(call, BITLM_ARG, "element %lld of the prompts is no text",
                             (sqlite3_int64)i);
        cursor->rows[i].text = sqlite3_str_new(call->state->db);
        (*texts)[*n].data = json_string_value(value);
        (*texts)[*n].length = json_string_length(value);
        cursor->places[(*n)++] = i;
    }
    return BITLM_OK;
}

static bitlm_status begin(each_cursor *cursor, bls_state *state)
{
    bls_call *call = &cursor->call;
    bitlm_text *texts = NULL;
    size_t n = 0;
    bitlm_status status = bls_begin(call, state, "bitlm_generate_each", cursor->options);

    if (status == BITLM_OK && !cursor->prompts)
        status = bls_error(call, BITLM_ARG,
                           "the prompts are missing: SELECT idx, text FROM "
                           "bitlm_generate_each('[\"Once upon a time\"]')");
    if (status == BITLM_OK)
        status = bls_model(call, "story", &cursor->model);
    if (call->options.rows == 0)
        call->options.rows = ROWS;
    if (status == BITLM_OK)
        status = bls_borrow(call, cursor->model, &cursor->session);
    if (status == BITLM_OK)
        status = read_prompts(cursor, &texts, &n);
    if (status == BITLM_OK) {
        bls_enter(state);
        status = bitlm_generate_start(cursor->session->core, texts, n,
                                      call->options.on_error == BITLM_ON_ERROR_NULL
                                          ? BITLM_GENERATE_SKIP
                                          : 0,
                                      &call->options, &call->error);
        bls_leave(state);
    }
    sqlite3_free(texts);
    return status;
}

static int each_filter(sqlite3_vtab_cursor *base, int number, const char *string, int argc,
                       sqlite3_value **argv)
{
    each_cursor *cursor = (each_cursor *)base;
    int i = 0;

    (void)string;
    (void)argc;
    each_clear(cursor);
    if (number & HAS_PROMPTS) {
        cursor->prompts = sqlite3_value_dup(argv[i++]);
        if (!cursor->prompts)
            return SQLITE_NOMEM;
    }
    if (number & HAS_OPTIONS) {
        cursor->options = sqlite3_value_dup(argv[i]);
        if (!cursor->options)
            return SQLITE_NOMEM;
    }
    if (cursor->prompts && sqlite3_value_type(cursor->prompts) == SQLITE_NULL)
        return SQLITE_OK;
    cursor->began = 1;
    cursor->status = begin(cursor, ((each_table *)base->pVtab)->state);
    if (cursor->status == BITLM_OK && cursor->n > 0)
        finish_row(cursor);
    return cursor->status ? each_fail(cursor) : SQLITE_OK;
}

static int each_eof(sqlite3_vtab_cursor *base)
{
    const each_cursor *cursor = (each_cursor *)base;

    return cursor->at >= cursor->n;
}

static int each_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    *rowid = (sqlite3_int64)((each_cursor *)base)->at;
    return SQLITE_OK;
}

static int each_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    const each_cursor *cursor = (const each_cursor *)base;
    sqlite3_str *text;

    switch ((enum each_column)column) {
    case COLUMN_IDX:
        sqlite3_result_int64(context, (sqlite3_int64)cursor->at);
        break;
    case COLUMN_TEXT:
        text = cursor->rows[cursor->at].text;
        if (text && sqlite3_str_length(text) > 0)
            sqlite3_result_text64(context, sqlite3_str_value(text),
                                  (sqlite3_uint64)sqlite3_str_length(text), SQLITE_TRANSIENT,
                                  SQLITE_UTF8);
        else if (text)
            sqlite3_result_text(context, "", 0, SQLITE_STATIC);
        break;
    case COLUMN_PROMPTS:
        if (cursor->prompts)
            sqlite3_result_value(context, cursor->prompts);
        break;
    case COLUMN_OPTIONS:
        if (cursor->options)
            sqlite3_result_value(context, cursor->options);
        break;
    }
    return SQLITE_OK;
}

static const sqlite3_module each_module = {
    .xConnect = each_connect,
    .xBestIndex = each_best_index,
    .xDisconnect = each_disconnect,
    .xOpen = each_open,
    .xClose = each_close,
    .xFilter = each_filter,
    .xNext = each_next,
    .xEof = each_eof,
    .xColumn = each_column,
    .xRowid = each_rowid,
};

int bls_register_each(bls_state *state)
{
    return bls_module(state, "bitlm_generate_each", &each_module);
}
