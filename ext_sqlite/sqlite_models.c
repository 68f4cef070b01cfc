/* sqlite_models.c - which models this connection may name.
 *
 *     bitlm_load(name, path [,opts])   opens a GGUF file and gives it a name on this
 *                                      connection; returns the name.  opts: load,
 *                                      hidden_act.  A name in use changes its model,
 *                                      once the new file is open; 'story' and
 *                                      'embed' stay the built-ins
 *     bitlm_unload(name)               takes the name away; returns it.  Statements
 *                                      that run keep the model until they end
 *     bitlm_model_id([name])           32 hex digits that name a model's weights and
 *                                      arithmetic: equal ids give equal results.
 *                                      Without a name: 'embed', whose codes are
 *                                      what people store.  The first call for a
 *                                      model reads its whole file
 *     bitlm_memory([opts])             JSON: bytes of a model and of a session over it,
 *                                      part by part, for n_ctx, kv_type, rows, threads, head
 *     bitlm_memory(shape, opts)        the same of a model that is not there, by its sizes
 *     SELECT * FROM bitlm_models       a row for each model that can be named
 *
 * A name has 1 to 64 ASCII letters, digits, '_', '-', '.' or ':'.  Files are opened by
 * bitlm_load alone, which is DIRECTONLY: no view, trigger or generated column of a
 * database from somewhere else can make the process read a file.
 *
 * bitlm_models lists what there was when the scan began, so
 * SELECT bitlm_unload(name) FROM bitlm_models WHERE path <> name works. */
#include "sqlite_adapter.h"

#include <string.h>

#define MAX_NAME 64

static const char builtin_names[2][6] = {"story", "embed"};

static int is_builtin(const bitlm_text *name)
{
    return name->length == 5 &&
           (!memcmp(name->data, "story", 5) || !memcmp(name->data, "embed", 5));
}

/* ---- bitlm_load, bitlm_unload ----------------------------------------------------- */

static bitlm_status check_name(bls_call *call, const bitlm_text *name)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.:";
    size_t i;

    if (name->length == 0 || name->length > MAX_NAME)
        return bls_error(call, BITLM_ARG, "the name has %lld bytes, but must have 1 to %d",
                         (sqlite3_int64)name->length, MAX_NAME);
    for (i = 0; i < name->length; i++) {
        if (!name->data[i] || !strchr(allowed, name->data[i]))
            return bls_error(call, BITLM_ARG,
                             "byte %lld of the name is 0x%02x, but a name has letters, digits, "
                             "'_', '-', '.' and ':' only",
                             (sqlite3_int64)i + 1, (unsigned)(unsigned char)name->data[i]);
    }
    if (is_builtin(name))
        return bls_error(call, BITLM_ARG, "'%.*s' names a built-in model; choose another name",
                         (int)name->length, name->data);
    return BITLM_OK;
}

/* Where the name's entry hangs, or the end of the list. */
static bls_named **find(bls_state *state, const bitlm_text *name)
{
    bls_named **at = &state->named;

    while (*at && !(strlen((*at)->name) == name->length &&
                    !memcmp((*at)->name, name->data, name->length)))
        at = &(*at)->next;
    return at;
}

static bls_named *named_new(const bitlm_text *name, const bitlm_text *path)
{
    bls_named *named =
        sqlite3_malloc64((sqlite3_uint64)sizeof *named + name->length + path->length + 2);

    if (!named)
        return NULL;
    named->next = NULL;
    named->model = NULL;
    memcpy(named->name, name->data, name->length);
    named->name[name->length] = 0;
    named->path = named->name + name->length + 1;
    memcpy(named->path, path->data, path->length);
    named->path[path->length] = 0;
    return named;
}

static void drop(bls_state *state, bls_named **at)
{
    bls_named *named = *at;

    *at = named->next;
    state->generation++;
    bitlm_model_free(named->model);
    sqlite3_free(named);
    bls_sweep(state);
}

