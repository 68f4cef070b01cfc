/* python_quant.c - bitlm.quantize, dequantize, pack, unpack: blocks of weights by the name of their type; and
 * _vector_quantize, _vector_dequantize, _vector_error: the blobs of SQL's bitlm_quantize, whose options are JSON here.
 *
 * A buffer of two dimensions is a matrix, any other one row.  The GIL is given up for the core's part. */
#include <string.h>

#include "python_adapter.h"

typedef bitlm_status (*convert_fn)(const char *scheme, size_t length, const void *in, size_t in_bytes, size_t n_rows,
                                   size_t k, float scale, void *out, size_t out_bytes, bitlm_error *error);

static bitlm_status do_quantize(const char *scheme, size_t length, const void *in, size_t in_bytes, size_t n_rows,
                                size_t k, float scale, void *out, size_t out_bytes, bitlm_error *error) {
    (void)in_bytes;
    return bitlm_quantize(scheme, length, in, n_rows, k, scale, out, out_bytes, error);
}
static bitlm_status do_dequantize(const char *scheme, size_t length, const void *in, size_t in_bytes, size_t n_rows,
                                  size_t k, float scale, void *out, size_t out_bytes, bitlm_error *error) {
    (void)scale, (void)out_bytes;
    return bitlm_dequantize(scheme, length, in, in_bytes, n_rows, k, out, error);
}
static bitlm_status do_pack(const char *scheme, size_t length, const void *in, size_t in_bytes, size_t n_rows,
                            size_t k, float scale, void *out, size_t out_bytes, bitlm_error *error) {
    (void)in_bytes;
    return bitlm_pack(scheme, length, in, n_rows, k, scale, out, out_bytes, error);
}
static bitlm_status do_unpack(const char *scheme, size_t length, const void *in, size_t in_bytes, size_t n_rows,
                              size_t k, float scale, void *out, size_t out_bytes, bitlm_error *error) {
    (void)scale, (void)out_bytes;
    return bitlm_unpack(scheme, length, in, in_bytes, n_rows, k, (int8_t *)out, error);
}

static PyObject *run(PyObject *module, convert_fn convert, const char *scheme, Py_ssize_t length, const void *in,
                     Py_ssize_t in_bytes, Py_ssize_t n_rows, Py_ssize_t k, float scale, PyObject *out, void *out_data,
                     size_t out_bytes) {
    bitlm_error error;
    bitlm_status status;
    blpy_error_init(&error);
    Py_BEGIN_ALLOW_THREADS
    status = convert(scheme, (size_t)length, in, (size_t)in_bytes, (size_t)n_rows, (size_t)k, scale, out_data,
                     out_bytes, &error);
    Py_END_ALLOW_THREADS
    if (!status)
        return out;
    Py_DECREF(out);
    return blpy_raise(blpy_state_of(module), NULL, status, &error);
}

/* Rows and values of a row: the buffer's dimensions; and the bytes of an element. */
static int shape_of(PyObject *object, Py_ssize_t values, Py_ssize_t *n_rows, Py_ssize_t *k, Py_ssize_t *item) {
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_STRIDES) < 0)
        return -1;
    *n_rows = view.ndim == 2 ? view.shape[0] : 1;
    *k = *n_rows ? values / *n_rows : 0;
    *item = view.itemsize;
    PyBuffer_Release(&view);
    return 0;
}

/* bytes of the scheme for the shape. */
static PyObject *new_bytes(PyObject *module, const char *scheme, Py_ssize_t length, Py_ssize_t n_rows, Py_ssize_t k) {
    size_t bytes;
    bitlm_error error;
    bitlm_status status;
    blpy_error_init(&error);
    status = bitlm_scheme_bytes(scheme, (size_t)length, (size_t)n_rows, (size_t)k, &bytes, &error);
    if (status)
        return blpy_raise(blpy_state_of(module), NULL, status, &error);
    return PyBytes_FromStringAndSize(NULL, (Py_ssize_t)bytes);
}

static PyObject *fn_quantize(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"values", "scheme", "scale", NULL};
    PyObject *object, *out = NULL;
    const char *scheme;
    const float *values;
    float *copy, scale = 0.0f;
    Py_ssize_t length, n, n_rows, k, item;
    Py_buffer view;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Os#|f", names, &object, &scheme, &length, &scale) ||
        blpy_floats(object, &view, &copy, &values, &n, "values") < 0)
        return NULL;
    if (shape_of(object, n, &n_rows, &k, &item) == 0)
        out = new_bytes(module, scheme, length, n_rows, k);
    if (out)
        out = run(module, do_quantize, scheme, length, values, view.len, n_rows, k, scale, out,
                  PyBytes_AS_STRING(out), (size_t)PyBytes_GET_SIZE(out));
    PyMem_Free(copy);
    PyBuffer_Release(&view);
    return out;
}

