/* python_model.c - bitlm._bitlm.Core: an open model with its sessions.
 *
 * The class bitlm.Model (bitlm/model.py) turns keyword arguments into the options' JSON and
 * calls this.  Any number of threads may use one Core: each call takes an idle session of the
 * shape it needs or opens another; KEPT stay for the next calls. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/pool.h"
#include "python_adapter.h"

#define KEPT 8
#define MOST_ROWS 16 /* of option rows: a list of prompts asks for room for them all */

static blpy_state *state_of(PyObject *self) {
    return blpy_state_of(PyType_GetModuleByDef(Py_TYPE(self), &blpy_module));
}

/* ---- sessions ------------------------------------------------------------------------------- */

static void session_close(blpy_session *s) {
    bitlm_session_free(s->core);
    PyMem_RawFree(s);
}

bitlm_model *blpy_core_model(blpy_core *self) {
    bitlm_model *model;
    pthread_mutex_lock(&self->lock);
    model = self->model;
    if (model)
        bitlm_model_retain(model); /* another thread may close it */
    pthread_mutex_unlock(&self->lock);
    if (!model)
        PyErr_SetString(PyExc_ValueError, "the model is closed");
    return model;
}

blpy_session *blpy_borrow(blpy_core *self, blpy_state *state, const bitlm_options *options) {
    bitlm_options shaped = *options; /* the texts stay the caller's */
    blpy_session **at, *s = NULL;
    bitlm_model *model;
    bitlm_error error;
    bitlm_status status;
    if (shaped.threads == 0)
        shaped.threads = bl_physical_cores();
    pthread_mutex_lock(&self->lock);
    for (at = &self->idle; *at; at = &(*at)->next)
        if ((*at)->threads == shaped.threads && (*at)->n_ctx == shaped.n_ctx && (*at)->kv_type == shaped.kv_type &&
            (*at)->rows == shaped.rows && (*at)->activations == shaped.activations && (*at)->head == shaped.head) {
            s = *at;
            *at = s->next;
            self->n_idle--;
            break;
        }
    pthread_mutex_unlock(&self->lock);
    if (s)
        return s;
    model = blpy_core_model(self);
    if (!model)
        return NULL;
    s = PyMem_RawCalloc(1, sizeof *s);
    if (!s) {
        bitlm_model_free(model);
        PyErr_NoMemory();
        return NULL;
    }
    blpy_host_init(&s->host, state);
    s->threads = shaped.threads;
    s->n_ctx = shaped.n_ctx;
    s->kv_type = shaped.kv_type;
    s->rows = shaped.rows;
    s->activations = shaped.activations;
    s->head = shaped.head;
    blpy_error_init(&error);
    status = bitlm_session_open(model, &shaped, &s->host.host, &s->core, &error);
    bitlm_model_free(model); /* the session holds it */
    if (status) {
        PyMem_RawFree(s);
        blpy_raise(state, NULL, status, &error);
        return NULL;
    }
    return s;
}

void blpy_return(blpy_core *self, blpy_session *s) {
    s->host.event = NULL;
    pthread_mutex_lock(&self->lock);
    if (self->model && self->n_idle < KEPT) {
        s->next = self->idle;
        self->idle = s;
        self->n_idle++;
        s = NULL;
    }
    pthread_mutex_unlock(&self->lock);
    if (s)
        session_close(s);
}

static void core_close(blpy_core *self) {
    blpy_session *s, *next;
    bitlm_model *model;
    pthread_mutex_lock(&self->lock);
    s = self->idle;
    model = self->model;
    self->idle = NULL;
    self->n_idle = 0;
    self->model = NULL; /* running calls' sessions hold the model until they return */
    pthread_mutex_unlock(&self->lock);
    for (; s; s = next) {
        next = s->next;
        session_close(s);
    }
    bitlm_model_free(model);
}

/* ---- the object ------------------------------------------------------------------------------- */

