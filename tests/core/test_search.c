/* test_search.c - search among codes against a naive ranking: sizes, ties, filters, threads, cancelling at each
 * poll, each allocation failing, and arguments that are refused. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test_support.h"

#define SEED 20261124u
static uint64_t state = SEED;

static uint32_t random_u32(void) { /* splitmix64 */
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ (z >> 31)) >> 16);
}

/* Codes in `clusters` clusters, so that there are ties and near pairs; 0: independent bits. */
static uint8_t *make_codes(size_t n, size_t bytes, size_t clusters) {
    uint8_t *codes = malloc(n * bytes + 1);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < bytes; j++)
            codes[i * bytes + j] = clusters && i >= clusters ? codes[i % clusters * bytes + j]
                                                             : (uint8_t)random_u32();
        for (unsigned flips = clusters ? random_u32() % 4 : 0; flips > 0; flips--)
            codes[i * bytes + random_u32() % bytes] ^= (uint8_t)(1u << random_u32() % 8);
    }
    return codes;
}

typedef struct hit {
    double distance;
    int64_t row;
} hit;

static int by_distance(const void *a, const void *b) {
    const hit *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static double naive_distance(const uint8_t *query, const uint8_t *code, size_t bytes, int32_t metric) {
    double sum = 0.0;
    int both = 0, either = 0;
    for (size_t i = 0; i < bytes; i++) {
        both += __builtin_popcount(code[i] & query[i]);
        either += __builtin_popcount(code[i] | query[i]);
        for (int p = 0; p < (metric == BITLM_METRIC_ASYMMETRIC ? 4 : 1); p++)
            sum += (double)(__builtin_popcount(query[(size_t)p * bytes + i] ^ code[i]) << p);
    }
    return metric != BITLM_METRIC_JACCARD ? sum : either ? (double)(either - both) / either : 0.0;
}

static int passes(const uint8_t *filter, size_t i) { return !filter || (filter[i / 8] >> (i % 8) & 1); }

static size_t naive(const uint8_t *codes, size_t n, size_t bytes, const uint8_t *query, const uint8_t *filter,
                    int32_t metric, hit *hits) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (passes(filter, i))
            hits[count++] = (hit){naive_distance(query, codes + i * bytes, bytes, metric), (int64_t)i};
    }
    qsort(hits, count, sizeof *hits, by_distance);
    return count;
}

