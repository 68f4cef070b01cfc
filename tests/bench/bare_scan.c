/* bare_scan.c - the limit of a search: popcounts over packed codes and the ten nearest, one thread,
 * nothing else.
 *
 *     bare_scan CODES BYTES REPEATS [cpu]    prints the median milliseconds, of CPU time if asked
 *
 * Run by tests/bench/bench_index.py beside what it measures. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define K 10
#if defined(__x86_64__)
#define WITH_POPCNT __attribute__((target("popcnt")))
#else
#define WITH_POPCNT
#endif

static clockid_t clock_id = CLOCK_MONOTONIC;

static double now_ms(void)
{
    struct timespec t;

    clock_gettime(clock_id, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* words is a constant where it is inlined. */
static inline __attribute__((always_inline)) WITH_POPCNT uint64_t scan_words(const uint64_t *codes, size_t n, size_t words,
                                                                            const uint64_t *query)
{
    uint64_t best[K], sum = 0, bits;
    size_t i, w, j;

    for (j = 0; j < K; j++)
        best[j] = UINT64_MAX;
    for (i = 0; i < n; i++) {
        bits = 0;
#pragma GCC unroll 16
        for (w = 0; w < words; w++)
            bits += (uint64_t)__builtin_popcountll(codes[i * words + w] ^ query[w]);
        if (bits < best[K - 1]) {
            for (j = K - 1; j > 0 && best[j - 1] > bits; j--)
                best[j] = best[j - 1];
            best[j] = bits;
        }
    }
    for (j = 0; j < K; j++)
        sum += best[j];
    return sum;
}

static WITH_POPCNT uint64_t scan(const uint64_t *codes, size_t n, size_t words, const uint64_t *query)
{
    switch (words) {
    case 4: return scan_words(codes, n, 4, query);
    case 6: return scan_words(codes, n, 6, query);
    case 8: return scan_words(codes, n, 8, query);
    case 12: return scan_words(codes, n, 12, query);
    case 16: return scan_words(codes, n, 16, query);
    default: return scan_words(codes, n, words, query);
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    size_t n, words, repeats, i;
    uint64_t *codes, state = 1, sum = 0, query[256];
    double *times;

    if (argc < 4)
        return 2;
    if (argc > 4)
        clock_id = CLOCK_PROCESS_CPUTIME_ID;
    n = (size_t)atol(argv[1]);
    words = (size_t)atol(argv[2]) / 8;
    repeats = (size_t)atol(argv[3]);
    codes = malloc(n * words * 8);
    times = malloc(repeats * sizeof *times);
    if (!codes || !times || words < 1 || words > 256 || repeats < 1)
        return 1;
    for (i = 0; i < n * words; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        codes[i] = state;
    }
    for (i = 0; i < repeats; i++) {
        memcpy(query, codes + i % n * words, words * 8);
        times[i] = now_ms();
        sum += scan(codes, n, words, query);
        times[i] = now_ms() - times[i];
    }
    qsort(times, repeats, sizeof *times, compare);
    printf("%.4f %llu\n", times[repeats / 2], (unsigned long long)sum);
    return 0;
}
