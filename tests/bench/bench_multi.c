/* bench_multi.c - tables of pieces (core/search/multi_index.c) beside the flat scan, one thread, 384 bits.
 *
 *     bench_multi [CODES [BYTES FILE]]    default 1,000,000; FILE: packed codes of BYTES each instead of made ones
 *
 * Sets: uniform codes; clusters of 100 whose codes differ from their center's in each bit with probability 1/16
 * or 1/64; with FILE those of the file, as often as it takes with a bit in 64 flipped where there are fewer than CODES.
 * Queries are codes of the set with two bits flipped.  Prints for k = 10, k = 1 and three radii the median
 * milliseconds of both, how far the last code found lies, and how often the tables gave up (the flat scan is then to be
 * added; its time is in the figure).  Every answer is compared with the flat scan's.  Run by hand. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bitlm.h"
#include "search/multi_index.h"
#include "search/search.h"

#define ROUNDS 21

static uint64_t state = 1;
static uint64_t next_random(void) { /* splitmix64 */
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void *need(void *memory) {
    if (!memory) {
        fprintf(stderr, "bench_multi: no memory\n");
        exit(1);
    }
    return memory;
}

/* flips: log2 of one over the probability; 0: uniform. */
static uint8_t *make(size_t n, size_t words, int flips) {
    size_t centers = flips ? n / 100 + 1 : 1;
    uint64_t *codes = need(malloc(n * words * 8)), *center = need(malloc(centers * words * 8));
    for (size_t i = 0; i < centers * words; i++)
        center[i] = next_random();
    for (size_t i = 0; i < n; i++) {
        size_t c = next_random() % centers;
        for (size_t w = 0; w < words; w++) {
            uint64_t noise = next_random();
            for (int f = 1; f < flips; f++)
                noise &= next_random();
            codes[i * words + w] = flips ? center[c * words + w] ^ noise : noise;
        }
    }
    free(center);
    return (uint8_t *)codes;
}

static uint8_t *read_codes(const char *path, size_t n, size_t bytes) {
    FILE *file = fopen(path, "rb");
    uint8_t *codes = need(malloc(n * bytes));
    size_t have = file ? fread(codes, bytes, n, file) : 0;
    if (have == 0) {
        fprintf(stderr, "bench_multi: no codes in %s\n", path);
        exit(1);
    }
    fclose(file);
    printf("%zu codes of the file\n", have);
    for (size_t i = have; i < n; i++) {
        for (size_t j = 0; j < bytes; j++) {
            uint64_t noise = next_random();
            codes[i * bytes + j] = codes[i % have * bytes + j] ^ (uint8_t)(noise & noise >> 8 & noise >> 16 & noise >> 24 & noise >> 32 & noise >> 40);
        }
    }
    return codes;
}

static uint32_t take(void *context, uint32_t place, uint32_t distance) {
    bl_nearest *nearest = context;
    bl_nearest_offer(nearest, distance, place);
    if (nearest->n == nearest->k && nearest->hits[0].distance < nearest->most)
        return (uint32_t)nearest->hits[0].distance + 1;
    return (uint32_t)nearest->most + 1;
}

static void check(bitlm_status status, const bitlm_error *e) {
    if (status != BITLM_OK) {
        fprintf(stderr, "bench_multi: %s\n", e->text);
        exit(1);
    }
}

