/* sqlite_text.c - the scalar functions over text.
 *
 *     bitlm_generate(prompt [,opts])        the continuation, as text
 *     bitlm_chat(messages [,opts])          the answer to a JSON array of
 *                                           {"role": …, "content": …}
 *     bitlm_embed(text [,opts])             a BLOB of packed bits, MSB first
 *     bitlm_embed_f32(text [,opts])         a BLOB of little-endian float32, unit length
 *     bitlm_classify(text, labels [,opts])  how probable each label of a JSON array is:
 *                                           {"label": probability, …}, the best first
 *     bitlm_tokenize(text [,opts])          the ids, as a JSON array
 *     bitlm_detokenize(ids [,opts])         the text of a JSON array of ids
 *     bitlm_token_count(text [,opts])       how many ids bitlm_tokenize gives
 *     bitlm_version()
 *
 * opts is a JSON object; its "model" names 'story', 'embed' or what bitlm_load
 * named.  Without one bitlm_generate, bitlm_chat and the three token functions use
 * 'story', the two embeddings and bitlm_classify use 'embed'.  The ids are those of the text by
 * itself: no start or separator token is added, and marks such as <s> in it are
 * text, so bitlm_detokenize(bitlm_tokenize(x)) gives x back wherever the
 * vocabulary can write it.
 *
 * NULL in, NULL out; NULL opts are none.  Text may hold zero bytes; bytes that are
 * no UTF-8 read as U+FFFD.
 *
 * bitlm_embed(text, opts) is not DETERMINISTIC, so SQLite calls it for each row of
 * ORDER BY bitlm_hamming(code, bitlm_embed('x', opts)).  The result is therefore
 * kept as auxiliary data of the argument for as long as the statement runs and
 * text, options and loaded models stay the same: one embedding per statement. */
#include "sqlite_adapter.h"

#include <limits.h>
#include <string.h>

/* ---- generate and chat ------------------------------------------------------------ */

static bitlm_status generate_into(bls_call *call, bls_session *session, const bitlm_text *prompt,
                                  uint32_t flags, sqlite3_str *out)
{
    bitlm_piece piece;
    bitlm_status status;

    memset(&piece, 0, sizeof piece);
    piece.size = sizeof piece;
    bls_enter(call->state);
    status = bitlm_generate_start(session->core, prompt, 1, flags, &call->options, &call->error);
    while (status == BITLM_OK) {
        status = bitlm_generate_next(session->core, &piece, &call->error);
        if (status == BITLM_OK && piece.text_length > 0)
            sqlite3_str_append(out, piece.text, (int)piece.text_length);
    }
    bls_leave(call->state);
    if (status != BITLM_DONE)
        return status;
    switch (sqlite3_str_errcode(out)) {
    case SQLITE_OK: return BITLM_OK;
    case SQLITE_TOOBIG: return bls_error(call, BITLM_LIMIT, "the text outgrew SQLite's limit");
    default: return bls_error(call, BITLM_NOMEM, "out of memory");
    }
}

static bitlm_status check_chat(bls_call *call, bitlm_model *model)
{
    bitlm_model_info info;
    bitlm_status status = bls_describe(call, model, &info);

    if (status || info.can_chat || call->options.chat_template)
        return status;
    if (call->options.model.data)
        return bls_error(call, BITLM_UNSUPPORTED,
                         "the model '%.*s' has no chat template that bitlm renders; use "
                         "bitlm_generate",
                         (int)call->options.model.length, call->options.model.data);
    return bls_error(call, BITLM_UNSUPPORTED,
                     "the built-in model 'story' has no chat template; name a model that has one: "
                     "bitlm_chat(messages, '{\"model\":\"m\"}') after bitlm_load('m', path)");
}

