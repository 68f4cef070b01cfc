/* cli_perplexity.c - `bitlm perplexity`: how well a model foretells a text.
 *
 * The text's tokens run in windows of W that advance by S, so that each token but the first
 * window's is scored once and sees at least W - S tokens before it; a model that begins texts
 * with BOS gets it in front of every window.  Perplexity = exp(mean negative log-likelihood).
 * Called by cli.c. */
#define _GNU_SOURCE
#include "cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/model.h"

#define DEFAULT_WINDOW 512

static const char usage[] =
    "usage: bitlm perplexity [options] [MODEL] FILE     (-: the standard input)\n"
    "  --model FILE|story    instead of the argument MODEL (default: story)\n"
    "  --window N            tokens that are seen at once (default: 512, or the model's context)\n"
    "  --stride N            tokens a window is ahead of the one before (default: half a window)\n"
    "  --max-tokens N        of the text; 0: all (default: 0)\n"
    "  --threads N   --kv-type f16|f32|int8|int4   --activations int8|a4.8|binary   --load auto|mmap|copy   --hidden-act auto|relu2|silu\n"
    "Prints the perplexity with its standard error, and the figures that it comes from.\n";

typedef struct scores {
    int64_t n, windows;
    double sum, squares; /* of -log p */
} scores;

static int tokenize(const bitlm_model *model, const char *text, size_t length, uint32_t flags, int32_t **ids,
                    size_t *n) {
    bitlm_error error;
    bitlm_host host;
    bl_cli_error_init(&error);
    bl_cli_host(&host);
    size_t capacity = length / 2 + 16;
    for (;;) {
        *ids = malloc(capacity * sizeof **ids);
        if (!*ids)
            return bl_cli_fail("there is no memory for %zu tokens", capacity);
        bitlm_status s = bitlm_tokenize(model, text, length, flags, &host, *ids, capacity, n, &error);
        if (s == BITLM_OK)
            return BL_CLI_OK;
        free(*ids);
        *ids = NULL;
        if (s != BITLM_LIMIT || *n <= capacity)
            return bl_cli_error(s, &error);
        capacity = *n;
    }
}

/* BOS if the model's texts begin with one, else -1. */
static int begin_token(const bitlm_model *model, int32_t *bos) {
    int32_t *ids;
    size_t n;
    int status = tokenize(model, "", 0, BITLM_TOKENS_FRAME, &ids, &n);
    if (status != BL_CLI_OK)
        return status;
    *bos = n > 0 && ids[0] == bl_tokenizer_bos(model->tokenizer) ? ids[0] : -1;
    free(ids);
    return BL_CLI_OK;
}

static int score_windows(bitlm_session *session, int32_t bos, const int32_t *ids, int64_t n, int64_t window,
                         int64_t stride, scores *out) {
    int status = BL_CLI_OK, percent = -1, tty = isatty(STDERR_FILENO);
    int64_t room = window - (bos >= 0), scored = 0;
    int32_t *in = malloc((size_t)window * sizeof *in);
    float *logprobs = malloc((size_t)window * sizeof *logprobs);
    if (!in || !logprobs)
        status = bl_cli_fail("there is no memory for a window of %lld tokens", (long long)window);
    for (int64_t begin = 0; status == BL_CLI_OK && scored < n; begin += stride) {
        bitlm_error error;
        int64_t k = 0, end = BL_MIN(begin + room, n);
        bl_cli_error_init(&error);
        if (bos >= 0)
            in[k++] = bos;
        memcpy(in + k, ids + begin, (size_t)(end - begin) * sizeof *in);
        bitlm_status s = bitlm_score(session, in, (size_t)(k + end - begin), logprobs, &error);
        if (s != BITLM_OK)
            status = bl_cli_error(s, &error);
        for (int64_t i = BL_MAX(scored, begin); status == BL_CLI_OK && i < end; i++) {
            if (k + i - begin == 0)
                continue; /* nothing stands before it */
            double nll = -(double)logprobs[k + i - begin];
            out->sum += nll;
            out->squares += nll * nll;
            out->n++;
        }
        scored = end;
        out->windows++;
        if (tty)
            bl_cli_progress(&percent, (double)scored / (double)n);
    }
    bl_cli_progress_end(&percent);
    free(in);
    free(logprobs);
    return status;
}

