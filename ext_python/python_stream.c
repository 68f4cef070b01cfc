/* python_stream.c - bitlm._bitlm.Stream: the pieces of a running generation, one at a time.
 *
 * An iterator of tuples (row, n, token, finish, logprob, text) that owns a session until it is
 * exhausted, closed, or fails.  close() may come from any thread, also while __next__ runs: it
 * sets `closed`, which the core's poll reads, and the running __next__ gives the session back.
 * Only who turns `running` from 0 to 1 touches the session, so this holds without a GIL too. */
#include <math.h>
#include <stdatomic.h>

#include "python_adapter.h"

typedef struct stream {
    PyObject_HEAD
    blpy_core *core;
    blpy_session *session; /* NULL when over */
    PyObject *event;       /* or NULL */
    int32_t running;       /* atomic: a __next__ is inside the core */
    int32_t closed;        /* atomic */
} stream;

static void give_back(stream *self) {
    blpy_session *s = self->session;
    self->session = NULL;
    if (!s)
        return;
    s->host.stop = NULL;
    blpy_return(self->core, s);
}

static int take(stream *self) {
    int32_t expected = 0;
    return atomic_compare_exchange_strong((_Atomic int32_t *)&self->running, &expected, 1);
}

/* A close() that came after the look at `closed` and before `running` fell could not take: look again. */
static void leave(stream *self) {
    int32_t closed;
    do {
        closed = atomic_load((_Atomic int32_t *)&self->closed);
        if (closed)
            give_back(self);
        atomic_store((_Atomic int32_t *)&self->running, 0);
    } while (!closed && atomic_load((_Atomic int32_t *)&self->closed) && take(self));
}

static PyObject *stream_next(PyObject *object) {
    stream *self = (stream *)object;
    bitlm_piece piece = {.size = sizeof piece};
    bitlm_error error;
    bitlm_status status;
    PyObject *result = NULL;
    blpy_session *s;
    if (!take(self)) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is taking the next piece of this stream");
        return NULL;
    }
    s = self->session;
    if (!s || atomic_load((_Atomic int32_t *)&self->closed))
        goto end;
    if (blpy_begin(&s->host, self->event) < 0) {
        atomic_store((_Atomic int32_t *)&self->closed, 1);
        if (PyErr_ExceptionMatches(s->host.state->canceled))
            PyErr_Clear(); /* the event ends a stream quietly */
        goto end;
    }
    blpy_error_init(&error);
    blpy_release(&s->host);
    status = bitlm_generate_next(s->core, &piece, &error);
    blpy_acquire(&s->host);
    if (status || PyErr_Occurred()) {
        int quiet = status == BITLM_DONE || status == BITLM_CANCELED;
        atomic_store((_Atomic int32_t *)&self->closed, 1);
        if (!PyErr_Occurred() && !quiet)
            blpy_raise(s->host.state, &s->host, status, &error);
        goto end;
    }
    result = Py_BuildValue("(iiiifs#)", (int)piece.row, (int)piece.n, (int)piece.token, (int)piece.finish,
                           (double)piece.logprob, piece.text_length ? piece.text : "",
                           (Py_ssize_t)piece.text_length);
end:
    leave(self);
    return result;
}

static PyObject *stream_close(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    stream *self = (stream *)object;
    atomic_store((_Atomic int32_t *)&self->closed, 1);
    if (take(self)) /* else who is inside the core sees `closed` and gives the session back */
        leave(self);
    Py_RETURN_NONE;
}

static void stream_dealloc(PyObject *object) {
    stream *self = (stream *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    give_back(self);
    Py_XDECREF(self->event);
    Py_XDECREF(self->core);
    type->tp_free(object);
    Py_DECREF(type);
}

static int stream_traverse(PyObject *object, visitproc visit, void *arg) {
    stream *self = (stream *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->event);
    Py_VISIT(self->core);
    return 0;
}

static int stream_clear(PyObject *object) {
    Py_CLEAR(((stream *)object)->event);
    return 0;
}

static PyObject *stream_reduce(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    (void)self;
    return blpy_no_pickle("Stream", "it is a running generation");
}

PyObject *blpy_stream_new(blpy_state *state, blpy_core *core, blpy_session *session, PyObject *event) {
    stream *self = (stream *)state->stream_type->tp_alloc(state->stream_type, 0);
    if (!self)
        return NULL;
    self->core = (blpy_core *)Py_NewRef((PyObject *)core);
    self->session = session;
    session->host.stop = &self->closed;
    self->event = event && event != Py_None ? Py_NewRef(event) : NULL;
    return (PyObject *)self;
}

static PyMethodDef stream_methods[] = {
    {"close", stream_close, METH_NOARGS, NULL},
    {"__reduce__", stream_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_dealloc, stream_dealloc},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, stream_next},
    {Py_tp_methods, stream_methods},
    {Py_tp_doc, PyDoc_STR("The pieces of a running generation, under Model.stream.")},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "bitlm._bitlm.Stream",
    .basicsize = sizeof(stream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_GC,
    .slots = stream_slots,
};

int blpy_stream_register(PyObject *module, blpy_state *state) {
    state->stream_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &stream_spec, NULL);
    return state->stream_type ? PyModule_AddType(module, state->stream_type) : -1;
}
