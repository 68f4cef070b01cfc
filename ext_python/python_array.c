/* python_array.c - bitlm.Codes and bitlm.Vectors: rows in one piece of read-only memory.
 *
 * Both are the struct blpy_array with other element types.  They export the buffer protocol
 * (n, width), so memoryview, NumPy, hashlib and sqlite3 take them without a copy; a slice
 * shares the memory of what it was cut from.  Rows are bytes (Codes) or Vectors of one row.
 *
 * Made by python_model.c with results, or from any buffer by their constructors. */
#include <limits.h>
#include <string.h>

#include "python_adapter.h"

static Py_ssize_t item_size(const blpy_array *a) {
    return a->is_float ? (Py_ssize_t)sizeof(float) : 1;
}

static Py_ssize_t row_size(const blpy_array *a) {
    return a->shape[1] * item_size(a);
}

static Py_ssize_t total_size(const blpy_array *a) {
    return a->shape[0] * row_size(a);
}

static blpy_state *state_of(PyObject *object) {
    return blpy_state_of(PyType_GetModuleByDef(Py_TYPE(object), &blpy_module));
}

static blpy_array *array_head(PyTypeObject *type, int is_float, Py_ssize_t n, Py_ssize_t width, PyObject *model_id) {
    blpy_array *a;
    Py_ssize_t item = is_float ? (Py_ssize_t)sizeof(float) : 1;
    if (width > 0 && n > PY_SSIZE_T_MAX / item / width) {
        PyErr_NoMemory();
        return NULL;
    }
    a = (blpy_array *)type->tp_alloc(type, 0);
    if (!a)
        return NULL;
    a->is_float = is_float;
    a->shape[0] = n;
    a->shape[1] = width;
    a->strides[0] = width * item;
    a->strides[1] = item;
    a->model_id = model_id && model_id != Py_None ? Py_NewRef(model_id) : NULL;
    return a;
}

blpy_array *blpy_array_new(PyTypeObject *type, int is_float, Py_ssize_t n, Py_ssize_t width, PyObject *model_id) {
    blpy_array *a = array_head(type, is_float, n, width, model_id);
    if (!a)
        return NULL;
    a->data = PyMem_Malloc((size_t)(total_size(a) ? total_size(a) : 1));
    if (!a->data) {
        Py_DECREF(a);
        PyErr_NoMemory();
        return NULL;
    }
    return a;
}

/* Rows first .. first + n of another array, sharing its memory. */
static PyObject *array_part(blpy_array *of, Py_ssize_t first, Py_ssize_t n) {
    blpy_array *a = array_head(Py_TYPE(of), of->is_float, n, of->shape[1], of->model_id);
    if (!a)
        return NULL;
    a->data = of->data + first * row_size(of);
    a->owner = Py_NewRef((PyObject *)of);
    return (PyObject *)a;
}

int blpy_is_array(blpy_state *state, PyObject *object) {
    return Py_IS_TYPE(object, state->codes_type) || Py_IS_TYPE(object, state->vectors_type);
}