static PyObject *fn_pack(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"trits", "scheme", "scale", NULL};
    PyObject *object, *out = NULL;
    const char *scheme;
    float scale = 1.0f;
    Py_ssize_t length, n_rows, k, item;
    Py_buffer view;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Os#|f", names, &object, &scheme, &length, &scale) ||
        blpy_bytes(object, &view, "trits") < 0)
        return NULL;
    if (shape_of(object, view.len, &n_rows, &k, &item) == 0) {
        if (item != 1)
            PyErr_Format(PyExc_TypeError, "trits has elements of %zd bytes, but must have int8", item);
        else
            out = new_bytes(module, scheme, length, n_rows, k);
    }
    if (out)
        out = run(module, do_pack, scheme, length, view.buf, view.len, n_rows, k, scale, out, PyBytes_AS_STRING(out),
                  (size_t)PyBytes_GET_SIZE(out));
    PyBuffer_Release(&view);
    return out;
}

/* (data, scheme, n_rows, k) of the two that read. */
static int read_arguments(PyObject *args, PyObject *kwargs, Py_buffer *view, const char **scheme, Py_ssize_t *length,
                          Py_ssize_t *n_rows, Py_ssize_t *k) {
    static char *names[] = {"data", "scheme", "n_rows", "k", NULL};
    PyObject *object;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Os#nn", names, &object, scheme, length, n_rows, k))
        return -1;
    if (*n_rows < 1 || *k < 1 || *k > PY_SSIZE_T_MAX / 8 / *n_rows) {
        PyErr_Format(PyExc_ValueError, "a matrix of %zd rows of %zd values is not possible", *n_rows, *k);
        return -1;
    }
    return blpy_bytes(object, view, "data");
}

/* Whether view holds what the scheme says, before memory for its values is taken. */
static int check_size(PyObject *module, const Py_buffer *view, const char *scheme, Py_ssize_t length,
                      Py_ssize_t n_rows, Py_ssize_t k) {
    size_t bytes;
    bitlm_error error;
    bitlm_status status;
    blpy_error_init(&error);
    status = bitlm_scheme_bytes(scheme, (size_t)length, (size_t)n_rows, (size_t)k, &bytes, &error);
    if (status) {
        blpy_raise(blpy_state_of(module), NULL, status, &error);
        return -1;
    }
    if (bytes == (size_t)view->len)
        return 0;
    PyErr_Format(PyExc_ValueError, "data has %zd bytes, but %zd rows of %zd values have %zu", view->len, n_rows, k,
                 bytes);
    return -1;
}

static PyObject *fn_dequantize(PyObject *module, PyObject *args, PyObject *kwargs) {
    const char *scheme;
    Py_ssize_t length, n_rows, k;
    Py_buffer view;
    blpy_array *out = NULL;
    if (read_arguments(args, kwargs, &view, &scheme, &length, &n_rows, &k) < 0)
        return NULL;
    if (check_size(module, &view, scheme, length, n_rows, k) == 0)
        out = blpy_array_new(blpy_state_of(module)->vectors_type, 1, n_rows, k, NULL);
    if (out)
        out = (blpy_array *)run(module, do_dequantize, scheme, length, view.buf, view.len, n_rows, k, 0,
                                (PyObject *)out, out->data, 0);
    PyBuffer_Release(&view);
    return (PyObject *)out;
}

static PyObject *fn_unpack(PyObject *module, PyObject *args, PyObject *kwargs) {
    const char *scheme;
    Py_ssize_t length, n_rows, k;
    Py_buffer view;
    PyObject *out = NULL;
    if (read_arguments(args, kwargs, &view, &scheme, &length, &n_rows, &k) < 0)
        return NULL;
    if (check_size(module, &view, scheme, length, n_rows, k) == 0)
        out = PyBytes_FromStringAndSize(NULL, n_rows * k);
    if (out)
        out = run(module, do_unpack, scheme, length, view.buf, view.len, n_rows, k, 0, out, PyBytes_AS_STRING(out), 0);
    PyBuffer_Release(&view);
    return out;
}

/* ---- the vectors of SQL ------------------------------------------------------------------------------- */

/* A quantized vector as bytes; with error: what it loses, as JSON. */
static PyObject *vector_of(PyObject *module, PyObject *args, int error_report) {
    PyObject *object, *json = NULL, *out = NULL, *said = NULL;
    blpy_state *state = blpy_state_of(module);
    const char *scheme;
    const float *values;
    float *copy, *back = NULL;
    Py_ssize_t length, n;
    Py_buffer view;
    bitlm_options options;
    bitlm_error error;
    bitlm_status status;
    blpy_host host;
    size_t bytes = 0;
    char text[500];
    if (!PyArg_ParseTuple(args, "Os#O", &object, &scheme, &length, &json) ||
        blpy_floats(object, &view, &copy, &values, &n, "values") < 0)
        return NULL;
    if (blpy_options(state, &options, NULL, json) < 0)
        goto buffers;
    blpy_error_init(&error);
    blpy_host_init(&host, state);
    status = bitlm_vector_bytes(scheme, (size_t)length, (size_t)n, &options, &bytes, &error);
    if (!status) {
        out = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)bytes);
        back = error_report ? PyMem_Malloc((size_t)n * sizeof *back) : NULL;
        if (error_report && !back)
            PyErr_NoMemory();
        if (!out || (error_report && !back) || blpy_begin(&host, NULL) < 0) {
            Py_CLEAR(out);
            goto done;
        }
        blpy_release(&host);
        status = bitlm_vector_quantize_polled(scheme, (size_t)length, values, (size_t)n, &options, &host.host,
                                              PyBytes_AS_STRING(out), bytes, &error);
        if (!status && error_report)
            status = bitlm_vector_dequantize_polled(PyBytes_AS_STRING(out), bytes, &host.host, back, (size_t)n, &error);
        if (!status && error_report)
            status = bitlm_vector_report(values, PyBytes_AS_STRING(out), bytes, back, (size_t)n, text, sizeof text, &error);
        blpy_acquire(&host);
    }
    if (status) {
        Py_CLEAR(out);
        blpy_raise(state, &host, status, &error);
    } else if (error_report) {
        said = PyUnicode_FromString(text);
        Py_SETREF(out, said);
    }
