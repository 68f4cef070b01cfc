/* test_shape_hash.c - the numeric contract over a model with everything that BitNet 2B-4T has: grouped KV heads,
 * sub-norms, a 6-bit head tied to the embedding, widths that are no powers of two.
 *
 * Tokens, log probabilities, text, logits and hidden vectors are hashed over CPU masks x threads 1, 2, 3 x cuts of the
 * prompt into 1, 7, 64 and as many tokens as a step takes x texts one by one or eight together x prefix found in the
 * cache or not, greedy and sampled, with the host's float environment as it is or poisoned; all must give the golden
 * hash in tests/data/golden_hashes.txt.
 *
 *     test_shape_hash                 the small shape mini-2b4t, which make check runs
 *     test_shape_hash bitnet-2b4t     2B-4T itself, every mask, number of threads and cut, the other ways by turns:
 *                                     half an hour, and 0.8 GB of disk in $TMPDIR
 *     test_shape_hash bitnet-2b4t all every way: hours
 *     test_shape_hash bitnet-2b4t ref one mask of the half hour
 *
 * BITLM_SHORT=1 takes one cut and one number of threads, for checkers that slow everything down.
 * The file is synthesized; BITLM_GOLDEN_WRITE=1 prints the golden line of a new BITLM_NUMERICS. */
#include <check.h>
#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/synth.h"
#include "kernels/kernels.h"
#include "run/run.h"
#include "test_support.h"

#define ROWS 8

static const char *shape = "mini-2b4t";
static int big, all;     /* not the small shape; every way of it */
static const char *only; /* this mask alone, or NULL */
static char path[4096];  /* of the file */

/* What is run in one way. */
typedef struct way {
    int threads, cut, together, found, poisoned;
} way;

/* The words are whole tokens of the synthesized vocabulary. */
static const char *const words[] = {"the", "of", "and", "to", "in", "is", "it", "you", "that", "he", "was", "for"};

/* A text of n words; the first `common` of them are the same in every text. */
static char *make_text(int number, int n, int common) {
    char *text = malloc((size_t)n * 6 + 1), *at = text;
    for (int i = 0; i < n; i++)
        at += sprintf(at, "%s%s", i ? " " : "", words[(i < common ? i * i : i * (number + 1) + number) % 12]);
    return text;
}

static uint64_t hash_row(uint64_t hash, const int32_t *ids, const float *logprobs, size_t n, const char *text) {
    hash = hash_bytes(hash, ids, n * sizeof *ids);
    hash = hash_bytes(hash, logprobs, n * sizeof *logprobs);
    return hash_bytes(hash, text, strlen(text));
}

/* Generates from n prompts in one call; rows[i] takes over the hash of row i. */
static void generate_rows(bitlm_session *s, char *const *prompts, size_t n, const char *options, uint64_t *rows) {
    enum { MOST = 64 };
    static int32_t ids[ROWS][MOST];
    static float logprobs[ROWS][MOST];
    static char texts[ROWS][1000];
    size_t counts[ROWS] = {0}, lengths[ROWS] = {0};
    bitlm_text given[ROWS];
    bitlm_options o;
    bitlm_error why = {.size = sizeof why};
    bitlm_piece piece = {.size = sizeof piece};
    bitlm_status status;
    bitlm_options_init(&o);
    ck_assert_msg(bitlm_options_json(&o, options, strlen(options), &why) == BITLM_OK, "%s", why.text);
    for (size_t i = 0; i < n; i++)
        given[i] = (bitlm_text){prompts[i], strlen(prompts[i])};
    ck_assert_msg(bitlm_generate_start(s, given, n, 0, &o, &why) == BITLM_OK, "%s", why.text);
    while ((status = bitlm_generate_next(s, &piece, &why)) == BITLM_OK) {
        size_t r = (size_t)piece.row;
        ck_assert_uint_lt(lengths[r] + piece.text_length, sizeof texts[r]);
        memcpy(texts[r] + lengths[r], piece.text, piece.text_length);
        lengths[r] += piece.text_length;
        if (piece.token >= 0 && counts[r] < MOST) {
            ids[r][counts[r]] = piece.token;
            logprobs[r][counts[r]++] = piece.logprob;
        }
    }
    ck_assert_msg(status == BITLM_DONE, "%s", why.text);
    for (size_t r = 0; r < n; r++) {
        texts[r][lengths[r]] = 0;
        ck_assert_uint_gt(counts[r], 0);
        rows[r] = hash_row(rows[r], ids[r], logprobs[r], counts[r], texts[r]);
    }
}