/* Core(name: str, options: bytes | None = None) */
static PyObject *core_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name", "options", NULL};
    blpy_state *state = blpy_state_of(PyType_GetModuleByDef(type, &blpy_module));
    PyObject *json = NULL;
    const char *name;
    Py_ssize_t length;
    bitlm_options options;
    bitlm_error error;
    bitlm_status status;
    bitlm_model *model = NULL;
    blpy_host host;
    blpy_core *self;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s#|O", names, &name, &length, &json))
        return NULL;
    if (blpy_options(state, &options, json, NULL) < 0)
        return NULL;
    blpy_host_init(&host, state);
    blpy_error_init(&error);
    if (blpy_begin(&host, NULL) < 0) {
        bitlm_options_clear(&options);
        return NULL;
    }
    /* The model outlives this call, so it gets no host: it asks nothing after opening. */
    blpy_release(&host);
    status = bitlm_model_open(name, (size_t)length, 0, &options, NULL, &model, &error);
    blpy_acquire(&host);
    bitlm_options_clear(&options);
    if (status)
        return blpy_raise(state, &host, status, &error);
    self = (blpy_core *)type->tp_alloc(type, 0);
    if (!self) {
        bitlm_model_free(model);
        return NULL;
    }
    pthread_mutex_init(&self->lock, NULL);
    self->model = model;
    self->options = Py_XNewRef(json); /* bytes or None: blpy_options looked */
    return (PyObject *)self;
}

static void core_dealloc(PyObject *object) {
    blpy_core *self = (blpy_core *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    core_close(self);
    pthread_mutex_destroy(&self->lock);
    Py_XDECREF(self->options);
    Py_XDECREF(self->model_id);
    type->tp_free(object);
    Py_DECREF(type);
}

static int core_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object)); /* the rest is a str and bytes */
    return 0;
}

static PyObject *core_close_method(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    core_close((blpy_core *)self);
    Py_RETURN_NONE;
}

static PyObject *core_reduce(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    (void)self;
    return blpy_no_pickle("Model", "it is a mapped file with running state; send its path and open it there "
                                   "(processes share the mapping)");
}

static PyObject *core_info(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    blpy_core *self = (blpy_core *)object;
    bitlm_model_info info = {.size = sizeof info};
    bitlm_error error;
    bitlm_status status;
    bitlm_model *model = blpy_core_model(self);
    PyObject *dict;
    if (!model)
        return NULL;
    blpy_error_init(&error);
    status = bitlm_model_describe(model, &info, &error);
    if (status) {
        bitlm_model_free(model);
        return blpy_raise(state_of(object), NULL, status, &error);
    }
    dict = Py_BuildValue("{s:N,s:N,s:N,s:i,s:i,s:i,s:i,s:i,s:s,s:K,s:K,s:s,s:s,s:s,s:s,s:s}",
                         "can_generate", PyBool_FromLong(info.can_generate),
                         "can_embed", PyBool_FromLong(info.can_embed),
                         "can_chat", PyBool_FromLong(info.can_chat),
                         "vocab_size", (int)info.vocab_size,
                         "context_length", (int)info.context_length,
                         "hidden_size", (int)info.hidden_size,
                         "n_layers", (int)info.n_layers,
                         "embedding_bits", (int)info.embedding_bits,
                         "activation", info.activation == BITLM_ACT_SILU ? "silu" : "relu2",
                         "file_bytes", (unsigned long long)info.file_bytes,
                         "n_parameters", (unsigned long long)info.n_parameters,
                         "architecture", info.architecture, "name", info.name,
                         "weight_type", info.weight_type, "activation_why", info.activation_why,
                         "path", info.path); /* the texts are the model's */
    bitlm_model_free(model);
    return dict;
}

/* The numbers of the model (info's texts may be gone with it).  -1 with an exception. */
static int describe(blpy_core *self, blpy_state *state, bitlm_model_info *info) {
    bitlm_model *model = blpy_core_model(self);
    bitlm_error error;
    bitlm_status status;
    if (!model)
        return -1;
    blpy_error_init(&error);
    status = bitlm_model_describe(model, info, &error);
    bitlm_model_free(model);
    if (status)
        blpy_raise(state, NULL, status, &error);
    return status ? -1 : 0;
}

