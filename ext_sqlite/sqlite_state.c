/* sqlite_state.c - what a connection keeps, and the way in and out of the core.
 *
 * State: one for each connection, counted by the functions and modules that
 * SQLite registered with it, freed when the connection closes.  It holds the
 * names that bitlm_load gave, the built-in models once used, and sessions: a call
 * takes a free one of the shape it needs or opens another, so bitlm_generate
 * inside a running bitlm_stream works; at most KEPT_SESSIONS are kept idle.
 *
 * Interrupts: the core polls; poll_host answers.  sqlite3_is_interrupted exists
 * from SQLite 3.41 on and does not run progress handlers (Datasette's time limit
 * is one).  A statement stepped on the same connection returns SQLITE_INTERRUPT in
 * both cases and on every version, so each poll steps a recursive query of some
 * 1,000 instructions.  It is prepared at the first poll of a call and finalized
 * when the call leaves the core: a statement kept for longer would make
 * sqlite3_close() answer SQLITE_BUSY.  Users see it in sqlite3_trace.
 *
 * Errors: the table of statuses is in bls_code.  SQLITE_INTERRUPT rolls back the
 * transaction of a writing statement, so only the host's interrupt gives it; a
 * timeout_ms is an ordinary error. */
#include "sqlite_adapter.h"
#include "sqlite_table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define KEPT_SESSIONS 4
/* The core may poll every 2 ms; the query costs about 0.1 ms. */
#define POLL_INTERVAL_NS 4000000u
#define POLL_QUERY                                                                                 \
    "WITH RECURSIVE bitlm_poll(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM bitlm_poll WHERE n<80) " \
    "SELECT max(n) FROM bitlm_poll"

/* ---- polling ------------------------------------------------------------------ */

static uint64_t now_ns(void)
{
    struct timespec t;

    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0)
        return 0;
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int32_t poll_host(void *context)
{
    bls_state *state = context;
    uint64_t now;
    int rc = SQLITE_OK;

    if (bls_is_interrupted(state->db))
        return 1;
    /* A progress handler may run SQL that calls us; that call need not poll. */
    if (state->polling)
        return 0;
    now = now_ns();
    if (now - state->polled_ns < POLL_INTERVAL_NS)
        return 0;
    state->polling = 1;
    if (!state->poll_statement) {
        rc = sqlite3_prepare_v2(state->db, POLL_QUERY, -1, &state->poll_statement, NULL);
        if (rc != SQLITE_OK && rc != SQLITE_INTERRUPT) /* an authorizer may forbid recursion */
            rc = sqlite3_prepare_v2(state->db, "SELECT 1", -1, &state->poll_statement, NULL);
    }
    if (state->poll_statement) {
        rc = sqlite3_step(state->poll_statement);
        sqlite3_reset(state->poll_statement);
    }
    state->polling = 0;
    state->polled_ns = now;
    /* Anything else (no memory for the query, say) is no reason to stop. */
    return rc == SQLITE_INTERRUPT;
}

int32_t bls_poll(bls_state *state)
{
    int32_t stop;

    bls_enter(state);
    stop = poll_host(state);
    bls_leave(state);
    return stop;
}

void bls_enter(bls_state *state)
{
    state->entered++;
}

void bls_leave(bls_state *state)
{
    if (--state->entered == 0) {
        sqlite3_finalize(state->poll_statement);
        state->poll_statement = NULL;
    }
}

/* ---- the host's half of bitlm.h ------------------------------------------------- */

/* The core wants 16-byte alignment, SQLite promises 8.  In front of each block:
 * the address to free and whose it is. */
typedef struct block_head {
    void *raw;
    uintptr_t is_sqlites;
} block_head;