/* Forgets the cache, or fills it with a text that begins as the prompts do. */
static void set_cache(bitlm_session *s, const way *w, char *opening) {
    uint64_t ignored[1] = {0};
    if (w->found)
        generate_rows(s, &opening, 1, "{\"max_tokens\":1}", ignored);
    else
        s->n_cached = 0;
}

static uint64_t hash_logits_and_vectors(bitlm_session *s, const char *text) {
    bitlm_error why = {.size = sizeof why};
    int32_t ids[400];
    size_t n, width = (size_t)s->model->hidden_size * sizeof(float), vocab = (size_t)s->model->vocab_size * sizeof(float);
    ck_assert_int_eq(bitlm_tokenize(s->model, text, strlen(text), BITLM_TOKENS_FRAME, NULL, ids, 400, &n, &why), BITLM_OK);
    ck_assert_int_eq(bl_session_enter(s, 0, &why), BITLM_OK);
    ck_assert_int_eq(bl_session_prefill(s, ids, (int64_t)n, 0), BITLM_OK);
    int32_t row = (int32_t)(((int64_t)n - 1) % s->context.max_batch);
    uint64_t hash = hash_bytes(0, s->context.x + (size_t)row * (size_t)s->model->hidden_size, width);
    ck_assert_int_eq(bl_forward_logits(&s->context, &row, 1, s->logits), BITLM_OK);
    hash = hash_bytes(hash, s->logits, vocab);
    bl_session_leave(s, BITLM_OK, &why);
    return hash;
}

static void set_control(unsigned value) {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(value);
#else
    (void)value;
#endif
}

static unsigned get_control(void) {
#if defined(__x86_64__)
    return __builtin_ia32_stmxcsr();
#else
    return 0;
#endif
}

/* Everything in one way: the hash must not depend on it. */
static uint64_t hash_way(bitlm_model *m, const way *w) {
    static const char *const samplings[] = {
        "{\"temperature\":0,\"max_tokens\":6,\"logprobs\":true}",
        "{\"temperature\":0.8,\"top_p\":0.9,\"seed\":7,\"max_tokens\":6,\"logprobs\":true}",
        "{\"temperature\":1,\"top_k\":40,\"min_p\":0.02,\"seed\":9,\"max_tokens\":6}"};
    static const char *const kv_types[] = {"f16", "int8"};
    char *prompts[ROWS], *opening = make_text(0, big ? 60 : 66, 1 << 20), options[120];
    uint64_t rows[ROWS] = {0}, hash = 0;
    unsigned clean = get_control();
    for (int i = 0; i < ROWS; i++)
        prompts[i] = make_text(i, big ? 66 : 80, big ? 60 : 66);
    if (w->poisoned) {
        fesetround(FE_UPWARD);
        set_control(get_control() | 0x8040u); /* flush to zero, denormals are zero */
    }
    for (int kv = 0; kv < (big ? 1 : 2); kv++) {
        snprintf(options, sizeof options, "{\"threads\":%d,\"kv_type\":\"%s\",\"n_ctx\":128,\"rows\":8}", w->threads,
                 kv_types[kv]);
        bitlm_session *s = open_session(m, options);
        s->context.max_batch = BL_MIN(s->context.max_batch, w->cut); /* no step takes more tokens */
        for (size_t i = 0; i < (big ? 2 : 3); i++) {
            size_t step = w->together ? ROWS : 1;
            for (size_t r = 0; r < ROWS; r += step) {
                set_cache(s, w, opening);
                generate_rows(s, prompts + r, step, samplings[i], rows + r);
            }
        }
        hash = hash_bytes(hash, rows, sizeof rows);
        uint64_t last = hash_logits_and_vectors(s, prompts[ROWS - 1]);
        hash = hash_bytes(hash, &last, sizeof last);
        bitlm_session_free(s);
    }
    if (w->poisoned) {
        fesetround(FE_TONEAREST);
        set_control(clean);
    }
    for (int i = 0; i < ROWS; i++)
        free(prompts[i]);
    free(opening);
    return hash;
}