PyObject *blpy_core_id(blpy_core *self, blpy_state *state) {
    bitlm_error error;
    bitlm_status status;
    blpy_host host;
    uint8_t id[16];
    char hex[33];
    PyObject *text;
    bitlm_model *model = blpy_core_model(self);
    if (!model)
        return NULL;
    pthread_mutex_lock(&self->lock);
    text = Py_XNewRef(self->model_id);
    pthread_mutex_unlock(&self->lock);
    if (text) {
        bitlm_model_free(model);
        return text;
    }
    blpy_host_init(&host, state);
    blpy_error_init(&error);
    if (blpy_begin(&host, NULL) < 0) {
        bitlm_model_free(model);
        return NULL;
    }
    blpy_release(&host);
    status = bitlm_model_id(model, &host.host, id, &error);
    blpy_acquire(&host);
    bitlm_model_free(model);
    if (status)
        return blpy_raise(state, &host, status, &error);
    blpy_write_id(id, hex);
    text = PyUnicode_FromStringAndSize(hex, 32);
    pthread_mutex_lock(&self->lock);
    if (text && !self->model_id)
        self->model_id = Py_NewRef(text);
    pthread_mutex_unlock(&self->lock);
    return text;
}

static PyObject *core_model_id(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    return blpy_core_id((blpy_core *)self, state_of(self));
}

/* ---- tokens ------------------------------------------------------------------------------------- */

/* memory(options) -> str, a JSON object */
static PyObject *core_memory(PyObject *object, PyObject *json) {
    blpy_core *self = (blpy_core *)object;
    blpy_state *state = state_of(object);
    bitlm_options options;
    bitlm_error error;
    bitlm_status status;
    char text[1000];
    bitlm_model *model;
    if (blpy_options(state, &options, self->options, json) < 0)
        return NULL;
    model = blpy_core_model(self);
    if (!model) {
        bitlm_options_clear(&options);
        return NULL;
    }
    blpy_error_init(&error);
    status = bitlm_memory_json(model, &options, text, sizeof text, &error);
    bitlm_options_clear(&options);
    bitlm_model_free(model);
    return status ? blpy_raise(state, NULL, status, &error) : PyUnicode_FromString(text);
}

/* memory_shape(shape, options) -> str, a JSON object: no model is opened */
static PyObject *fn_memory_shape(PyObject *module, PyObject *args) {
    blpy_state *state = blpy_state_of(module);
    const char *shape;
    Py_ssize_t length;
    PyObject *json;
    bitlm_options options;
    bitlm_error error;
    bitlm_status status;
    char text[1000];
    if (!PyArg_ParseTuple(args, "s#O", &shape, &length, &json) || blpy_options(state, &options, NULL, json) < 0)
        return NULL;
    blpy_error_init(&error);
    status = bitlm_memory_shape_json(shape, (size_t)length, &options, text, sizeof text, &error);
    bitlm_options_clear(&options);
    return status ? blpy_raise(state, NULL, status, &error) : PyUnicode_FromString(text);
}

