/* python_index.c - bitlm.topk and bitlm._bitlm.IndexCore, the index of codes under bitlm.Index.
 *
 * Both end in lists of (row or id, distance).  A call on an index that another thread changes, and a change
 * while others search, wait for their turn without the GIL, where the core says BUSY. */
#include <string.h>
#include <unistd.h>

#include "python_adapter.h"

typedef struct index_object {
    PyObject_HEAD
    bitlm_index *core;
} index_object;

static blpy_state *state_of(PyObject *self) {
    return blpy_state_of(PyType_GetModuleByDef(Py_TYPE(self), &blpy_module));
}

/* While the GIL is given up: 1 if the call is to be tried again. */
static int wait_turn(blpy_host *h, bitlm_status *status) {
    if (*status != BITLM_BUSY)
        return 0;
    usleep(200);
    if (h->host.poll(h)) {
        *status = BITLM_CANCELED;
        return 0;
    }
    return 1;
}

/* After a call that took no time and gave up no GIL: 1 if it found the index being changed and is to be tried
 * again, -1 with a signal handler's exception. */
static int again(bitlm_status status) {
    if (status != BITLM_BUSY)
        return 0;
    Py_BEGIN_ALLOW_THREADS
    usleep(200);
    Py_END_ALLOW_THREADS
    return PyErr_CheckSignals() < 0 ? -1 : 1;
}

/* ---- arguments and results ------------------------------------------------------------------ */

/* A sequence of int, or None, as int64.  *ids is PyMem memory, NULL for None. */
static int read_ids(PyObject *object, int64_t **ids, Py_ssize_t *n) {
    PyObject *tuple;
    Py_ssize_t i;
    *ids = NULL;
    *n = 0;
    if (object == Py_None)
        return 0;
    tuple = PySequence_Tuple(object);
    if (!tuple)
        return -1;
    *n = PyTuple_GET_SIZE(tuple);
    *ids = PyMem_New(int64_t, (size_t)(*n ? *n : 1));
    if (!*ids)
        PyErr_NoMemory();
    for (i = 0; *ids && i < *n && !PyErr_Occurred(); i++)
        blpy_int64(PyTuple_GET_ITEM(tuple, i), "id", *ids + i);
    Py_DECREF(tuple);
    if (!PyErr_Occurred())
        return 0;
    PyMem_Free(*ids);
    *ids = NULL;
    return -1;
}

/* (n, k) hits as a list of lists of (id, distance); id -1 ends a list. */
static PyObject *hit_lists(const int64_t *ids, const uint32_t *distances, Py_ssize_t n, Py_ssize_t k) {
    PyObject *lists = PyList_New(n);
    Py_ssize_t q, i;
    for (q = 0; lists && q < n; q++) {
        PyObject *list = PyList_New(0);
        for (i = 0; list && i < k && ids[q * k + i] >= 0; i++) {
            PyObject *pair = Py_BuildValue("(LI)", (long long)ids[q * k + i], distances[q * k + i]);
            if (!pair || PyList_Append(list, pair) < 0)
                Py_CLEAR(list);
            Py_XDECREF(pair);
        }
        if (!list)
            Py_CLEAR(lists);
        else
            PyList_SET_ITEM(lists, q, list);
    }
    return lists;
}

static int room_for_hits(Py_ssize_t n, Py_ssize_t k, int64_t **ids, uint32_t **distances) {
    if (k > 0 && n > PY_SSIZE_T_MAX / 16 / k) {
        PyErr_NoMemory();
        return -1;
    }
    *ids = PyMem_New(int64_t, (size_t)(n * k + 1));
    *distances = PyMem_New(uint32_t, (size_t)(n * k + 1));
    if (*ids && *distances)
        return 0;
    PyErr_NoMemory();
    return -1;
}

static int positive_k(Py_ssize_t k) {
    if (k >= 1)
        return 0;
    PyErr_Format(PyExc_ValueError, "k is %zd, but must be at least 1", k);
    return -1;
}

static int rows_of(const Py_buffer *view, Py_ssize_t width, const char *what, Py_ssize_t *n) {
    if (width < 1 || view->len % width != 0) {
        PyErr_Format(PyExc_ValueError, "%s has %zd bytes, which are no rows of %zd", what, view->len, width);
        return -1;
    }
    *n = view->len / width;
    return 0;
}