static void *host_alloc(void *context, size_t size)
{
    const size_t extra = sizeof(block_head) + 15;
    block_head *head;
    uintptr_t address;
    int is_sqlites = 1;
    void *raw;

    (void)context;
    if (size > SIZE_MAX - extra)
        return NULL;
    raw = sqlite3_malloc64((sqlite3_uint64)size + extra);
    /* SQLite never gives 2 GiB in one piece, which a long context can need.  Only
     * where no hard limit of the heap is set do we take it from the system. */
    if (!raw && size >= 0x7fffff00u - extra && sqlite3_hard_heap_limit64(-1) == 0) {
        raw = malloc(size + extra);
        is_sqlites = 0;
    }
    if (!raw)
        return NULL;
    address = ((uintptr_t)raw + extra) & ~(uintptr_t)15;
    head = (block_head *)address - 1;
    head->raw = raw;
    head->is_sqlites = (uintptr_t)is_sqlites;
    return (void *)address;
}

static void host_release(void *context, void *memory)
{
    block_head *head;

    (void)context;
    if (!memory)
        return;
    head = (block_head *)memory - 1;
    if (head->is_sqlites)
        sqlite3_free(head->raw);
    else
        free(head->raw);
}

static void host_log(void *context, int32_t level, const char *text, size_t length)
{
    (void)context;
    sqlite3_log(level == BITLM_LOG_WARNING ? SQLITE_WARNING : SQLITE_NOTICE, "bitlm: %.*s",
                length > 1000 ? 1000 : (int)length, text);
}

void bls_model_host(bls_state *state, bitlm_host *host)
{
    memset(host, 0, sizeof *host);
    host->size = sizeof *host;
    host->context = state;
    host->poll = poll_host;
    host->log = host_log;
}

void bls_host(bls_state *state, bitlm_host *host)
{
    bls_model_host(state, host);
    host->alloc = host_alloc;
    host->release = host_release;
}

/* ---- state ---------------------------------------------------------------------- */

static void session_free(bls_session *session)
{
    bitlm_session_free(session->core);
    bitlm_model_free(session->model);
    sqlite3_free(session);
}

bls_state *bls_state_new(sqlite3 *db, int noload)
{
    bls_state *state = sqlite3_malloc64(sizeof *state);

    if (!state)
        return NULL;
    memset(state, 0, sizeof *state);
    state->db = db;
    state->references = 1;
    state->noload = noload;
    return state;
}

void bls_state_ref(bls_state *state)
{
    state->references++;
}

void bls_state_unref(void *pointer)
{
    bls_state *state = pointer;
    bls_session *session, *next_session;
    bls_named *named, *next_named;

    if (--state->references > 0)
        return;
    for (session = state->sessions; session; session = next_session) {
        next_session = session->next;
        session_free(session);
    }
    for (named = state->named; named; named = next_named) {
        next_named = named->next;
        bitlm_model_free(named->model);
        sqlite3_free(named);
    }
    bitlm_model_free(state->story);
    bitlm_model_free(state->embed);
    sqlite3_free(state);
}

/* ---- one call ------------------------------------------------------------------- */

bitlm_status bls_error(bls_call *call, bitlm_status status, const char *format, ...)
{
    va_list arguments;

    call->error.status = status;
    call->error.sys_errno = 0;
    va_start(arguments, format);
    sqlite3_vsnprintf((int)sizeof call->error.text, call->error.text, format, arguments);
    va_end(arguments);
    return status;
}

/* For messages: at most 60 bytes of what a user gave, printable ASCII only, since
 * hosts decode messages strictly. */
static const char *show(char out[64], const char *text, size_t length)
{
    size_t i, n = length > 60 ? 57 : length;

    for (i = 0; i < n; i++)
        out[i] = text[i] < 0x20 || text[i] > 0x7e ? '?' : text[i];
    memcpy(out + n, n < length ? "..." : "", n < length ? 4 : 1);
    return out;
}

static bitlm_status ceiling(bls_call *call, const char *name, int32_t value, int32_t most)
{
    if (value <= most)
        return BITLM_OK;
    return bls_error(call, BITLM_LIMIT, "%s is %d, but this connection allows at most %d", name,
                     (int)value, (int)most);
}