PyMethodDef blpy_memory_methods[] = {
    {"memory_shape", fn_memory_shape, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* tokenize(text: str, flags: int) -> list[int] */
static PyObject *core_tokenize(PyObject *object, PyObject *args) {
    blpy_core *self = (blpy_core *)object;
    blpy_state *state = state_of(object);
    bitlm_text text;
    unsigned int flags;
    size_t capacity, n = 0, i;
    int32_t *ids = NULL;
    bitlm_model *model;
    bitlm_error error;
    bitlm_status status;
    blpy_host host;
    PyObject *list = NULL;
    if (!PyArg_ParseTuple(args, "O&I", blpy_text, &text, &flags))
        return NULL;
    blpy_host_init(&host, state);
    if (blpy_begin(&host, NULL) < 0)
        return NULL;
    model = blpy_core_model(self);
    if (!model)
        return NULL;
    blpy_error_init(&error);
    for (capacity = text.length / 2 + 16;; capacity = n) {
        ids = PyMem_New(int32_t, capacity);
        if (!ids) {
            PyErr_NoMemory();
            goto end;
        }
        blpy_release(&host);
        status = bitlm_tokenize(model, text.data, text.length, flags, &host.host, ids, capacity, &n, &error);
        blpy_acquire(&host);
        if (status != BITLM_LIMIT || n <= capacity)
            break;
        PyMem_Free(ids);
    }
    if (status) {
        blpy_raise(state, &host, status, &error);
        goto end;
    }
    list = PyList_New((Py_ssize_t)n);
    for (i = 0; list && i < n; i++) {
        PyObject *id = PyLong_FromLong(ids[i]);
        if (!id)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, id);
    }
end:
    PyMem_Free(ids);
    bitlm_model_free(model);
    return list;
}

/* detokenize(ids: Sequence[int], flags: int) -> str */
static PyObject *core_detokenize(PyObject *object, PyObject *args) {
    blpy_core *self = (blpy_core *)object;
    PyObject *sequence, *out = NULL;
    unsigned int flags;
    int32_t *ids;
    Py_ssize_t n;
    char *text = NULL;
    size_t capacity, length = 0;
    bitlm_model *model;
    bitlm_error error;
    bitlm_status status;
    if (!PyArg_ParseTuple(args, "OI", &sequence, &flags) || blpy_ids(sequence, &ids, &n) < 0)
        return NULL;
    model = blpy_core_model(self);
    if (!model)
        goto end;
    blpy_error_init(&error);
    for (capacity = (size_t)n * 8 + 16;; capacity = length) {
        text = PyMem_Malloc(capacity);
        if (!text) {
            PyErr_NoMemory();
            goto end;
        }
        status = bitlm_detokenize(model, ids, (size_t)n, flags, text, capacity, &length, &error);
        if (status != BITLM_LIMIT || length <= capacity)
            break;
        PyMem_Free(text);
    }
    if (status)
        blpy_raise(state_of(object), NULL, status, &error);
    else
        out = PyUnicode_DecodeUTF8(text, (Py_ssize_t)length, NULL);
end:
    bitlm_model_free(model);
    PyMem_Free(text);
    PyMem_Free(ids);
    return out;
}

/* chunks(text: str, size: int, overlap: int) -> list[(char_start, char_length, n_tokens)] */
static PyObject *core_chunks(PyObject *object, PyObject *args) {
    blpy_core *self = (blpy_core *)object;
    blpy_state *state = state_of(object);
    bitlm_text text;
    Py_ssize_t size, overlap;
    size_t capacity, n = 0, i;
    bitlm_chunk *chunks = NULL;
    bitlm_model *model;
    bitlm_error error;
    bitlm_status status;
    blpy_host host;
    PyObject *list = NULL;
    if (!PyArg_ParseTuple(args, "O&O&O&", blpy_text, &text, blpy_size, &size, blpy_size, &overlap))
        return NULL;
    if (size < 1 || overlap < 0)
        return PyErr_Format(PyExc_ValueError, "size is %zd and overlap %zd, but must be at least 1 and 0", size,
                            overlap);
    blpy_host_init(&host, state);
    if (blpy_begin(&host, NULL) < 0)
        return NULL;
    model = blpy_core_model(self);
    if (!model)
        return NULL;
    blpy_error_init(&error);
    for (capacity = text.length / 64 + 16;; capacity = n) {
        chunks = PyMem_New(bitlm_chunk, capacity);
        if (!chunks) {
            PyErr_NoMemory();
            goto end;
        }
        blpy_release(&host);
        status = bitlm_chunks(model, text.data, text.length, (size_t)size, (size_t)overlap, &host.host, chunks,
                              capacity, &n, &error);
        blpy_acquire(&host);
        if (status != BITLM_LIMIT || n <= capacity)
            break;
        PyMem_Free(chunks);
    }
    if (status) {
        blpy_raise(state, &host, status, &error);
        goto end;
    }
    list = PyList_New((Py_ssize_t)n);
    for (i = 0; list && i < n; i++) {
        PyObject *row = Py_BuildValue("(nnn)", (Py_ssize_t)chunks[i].char_start, (Py_ssize_t)chunks[i].char_length,
                                      (Py_ssize_t)chunks[i].n_tokens);
        if (!row)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, row);
    }
end:
    PyMem_Free(chunks);
    bitlm_model_free(model);
    return list;
}

/* ---- running ------------------------------------------------------------------------------------- */

