/* test_base.c - core/base: errors, memory, checked sizes, the pool, polling,
 * the float environment, the generator.  Uses Check; run by `make check`. */
#define _GNU_SOURCE
#include <check.h>
#include <errno.h>
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/pool.h"
#include "base/rng.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

static const bl_alloc *heap(void) {
    static bl_alloc a;
    a = bl_alloc_from_host(NULL);
    return &a;
}

static void sleep_ns(long ns) {
    struct timespec t = {ns / 1000000000, ns % 1000000000};
    nanosleep(&t, NULL);
}

/* ---- errors -------------------------------------------------------------------- */

START_TEST(error_says_what_was_formatted) {
    bitlm_error e = {.size = sizeof e};
    ck_assert_int_eq(bl_error(&e, BITLM_LIMIT, "n is %d, at most %d", 7, 5), BITLM_LIMIT);
    ck_assert_int_eq(e.status, BITLM_LIMIT);
    ck_assert_int_eq(e.sys_errno, 0);
    ck_assert_str_eq(e.text, "n is 7, at most 5");
    ck_assert_int_eq(bl_error(NULL, BITLM_ARG, "%d", 1), BITLM_ARG);
    bl_error(&e, BITLM_FORMAT, "layer 3: %s", e.text); /* an argument may be the old text */
    ck_assert_str_eq(e.text, "layer 3: n is 7, at most 5");
    bl_error_nomem(&e, 4096, "a cache");
    ck_assert_str_eq(e.text, "out of memory: 4096 bytes for a cache");
    bl_error_clear(&e);
    ck_assert_int_eq(e.status, BITLM_OK);
    ck_assert_str_eq(e.text, "");
    bl_error_clear(NULL);
}
END_TEST