static void print_result(const scores *s, size_t n_bytes, size_t n_ids, long long window, long long stride) {
    double mean = s->sum / (double)s->n;
    double spread = s->n > 1 ? (s->squares - s->sum * mean) / (double)(s->n - 1) : 0;
    double error = exp(mean) * sqrt(BL_MAX(spread, 0.0) / (double)s->n);
    printf("perplexity    %.4f +/- %.4f\n", exp(mean), error);
    printf("nats a token  %.6f\n", mean);
    printf("bits a byte   %.4f\n", mean / log(2) * (double)n_ids / (double)n_bytes);
    printf("tokens        %lld scored of %zu, %lld windows of %lld, stride %lld\n", (long long)s->n, n_ids,
           (long long)s->windows, window, stride);
}

int bl_cli_perplexity(int argc, char **argv, int first) {
    int status;
    const char *window_text = NULL, *stride_text = NULL, *max_text = NULL;
    long long window = 0, stride = 0, max_tokens = 0;
    char *text = NULL;
    int32_t *ids = NULL, bos;
    size_t length = 0, n = 0;
    bitlm_model *model = NULL;
    bitlm_session *session = NULL;
    scores result = {0};
    bl_cli_line line;
    const bl_cli_flag flags[] = {{"window", &window_text, NULL}, {"stride", &stride_text, NULL},
                                 {"max_tokens", &max_text, NULL}, {NULL, NULL, NULL}};

    status = bl_cli_parse(argc, argv, first, flags, &line);
    if (status != BL_CLI_OK)
        return status;
    if (line.help) {
        fputs(usage, stdout);
        goto fail;
    }
    if (line.n_arguments < 1 || line.n_arguments > 2 || (line.n_arguments == 2 && line.options.model.data)) {
        status = bl_cli_usage("perplexity takes a model and one file of text, but got %d names%s", line.n_arguments,
                              line.options.model.data ? " beside --model" : "");
        goto fail;
    }
    if (window_text)
        status = bl_cli_integer("window", window_text, 2, 1 << 24, &window);
    if (status == BL_CLI_OK && stride_text)
        status = bl_cli_integer("stride", stride_text, 1, 1 << 24, &stride);
    if (status == BL_CLI_OK && max_text)
        status = bl_cli_integer("max-tokens", max_text, 0, (long long)1 << 40, &max_tokens);
    if (status != BL_CLI_OK)
        goto fail;
    if (!line.options.n_ctx)
        line.options.n_ctx = (int32_t)BL_MAX(window, 0);
    status = bl_cli_open(&line, line.n_arguments == 2 ? line.arguments[0] : "story", &model, &session);
    if (status != BL_CLI_OK)
        goto fail;
    if (!window)
        window = BL_MIN(DEFAULT_WINDOW, line.options.n_ctx ? line.options.n_ctx : model->context_length);
    if (!stride)
        stride = BL_MAX(window / 2, 1);
    status = begin_token(model, &bos);
    if (status == BL_CLI_OK && stride > window - (bos >= 0))
        status = bl_cli_usage("--stride is %lld, but a window has room for %lld tokens of text", stride,
                              window - (bos >= 0));
    if (status == BL_CLI_OK)
        status = bl_cli_read_text(line.arguments[line.n_arguments - 1], &text, &length);
    if (status == BL_CLI_OK)
        status = tokenize(model, text, length, 0, &ids, &n);
    if (status != BL_CLI_OK)
        goto fail;
    size_t n_used = max_tokens && (size_t)max_tokens < n ? (size_t)max_tokens : n;
    if (n_used < (bos >= 0 ? 1u : 2u)) {
        status = bl_cli_fail("the text has %zu tokens, too few to foretell one from another", n_used);
        goto fail;
    }
    status = score_windows(session, bos, ids, (int64_t)n_used, window, stride, &result);
    if (status == BL_CLI_OK)
        print_result(&result, (size_t)((double)length * (double)n_used / (double)n), n_used, window, stride);

fail:
    free(ids);
    free(text);
    bitlm_session_free(session);
    bitlm_model_free(model);
    bl_cli_line_free(&line);
    return status;
}