static void array_dealloc(PyObject *self) {
    blpy_array *a = (blpy_array *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (!a->owner && !a->view.obj)
        PyMem_Free(a->data);
    if (a->view.obj)
        PyBuffer_Release(&a->view);
    Py_XDECREF(a->owner);
    Py_XDECREF(a->model_id);
    type->tp_free(self);
    Py_DECREF(type);
}

/* No clear: like a tuple, what an array holds stays while it lives. */
static int array_traverse(PyObject *self, visitproc visit, void *arg) {
    blpy_array *a = (blpy_array *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(a->owner);
    Py_VISIT(a->view.obj);
    return 0;
}

/* ---- from buffers ---------------------------------------------------------------------------- */

int blpy_bytes(PyObject *object, Py_buffer *view, const char *what) {
    if (PyObject_GetBuffer(object, view, PyBUF_SIMPLE) == 0)
        return 0;
    if (PyErr_ExceptionMatches(PyExc_TypeError))
        PyErr_Format(PyExc_TypeError, "%s is %.80s, but must be a buffer such as bytes or bitlm.Codes", what,
                     Py_TYPE(object)->tp_name);
    return -1;
}

/* Whether a buffer has float32 of this machine's byte order, or plain bytes that may be some. */
static int float_format(const Py_buffer *view) {
    const char *format = view->format ? view->format : "B";
    if (*format == '<' || *format == '=' || *format == '@')
        format++;
    return strcmp(format, "f") == 0 || strcmp(format, "B") == 0 || strcmp(format, "c") == 0;
}

int blpy_floats(PyObject *object, Py_buffer *view, float **copy, const float **values, Py_ssize_t *n,
                const char *what) {
    *copy = NULL;
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "%s is %.80s, but must be a buffer of float32", what,
                         Py_TYPE(object)->tp_name);
        return -1;
    }
    if (!float_format(view)) {
        PyErr_Format(PyExc_TypeError, "%s has elements of format '%s', but must have float32 ('f')", what,
                     view->format);
        goto fail;
    }
    if (view->len % (Py_ssize_t)sizeof(float) != 0) {
        PyErr_Format(PyExc_ValueError, "%s has %zd bytes, which is no list of float32 of 4 bytes each", what,
                     view->len);
        goto fail;
    }
    *n = view->len / (Py_ssize_t)sizeof(float);
    *values = view->buf;
    if ((uintptr_t)view->buf % sizeof(float) != 0) { /* a slice of bytes may lie anywhere */
        *copy = PyMem_Malloc((size_t)(view->len ? view->len : 1));
        if (!*copy) {
            PyErr_NoMemory();
            goto fail;
        }
        *values = memcpy(*copy, view->buf, (size_t)view->len);
    }
    return 0;
fail:
    PyBuffer_Release(view);
    return -1;
}

/* Codes(data, width=None, model_id=None); width counts bytes for Codes, values for Vectors.  A
 * buffer of two dimensions brings its width along. */
static PyObject *array_construct(PyTypeObject *type, PyObject *args, PyObject *kwargs, int is_float,
                                 char **names) {
    PyObject *data, *width_object = Py_None, *model_id = Py_None;
    Py_buffer view;
    Py_ssize_t item = is_float ? (Py_ssize_t)sizeof(float) : 1, width, n;
    blpy_array *a;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OO", names, &data, &width_object, &model_id))
        return NULL;
    if (model_id != Py_None) {
        const char *hex = PyUnicode_Check(model_id) ? PyUnicode_AsUTF8(model_id) : "";
        uint8_t id[16];
        if (!hex || blpy_read_id(hex, id) < 0)
            return NULL;
    }
    if (PyObject_GetBuffer(data, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0)
        return NULL;
    if (!is_float && view.itemsize != 1) {
        PyErr_Format(PyExc_TypeError, "the buffer has elements of %zd bytes, but codes are packed bytes (uint8)",
                     view.itemsize);
        goto fail;
    }
    if (is_float && !float_format(&view)) {
        PyErr_Format(PyExc_TypeError, "the buffer has elements of format '%.20s', but must have float32 ('f')", view.format);
        goto fail;
    }
    if (width_object != Py_None) {
        if (!blpy_size(width_object, &width))
            goto fail;
    } else if (view.ndim == 2) {
        width = view.shape[1] * view.itemsize / item;
    } else {
        width = view.len / item;
    }
    if (width < 1 || width > PY_SSIZE_T_MAX / item || view.len % (width * item) != 0) {
        PyErr_Format(PyExc_ValueError, "%zd bytes are no rows of %zd %s", view.len, width,
                     is_float ? "float32" : "bytes");
        goto fail;
    }
    n = view.len / (width * item);
    if (is_float && (uintptr_t)view.buf % sizeof(float) != 0) {
        a = blpy_array_new(type, is_float, n, width, model_id);
        if (a)
            memcpy(a->data, view.buf, (size_t)view.len);
        PyBuffer_Release(&view);
        return (PyObject *)a;
    }
    a = array_head(type, is_float, n, width, model_id);
    if (!a)
        goto fail;
    a->data = view.buf;
    a->view = view; /* an exporter stays locked, so the memory stays */
    return (PyObject *)a;
fail:
    PyBuffer_Release(&view);
    return NULL;
}

static PyObject *codes_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"data", "width", "model_id", NULL};
    return array_construct(type, args, kwargs, 0, names);
}