/* Whatever the offset of the cut, no character is split. */
START_TEST(error_is_cut_between_characters) {
    static const char *const units[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x99\x82"};
    for (size_t u = 0; u < 3; u++)
        for (size_t lead = 0; lead < 4; lead++) {
            char long_text[1000] = "";
            bitlm_error e = {.size = sizeof e};
            size_t unit = strlen(units[u]), n;
            for (size_t i = 0; i < lead; i++)
                strcat(long_text, "x");
            while (strlen(long_text) < 900)
                strcat(long_text, units[u]);
            bl_error(&e, BITLM_ARG, "%s", long_text);
            n = strlen(e.text);
            ck_assert_uint_eq((n - lead) % unit, 0);
            ck_assert_uint_gt(n, sizeof e.text - 1 - unit);
            ck_assert_int_eq(memcmp(e.text, long_text, n), 0);
        }
}
END_TEST

START_TEST(error_stays_inside_a_shorter_struct) {
    bitlm_error e;
    memset(&e, 'z', sizeof e);
    e.size = offsetof(bitlm_error, text) + 10;
    bl_error(&e, BITLM_ARG, "a sentence of more than ten bytes");
    ck_assert_str_eq(e.text, "a sentenc");
    ck_assert_int_eq(e.text[10], 'z');
    e.size = 4;
    bl_error(&e, BITLM_NOMEM, "no room");
    ck_assert_int_eq(e.status, BITLM_ARG);
}
END_TEST

START_TEST(error_is_always_utf8) {
    bitlm_error e = {.size = sizeof e};
    bl_error(&e, BITLM_ARG, "%s", "a\xff"
                                  "b\xc3"
                                  "c\xed\xa0\x80"
                                  "d\xf4\x90\x80\x80");
    ck_assert_str_eq(e.text, "a?b?c???d????");
}
END_TEST

START_TEST(error_io_keeps_the_reason) {
    char path[700];
    bitlm_error e = {.size = sizeof e};
    ck_assert_int_eq(bl_error_io(&e, ENOENT, "cannot open '%s'", "x"), BITLM_IO);
    ck_assert_int_eq(e.sys_errno, ENOENT);
    ck_assert_str_eq(e.text, "cannot open 'x': No such file or directory");
    memset(path, 'p', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    bl_error_io(&e, EACCES, "cannot open '%s'", path);
    ck_assert_uint_eq(strlen(e.text), sizeof e.text - 1);
    ck_assert_ptr_nonnull(strstr(e.text, "ppp: Permission denied"));
    bl_error_io(&e, 99999, "x");
    ck_assert_ptr_nonnull(strstr(e.text, "99999"));
}
END_TEST

START_TEST(show_hides_what_a_terminal_would_obey) {
    char out[64];
    ck_assert_str_eq(bl_show(out, sizeof out, "a\x1b[31m\n\xc2\x9b"
                                              "\x7f\xff",
                             11),
                     "a?[31m????");
    ck_assert_str_eq(bl_show(out, sizeof out, "a\0b", 3), "a?b");
    ck_assert_str_eq(bl_show(out, 8, "caf\xc3\xa9", 5), "caf\xc3\xa9");
    ck_assert_str_eq(bl_show(out, 8, "abcdefgh", 8), "abcd\xe2\x80\xa6");
    ck_assert_str_eq(bl_show(out, 8, "abc\xc3\xa9"
                                     "fgh",
                             8),
                     "abc\xe2\x80\xa6"); /* é would end past the room */
    ck_assert_str_eq(bl_show(out, 2, "abc", 3), "a");
    ck_assert_str_eq(bl_show(out, 1, "abc", 3), "");
}
END_TEST

START_TEST(status_names) {
    ck_assert_str_eq(bitlm_status_name(BITLM_OK), "OK");
    ck_assert_str_eq(bitlm_status_name(BITLM_INTERNAL), "INTERNAL");
    ck_assert_str_eq(bitlm_status_name(BITLM_TIMEOUT), "TIMEOUT");
    ck_assert_str_eq(bitlm_status_name(BITLM_DONE), "DONE");
    ck_assert_str_eq(bitlm_status_name(-1), "?");
    ck_assert_str_eq(bitlm_status_name(12), "?");
}
END_TEST

/* ---- memory ------------------------------------------------------------------------ */

START_TEST(checked_arithmetic) {
    size_t r = 77;
    ck_assert_int_eq(bl_mul_size(SIZE_MAX / 2 + 1, 2, &r), 0);
    ck_assert_int_eq(bl_add_size(SIZE_MAX, 1, &r), 0);
    ck_assert_uint_eq(r, 77);
    ck_assert_int_eq(bl_mul_size(SIZE_MAX / 2, 2, &r), 1);
    ck_assert_uint_eq(r, SIZE_MAX - 1);
    ck_assert_int_eq(bl_mul_size(SIZE_MAX, 0, &r), 1);
    ck_assert_uint_eq(r, 0);
    ck_assert_int_eq(bl_add_size(SIZE_MAX - 1, 1, &r), 1);
    ck_assert_uint_eq(r, SIZE_MAX);
    ck_assert_ptr_null(bl_calloc(heap(), SIZE_MAX / 2, 3));
}
END_TEST

typedef struct counting {
    int live, calls, fail_at;
} counting;

static void *counting_alloc(void *context, size_t size) {
    counting *c = context;
    if (++c->calls == c->fail_at)
        return NULL;
    c->live++;
    return malloc(size);
}

static void counting_release(void *context, void *memory) {
    counting *c = context;
    c->live--;
    free(memory);
}

START_TEST(host_memory) {
    counting c = {0, 0, 0};
    bitlm_host host = {.size = sizeof host, .context = &c, .alloc = counting_alloc,
                       .release = counting_release};
    bl_alloc a = bl_alloc_from_host(&host);
    char *p = bl_malloc(&a, 0), *q;
    ck_assert_ptr_nonnull(p);
    q = bl_regrow(&a, p, 0, 8);
    ck_assert_ptr_nonnull(q);
    memcpy(q, "abcdefg", 8);
    c.fail_at = c.calls + 1;
    ck_assert_ptr_null(bl_regrow(&a, q, 8, 100));
    ck_assert_str_eq(q, "abcdefg");
    q = bl_regrow(&a, q, 8, 4);
    ck_assert_int_eq(memcmp(q, "abcd", 4), 0);
    bl_free(&a, q);
    bl_free(&a, NULL);
    ck_assert_int_eq(c.live, 0);
    /* Half an allocator and a struct too short to have one are malloc's. */
    host.release = NULL;
    a = bl_alloc_from_host(&host);
    ck_assert(a.alloc != counting_alloc);
    host.release = counting_release;
    host.size = offsetof(bitlm_host, release);
    a = bl_alloc_from_host(&host);
    ck_assert(a.alloc != counting_alloc);
}
END_TEST

static void lay_out(bl_arena *arena, void *pieces[4]) {
    pieces[0] = bl_arena_take(arena, 3, 7);
    pieces[1] = bl_arena_take(arena, 0, 16);
    pieces[2] = bl_arena_take(arena, 64, 1);
    pieces[3] = bl_arena_take(arena, 1, 1);
}

START_TEST(arena_measures_then_hands_out) {
    bl_arena arena = {0};
    void *pieces[4];
    size_t need;
    lay_out(&arena, pieces);
    ck_assert_int_eq(arena.overflow, 0);
    ck_assert_ptr_null(pieces[0]);
    need = arena.used;
    ck_assert_uint_eq(need, 129);
    arena = (bl_arena){.base = aligned_alloc(64, 192), .size = need};
    ck_assert_ptr_nonnull(arena.base);
    lay_out(&arena, pieces);
    ck_assert_int_eq(arena.overflow, 0);
    ck_assert_ptr_eq(pieces[0], arena.base);
    ck_assert_ptr_eq(pieces[2], arena.base + 64);
    ck_assert_ptr_eq(pieces[3], arena.base + 128);
    ck_assert_ptr_null(bl_arena_take(&arena, 1, 1)); /* one byte past what was measured */
    ck_assert_int_eq(arena.overflow, 1);
    free(arena.base);
    arena = (bl_arena){0};
    bl_arena_take(&arena, SIZE_MAX / 2, 3);
    ck_assert_int_eq(arena.overflow, 1);
    arena = (bl_arena){0};
    bl_arena_take(&arena, SIZE_MAX - 63, 1);
    bl_arena_take(&arena, 64, 1);
    ck_assert_int_eq(arena.overflow, 1);
}
END_TEST

/* ---- the float environment -------------------------------------------------------------- */

/* 1 if arithmetic on this thread is round to nearest with denormals. */
static int contract_in_force(void) {
    volatile float tiny = FLT_MIN, half = 0.5f, third = 3.0f, one = 1.0f;
    volatile float denormal = tiny * half, twice = denormal + denormal;
    return denormal > 0.0f && twice == tiny && one / third == 0x1.555556p-2f &&
           -one / third == -0x1.555556p-2f && fegetround() == FE_TONEAREST;
}

static void poison(void) {
    fesetround(FE_DOWNWARD);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040); /* flush to zero, denormals are zero */
#elif defined(__aarch64__)
    __builtin_aarch64_set_fpcr(__builtin_aarch64_get_fpcr() | 1u << 24 | 1u << 25);
#endif
}

static uint32_t control(void) {
#if defined(__x86_64__)
    return _mm_getcsr() & 0xffc0; /* all but the exception flags */
#elif defined(__aarch64__)
    return __builtin_aarch64_get_fpcr();
#else
    return (uint32_t)fegetround();
#endif
}

START_TEST(poisoned_host_is_set_right_and_given_back) {
    bl_float_env env;
    uint32_t before;
    poison();
    before = control();
    ck_assert_int_eq(contract_in_force(), 0);
    bl_float_enter(&env);
    ck_assert_int_eq(contract_in_force(), 1);
    bl_float_leave(&env);
    ck_assert_uint_eq(control(), before);
    ck_assert_int_eq(contract_in_force(), 0);
}
END_TEST

START_TEST(exceptions_are_masked_inside) {
    bl_float_env env;
    volatile double zero = 0.0, one = 1.0, result;
    if (feenableexcept(FE_DIVBYZERO) == -1)
        return; /* the processor has no traps (most of aarch64) */
    bl_float_enter(&env);
    result = one / zero; /* would be SIGFPE */
    ck_assert(isinf(result));
    bl_float_leave(&env);
    ck_assert_int_ne(fegetexcept() & FE_DIVBYZERO, 0);
    ck_assert_int_eq(fetestexcept(FE_DIVBYZERO), 0);
}
END_TEST

/* ---- polling ------------------------------------------------------------------------------ */

typedef struct asked {
    int n, stop_at;
    int in_contract; /* calls that saw our environment instead of the host's */
} asked;

static int32_t ask(void *context) {
    asked *a = context;
    a->in_contract += contract_in_force();
    return ++a->n == a->stop_at;
}

START_TEST(poll_asks_first_and_then_every_2_ms) {
    asked a = {0, 0, 0};
    bitlm_host host = {.size = sizeof host, .context = &a, .poll = ask};
    bl_poll poll;
    uint64_t start = bl_now_ns(), took;
    int most;
    bl_poll_init(&poll, &host, NULL, 0);
    ck_assert_int_eq(bl_poll_check(&poll), BITLM_OK);
    ck_assert_int_eq(a.n, 1);
    while (bl_now_ns() - start < 50000000)
        ck_assert_int_eq(bl_poll_check(&poll), BITLM_OK);
    took = bl_now_ns() - start;
    most = 1 + (int)(took / 2000000);
    printf("poll: %d calls in %.1f ms\n", a.n, (double)took * 1e-6);
    ck_assert_int_le(a.n, most);
    ck_assert_int_ge(a.n, 2); /* a loaded machine may sleep through many periods, not through all */
}
END_TEST

/* Checks that came within microseconds do not make those deaf that come 2 ms apart: 10 ms are promised. */
START_TEST(poll_asks_soon_after_close_checks) {
    asked a = {0, 0, 0};
    bitlm_host host = {.size = sizeof host, .context = &a, .poll = ask};
    bl_poll poll;
    bl_poll_init(&poll, &host, NULL, 0);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 1000 + round; i++)
            ck_assert_int_eq(bl_poll_check(&poll), BITLM_OK);
        int before = a.n;
        for (int i = 0; i < 4; i++) {
            nanosleep(&(struct timespec){.tv_nsec = 2100000}, NULL);
            ck_assert_int_eq(bl_poll_check(&poll), BITLM_OK);
        }
        ck_assert_int_gt(a.n, before);
    }
}
END_TEST

