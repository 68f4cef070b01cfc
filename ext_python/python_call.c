/* python_call.c - the way in and out of the core: cancelling, errors, options, texts.
 *
 * Cancelling: the core polls every few milliseconds.  Python runs signal handlers on its main
 * thread only, so only that thread takes the GIL in a poll, at most every 20 ms; others read
 * flags, and look at a threading.Event if the call was given one.
 *
 * Called by every file of ext_python. */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "python_adapter.h"

#define CHECK_NS 20000000u

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* 1 if the event is set, 0 if not, -1 with an exception. */
static int event_is_set(PyObject *event) {
    PyObject *set = PyObject_CallMethod(event, "is_set", NULL);
    int truth = set ? PyObject_IsTrue(set) : -1;
    Py_XDECREF(set);
    return truth;
}

static int32_t poll_host(void *context) {
    blpy_host *h = context;
    uint64_t now;
    int stop = 0;
    if (h->cancel || (h->stop && atomic_load_explicit((const _Atomic int32_t *)h->stop, memory_order_relaxed)))
        return 1;
    if (!h->saved || (!h->on_main && !h->event))
        return 0;
    now = now_ns();
    if (now - h->checked_ns < CHECK_NS)
        return 0;
    h->checked_ns = now;
    PyEval_RestoreThread(h->saved);
    if (h->on_main)
        stop = PyErr_CheckSignals() != 0;
    if (!stop && h->event) {
        int set = event_is_set(h->event);
        stop = set != 0;
        h->by_event = set == 1;
    }
    h->saved = PyEval_SaveThread(); /* a handler's exception stays with the thread */
    return stop;
}

void blpy_host_init(blpy_host *h, blpy_state *state) {
    memset(h, 0, sizeof *h);
    h->host.size = sizeof h->host;
    h->host.context = h;
    h->host.poll = poll_host;
    h->state = state;
}

int blpy_begin(blpy_host *h, PyObject *event) {
    PyObject *main, *ident;
    unsigned long id = 0;
    h->event = event && event != Py_None ? event : NULL;
    h->by_event = 0;
    h->checked_ns = now_ns();
    h->cancel = 0;
    if (h->event) {
        int set = event_is_set(h->event);
        if (set < 0)
            return -1;
        if (set) {
            PyErr_SetString(h->state->canceled, "canceled: the event is set");
            return -1;
        }
    }
    /* Asked each time: after a fork it may be another one. */
    main = PyObject_CallNoArgs(h->state->main_thread);
    ident = main ? PyObject_GetAttrString(main, "ident") : NULL;
    Py_XDECREF(main);
    if (!ident)
        return -1;
    if (ident != Py_None)
        id = PyLong_AsUnsignedLong(ident);
    Py_DECREF(ident);
    if (PyErr_Occurred())
        return -1;
    h->on_main = id == PyThread_get_thread_ident();
    return 0;
}

void blpy_release(blpy_host *h) {
    h->saved = PyEval_SaveThread();
}

void blpy_acquire(blpy_host *h) {
    PyThreadState *saved = h->saved;
    h->saved = NULL;
    PyEval_RestoreThread(saved);
}

/* ---- errors ------------------------------------------------------------------------------ */

void blpy_error_init(bitlm_error *error) {
    memset(error, 0, sizeof *error);
    error->size = sizeof *error;
}

PyObject *blpy_raise(blpy_state *state, const blpy_host *h, bitlm_status status, const bitlm_error *error) {
    const char *text = error->text[0] ? error->text : bitlm_status_name(status);
    PyObject *type;
    if (PyErr_Occurred()) /* a signal handler's, or the event's own */
        return NULL;
    switch (status) {
    case BITLM_ARG:
    case BITLM_LIMIT: type = PyExc_ValueError; break;
    case BITLM_NOMEM: type = PyExc_MemoryError; break;
    case BITLM_FORMAT:
    case BITLM_CORRUPT: type = state->format_error; break;
    case BITLM_UNSUPPORTED: type = PyExc_NotImplementedError; break;
    case BITLM_TIMEOUT: type = PyExc_TimeoutError; break;
    case BITLM_CANCELED:
        type = state->canceled;
        text = h && h->by_event ? "canceled: the event is set" : "canceled: closed by another thread";
        break;
    case BITLM_IO: {
        /* Two arguments make OSError choose FileNotFoundError and its other kinds. */
        PyObject *arguments = error->sys_errno ? Py_BuildValue("(is)", (int)error->sys_errno, text)
                                               : Py_BuildValue("(s)", text);
        if (arguments)
            PyErr_SetObject(PyExc_OSError, arguments);
        Py_XDECREF(arguments);
        return NULL;
    }
    default: type = PyExc_RuntimeError; break; /* BUSY, INTERNAL */
    }
    PyErr_SetString(type, text);
    return NULL;
}

PyObject *blpy_no_pickle(const char *type, const char *why) {
    return PyErr_Format(PyExc_TypeError, "a bitlm.%s cannot be pickled: %s", type, why);
}

/* ---- arguments ----------------------------------------------------------------------------- */