static PyObject *vectors_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"data", "width", "model_id", NULL};
    return array_construct(type, args, kwargs, 1, names);
}

/* ---- protocols --------------------------------------------------------------------------------- */

static int array_getbuffer(PyObject *self, Py_buffer *view, int flags) {
    blpy_array *a = (blpy_array *)self;
    if (flags & PyBUF_WRITABLE) {
        PyErr_SetString(PyExc_BufferError, "the memory is read-only");
        view->obj = NULL;
        return -1;
    }
    if ((flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS && a->shape[0] > 1 && a->shape[1] > 1) {
        PyErr_SetString(PyExc_BufferError, "the memory holds one row after the other (C order)");
        view->obj = NULL;
        return -1;
    }
    memset(view, 0, sizeof *view);
    view->obj = Py_NewRef(self);
    view->buf = a->data;
    view->len = total_size(a);
    view->readonly = 1;
    view->itemsize = item_size(a);
    view->format = (flags & PyBUF_FORMAT) ? (a->is_float ? "f" : "B") : NULL;
    view->ndim = 2;
    view->shape = (flags & PyBUF_ND) ? a->shape : NULL;
    view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? a->strides : NULL;
    if (!view->shape) { /* "simple" means bytes in a row */
        view->ndim = 1;
        if (!view->format)
            view->itemsize = 1;
    }
    return 0;
}

static Py_ssize_t array_length(PyObject *self) {
    return ((blpy_array *)self)->shape[0];
}

static PyObject *array_row(blpy_array *a, Py_ssize_t i) {
    if (i < 0 || i >= a->shape[0])
        return PyErr_Format(PyExc_IndexError, "row %zd is outside 0 to %zd", i, a->shape[0] - 1);
    if (a->is_float)
        return array_part(a, i, 1);
    return PyBytes_FromStringAndSize(a->data + i * row_size(a), row_size(a));
}

static PyObject *array_item(PyObject *self, Py_ssize_t i) {
    return array_row((blpy_array *)self, i);
}

static PyObject *array_subscript(PyObject *self, PyObject *key) {
    blpy_array *a = (blpy_array *)self;
    if (PyIndex_Check(key)) {
        Py_ssize_t i = PyNumber_AsSsize_t(key, PyExc_IndexError);
        if (i == -1 && PyErr_Occurred())
            return NULL;
        return array_row(a, i < 0 ? i + a->shape[0] : i);
    }
    if (PySlice_Check(key)) {
        Py_ssize_t start, stop, step, n, i;
        blpy_array *out;
        if (PySlice_Unpack(key, &start, &stop, &step) < 0)
            return NULL;
        n = PySlice_AdjustIndices(a->shape[0], &start, &stop, step);
        if (step == 1)
            return array_part(a, n ? start : 0, n);
        out = blpy_array_new(Py_TYPE(self), a->is_float, n, a->shape[1], a->model_id);
        for (i = 0; out && i < n; i++)
            memcpy(out->data + i * row_size(a), a->data + (start + i * step) * row_size(a), (size_t)row_size(a));
        return (PyObject *)out;
    }
    return PyErr_Format(PyExc_TypeError, "rows are chosen by an int or a slice, not %.80s", Py_TYPE(key)->tp_name);
}

static PyObject *array_compare(PyObject *self, PyObject *other, int op) {
    blpy_array *a = (blpy_array *)self, *b = (blpy_array *)other;
    int equal;
    if (!Py_IS_TYPE(other, Py_TYPE(self)) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    equal = a->shape[0] == b->shape[0] && a->shape[1] == b->shape[1] &&
            memcmp(a->data, b->data, (size_t)total_size(a)) == 0;
    return PyBool_FromLong(equal == (op == Py_EQ));
}

static PyObject *array_repr(PyObject *self) {
    blpy_array *a = (blpy_array *)self;
    if (a->is_float)
        return PyUnicode_FromFormat("<bitlm.Vectors: %zd of %zd float32>", a->shape[0], a->shape[1]);
    return PyUnicode_FromFormat("<bitlm.Codes: %zd of %zd bits>", a->shape[0], a->shape[1] * CHAR_BIT);
}

static PyObject *array_repr_html(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *module = PyImport_ImportModule("bitlm._show"), *html;
    if (!module)
        return NULL;
    html = PyObject_CallMethod(module, "array_html", "O", self);
    Py_DECREF(module);
    return html;
}

static PyObject *array_tobytes(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    blpy_array *a = (blpy_array *)self;
    return PyBytes_FromStringAndSize(a->data, total_size(a));
}

static PyObject *array_tolist(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *view = PyMemoryView_FromObject(self), *list;
    if (!view)
        return NULL;
    list = PyObject_CallMethod(view, "tolist", NULL);
    Py_DECREF(view);
    return list;
}

static PyObject *array_numpy(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *numpy = PyImport_ImportModule("numpy"), *array;
    if (!numpy)
        return NULL;
    array = PyObject_CallMethod(numpy, "asarray", "O", self);
    Py_DECREF(numpy);
    return array;
}

static PyObject *array_reduce(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    blpy_array *a = (blpy_array *)self;
    PyObject *bytes = array_tobytes(self, NULL);
    if (!bytes)
        return NULL;
    return Py_BuildValue("O(NnO)", Py_TYPE(self), bytes, a->shape[1], a->model_id ? a->model_id : Py_None);
}

static PyObject *get_shape(PyObject *self, void *closure) {
    blpy_array *a = (blpy_array *)self;
    (void)closure;
    return Py_BuildValue("(nn)", a->shape[0], a->shape[1]);
}

static PyObject *get_nbytes(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromSsize_t(total_size((blpy_array *)self));
}

static PyObject *get_model_id(PyObject *self, void *closure) {
    blpy_array *a = (blpy_array *)self;
    (void)closure;
    return Py_NewRef(a->model_id ? a->model_id : Py_None);
}

static PyObject *get_bits(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromSsize_t(((blpy_array *)self)->shape[1] * CHAR_BIT);
}

static PyObject *get_dim(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromSsize_t(((blpy_array *)self)->shape[1]);
}

/* Vectors.binarize(threshold=0.0) -> Codes */
static PyObject *vectors_binarize(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"threshold", NULL};
    blpy_array *a = (blpy_array *)self, *out;
    float threshold = 0.0f;
    Py_ssize_t i;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|f", names, &threshold))
        return NULL;
    out = blpy_array_new(state_of(self)->codes_type, 0, a->shape[0], (a->shape[1] + 7) / 8, a->model_id);
    for (i = 0; out && i < a->shape[0]; i++)
        bitlm_binarize((const float *)(const void *)a->data + i * a->shape[1], (size_t)a->shape[1], threshold,
                       (uint8_t *)out->data + i * out->shape[1]);
    return (PyObject *)out;
}

#define SHARED_METHODS                                                                             \
    {"numpy", array_numpy, METH_NOARGS,                                                            \
     PyDoc_STR("numpy($self, /)\n--\n\nA read-only NumPy array of the same memory, shape (n, width).  "    \
               "ImportError without NumPy.")},                                                     \
        {"tobytes", array_tobytes, METH_NOARGS,                                                    \
         PyDoc_STR("tobytes($self, /)\n--\n\nAll rows, one after the other, as bytes.")},                  \
        {"tolist", array_tolist, METH_NOARGS,                                                      \
         PyDoc_STR("tolist($self, /)\n--\n\nA list of rows, each a list of numbers.")},                    \
        {"_repr_html_", array_repr_html, METH_NOARGS, NULL},                                       \
        {"__reduce__", array_reduce, METH_NOARGS, NULL}

static PyMethodDef codes_methods[] = {
    SHARED_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyMethodDef vectors_methods[] = {
    SHARED_METHODS,
    {"binarize", (PyCFunction)(void (*)(void))vectors_binarize, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("binarize($self, threshold=0.0)\n--\n\nCodes of the signs: a bit is value > threshold, MSB first.")},
    {NULL, NULL, 0, NULL},
};

#define SHARED_GETSET                                                                              \
    {"shape", get_shape, NULL, PyDoc_STR("(n, width): rows, and bytes or values of each."), NULL}, \
        {"nbytes", get_nbytes, NULL, PyDoc_STR("Bytes of all rows."), NULL},                       \
        {"model_id", get_model_id, NULL,                                                           \
         PyDoc_STR("32 hex digits that name the model, its weights and the arithmetic; None if "   \
                   "unknown."),                                                                    \
         NULL}

static PyGetSetDef codes_getset[] = {
    SHARED_GETSET,
    {"bits", get_bits, NULL, PyDoc_STR("Bits of a code."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyGetSetDef vectors_getset[] = {
    SHARED_GETSET,
    {"dim", get_dim, NULL, PyDoc_STR("Values of a vector."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define SHARED_SLOTS                                                                               \
    {Py_tp_dealloc, array_dealloc}, {Py_tp_repr, array_repr}, {Py_tp_richcompare, array_compare},  \
        {Py_tp_traverse, array_traverse}, {Py_tp_hash, PyObject_HashNotImplemented}, {Py_bf_getbuffer, array_getbuffer},             \
        {Py_sq_length, array_length}, {Py_sq_item, array_item}, {Py_mp_length, array_length},      \
        {Py_mp_subscript, array_subscript}, {Py_tp_iter, PySeqIter_New}

static PyType_Slot codes_slots[] = {
    SHARED_SLOTS,
    {Py_tp_new, codes_new},
    {Py_tp_methods, codes_methods},
    {Py_tp_getset, codes_getset},
    {Py_tp_doc, PyDoc_STR("Codes(data, width=None, model_id=None)\n--\n\n"
                          "Packed binary codes, shape (n, width bytes), most significant bit first.\n\n"
                          "data is any buffer of bytes, which is not copied; width the bytes of one code "
                          "(by default the second dimension, or all of it as one row).  A row is bytes, a slice "
                          "is Codes.  ValueError if the rows do not come out even.")},
    {0, NULL},
};

static PyType_Slot vectors_slots[] = {
    SHARED_SLOTS,
    {Py_tp_new, vectors_new},
    {Py_tp_methods, vectors_methods},
    {Py_tp_getset, vectors_getset},
    {Py_tp_doc, PyDoc_STR("Vectors(data, width=None, model_id=None)\n--\n\n"
                          "float32 vectors, shape (n, width).\n\n"
                          "data is any buffer of float32 (or its bytes, little-endian); width the values of one "
                          "row.  A row and a slice are Vectors.")},
    {0, NULL},
};

static PyType_Spec codes_spec = {
    .name = "bitlm.Codes",
    .basicsize = sizeof(blpy_array),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_SEQUENCE | Py_TPFLAGS_HAVE_GC,
    .slots = codes_slots,
};
static PyType_Spec vectors_spec = {
    .name = "bitlm.Vectors",
    .basicsize = sizeof(blpy_array),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_SEQUENCE | Py_TPFLAGS_HAVE_GC,
    .slots = vectors_slots,
};

int blpy_array_register(PyObject *module, blpy_state *state) {
    state->codes_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &codes_spec, NULL);
    if (!state->codes_type || PyModule_AddType(module, state->codes_type) < 0)
        return -1;
    state->vectors_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &vectors_spec, NULL);
    if (!state->vectors_type || PyModule_AddType(module, state->vectors_type) < 0)
        return -1;
    return 0;
}