/* topk(queries, codes, k, only) -> list[list[(row, distance)]] */
static PyObject *fn_topk(PyObject *module, PyObject *args) {
    blpy_state *state = blpy_state_of(module);
    PyObject *query_object, *code_object, *only_object, *result = NULL;
    Py_buffer queries, codes, shaped;
    Py_ssize_t k, n_queries, n, n_only, width, i;
    int64_t *only = NULL, *rows = NULL;
    uint32_t *distances = NULL;
    uint8_t *filter = NULL;
    bitlm_error error;
    bitlm_status status;
    blpy_host host;
    if (!PyArg_ParseTuple(args, "OOO&O", &query_object, &code_object, blpy_size, &k, &only_object) || positive_k(k) < 0 ||
        blpy_same_model(state, query_object, code_object) < 0 || blpy_bytes(query_object, &queries, "the query") < 0)
        return NULL;
    if (blpy_bytes(code_object, &codes, "codes") < 0) {
        PyBuffer_Release(&queries);
        return NULL;
    }
    /* The width of a code: of rows if there are rows, else of the query. */
    width = queries.len;
    if (PyObject_GetBuffer(code_object, &shaped, PyBUF_STRIDES) < 0)
        goto end;
    if (shaped.ndim == 2)
        width = shaped.shape[1] * shaped.itemsize;
    PyBuffer_Release(&shaped);
    if (rows_of(&queries, width, "the query", &n_queries) < 0 || rows_of(&codes, width, "codes", &n) < 0 ||
        read_ids(only_object, &only, &n_only) < 0)
        goto end;
    if (only) {
        filter = PyMem_Calloc((size_t)(n / 8 + 1), 1);
        if (!filter) {
            PyErr_NoMemory();
            goto end;
        }
        for (i = 0; i < n_only; i++) {
            if (only[i] < 0 || only[i] >= n) {
                PyErr_Format(PyExc_IndexError, "row %lld is outside 0 to %zd", (long long)only[i], n - 1);
                goto end;
            }
            filter[only[i] / 8] |= (uint8_t)(1 << (only[i] % 8));
        }
    }
    if (k > n)
        k = n ? n : 1;
    blpy_host_init(&host, state);
    if (room_for_hits(n_queries, k, &rows, &distances) < 0)
        goto end;
    blpy_error_init(&error);
    if (codes.len < 65536) { /* microseconds: not worth giving up the GIL */
        status = bitlm_codes_topk(codes.buf, (size_t)n, (size_t)width, queries.buf, (size_t)n_queries, filter,
                                  (size_t)k, NULL, rows, distances, &error);
    } else {
        if (blpy_begin(&host, NULL) < 0)
            goto end;
        blpy_release(&host);
        status = bitlm_codes_topk(codes.buf, (size_t)n, (size_t)width, queries.buf, (size_t)n_queries, filter,
                                  (size_t)k, &host.host, rows, distances, &error);
        blpy_acquire(&host);
    }
    if (status || PyErr_Occurred())
        blpy_raise(state, &host, status, &error);
    else
        result = hit_lists(rows, distances, n_queries, k);
end:
    PyMem_Free(filter);
    PyMem_Free(only);
    PyMem_Free(rows);
    PyMem_Free(distances);
    PyBuffer_Release(&codes);
    PyBuffer_Release(&queries);
    return result;
}

PyMethodDef blpy_index_methods[] = {
    {"topk", fn_topk, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* ---- the object ---------------------------------------------------------------------------------- */

static PyObject *wrap(PyTypeObject *type, bitlm_index *core) {
    index_object *self = (index_object *)type->tp_alloc(type, 0);
    if (!self)
        bitlm_index_free(core);
    else
        self->core = core;
    return (PyObject *)self;
}

/* IndexCore(width, model_id: str | None) */
static PyObject *index_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"width", "model_id", NULL};
    blpy_state *state = blpy_state_of(PyType_GetModuleByDef(type, &blpy_module));
    Py_ssize_t width;
    const char *hex = NULL;
    uint8_t id[16];
    bitlm_index *core;
    bitlm_error error;
    bitlm_status status;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n|z", names, &width, &hex) || (hex && blpy_read_id(hex, id) < 0))
        return NULL;
    blpy_error_init(&error);
    status = bitlm_index_create(width > 0 ? (size_t)width : 0, hex ? id : NULL, NULL, &core, &error);
    return status ? blpy_raise(state, NULL, status, &error) : wrap(type, core);
}

