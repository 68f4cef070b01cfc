/* python_convert.c - bitlm.convert and bitlm.quantize_model: bitlm_convert and bitlm_quantize_model with paths of any kind
 * and an optional callable for progress.
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

/* ---- a type for each tensor ------------------------------------------------------------------ */

typedef struct collector {
    watcher w; /* first: on_progress sees only this */
    PyObject *tensors;
    int failed;
} collector;

static void on_tensor(void *context, const bitlm_quantized_tensor *t) {
    collector *c = context;
    if (c->failed || c->w.host->cancel)
        return;
    PyEval_RestoreThread(c->w.host->saved);
    PyObject *row = Py_BuildValue("{sssssssKsKsd}", "name", t->name, "source_type", t->source_type, "type", t->type, "source_bytes",
                                  (unsigned long long)t->source_bytes, "bytes", (unsigned long long)t->bytes, "error", t->error);
    c->failed = !row || PyList_Append(c->tensors, row) < 0;
    Py_XDECREF(row);
    c->w.host->saved = PyEval_SaveThread();
}

/* The place of word among the names, or -1 with an exception. */
static int one_of(const char *argument, const char *word, const char *const *names, int n) {
    for (int i = 0; i < n; i++)
        if (strcmp(word, names[i]) == 0)
            return i;
    PyErr_Format(PyExc_ValueError, "%s is '%.40s', but must be one of %s, %s%s%s", argument, word, names[0], names[1],
                 n > 2 ? ", " : "", n > 2 ? names[2] : "");
    return -1;
}

/* A text with commas, or names: a new text, or NULL with an exception. */
static PyObject *read_types(PyObject *types) {
    if (PyUnicode_Check(types))
        return Py_NewRef(types);
    PyObject *comma = PyUnicode_FromString(","), *joined = comma ? PyUnicode_Join(comma, types) : NULL;
    Py_XDECREF(comma);
    return joined;
}

static PyObject *fn_quantize_model(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"source", "output", "text", "budget_bytes", "max_error", "tokens", "types", "ternary",
                            "scale", "progress", "threads", NULL};
    static const char *const methods[] = {"absmean", "twn"}, *const scales[] = {"tensor", "row", "group"};
    blpy_state *state = blpy_state_of(module);
    PyObject *source = NULL, *output = NULL, *budget = Py_None, *limit = Py_None, *types = Py_None, *progress = Py_None;
    PyObject *list = NULL, *result = NULL;
    const char *text, *ternary = "absmean", *scale = "group";
    int threads = 0, tokens = 0;
    Py_ssize_t length;
    bitlm_quantize_options options;
    bitlm_quantize_result r = {.size = sizeof r};
    bitlm_error error;
    bitlm_status status;
    blpy_host host;
    collector c = {{&host, NULL, -1}, NULL, 0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&s#|$OOiOssOi", names, PyUnicode_FSConverter, &source,
                                     PyUnicode_FSConverter, &output, &text, &length, &budget, &limit, &tokens, &types,
                                     &ternary, &scale, &progress, &threads))
        goto done;
    bitlm_quantize_options_init(&options);
    options.text = text_of(text, length);
    options.tokens = tokens;
    options.threads = threads;
    options.ternary = one_of("ternary", ternary, methods, 2);
    options.scale_per = PyErr_Occurred() ? -1 : one_of("scale", scale, scales, 3);
    if (!PyErr_Occurred() && budget != Py_None)
        options.budget_bytes = PyLong_AsUnsignedLongLong(budget);
    if (!PyErr_Occurred() && limit != Py_None)
        options.max_error = PyFloat_AsDouble(limit);
    if (!PyErr_Occurred() && types != Py_None && (list = read_types(types))) {
        options.types.data = PyUnicode_AsUTF8AndSize(list, &length);
        options.types.length = (size_t)length;
    }
    if (PyErr_Occurred() || !(c.tensors = PyList_New(0)))
        goto done;
    if (progress != Py_None) {
        c.w.progress = progress;
        options.progress = on_progress;
        options.progress_context = &c.w;
    }
    options.tensor = on_tensor;
    options.tensor_context = &c;
    blpy_host_init(&host, state);
    blpy_error_init(&error);
    if (blpy_begin(&host, NULL) < 0)
        goto done;
    blpy_release(&host);
    status = bitlm_quantize_model(PyBytes_AS_STRING(source), (size_t)PyBytes_GET_SIZE(source), PyBytes_AS_STRING(output),
                                  (size_t)PyBytes_GET_SIZE(output), &options, &host.host, &r, &error);
    blpy_acquire(&host);
    if (status)
        blpy_raise(state, &host, status, &error);
    else if (!PyErr_Occurred())
        result = Py_BuildValue("{sKsKsdsdsdsdsisO}", "bytes", (unsigned long long)r.bytes, "source_bytes",
                               (unsigned long long)r.source_bytes, "error", r.error, "predicted_error", r.predicted_error,
                               "perplexity", r.perplexity, "source_perplexity", r.source_perplexity, "tokens", (int)r.tokens,
                               "tensors", c.tensors);

done:
    Py_XDECREF(source);
    Py_XDECREF(output);
    Py_XDECREF(list);
    Py_XDECREF(c.tensors);
    return result;
}

PyMethodDef blpy_convert_methods[] = {
    {"quantize_model", (PyCFunction)(void (*)(void))fn_quantize_model, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("quantize_model(source, output, text, *, budget_bytes=None, max_error=None, tokens=0, types=None, "
               "ternary='absmean', scale='group', progress=None, threads=0)\n--\n\n"
               "A GGUF model with a type for each tensor of its own, as `bitlm quantize`: the best of several measured choices, "
               "each single type among them, in a file of at most budget_bytes, or the smallest file found with at most "
               "max_error (nats a token), measured on the beginning of "
               "text (tokens; 0: 256).  types: to choose from, a list of names (None: q2_0, q4_0, q8_0).  Returns a dict: bytes, "
               "source_bytes, error, predicted_error, perplexity, source_perplexity, tokens, and tensors, a list of dicts.  "
               "progress: called with a fraction of 1.  The output appears whole or not at all.")},
    {"convert", (PyCFunction)(void (*)(void))fn_convert, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("convert(source, output, type=None, embedding_type=None, pre=None, progress=None, threads=0)\n--\n\n"
               "A Hugging Face folder or a GGUF file to a GGUF file (output named *.gguf), or a GGUF file to a new folder "
               "of safetensors.  type: of the linear layers, embedding_type: of the embedding and head, as in `bitlm "
               "convert`; progress: called with a fraction of 1; threads: 0 for the physical cores.  The output appears whole or not at all.")},
    {NULL, NULL, 0, NULL},
};