static void compare(size_t n, size_t bytes, size_t clusters, size_t n_queries, size_t k, int kind, int32_t metric) {
    uint8_t *codes = make_codes(n, bytes, clusters);
    size_t query_bytes = metric == BITLM_METRIC_ASYMMETRIC ? 4 * bytes : bytes;
    uint8_t *queries = make_codes(n_queries, query_bytes, 0);
    size_t filter_bytes = (n + 7) / 8;
    uint8_t *filter = malloc(filter_bytes + !filter_bytes); /* no more: sanitizers then see a read past it */
    int64_t *rows = malloc((k * n_queries + 1) * 8);
    uint32_t *whole = malloc((k * n_queries + 1) * 4);
    double *distances = malloc((k * n_queries + 1) * sizeof *distances);
    hit *wanted = malloc((n_queries * n + 1) * sizeof *wanted);
    size_t count = 0;
    bitlm_error e = {.size = sizeof e};
    if (clusters && n && metric != BITLM_METRIC_ASYMMETRIC)
        memcpy(queries, codes, bytes); /* a distance of 0, shared by many */
    for (size_t i = 0; i < filter_bytes; i++) /* kind 0: none, 1: one in 16, 2: half, 3: all; 4: no filter */
        filter[i] = kind == 0 ? 0 : kind == 1 ? (uint8_t)(i % 2) : kind == 2 ? (uint8_t)random_u32() : 0xff;
    uint8_t *use = kind == 4 ? NULL : filter;
    for (size_t q = 0; q < n_queries; q++)
        count = naive(codes, n, bytes, queries + q * query_bytes, use, metric, wanted + q * n);
    for (int32_t threads = 1; threads <= 3; threads++) {
        size_t found = 99;
        bitlm_status status = bitlm_codes_search(codes, n, bytes, queries, n_queries, use, k, metric, threads, NULL,
                                               rows, distances, &found, &e);
        ck_assert_msg(status == BITLM_OK, "%s", e.text);
        for (size_t q = 0; q < n_queries; q++) {
            const hit *want = wanted + q * n;
            ck_assert_uint_eq(found, k < count ? k : count);
            for (size_t i = 0; i < found; i++) {
                ck_assert_msg(rows[q * k + i] == want[i].row, "n %zu bytes %zu k %zu filter %d metric %d: hit %zu", n,
                              bytes, k, kind, metric, i);
                ck_assert_double_eq_tol(distances[q * k + i], want[i].distance, 1e-12);
            }
            if (q == 0 && count > 0) { /* all within the distance of the middle one */
                double radius = want[count / 2].distance;
                size_t within = 0, got = 0;
                int64_t *r = malloc((count + 1) * 8);
                double *d = malloc((count + 1) * sizeof *d);
                while (within < count && want[within].distance <= radius)
                    within++;
                if (metric == BITLM_METRIC_JACCARD)
                    radius += 1e-12;
                status = bitlm_codes_within(codes, n, bytes, queries, use, radius, metric, threads, NULL, r, d,
                                            within, &got, &e);
                ck_assert_msg(status == BITLM_OK, "%s", e.text);
                ck_assert_uint_eq(got, within);
                for (size_t i = 0; i < within; i++)
                    ck_assert_int_eq(r[i], want[i].row);
                ck_assert_int_eq(bitlm_codes_within(codes, n, bytes, queries, use, radius, metric, threads, NULL, r,
                                                    d, within - 1, &got, &e),
                                 BITLM_LIMIT);
                free(r);
                free(d);
            }
        }
    }
    /* bitlm_codes_topk is the Hamming search of one thread, with what is missing marked. */
    if (metric == BITLM_METRIC_HAMMING) {
        ck_assert_msg(bitlm_codes_topk(codes, n, bytes, queries, n_queries, use, k, NULL, rows, whole, &e) == BITLM_OK,
                      "%s", e.text);
        for (size_t i = 0; i < n_queries * k; i++) {
            const hit *want = wanted + i / k * n + i % k;
            ck_assert_int_eq(rows[i], i % k < count ? want->row : -1);
            ck_assert_uint_eq(whole[i], i % k < count ? (uint32_t)want->distance : UINT32_MAX);
        }
    }
    free(wanted);
    free(whole);
    free(distances);
    free(rows);
    free(filter);
    free(queries);
    free(codes);
}

START_TEST(test_naive) {
    static const size_t lengths[] = {1, 3, 8, 16, 24, 31, 48, 64, 96, 128, 200, 2048};
    static const size_t counts[] = {0, 1, 63, 64, 65, 1000, 1024, 2500};
    size_t number = (size_t)_i;
    size_t bytes = lengths[number % 12], n = counts[number / 12];
    if (bytes > 200 && n > 1000)
        n = 300;
    for (int32_t metric = 0; metric < 3; metric++) {
        for (int kind = 0; kind < 5; kind++)
            compare(n, bytes, number % 2 ? 5 : 0, 1 + (number + (size_t)kind) % 3,
                    (size_t[]){0, 1, 10, 100, 5000}[(number + (size_t)kind) % 5], kind, metric);
    }
}
END_TEST

/* Several tiles and groups of queries. */
START_TEST(test_many) {
    compare(9000, 48, 40, 2, 20, 4, BITLM_METRIC_HAMMING);
    compare(9000, 48, 40, 2, 20, 1, BITLM_METRIC_HAMMING);
    compare(500, 16, 7, 300, 3, 4, BITLM_METRIC_HAMMING);
}
END_TEST