START_TEST(poll_cancels_and_stays_so) {
    asked a = {0, 2, 0};
    bitlm_host host = {.size = sizeof host, .context = &a, .poll = ask};
    bitlm_error e = {.size = sizeof e};
    bl_poll poll;
    bl_poll_init(&poll, &host, NULL, 0);
    ck_assert_int_eq(bl_poll_check(&poll), BITLM_OK);
    sleep_ns(3000000);
    ck_assert_int_eq(bl_poll_check(&poll), BITLM_CANCELED);
    sleep_ns(3000000);
    ck_assert_int_eq(bl_poll_check(&poll), BITLM_CANCELED);
    ck_assert_int_eq(a.n, 2);
    ck_assert_int_eq(bl_poll_error(&poll, &e), BITLM_CANCELED);
    ck_assert_str_eq(e.text, "interrupted");
    ck_assert_int_eq(bl_poll_check(NULL), BITLM_OK);
}
END_TEST

START_TEST(poll_times_out) {
    bitlm_error e = {.size = sizeof e};
    bl_poll poll;
    uint64_t start = bl_now_ns();
    bl_poll_init(&poll, NULL, NULL, 20);
    ck_assert_int_eq(bl_poll_check(&poll), BITLM_OK);
    while (bl_poll_check(&poll) == BITLM_OK)
        ck_assert_uint_lt(bl_now_ns() - start, UINT64_C(5000000000));
    ck_assert_uint_ge(bl_now_ns() - start, 20000000);
    ck_assert_int_eq(bl_poll_error(&poll, &e), BITLM_TIMEOUT);
    ck_assert_ptr_nonnull(strstr(e.text, "timeout_ms"));
}
END_TEST

