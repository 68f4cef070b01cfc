/* sqlite_embed_each.c - many texts embedded in one batched pass, as a table.
 *
 *     SELECT idx, code FROM bitlm_embed_each(json_array [,opts]);
 *
 *     idx   which text: its index in the array, from 0, as json_each has it
 *     code  what bitlm_embed gives for it
 *
 * The core packs the texts into batches, which a function called row by row cannot.  The
 * whole array is embedded before the first row comes, so a LIMIT saves nothing.
 *
 * NULL array: no rows; null in the array: a NULL.  With on_error null a text that is too
 * long has a NULL, and an error of the whole call ends the rows. */
#include "sqlite_adapter.h"

#include <jansson.h>
#include <string.h>

enum embed_column {
    COLUMN_IDX,
    COLUMN_CODE,
    COLUMN_TEXTS,
    COLUMN_OPTIONS
};

static const char embed_schema[] =
    "CREATE TABLE x(idx INTEGER, code BLOB, texts HIDDEN, opts HIDDEN)";

/* idxNum */
#define HAS_TEXTS 1
#define HAS_OPTIONS 2

typedef struct embed_table {
    sqlite3_vtab base;
    bls_state *state;
} embed_table;

typedef struct embed_cursor {
    sqlite3_vtab_cursor base;
    sqlite3_value *texts, *options; /* copies, for xColumn */
    uint8_t *codes;                 /* (n_texts, bytes) of the elements that are not null */
    size_t *places;                 /* (n) element -> its code; NONE: a NULL */
    size_t n, bytes, at;
} embed_cursor;

#define NONE SIZE_MAX

