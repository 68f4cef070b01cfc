/* gguf_write.c - writes a GGUF file, whole or not at all.
 *
 * Keys and tensor descriptions gather in memory; the first piece of data writes
 * them out, since only then both counts are known, and everything after streams
 * through one buffer.  The file has no name while it grows (O_TMPFILE), so that
 * even a killed process leaves nothing behind; where the file system cannot do
 * that it has a temporary name in the same directory.  finish syncs it, gives it
 * its name by rename and syncs the directory.
 *
 * Called by core/cli (synth), converters and the tests. */
#define _GNU_SOURCE
#include "file/gguf_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/utf8.h"

typedef unsigned long long ull; /* for messages */

#define BUFFER_BYTES ((size_t)1 << 18)
#define HEADER_BYTES 24 /* in front of the keys */
/* llama.cpp's GGML_MAX_NAME is 64 with the final NUL: longer names it cannot open. */
#define WRITE_MAX_NAME 63

typedef struct bytes {
    uint8_t *data;
    size_t used, capacity;
} bytes;

#define STAGE_KEYS 0
#define STAGE_TENSORS 1
#define STAGE_DATA 2

struct bl_gguf_writer {
    bl_alloc alloc;
    bitlm_error error; /* the first one; sticks */
    int stage, fd;
    int named; /* temporary exists in the directory */
    char path[PATH_MAX], temporary[PATH_MAX], directory[PATH_MAX];
    bytes keys, infos;  /* as they will stand in the file */
    bytes names, sizes; /* uint64 hashes of all names, to find a repeated one; tensor sizes */
    uint64_t n_keys, n_tensors;
    uint64_t data_bytes;       /* of tensors described so far, padding included */
    uint64_t current, written; /* tensor being filled, its bytes so far */
    uint8_t *buffer;
    size_t buffered;
    size_t late, late_length;  /* the reserved text: place in keys (0: none) and bytes */
};

/* ---- bytes in memory ------------------------------------------------------- */

static bitlm_status append(bl_gguf_writer *w, bytes *b, const void *data, size_t size) {
    size_t needed;
    if (!bl_add_size(b->used, size, &needed) || needed > PTRDIFF_MAX / 2)
        return bl_error_nomem(&w->error, size, "the keys of a GGUF file");
    if (needed > b->capacity) {
        size_t capacity = BL_MAX(BL_MAX(needed, 2 * b->capacity), (size_t)4096);
        uint8_t *grown = bl_regrow(&w->alloc, b->data, b->used, capacity);
        if (grown == NULL)
            return bl_error_nomem(&w->error, capacity, "the keys of a GGUF file");
        b->data = grown;
        b->capacity = capacity;
    }
    if (size > 0)
        memcpy(b->data + b->used, data, size);
    b->used = needed;
    return BITLM_OK;
}

static bitlm_status append_integer(bl_gguf_writer *w, bytes *b, uint64_t value, unsigned size) {
    uint8_t little[8];
    for (unsigned i = 0; i < size; i++)
        little[i] = (uint8_t)(value >> (8 * i));
    return append(w, b, little, size);
}

static bitlm_status append_text(bl_gguf_writer *w, bytes *b, const char *text, size_t length) {
    bitlm_status status = append_integer(w, b, length, 8);
    return status == BITLM_OK ? append(w, b, text, length) : status;
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static bitlm_status new_name(bl_gguf_writer *w, const char *kind, const char *name, size_t limit) {
    char shown[64];
    size_t length = strlen(name);
    uint64_t hash = 0xcbf29ce484222325u ^ (unsigned char)kind[0]; /* FNV-1a */
    if (length == 0 || length > limit || !bl_utf8_valid(name, length))
        return bl_error(&w->error, BITLM_ARG, "the %s name '%s' must have 1 to %zu bytes of valid UTF-8",
                        kind, bl_show(shown, sizeof shown, name, length), limit);
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)name[i]) * 0x100000001b3u;
    for (size_t i = 0; i < w->names.used; i += 8)
        if (memcmp(w->names.data + i, &hash, 8) == 0)
            return bl_error(&w->error, BITLM_ARG, "the %s name '%s' is written twice", kind,
                            bl_show(shown, sizeof shown, name, length));
    return append(w, &w->names, &hash, sizeof hash);
}

/* ---- bytes in the file -------------------------------------------------------- */