done:
    PyMem_Free(back);
    bitlm_options_clear(&options);
buffers:
    PyMem_Free(copy);
    PyBuffer_Release(&view);
    return out;
}

static PyObject *fn_vector_quantize(PyObject *module, PyObject *args) { return vector_of(module, args, 0); }
static PyObject *fn_vector_error(PyObject *module, PyObject *args) { return vector_of(module, args, 1); }

static PyObject *fn_vector_dequantize(PyObject *module, PyObject *object) {
    blpy_state *state = blpy_state_of(module);
    blpy_array *out = NULL;
    Py_buffer view;
    bitlm_error error;
    blpy_host host;
    size_t n;
    if (blpy_bytes(object, &view, "a quantized vector") < 0)
        return NULL;
    blpy_error_init(&error);
    blpy_host_init(&host, state);
    bitlm_status status = bitlm_vector_length(view.buf, (size_t)view.len, &n, &error);
    if (!status) {
        out = blpy_array_new(state->vectors_type, 1, 1, (Py_ssize_t)n, NULL);
        if (!out || blpy_begin(&host, NULL) < 0) {
            Py_CLEAR(out);
            goto done;
        }
        blpy_release(&host);
        status = bitlm_vector_dequantize_polled(view.buf, (size_t)view.len, &host.host, (float *)(void *)out->data, n, &error);
        blpy_acquire(&host);
    }
    if (status) {
        Py_CLEAR(out);
        blpy_raise(state, &host, status, &error);
    }
done:
    PyBuffer_Release(&view);
    return (PyObject *)out;
}

#define KEYWORDS(f) (PyCFunction)(void (*)(void))(f), METH_VARARGS | METH_KEYWORDS

PyMethodDef blpy_quant_methods[] = {
    {"quantize", KEYWORDS(fn_quantize),
     PyDoc_STR("quantize(values, scheme, scale=0.0)\n--\n\n"
               "float32 values, (k) or (n_rows, k), as blocks of weights: bytes.  scheme: F32, F16, BF16, Q8_0, TQ1_0, "
               "TQ2_0, I2_S, Q1_0, Q2_0, Q4_0, Q4_1, Q4_K or Q6_K (docs/FORMATS.md: the layouts of GGUF, and BitNet's I2_S); "
               "scale: of I2_S, 0 for the largest magnitude.\n\n"
               "ValueError: an unknown scheme, a shape that is no multiple of its block, a value that is not finite.")},
    {"dequantize", KEYWORDS(fn_dequantize),
     PyDoc_STR("dequantize(data, scheme, n_rows, k)\n--\n\n"
               "Blocks of weights of any scheme that bitlm reads as Vectors of shape (n_rows, k).\n\n"
               "ValueError: an unknown scheme, a shape that it cannot hold, another number of bytes.")},
    {"pack", KEYWORDS(fn_pack),
     PyDoc_STR("pack(trits, scheme, scale=1.0)\n--\n\n"
               "Bytes of int8 trits (-1, 0, 1), (k) or (n_rows, k), with one scale as TQ1_0, TQ2_0, Q2_0 or I2_S, exactly.\n\n"
               "ValueError: another value than a trit, a shape that the scheme cannot hold; NotImplementedError: no ternary scheme.")},
    {"unpack", KEYWORDS(fn_unpack),
     PyDoc_STR("unpack(data, scheme, n_rows, k)\n--\n\n"
               "The trits of a ternary scheme as n_rows * k bytes of int8, row after row.  Errors as of dequantize; "
               "NotImplementedError: no ternary scheme.")},
    {"_vector_quantize", fn_vector_quantize, METH_VARARGS, PyDoc_STR("_vector_quantize(values, scheme, options, /)")},
    {"_vector_error", fn_vector_error, METH_VARARGS, PyDoc_STR("_vector_error(values, scheme, options, /)")},
    {"_vector_dequantize", fn_vector_dequantize, METH_O, PyDoc_STR("_vector_dequantize(data, /)")},
    {NULL, NULL, 0, NULL},
};
