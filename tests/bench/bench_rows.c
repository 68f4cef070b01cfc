/* bench_rows.c - what lookup, many rows together and common beginnings gain.
 *
 *     bench_rows [MODEL [THREADS [TRIES]]]     (story, 1 thread, 5 tries)
 *
 * Each figure is a median, the variants of one comparison taking turns; the tokens are compared
 * too, since none of these may change them.  Prompts that summarise, extract, quote and tell: a chat
 * model is asked, another one continues.  With one thread its processor time counts, else the clock:
 * run that with nothing else on the machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bitlm.h"

#define MOST_TRIES 31
#define MOST_ROWS 16
#define MADE 64

static const char passage[] =
    "The Harbour Museum opened on 4 May 1921 in the old customs house of Port Ellery. Its founder, the shipwright "
    "Agnes Thorwald, gave it three model ships, a sextant and 212 charts of the northern coast. In 1954 a storm "
    "flooded the lower hall; the charts were saved by two students, Peter Lamb and Ines Okafor, who carried them to "
    "the lighthouse by night. Since 1988 the museum belongs to the town of Port Ellery. It is open from Tuesday to "
    "Sunday, ten to five o'clock, and entrance is free on the first Sunday of a month. For guided tours write to "
    "tours@harbourmuseum.example or call 0555 204 118.";

static const struct {
    const char *name, *before, *after;
} tasks[] = {
    {"summarise", "Summarise this text in two sentences.\n\n", "\n\nSummary:"},
    {"extract", "List all names, dates and addresses in this text.\n\n", "\n\nList:"},
    {"correct", "Repeat this text with its spelling corrected.\n\n", "\n\nCorrected text:"},
    {"tell", "Tell a story about a fox and a hare who find a ring.", ""},
};
#define N_TASKS (sizeof tasks / sizeof *tasks)

/* One thread's own time where there is one: others on the machine matter less then. */
static clockid_t clock_used = CLOCK_MONOTONIC;

static double now(void) {
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void must(bitlm_status status, const bitlm_error *why) {
    if (status == BITLM_OK)
        return;
    fprintf(stderr, "bench_rows: %s\n", why->text);
    exit(1);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, ascending);
    return values[n / 2];
}

typedef struct outcome {
    uint64_t hash;     /* of (row, token) in order of rows */
    int made;          /* tokens */
    double first, all; /* seconds to the first token and in all */
} outcome;

static outcome run(bitlm_session *s, const bitlm_text *prompts, size_t n, uint32_t flags, const bitlm_options *o) {
    bitlm_error why = {.size = sizeof why};
    bitlm_piece piece = {.size = sizeof piece};
    uint64_t rows[MOST_ROWS] = {0};
    outcome out = {0};
    double begin = now();
    bitlm_status status = bitlm_generate_start(s, prompts, n, flags, o, &why);
    must(status, &why);
    while ((status = bitlm_generate_next(s, &piece, &why)) == BITLM_OK) {
        if (!out.made)
            out.first = now() - begin;
        if (piece.token < 0)
            continue;
        out.made++;
        rows[piece.row] = (rows[piece.row] ^ (uint64_t)piece.token) * 0x100000001b3u + 1;
    }
    if (status != BITLM_DONE)
        must(status, &why);
    out.all = now() - begin;
    for (size_t i = 0; i < n; i++)
        out.hash = (out.hash ^ rows[i]) * 0x100000001b3u;
    return out;
}

static bitlm_session *open_session(bitlm_model *m, const bitlm_options *o) {
    bitlm_error why = {.size = sizeof why};
    bitlm_session *s;
    must(bitlm_session_open(m, o, NULL, &s, &why), &why);
    return s;
}

/* A prompt as the model takes it: the messages of a chat, or the text. */
static char *prompt_of(size_t task, int chat) {
    const char *text = task + 1 < N_TASKS ? passage : "", *after = chat ? "" : tasks[task].after;
    size_t size = sizeof passage + 400;
    char *out = malloc(size), *at = out;
    at += sprintf(at, "%s", chat ? "[{\"role\":\"user\",\"content\":\"" : "");
    for (const char *parts[] = {tasks[task].before, text, after, NULL}, **p = parts; *p; p++)
        for (const char *c = *p; *c; c++) {
            if (*c == '\n' && chat)
                *at++ = '\\', *at++ = 'n';
            else
                *at++ = *c;
        }
    sprintf(at, "%s", chat ? "\"}]" : "");
    return out;
}