/* embed(texts, format, options, event) -> Codes | Vectors */
static PyObject *core_embed(PyObject *object, PyObject *args) {
    blpy_core *self = (blpy_core *)object;
    blpy_state *state = state_of(object);
    PyObject *sequence, *json, *event, *keep = NULL, *id = NULL;
    bitlm_model_info info = {.size = sizeof info};
    bitlm_text *texts = NULL;
    Py_ssize_t n, width;
    int format;
    bitlm_options options;
    bitlm_error error;
    bitlm_status status;
    blpy_session *s = NULL;
    blpy_array *out = NULL;
    if (!PyArg_ParseTuple(args, "OiOO", &sequence, &format, &json, &event) ||
        blpy_texts(sequence, &keep, &texts, &n) < 0)
        return NULL;
    if (blpy_options(state, &options, self->options, json) < 0) {
        PyMem_Free(texts);
        Py_DECREF(keep);
        return NULL;
    }
    if (describe(self, state, &info) < 0)
        goto end;
    blpy_error_init(&error);
    width = format == BITLM_EMBED_F32 ? info.embedding_bits : info.embedding_bits / 8;
    id = blpy_core_id(self, state);
    s = id ? blpy_borrow(self, state, &options) : NULL;
    if (!s)
        goto end;
    out = blpy_array_new(format == BITLM_EMBED_F32 ? state->vectors_type : state->codes_type,
                         format == BITLM_EMBED_F32, n, width, id);
    if (!out || blpy_begin(&s->host, event) < 0) {
        Py_CLEAR(out);
        goto end;
    }
    blpy_release(&s->host);
    status = bitlm_embed_batch(s->core, texts, (size_t)n, format, &options, out->data, (size_t)out->strides[0],
                               NULL, &error);
    blpy_acquire(&s->host);
    if (status || PyErr_Occurred()) {
        blpy_raise(state, &s->host, status, &error);
        Py_CLEAR(out);
    }
end:
    if (s)
        blpy_return(self, s);
    bitlm_options_clear(&options);
    PyMem_Free(texts);
    Py_DECREF(keep);
    Py_XDECREF(id);
    return (PyObject *)out;
}

typedef struct row_text {
    char *data;
    size_t length, room;
} row_text;

static int row_append(row_text *row, const char *data, size_t length) {
    if (length > row->room - row->length) {
        size_t room = (row->length + length) * 2 + 64;
        char *grown = PyMem_RawRealloc(row->data, room);
        if (!grown)
            return -1;
        row->data = grown;
        row->room = room;
    }
    if (length)
        memcpy(row->data + row->length, data, length);
    row->length += length;
    return 0;
}

/* All of it with the GIL given up; rows grow in raw memory. */
static bitlm_status run_generation(bitlm_session *session, const bitlm_text *texts, size_t n, uint32_t flags,
                                   const bitlm_options *options, row_text *rows, bitlm_error *error) {
    bitlm_piece piece = {.size = sizeof piece};
    bitlm_status status = bitlm_generate_start(session, texts, n, flags, options, error);
    while (!status && (status = bitlm_generate_next(session, &piece, error)) == BITLM_OK)
        if (row_append(&rows[piece.row], piece.text, piece.text_length) < 0)
            return BITLM_NOMEM;
    return status == BITLM_DONE ? BITLM_OK : status;
}

/* generate(prompts, flags, options, event) -> list[str] */
static PyObject *core_generate(PyObject *object, PyObject *args) {
    blpy_core *self = (blpy_core *)object;
    blpy_state *state = state_of(object);
    PyObject *sequence, *json, *event, *keep = NULL, *list = NULL;
    bitlm_text *texts = NULL;
    row_text *rows = NULL;
    Py_ssize_t n = 0, i;
    unsigned int flags;
    bitlm_options options;
    bitlm_error error;
    bitlm_status status;
    blpy_session *s = NULL;
    if (!PyArg_ParseTuple(args, "OIOO", &sequence, &flags, &json, &event) ||
        blpy_texts(sequence, &keep, &texts, &n) < 0)
        return NULL;
    if (blpy_options(state, &options, self->options, json) < 0) {
        PyMem_Free(texts);
        Py_DECREF(keep);
        return NULL;
    }
    if (n == 0) {
        list = PyList_New(0);
        goto end;
    }
    rows = PyMem_Calloc((size_t)n, sizeof *rows);
    if (!rows) {
        PyErr_NoMemory();
        goto end;
    }
    if (options.rows == 0 && n > 1)
        options.rows = MOST_ROWS;
    s = blpy_borrow(self, state, &options);
    if (!s || blpy_begin(&s->host, event) < 0)
        goto end;
    blpy_error_init(&error);
    blpy_release(&s->host);
    status = run_generation(s->core, texts, (size_t)n, flags, &options, rows, &error);
    blpy_acquire(&s->host);
    if (status || PyErr_Occurred()) {
        blpy_raise(state, &s->host, status, &error);
        goto end;
    }
    list = PyList_New(n);
    for (i = 0; list && i < n; i++) {
        PyObject *text = PyUnicode_DecodeUTF8(rows[i].data ? rows[i].data : "", (Py_ssize_t)rows[i].length, NULL);
        if (!text)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, text);
    }