START_TEST(test_pairs) {
    static const struct {
        size_t n, bytes, clusters;
        uint32_t distance;
    } cases[] = {{0, 8, 0, 3}, {1, 8, 0, 3}, {2, 8, 1, 8}, {300, 1, 0, 2}, {700, 48, 40, 6}, {700, 48, 40, 0},
                 {1500, 48, 300, 12}, {900, 13, 100, 4}, {600, 48, 3, 400}, {2600, 32, 900, 3}, {400, 200, 90, 9}};
    size_t n = cases[_i].n, bytes = cases[_i].bytes, got, count = 0;
    uint8_t *codes = make_codes(n, bytes, cases[_i].clusters);
    size_t room = n * n / 2 + 1;
    int64_t *a = malloc(room * 8), *b = malloc(room * 8);
    uint32_t *d = malloc(room * 4);
    bitlm_error e = {.size = sizeof e};
    ck_assert_msg(bitlm_codes_pairs(codes, n, bytes, cases[_i].distance, NULL, a, b, d, room, &got, &e) == BITLM_OK,
                  "%s", e.text);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i + 1; j < n; j++) {
            double distance = naive_distance(codes + i * bytes, codes + j * bytes, bytes, BITLM_METRIC_HAMMING);
            if (distance > cases[_i].distance)
                continue;
            ck_assert_uint_lt(count, got);
            ck_assert_msg(a[count] == (int64_t)i && b[count] == (int64_t)j && (double)d[count] == distance, "pair %zu", count);
            count++;
        }
    }
    ck_assert_uint_eq(count, got);
    if (count > 0)
        ck_assert_int_eq(bitlm_codes_pairs(codes, n, bytes, cases[_i].distance, NULL, a, b, d, count - 1, &got, &e),
                         BITLM_LIMIT);
    free(codes);
    free(a);
    free(b);
    free(d);
}
END_TEST

START_TEST(test_jaccard) {
    const uint8_t a[] = {0xf0, 0x01}, b[] = {0x30, 0x03}, none[2] = {0};
    ck_assert_double_eq(bitlm_jaccard(a, b, 2), 3.0 / 6.0);
    ck_assert_double_eq(bitlm_jaccard(none, none, 2), 1.0);
    ck_assert_double_eq(bitlm_jaccard(a, none, 2), 0.0);
    ck_assert_double_eq(bitlm_jaccard(a, b, 0), 1.0);
}
END_TEST

/* The planes are the query's values in 16 levels; the order by them is that of the products. */
START_TEST(test_planes) {
    enum { N = 128 };
    float values[N];
    uint8_t planes[4 * N / 8];
    double squares = 0.0;
    for (int i = 0; i < N; i++) {
        values[i] = (float)(int32_t)random_u32() / 2147483648.0f;
        squares += (double)values[i] * (double)values[i];
    }
    bitlm_query_planes(values, N, planes);
    double step = 0.335 * sqrt(squares / N);
    for (int i = 0; i < N; i++) {
        int u = 0;
        for (int p = 0; p < 4; p++)
            u |= (planes[p * N / 8 + i / 8] >> (7 - i % 8) & 1) << p;
        double back = (u - 7.5) * step, want = (double)values[i];
        if (fabs(want) < 7.9 * step)
            ck_assert_double_le(fabs(back - want), 0.5001 * step);
        else
            ck_assert_int_eq(u, want > 0 ? 15 : 0);
    }
    memset(values, 0, sizeof values);
    bitlm_query_planes(values, N, planes); /* of a zero query all values are the same */
    for (size_t i = 1; i < sizeof planes; i++)
        ck_assert_uint_eq(planes[i], planes[0]);
}
END_TEST

START_TEST(test_rescore) {
    enum { N = 50, DIM = 64 };
    float f[N * DIM], query[DIM], scores[N];
    int8_t bytes[N * DIM];
    uint8_t bits[N * DIM / 8];
    int64_t rows[N];
    bitlm_error e = {.size = sizeof e};
    for (int i = 0; i < N * DIM; i++) {
        bytes[i] = (int8_t)random_u32();
        f[i] = (float)(int32_t)random_u32();
    }
    for (int i = 0; i < DIM; i++)
        query[i] = (float)(int8_t)random_u32();
    for (size_t i = 0; i < sizeof bits; i++)
        bits[i] = (uint8_t)random_u32();
    const void *data[] = {bits, bytes, f};
    for (int32_t type = 0; type < 3; type++) {
        for (int i = 0; i < N; i++)
            rows[i] = N - 1 - i;
        ck_assert_msg(bitlm_rescore(type, data[type], N, DIM, query, NULL, rows, scores, N, &e) == BITLM_OK, "%s",
                      e.text);
        int seen[N] = {0};
        for (int i = 0; i < N; i++) {
            double sum = 0.0, size = 0.0;
            for (int j = 0; j < DIM; j++) {
                size_t at = (size_t)rows[i] * DIM + (size_t)j;
                double v = type == 2 ? (double)f[at] : type == 1 ? bytes[at] : bits[at / 8] >> (7 - at % 8) & 1 ? 1 : -1;
                sum += v * (double)query[j];
                size += fabs(v * (double)query[j]);
            }
            ck_assert_double_le(fabs(sum - (double)scores[i]), 1e-6 * size);
            ck_assert(i == 0 || scores[i - 1] > scores[i] || (scores[i - 1] == scores[i] && rows[i - 1] < rows[i]));
            ck_assert_int_eq(seen[rows[i]]++, 0);
        }
    }
    rows[3] = -1;
    ck_assert_int_eq(bitlm_rescore(1, bytes, N, DIM, query, NULL, rows, scores, N, &e), BITLM_ARG);
    rows[3] = N;
    ck_assert_int_eq(bitlm_rescore(1, bytes, N, DIM, query, NULL, rows, scores, N, &e), BITLM_ARG);
    ck_assert_int_eq(bitlm_rescore(3, bytes, N, DIM, query, NULL, rows, scores, N, &e), BITLM_ARG);
    ck_assert_int_eq(bitlm_rescore(0, bits, N, 12, query, NULL, rows, scores, 1, &e), BITLM_ARG);
    ck_assert_int_eq(bitlm_rescore(0, NULL, N, DIM, query, NULL, rows, scores, 1, &e), BITLM_ARG);
}
END_TEST

