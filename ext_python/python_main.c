/* python_main.c - bitlm._bitlm: the module's definition.
 *
 * Multi-phase initialization: each interpreter gets a module of its own with its own types and
 * state, nothing static is written, so sub-interpreters work, with a GIL of their own from 3.12
 * on.  `main` is the command (core/cli) inside this process: one run at a time, says core/cli. */
#include "base/pool.h"
#include "cli/cli.h"
#include "python_adapter.h"

/* main(argv: list[str]) -> int: the exit status of the command. */
static PyObject *fn_main(PyObject *module, PyObject *arguments) {
    PyObject *tuple = PySequence_Tuple(arguments);
    Py_ssize_t i, n;
    PyObject *encoded = NULL;
    char **argv = NULL;
    int status = -1;
    (void)module;
    if (!tuple)
        return NULL;
    n = PyTuple_GET_SIZE(tuple);
    encoded = PyList_New(0);
    argv = PyMem_New(char *, (size_t)n + 1);
    if (!encoded || !argv) {
        PyErr_NoMemory();
        goto end;
    }
    for (i = 0; i < n; i++) {
        PyObject *bytes;
        if (!PyUnicode_FSConverter(PyTuple_GET_ITEM(tuple, i), &bytes))
            goto end;
        if (PyList_Append(encoded, bytes) < 0) {
            Py_DECREF(bytes);
            goto end;
        }
        Py_DECREF(bytes); /* the list's */
        argv[i] = PyBytes_AS_STRING(bytes);
    }
    argv[n] = NULL;
    Py_BEGIN_ALLOW_THREADS
    status = bl_cli_main((int)n, argv);
    Py_END_ALLOW_THREADS
end:
    PyMem_Free(argv);
    Py_XDECREF(encoded);
    Py_DECREF(tuple);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(status);
}

static PyObject *fn_physical_cores(PyObject *module, PyObject *Py_UNUSED(ignored)) {
    (void)module;
    return PyLong_FromLong(bl_physical_cores());
}

static PyMethodDef main_methods[] = {
    {"main", fn_main, METH_O, NULL},
    {"physical_cores", fn_physical_cores, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int add_exception(PyObject *module, const char *name, const char *short_name, const char *doc, PyObject *base,
                         PyObject **out) {
    *out = PyErr_NewExceptionWithDoc(name, doc, base, NULL);
    return *out ? PyModule_AddObjectRef(module, short_name, *out) : -1;
}

static int execute(PyObject *module) {
    blpy_state *state = blpy_state_of(module);
    PyObject *threading;
    if (add_exception(module, "bitlm.FormatError", "FormatError",
                      "A model file or an index is malformed; the sentence says where.", PyExc_ValueError,
                      &state->format_error) < 0 ||
        add_exception(module, "bitlm.Canceled", "Canceled",
                      "The threading.Event given as cancel= was set during the call.", PyExc_RuntimeError,
                      &state->canceled) < 0)
        return -1;
    threading = PyImport_ImportModule("threading");
    if (!threading)
        return -1;
    state->main_thread = PyObject_GetAttrString(threading, "main_thread");
    Py_DECREF(threading);
    if (!state->main_thread)
        return -1;
    if (blpy_array_register(module, state) < 0 || blpy_model_register(module, state) < 0 ||
        blpy_stream_register(module, state) < 0 ||
        blpy_index_register(module, state) < 0)
        return -1;
    if (PyModule_AddFunctions(module, main_methods) < 0 || PyModule_AddFunctions(module, blpy_codes_methods) < 0 ||
        PyModule_AddFunctions(module, blpy_index_methods) < 0 ||
        PyModule_AddFunctions(module, blpy_quant_methods) < 0 || PyModule_AddFunctions(module, blpy_convert_methods) < 0 ||
        PyModule_AddFunctions(module, blpy_memory_methods) < 0)
        return -1;
    if (PyModule_AddIntConstant(module, "NUMERICS", BITLM_NUMERICS) < 0 ||
        PyModule_AddStringConstant(module, "__version__", bitlm_version()) < 0)
        return -1;
    return 0;
}

static int traverse(PyObject *module, visitproc visit, void *arg) {
    blpy_state *state = blpy_state_of(module);
    Py_VISIT(state->format_error);
    Py_VISIT(state->canceled);
    Py_VISIT(state->core_type);
    Py_VISIT(state->stream_type);
    Py_VISIT(state->codes_type);
    Py_VISIT(state->vectors_type);
    Py_VISIT(state->index_type);
    Py_VISIT(state->main_thread);
    return 0;
}

static int clear(PyObject *module) {
    blpy_state *state = blpy_state_of(module);
    Py_CLEAR(state->format_error);
    Py_CLEAR(state->canceled);
    Py_CLEAR(state->core_type);
    Py_CLEAR(state->stream_type);
    Py_CLEAR(state->codes_type);
    Py_CLEAR(state->vectors_type);
    Py_CLEAR(state->index_type);
    Py_CLEAR(state->main_thread);
    return 0;
}

static void module_free(void *module) {
    clear((PyObject *)module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    BLPY_SLOT_INTERPRETERS
    BLPY_SLOT_GIL
    {0, NULL},
};

/* Not const only because Python's functions do not take one. */
struct PyModuleDef blpy_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "bitlm._bitlm",
    .m_doc = PyDoc_STR("The part of bitlm in C; use the package bitlm."),
    .m_size = sizeof(blpy_state),
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__bitlm(void);
PyMODINIT_FUNC PyInit__bitlm(void) {
    return PyModuleDef_Init(&blpy_module);
}