static void fn_load(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    bls_state *state = sqlite3_user_data(context);
    bls_named *named = NULL;
    bls_named **at;
    bitlm_text name, path;
    bitlm_host host;
    bls_call call;
    bitlm_status status;

    if (sqlite3_value_type(argv[0]) == SQLITE_NULL || sqlite3_value_type(argv[1]) == SQLITE_NULL)
        return;
    status = bls_begin(&call, state, "bitlm_load", argc > 2 ? argv[2] : NULL);
    if (status || (status = bls_text(&call, argv[0], "the name", &name)) ||
        (status = check_name(&call, &name)) ||
        (status = bls_text(&call, argv[1], "the path", &path)))
        goto end;
    if (path.length == 0 || memchr(path.data, 0, path.length)) {
        status = bls_error(&call, BITLM_ARG,
                           path.length ? "the path holds a zero byte" : "the path is empty");
        goto end;
    }
    if (is_builtin(&path)) { /* the core would take it for the built-in */
        status = bls_error(&call, BITLM_ARG,
                           "'%.*s' is a built-in model, not a path; write './%.*s' for a file",
                           (int)path.length, path.data, (int)path.length, path.data);
        goto end;
    }
    named = named_new(&name, &path);
    if (!named) {
        status = bls_error(&call, BITLM_NOMEM, "out of memory");
        goto end;
    }
    bls_model_host(state, &host);
    bls_enter(state);
    status = bitlm_model_open(path.data, path.length, 0, &call.options, &host, &named->model,
                              &call.error);
    bls_leave(state);
    if (status)
        goto end;
    at = find(state, &name);
    if (*at)
        drop(state, at);
    at = find(state, &name);
    *at = named;
    named = NULL;
    state->generation++;
    sqlite3_result_value(context, argv[0]);
end:
    sqlite3_free(named);
    if (status)
        bls_fail(&call, context, status);
    bls_end(&call);
}

static void fn_unload(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    bls_state *state = sqlite3_user_data(context);
    bitlm_model *model = NULL;
    bls_named **at;
    bitlm_text name;
    bls_call call;
    bitlm_status status;

    (void)argc;
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    bls_begin(&call, state, "bitlm_unload", NULL);
    if ((status = bls_text(&call, argv[0], "the name", &name)))
        goto end;
    if (is_builtin(&name)) {
        status = bls_error(&call, BITLM_ARG, "'%.*s' is a built-in model and stays",
                           (int)name.length, name.data);
        goto end;
    }
    at = find(state, &name);
    if (!*at) { /* for its sentence, which lists the names */
        status = bls_model_named(&call, name.data, name.length, &model);
        goto end;
    }
    drop(state, at);
    sqlite3_result_value(context, argv[0]);
end:
    if (status)
        bls_fail(&call, context, status);
    bls_end(&call);
}

/* ---- bitlm_model_id ----------------------------------------------------------------- */

bitlm_status bls_model_id(bls_call *call, bitlm_model *model, char hex[33])
{
    uint8_t id[16];
    bitlm_host host;
    bitlm_status status;
    int i;

    bls_model_host(call->state, &host);
    bls_enter(call->state);
    status = bitlm_model_id(model, &host, id, &call->error);
    bls_leave(call->state);
    for (i = 0; status == BITLM_OK && i < 16; i++)
        sqlite3_snprintf(3, hex + 2 * i, "%02x", id[i]);
    return status;
}

