/* safetensors_write.c - writes a safetensors file: the header gathers in memory, the first piece of data writes it
 * out, and the rest streams.
 *
 * Called by convert_export.c, which writes it inside a folder that has no name yet, so a file that is not finished
 * is never seen; an abort removes it all the same. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file/safetensors.h"

struct bl_st_writer {
    bl_alloc alloc;
    bitlm_error error; /* the first one; sticks */
    json_t *header;
    FILE *file;
    uint64_t described, written; /* bytes of data */
    int in_data;
    char path[PATH_MAX];
};

bitlm_status bl_st_writer_begin(const char *path, const bl_alloc *alloc, bl_st_writer **writer, bitlm_error *error) {
    char shown[160];
    bl_st_writer *w = NULL;
    if (strlen(path) >= PATH_MAX)
        return bl_error_io(error, ENAMETOOLONG, "cannot write a path of %zu bytes", strlen(path));
    w = bl_calloc(alloc, 1, sizeof *w);
    if (!w || !(w->header = json_object())) {
        bl_free(alloc, w);
        return bl_error_nomem(error, sizeof *w, "a writer of safetensors");
    }
    w->alloc = *alloc;
    w->error.size = sizeof w->error;
    strcpy(w->path, path);
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
    if (fd >= 0 && !(w->file = fdopen(fd, "wb"))) {
        close(fd);
        unlink(path);
    }
    if (!w->file) {
        bitlm_status status =
            bl_error_io(error, errno, "cannot create '%s'", bl_show(shown, sizeof shown, path, strlen(path)));
        json_decref(w->header);
        bl_free(alloc, w);
        return status;
    }
    *writer = w;
    return BITLM_OK;
}

bitlm_status bl_st_write_tensor(bl_st_writer *w, const char *name, int32_t dtype, int n_dims, const uint64_t *dims) {
    uint64_t bytes = bl_safetensors_dtype_bytes(dtype);
    char shown[80];
    if (w->error.status)
        return w->error.status;
    bl_show(shown, sizeof shown, name, strlen(name));
    if (w->in_data || json_object_get(w->header, name))
        return bl_error(&w->error, BITLM_INTERNAL, "tensor '%s' is described twice or too late", shown);
    json_t *shape = json_array();
    for (int i = 0; i < n_dims; i++) {
        if (__builtin_mul_overflow(bytes, dims[i], &bytes) || bytes > INT64_MAX)
            bytes = 0;
        json_array_append_new(shape, json_integer((json_int_t)dims[i]));
    }
    uint64_t end;
    if (bytes == 0 || __builtin_add_overflow(w->described, bytes, &end) || end > INT64_MAX) {
        json_decref(shape);
        return bl_error(&w->error, BITLM_ARG, "tensor '%s' has an impossible shape", shown);
    }
    json_t *entry = json_pack("{s:s, s:o, s:[I,I]}", "dtype", bl_safetensors_dtype_name(dtype), "shape", shape,
                              "data_offsets", (json_int_t)w->described, (json_int_t)end);
    if (!entry || json_object_set_new(w->header, name, entry))
        return bl_error_nomem(&w->error, 256, "the header of a safetensors file");
    w->described = end;
    return BITLM_OK;
}

static bitlm_status put(bl_st_writer *w, const void *data, size_t size) {
    char shown[160];
    if (size && fwrite(data, 1, size, w->file) != size)
        return bl_error_io(&w->error, errno, "cannot write '%s'", bl_show(shown, sizeof shown, w->path, strlen(w->path)));
    return BITLM_OK;
}

/* The header, padded with spaces so that the data begins at a multiple of 8. */
static bitlm_status begin_data(bl_st_writer *w) {
    uint8_t length[8];
    char *text;
    if (w->in_data)
        return w->error.status;
    w->in_data = 1;
    json_object_set_new(w->header, "__metadata__", json_pack("{s:s}", "format", "pt"));
    text = json_dumps(w->header, JSON_COMPACT);
    if (!text)
        return bl_error_nomem(&w->error, 256, "the header of a safetensors file");
    uint64_t n = strlen(text), padded = (n + 7) & ~(uint64_t)7;
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(padded >> (8 * i));
    bitlm_status status = put(w, length, 8);
    if (!status)
        status = put(w, text, (size_t)n);
    if (!status)
        status = put(w, "        ", (size_t)(padded - n));
    free(text);
    return status;
}

bitlm_status bl_st_write_data(bl_st_writer *w, const void *data, size_t size) {
    bitlm_status status = w->error.status;
    if (!status)
        status = begin_data(w);
    if (!status && size > w->described - w->written)
        status = bl_error(&w->error, BITLM_INTERNAL, "more data than the tensors take");
    w->written += size;
    return status ? status : put(w, data, size);
}

bitlm_status bl_st_writer_finish(bl_st_writer *w, bitlm_error *error) {
    char shown[160];
    bitlm_status status = w->error.status;
    if (!status)
        status = begin_data(w);
    if (!status && w->written != w->described)
        status = bl_error(&w->error, BITLM_INTERNAL, "the tensors lack %llu bytes",
                          (unsigned long long)(w->described - w->written));
    if (!status && (fflush(w->file) != 0 || fsync(fileno(w->file)) != 0))
        status =
            bl_error_io(&w->error, errno, "cannot write '%s'", bl_show(shown, sizeof shown, w->path, strlen(w->path)));
    if (status) {
        bl_error(error, status, "%s", w->error.text);
        if (error)
            error->sys_errno = w->error.sys_errno;
        bl_st_writer_abort(w);
        return status;
    }
    fclose(w->file);
    w->file = NULL;
    bl_st_writer_abort(w);
    return BITLM_OK;
}

void bl_st_writer_abort(bl_st_writer *w) {
    if (!w)
        return;
    if (w->file) {
        fclose(w->file);
        unlink(w->path);
    }
    bl_alloc alloc = w->alloc;
    json_decref(w->header);
    bl_free(&alloc, w);
}