static bitlm_status write_through(bl_gguf_writer *w, const uint8_t *data, size_t size) {
    char shown[160];
    while (size > 0) {
        ssize_t n = write(w->fd, data, BL_MIN(size, (size_t)1 << 30));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return bl_error_io(&w->error, errno, "cannot write '%s'",
                               bl_show(shown, sizeof shown, w->path, strlen(w->path)));
        data += n;
        size -= (size_t)n;
    }
    return BITLM_OK;
}

static bitlm_status flush(bl_gguf_writer *w) {
    bitlm_status status = write_through(w, w->buffer, w->buffered);
    w->buffered = 0;
    return status;
}

static bitlm_status put(bl_gguf_writer *w, const void *data, size_t size) {
    bitlm_status status = BITLM_OK;
    if (size > BUFFER_BYTES - w->buffered)
        status = flush(w);
    if (status != BITLM_OK)
        return status;
    if (size >= BUFFER_BYTES)
        return write_through(w, data, size);
    memcpy(w->buffer + w->buffered, data, size);
    w->buffered += size;
    return BITLM_OK;
}

static bitlm_status put_padding(bl_gguf_writer *w, uint64_t behind) {
    static const uint8_t zeros[BL_GGUF_ALIGNMENT];
    return put(w, zeros, (size_t)(-behind & (BL_GGUF_ALIGNMENT - 1)));
}

static bitlm_status put_header(bl_gguf_writer *w) {
    bytes head = {0};
    uint64_t size = HEADER_BYTES + (uint64_t)w->keys.used + w->infos.used;
    bitlm_status status = append_integer(w, &head, BL_GGUF_MAGIC, 4);
    if (status == BITLM_OK)
        status = append_integer(w, &head, 3, 4);
    if (status == BITLM_OK)
        status = append_integer(w, &head, w->n_tensors, 8);
    if (status == BITLM_OK)
        status = append_integer(w, &head, w->n_keys, 8);
    if (status == BITLM_OK)
        status = put(w, head.data, head.used);
    if (status == BITLM_OK && w->keys.used > 0)
        status = put(w, w->keys.data, w->keys.used);
    if (status == BITLM_OK && w->infos.used > 0)
        status = put(w, w->infos.data, w->infos.used);
    if (status == BITLM_OK)
        status = put_padding(w, size);
    bl_free(&w->alloc, head.data);
    return status;
}

/* ---- opening ---------------------------------------------------------------------- */

