/* fuzz_gguf.c - any bytes as a GGUF file: opened, then everything in it is read.
 *
 * With libFuzzer: clang -fsanitize=fuzzer,address,undefined.  Without it the same program has
 * a main() that replays the files (or folders of files) it is given, so that a corpus is a test
 * on every machine.  test_gguf includes this file for its reader of everything. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file/gguf.h"
#include "quant/quant.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sink; /* what is read must be read */

static void touch(const void *memory, size_t size) {
    const uint8_t *p = memory;
    uint64_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += p[i];
    sink += sum;
}

static void touch_key(const bl_gguf *g, uint64_t i) {
    char shown[100];
    int32_t type, element;
    int64_t integer;
    double number;
    int truth;
    bitlm_text text;
    uint64_t count = 0;
    const char *key = bl_gguf_key_at(g, i, &type);
    if (bl_gguf_has(g, key) != 1)
        abort(); /* a key that is listed is found */
    bl_gguf_show(g, i, shown, sizeof shown);
    touch(shown, strlen(shown));
    bl_gguf_i64(g, key, &integer);
    bl_gguf_f64(g, key, &number);
    bl_gguf_bool(g, key, &truth);
    if (bl_gguf_string(g, key, &text) == 1)
        touch(text.data, text.length + 1);
    bl_gguf_array(g, key, &element, &count);
    const bitlm_text *texts = bl_gguf_strings(g, key, &count);
    for (uint64_t j = 0; texts != NULL && j < count; j++)
        touch(texts[j].data, texts[j].length + 1);
    const float *floats = bl_gguf_floats(g, key, &count);
    if (floats != NULL)
        touch(floats, (size_t)count * sizeof *floats);
    const int32_t *ints = bl_gguf_ints(g, key, &count);
    if (ints != NULL)
        touch(ints, (size_t)count * sizeof *ints);
}

static void touch_tensor(const bl_gguf *g, uint64_t i) {
    const bl_tensor *t = bl_gguf_tensor_at(g, i);
    if (bl_gguf_tensor(g, t->name) != t)
        abort();
    touch(t->data, (size_t)t->bytes);
    uint64_t rows = t->dims[1] * t->dims[2] * t->dims[3];
    if (t->dims[0] > 1 << 16)
        return;
    float *row = malloc((size_t)t->dims[0] * sizeof *row);
    if (row == NULL)
        return;
    bl_decode_row(t->type, t->data, rows, t->dims[0], 0, row);
    bl_decode_row(t->type, t->data, rows, t->dims[0], rows - 1, row);
    touch(row, (size_t)t->dims[0] * sizeof *row);
    free(row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bitlm_error error = {sizeof error, 0, 0, ""};
    bl_gguf *g = NULL;
    bitlm_status status = bl_gguf_open(data, size, NULL, &g, &error);
    if (status != BITLM_OK) {
        if (error.status != status || error.text[0] == '\0')
            abort(); /* every refusal has its sentence */
        return 0;
    }
    for (uint64_t i = 0; i < bl_gguf_n_keys(g); i++)
        touch_key(g, i);
    for (uint64_t i = 0; i < bl_gguf_n_tensors(g); i++)
        touch_tensor(g, i);
    bl_gguf_free(g);
    return 0;
}

#if defined(__has_feature)
#if __has_feature(coverage_sanitizer)
#define FUZZ_NO_MAIN /* libFuzzer has its own */
#endif
#endif

#ifndef FUZZ_NO_MAIN
#include <dirent.h>
#include <sys/stat.h>

static int replay(const char *path) {
    struct stat st;
    int failed = 0;
    if (stat(path, &st) != 0) {
        perror(path);
        return 1;
    }
    if (S_ISDIR(st.st_mode)) {
        char inside[4096];
        DIR *folder = opendir(path);
        if (folder == NULL)
            return 1;
        for (struct dirent *e = readdir(folder); e != NULL; e = readdir(folder)) {
            snprintf(inside, sizeof inside, "%s/%s", path, e->d_name);
            if (e->d_name[0] != '.')
                failed |= replay(inside);
        }
        closedir(folder);
        return failed;
    }
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc((size_t)st.st_size + 1);
    if (f == NULL || data == NULL || fread(data, 1, (size_t)st.st_size, f) != (size_t)st.st_size)
        failed = 1;
    else
        LLVMFuzzerTestOneInput(data, (size_t)st.st_size);
    if (f != NULL)
        fclose(f);
    free(data);
    return failed;
}

int main(int argc, char **argv) {
    int failed = 0;
    for (int i = 1; i < argc; i++)
        failed |= replay(argv[i]);
    printf("replayed %d arguments\n", argc - 1);
    return failed;
}
#endif
