/* test_multi.c - tables of pieces (core/search/multi_index.c) against a naive ranking: lengths, radii, the k nearest with
 * ties, rows that do not count, few and all pieces, giving up, threads, cancelling at each poll, each allocation failing. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "search/multi_index.h"
#include "search/search.h"
#include "test_support.h"

#define SEED 20261128u
#define EVERY 1000000000u /* rows: so many that no search gives up */
static uint64_t state = SEED;

static uint32_t random_u32(void) { /* splitmix64 */
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ (z >> 31)) >> 16);
}

typedef struct set {
    size_t n, bytes, n_segments;
    uint8_t *codes;
    bl_segment *segments;
    uint32_t *places; /* (n) */
} set;

/* Half of the codes near one of 50 others, in segments of 1 to 65,536 rows. */
static set make_set(size_t n, size_t bytes) {
    set s = {.n = n, .bytes = bytes};
    s.codes = malloc(n * bytes);
    s.segments = malloc(n * sizeof *s.segments);
    s.places = malloc(n * sizeof *s.places);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < bytes; j++)
            s.codes[i * bytes + j] = i >= 50 && i % 2 ? s.codes[i % 50 * bytes + j] : (uint8_t)random_u32();
        for (unsigned flips = random_u32() % 9; i % 2 && flips > 0; flips--)
            s.codes[i * bytes + random_u32() % bytes] ^= (uint8_t)(1u << random_u32() % 8);
    }
    for (size_t at = 0; at < n; s.n_segments++) {
        uint32_t want = s.n_segments == 0 ? 65536u : s.n_segments == 1 ? 1u : 1u + random_u32() % 4000;
        uint32_t rows = (uint32_t)BL_MIN(n - at, want);
        if (n < 70000 && s.n_segments == 0)
            rows = 1000;
        s.segments[s.n_segments] = (bl_segment){s.codes + at * bytes, rows};
        for (uint32_t row = 0; row < rows; row++)
            s.places[at + row] = (uint32_t)(s.n_segments << 16 | row);
        at += rows;
    }
    return s;
}

static void free_set(set *s) {
    free(s->codes);
    free(s->segments);
    free(s->places);
}

static int counts(uint32_t place, int kind) { return kind == 0 || (place * 2654435761u) >> 16 & 1; }

typedef struct taken {
    bl_nearest nearest;
    int kind; /* 1: half of the places do not count */
    int stop_after, asked;
} taken;

static uint32_t near(void *context, uint32_t place, uint32_t distance) {
    taken *t = context;
    if (counts(place, t->kind))
        bl_nearest_offer(&t->nearest, distance, place);
    double most = t->nearest.most;
    if (t->nearest.n == t->nearest.k && t->nearest.hits[0].distance < most)
        most = t->nearest.hits[0].distance;
    return (uint32_t)most + 1;
}

static int32_t stop(void *context) {
    taken *t = context;
    return t->stop_after && ++t->asked >= t->stop_after;
}

/* 1 if the tables answered, and then exactly so. */
static int agrees(const bl_multi *multi, const set *s, const uint8_t *query, size_t k, uint32_t most, int kind, uint64_t rows) {
    taken t = {.kind = kind};
    bl_multi_sink sink = {near, stop, &t};
    bl_nearest want;
    bl_hit *room = malloc(k * sizeof *room), *wanted = malloc(k * sizeof *wanted);
    bl_nearest_init(&t.nearest, room, k, most);
    bl_nearest_init(&want, wanted, k, most);
    int answer = bl_multi_search(multi, query, most + 1, rows, k < s->n, &sink);
    if (answer == BL_MULTI_DONE) {
        for (size_t i = 0; i < s->n; i++) {
            if (counts(s->places[i], kind))
                bl_nearest_offer(&want, (double)bitlm_hamming(query, s->codes + i * s->bytes, s->bytes), s->places[i]);
        }
        bl_nearest_sort(&want);
        bl_nearest_sort(&t.nearest);
        ck_assert_msg(t.nearest.n == want.n, "%zu bytes, k %zu, most %u, %u pieces: %zu hits, not %zu", s->bytes, k, most,
                      bl_multi_pieces(multi), t.nearest.n, want.n);
        for (size_t i = 0; i < want.n; i++)
            ck_assert(room[i].row == wanted[i].row && room[i].distance == wanted[i].distance);
    }
    free(room);
    free(wanted);
    return answer == BL_MULTI_DONE;
}

static bl_multi *make_multi(const set *s) {
    bl_alloc alloc = bl_alloc_from_host(NULL);
    bl_multi *multi = NULL;
    bitlm_error e = {.size = sizeof e};
    ck_assert_msg(bl_multi_new(s->segments, s->n_segments, s->bytes, &alloc, &multi, &e) == BITLM_OK, "%s", e.text);
    ck_assert_uint_eq(bl_multi_pieces(multi), 0);
    return multi;
}