START_TEST(test_refused) {
    uint8_t codes[64] = {0};
    int64_t rows[64];
    uint32_t whole[64];
    double d[64];
    size_t found = 7;
    bitlm_error e = {.size = sizeof e};
#define TOPK(codes, n, bytes, queries, nq, k, metric, threads, found) \
    bitlm_codes_search(codes, n, bytes, queries, nq, NULL, k, metric, threads, NULL, rows, d, found, &e)
    ck_assert_int_eq(TOPK(codes, 8, 0, codes, 1, 1, 0, 1, &found), BITLM_ARG);
    ck_assert_int_eq(TOPK(codes, 8, 2049, codes, 1, 1, 0, 1, &found), BITLM_ARG);
    ck_assert_int_eq(TOPK(NULL, 8, 8, codes, 1, 1, 0, 1, &found), BITLM_ARG);
    ck_assert_int_eq(TOPK(codes, 8, 8, NULL, 1, 1, 0, 1, &found), BITLM_ARG);
    ck_assert_int_eq(TOPK(codes, 8, 8, codes, 1, 1, 3, 1, &found), BITLM_ARG);
    ck_assert_int_eq(TOPK(codes, 8, 8, codes, 1, 1, -1, 1, &found), BITLM_ARG);
    ck_assert_int_eq(TOPK(codes, 8, 8, codes, 1, 1, 0, 257, &found), BITLM_ARG);
    ck_assert_int_eq(TOPK(codes, 8, 8, codes, 1, 1, 0, -1, &found), BITLM_ARG);
    ck_assert_int_eq(TOPK(codes, 8, 8, codes, 1, 1, 0, 1, NULL), BITLM_ARG);
    ck_assert_int_eq(TOPK(codes, SIZE_MAX / 4, 8, codes, 1, 1, 0, 1, &found), BITLM_LIMIT);
    ck_assert_int_eq(TOPK(codes, 8, 8, codes, ((size_t)1 << 20) + 1, 1, 0, 1, &found), BITLM_LIMIT);
    ck_assert_uint_eq(found, 7);
    ck_assert_int_eq(TOPK(NULL, 0, 8, codes, 1, SIZE_MAX, 0, 0, &found), BITLM_OK);
    ck_assert_uint_eq(found, 0);
    ck_assert_int_eq(bitlm_codes_within(codes, 8, 8, codes, NULL, -1.0, 0, 1, NULL, rows, d, 8, &found, &e), BITLM_ARG);
    ck_assert_int_eq(bitlm_codes_within(codes, 8, 8, codes, NULL, (double)NAN, 0, 1, NULL, rows, d, 8, &found, &e),
                     BITLM_ARG);
    ck_assert_int_eq(bitlm_codes_within(codes, 8, 8, codes, NULL, (double)INFINITY, 0, 1, NULL, rows, d, 8, &found, &e),
                     BITLM_OK);
    ck_assert_uint_eq(found, 8);
    ck_assert_int_eq(bitlm_codes_pairs(codes, 8, 0, 1, NULL, rows, rows, whole, 8, &found, &e), BITLM_ARG);
    ck_assert_int_eq(bitlm_codes_pairs(NULL, 8, 8, 1, NULL, rows, rows, whole, 8, &found, &e), BITLM_ARG);
    ck_assert_int_eq(bitlm_codes_pairs(codes, (size_t)1 << 33, 8, 1, NULL, rows, rows, whole, 8, &found, &e),
                     BITLM_LIMIT);
}
END_TEST