static void one(const char *name, const bl_multi *multi, const uint8_t *codes, size_t n, size_t bytes, size_t k, uint32_t most) {
    double flat[ROUNDS], pieces[ROUNDS], last[ROUNDS], *distances = need(malloc(n * sizeof *distances));
    int64_t *rows = need(malloc(n * sizeof *rows));
    bl_hit *hits = need(malloc(n * sizeof *hits));
    uint8_t query[2048];
    int gave_up = 0;
    bitlm_error e = {.size = sizeof e};
    for (int r = 0; r < ROUNDS; r++) {
        bl_nearest nearest;
        bl_multi_sink sink = {take, NULL, &nearest};
        size_t found = 0;
        memcpy(query, codes + next_random() % n * bytes, bytes);
        query[next_random() % bytes] ^= 1;
        query[next_random() % bytes] ^= 8;
        double began = now_ms();
        if (k)
            check(bitlm_codes_search(codes, n, bytes, query, 1, NULL, k, BITLM_METRIC_HAMMING, 1, NULL, rows, distances, &found, &e), &e);
        else
            check(bitlm_codes_within(codes, n, bytes, query, NULL, most, BITLM_METRIC_HAMMING, 1, NULL, rows, distances, BL_MIN(n, 4096), &found, &e), &e); /* room is zeroed, so not for n */
        flat[r] = now_ms() - began;
        last[r] = found ? distances[found - 1] : 0.0;
        began = now_ms();
        bl_nearest_init(&nearest, hits, k ? k : n, most);
        if (bl_multi_search(multi, query, most + 1, n, k != 0, &sink) == BL_MULTI_DONE) {
            bl_nearest_sort(&nearest);
            pieces[r] = now_ms() - began;
            if (nearest.n != found)
                check(BITLM_INTERNAL, &e);
            for (size_t i = 0; i < found; i++) {
                if (hits[i].distance != distances[i] || hits[i].row != (uint64_t)rows[i]) {
                    fprintf(stderr, "bench_multi: another answer\n");
                    exit(1);
                }
            }
        } else {
            gave_up++;
            pieces[r] = now_ms() - began + flat[r];
        }
    }
    qsort(flat, ROUNDS, sizeof *flat, ascending);
    qsort(pieces, ROUNDS, sizeof *pieces, ascending);
    qsort(last, ROUNDS, sizeof *last, ascending);
    printf("%-10s %6u  %4zu  %4.0f  %8.3f (%.3f-%.3f)  %8.3f (%.3f-%.3f)  %7.2f  %5.2f  %d of %d\n", name, bl_multi_pieces(multi), k,
           k ? last[ROUNDS / 2] : (double)most, flat[ROUNDS / 2], flat[2], flat[ROUNDS - 3], pieces[ROUNDS / 2], pieces[2], pieces[ROUNDS - 3],
           flat[ROUNDS / 2] / pieces[ROUNDS / 2], bl_multi_cost(n, bytes, UINT32_MAX, k ? (uint32_t)last[ROUNDS / 2] : most), gave_up, ROUNDS);
    free(distances);
    free(rows);
    free(hits);
}

static void run(const char *name, uint8_t *codes, size_t n, size_t bytes) {
    bl_alloc alloc = bl_alloc_from_host(NULL);
    size_t n_segments = (n + 65535) / 65536;
    bl_segment *segments = need(calloc(n_segments, sizeof *segments));
    bl_multi *multi = NULL;
    bitlm_error e = {.size = sizeof e};
    for (size_t i = 0; i < n_segments; i++)
        segments[i] = (bl_segment){codes + i * 65536 * bytes, (uint32_t)(i + 1 < n_segments ? 65536 : n - i * 65536)};
    check(bl_multi_new(segments, n_segments, bytes, &alloc, &multi, &e), &e);
    for (uint32_t stop = bl_multi_most_pieces(multi) / 3; ; stop = bl_multi_most_pieces(multi)) {
        double began = now_ms();
        uint32_t before = bl_multi_pieces(multi);
        while (bl_multi_pieces(multi) < stop)
            check(bl_multi_grow(multi, NULL, &e), &e);
        printf("%s, %zu codes: %.1f ms for a piece of %.1f MB\n", name, n, (now_ms() - began) / (stop - before), (double)bl_multi_piece_bytes(multi) / 1e6);
        one(name, multi, codes, n, bytes, 10, (uint32_t)bytes * 8);
        one(name, multi, codes, n, bytes, 1, (uint32_t)bytes * 8);
        one(name, multi, codes, n, bytes, 0, 5);
        one(name, multi, codes, n, bytes, 0, 20);
        one(name, multi, codes, n, bytes, 0, 40);
        one(name, multi, codes, n, bytes, 0, 60);
        if (stop == bl_multi_most_pieces(multi))
            break;
    }
    bl_multi_free(multi);
    free(segments);
    free(codes);
}

int main(int argc, char **argv) {
    size_t n = argc > 1 ? (size_t)atoll(argv[1]) : 1000000, bytes = argc > 3 ? (size_t)atoll(argv[2]) : 48;
    printf("set        pieces     k  last      flat ms (spread)           tables ms (spread)       gain  foretold  gave up\n");
    if (argc > 3) {
        run("file", read_codes(argv[3], n, bytes), n, bytes);
        return 0;
    }
    run("uniform", make(n, 6, 0), n, bytes);
    run("clusters16", make(n, 6, 4), n, bytes);
    run("clusters64", make(n, 6, 6), n, bytes);
    return 0;
}