/* open(path, load: int) -> IndexCore, a class method */
static PyObject *index_open(PyObject *type, PyObject *args) {
    blpy_state *state = blpy_state_of(PyType_GetModuleByDef((PyTypeObject *)type, &blpy_module));
    PyObject *path;
    int load;
    bitlm_index *core = NULL;
    bitlm_error error;
    bitlm_status status;
    blpy_host host;
    if (!PyArg_ParseTuple(args, "O&i", PyUnicode_FSConverter, &path, &load))
        return NULL;
    blpy_host_init(&host, state);
    blpy_error_init(&error);
    if (blpy_begin(&host, NULL) < 0) {
        Py_DECREF(path);
        return NULL;
    }
    blpy_release(&host);
    status = bitlm_index_open(PyBytes_AS_STRING(path), (size_t)PyBytes_GET_SIZE(path), load, NULL, &core, &error);
    blpy_acquire(&host);
    Py_DECREF(path);
    return status ? blpy_raise(state, &host, status, &error) : wrap((PyTypeObject *)type, core);
}

static void index_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    bitlm_index_free(((index_object *)object)->core);
    type->tp_free(object);
    Py_DECREF(type);
}

static int index_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    return 0;
}

static int describe(PyObject *object, bitlm_index_info *info) {
    bitlm_error error;
    bitlm_status status;
    memset(info, 0, sizeof *info);
    info->size = sizeof *info;
    blpy_error_init(&error);
    status = bitlm_index_describe(((index_object *)object)->core, info, &error);
    if (status)
        blpy_raise(state_of(object), NULL, status, &error);
    return status ? -1 : 0;
}

/* info() -> (n, width, model_id | None, mapped) */
static PyObject *index_info(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    static const uint8_t zeros[16];
    bitlm_index_info info;
    char hex[33];
    if (describe(object, &info) < 0)
        return NULL;
    blpy_write_id(info.model_id, hex);
    return Py_BuildValue("(KIzN)", (unsigned long long)info.n, info.code_bytes,
                         memcmp(info.model_id, zeros, 16) ? hex : NULL, PyBool_FromLong(info.mapped));
}

/* add(codes, ids | None) -> list[int] */
static PyObject *index_add(PyObject *object, PyObject *args) {
    index_object *self = (index_object *)object;
    blpy_state *state = state_of(object);
    PyObject *code_object, *id_object, *list = NULL;
    bitlm_index_info info;
    Py_buffer codes;
    Py_ssize_t n, n_ids, i;
    int64_t *ids = NULL, *out = NULL;
    bitlm_error error;
    bitlm_status status;
    blpy_host host;
    if (!PyArg_ParseTuple(args, "OO", &code_object, &id_object) || describe(object, &info) < 0 ||
        blpy_bytes(code_object, &codes, "codes") < 0)
        return NULL;
    if (rows_of(&codes, (Py_ssize_t)info.code_bytes, "codes", &n) < 0 || read_ids(id_object, &ids, &n_ids) < 0)
        goto end;
    if (ids && n_ids != n) {
        PyErr_Format(PyExc_ValueError, "%zd ids are given for %zd codes", n_ids, n);
        goto end;
    }
    out = PyMem_New(int64_t, (size_t)(n ? n : 1));
    if (!out) {
        PyErr_NoMemory();
        goto end;
    }
    blpy_host_init(&host, state);
    if (blpy_begin(&host, NULL) < 0)
        goto end;
    blpy_error_init(&error);
    blpy_release(&host);
    do
        status = bitlm_index_add(self->core, ids, codes.buf, (size_t)n, out, &error);
    while (wait_turn(&host, &status));
    blpy_acquire(&host);
    if (status || PyErr_Occurred()) {
        blpy_raise(state, &host, status, &error);
        goto end;
    }
    list = PyList_New(n);
    for (i = 0; list && i < n; i++) {
        PyObject *id = PyLong_FromLongLong(out[i]);
        if (!id)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, id);
    }
