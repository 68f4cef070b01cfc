/* python_codes.c - distances between codes and vectors: bitlm.hamming and its kin.
 *
 * A call costs a few hundred nanoseconds over the C call: vectorcall, two buffers, no options.
 * Called through the method table in python_main.c. */
#include "python_adapter.h"

int blpy_same_model(blpy_state *state, PyObject *a, PyObject *b) {
    blpy_array *x = (blpy_array *)a, *y = (blpy_array *)b;
    int differ;
    if (!blpy_is_array(state, a) || !blpy_is_array(state, b) || !x->model_id || !y->model_id ||
        x->model_id == y->model_id)
        return 0;
    differ = PyUnicode_Compare(x->model_id, y->model_id);
    if (differ == 0 || PyErr_Occurred())
        return differ ? -1 : 0;
    PyErr_Format(PyExc_ValueError, "the codes come from different models (%.8U... and %.8U...): embed both with one",
                 x->model_id, y->model_id);
    return -1;
}

static int code_pair(PyObject *module, PyObject *const *args, Py_ssize_t n, const char *name, Py_buffer views[2]) {
    if (n != 2) {
        PyErr_Format(PyExc_TypeError, "%s() takes 2 arguments, not %zd", name, n);
        return -1;
    }
    if (blpy_same_model(blpy_state_of(module), args[0], args[1]) < 0 || blpy_bytes(args[0], &views[0], "the first code") < 0)
        return -1;
    if (blpy_bytes(args[1], &views[1], "the second code") < 0) {
        PyBuffer_Release(&views[0]);
        return -1;
    }
    if (views[0].len == views[1].len)
        return 0;
    PyErr_Format(PyExc_ValueError, "the codes have %zd and %zd bytes, but must have the same length", views[0].len,
                 views[1].len);
    PyBuffer_Release(&views[0]);
    PyBuffer_Release(&views[1]);
    return -1;
}

static PyObject *fn_hamming(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    Py_buffer views[2];
    uint64_t distance;
    if (code_pair(module, args, n, "hamming", views) < 0)
        return NULL;
    distance = bitlm_hamming(views[0].buf, views[1].buf, (size_t)views[0].len);
    PyBuffer_Release(&views[0]);
    PyBuffer_Release(&views[1]);
    return PyLong_FromUnsignedLongLong(distance);
}

static PyObject *fn_similarity(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    Py_buffer views[2];
    double similarity;
    if (code_pair(module, args, n, "similarity", views) < 0)
        return NULL;
    similarity = bitlm_similarity(views[0].buf, views[1].buf, (size_t)views[0].len);
    PyBuffer_Release(&views[0]);
    PyBuffer_Release(&views[1]);
    return PyFloat_FromDouble(similarity);
}

static PyObject *fn_cosine(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    Py_buffer views[2];
    float *copies[2] = {NULL, NULL};
    const float *values[2];
    Py_ssize_t counts[2];
    PyObject *result = NULL;
    if (n != 2)
        return PyErr_Format(PyExc_TypeError, "cosine() takes 2 arguments, not %zd", n);
    if (blpy_same_model(blpy_state_of(module), args[0], args[1]) < 0 ||
        blpy_floats(args[0], &views[0], &copies[0], &values[0], &counts[0], "the first vector") < 0)
        return NULL;
    if (blpy_floats(args[1], &views[1], &copies[1], &values[1], &counts[1], "the second vector") < 0) {
        PyMem_Free(copies[0]);
        PyBuffer_Release(&views[0]);
        return NULL;
    }
    if (counts[0] != counts[1])
        PyErr_Format(PyExc_ValueError, "the vectors have %zd and %zd values, but must have the same number",
                     counts[0], counts[1]);
    else
        result = PyFloat_FromDouble(bitlm_cosine(values[0], values[1], (size_t)counts[0]));
    PyMem_Free(copies[0]);
    PyMem_Free(copies[1]);
    PyBuffer_Release(&views[0]);
    PyBuffer_Release(&views[1]);
    return result;
}

/* binarize(values, threshold=0.0) -> bytes */
static PyObject *fn_binarize(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"values", "threshold", NULL};
    PyObject *object, *out;
    Py_buffer view;
    float *copy, threshold = 0.0f;
    const float *values;
    Py_ssize_t n;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|f", names, &object, &threshold) ||
        blpy_floats(object, &view, &copy, &values, &n, "values") < 0)
        return NULL;
    out = PyBytes_FromStringAndSize(NULL, n / 8 + (n % 8 != 0));
    if (out)
        bitlm_binarize(values, (size_t)n, threshold, (uint8_t *)PyBytes_AS_STRING(out));
    PyMem_Free(copy);
    PyBuffer_Release(&view);
    return out;
}

#define FAST(f) (PyCFunction)(void (*)(void))(f)

PyMethodDef blpy_codes_methods[] = {
    {"hamming", FAST(fn_hamming), METH_FASTCALL,
     PyDoc_STR("hamming(a, b, /)\n--\n\nDiffering bits of two codes of the same length; any two contiguous buffers.\n\n"
               "ValueError: the lengths or the models differ; TypeError: no buffer.")},
    {"similarity", FAST(fn_similarity), METH_FASTCALL,
     PyDoc_STR("similarity(a, b, /)\n--\n\nEqual bits / bits of two codes, in [0, 1]; 1 for no bits.  This is the XNOR-and-popcount product of "
               "two sign vectors (Rastegari et al. 2016, XNOR-Net), moved to [0, 1].\n\nErrors as of hamming.")},
    {"cosine", FAST(fn_cosine), METH_FASTCALL,
     PyDoc_STR("cosine(a, b, /)\n--\n\nCosine of two float32 vectors of n values each, in [-1, 1]; 0 if either is zero.\n\n"
               "ValueError: the lengths or the models differ; TypeError: no buffer of float32.")},
    {"binarize", FAST(fn_binarize), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("binarize(values, threshold=0.0)\n--\n\n"
               "Packed bits of a float32 buffer of n values as (n + 7) / 8 bytes, most significant bit first: a bit is "
               "value > threshold (sign binarization).\n\nValueError: no multiple of 4 bytes; TypeError: no buffer of float32.")},
    {NULL, NULL, 0, NULL},
};