/* What noload allows; defaults that exceed it are lowered, requests are refused. */
static bitlm_status apply_ceilings(bls_call *call)
{
    bitlm_options *o = &call->options;
    bitlm_status status;

    if ((status = ceiling(call, "max_tokens", o->max_tokens, BLS_CEILING_MAX_TOKENS)) ||
        (status = ceiling(call, "n_ctx", o->n_ctx, BLS_CEILING_N_CTX)) ||
        (status = ceiling(call, "timeout_ms", o->timeout_ms, BLS_CEILING_TIMEOUT_MS)) ||
        (status = ceiling(call, "threads", o->threads, BLS_CEILING_THREADS)))
        return status;
    if (o->timeout_ms == 0)
        o->timeout_ms = BLS_CEILING_TIMEOUT_MS;
    return BITLM_OK;
}

bitlm_status bls_begin(bls_call *call, bls_state *state, const char *name, sqlite3_value *options)
{
    bitlm_status status = BITLM_OK;
    const char *json;
    size_t length, i;
    char shown[64];

    memset(call, 0, sizeof *call);
    call->state = state;
    call->name = name;
    call->error.size = sizeof call->error;
    bitlm_options_init(&call->options);
    if (options && sqlite3_value_type(options) != SQLITE_NULL) {
        if (sqlite3_value_type(options) != SQLITE_TEXT)
            return bls_error(call, BITLM_ARG,
                             "the options are %s; give a JSON object such as {\"model\":\"story\"}",
                             bls_type_name(options));
        json = (const char *)sqlite3_value_text(options);
        if (!json)
            return bls_error(call, BITLM_NOMEM, "out of memory");
        length = (size_t)sqlite3_value_bytes(options);
        for (i = 0; i < length && memchr(" \t\r\n", json[i], 4); i++)
            continue;
        /* Most often a bare model name: show what to write. */
        if (i < length && json[i] != '{' && !(length - i >= 4 && !memcmp(json + i, "null", 4)))
            return bls_error(call, BITLM_ARG,
                             "the options are a JSON object such as {\"model\":\"story\"}, not '%s'",
                             show(shown, json, length));
        status = bitlm_options_json(&call->options, json, length, &call->error);
    }
    if (status == BITLM_OK && state->noload)
        status = apply_ceilings(call);
    /* The host may run many connections at once: one thread unless asked. */
    if (call->options.threads == 0)
        call->options.threads = 1;
    return status;
}

void bls_end(bls_call *call)
{
    bitlm_options_clear(&call->options);
}

bitlm_status bls_text(bls_call *call, sqlite3_value *value, const char *what, bitlm_text *text)
{
    if (sqlite3_value_type(value) == SQLITE_BLOB)
        return bls_error(call, BITLM_ARG,
                         "%s is a BLOB of %d bytes, but must be text: CAST(… AS TEXT) reads it as "
                         "UTF-8",
                         what, sqlite3_value_bytes(value));
    text->data = (const char *)sqlite3_value_text(value);
    if (!text->data)
        return bls_error(call, BITLM_NOMEM, "out of memory");
    text->length = (size_t)sqlite3_value_bytes(value);
    if (call->state->noload && text->length > BLS_CEILING_TEXT)
        return bls_error(call, BITLM_LIMIT,
                         "%s has %lld bytes, but this connection allows at most %d", what,
                         (sqlite3_int64)text->length, BLS_CEILING_TEXT);
    return BITLM_OK;
}

bitlm_status bls_integer(bls_call *call, sqlite3_value *value, const char *what, int64_t least,
                         int64_t most, int64_t *number)
{
    const char *written;
    char shown[64];
    int64_t n;
    int length;

    /* 2.0 and '2' become integers; sqlite3_value_numeric_type leaves 'two' a text. */
    if (sqlite3_value_numeric_type(value) != SQLITE_INTEGER &&
        !(sqlite3_value_type(value) == SQLITE_FLOAT &&
          sqlite3_value_double(value) == (double)sqlite3_value_int64(value))) {
        written = (const char *)sqlite3_value_text(value);
        length = sqlite3_value_bytes(value);
        if (!written)
            return bls_error(call, BITLM_NOMEM, "out of memory");
        return bls_error(call, BITLM_ARG, "%s is '%s', but must be an integer", what,
                         show(shown, written, (size_t)length));
    }
    n = sqlite3_value_int64(value);
    if (n < least || n > most)
        return bls_error(call, BITLM_ARG, "%s is %lld, but must be %lld to %lld", what, (sqlite3_int64)n,
                         (sqlite3_int64)least, (sqlite3_int64)most);
    *number = n;
    return BITLM_OK;
}