end:
    PyMem_Free(ids);
    PyMem_Free(out);
    PyBuffer_Release(&codes);
    return list;
}

/* remove(ids) -> int */
static PyObject *index_remove(PyObject *object, PyObject *id_object) {
    index_object *self = (index_object *)object;
    blpy_state *state = state_of(object);
    int64_t *ids;
    Py_ssize_t n;
    size_t removed = 0;
    bitlm_error error;
    bitlm_status status;
    blpy_host host;
    if (id_object == Py_None) {
        PyErr_SetString(PyExc_TypeError, "ids are None, but must be an int or an iterable of int");
        return NULL;
    }
    if (read_ids(id_object, &ids, &n) < 0)
        return NULL;
    blpy_host_init(&host, state);
    if (blpy_begin(&host, NULL) < 0) {
        PyMem_Free(ids);
        return NULL;
    }
    blpy_error_init(&error);
    blpy_release(&host);
    do
        status = bitlm_index_remove(self->core, ids, (size_t)n, &removed, &error);
    while (wait_turn(&host, &status));
    blpy_acquire(&host);
    PyMem_Free(ids);
    if (status || PyErr_Occurred())
        return blpy_raise(state, &host, status, &error);
    return PyLong_FromSize_t(removed);
}

/* get(id) -> bytes */
static PyObject *index_get(PyObject *object, PyObject *id_object) {
    index_object *self = (index_object *)object;
    bitlm_index_info info;
    long long id = PyLong_AsLongLong(id_object);
    PyObject *code;
    bitlm_error error;
    bitlm_status status;
    int more;
    if (id == -1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError))
            PyErr_Format(PyExc_KeyError, "the index has no id %R", id_object);
        return NULL;
    }
    if (describe(object, &info) < 0)
        return NULL;
    code = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)info.code_bytes);
    if (!code)
        return NULL;
    blpy_error_init(&error);
    do
        status = bitlm_index_get(self->core, id, PyBytes_AS_STRING(code), &error);
    while ((more = again(status)) > 0);
    if (!status)
        return code;
    Py_DECREF(code);
    if (more < 0)
        return NULL;
    if (status == BITLM_ARG)
        PyErr_SetString(PyExc_KeyError, error.text);
    else
        blpy_raise(state_of(object), NULL, status, &error);
    return NULL;
}

/* ids(first, n) -> list[int] */
static PyObject *index_ids(PyObject *object, PyObject *args) {
    index_object *self = (index_object *)object;
    Py_ssize_t first, n;
    int more;
    size_t got = 0, i;
    int64_t *ids;
    PyObject *list = NULL;
    bitlm_error error;
    bitlm_status status;
    if (!PyArg_ParseTuple(args, "nn", &first, &n))
        return NULL;
    ids = PyMem_New(int64_t, (size_t)(n > 0 ? n : 1));
    if (!ids)
        return PyErr_NoMemory();
    blpy_error_init(&error);
    do
        status = bitlm_index_ids(self->core, first > 0 ? (uint64_t)first : 0, ids, n > 0 ? (size_t)n : 0, &got, &error);
    while ((more = again(status)) > 0);
    if (status && more == 0)
        blpy_raise(state_of(object), NULL, status, &error);
    else if (!status)
        list = PyList_New((Py_ssize_t)got);
    for (i = 0; list && i < got; i++) {
        PyObject *id = PyLong_FromLongLong(ids[i]);
        if (!id)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, id);
    }
    PyMem_Free(ids);
    return list;
}

