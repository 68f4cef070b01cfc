/* python_adapter.h - what the files of bitlm._bitlm share.
 *
 * The module translates between Python objects and core/bitlm.h and computes nothing.  State
 * lives in the module object (one for each interpreter), types are heap types made at
 * execution, and nothing static is written to.
 *
 * The way into the core: blpy_begin (with the GIL: who cancels this call?), blpy_release,
 * the core's call, blpy_acquire, blpy_raise.  The GIL is given up only around calls that
 * can last; a distance of two codes is not one of them. */
#ifndef BLPY_ADAPTER_H
#define BLPY_ADAPTER_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>

#include "bitlm.h"
#include "python_compat.h"

typedef struct blpy_state {
    PyObject *format_error;    /* bitlm.FormatError */
    PyObject *canceled;        /* bitlm.Canceled: a threading.Event ended the call */
    PyTypeObject *core_type;   /* an open model */
    PyTypeObject *stream_type;
    PyTypeObject *codes_type;
    PyTypeObject *vectors_type;
    PyTypeObject *index_type;
    PyObject *main_thread;     /* threading.main_thread */
} blpy_state;

extern struct PyModuleDef blpy_module;

static inline blpy_state *blpy_state_of(PyObject *module) {
    return (blpy_state *)PyModule_GetState(module);
}

/* ---- polling and errors (python_call.c) ---------------------------------------------- */

/* The host of one session, or of one call without a session. */
typedef struct blpy_host {
    bitlm_host host;
    blpy_state *state;
    PyThreadState *saved;   /* while the GIL is given up */
    PyObject *event;        /* the running call's threading.Event or NULL; borrowed */
    int32_t cancel;         /* set by a callback of this call to end it */
    const int32_t *stop;    /* atomic: set by another thread, Stream.close(); NULL: nobody */
    int32_t on_main;        /* this thread is the one that Python runs signal handlers on */
    int32_t by_event;       /* the event was set */
    uint64_t checked_ns;
} blpy_host;

void blpy_host_init(blpy_host *h, blpy_state *state);
/* Before a call: event may be NULL or None.  -1 with an exception, also when the event is set. */
int blpy_begin(blpy_host *h, PyObject *event);
void blpy_release(blpy_host *h);
void blpy_acquire(blpy_host *h);

/* Sets the exception of a status (a signal handler's own stays).  Returns NULL. */
PyObject *blpy_raise(blpy_state *state, const blpy_host *h, bitlm_status status, const bitlm_error *error);
void blpy_error_init(bitlm_error *error);

/* base, then call laid over the defaults: two JSON objects as bytes, either may be NULL.
 * -1 with an exception; else the caller clears the options. */
int blpy_options(blpy_state *state, bitlm_options *options, PyObject *base, PyObject *call);

/* Converters of O&.  blpy_text: a str as bitlm_text, valid while the str lives; blpy_size: an int as Py_ssize_t, one
 * that is too large as the nearest. */
int blpy_text(PyObject *object, void *text);
int blpy_size(PyObject *object, void *size);
/* An int as int64; ValueError with `what` if it is none of 64 bits. */
int blpy_int64(PyObject *object, const char *what, int64_t *out);

/* An iterable of str as texts.  *keep owns them; *texts is PyMem memory.  -1 with an exception. */
int blpy_texts(PyObject *sequence, PyObject **keep, bitlm_text **texts, Py_ssize_t *n);
/* A sequence of int or a buffer of int32 as ids (PyMem memory). */
int blpy_ids(PyObject *sequence, int32_t **ids, Py_ssize_t *n);

/* A model_id between 16 bytes and 32 hex digits; hex gets 33 bytes.  -1 with an exception. */
void blpy_write_id(const uint8_t id[16], char *hex);
int blpy_read_id(const char *hex, uint8_t id[16]);

/* __reduce__ of what cannot be pickled: raises TypeError with `why`. */
PyObject *blpy_no_pickle(const char *type, const char *why);

/* ---- arrays (python_array.c) ------------------------------------------------------------- */

/* Codes (n, width bytes) or Vectors (n, width float32): read-only memory. */
typedef struct blpy_array {
    PyObject_HEAD
    char *data;
    PyObject *owner;        /* whose memory data is, or NULL: ours, by PyMem */
    Py_buffer view;         /* held if owner is a foreign buffer; view.obj NULL otherwise */
    PyObject *model_id;     /* str of 32 hex digits, or NULL */
    int is_float;
    Py_ssize_t shape[2], strides[2];
} blpy_array;

/* n rows with memory to fill in; model_id may be NULL. */
blpy_array *blpy_array_new(PyTypeObject *type, int is_float, Py_ssize_t n, Py_ssize_t width, PyObject *model_id);
int blpy_is_array(blpy_state *state, PyObject *object);
/* bytes of a C-contiguous buffer; `what` is for the message. */
int blpy_bytes(PyObject *object, Py_buffer *view, const char *what);
/* A buffer of float32 (format f, or plain bytes of a multiple of 4), aligned. */
int blpy_floats(PyObject *object, Py_buffer *view, float **copy, const float **values, Py_ssize_t *n, const char *what);
int blpy_array_register(PyObject *module, blpy_state *state);

/* ---- models (python_model.c), streams (python_stream.c), codes (python_codes.c) -------------- */

typedef struct blpy_session {
    struct blpy_session *next;
    bitlm_session *core;
    int32_t threads, n_ctx, kv_type, rows, activations, head;
    blpy_host host;
} blpy_session;

typedef struct blpy_core {
    PyObject_HEAD
    bitlm_model *model;     /* NULL after close */
    PyObject *options;      /* bytes: the model's own options */
    PyObject *model_id;     /* str once computed, else NULL */
    blpy_session *idle;
    int n_idle;
    pthread_mutex_t lock;   /* over all of it: nothing here waits while it holds it */
} blpy_core;

/* An idle session of the shape that options ask for, or a new one. */
blpy_session *blpy_borrow(blpy_core *self, blpy_state *state, const bitlm_options *options);
void blpy_return(blpy_core *self, blpy_session *session);
/* str of 32 hex digits, a new reference. */
PyObject *blpy_core_id(blpy_core *self, blpy_state *state);
/* The model, retained: the caller frees it.  NULL with an exception after close. */
bitlm_model *blpy_core_model(blpy_core *self);
int blpy_model_register(PyObject *module, blpy_state *state);

PyObject *blpy_stream_new(blpy_state *state, blpy_core *core, blpy_session *session, PyObject *event);
int blpy_stream_register(PyObject *module, blpy_state *state);

/* Two objects of bitlm that know their models must know the same one.  -1 with an exception. */
int blpy_same_model(blpy_state *state, PyObject *a, PyObject *b);
extern PyMethodDef blpy_codes_methods[];
extern PyMethodDef blpy_index_methods[];
extern PyMethodDef blpy_quant_methods[];
extern PyMethodDef blpy_convert_methods[];
extern PyMethodDef blpy_memory_methods[];
int blpy_index_register(PyObject *module, blpy_state *state);

#endif