static void generate(sqlite3_context *context, int argc, sqlite3_value **argv, const char *name,
                     const char *what, uint32_t flags)
{
    bls_state *state = sqlite3_user_data(context);
    bls_session *session = NULL;
    bitlm_model *model = NULL;
    sqlite3_str *out = NULL;
    bitlm_text prompt;
    bls_call call;
    bitlm_status status;
    int row_began = 0, length;

    if (sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    status = bls_begin(&call, state, name, argc > 1 ? argv[1] : NULL);
    if (status || (status = bls_model(&call, "story", &model)))
        goto end;
    if ((flags & BITLM_GENERATE_CHAT) && (status = check_chat(&call, model)))
        goto end;
    if ((status = bls_borrow(&call, model, &session)))
        goto end;
    row_began = 1;
    if ((status = bls_text(&call, argv[0], what, &prompt)))
        goto end;
    out = sqlite3_str_new(state->db);
    status = generate_into(&call, session, &prompt, flags, out);
    if (status == BITLM_OK) {
        length = sqlite3_str_length(out);
        if (length == 0) {
            sqlite3_result_text(context, "", 0, SQLITE_STATIC);
        } else {
            sqlite3_result_text64(context, sqlite3_str_finish(out), (sqlite3_uint64)length,
                                  sqlite3_free, SQLITE_UTF8);
            out = NULL;
        }
    }
end:
    if (out)
        sqlite3_free(sqlite3_str_finish(out));
    bls_return(state, session, status);
    bitlm_model_free(model);
    if (status && !(row_began && bls_forgiven(&call, status)))
        bls_fail(&call, context, status);
    bls_end(&call);
}

static void fn_generate(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    generate(context, argc, argv, "bitlm_generate", "the prompt", 0);
}

static void fn_chat(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    generate(context, argc, argv, "bitlm_chat", "the list of messages", BITLM_GENERATE_CHAT);
}

/* ---- embed -------------------------------------------------------------------------- */

/* An embedding and what it depends on, one block with its bytes:
 * text, then options, then the result. */
typedef struct kept_embedding {
    uint64_t generation;
    size_t text_length, options_length, result_length;
    int has_options;
    char bytes[];
} kept_embedding;

static sqlite3_value *given(int argc, sqlite3_value **argv, int i)
{
    return argc > i && sqlite3_value_type(argv[i]) != SQLITE_NULL ? argv[i] : NULL;
}

/* 1 and the result is set if this argument was embedded before in this statement. */
static int recall(sqlite3_context *context, const bls_state *state, sqlite3_value *text,
                  sqlite3_value *options)
{
    const kept_embedding *kept = sqlite3_get_auxdata(context, 0);
    const void *bytes;

    if (!kept || kept->generation != state->generation || kept->has_options != (options != NULL))
        return 0;
    if (sqlite3_value_type(text) != SQLITE_TEXT)
        return 0;
    bytes = sqlite3_value_text(text);
    if (!bytes || (size_t)sqlite3_value_bytes(text) != kept->text_length ||
        memcmp(bytes, kept->bytes, kept->text_length) != 0)
        return 0;
    if (options) {
        if (sqlite3_value_type(options) != SQLITE_TEXT)
            return 0;
        bytes = sqlite3_value_text(options);
        if (!bytes || (size_t)sqlite3_value_bytes(options) != kept->options_length ||
            memcmp(bytes, kept->bytes + kept->text_length, kept->options_length) != 0)
            return 0;
    }
    sqlite3_result_blob64(context, kept->bytes + kept->text_length + kept->options_length,
                          kept->result_length, SQLITE_TRANSIENT);
    return 1;
}

/* Lack of memory only costs the next row its time. */
static void keep(sqlite3_context *context, const bls_state *state, const bitlm_text *text,
                 sqlite3_value *options, const void *result, size_t result_length)
{
    size_t options_length = options ? (size_t)sqlite3_value_bytes(options) : 0;
    kept_embedding *kept = sqlite3_malloc64((sqlite3_uint64)sizeof *kept + text->length +
                                            options_length + result_length);

    if (!kept)
        return;
    kept->generation = state->generation;
    kept->text_length = text->length;
    kept->options_length = options_length;
    kept->result_length = result_length;
    kept->has_options = options != NULL;
    memcpy(kept->bytes, text->data, text->length);
    if (options_length > 0)
        memcpy(kept->bytes + text->length, sqlite3_value_text(options), options_length);
    memcpy(kept->bytes + text->length + options_length, result, result_length);
    sqlite3_set_auxdata(context, 0, kept, sqlite3_free);
}

bitlm_status bls_embedding_bytes(bls_call *call, bitlm_model *model, int32_t format,
                                 size_t *bytes)
{
    bitlm_model_info info;
    bitlm_status status = bls_describe(call, model, &info);

    if (status)
        return status;
    if (!info.can_embed || info.embedding_bits <= 0)
        return bls_error(call, BITLM_UNSUPPORTED,
                         "the model '%.*s' has no rule for pooling, so it cannot embed; the "
                         "built-in 'embed' can",
                         (int)call->options.model.length, call->options.model.data);
    *bytes = format == BITLM_EMBED_F32 ? (size_t)info.embedding_bits * 4
                                       : ((size_t)info.embedding_bits + 7) / 8;
    return BITLM_OK;
}

static void embed(sqlite3_context *context, int argc, sqlite3_value **argv, const char *name,
                  int32_t format)
{
    bls_state *state = sqlite3_user_data(context);
    sqlite3_value *options = given(argc, argv, 1);
    bls_session *session = NULL;
    bitlm_model *model = NULL;
    void *out = NULL;
    bitlm_text text;
    bls_call call;
    bitlm_status status;
    size_t bytes = 0;
    int row_began = 0;

    if (sqlite3_value_type(argv[0]) == SQLITE_NULL || recall(context, state, argv[0], options))
        return;
    status = bls_begin(&call, state, name, options);
    if (status || (status = bls_model(&call, "embed", &model)) ||
        (status = bls_embedding_bytes(&call, model, format, &bytes)) ||
        (status = bls_borrow(&call, model, &session)))
        goto end;
    row_began = 1;
    if ((status = bls_text(&call, argv[0], "the text", &text)))
        goto end;
    out = sqlite3_malloc64(bytes);
    if (!out) {
        status = bls_error(&call, BITLM_NOMEM, "out of memory");
        goto end;
    }
    bls_enter(state);
    status = bitlm_embed_batch(session->core, &text, 1, format, &call.options, out, bytes, NULL,
                               &call.error);
    bls_leave(state);
    if (status == BITLM_OK) {
        keep(context, state, &text, options, out, bytes);
        sqlite3_result_blob64(context, out, bytes, sqlite3_free);
        out = NULL;
    }
end:
    sqlite3_free(out);
    bls_return(state, session, status);
    bitlm_model_free(model);
    if (status && !(row_began && bls_forgiven(&call, status)))
        bls_fail(&call, context, status);
    bls_end(&call);
}

static void fn_embed(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    embed(context, argc, argv, "bitlm_embed", BITLM_EMBED_BITS);
}

static void fn_embed_f32(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    embed(context, argc, argv, "bitlm_embed_f32", BITLM_EMBED_F32);
}

/* ---- classify ------------------------------------------------------------------------ */

static bitlm_status result_labels(bls_call *call, sqlite3_context *context, const double *probabilities)
{
    size_t capacity = 4096, length = 0;
    bitlm_status status;
    char *json = NULL;

    do {
        capacity = length > capacity ? length : capacity;
        sqlite3_free(json);
        json = sqlite3_malloc64(capacity);
        if (!json)
            return bls_error(call, BITLM_NOMEM, "out of memory");
        status = bitlm_classification_json(&call->options, probabilities, json, capacity, &length,
                                           &call->error);
    } while (status == BITLM_LIMIT && length > capacity);
    if (status) {
        sqlite3_free(json);
        return status;
    }
    sqlite3_result_text64(context, json, length, sqlite3_free, SQLITE_UTF8);
    sqlite3_result_subtype(context, BLS_SUBTYPE_JSON);
    return BITLM_OK;
}

static void fn_classify(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    bls_state *state = sqlite3_user_data(context);
    bls_session *session = NULL;
    bitlm_model *model = NULL;
    double *probabilities = NULL;
    bitlm_text text, labels;
    bls_call call;
    bitlm_status status;
    int row_began = 0;

    if (sqlite3_value_type(argv[0]) == SQLITE_NULL || sqlite3_value_type(argv[1]) == SQLITE_NULL)
        return;
    status = bls_begin(&call, state, "bitlm_classify", argc > 2 ? argv[2] : NULL);
    if (status || (status = bls_text(&call, argv[1], "the list of labels", &labels)) ||
        (status = bitlm_options_choices(&call.options, labels.data, labels.length, &call.error)) ||
        (status = bls_model(&call, "embed", &model)) ||
        (status = bls_borrow(&call, model, &session)))
        goto end;
    row_began = 1;
    if ((status = bls_text(&call, argv[0], "the text", &text)))
        goto end;
    probabilities = sqlite3_malloc64(call.options.n_choices * sizeof *probabilities);
    if (!probabilities) {
        status = bls_error(&call, BITLM_NOMEM, "out of memory");
        goto end;
    }
    bls_enter(state);
    status = bitlm_classify(session->core, text.data, text.length, &call.options, probabilities,
                            &call.error);
    bls_leave(state);
    if (status == BITLM_OK)
        status = result_labels(&call, context, probabilities);
end:
    sqlite3_free(probabilities);
    bls_return(state, session, status);
    bitlm_model_free(model);
    if (status && !(row_began && bls_forgiven(&call, status)))
        bls_fail(&call, context, status);
    bls_end(&call);
}

/* ---- tokens ------------------------------------------------------------------------- */

/* *ids is the caller's to free, also after an error. */
static bitlm_status tokenize(bls_call *call, const bitlm_model *model, const bitlm_text *text,
                             int32_t **ids, size_t *n_ids)
{
    size_t capacity = text->length + 16; /* ids rarely outnumber bytes */
    bitlm_status status;
    bitlm_host host;

    bls_host(call->state, &host);
    for (;;) {
        sqlite3_free(*ids);
        *ids = sqlite3_malloc64((sqlite3_uint64)capacity * sizeof **ids);
        if (!*ids)
            return bls_error(call, BITLM_NOMEM, "out of memory");
        *n_ids = 0;
        bls_enter(call->state);
        status = bitlm_tokenize(model, text->data, text->length, 0, &host, *ids, capacity, n_ids,
                                &call->error);
        bls_leave(call->state);
        if (status != BITLM_LIMIT || *n_ids <= capacity)
            return status;
        capacity = *n_ids;
    }
}

static bitlm_status result_ids(bls_call *call, sqlite3_context *context, const int32_t *ids,
                               size_t n_ids)
{
    sqlite3_str *json = sqlite3_str_new(call->state->db);
    bitlm_status status = BITLM_OK;
    int length, code;
    size_t i;

    sqlite3_str_appendchar(json, 1, '[');
    for (i = 0; i < n_ids; i++)
        sqlite3_str_appendf(json, i ? ",%d" : "%d", (int)ids[i]);
    sqlite3_str_appendchar(json, 1, ']');
    length = sqlite3_str_length(json);
    code = sqlite3_str_errcode(json);
    if (code == SQLITE_OK) {
        sqlite3_result_text64(context, sqlite3_str_finish(json), (sqlite3_uint64)length,
                              sqlite3_free, SQLITE_UTF8);
        sqlite3_result_subtype(context, BLS_SUBTYPE_JSON);
        return BITLM_OK;
    }
    status = code == SQLITE_TOOBIG ? bls_error(call, BITLM_LIMIT, "the list outgrew SQLite's limit")
                                   : bls_error(call, BITLM_NOMEM, "out of memory");
    sqlite3_free(sqlite3_str_finish(json));
    return status;
}

/* bitlm_tokenize and bitlm_token_count. */
static void tokens(sqlite3_context *context, int argc, sqlite3_value **argv, const char *name,
                   int count_only)
{
    bls_state *state = sqlite3_user_data(context);
    bitlm_model *model = NULL;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    bitlm_text text;
    bitlm_host host;
    bls_call call;
    bitlm_status status;
    int row_began = 0;

    if (sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    status = bls_begin(&call, state, name, argc > 1 ? argv[1] : NULL);
    if (status || (status = bls_model(&call, "story", &model)))
        goto end;
    row_began = 1;
    if ((status = bls_text(&call, argv[0], "the text", &text)))
        goto end;
    if (count_only) {
        bls_host(state, &host);
        bls_enter(state);
        status = bitlm_tokenize(model, text.data, text.length, 0, &host, NULL, 0, &n_ids,
                                &call.error);
        bls_leave(state);
        if (status == BITLM_LIMIT && n_ids > 0) /* no room was given: that is the question */
            status = BITLM_OK;
        if (status == BITLM_OK)
            sqlite3_result_int64(context, (sqlite3_int64)n_ids);
    } else {
        status = tokenize(&call, model, &text, &ids, &n_ids);
        if (status == BITLM_OK)
            status = result_ids(&call, context, ids, n_ids);
    }
end:
    sqlite3_free(ids);
    bitlm_model_free(model);
    if (status && !(row_began && bls_forgiven(&call, status)))
        bls_fail(&call, context, status);
    bls_end(&call);
}

static void fn_tokenize(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    tokens(context, argc, argv, "bitlm_tokenize", 0);
}

static void fn_token_count(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    tokens(context, argc, argv, "bitlm_token_count", 1);
}

static size_t skip_space(const bitlm_text *text, size_t at)
{
    while (at < text->length && memchr(" \t\r\n", text->data[at], 4))
        at++;
    return at;
}

/* Reads "[1, 2, 3]", JSON's arrays of integers and nothing else.  *ids is the
 * caller's to free, also after an error. */
static bitlm_status parse_ids(bls_call *call, const bitlm_text *text, int32_t **ids, size_t *n_ids)
{
    const char *s = text->data;
    size_t at, n = 0, capacity = text->length / 2 + 1; /* an id and its comma are two bytes */
    int64_t value;
    int negative, digits;

    *ids = sqlite3_malloc64((sqlite3_uint64)capacity * sizeof **ids);
    if (!*ids)
        return bls_error(call, BITLM_NOMEM, "out of memory");
    at = skip_space(text, 0);
    if (at == text->length || s[at++] != '[')
        return bls_error(call, BITLM_ARG, "the ids are a JSON array of integers such as [1,2,3]");
    at = skip_space(text, at);
    if (at < text->length && s[at] == ']')
        goto closed;
    for (;;) {
        at = skip_space(text, at);
        negative = at < text->length && s[at] == '-';
        at += (size_t)negative;
        value = 0;
        for (digits = 0; at < text->length && s[at] >= '0' && s[at] <= '9'; at++, digits++) {
            value = value * 10 + (s[at] - '0');
            if (value > INT32_MAX)
                return bls_error(call, BITLM_ARG,
                                 "id number %lld of the array is beyond 2147483647",
                                 (sqlite3_int64)n);
        }
        if (digits == 0)
            return bls_error(call, BITLM_ARG,
                             "the ids are a JSON array of integers such as [1,2,3]; entry %lld is "
                             "not one",
                             (sqlite3_int64)n);
        (*ids)[n++] = (int32_t)(negative ? -value : value);
        at = skip_space(text, at);
        if (at == text->length || (s[at] != ',' && s[at] != ']'))
            return bls_error(call, BITLM_ARG,
                             "the ids are a JSON array of integers such as [1,2,3]; after entry "
                             "%lld there is neither ',' nor ']'",
                             (sqlite3_int64)n - 1);
        if (s[at] == ']')
            break;
        at++;
    }
closed:
    if (skip_space(text, at + 1) != text->length)
        return bls_error(call, BITLM_ARG, "there is more after the ']' of the ids");
    *n_ids = n;
    return BITLM_OK;
}

static bitlm_status detokenize(bls_call *call, const bitlm_model *model, const int32_t *ids,
                               size_t n_ids, char **out, size_t *length)
{
    size_t capacity = n_ids * 4 + 64;
    bitlm_status status;

    for (;;) {
        sqlite3_free(*out);
        *out = sqlite3_malloc64(capacity);
        if (!*out)
            return bls_error(call, BITLM_NOMEM, "out of memory");
        *length = 0;
        status = bitlm_detokenize(model, ids, n_ids, 0, *out, capacity, length, &call->error);
        if (status != BITLM_LIMIT || *length <= capacity)
            return status;
        capacity = *length;
    }
}

static void fn_detokenize(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    bls_state *state = sqlite3_user_data(context);
    bitlm_model *model = NULL;
    int32_t *ids = NULL;
    char *out = NULL;
    size_t n_ids = 0, length = 0;
    bitlm_text text;
    bls_call call;
    bitlm_status status;
    int row_began = 0;

    if (sqlite3_value_type(argv[0]) == SQLITE_NULL)
        return;
    status = bls_begin(&call, state, "bitlm_detokenize", argc > 1 ? argv[1] : NULL);
    if (status || (status = bls_model(&call, "story", &model)))
        goto end;
    row_began = 1;
    if ((status = bls_text(&call, argv[0], "the list of ids", &text)) ||
        (status = parse_ids(&call, &text, &ids, &n_ids)) ||
        (status = detokenize(&call, model, ids, n_ids, &out, &length)))
        goto end;
    sqlite3_result_text64(context, out, length, sqlite3_free, SQLITE_UTF8);
    out = NULL;
end:
    sqlite3_free(out);
    sqlite3_free(ids);
    bitlm_model_free(model);
    if (status && !(row_began && bls_forgiven(&call, status)))
        bls_fail(&call, context, status);
    bls_end(&call);
}

static void fn_version(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    (void)argc;
    (void)argv;
    sqlite3_result_text(context, bitlm_version(), -1, SQLITE_STATIC);
}

int bls_register_text(bls_state *state)
{
    static const struct {
        const char *name;
        void (*function)(sqlite3_context *, int, sqlite3_value **);
        int sets_subtype;
    } table[] = {
        {"bitlm_generate", fn_generate, 0},
        {"bitlm_chat", fn_chat, 0},
        {"bitlm_embed", fn_embed, 0},
        {"bitlm_embed_f32", fn_embed_f32, 0},
        {"bitlm_tokenize", fn_tokenize, 1},
        {"bitlm_detokenize", fn_detokenize, 0},
        {"bitlm_token_count", fn_token_count, 0},
    };
    size_t i;
    int flags, rc;

    for (i = 0; i < sizeof table / sizeof table[0]; i++) {
        flags = table[i].sets_subtype ? bls_result_subtype() : 0;
        rc = bls_function(state, table[i].name, 1, flags | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS,
                          table[i].function);
        if (rc == SQLITE_OK)
            rc = bls_function(state, table[i].name, 2, flags, table[i].function);
        if (rc != SQLITE_OK)
            return rc;
    }
    flags = bls_result_subtype();
    rc = bls_function(state, "bitlm_classify", 2, flags | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS,
                      fn_classify);
    if (rc == SQLITE_OK)
        rc = bls_function(state, "bitlm_classify", 3, flags, fn_classify);
    if (rc != SQLITE_OK)
        return rc;
    return bls_function(state, "bitlm_version", 0, SQLITE_INNOCUOUS, fn_version);
}