static int embed_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
                          sqlite3_vtab **result, char **message)
{
    embed_table *table;
    int rc = sqlite3_declare_vtab(db, embed_schema);

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

static int embed_disconnect(sqlite3_vtab *base)
{
    embed_table *table = (embed_table *)base;

    bls_state_unref(table->state);
    sqlite3_free(table);
    return SQLITE_OK;
}

static int embed_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    int at[2] = {-1, -1}; /* the constraints on texts and opts */
    int unusable[2] = {0, 0};
    int i, column, arguments = 0;

    (void)base;
    for (i = 0; i < info->nConstraint; i++) {
        column = info->aConstraint[i].iColumn - COLUMN_TEXTS;
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
            info->idxNum |= i == 0 ? HAS_TEXTS : HAS_OPTIONS;
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

static int embed_open(sqlite3_vtab *base, sqlite3_vtab_cursor **result)
{
    embed_cursor *cursor = sqlite3_malloc64(sizeof *cursor);

    (void)base;
    if (!cursor)
        return SQLITE_NOMEM;
    memset(cursor, 0, sizeof *cursor);
    *result = &cursor->base;
    return SQLITE_OK;
}

static void embed_clear(embed_cursor *cursor)
{
    sqlite3_value_free(cursor->texts);
    sqlite3_value_free(cursor->options);
    sqlite3_free(cursor->codes);
    sqlite3_free(cursor->places);
    cursor->texts = cursor->options = NULL;
    cursor->codes = NULL;
    cursor->places = NULL;
    cursor->n = cursor->bytes = cursor->at = 0;
}

static int embed_close(sqlite3_vtab_cursor *base)
{
    embed_clear((embed_cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

static bitlm_status read_array(bls_call *call, sqlite3_value *value, json_t **array)
{
    bitlm_status status;
    bitlm_text json;
    json_error_t why;

    status = bls_text(call, value, "the array of texts", &json);
    if (status)
        return status;
    *array = json_loadb(json.data, json.length, JSON_ALLOW_NUL, &why);
    if (!*array)
        return bls_error(call, BITLM_ARG, "the texts are not valid JSON at byte %d; "
                         "json_group_array(body) makes an array of them", why.position);
    if (!json_is_array(*array))
        return bls_error(call, BITLM_ARG, "the texts are an object, but must be a JSON array of texts");
    return BITLM_OK;
}

/* Embeds what is in the array.  The texts stay in it until this returns. */
static bitlm_status embed_array(embed_cursor *cursor, bls_call *call, const json_t *array, bls_session *session,
                                size_t bytes)
{
    const size_t n = json_array_size(array);
    bitlm_text *texts = sqlite3_malloc64((n + 1) * sizeof *texts);
    bitlm_status *row_status = sqlite3_malloc64((n + 1) * sizeof *row_status);
    bitlm_status status = BITLM_OK;
    const json_t *value;
    size_t i, n_texts = 0;

    cursor->places = sqlite3_malloc64((n + 1) * sizeof *cursor->places);
    cursor->bytes = bytes;
    if (!texts || !row_status || !cursor->places) {
        status = bls_error(call, BITLM_NOMEM, "out of memory");
        goto end;
    }
    for (i = 0; i < n; i++) {
        value = json_array_get(array, i);
        cursor->places[i] = NONE;
        if (json_is_null(value))
            continue;
        if (!json_is_string(value)) {
            status = bls_error(call, BITLM_ARG, "element %lld of the texts is no text", (sqlite3_int64)i);
            goto end;
        }
        texts[n_texts].data = json_string_value(value);
        texts[n_texts].length = json_string_length(value);
        cursor->places[i] = n_texts++;
    }
    cursor->codes = sqlite3_malloc64(n_texts * bytes + 1);
    if (!cursor->codes) {
        status = bls_error(call, BITLM_NOMEM, "out of memory");
        goto end;
    }
    if (n_texts > 0) {
        bls_enter(call->state);
        status = bitlm_embed_batch(session->core, texts, n_texts, BITLM_EMBED_BITS, &call->options, cursor->codes,
                                   bytes, call->options.on_error == BITLM_ON_ERROR_NULL ? row_status : NULL,
                                   &call->error);
        bls_leave(call->state);
    }
    if (status)
        goto end;
    for (i = 0; i < n && call->options.on_error == BITLM_ON_ERROR_NULL; i++) {
        if (cursor->places[i] != NONE && row_status[cursor->places[i]])
            cursor->places[i] = NONE;
    }
    cursor->n = n;
end:
    sqlite3_free(texts);
    sqlite3_free(row_status);
    return status;
}

static int embed_filter(sqlite3_vtab_cursor *base, int number, const char *string, int argc,
                        sqlite3_value **argv)
{
    embed_cursor *cursor = (embed_cursor *)base;
    bls_state *state = ((embed_table *)base->pVtab)->state;
    bls_session *session = NULL;
    bitlm_model *model = NULL;
    json_t *array = NULL;
    bls_call call;
    bitlm_status status;
    size_t bytes = 0;
    int i = 0, rc = SQLITE_OK;

    (void)string;
    (void)argc;
    embed_clear(cursor);
    if (number & HAS_TEXTS) {
        cursor->texts = sqlite3_value_dup(argv[i++]);
        if (!cursor->texts)
            return SQLITE_NOMEM;
    }
    if (number & HAS_OPTIONS) {
        cursor->options = sqlite3_value_dup(argv[i]);
        if (!cursor->options)
            return SQLITE_NOMEM;
    }
    if (cursor->texts && sqlite3_value_type(cursor->texts) == SQLITE_NULL)
        return SQLITE_OK;
    status = bls_begin(&call, state, "bitlm_embed_each", cursor->options);
    if (status == BITLM_OK && !cursor->texts)
        status = bls_error(&call, BITLM_ARG, "the texts are missing: SELECT idx, code FROM "
                           "bitlm_embed_each('[\"a letter\"]')");
    if (status || (status = bls_model(&call, "embed", &model)) ||
        (status = bls_embedding_bytes(&call, model, BITLM_EMBED_BITS, &bytes)) ||
        (status = bls_borrow(&call, model, &session)))
        goto end;
    status = read_array(&call, cursor->texts, &array);
    if (status == BITLM_OK)
        status = embed_array(cursor, &call, array, session, bytes);
end:
    /* Once there is a session, model and options are not at fault. */
    if (status && !(session && bls_forgiven(&call, status)))
        rc = bls_fail_table(&call, base->pVtab, status);
    json_decref(array);
    bls_return(state, session, status);
    bitlm_model_free(model);
    bls_end(&call);
    return rc;
}

static int embed_next(sqlite3_vtab_cursor *base)
{
    ((embed_cursor *)base)->at++;
    return SQLITE_OK;
}

static int embed_eof(sqlite3_vtab_cursor *base)
{
    const embed_cursor *cursor = (embed_cursor *)base;

    return cursor->at >= cursor->n;
}

static int embed_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    *rowid = (sqlite3_int64)((embed_cursor *)base)->at;
    return SQLITE_OK;
}

static int embed_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    const embed_cursor *cursor = (const embed_cursor *)base;
    size_t place;

    switch ((enum embed_column)column) {
    case COLUMN_IDX:
        sqlite3_result_int64(context, (sqlite3_int64)cursor->at);
        break;
    case COLUMN_CODE:
        place = cursor->places[cursor->at];
        if (place != NONE)
            sqlite3_result_blob64(context, cursor->codes + place * cursor->bytes, cursor->bytes,
                                  SQLITE_TRANSIENT);
        break;
    case COLUMN_TEXTS:
        if (cursor->texts)
            sqlite3_result_value(context, cursor->texts);
        break;
    case COLUMN_OPTIONS:
        if (cursor->options)
            sqlite3_result_value(context, cursor->options);
        break;
    }
    return SQLITE_OK;
}

static const sqlite3_module embed_module = {
    .xConnect = embed_connect,
    .xBestIndex = embed_best_index,
    .xDisconnect = embed_disconnect,
    .xOpen = embed_open,
    .xClose = embed_close,
    .xFilter = embed_filter,
    .xNext = embed_next,
    .xEof = embed_eof,
    .xColumn = embed_column,
    .xRowid = embed_rowid,
};

int bls_register_embed_each(bls_state *state)
{
    return bls_module(state, "bitlm_embed_each", &embed_module);
}
