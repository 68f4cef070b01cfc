/* fuzz_safetensors.c - any bytes as a safetensors file: opened, then every byte of every tensor is read.
 *
 * With libFuzzer: clang -fsanitize=fuzzer,address,undefined.  Without it, main() replays the files it is given.
 * tests/core/test_safetensors.c includes this file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t seen; /* what is read must be read */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bitlm_error error = {sizeof error, 0, 0, ""};
    bl_safetensors *st = NULL;
    bl_alloc alloc = bl_alloc_from_host(NULL);
    uint64_t covered = 0, sum = 0;
    bitlm_status status = bl_safetensors_open(data, size, &alloc, &st, &error);
    if (status != BITLM_OK) {
        if (error.status != status || error.text[0] == '\0')
            abort(); /* every refusal has its sentence */
        return 0;
    }
    for (uint64_t i = 0; i < bl_safetensors_count(st); i++) {
        const bl_st_tensor *t = bl_safetensors_at(st, i);
        if (bl_safetensors_find(st, t->name) != t || t->data < data || t->bytes > size ||
            (size_t)(t->data - data) > size - t->bytes)
            abort();
        for (uint64_t j = 0; j < t->bytes; j++)
            sum += t->data[j];
        covered += t->bytes;
    }
    if (covered > size)
        abort(); /* tensors never overlap */
    seen += sum;
    bl_safetensors_free(st);
    return 0;
}

#if defined(__has_feature)
#if __has_feature(coverage_sanitizer)
#define FUZZ_NO_MAIN /* libFuzzer has its own */
#endif
#endif

#ifndef FUZZ_NO_MAIN
int main(int argc, char **argv) {
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        FILE *f = fopen(argv[i], "rb");
        static uint8_t buffer[1 << 24];
        if (f == NULL) {
            perror(argv[i]);
            failed = 1;
            continue;
        }
        LLVMFuzzerTestOneInput(buffer, fread(buffer, 1, sizeof buffer, f));
        fclose(f);
    }
    printf("replayed %d files\n", argc - 1);
    return failed;
}
#endif
