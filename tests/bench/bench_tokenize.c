/* bench_tokenize.c - how fast a model's tokenizer is, in MB/s of one thread.
 *
 *     bench_tokenize MODEL FILE [TRIES]     (MODEL: story, embed or a GGUF file; 5 tries)
 *
 * The text as a whole, its lines one by one (as a column of a table has them), the ids back to text, and a
 * megabyte of each of some hostile texts.  Each figure is the best of TRIES in processor time, which other programs
 * disturb least.  tests/oracle/compare_tokenizers.py --lines FILE prints PyPI's `tokenizers` beside ours. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bitlm.h"

#define MOST_BYTES ((size_t)64 << 20)
#define HOSTILE_BYTES ((size_t)1 << 20)

static void must(bitlm_status status, const bitlm_error *why) {
    if (status == BITLM_OK)
        return;
    fprintf(stderr, "bench_tokenize: %s\n", why->text);
    exit(1);
}

static void *room(size_t bytes) {
    void *p = malloc(bytes + 1);
    if (p)
        return p;
    fprintf(stderr, "bench_tokenize: no memory for %zu bytes\n", bytes);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct bench {
    bitlm_model *model;
    int tries;
    int32_t *ids;
    size_t capacity, n_ids; /* n_ids: of the text measured last */
} bench;

static size_t encode(bench *b, const char *text, size_t length, size_t at) {
    bitlm_error why = {.size = sizeof why};
    size_t n = 0;
    must(bitlm_tokenize(b->model, text, length, 0, NULL, b->ids + at, b->capacity - at, &n, &why), &why);
    return n;
}

/* Best seconds for a text, in one call or a call for each line. */
static double seconds(bench *b, const char *text, size_t length, int by_line) {
    double best = 0;
    for (int i = 0; i < b->tries; i++) {
        double begin = now(), took;
        b->n_ids = 0;
        for (const char *p = text, *end = text + length; p < end;) {
            const char *line = by_line ? memchr(p, '\n', (size_t)(end - p)) : NULL;
            const char *stop = line ? line : end;
            b->n_ids += encode(b, p, (size_t)(stop - p), b->n_ids);
            p = stop + (line != NULL);
        }
        took = now() - begin;
        if (!i || took < best)
            best = took;
    }
    return best;
}

static void back(bench *b) {
    bitlm_error why = {.size = sizeof why};
    size_t length = 0, bytes;
    double best = 0;
    /* Asks for the length first: with no room the status is LIMIT, unless the text is empty. */
    (void)bitlm_detokenize(b->model, b->ids, b->n_ids, 0, NULL, 0, &bytes, &why);
    char *text = room(bytes);
    for (int i = 0; i < b->tries; i++) {
        double begin = now(), took;
        must(bitlm_detokenize(b->model, b->ids, b->n_ids, 0, text, bytes, &length, &why), &why);
        took = now() - begin;
        if (!i || took < best)
            best = took;
    }
    printf("%-22s %7.1f MB/s  %zu ids in %.1f ms\n", "ids back to text", (double)length / 1e6 / best, b->n_ids,
           best * 1e3);
    free(text);
}

/* A megabyte and a quarter of it: four times the time is linear. */
static void hostile(bench *b) {
    static const struct {
        const char *name, *unit;
    } kinds[] = {
        {"one letter", "a"},          {"spaces", " "},  {"newlines", "\n"},   {"digits", "7"},
        {"combining marks", "\xCC\x81"}, {"quotes", "'"}, {"two letters", "ab"}, {"ideographs", "\xE4\xB8\xAD"},
    };
    char *text = room(HOSTILE_BYTES);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        size_t unit = strlen(kinds[k].unit), n = HOSTILE_BYTES / unit;
        for (size_t i = 0; i < n; i++)
            memcpy(text + i * unit, kinds[k].unit, unit);
        double quarter = seconds(b, text, n / 4 * unit, 0), whole = seconds(b, text, n * unit, 0);
        printf("1 MB of %-14s %7.1f MB/s  %.1f times a quarter's time\n", kinds[k].name,
               (double)(n * unit) / 1e6 / whole, whole / quarter);
    }
    free(text);
}

int main(int argc, char **argv) {
    bitlm_error why = {.size = sizeof why};
    bench b = {.tries = argc > 3 ? atoi(argv[3]) : 5};
    if (argc < 3 || argc > 4 || b.tries < 1) {
        fprintf(stderr, "usage: bench_tokenize MODEL FILE [TRIES]\n");
        return 2;
    }
    FILE *f = fopen(argv[2], "rb");
    if (!f) {
        perror(argv[2]);
        return 1;
    }
    char *text = room(MOST_BYTES);
    size_t length = fread(text, 1, MOST_BYTES, f);
    fclose(f);
    if (!length) {
        fprintf(stderr, "bench_tokenize: %s is empty\n", argv[2]);
        return 1;
    }
    must(bitlm_model_open(argv[1], strlen(argv[1]), 0, NULL, NULL, &b.model, &why), &why);
    /* A text has at most a token for each byte, or a few more for its beginning and for U+FFFD. */
    b.capacity = 3 * (length > HOSTILE_BYTES ? length : HOSTILE_BYTES) + 16;
    b.ids = room(b.capacity * sizeof *b.ids);
    double by_line = seconds(&b, text, length, 1);
    printf("%-22s %7.1f MB/s\n", "lines one by one", (double)length / 1e6 / by_line);
    double whole = seconds(&b, text, length, 0);
    printf("%-22s %7.1f MB/s  %zu bytes, %zu ids\n", "the text as a whole", (double)length / 1e6 / whole, length,
           b.n_ids);
    back(&b);
    hostile(&b);
    bitlm_model_free(b.model);
    free(b.ids);
    free(text);
    return 0;
}