static void make_file(void) {
    const char *folder = getenv("TMPDIR");
    bitlm_error why = {.size = sizeof why};
    bl_synth_spec spec = {.shape = shape, .type = BL_TYPE_I2_S, .embd_type = BL_TYPE_Q6_K, .seed = 1};
    bl_poll poll;
    bl_poll_init(&poll, NULL, NULL, 0);
    snprintf(path, sizeof path, "%s/bitlm-%s-XXXXXX", folder ? folder : "/tmp", shape);
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    ck_assert_msg(bl_synth(&spec, path, NULL, &poll, NULL, NULL, &why) == BITLM_OK, "%s", why.text);
}

/* Masks that choose a table of their own on this machine. */
static int runs_here(const char *mask) {
    int ok;
    setenv("BITLM_CPU", mask, 1);
    const bl_kernels *k = bl_kernels_get(bl_cpu_env_mask(&ok));
    unsetenv("BITLM_CPU");
    return ok && strcmp(k->name, mask) == 0;
}

static void expect_golden(uint64_t hash) {
    size_t size;
    char line[120], *golden = load_file("golden_hashes.txt", &size);
    golden[size] = 0;
    snprintf(line, sizeof line, "%d shape-%s %016llx\n", BITLM_NUMERICS, shape, (unsigned long long)hash);
    if (getenv("BITLM_GOLDEN_WRITE"))
        fputs(line, stdout);
    else
        ck_assert_msg(strstr(golden, line) != NULL, "no golden line: %s", line);
    free(golden);
}

START_TEST(shape_is_the_same_everywhere) {
    static const char *const masks[] = {"avx2", "avxvnni", "avx512", "amx", "neon", "ref"};
    static const int cuts[] = {512, 64, 7, 1};
    uint64_t first = 0;
    int ways = 0, brief = getenv("BITLM_SHORT") != NULL;
    make_file();
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        if (!runs_here(masks[i]) || (only && strcmp(only, masks[i]) != 0))
            continue;
        setenv("BITLM_CPU", masks[i], 1);
        bitlm_model *m = open_model(path, NULL);
        int plain = strcmp(masks[i], "ref") == 0, at = 0;
        for (int c = 0; c < 4; c++)
            for (int threads = 1; threads <= 3; threads++)
                for (int other = 0; other < 4; other++, at++) {
                    way w = {threads, cuts[c], other & 1, other >> 1, (at + threads) & 1};
                    /* Plain C is slow: each cut once, and the other ways by turns. */
                    if (plain && (big ? at != 1 : (other != c || threads != 1 + c % 3)))
                        continue;
                    if (brief && (c != 2 || threads != (plain ? 3 : 2)))
                        continue;
                    if (big && !all && !plain && other != (c + threads) % 4)
                        continue;
                    uint64_t hash = hash_way(m, &w);
                    if (big) {
                        printf("%s, %d threads, cut %d, %s, %s%s: %016llx\n", masks[i], threads, w.cut,
                               w.together ? "together" : "one by one", w.found ? "prefix found" : "prefix new",
                               w.poisoned ? ", poisoned" : "", (unsigned long long)hash);
                        fflush(stdout);
                    }
                    if (ways++ == 0)
                        first = hash;
                    ck_assert_msg(hash == first, "%s, %d threads, cut %d, together %d, found %d, poisoned %d: %016llx, not "
                                  "%016llx", masks[i], threads, w.cut, w.together, w.found, w.poisoned,
                                  (unsigned long long)hash, (unsigned long long)first);
                }
        printf("%s, mask %s: the same in all ways\n", shape, masks[i]);
        bitlm_model_free(m);
        unsetenv("BITLM_CPU");
    }
    remove(path);
    ck_assert_msg(ways > 0, "no mask '%s' runs here", only ? only : "");
    printf("%s: %d ways, %016llx\n", shape, ways, (unsigned long long)first);
    expect_golden(first);
}
END_TEST

int main(int argc, char **argv) {
    if (argc > 1) {
        shape = argv[1];
        big = strcmp(shape, "mini-2b4t") != 0;
        all = argc > 2 && strcmp(argv[2], "all") == 0;
        only = argc > 2 && !all ? argv[2] : NULL;
        if (big)
            setenv("CK_FORK", "no", 1); /* Check cannot pass the duration of a test of 36 minutes between processes */
    }
    Suite *suite = suite_create("shape hash");
    TCase *c = tcase_create("whole models"); /* too slow for a sanitizer in each `make check` */
    tcase_set_timeout(c, 600); /* without a fork there is none */
    tcase_add_test(c, shape_is_the_same_everywhere);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