/* ---- errors --------------------------------------------------------------------- */

static int bls_code(bitlm_status status)
{
    switch (status) {
    case BITLM_NOMEM: return SQLITE_NOMEM;
    case BITLM_IO: return SQLITE_CANTOPEN;
    case BITLM_CORRUPT: return SQLITE_CORRUPT_VTAB;
    case BITLM_LIMIT: return SQLITE_TOOBIG;
    case BITLM_CANCELED: return SQLITE_INTERRUPT;
    case BITLM_INTERNAL: return SQLITE_INTERNAL;
    default: return SQLITE_ERROR; /* ARG, FORMAT, UNSUPPORTED, BUSY, TIMEOUT */
    }
}

static char *sentence(const bls_call *call, bitlm_status status)
{
    const char *text = call->error.text[0] ? call->error.text : bitlm_status_name(status);

    return sqlite3_mprintf("%s: %s", call->name, text);
}

void bls_fail(bls_call *call, sqlite3_context *context, bitlm_status status)
{
    char *text;

    if (status == BITLM_NOMEM) {
        sqlite3_result_error_nomem(context);
        return;
    }
    if (status == BITLM_CANCELED) { /* SQLite's own word for it: hosts compare the text */
        sqlite3_result_error_code(context, SQLITE_INTERRUPT);
        return;
    }
    text = sentence(call, status);
    if (!text) {
        sqlite3_result_error_nomem(context);
        return;
    }
    sqlite3_result_error(context, text, -1);
    sqlite3_result_error_code(context, bls_code(status));
    sqlite3_free(text);
}

int bls_fail_table(bls_call *call, sqlite3_vtab *table, bitlm_status status)
{
    if (status != BITLM_NOMEM && status != BITLM_CANCELED) {
        sqlite3_free(table->zErrMsg);
        table->zErrMsg = sentence(call, status);
        if (!table->zErrMsg)
            return SQLITE_NOMEM;
    }
    return bls_code(status);
}

int bls_forgiven(const bls_call *call, bitlm_status status)
{
    return call->options.on_error == BITLM_ON_ERROR_NULL && status != BITLM_CANCELED &&
           status != BITLM_NOMEM && status != BITLM_INTERNAL;
}

/* ---- models --------------------------------------------------------------------- */

static bitlm_status builtin(bls_call *call, const char *name, bitlm_model **slot,
                            bitlm_model **model)
{
    bls_state *state = call->state;
    bitlm_host host;
    bitlm_status status = BITLM_OK;

    if (!*slot) {
        bls_model_host(state, &host);
        bls_enter(state);
        status = bitlm_model_open(name, strlen(name), BITLM_OPEN_NAME_ONLY, NULL, &host, slot,
                                  &call->error);
        bls_leave(state);
    }
    if (status == BITLM_OK) {
        bitlm_model_retain(*slot);
        *model = *slot;
    }
    return status;
}

/* The names there are go into the sentence as far as it has room. */
static bitlm_status unknown_model(bls_call *call, const char *name, size_t length)
{
    const bls_named *named;
    char shown[64];
    char names[280];
    size_t n;

    sqlite3_snprintf((int)sizeof names, names, "story, embed");
    for (named = call->state->named; named; named = named->next) {
        n = strlen(names);
        if (n + strlen(named->name) + 8 > sizeof names) {
            sqlite3_snprintf((int)(sizeof names - n), names + n, ", …");
            break;
        }
        sqlite3_snprintf((int)(sizeof names - n), names + n, ", %s", named->name);
    }
    return bls_error(call, BITLM_ARG, "no model is named '%s' here; there are %s%s",
                     show(shown, name, length), names,
                     call->state->noload ? "" : "; bitlm_load(name, path) adds one");
}