static void grow_to(bl_multi *multi, uint32_t pieces) {
    bitlm_error e = {.size = sizeof e};
    while (bl_multi_pieces(multi) < pieces)
        ck_assert_int_eq(bl_multi_grow(multi, NULL, &e), BITLM_OK);
}

START_TEST(test_naive) {
    static const size_t lengths[] = {1, 2, 3, 5, 8, 13, 32, 48, 100, 257, 2048};
    size_t bytes = lengths[_i], n = bytes == 48 ? 80001 : 33000;
    set s = make_set(n, bytes);
    bl_multi *multi = make_multi(&s);
    uint32_t all = bl_multi_most_pieces(multi);
    uint8_t *query = malloc(bytes);
    int answered = 0;
    ck_assert_int_eq(agrees(multi, &s, s.codes, 1, 0, 0, EVERY), 0); /* no piece yet */
    for (int part = 0; part < 3; part++) {
        grow_to(multi, part == 0 ? 1 : part == 1 ? (all + 1) / 2 : all);
        for (int q = 0; q < 4; q++) {
            for (size_t j = 0; j < bytes; j++)
                query[j] = q ? s.codes[(n / 4 * (size_t)q - 1) * bytes + j] : (uint8_t)random_u32();
            query[bytes - 1] ^= (uint8_t)(q == 2);
            int kind = (q + part) % 2;
            for (uint32_t most = 0; most <= 12; most += q ? 6 : 4)
                ck_assert_int_eq(agrees(multi, &s, query, n, most, kind, EVERY), 1);
            ck_assert_int_eq(agrees(multi, &s, query, q % 2 ? 10 : 1, (uint32_t)bytes * 8, kind, EVERY), 1);
            answered += agrees(multi, &s, query, 10, (uint32_t)bytes * 8, kind, n); /* may give up */
            answered += agrees(multi, &s, query, n, 3, kind, n);
        }
    }
    if (bytes >= 32)
        ck_assert_int_gt(answered, 0);
    ck_assert_int_eq(bl_multi_grow(multi, NULL, NULL), BITLM_OK); /* all are there: nothing happens */
    ck_assert_uint_eq(bl_multi_pieces(multi), all);
    free(query);
    bl_multi_free(multi);
    free_set(&s);
}
END_TEST

START_TEST(test_gives_up) {
    set s = make_set(40000, 48);
    bl_multi *multi = make_multi(&s);
    uint8_t query[48];
    grow_to(multi, bl_multi_most_pieces(multi));
    for (size_t j = 0; j < sizeof query; j++)
        query[j] = (uint8_t)random_u32();
    ck_assert_int_eq(agrees(multi, &s, query, 10, 384, 0, s.n), 0); /* nothing is near */
    ck_assert_int_eq(agrees(multi, &s, query, s.n, 150, 0, s.n), 0);
    ck_assert_int_eq(agrees(multi, &s, s.codes, s.n, 8, 0, s.n), 1);
    ck_assert_int_eq(agrees(multi, &s, s.codes, s.n, 8, 0, 10), 0); /* few rows to compare otherwise */
    ck_assert(bl_multi_cost(1000000, 48, UINT32_MAX, 10) < 0.1 && bl_multi_cost(1000000, 48, UINT32_MAX, 150) > 1.0);
    for (uint32_t pieces = 2; pieces <= 20; pieces++) /* more pieces, less to do */
        ck_assert(bl_multi_cost(1000000, 48, pieces, 20) <= bl_multi_cost(1000000, 48, pieces - 1, 20));
    taken t = {.stop_after = 1};
    bl_multi_sink sink = {near, stop, &t};
    bl_hit room[10];
    bl_nearest_init(&t.nearest, room, 10, 384);
    ck_assert_int_eq(bl_multi_search(multi, query, 385, EVERY, 1, &sink), BL_MULTI_STOPPED);
    bl_multi_free(multi);
    free_set(&s);
}
END_TEST

/* Codes that are all alike in most pieces: rows met are counted against the scan's time. */
START_TEST(test_equal_codes) {
    set s = make_set(40000, 48);
    memset(s.codes, 0x5a, s.n * s.bytes);
    for (size_t i = 0; i < s.n; i += 3)
        s.codes[i * 48 + i % 48] ^= 1;
    bl_multi *multi = make_multi(&s);
    grow_to(multi, bl_multi_most_pieces(multi));
    ck_assert_int_eq(agrees(multi, &s, s.codes + 48, s.n, 5, 0, s.n), 0);
    ck_assert_int_eq(agrees(multi, &s, s.codes + 48, s.n, 5, 0, EVERY), 1);
    ck_assert_int_eq(agrees(multi, &s, s.codes + 48, 7, 384, 0, EVERY), 1);
    bl_multi_free(multi);
    free_set(&s);
}
END_TEST

