/* fuzz_model.c - libFuzzer over a whole GGUF file: opened as a model through the
 * public API, described, tokenized with, and run for a few tokens.
 *
 * Only the first 16 KiB mutate (where all structure is), and the size is kept,
 * so that most inputs pass the check that tensors lie inside the file.  Seeds:
 * the unpacked tests/data/tiny files.  Run by `make fuzz`. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bitlm.h"
#include "base/base.h"
#include "file/gguf.h"

#define HEAD ((size_t)16 << 10)

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    size_t head = size < HEAD ? size : HEAD;
    (void)seed;
    if (size <= HEAD)
        return LLVMFuzzerMutate(data, size, max_size);
    /* A shorter head would move the tensors: give the room back as it was. */
    LLVMFuzzerMutate(data, head, head);
    return size;
}

static void walk(const uint8_t *data, size_t size) {
    bl_alloc alloc = bl_alloc_from_host(NULL);
    bl_gguf *gguf = NULL;
    char shown[200];
    volatile uint8_t sum = 0;

    if (bl_gguf_open(data, size, &alloc, &gguf, NULL) != BITLM_OK)
        return;
    for (uint64_t i = 0; i < bl_gguf_n_keys(gguf); i++) {
        int32_t type;
        uint64_t count;
        const char *key = bl_gguf_key_at(gguf, i, &type);
        bl_gguf_show(gguf, i, shown, sizeof shown);
        bl_gguf_strings(gguf, key, &count);
        bl_gguf_floats(gguf, key, &count);
        bl_gguf_ints(gguf, key, &count);
    }
    for (uint64_t i = 0; i < bl_gguf_n_tensors(gguf); i++) {
        const bl_tensor *t = bl_gguf_tensor_at(gguf, i);
        if (t->bytes)
            sum = (uint8_t)(sum + t->data[0] + t->data[t->bytes - 1]);
    }
    bl_gguf_free(gguf);
}

static void use(bitlm_model *model, bitlm_options *options) {
    static const char text[] = "Once upon a time \xe2\x82\xac";
    bitlm_model_info info = {.size = sizeof info};
    bitlm_text prompt = {text, sizeof text - 1};
    bitlm_session *session = NULL;
    int32_t ids[64];
    size_t n;

    bitlm_model_describe(model, &info, NULL);
    bitlm_tokenize(model, text, sizeof text - 1, BITLM_TOKENS_FRAME, NULL, ids, 64, &n, NULL);
    if (bitlm_session_open(model, options, NULL, &session, NULL) != BITLM_OK)
        return;
    if (info.can_embed && info.embedding_bits > 0 && info.embedding_bits <= 4096) {
        uint8_t *code = calloc(1, (size_t)info.embedding_bits / 8 + 1);
        bitlm_embed_batch(session, &prompt, 1, BITLM_EMBED_BITS, options, code,
                          (size_t)info.embedding_bits / 8, NULL, NULL);
        free(code);
    }
    if (bitlm_generate_start(session, &prompt, 1, 0, options, NULL) == BITLM_OK) {
        bitlm_piece piece = {.size = sizeof piece};
        while (bitlm_generate_next(session, &piece, NULL) == BITLM_OK)
            ;
    }
    bitlm_session_free(session);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bitlm_options options;
    bitlm_model *model = NULL;
    char path[64];
    int fd;

    walk(data, size);
    fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    bitlm_options_init(&options);
    options.max_tokens = 2;
    options.n_ctx = 64;
    options.timeout_ms = 1000; /* a model may honestly be large */
    if (bitlm_model_open(path, strlen(path), 0, &options, NULL, &model, NULL) == BITLM_OK) {
        use(model, &options);
        bitlm_model_free(model);
    }
    close(fd);
    return 0;
}