START_TEST(poll_lends_the_host_its_own_environment) {
    asked a = {0, 0, 0};
    bitlm_host host = {.size = sizeof host, .context = &a, .poll = ask};
    bl_float_env env;
    bl_poll poll;
    poison();
    bl_float_enter(&env);
    bl_poll_init(&poll, &host, &env, 0);
    bl_poll_check(&poll);
    ck_assert_int_eq(contract_in_force(), 1);
    bl_float_leave(&env);
    ck_assert_int_eq(a.n, 1);
    ck_assert_int_eq(a.in_contract, 0);
}
END_TEST

/* ---- the generator ---------------------------------------------------------------------------- */

/* SplitMix64's published outputs for seeds 0 and 1234567. */
START_TEST(rng_golden) {
    static const uint64_t zero[] = {0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f};
    static const uint64_t seeded[] = {6457827717110365317u, 3203168211198807973u,
                                      9817491932198370423u, 4593380528125082431u,
                                      16408922859458223821u};
    for (uint64_t i = 0; i < BL_COUNT(zero); i++)
        ck_assert_uint_eq(bl_rng_u64(0, 0, i), zero[i]);
    for (uint64_t i = 0; i < BL_COUNT(seeded); i++)
        ck_assert_uint_eq(bl_rng_u64(1234567, 0, i), seeded[i]);
}
END_TEST

