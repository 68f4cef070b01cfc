/* bench_recall.c - how much of the exact float ranking a search by codes keeps, on texts of your own.
 *
 *     bench_recall FILE [TEXTS] [QUERIES]    one text a line; default 10,000 texts and 300 queries
 *
 * Embeds the lines with the built-in model; the last QUERIES are the queries, the others what is searched.  The truth is
 * the 10 greatest products of the float vectors.  Prints recall@10 of each way to search, and its milliseconds a query. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bitlm.h"

#define K 10
#define MOST_CANDIDATES 400

static bitlm_error error = {.size = sizeof error};

static void check(bitlm_status status) {
    if (status != BITLM_OK) {
        fprintf(stderr, "bench_recall: %s\n", error.text);
        exit(1);
    }
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void *room(size_t bytes) {
    void *p = malloc(bytes);
    if (!p) {
        fprintf(stderr, "bench_recall: out of memory\n");
        exit(1);
    }
    return p;
}

static int is_in(const int64_t *rows, int64_t row) {
    for (int i = 0; i < K; i++)
        if (rows[i] == row)
            return 1;
    return 0;
}

int main(int argc, char **argv) {
    size_t most = argc > 2 ? (size_t)atol(argv[2]) : 10000, n_queries = argc > 3 ? (size_t)atol(argv[3]) : 300, count = 0;
    FILE *file = argc > 1 ? fopen(argv[1], "r") : NULL;
    char *line = NULL;
    size_t capacity = 0, dim, bytes;
    ssize_t length;
    if (!file) {
        fprintf(stderr, "usage: bench_recall FILE [TEXTS] [QUERIES]\n");
        return 2;
    }
    bitlm_model *model;
    bitlm_session *session;
    bitlm_model_info info = {.size = sizeof info};
    bitlm_options options;
    bitlm_options_init(&options);
    options.truncate = BITLM_TRUNCATE_END;
    check(bitlm_model_open("embed", 5, BITLM_OPEN_NAME_ONLY, NULL, NULL, &model, &error));
    check(bitlm_model_describe(model, &info, &error));
    check(bitlm_session_open(model, &options, NULL, &session, &error));
    dim = (size_t)info.embedding_bits;
    bytes = dim / 8;
    most += n_queries;
    bitlm_text *texts = room(most * sizeof *texts);
    while (count < most && (length = getline(&line, &capacity, file)) > 0) {
        while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r'))
            line[--length] = 0;
        if (length > 0)
            texts[count++] = (bitlm_text){strdup(line), (size_t)length};
    }
    fclose(file);
    if (count < n_queries + MOST_CANDIDATES || n_queries < 1) {
        fprintf(stderr, "bench_recall: %zu lines are too few for %zu queries\n", count, n_queries);
        return 2;
    }
    size_t n = count - n_queries;
    float *f = room(count * dim * sizeof *f);
    for (size_t i = 0; i < count; i += 256) {
        size_t batch = count - i < 256 ? count - i : 256;
        check(bitlm_embed_batch(session, texts + i, batch, BITLM_EMBED_F32, &options, f + i * dim, dim * 4, NULL, &error));
    }
    uint8_t *codes = room(count * bytes), *planes = room(4 * bytes);
    int8_t *small = room(count * dim);
    float largest = 0.0f;
    for (size_t i = 0; i < count * dim; i++)
        largest = fmaxf(largest, fabsf(f[i]));
    for (size_t i = 0; i < count * dim; i++)
        small[i] = (int8_t)rintf(f[i] * 127.0f / largest);
    for (size_t i = 0; i < count; i++)
        bitlm_binarize(f + i * dim, dim, 0.0f, codes + i * bytes);

    enum { WAYS = 12 };
    static const struct {
        const char *name;
        int planes, candidates, rescore;
    } ways[WAYS] = {
        {"codes", 0, K, -1},
        {"4-bit query", 1, K, -1},
        {"codes, 50 rescored by the float query and bits", 0, 50, BITLM_VECTOR_BITS},
        {"codes, 200 rescored by the float query and bits", 0, 200, BITLM_VECTOR_BITS},
        {"codes, 50 rescored by int8 vectors", 0, 50, BITLM_VECTOR_INT8},
        {"codes, 200 rescored by int8 vectors", 0, 200, BITLM_VECTOR_INT8},
        {"codes, 50 rescored by float vectors", 0, 50, BITLM_VECTOR_F32},
        {"codes, 200 rescored by float vectors", 0, 200, BITLM_VECTOR_F32},
        {"codes, 400 rescored by float vectors", 0, 400, BITLM_VECTOR_F32},
        {"4-bit query, 50 rescored by float vectors", 1, 50, BITLM_VECTOR_F32},
        {"4-bit query, 200 rescored by int8 vectors", 1, 200, BITLM_VECTOR_INT8},
        {"4-bit query, 200 rescored by float vectors", 1, 200, BITLM_VECTOR_F32},
    };
    double hits[WAYS] = {0}, times[WAYS] = {0}, exact_time = 0.0, began;
    int64_t *all = room(n * sizeof *all), rows[MOST_CANDIDATES];
    float *scores = room(n * sizeof *scores);
    double distances[MOST_CANDIDATES];
    size_t found;
    for (size_t q = n; q < count; q++) {
        const float *query = f + q * dim;
        began = now_ms();
        for (size_t i = 0; i < n; i++)
            all[i] = (int64_t)i;
        check(bitlm_rescore(BITLM_VECTOR_F32, f, n, dim, query, NULL, all, scores, n, &error));
        exact_time += now_ms() - began;
        for (int w = 0; w < WAYS; w++) {
            began = now_ms();
            if (ways[w].planes)
                bitlm_query_planes(query, dim, planes);
            check(bitlm_codes_search(codes, n, bytes, ways[w].planes ? planes : codes + q * bytes, 1, NULL,
                                     (size_t)ways[w].candidates,
                                     ways[w].planes ? BITLM_METRIC_ASYMMETRIC : BITLM_METRIC_HAMMING, 1, NULL, rows,
                                     distances, &found, &error));
            if (ways[w].rescore >= 0)
                check(bitlm_rescore(ways[w].rescore,
                                    ways[w].rescore == BITLM_VECTOR_BITS   ? (const void *)codes
                                    : ways[w].rescore == BITLM_VECTOR_INT8 ? (const void *)small
                                                                           : (const void *)f,
                                    n, dim, query, NULL, rows, scores, found, &error));
            times[w] += now_ms() - began;
            for (int i = 0; i < K; i++)
                hits[w] += is_in(all, rows[i]);
        }
    }
    printf("%zu texts, %zu queries, %zu bits; recall@10 against the float ranking, ms a query\n", n, n_queries, dim);
    printf("  %-50s %6.3f %8.3f\n", "float vectors, all", 1.0, exact_time / (double)n_queries);
    for (int w = 0; w < WAYS; w++)
        printf("  %-50s %6.3f %8.3f\n", ways[w].name, hits[w] / (double)(K * n_queries), times[w] / (double)n_queries);
    for (size_t i = 0; i < count; i++)
        free((void *)(uintptr_t)texts[i].data);
    free(texts);
    free(line);
    free(f);
    free(codes);
    free(planes);
    free(small);
    free(all);
    free(scores);
    bitlm_session_free(session);
    bitlm_model_free(model);
    return 0;
}