static void bench_lookup(bitlm_model *m, int chat, bitlm_options o, int tries) {
    static const int lookups[] = {0, 2, 4, 8, 15};
    enum { N = sizeof lookups / sizeof *lookups };
    bitlm_session *s = open_session(m, &o);
    printf("\nlookup: decoded tokens a second, after the first token\n%-12s %7s", "prompt", "tokens");
    for (int k = 0; k < N; k++)
        printf("  lookup %-2d    ", lookups[k]);
    printf("\n");
    for (size_t task = 0; task < N_TASKS; task++) {
        char *text = prompt_of(task, chat);
        bitlm_text prompt = {text, strlen(text)};
        double speed[N][MOST_TRIES], base = 0;
        outcome first = {0};
        for (int i = 0; i < tries; i++)
            for (int k = 0; k < N; k++) {
                o.lookup = lookups[k];
                outcome got = run(s, &prompt, 1, chat ? BITLM_GENERATE_CHAT : 0, &o);
                if (!first.made)
                    first = got;
                if (got.hash != first.hash) {
                    fprintf(stderr, "bench_rows: lookup %d changed the text\n", lookups[k]);
                    exit(1);
                }
                speed[k][i] = got.made > 1 ? (got.made - 1) / (got.all - got.first) : 0;
            }
        printf("%-12s %7d", tasks[task].name, first.made);
        for (int k = 0; k < N; k++) {
            double here = median(speed[k], tries);
            base = k ? base : here;
            printf("  %7.1f %5.2fx", here, base > 0 ? here / base : 0);
        }
        printf("\n");
        free(text);
    }
    bitlm_session_free(s);
}

static void bench_together(bitlm_model *m, bitlm_options o, int tries) {
    static const int counts[] = {1, 2, 4, 8, 16};
    enum { N = sizeof counts / sizeof *counts };
    char texts[MOST_ROWS][80];
    bitlm_text prompts[MOST_ROWS];
    double speed[N][MOST_TRIES], base = 0;
    o.rows = MOST_ROWS;
    o.ignore_eos = 1;
    o.max_tokens = MADE;
    bitlm_session *s = open_session(m, &o);
    for (int i = 0; i < MOST_ROWS; i++) {
        snprintf(texts[i], sizeof texts[i], "%c: the story of number %d begins", 'A' + i, i);
        prompts[i] = (bitlm_text){texts[i], strlen(texts[i])};
    }
    for (int i = 0; i < tries; i++)
        for (int k = 0; k < N; k++) {
            outcome got = run(s, prompts, (size_t)counts[k], 0, &o);
            speed[k][i] = got.made / got.all;
        }
    printf("\nrows together: tokens a second, prefill included, %d tokens each\n", MADE);
    for (int k = 0; k < N; k++) {
        double here = median(speed[k], tries);
        base = k ? base : here;
        printf("%4d rows  %8.1f  %5.2fx\n", counts[k], here, here / base);
    }
    bitlm_session_free(s);
}

static void bench_beginning(bitlm_model *m, bitlm_options o, int tries) {
    char first[sizeof passage + 40], later[sizeof passage + 40];
    double cold[MOST_TRIES], warm[MOST_TRIES];
    o.max_tokens = 1;
    for (int i = 0; i < tries; i++) {
        bitlm_session *s = open_session(m, &o);
        snprintf(first, sizeof first, "%s Answer: a fox", passage);
        snprintf(later, sizeof later, "%s Answer: the hare", passage);
        bitlm_text a = {first, strlen(first)}, b = {later, strlen(later)};
        cold[i] = run(s, &a, 1, 0, &o).all;
        warm[i] = run(s, &b, 1, 0, &o).all;
        bitlm_session_free(s);
    }
    double c = median(cold, tries), w = median(warm, tries);
    printf("\ncommon beginning of about 180 tokens: first token after %.2f ms, then %.2f ms (%.1f %%)\n", c * 1e3,
           w * 1e3, 100 * w / c);
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "story";
    bitlm_error why = {.size = sizeof why};
    bitlm_model *m;
    bitlm_model_info info = {.size = sizeof info};
    bitlm_options o;
    int tries = argc > 3 ? atoi(argv[3]) : 5;
    if (tries < 1 || tries > MOST_TRIES) {
        fprintf(stderr, "bench_rows: tries must be 1 to %d\n", MOST_TRIES);
        return 2;
    }
    bitlm_options_init(&o);
    o.threads = argc > 2 ? atoi(argv[2]) : 1;
    if (o.threads == 1)
        clock_used = CLOCK_THREAD_CPUTIME_ID;
    o.temperature = 0;
    o.repeat_penalty = 1;
    must(bitlm_model_open(path, strlen(path), 0, &o, NULL, &m, &why), &why);
    must(bitlm_model_describe(m, &info, &why), &why);
    printf("%s, %d threads, medians of %d, %s\n", path, o.threads, tries, info.can_chat ? "asked" : "continued");
    bench_lookup(m, info.can_chat, o, tries);
    bench_together(m, o, tries);
    bench_beginning(m, o, tries);
    bitlm_model_free(m);
    return 0;
}