START_TEST(rng_streams_differ_and_fill_the_unit_interval) {
    double sum = 0.0, low = 1.0, high = 0.0;
    int equal = 0;
    for (uint64_t i = 0; i < 100000; i++) {
        double x = bl_rng_unit(7, 3, i);
        ck_assert(x >= 0.0 && x < 1.0);
        equal += bl_rng_u64(7, 3, i) == bl_rng_u64(7, 4, i);
        sum += x;
        low = BL_MIN(low, x);
        high = BL_MAX(high, x);
    }
    ck_assert_int_eq(equal, 0);
    /* Standard deviation of the mean of 1e5 uniform numbers: 0.00091. */
    ck_assert(fabs(sum / 100000 - 0.5) < 0.004);
    ck_assert(low < 0.001 && high > 0.999);
}
END_TEST

/* ---- the pool ------------------------------------------------------------------------------------ */

typedef struct loop {
    _Atomic int *hits; /* (n_tiles) */
    _Atomic int wrong_thread, wrong_env, threads_seen[256];
    int n_threads;
    long work_ns;
} loop;

static void visit(void *arg, int64_t tile, int thread) {
    loop *l = arg;
    if (thread < 0 || thread >= l->n_threads)
        atomic_fetch_add(&l->wrong_thread, 1);
    else
        atomic_fetch_add(&l->threads_seen[thread], 1);
    if (!contract_in_force())
        atomic_fetch_add(&l->wrong_env, 1);
    atomic_fetch_add(&l->hits[tile], 1);
    if (l->work_ns)
        sleep_ns(l->work_ns);
}

static void run_all_tiles(bl_pool *pool, int64_t n_tiles) {
    loop l = {.n_threads = bl_pool_threads(pool)};
    l.hits = calloc((size_t)n_tiles + 1, sizeof *l.hits);
    ck_assert_int_eq(bl_pool_run(pool, visit, &l, n_tiles, NULL), BITLM_OK);
    for (int64_t i = 0; i < n_tiles; i++)
        ck_assert_int_eq(l.hits[i], 1);
    ck_assert_int_eq(l.wrong_thread, 0);
    ck_assert_int_eq(l.wrong_env, 0);
    free((void *)l.hits);
}

START_TEST(pool_runs_every_tile_once) {
    static const int threads[] = {1, 2, 3, 8, 31};
    static const int64_t sizes[] = {0, 1, 2, 3, 7, 64, 1000};
    for (size_t t = 0; t < BL_COUNT(threads); t++) {
        bl_pool *pool;
        ck_assert_int_eq(bl_pool_create(heap(), threads[t], &pool, NULL), BITLM_OK);
        for (int round = 0; round < 30; round++)
            for (size_t s = 0; s < BL_COUNT(sizes); s++)
                run_all_tiles(pool, sizes[s]);
        bl_pool_free(pool);
    }
}
END_TEST

/* Many short loops: a worker that wakes late must not meet a loop that is over. */
START_TEST(pool_short_loops) {
    bl_pool *pool;
    ck_assert_int_eq(bl_pool_create(heap(), 4, &pool, NULL), BITLM_OK);
    for (int round = 0; round < 5000; round++) {
        run_all_tiles(pool, 2 + round % 5);
        if (round % 500 == 0)
            sleep_ns(200000); /* long enough for the workers to fall asleep */
    }
    bl_pool_free(pool);
}
END_TEST

START_TEST(pool_uses_its_workers) {
    _Atomic int hits[40];
    loop l = {.hits = hits, .n_threads = 3, .work_ns = 1000000};
    bl_pool *pool;
    memset((void *)hits, 0, sizeof hits);
    ck_assert_int_eq(bl_pool_create(heap(), 3, &pool, NULL), BITLM_OK);
    ck_assert_int_eq(bl_pool_run(pool, visit, &l, 40, NULL), BITLM_OK);
    printf("pool: 40 tiles of 1 ms: %d, %d, %d by thread\n", l.threads_seen[0], l.threads_seen[1],
           l.threads_seen[2]);
    ck_assert_int_gt(l.threads_seen[1] + l.threads_seen[2], 0);
    bl_pool_free(pool);
    /* A pool that never ran, and none. */
    ck_assert_int_eq(bl_pool_create(heap(), 3, &pool, NULL), BITLM_OK);
    bl_pool_free(pool);
    bl_pool_free(NULL);
}
END_TEST

