/* python_convert.c - bitlm.convert: bitlm_convert with paths of any kind and an optional callable for progress.
 *
 * The GIL is given up for the whole call; progress takes it back, at most once for each percent.  Called by
 * python_main.c, which adds the method to the module. */
#include <string.h>

#include "python_adapter.h"

typedef struct watcher {
    blpy_host *host;
    PyObject *progress;
    int percent;
} watcher;

static void on_progress(void *context, double fraction) {
    watcher *w = context;
    int percent = (int)(fraction * 100);
    if (percent == w->percent || w->host->cancel)
        return;
    w->percent = percent;
    PyEval_RestoreThread(w->host->saved);
    PyObject *result = PyObject_CallFunction(w->progress, "d", fraction);
    if (!result) /* its exception is raised, and ends the call at the next poll */
        w->host->cancel = 1;
    Py_XDECREF(result);
    w->host->saved = PyEval_SaveThread();
}

static bitlm_text text_of(const char *data, Py_ssize_t length) {
    bitlm_text text = {data, data ? (size_t)length : 0};
    return text;
}

static PyObject *fn_convert(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"source", "output", "type", "embedding_type", "pre", "progress", "threads", NULL};
    blpy_state *state = blpy_state_of(module);
    PyObject *source = NULL, *output = NULL, *progress = Py_None, *result = NULL;
    const char *type = NULL, *embedding = NULL, *pre = NULL;
    int threads = 0;
    Py_ssize_t type_length = 0, embedding_length = 0, pre_length = 0;
    bitlm_convert_options options;
    bitlm_error error;
    bitlm_status status;
    blpy_host host;
    watcher w = {&host, NULL, -1};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&|z#z#z#Oi", names, PyUnicode_FSConverter, &source,
                                     PyUnicode_FSConverter, &output, &type, &type_length, &embedding, &embedding_length,
                                     &pre, &pre_length, &progress, &threads))
        goto done;
    bitlm_convert_options_init(&options);
    options.type = text_of(type, type_length);
    options.embedding_type = text_of(embedding, embedding_length);
    options.threads = threads;
    options.pre = text_of(pre, pre_length);
    if (progress != Py_None) {
        w.progress = progress;
        options.progress = on_progress;
        options.progress_context = &w;
    }
    blpy_host_init(&host, state);
    blpy_error_init(&error);
    if (blpy_begin(&host, NULL) < 0)
        goto done;
    blpy_release(&host);
    status = bitlm_convert(PyBytes_AS_STRING(source), (size_t)PyBytes_GET_SIZE(source), PyBytes_AS_STRING(output),
                           (size_t)PyBytes_GET_SIZE(output), &options, &host.host, &error);
    blpy_acquire(&host);
    if (status)
        blpy_raise(state, &host, status, &error);
    else if (!PyErr_Occurred())
        result = Py_NewRef(Py_None);

done:
    Py_XDECREF(source);
    Py_XDECREF(output);
    return result;
}

PyMethodDef blpy_convert_methods[] = {
    {"convert", (PyCFunction)(void (*)(void))fn_convert, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("convert(source, output, type=None, embedding_type=None, pre=None, progress=None, threads=0)\n--\n\n"
               "A Hugging Face folder or a GGUF file to a GGUF file (output named *.gguf), or a GGUF file to a new folder "
               "of safetensors.  type: of the linear layers, embedding_type: of the embedding and head, as in `bitlm "
               "convert`; progress: called with a fraction of 1; threads: 0 for the physical cores.  The output appears whole or not at all.")},
    {NULL, NULL, 0, NULL},
};