START_TEST(test_refused) {
    bl_alloc alloc = bl_alloc_from_host(NULL);
    uint8_t code[8] = {0};
    bl_segment one = {code, 1};
    bl_multi *multi = NULL;
    bitlm_error e = {.size = sizeof e};
    ck_assert_int_eq(bl_multi_new(&one, 1, 8, &alloc, &multi, &e), BITLM_ARG);
    ck_assert_ptr_nonnull(strstr(e.text, "1 codes"));
    ck_assert_int_eq(bl_multi_new(&one, 0, 8, &alloc, &multi, &e), BITLM_ARG);
    ck_assert_ptr_null(multi);
    bl_multi_free(NULL);
}
END_TEST

typedef struct searcher {
    const bl_multi *multi;
    const set *s;
    int answered;
} searcher;

static void *search_on(void *context) {
    searcher *x = context;
    for (int i = 0; i < 40; i++)
        x->answered += agrees(x->multi, x->s, x->s->codes + (size_t)i * 97 * x->s->bytes, x->s->n, 6, 0, x->s->n);
    return NULL;
}

START_TEST(test_threads) {
    set s = make_set(40000, 48);
    bl_multi *multi = make_multi(&s);
    searcher x[2] = {{multi, &s, 0}, {multi, &s, 0}};
    pthread_t threads[2];
    grow_to(multi, 1);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, search_on, &x[i]), 0);
    grow_to(multi, bl_multi_most_pieces(multi));
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    ck_assert_int_eq(agrees(multi, &s, s.codes, s.n, 6, 0, s.n), 1);
    bl_multi_free(multi);
    free_set(&s);
}
END_TEST

typedef struct lent {
    int allocations, fail_at, alive, polls, cancel_at;
} lent;

static void *lent_alloc(void *context, size_t size) {
    lent *l = context;
    if (l->allocations++ == l->fail_at)
        return NULL;
    l->alive++;
    return malloc(size + !size);
}

static void lent_release(void *context, void *memory) {
    if (memory)
        ((lent *)context)->alive--;
    free(memory);
}

static int32_t lent_poll(void *context) {
    lent *l = context;
    return l->polls++ == l->cancel_at;
}

START_TEST(test_host) {
    set s = make_set(40000, 48);
    bitlm_error e = {.size = sizeof e};
    int allocations = 1;
    for (int fail_at = -1; fail_at < allocations; fail_at++) {
        lent l = {.fail_at = fail_at, .cancel_at = -1};
        bitlm_host host = {.size = sizeof host, .context = &l, .poll = lent_poll, .alloc = lent_alloc, .release = lent_release};
        bl_alloc alloc = bl_alloc_from_host(&host);
        bl_multi *multi = NULL;
        bitlm_status status = bl_multi_new(s.segments, s.n_segments, s.bytes, &alloc, &multi, &e);
        if (status == BITLM_OK)
            status = bl_multi_grow(multi, NULL, &e);
        ck_assert_int_eq(status, fail_at < 0 ? BITLM_OK : BITLM_NOMEM);
        if (fail_at < 0)
            allocations = l.allocations;
        if (multi) {
            ck_assert_uint_eq(bl_multi_pieces(multi), fail_at < 0);
            bl_poll poll;
            l = (lent){.fail_at = -1, .cancel_at = 0, .alive = l.alive};
            bl_poll_init(&poll, &host, NULL, 0);
            ck_assert_int_eq(bl_multi_grow(multi, &poll, &e), BITLM_CANCELED);
            ck_assert_uint_eq(bl_multi_pieces(multi), fail_at < 0);
            grow_to(multi, 2); /* a failure left nothing behind */
            ck_assert_int_eq(agrees(multi, &s, s.codes, s.n, 1, 0, s.n), 1);
        }
        bl_multi_free(multi);
        ck_assert_int_eq(l.alive, 0);
    }
    ck_assert_int_ge(allocations, 5);
    free_set(&s);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("multi");
    TCase *all = tcase_create("all");
    printf("seed %u\n", SEED);
    tcase_set_timeout(all, 120);
    tcase_add_loop_test(all, test_naive, 0, 11);
    tcase_add_test(all, test_gives_up);
    tcase_add_test(all, test_equal_codes);
    tcase_add_test(all, test_refused);
    tcase_add_test(all, test_threads);
    tcase_add_test(all, test_host);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