START_TEST(pool_refuses_a_number_out_of_range) {
    static const int bad[] = {0, -1, 257, INT32_MAX};
    bitlm_error e = {.size = sizeof e};
    counting c = {0, 0, 1};
    bl_alloc a = {&c, counting_alloc, counting_release};
    bl_pool *pool = NULL;
    for (size_t i = 0; i < BL_COUNT(bad); i++)
        ck_assert_int_eq(bl_pool_create(heap(), bad[i], &pool, &e), BITLM_ARG);
    ck_assert_str_eq(e.text, "threads is 2147483647, but must be 1 to 256");
    ck_assert_int_eq(bl_pool_create(&a, 2, &pool, &e), BITLM_NOMEM);
    ck_assert_ptr_null(pool);
}
END_TEST

START_TEST(pool_stops_when_canceled) {
    static const int threads[] = {1, 2, 4};
    for (size_t t = 0; t < BL_COUNT(threads); t++)
        for (int stop_at = 1; stop_at <= 6; stop_at++) {
            enum { TILES = 2000 };
            static _Atomic int hits[TILES];
            asked a = {0, stop_at, 0};
            bitlm_host host = {.size = sizeof host, .context = &a, .poll = ask};
            loop l = {.hits = hits, .n_threads = threads[t], .work_ns = 500000};
            bl_pool *pool;
            bl_poll poll;
            int ran = 0, later = 0;
            memset((void *)hits, 0, sizeof hits);
            ck_assert_int_eq(bl_pool_create(heap(), threads[t], &pool, NULL), BITLM_OK);
            bl_poll_init(&poll, &host, NULL, 0);
            ck_assert_int_eq(bl_pool_run(pool, visit, &l, TILES, &poll), BITLM_CANCELED);
            for (int i = 0; i < TILES; i++)
                ran += hits[i];
            ck_assert_int_lt(ran, TILES);
            sleep_ns(2000000); /* nobody works on after the return */
            for (int i = 0; i < TILES; i++)
                later += hits[i];
            ck_assert_int_eq(ran, later);
            run_all_tiles(pool, 100);
            bl_pool_free(pool);
        }
}
END_TEST

static void *run_in_thread(void *arg) {
    run_all_tiles(arg, 300);
    return NULL;
}

START_TEST(pool_may_change_its_caller) {
    bl_pool *pool;
    ck_assert_int_eq(bl_pool_create(heap(), 3, &pool, NULL), BITLM_OK);
    for (int i = 0; i < 10; i++) {
        pthread_t thread;
        ck_assert_int_eq(pthread_create(&thread, NULL, run_in_thread, pool), 0);
        pthread_join(thread, NULL);
    }
    bl_pool_free(pool);
}
END_TEST

/* ThreadSanitizer cannot follow threads that a forked child starts ("dup
 * thread"), so there the child only frees the pool. */
#if defined(__SANITIZE_THREAD__)
#define CHILDREN 1
#else
#define CHILDREN 2
#endif

/* The child has the memory of a pool that ran, and none of its threads. */
START_TEST(pool_works_in_a_forked_child) {
    bl_pool *pool;
    ck_assert_int_eq(bl_pool_create(heap(), 3, &pool, NULL), BITLM_OK);
    run_all_tiles(pool, 100);
    for (int runs = 0; runs < CHILDREN; runs++) {
        pid_t child = fork();
        int status = 0;
        ck_assert_int_ge(child, 0);
        if (child == 0) {
            _Atomic int hits[40];
            loop l = {.hits = hits, .n_threads = 3, .work_ns = 1000000};
            int ok = 1;
            alarm(20); /* a child that waits for ghosts ends here */
            memset((void *)hits, 0, sizeof hits);
            if (runs) { /* the other child frees the pool without having run it */
                ok = bl_pool_run(pool, visit, &l, 40, NULL) == BITLM_OK;
                for (int i = 0; i < 40; i++)
                    ok &= hits[i] == 1;
                ok &= l.threads_seen[1] + l.threads_seen[2] > 0;
            }
            bl_pool_free(pool);
            _exit(ok ? 0 : 1);
        }
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child %d: wait status 0x%x",
                      runs, (unsigned)status);
    }
    run_all_tiles(pool, 100);
    bl_pool_free(pool);
}
END_TEST