/* ---- cancelling and failing memory --------------------------------------------------- */

typedef struct lent {
    int polls, cancel_at, allocations, fail_at, alive;
} lent;

static int32_t lent_poll(void *context) {
    lent *l = context;
    return l->polls++ == l->cancel_at;
}
static void *lent_alloc(void *context, size_t size) {
    lent *l = context;
    if (l->allocations++ == l->fail_at)
        return NULL;
    l->alive++;
    return malloc(size ? size : 1);
}
static void lent_release(void *context, void *memory) {
    ((lent *)context)->alive--;
    free(memory);
}

typedef struct job {
    uint8_t *codes;
    size_t n;
    float query[384];
    int64_t *a, *b;
    uint32_t *w;
    double *d;
    float *scores;
} job;

static bitlm_status do_job(const job *j, int kind, const bitlm_host *host, bitlm_error *e) {
    size_t found = 12345;
    bitlm_status status;
    if (kind < 2)
        status = bitlm_codes_search(j->codes, j->n, 48, j->codes, 20, NULL, 10, 0, kind + 1, host, j->a, j->d, &found, e);
    else if (kind == 2)
        status = bitlm_codes_within(j->codes, j->n, 48, j->codes, NULL, 150.0, 0, 1, host, j->a, j->d, j->n, &found, e);
    else if (kind == 3)
        status = bitlm_codes_pairs(j->codes, j->n, 48, 3, host, j->a, j->b, j->w, j->n, &found, e);
    else {
        for (size_t i = 0; i < 200; i++)
            j->a[i] = (int64_t)i;
        return bitlm_rescore(BITLM_VECTOR_BITS, j->codes, j->n, 384, j->query, host, j->a, j->scores, 200, e);
    }
    ck_assert(status == BITLM_OK || found == 12345);
    return status;
}

START_TEST(test_host) {
    job j = {.n = 20000};
    bitlm_error e = {.size = sizeof e};
    j.codes = make_codes(j.n, 48, 0);
    j.a = malloc(j.n * 8);
    j.b = malloc(j.n * 8);
    j.w = malloc(j.n * 4);
    j.d = malloc(j.n * 8);
    j.scores = malloc(200 * sizeof *j.scores);
    for (int i = 0; i < 384; i++)
        j.query[i] = (float)(i % 7) - 3.0f;
    lent l = {.cancel_at = -1, .fail_at = -1};
    bitlm_host host = {.size = sizeof host, .context = &l, .poll = lent_poll, .alloc = lent_alloc,
                       .release = lent_release};
    ck_assert_int_eq(do_job(&j, _i, &host, &e), BITLM_OK);
    ck_assert_int_eq(l.alive, 0);
    int polls = l.polls, allocations = l.allocations;
    ck_assert_int_gt(polls, 0);
    ck_assert_int_gt(allocations, 0);
    for (int i = 0; i < polls; i++) { /* polls go by time, so a later one may not come */
        l = (lent){.cancel_at = i, .fail_at = -1};
        bitlm_status status = do_job(&j, _i, &host, &e);
        ck_assert_msg(status == BITLM_CANCELED || (i > 0 && l.polls <= i), "poll %d: %d", i, (int)status);
        ck_assert_int_eq(l.alive, 0);
    }
    for (int i = 0; i < allocations; i++) {
        l = (lent){.cancel_at = -1, .fail_at = i};
        ck_assert_msg(do_job(&j, _i, &host, &e) == BITLM_NOMEM, "allocation %d of %d: %s", i, allocations, e.text);
        ck_assert_int_eq(l.alive, 0);
    }
    free(j.codes);
    free(j.a);
    free(j.b);
    free(j.w);
    free(j.d);
    free(j.scores);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("search");
    TCase *all = tcase_create("all");
    printf("seed %u\n", SEED);
    tcase_set_timeout(all, 120);
    tcase_add_loop_test(all, test_naive, 0, 96);
    tcase_add_test(all, test_many);
    tcase_add_loop_test(all, test_pairs, 0, 11);
    tcase_add_test(all, test_jaccard);
    tcase_add_test(all, test_planes);
    tcase_add_test(all, test_rescore);
    tcase_add_test(all, test_refused);
    tcase_add_loop_test(all, test_host, 0, 5);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