bitlm_status bls_model_named(bls_call *call, const char *name, size_t length, bitlm_model **model)
{
    bls_named *named;

    if (length == 5 && !memcmp(name, "story", 5))
        return builtin(call, "story", &call->state->story, model);
    if (length == 5 && !memcmp(name, "embed", 5))
        return builtin(call, "embed", &call->state->embed, model);
    for (named = call->state->named; named; named = named->next) {
        if (strlen(named->name) == length && !memcmp(named->name, name, length)) {
            bitlm_model_retain(named->model);
            *model = named->model;
            return BITLM_OK;
        }
    }
    return unknown_model(call, name, length);
}

bitlm_status bls_model(bls_call *call, const char *default_name, bitlm_model **model)
{
    const bitlm_text *name = &call->options.model;

    if (!name->data)
        return bls_model_named(call, default_name, strlen(default_name), model);
    return bls_model_named(call, name->data, name->length, model);
}

bitlm_status bls_describe(bls_call *call, bitlm_model *model, bitlm_model_info *info)
{
    memset(info, 0, sizeof *info);
    info->size = sizeof *info;
    return bitlm_model_describe(model, info, &call->error);
}

/* ---- sessions ------------------------------------------------------------------- */

static void unlink_session(bls_state *state, const bls_session *session)
{
    bls_session **at = &state->sessions;

    while (*at != session)
        at = &(*at)->next;
    *at = session->next;
}

bitlm_status bls_borrow(bls_call *call, bitlm_model *model, bls_session **result)
{
    bls_state *state = call->state;
    const bitlm_options *o = &call->options;
    bls_session *session;
    bitlm_model_info info;
    bitlm_host host;
    bitlm_status status;

    if (state->noload && o->n_ctx == 0) {
        status = bls_describe(call, model, &info);
        if (status)
            return status;
        if (info.context_length > BLS_CEILING_N_CTX)
            call->options.n_ctx = BLS_CEILING_N_CTX;
    }
    if (state->noload) /* strangers' SQL takes no memory for speed */
        call->options.head = BITLM_HEAD_FULL;
    for (session = state->sessions; session; session = session->next) {
        if (!session->busy && session->model == model && session->n_ctx == o->n_ctx &&
            session->kv_type == o->kv_type && session->threads == o->threads &&
            session->rows == o->rows && session->activations == o->activations &&
            session->head == o->head) {
            session->busy = 1;
            *result = session;
            return BITLM_OK;
        }
    }
    session = sqlite3_malloc64(sizeof *session);
    if (!session)
        return bls_error(call, BITLM_NOMEM, "out of memory");
    memset(session, 0, sizeof *session);
    bls_host(state, &host);
    bls_enter(state);
    status = bitlm_session_open(model, o, &host, &session->core, &call->error);
    bls_leave(state);
    if (status) {
        sqlite3_free(session);
        return status;
    }
    bitlm_model_retain(model);
    session->model = model;
    session->n_ctx = o->n_ctx;
    session->kv_type = o->kv_type;
    session->threads = o->threads;
    session->rows = o->rows;
    session->activations = o->activations;
    session->head = o->head;
    session->busy = 1;
    session->next = state->sessions;
    state->sessions = session;
    *result = session;
    return BITLM_OK;
}

static int reachable(const bls_state *state, const bitlm_model *model)
{
    const bls_named *named;

    if (model == state->story || model == state->embed)
        return 1;
    for (named = state->named; named; named = named->next) {
        if (named->model == model)
            return 1;
    }
    return 0;
}

void bls_sweep(bls_state *state)
{
    bls_session **at = &state->sessions;
    bls_session *session;
    int idle = 0;

    while ((session = *at) != NULL) {
        if (!session->busy && (++idle > KEPT_SESSIONS || !reachable(state, session->model))) {
            *at = session->next;
            session_free(session);
        } else {
            at = &session->next;
        }
    }
}

void bls_return(bls_state *state, bls_session *session, bitlm_status status)
{
    if (!session)
        return;
    unlink_session(state, session);
    if (status == BITLM_INTERNAL) { /* do not trust what a defect left behind */
        session_free(session);
        return;
    }
    session->busy = 0;
    session->next = state->sessions;
    state->sessions = session;
    bls_sweep(state);
}