/* search(queries, k, only | None) -> list[list[(id, distance)]] */
static PyObject *index_search(PyObject *object, PyObject *args) {
    index_object *self = (index_object *)object;
    blpy_state *state = state_of(object);
    PyObject *query_object, *only_object, *result = NULL;
    bitlm_index_info info;
    Py_buffer queries;
    Py_ssize_t k, n, n_only;
    int64_t *only = NULL, *ids = NULL;
    uint32_t *distances = NULL;
    bitlm_error error;
    bitlm_status status;
    blpy_host host;
    if (!PyArg_ParseTuple(args, "OO&O", &query_object, blpy_size, &k, &only_object) || positive_k(k) < 0 ||
        describe(object, &info) < 0 || blpy_bytes(query_object, &queries, "the query") < 0)
        return NULL;
    if (rows_of(&queries, (Py_ssize_t)info.code_bytes, "the query", &n) < 0 ||
        read_ids(only_object, &only, &n_only) < 0)
        goto end;
    if ((uint64_t)k > info.n)
        k = info.n ? (Py_ssize_t)info.n : 1;
    blpy_host_init(&host, state);
    if (room_for_hits(n, k, &ids, &distances) < 0 || blpy_begin(&host, NULL) < 0)
        goto end;
    blpy_error_init(&error);
    blpy_release(&host);
    do
        status = bitlm_index_search(self->core, queries.buf, (size_t)n, (size_t)k, only, (size_t)n_only, &host.host,
                                    ids, distances, &error);
    while (wait_turn(&host, &status));
    blpy_acquire(&host);
    if (status || PyErr_Occurred())
        blpy_raise(state, &host, status, &error);
    else
        result = hit_lists(ids, distances, n, k);
end:
    PyMem_Free(only);
    PyMem_Free(ids);
    PyMem_Free(distances);
    PyBuffer_Release(&queries);
    return result;
}

/* save(path) and verify(): path None verifies. */
static PyObject *save_or_verify(PyObject *object, PyObject *path) {
    index_object *self = (index_object *)object;
    blpy_state *state = state_of(object);
    bitlm_error error;
    bitlm_status status;
    blpy_host host;
    blpy_host_init(&host, state);
    if (blpy_begin(&host, NULL) < 0)
        return NULL;
    blpy_error_init(&error);
    blpy_release(&host);
    do
        status = path ? bitlm_index_save(self->core, PyBytes_AS_STRING(path), (size_t)PyBytes_GET_SIZE(path), &error)
                      : bitlm_index_verify(self->core, &host.host, &error);
    while (wait_turn(&host, &status));
    blpy_acquire(&host);
    if (status || PyErr_Occurred())
        return blpy_raise(state, &host, status, &error);
    Py_RETURN_NONE;
}

static PyObject *index_save(PyObject *object, PyObject *path_object) {
    PyObject *path, *result;
    if (!PyUnicode_FSConverter(path_object, &path))
        return NULL;
    result = save_or_verify(object, path);
    Py_DECREF(path);
    return result;
}

static PyObject *index_verify(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    return save_or_verify(object, NULL);
}

static PyObject *index_reduce(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    (void)self;
    return blpy_no_pickle("Index", "save it to a file and open that elsewhere (processes share the mapping)");
}

static PyMethodDef index_methods[] = {
    {"open", index_open, METH_VARARGS | METH_CLASS, NULL},
    {"info", index_info, METH_NOARGS, NULL},
    {"add", index_add, METH_VARARGS, NULL},
    {"remove", index_remove, METH_O, NULL},
    {"get", index_get, METH_O, NULL},
    {"ids", index_ids, METH_VARARGS, NULL},
    {"search", index_search, METH_VARARGS, NULL},
    {"save", index_save, METH_O, NULL},
    {"verify", index_verify, METH_NOARGS, NULL},
    {"__reduce__", index_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot index_slots[] = {
    {Py_tp_new, index_new},
    {Py_tp_dealloc, index_dealloc},
    {Py_tp_traverse, index_traverse},
    {Py_tp_methods, index_methods},
    {Py_tp_doc, PyDoc_STR("An index of codes, under bitlm.Index.")},
    {0, NULL},
};

static PyType_Spec index_spec = {
    .name = "bitlm._bitlm.IndexCore",
    .basicsize = sizeof(index_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = index_slots,
};

int blpy_index_register(PyObject *module, blpy_state *state) {
    state->index_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &index_spec, NULL);
    return state->index_type ? PyModule_AddType(module, state->index_type) : -1;
}