end:
    if (s)
        blpy_return(self, s);
    for (i = 0; rows && i < n; i++)
        PyMem_RawFree(rows[i].data);
    PyMem_Free(rows);
    bitlm_options_clear(&options);
    PyMem_Free(texts);
    Py_DECREF(keep);
    return list;
}

/* stream(prompts, flags, options, event) -> Stream */
static PyObject *core_stream(PyObject *object, PyObject *args) {
    blpy_core *self = (blpy_core *)object;
    blpy_state *state = state_of(object);
    PyObject *sequence, *json, *event, *keep = NULL, *stream = NULL;
    bitlm_text *texts = NULL;
    Py_ssize_t n = 0;
    unsigned int flags;
    bitlm_options options;
    bitlm_error error;
    bitlm_status status;
    blpy_session *s = NULL;
    if (!PyArg_ParseTuple(args, "OIOO", &sequence, &flags, &json, &event) ||
        blpy_texts(sequence, &keep, &texts, &n) < 0)
        return NULL;
    if (blpy_options(state, &options, self->options, json) < 0) {
        PyMem_Free(texts);
        Py_DECREF(keep);
        return NULL;
    }
    if (options.rows == 0 && n > 1)
        options.rows = MOST_ROWS;
    s = blpy_borrow(self, state, &options);
    if (!s || blpy_begin(&s->host, event) < 0)
        goto end;
    blpy_error_init(&error);
    blpy_release(&s->host);
    status = bitlm_generate_start(s->core, texts, (size_t)n, flags, &options, &error);
    blpy_acquire(&s->host);
    if (status || PyErr_Occurred()) {
        blpy_raise(state, &s->host, status, &error);
        goto end;
    }
    stream = blpy_stream_new(state, self, s, event);
    if (stream)
        s = NULL; /* the stream's now */
end:
    if (s)
        blpy_return(self, s);
    bitlm_options_clear(&options);
    PyMem_Free(texts);
    Py_DECREF(keep);
    return stream;
}

/* classify(text, labels_json: bytes, options, event) -> list[float], in order of the labels */
static PyObject *core_classify(PyObject *object, PyObject *args) {
    blpy_core *self = (blpy_core *)object;
    blpy_state *state = state_of(object);
    PyObject *json, *event, *list = NULL;
    const char *labels;
    Py_ssize_t labels_length;
    bitlm_text text;
    double *probabilities = NULL;
    bitlm_options options;
    bitlm_error error;
    bitlm_status status;
    blpy_session *s = NULL;
    size_t i;
    if (!PyArg_ParseTuple(args, "O&y#OO", blpy_text, &text, &labels, &labels_length, &json, &event) ||
        blpy_options(state, &options, self->options, json) < 0)
        return NULL;
    blpy_error_init(&error);
    status = bitlm_options_choices(&options, labels, (size_t)labels_length, &error);
    if (status) {
        blpy_raise(state, NULL, status, &error);
        goto end;
    }
    probabilities = PyMem_New(double, options.n_choices + 1);
    if (!probabilities) {
        PyErr_NoMemory();
        goto end;
    }
    s = blpy_borrow(self, state, &options);
    if (!s || blpy_begin(&s->host, event) < 0)
        goto end;
    blpy_release(&s->host);
    status = bitlm_classify(s->core, text.data, text.length, &options, probabilities, &error);
    blpy_acquire(&s->host);
    if (status || PyErr_Occurred()) {
        blpy_raise(state, &s->host, status, &error);
        goto end;
    }
    list = PyList_New((Py_ssize_t)options.n_choices);
    for (i = 0; list && i < options.n_choices; i++) {
        PyObject *p = PyFloat_FromDouble(probabilities[i]);
        if (!p)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, p);
    }