static int lay_over(blpy_state *state, bitlm_options *options, PyObject *json) {
    bitlm_error error;
    bitlm_status status;
    if (!json || json == Py_None)
        return 0;
    if (!PyBytes_Check(json)) {
        PyErr_SetString(PyExc_TypeError, "options are JSON in bytes");
        return -1;
    }
    blpy_error_init(&error);
    status = bitlm_options_json(options, PyBytes_AS_STRING(json), (size_t)PyBytes_GET_SIZE(json), &error);
    if (status == BITLM_OK)
        return 0;
    blpy_raise(state, NULL, status, &error);
    return -1;
}

int blpy_options(blpy_state *state, bitlm_options *options, PyObject *base, PyObject *call) {
    bitlm_options_init(options);
    if (lay_over(state, options, base) == 0 && lay_over(state, options, call) == 0)
        return 0;
    bitlm_options_clear(options);
    return -1;
}

int blpy_text(PyObject *object, void *text) {
    bitlm_text *out = text;
    Py_ssize_t length;
    if (!PyUnicode_Check(object)) {
        PyErr_Format(PyExc_TypeError, "the text is %.80s, but must be str", Py_TYPE(object)->tp_name);
        return 0;
    }
    out->data = PyUnicode_AsUTF8AndSize(object, &length);
    out->length = out->data ? (size_t)length : 0;
    return out->data != NULL;
}

int blpy_size(PyObject *object, void *size) {
    Py_ssize_t *out = size;
    *out = PyNumber_AsSsize_t(object, NULL);
    return !(*out == -1 && PyErr_Occurred());
}

int blpy_int64(PyObject *object, const char *what, int64_t *out) {
    long long value = PyLong_AsLongLong(object);
    *out = value;
    if (value != -1 || !PyErr_Occurred())
        return 0;
    if (PyErr_ExceptionMatches(PyExc_OverflowError))
        PyErr_Format(PyExc_ValueError, "%s %R needs more than 64 bits", what, object);
    return -1;
}

int blpy_texts(PyObject *sequence, PyObject **keep, bitlm_text **texts, Py_ssize_t *n) {
    PyObject *tuple;
    bitlm_text *out;
    Py_ssize_t i, count;
    if (PyUnicode_Check(sequence) || PyBytes_Check(sequence)) {
        PyErr_Format(PyExc_TypeError, "the texts are %.80s, but must be an iterable of str", Py_TYPE(sequence)->tp_name);
        return -1;
    }
    /* A tuple of our own: another thread may change a list while the GIL is given up. */
    tuple = PySequence_Tuple(sequence);
    if (!tuple) {
        if (PyErr_ExceptionMatches(PyExc_TypeError) && !Py_TYPE(sequence)->tp_iter)
            PyErr_Format(PyExc_TypeError, "the texts are %.80s, but must be a str or an iterable of str",
                         Py_TYPE(sequence)->tp_name);
        return -1;
    }
    count = PyTuple_GET_SIZE(tuple);
    out = PyMem_New(bitlm_text, (size_t)(count ? count : 1));
    if (!out) {
        PyErr_NoMemory();
        goto fail;
    }
    for (i = 0; i < count; i++) {
        PyObject *item = PyTuple_GET_ITEM(tuple, i);
        Py_ssize_t length;
        if (!PyUnicode_Check(item)) {
            PyErr_Format(PyExc_TypeError, "text %zd is %.80s, but must be str", i, Py_TYPE(item)->tp_name);
            goto fail;
        }
        out[i].data = PyUnicode_AsUTF8AndSize(item, &length);
        if (!out[i].data)
            goto fail;
        out[i].length = (size_t)length;
    }
    *keep = tuple;
    *texts = out;
    *n = count;
    return 0;
fail:
    PyMem_Free(out);
    Py_DECREF(tuple);
    return -1;
}

int blpy_ids(PyObject *sequence, int32_t **ids, Py_ssize_t *n) {
    PyObject *fast = PySequence_Tuple(sequence);
    int32_t *out;
    Py_ssize_t i, count;
    if (!fast)
        return -1;
    count = PyTuple_GET_SIZE(fast);
    out = PyMem_New(int32_t, (size_t)(count ? count : 1));
    if (!out)
        PyErr_NoMemory();
    for (i = 0; out && i < count; i++) {
        int64_t id;
        if (blpy_int64(PyTuple_GET_ITEM(fast, i), "token", &id) < 0)
            break;
        if (id < INT32_MIN || id > INT32_MAX) {
            PyErr_Format(PyExc_ValueError, "token %lld is outside the vocabulary", (long long)id);
            break;
        }
        out[i] = (int32_t)id;
    }
    Py_DECREF(fast);
    if (PyErr_Occurred()) {
        PyMem_Free(out);
        return -1;
    }
    *ids = out;
    *n = count;
    return 0;
}

void blpy_write_id(const uint8_t id[16], char *hex) {
    static const char digits[] = "0123456789abcdef";
    int i;
    for (i = 0; i < 16; i++) {
        hex[2 * i] = digits[id[i] >> 4];
        hex[2 * i + 1] = digits[id[i] & 15];
    }
    hex[32] = 0;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int blpy_read_id(const char *hex, uint8_t id[16]) {
    int i, ok = strlen(hex) == 32;
    for (i = 0; ok && i < 16; i++) {
        int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
        ok = high >= 0 && low >= 0;
        id[i] = (uint8_t)((high & 15) << 4 | (low & 15));
    }
    if (ok)
        return 0;
    PyErr_SetString(PyExc_ValueError, "model_id must be 32 hex digits");
    return -1;
}