static bitlm_status open_temporary(bl_gguf_writer *w) {
    char shown[160];
    struct stat st;
    bl_show(shown, sizeof shown, w->path, strlen(w->path));
    if (stat(w->path, &st) == 0 && !S_ISREG(st.st_mode))
        return bl_error_io(&w->error, S_ISDIR(st.st_mode) ? EISDIR : EEXIST,
                           "cannot write '%s', which is no regular file", shown);
    const char *slash = strrchr(w->path, '/');
    size_t length = slash == NULL ? 0 : (size_t)(slash - w->path);
    if (slash == w->path)
        length = 1; /* the root's own slash stays */
    memcpy(w->directory, length > 0 ? w->path : ".", BL_MAX(length, 1));

    /* The name is only a name: two writers in one directory must differ, nothing more. */
    uint64_t salt = (bl_now_ns() * 0x9e3779b97f4a7c15u) ^ ((uint64_t)getpid() << 32) ^ (uint64_t)(uintptr_t)w;
    int n = snprintf(w->temporary, sizeof w->temporary, "%s/.bitlm-%016llx.tmp", w->directory, (ull)salt);
    if (n < 0 || (size_t)n >= sizeof w->temporary)
        return bl_error_io(&w->error, ENAMETOOLONG, "cannot write '%s'", shown);
    if (access("/proc/self/fd", X_OK) == 0) /* the way to name a file without a name */
        w->fd = open(w->directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        w->fd = open(w->temporary, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
        if (w->fd < 0)
            return bl_error_io(&w->error, errno, "cannot create a file beside '%s'", shown);
        w->named = 1;
    }
    return BITLM_OK;
}

/* The writer's own error as the caller's. */
static bitlm_status hand_over(const bl_gguf_writer *w, bitlm_error *error) {
    bl_error(error, w->error.status, "%s", w->error.text);
    if (error != NULL)
        error->sys_errno = w->error.sys_errno;
    return w->error.status;
}

bitlm_status bl_gguf_writer_begin(const char *path, const bl_alloc *alloc, bl_gguf_writer **writer,
                                  bitlm_error *error) {
    bl_alloc a = alloc != NULL ? *alloc : bl_alloc_from_host(NULL);
    size_t length = strlen(path);
    bitlm_status status;
    if (length == 0)
        return bl_error(error, BITLM_ARG, "the path of the file to write is empty");
    if (length >= PATH_MAX)
        return bl_error_io(error, ENAMETOOLONG, "cannot write a path of %zu bytes (at most %d)", length,
                           PATH_MAX - 1);
    bl_gguf_writer *w = bl_calloc(&a, 1, sizeof *w);
    if (w == NULL)
        return bl_error_nomem(error, sizeof *w, "a writer of GGUF files");
    w->alloc = a;
    w->error.size = sizeof w->error;
    w->fd = -1;
    memcpy(w->path, path, length + 1);
    w->buffer = bl_malloc(&a, BUFFER_BYTES);
    if (w->buffer == NULL) {
        status = bl_error_nomem(error, BUFFER_BYTES, "a writer of GGUF files");
        goto fail;
    }
    status = open_temporary(w);
    if (status != BITLM_OK) {
        hand_over(w, error);
        goto fail;
    }
    *writer = w;
    return BITLM_OK;

fail:
    bl_gguf_writer_abort(w);
    return status;
}

/* ---- keys --------------------------------------------------------------------------- */

static bitlm_status begin_key(bl_gguf_writer *w, const char *key, int32_t type) {
    bitlm_status status = w->error.status;
    if (status != BITLM_OK)
        return status;
    if (w->stage != STAGE_KEYS)
        return bl_error(&w->error, BITLM_INTERNAL, "a key is written after a tensor");
    if (w->n_keys >= BL_GGUF_MAX_KEYS)
        return bl_error(&w->error, BITLM_LIMIT, "more than %d keys", BL_GGUF_MAX_KEYS);
    status = new_name(w, "key", key, BL_GGUF_MAX_KEY);
    if (status == BITLM_OK)
        status = append_text(w, &w->keys, key, strlen(key));
    if (status == BITLM_OK)
        status = append_integer(w, &w->keys, (uint32_t)type, 4);
    w->n_keys++;
    return status;
}

static bitlm_status begin_array(bl_gguf_writer *w, const char *key, int32_t element, uint64_t count) {
    bitlm_status status = begin_key(w, key, BL_GGUF_ARRAY);
    if (status == BITLM_OK && count > BL_GGUF_MAX_ELEMENTS)
        status = bl_error(&w->error, BITLM_LIMIT, "an array of %llu elements, more than the limit of %d",
                          (ull)count, BL_GGUF_MAX_ELEMENTS);
    if (status == BITLM_OK)
        status = append_integer(w, &w->keys, (uint32_t)element, 4);
    if (status == BITLM_OK)
        status = append_integer(w, &w->keys, count, 8);
    return status;
}

bitlm_status bl_gguf_write_u32(bl_gguf_writer *w, const char *key, uint32_t value) {
    bitlm_status status = begin_key(w, key, BL_GGUF_U32);
    return status == BITLM_OK ? append_integer(w, &w->keys, value, 4) : status;
}

bitlm_status bl_gguf_write_f32(bl_gguf_writer *w, const char *key, float value) {
    bitlm_status status = begin_key(w, key, BL_GGUF_F32);
    return status == BITLM_OK ? append_integer(w, &w->keys, bits_of(value), 4) : status;
}

bitlm_status bl_gguf_write_bool(bl_gguf_writer *w, const char *key, int value) {
    bitlm_status status = begin_key(w, key, BL_GGUF_BOOL);
    return status == BITLM_OK ? append_integer(w, &w->keys, value != 0, 1) : status;
}

bitlm_status bl_gguf_write_string(bl_gguf_writer *w, const char *key, const char *text, size_t length) {
    bitlm_status status = begin_key(w, key, BL_GGUF_STRING);
    return status == BITLM_OK ? append_text(w, &w->keys, text, length) : status;
}

bitlm_status bl_gguf_write_strings(bl_gguf_writer *w, const char *key, const bitlm_text *texts,
                                   uint64_t count) {
    bitlm_status status = begin_array(w, key, BL_GGUF_STRING, count);
    for (uint64_t i = 0; status == BITLM_OK && i < count; i++)
        status = append_text(w, &w->keys, texts[i].data, texts[i].length);
    return status;
}

bitlm_status bl_gguf_write_f32s(bl_gguf_writer *w, const char *key, const float *values, uint64_t count) {
    bitlm_status status = begin_array(w, key, BL_GGUF_F32, count);
    for (uint64_t i = 0; status == BITLM_OK && i < count; i++)
        status = append_integer(w, &w->keys, bits_of(values[i]), 4);
    return status;
}

bitlm_status bl_gguf_write_i32s(bl_gguf_writer *w, const char *key, const int32_t *values, uint64_t count) {
    bitlm_status status = begin_array(w, key, BL_GGUF_I32, count);
    for (uint64_t i = 0; status == BITLM_OK && i < count; i++)
        status = append_integer(w, &w->keys, (uint32_t)values[i], 4);
    return status;
}

bitlm_status bl_gguf_write_raw(bl_gguf_writer *w, const char *key, int32_t type, const void *value, uint64_t size) {
    bitlm_status status = begin_key(w, key, type);
    return status == BITLM_OK ? append(w, &w->keys, value, (size_t)size) : status;
}

bitlm_status bl_gguf_reserve_string(bl_gguf_writer *w, const char *key, size_t length) {
    bitlm_status status = begin_key(w, key, BL_GGUF_STRING);
    if (status == BITLM_OK)
        status = append_integer(w, &w->keys, length, 8);
    w->late = w->keys.used;
    w->late_length = length;
    for (size_t i = 0; status == BITLM_OK && i < length; i++)
        status = append(w, &w->keys, " ", 1);
    return status;
}

/* ---- tensors -------------------------------------------------------------------------- */

bitlm_status bl_gguf_write_tensor(bl_gguf_writer *w, const char *name, int32_t type, int n_dims,
                                  const uint64_t *dims) {
    char shown[64];
    uint64_t rows = 1, size, padded;
    int ok = 1;
    bitlm_status status = w->error.status;
    if (status != BITLM_OK)
        return status;
    if (w->stage > STAGE_TENSORS)
        return bl_error(&w->error, BITLM_INTERNAL, "a tensor is described after the first data");
    w->stage = STAGE_TENSORS;
    status = new_name(w, "tensor", name, WRITE_MAX_NAME);
    if (status != BITLM_OK)
        return status;
    bl_show(shown, sizeof shown, name, strlen(name));
    const bl_tensor_type *t = bl_tensor_type_find(type);
    if (t == NULL || n_dims < 1 || n_dims > BL_GGUF_MAX_DIMS || w->n_tensors >= BL_GGUF_MAX_TENSORS)
        return bl_error(&w->error, BITLM_ARG, "tensor '%s' has type %d and %d dimensions, which GGUF has not",
                        shown, (int)type, n_dims);
    for (int i = 0; i < n_dims; i++)
        ok &=
            dims[i] > 0 && dims[i] <= INT64_MAX && (i == 0 || !__builtin_mul_overflow(rows, dims[i], &rows));
    size = ok ? bl_tensor_bytes(t, dims[0], rows, &ok) : 0;
    if (!ok || __builtin_add_overflow(size, (uint64_t)(-size & (BL_GGUF_ALIGNMENT - 1)), &padded) ||
        __builtin_add_overflow(w->data_bytes, padded, &padded) || padded > INT64_MAX)
        return bl_error(&w->error, BITLM_ARG, "tensor '%s' of %llu rows of %llu weights does not fit %s",
                        shown, (ull)rows, (ull)dims[0], t->name);

    status = append(w, &w->sizes, &size, sizeof size);
    if (status == BITLM_OK)
        status = append_text(w, &w->infos, name, strlen(name));
    if (status == BITLM_OK)
        status = append_integer(w, &w->infos, (uint32_t)n_dims, 4);
    for (int i = 0; status == BITLM_OK && i < n_dims; i++)
        status = append_integer(w, &w->infos, dims[i], 8);
    if (status == BITLM_OK)
        status =
            append_integer(w, &w->infos, (uint32_t)(type == BL_TYPE_Q2_0_LEGACY ? BL_TYPE_Q2_0 : type), 4);
    if (status == BITLM_OK)
        status = append_integer(w, &w->infos, w->data_bytes, 8);
    w->data_bytes = padded;
    w->n_tensors++;
    return status;
}

static bitlm_status begin_data(bl_gguf_writer *w) {
    if (w->stage == STAGE_DATA)
        return BITLM_OK;
    w->stage = STAGE_DATA;
    return put_header(w);
}

static uint64_t tensor_size(const bl_gguf_writer *w, uint64_t i) {
    uint64_t size;
    memcpy(&size, w->sizes.data + 8 * i, sizeof size);
    return size;
}

bitlm_status bl_gguf_write_data(bl_gguf_writer *w, const void *data, size_t size) {
    const uint8_t *p = data;
    bitlm_status status = w->error.status;
    if (status == BITLM_OK)
        status = begin_data(w);
    while (status == BITLM_OK && size > 0) {
        if (w->current >= w->n_tensors)
            return bl_error(&w->error, BITLM_INTERNAL, "%zu bytes more than the %llu tensors take", size,
                            (ull)w->n_tensors);
        uint64_t whole = tensor_size(w, w->current);
        size_t piece = (size_t)BL_MIN((uint64_t)size, whole - w->written);
        status = put(w, p, piece);
        p += piece;
        size -= piece;
        w->written += piece;
        if (status == BITLM_OK && w->written == whole) {
            status = put_padding(w, whole);
            w->current++;
            w->written = 0;
        }
    }
    return status;
}

/* ---- the end ----------------------------------------------------------------------------- */

/* Gives the file its name.  A failing sync of the directory is no failure: the file is whole. */
static bitlm_status publish(bl_gguf_writer *w) {
    char shown[160], self[40];
    bl_show(shown, sizeof shown, w->path, strlen(w->path));
    if (fsync(w->fd) != 0)
        return bl_error_io(&w->error, errno, "cannot write '%s'", shown);
    if (!w->named) {
        snprintf(self, sizeof self, "/proc/self/fd/%d", w->fd);
        if (linkat(AT_FDCWD, self, AT_FDCWD, w->temporary, AT_SYMLINK_FOLLOW) != 0)
            return bl_error_io(&w->error, errno, "cannot name a file beside '%s'", shown);
        w->named = 1;
    }
    int failed = close(w->fd);
    w->fd = -1;
    if (failed != 0)
        return bl_error_io(&w->error, errno, "cannot write '%s'", shown);
    if (rename(w->temporary, w->path) != 0)
        return bl_error_io(&w->error, errno, "cannot give '%s' its name", shown);
    w->named = 0;
    int directory = open(w->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0) {
        fsync(directory);
        close(directory);
    }
    return BITLM_OK;
}

/* All tensors are there, and in the file. */
static bitlm_status complete(bl_gguf_writer *w) {
    bitlm_status status = w->error.status;
    if (status == BITLM_OK)
        status = begin_data(w);
    if (status == BITLM_OK && w->current < w->n_tensors)
        status =
            bl_error(&w->error, BITLM_INTERNAL, "tensor %llu of %llu has %llu of its %llu bytes",
                     (ull)w->current, (ull)w->n_tensors, (ull)w->written, (ull)tensor_size(w, w->current));
    return status == BITLM_OK ? flush(w) : status;
}

bitlm_status bl_gguf_writer_path(bl_gguf_writer *w, char *path) {
    bitlm_status status = complete(w);
    if (w->named)
        strcpy(path, w->temporary);
    else
        snprintf(path, PATH_MAX, "/proc/self/fd/%d", w->fd);
    return status;
}

bitlm_status bl_gguf_write_late(bl_gguf_writer *w, const char *text) {
    char shown[160];
    size_t length = strlen(text), done = 0;
    bitlm_status status = w->error.status;
    if (status == BITLM_OK && (w->late == 0 || length != w->late_length))
        status = bl_error(&w->error, BITLM_INTERNAL, "%zu bytes for a reserved text of %zu", length, w->late_length);
    while (status == BITLM_OK && done < length) {
        ssize_t n = pwrite(w->fd, text + done, length - done, (off_t)(HEADER_BYTES + w->late + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return bl_error_io(&w->error, errno, "cannot write '%s'",
                               bl_show(shown, sizeof shown, w->path, strlen(w->path)));
        done += (size_t)n;
    }
    return status;
}

bitlm_status bl_gguf_writer_finish(bl_gguf_writer *w, bitlm_error *error) {
    bitlm_status status = complete(w);
    if (status == BITLM_OK)
        status = publish(w);
    if (status != BITLM_OK)
        hand_over(w, error);
    bl_gguf_writer_abort(w);
    return status;
}

void bl_gguf_writer_abort(bl_gguf_writer *w) {
    if (w == NULL)
        return;
    bl_alloc alloc = w->alloc;
    if (w->fd >= 0)
        close(w->fd);
    if (w->named)
        unlink(w->temporary);
    bl_free(&alloc, w->keys.data);
    bl_free(&alloc, w->infos.data);
    bl_free(&alloc, w->names.data);
    bl_free(&alloc, w->sizes.data);
    bl_free(&alloc, w->buffer);
    bl_free(&alloc, w);
}