end:
    if (s)
        blpy_return(self, s);
    PyMem_Free(probabilities);
    bitlm_options_clear(&options);
    return list;
}

/* One call over ids with float32 results: logits (n, vocab_size) or score (n). */
static PyObject *over_ids(PyObject *object, PyObject *args, int scores) {
    blpy_core *self = (blpy_core *)object;
    blpy_state *state = state_of(object);
    PyObject *sequence, *json, *event, *id = NULL;
    bitlm_model_info info = {.size = sizeof info};
    int32_t *ids = NULL;
    Py_ssize_t n;
    bitlm_options options;
    bitlm_error error;
    bitlm_status status;
    blpy_session *s = NULL;
    blpy_array *out = NULL;
    if (!PyArg_ParseTuple(args, "OOO", &sequence, &json, &event) || blpy_ids(sequence, &ids, &n) < 0)
        return NULL;
    if (blpy_options(state, &options, self->options, json) < 0) {
        PyMem_Free(ids);
        return NULL;
    }
    blpy_error_init(&error);
    id = describe(self, state, &info) == 0 ? blpy_core_id(self, state) : NULL;
    s = id ? blpy_borrow(self, state, &options) : NULL;
    if (!s)
        goto end;
    out = scores ? blpy_array_new(state->vectors_type, 1, 1, n, id)
                 : blpy_array_new(state->vectors_type, 1, n, info.vocab_size, id);
    if (!out || blpy_begin(&s->host, event) < 0) {
        Py_CLEAR(out);
        goto end;
    }
    blpy_release(&s->host);
    if (scores)
        status = bitlm_score(s->core, ids, (size_t)n, (float *)(void *)out->data, &error);
    else
        status = bitlm_logits(s->core, ids, (size_t)n, (float *)(void *)out->data, &error);
    blpy_acquire(&s->host);
    if (status || PyErr_Occurred()) {
        blpy_raise(state, &s->host, status, &error);
        Py_CLEAR(out);
    }
end:
    if (s)
        blpy_return(self, s);
    bitlm_options_clear(&options);
    PyMem_Free(ids);
    Py_XDECREF(id);
    return (PyObject *)out;
}

static PyObject *core_logits(PyObject *self, PyObject *args) {
    return over_ids(self, args, 0);
}

static PyObject *core_score(PyObject *self, PyObject *args) {
    return over_ids(self, args, 1);
}

static PyMethodDef core_methods[] = {
    {"close", core_close_method, METH_NOARGS, NULL},
    {"info", core_info, METH_NOARGS, NULL},
    {"model_id", core_model_id, METH_NOARGS, NULL},
    {"memory", core_memory, METH_O, NULL},
    {"tokenize", core_tokenize, METH_VARARGS, NULL},
    {"detokenize", core_detokenize, METH_VARARGS, NULL},
    {"chunks", core_chunks, METH_VARARGS, NULL},
    {"embed", core_embed, METH_VARARGS, NULL},
    {"generate", core_generate, METH_VARARGS, NULL},
    {"stream", core_stream, METH_VARARGS, NULL},
    {"classify", core_classify, METH_VARARGS, NULL},
    {"logits", core_logits, METH_VARARGS, NULL},
    {"score", core_score, METH_VARARGS, NULL},
    {"__reduce__", core_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot core_slots[] = {
    {Py_tp_new, core_new},
    {Py_tp_dealloc, core_dealloc},
    {Py_tp_traverse, core_traverse},
    {Py_tp_methods, core_methods},
    {Py_tp_doc, PyDoc_STR("An open model, under bitlm.Model.")},
    {0, NULL},
};

static PyType_Spec core_spec = {
    .name = "bitlm._bitlm.Core",
    .basicsize = sizeof(blpy_core),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = core_slots,
};

int blpy_model_register(PyObject *module, blpy_state *state) {
    state->core_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &core_spec, NULL);
    return state->core_type ? PyModule_AddType(module, state->core_type) : -1;
}