static void fn_model_id(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    bls_state *state = sqlite3_user_data(context);
    bitlm_text name = {"embed", 5};
    bitlm_model *model = NULL;
    bls_call call;
    bitlm_status status = BITLM_OK;
    char hex[33];

    if (argc > 0 && sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    bls_begin(&call, state, "bitlm_model_id", NULL);
    if (argc > 0)
        status = bls_text(&call, argv[0], "the name", &name);
    if (status == BITLM_OK)
        status = bls_model_named(&call, name.data, name.length, &model);
    if (status == BITLM_OK)
        status = bls_model_id(&call, model, hex);
    if (status == BITLM_OK)
        sqlite3_result_text(context, hex, 32, SQLITE_TRANSIENT);
    else
        bls_fail(&call, context, status);
    bitlm_model_free(model);
    bls_end(&call);
}

/* ---- bitlm_memory ------------------------------------------------------------------- */

static void fn_memory(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    bitlm_model *model = NULL;
    bls_call call;
    char json[1000];
    bitlm_status status;

    if (argc > 0 && sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    status = bls_begin(&call, sqlite3_user_data(context), "bitlm_memory", argc > 0 ? argv[0] : NULL);
    if (status == BITLM_OK)
        status = bls_model(&call, "story", &model);
    if (status == BITLM_OK)
        status = bitlm_memory_json(model, &call.options, json, sizeof json, &call.error);
    if (status == BITLM_OK) {
        sqlite3_result_text(context, json, -1, SQLITE_TRANSIENT);
        sqlite3_result_subtype(context, BLS_SUBTYPE_JSON);
    } else {
        bls_fail(&call, context, status);
    }
    bitlm_model_free(model);
    bls_end(&call);
}

static void fn_memory_shape(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    bitlm_text shape;
    bls_call call;
    char json[1000];
    bitlm_status status;

    (void)argc;
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL || sqlite3_value_type(argv[1]) == SQLITE_NULL)
        return;
    status = bls_begin(&call, sqlite3_user_data(context), "bitlm_memory", argv[1]);
    if (status == BITLM_OK)
        status = bls_text(&call, argv[0], "the shape", &shape);
    if (status == BITLM_OK)
        status = bitlm_memory_shape_json(shape.data, shape.length, &call.options, json, sizeof json, &call.error);
    if (status == BITLM_OK) {
        sqlite3_result_text(context, json, -1, SQLITE_TRANSIENT);
        sqlite3_result_subtype(context, BLS_SUBTYPE_JSON);
    } else {
        bls_fail(&call, context, status);
    }
    bls_end(&call);
}

/* ---- bitlm_models ------------------------------------------------------------------- */

enum models_column {
    COLUMN_NAME,
    COLUMN_PATH,
    COLUMN_ARCHITECTURE,
    COLUMN_WEIGHT_TYPE,
    COLUMN_PARAMETERS,
    COLUMN_BYTES,
    COLUMN_CONTEXT,
    COLUMN_VOCABULARY,
    COLUMN_LAYERS,
    COLUMN_BITS,
    COLUMN_CAPABILITIES,
    COLUMN_TITLE,
    COLUMN_MODEL_ID
};

static const char models_schema[] =
    "CREATE TABLE x("
    "name TEXT,"         /* for \"model\" in options */
    "path TEXT,"         /* the file; of a built-in its name */
    "architecture TEXT,"
    "weight_type TEXT,"  /* of most linear weights */
    "parameters INTEGER,"
    "bytes INTEGER,"
    "context INTEGER,"   /* tokens */
    "vocabulary INTEGER,"
    "layers INTEGER,"
    "bits INTEGER,"      /* of an embedding, NULL if it cannot embed */
    "capabilities TEXT," /* words of: generate chat embed */
    "title TEXT,"        /* general.name of the file */
    "model_id TEXT)";

typedef struct models_table {
    sqlite3_vtab base;
    bls_state *state;
} models_table;

typedef struct models_row {
    bitlm_model *model;
    char name[MAX_NAME + 1];
} models_row;

typedef struct models_cursor {
    sqlite3_vtab_cursor base;
    models_row *rows;
    size_t n_rows, at;
} models_cursor;

static int models_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
                          sqlite3_vtab **result, char **message)
{
    models_table *table;
    int rc = sqlite3_declare_vtab(db, models_schema);

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

static int models_disconnect(sqlite3_vtab *base)
{
    models_table *table = (models_table *)base;

    bls_state_unref(table->state);
    sqlite3_free(table);
    return SQLITE_OK;
}

static int models_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    (void)base;
    info->estimatedCost = 10;
    info->estimatedRows = 3;
    return SQLITE_OK;
}