static void note_mask(void *arg, int64_t tile, int thread) {
    _Atomic int *unblocked = arg;
    sigset_t mask;
    (void)tile;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    if (thread > 0 && !(sigismember(&mask, SIGINT) && sigismember(&mask, SIGALRM)))
        atomic_fetch_add(unblocked, 1);
    sleep_ns(1000000);
}

START_TEST(pool_workers_take_no_signals_and_the_right_environment) {
    _Atomic int unblocked = 0;
    bl_pool *pool;
    bl_float_env env;
    sigset_t mask;
    poison(); /* workers must not inherit this from the thread that starts them */
    ck_assert_int_eq(bl_pool_create(heap(), 3, &pool, NULL), BITLM_OK);
    ck_assert_int_eq(bl_pool_run(pool, note_mask, (void *)&unblocked, 20, NULL), BITLM_OK);
    ck_assert_int_eq(unblocked, 0);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    ck_assert_int_eq(sigismember(&mask, SIGINT), 0); /* the caller's mask is its own again */
    bl_float_enter(&env);
    run_all_tiles(pool, 500);
    bl_float_leave(&env);
    bl_pool_free(pool);
}
END_TEST

START_TEST(physical_cores) {
    int n = bl_physical_cores();
    printf("physical cores: %d, processors online: %ld\n", n, sysconf(_SC_NPROCESSORS_ONLN));
    ck_assert_int_ge(n, 1);
    ck_assert_int_le(n, (int)sysconf(_SC_NPROCESSORS_ONLN));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("base");
    TCase *errors = tcase_create("errors"), *memory = tcase_create("memory");
    TCase *floats = tcase_create("float environment"), *polls = tcase_create("poll");
    TCase *rng = tcase_create("rng"), *pool = tcase_create("pool");
    SRunner *runner;
    int failed;

    tcase_add_test(errors, error_says_what_was_formatted);
    tcase_add_test(errors, error_is_cut_between_characters);
    tcase_add_test(errors, error_stays_inside_a_shorter_struct);
    tcase_add_test(errors, error_is_always_utf8);
    tcase_add_test(errors, error_io_keeps_the_reason);
    tcase_add_test(errors, show_hides_what_a_terminal_would_obey);
    tcase_add_test(errors, status_names);
    tcase_add_test(memory, checked_arithmetic);
    tcase_add_test(memory, host_memory);
    tcase_add_test(memory, arena_measures_then_hands_out);
    tcase_add_test(floats, poisoned_host_is_set_right_and_given_back);
    tcase_add_test(floats, exceptions_are_masked_inside);
    tcase_add_test(polls, poll_asks_first_and_then_every_2_ms);
    tcase_add_test(polls, poll_asks_soon_after_close_checks);
    tcase_add_test(polls, poll_cancels_and_stays_so);
    tcase_add_test(polls, poll_times_out);
    tcase_add_test(polls, poll_lends_the_host_its_own_environment);
    tcase_add_test(rng, rng_golden);
    tcase_add_test(rng, rng_streams_differ_and_fill_the_unit_interval);
    tcase_set_timeout(pool, 60);
    tcase_add_test(pool, pool_runs_every_tile_once);
    tcase_add_test(pool, pool_short_loops);
    tcase_add_test(pool, pool_uses_its_workers);
    tcase_add_test(pool, pool_refuses_a_number_out_of_range);
    tcase_add_test(pool, pool_stops_when_canceled);
    tcase_add_test(pool, pool_may_change_its_caller);
    tcase_add_test(pool, pool_works_in_a_forked_child);
    tcase_add_test(pool, pool_workers_take_no_signals_and_the_right_environment);
    tcase_add_test(pool, physical_cores);
    suite_add_tcase(suite, errors);
    suite_add_tcase(suite, memory);
    suite_add_tcase(suite, floats);
    suite_add_tcase(suite, polls);
    suite_add_tcase(suite, rng);
    suite_add_tcase(suite, pool);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
