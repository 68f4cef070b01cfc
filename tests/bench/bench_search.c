/* bench_search.c - search of codes in memory beside its limit: popcounts over the same codes, one thread,
 * nothing else.
 *
 *     bench_search [CODES]    default 1,000,000; clustered codes of 256, 384, 768 and 1024 bits
 *
 * Prints the median milliseconds of the bare loop and of bitlm_codes_search (k = 10) with 1 and 2 threads,
 * and of 8 queries in a pass, for each query; and near-duplicate pairs beside comparing all.  Rounds alternate
 * between them, so that other load meets all alike.  Run by make bench. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bitlm.h"

#define ROUNDS 15
#if defined(__x86_64__)
#define WITH_POPCNT __attribute__((target("popcnt")))
#else
#define WITH_POPCNT
#endif

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

/* Eight sums, so that it is memory and popcnt that limit it. */
static WITH_POPCNT uint64_t bare(const uint64_t *words, size_t n) {
    uint64_t sum[8] = {0};
    for (size_t i = 0; i + 8 <= n; i += 8) {
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; j++)
            sum[j] += (uint64_t)__builtin_popcountll(words[i + j]);
    }
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *times) {
    qsort(times, ROUNDS, sizeof *times, ascending);
    return times[ROUNDS / 2];
}

/* One center for 100 codes; a bit of a code differs from its center's with probability 1/16. */
static uint64_t *clustered(size_t n, size_t words) {
    size_t centers = n / 100 + 1;
    uint64_t *codes = malloc(n * words * 8), *center = malloc(centers * words * 8);
    if (!codes || !center)
        exit(1);
    for (size_t i = 0; i < centers * words; i++)
        center[i] = next_random();
    for (size_t i = 0; i < n; i++) {
        const uint64_t *c = center + next_random() % centers * words;
        for (size_t w = 0; w < words; w++)
            codes[i * words + w] = c[w] ^ (next_random() & next_random() & next_random() & next_random());
    }
    free(center);
    return codes;
}

static void check(bitlm_status status, const bitlm_error *e) {
    if (status != BITLM_OK) {
        fprintf(stderr, "bench_search: %s\n", e->text);
        exit(1);
    }
}

static volatile uint64_t sink;

static void scans(size_t n, size_t bits) {
    static const char *const names[] = {"bare popcount", "1 query, 1 thread", "1 query, 2 threads", "8 queries, 1 thread",
                                        "8 queries, 2 threads", "4-bit query, 1 thread", "Jaccard, 1 thread"};
    enum { KINDS = 7, K = 10 };
    double times[KINDS][ROUNDS];
    size_t bytes = bits / 8, found;
    uint64_t *codes = clustered(n, bytes / 8);
    int64_t rows[8 * K];
    double distances[8 * K];
    uint8_t *queries = malloc(8 * bytes);
    bitlm_error e = {.size = sizeof e};
    if (!queries)
        exit(1);
    for (size_t round = 0; round < ROUNDS; round++) {
        for (size_t q = 0; q < 8; q++)
            memcpy(queries + q * bytes, (uint8_t *)codes + next_random() % n * bytes, bytes);
        for (int kind = 0; kind < KINDS; kind++) {
            double began = now_ms();
            if (kind == 0)
                sink += bare(codes, n * bytes / 8);
            else
                check(bitlm_codes_search(codes, n, bytes, queries, kind == 3 || kind == 4 ? 8 : 1, NULL, K,
                                         kind == 5   ? BITLM_METRIC_ASYMMETRIC
                                         : kind == 6 ? BITLM_METRIC_JACCARD
                                                     : BITLM_METRIC_HAMMING,
                                         kind == 2 || kind == 4 ? 2 : 1, NULL, rows, distances, &found, &e), &e);
            times[kind][round] = (now_ms() - began) / (kind == 3 || kind == 4 ? 8 : 1);
        }
    }
    double limit = median(times[0]);
    printf("\n%zu codes of %zu bits: ms a query, share of the limit\n", n, bits);
    for (int kind = 0; kind < KINDS; kind++) {
        double ms = median(times[kind]);
        printf("  %-24s %8.3f  %5.2f\n", names[kind], ms, limit / ms);
    }
    free(queries);
    free(codes);
}

/* The time of all comparisons is that of one row's against all, n / 2 times. */
static void pairs(size_t n, uint32_t distance) {
    size_t capacity = 20000000, found, one;
    uint64_t *codes = clustered(n, 6);
    int64_t *a = malloc(capacity * 8), *b = malloc(capacity * 8), row;
    uint32_t *d = malloc(capacity * 4);
    double each;
    bitlm_error e = {.size = sizeof e};
    if (!a || !b || !d)
        exit(1);
    double began = now_ms();
    check(bitlm_codes_pairs(codes, n, 48, distance, NULL, a, b, d, capacity, &found, &e), &e);
    double ms = now_ms() - began;
    began = now_ms();
    for (int i = 0; i < ROUNDS; i++)
        check(bitlm_codes_search(codes, n, 48, codes + i * 6, 1, NULL, 1, 0, 1, NULL, &row, &each, &one, &e), &e);
    double all = (now_ms() - began) / ROUNDS * (double)n / 2;
    printf("  %7zu codes, distance <= %-3u %9zu pairs in %9.1f ms; all comparisons %10.0f ms, %.0f times\n", n, distance,
           found, ms, all, all / ms);
    free(codes);
    free(a);
    free(b);
    free(d);
}

int main(int argc, char **argv) {
    size_t n = argc > 1 ? (size_t)atol(argv[1]) : 1000000;
    static const size_t lengths[] = {256, 384, 768, 1024};
    if (n < 1000)
        return 2;
    for (size_t i = 0; i < 4; i++)
        scans(n, lengths[i]);
    printf("\nnear-duplicate pairs, 384 bits\n");
    for (uint32_t distance = 4; distance <= 32; distance *= 2)
        pairs(n / 10, distance);
    pairs(n, 8);
    return 0;
}
