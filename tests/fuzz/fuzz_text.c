/* fuzz_text.c - libFuzzer over text: tokenized, detokenized and chunked with both
 * built-in models, read as options and as chat messages.
 *
 * Aborts when ids do not come back as text, or when chunks leave a byte out.
 * Run by `make fuzz`. */
#include <stdlib.h>
#include <string.h>

#include "bitlm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bitlm_model *models[2];

static void tokens(const bitlm_model *model, const char *text, size_t length, uint32_t flags) {
    size_t n = 0, again = 0, bytes = 0;
    int32_t *ids;
    char *back;

    if (bitlm_tokenize(model, text, length, flags, NULL, NULL, 0, &n, NULL) != BITLM_LIMIT && n > 0)
        return;
    ids = malloc((n + 1) * sizeof *ids);
    if (bitlm_tokenize(model, text, length, flags, NULL, ids, n, &again, NULL) != BITLM_OK || again != n)
        abort();
    bitlm_detokenize(model, ids, n, flags & BITLM_TOKENS_SPECIAL, NULL, 0, &bytes, NULL);
    back = malloc(bytes + 1);
    if (bitlm_detokenize(model, ids, n, flags & BITLM_TOKENS_SPECIAL, back, bytes, &bytes, NULL) !=
        BITLM_OK)
        abort();
    free(back);
    free(ids);
}

static void chunks(const bitlm_model *model, const char *text, size_t length) {
    size_t n = 0, end = 0;
    bitlm_chunk *list;

    bitlm_chunks(model, text, length, 7, 2, NULL, NULL, 0, &n, NULL);
    list = malloc((n + 1) * sizeof *list);
    if (bitlm_chunks(model, text, length, 7, 2, NULL, list, n, &n, NULL) != BITLM_OK)
        abort();
    for (size_t i = 0; i < n; i++) {
        if (list[i].byte_start > end || list[i].n_tokens > 7)
            abort();
        if (list[i].byte_start + list[i].byte_length > end)
            end = list[i].byte_start + list[i].byte_length;
    }
    if (end != length)
        abort();
    free(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    bitlm_options options;

    if (!models[0] && (bitlm_model_open("story", 5, 0, NULL, NULL, &models[0], NULL) ||
                       bitlm_model_open("embed", 5, 0, NULL, NULL, &models[1], NULL)))
        abort();
    bitlm_options_init(&options);
    bitlm_options_json(&options, text, size, NULL);
    bitlm_options_clear(&options);
    for (int i = 0; i < 2; i++) {
        for (uint32_t flags = 0; flags < 4; flags++)
            tokens(models[i], text, size, flags);
        chunks(models[i], text, size);
    }
    return 0;
}