static int models_open(sqlite3_vtab *base, sqlite3_vtab_cursor **result)
{
    models_cursor *cursor = sqlite3_malloc64(sizeof *cursor);

    (void)base;
    if (!cursor)
        return SQLITE_NOMEM;
    memset(cursor, 0, sizeof *cursor);
    *result = &cursor->base;
    return SQLITE_OK;
}

static void models_clear(models_cursor *cursor)
{
    size_t i;

    for (i = 0; i < cursor->n_rows; i++)
        bitlm_model_free(cursor->rows[i].model);
    sqlite3_free(cursor->rows);
    cursor->rows = NULL;
    cursor->n_rows = cursor->at = 0;
}

static int models_close(sqlite3_vtab_cursor *base)
{
    models_clear((models_cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

static int models_filter(sqlite3_vtab_cursor *base, int number, const char *string, int argc,
                         sqlite3_value **argv)
{
    models_cursor *cursor = (models_cursor *)base;
    bls_state *state = ((models_table *)base->pVtab)->state;
    const bls_named *named;
    bls_call call;
    bitlm_status status = BITLM_OK;
    size_t n = 2;
    int rc = SQLITE_OK;

    (void)number;
    (void)string;
    (void)argc;
    (void)argv;
    models_clear(cursor);
    for (named = state->named; named; named = named->next)
        n++;
    cursor->rows = sqlite3_malloc64(n * sizeof *cursor->rows);
    if (!cursor->rows)
        return SQLITE_NOMEM;
    bls_begin(&call, state, "bitlm_models", NULL);
    for (n = 0; n < 2 && status == BITLM_OK; n++) {
        status = bls_model_named(&call, builtin_names[n], 5, &cursor->rows[n].model);
        if (status == BITLM_OK) {
            memcpy(cursor->rows[n].name, builtin_names[n], 6);
            cursor->n_rows++;
        }
    }
    for (named = state->named; named && status == BITLM_OK; named = named->next) {
        bitlm_model_retain(named->model);
        cursor->rows[cursor->n_rows].model = named->model;
        memcpy(cursor->rows[cursor->n_rows].name, named->name, strlen(named->name) + 1);
        cursor->n_rows++;
    }
    if (status)
        rc = bls_fail_table(&call, base->pVtab, status);
    bls_end(&call);
    return rc;
}

static int models_next(sqlite3_vtab_cursor *base)
{
    ((models_cursor *)base)->at++;
    return SQLITE_OK;
}

static int models_eof(sqlite3_vtab_cursor *base)
{
    const models_cursor *cursor = (const models_cursor *)base;

    return cursor->at >= cursor->n_rows;
}

static int models_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    *rowid = (sqlite3_int64)((models_cursor *)base)->at + 1;
    return SQLITE_OK;
}

static void result_capabilities(sqlite3_context *context, const bitlm_model_info *info)
{
    char text[32];

    sqlite3_snprintf((int)sizeof text, text, "%s%s%s", info->can_generate ? " generate" : "",
                     info->can_chat ? " chat" : "", info->can_embed ? " embed" : "");
    sqlite3_result_text(context, text[0] ? text + 1 : text, -1, SQLITE_TRANSIENT);
}

static int models_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    const models_cursor *cursor = (const models_cursor *)base;
    const models_row *row = &cursor->rows[cursor->at];
    bitlm_model_info info;
    bls_call call;
    bitlm_status status;
    char hex[33];

    bls_begin(&call, ((models_table *)base->pVtab)->state, "bitlm_models", NULL);
    status = bls_describe(&call, row->model, &info);
    if (status == BITLM_OK && column == COLUMN_MODEL_ID)
        status = bls_model_id(&call, row->model, hex);
    if (status) {
        bls_fail(&call, context, status);
        bls_end(&call);
        return SQLITE_OK; /* the context holds the error */
    }
    switch ((enum models_column)column) {
    case COLUMN_NAME:
        sqlite3_result_text(context, row->name, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_PATH:
        sqlite3_result_text(context, info.path, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_ARCHITECTURE:
        sqlite3_result_text(context, info.architecture, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_WEIGHT_TYPE:
        sqlite3_result_text(context, info.weight_type, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_PARAMETERS:
        sqlite3_result_int64(context, (sqlite3_int64)info.n_parameters);
        break;
    case COLUMN_BYTES:
        sqlite3_result_int64(context, (sqlite3_int64)info.file_bytes);
        break;
    case COLUMN_CONTEXT:
        sqlite3_result_int(context, info.context_length);
        break;
    case COLUMN_VOCABULARY:
        sqlite3_result_int(context, info.vocab_size);
        break;
    case COLUMN_LAYERS:
        sqlite3_result_int(context, info.n_layers);
        break;
    case COLUMN_BITS:
        if (info.can_embed)
            sqlite3_result_int(context, info.embedding_bits);
        break;
    case COLUMN_CAPABILITIES:
        result_capabilities(context, &info);
        break;
    case COLUMN_TITLE:
        sqlite3_result_text(context, info.name, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_MODEL_ID:
        sqlite3_result_text(context, hex, 32, SQLITE_TRANSIENT);
        break;
    }
    bls_end(&call);
    return SQLITE_OK;
}

/* Without xCreate the table exists in every schema by its name alone. */
static const sqlite3_module models_module = {
    .xConnect = models_connect,
    .xBestIndex = models_best_index,
    .xDisconnect = models_disconnect,
    .xOpen = models_open,
    .xClose = models_close,
    .xFilter = models_filter,
    .xNext = models_next,
    .xEof = models_eof,
    .xColumn = models_column,
    .xRowid = models_rowid,
};

int bls_register_models(bls_state *state)
{
    int load_flags = SQLITE_DIRECTONLY;
    int rc;

    if (state->noload) {
        /* The other entry point may have been here before on this connection. */
        sqlite3_create_function_v2(state->db, "bitlm_load", 2, SQLITE_UTF8, NULL, NULL, NULL, NULL,
                                   NULL);
        sqlite3_create_function_v2(state->db, "bitlm_load", 3, SQLITE_UTF8, NULL, NULL, NULL, NULL,
                                   NULL);
        rc = sqlite3_create_function_v2(state->db, "bitlm_unload", 1, SQLITE_UTF8, NULL, NULL, NULL,
                                        NULL, NULL);
    } else {
        rc = bls_function(state, "bitlm_load", 2, load_flags, fn_load);
        if (rc == SQLITE_OK)
            rc = bls_function(state, "bitlm_load", 3, load_flags, fn_load);
        if (rc == SQLITE_OK)
            rc = bls_function(state, "bitlm_unload", 1, load_flags, fn_unload);
    }
    if (rc == SQLITE_OK)
        rc = bls_function(state, "bitlm_model_id", 0, SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS,
                          fn_model_id);
    if (rc == SQLITE_OK)
        rc = bls_function(state, "bitlm_model_id", 1, 0, fn_model_id);
    if (rc == SQLITE_OK)
        rc = bls_function(state, "bitlm_memory", 0, SQLITE_INNOCUOUS | bls_result_subtype(), fn_memory);
    if (rc == SQLITE_OK)
        rc = bls_function(state, "bitlm_memory", 1, bls_result_subtype(), fn_memory);
    if (rc == SQLITE_OK)
        rc = bls_function(state, "bitlm_memory", 2, SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS | bls_result_subtype(), fn_memory_shape);
    if (rc == SQLITE_OK)
        rc = bls_module(state, "bitlm_models", &models_module);
    return rc;
}
