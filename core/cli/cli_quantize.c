/* cli_quantize.c - `bitlm quantize`: a GGUF file to one of fewer bits: all layers in one type, or each tensor in its own
 * by a budget of bytes or of error.  The work is bitlm_convert's and bitlm_quantize_model's.  Called by cli.c. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static const char usage[] =
    "usage: bitlm quantize [options] SOURCE.gguf OUTPUT.gguf\n"
    "One of these three:\n"
    "  --type TYPE            all linear layers: q2_0, tq2_0, tq1_0, i2_s, q1_0, q4_0, q4_1, q4_k, q6_k, q8_0,\n"
    "                         f16, bf16, f32 (SOURCE may be a Hugging Face folder, too)\n"
    "  --budget-bytes N       a type for each tensor, or one for all, in a file of at most N bytes: the best of\n"
    "                         several candidates, which are measured whole; no worse than any single type\n"
    "  --max-error E          a type for each tensor: the smallest file found with at most E, the mean\n"
    "                         divergence of the next token's distribution, in nats (0.01 is close, 1 far off)\n"
    "With the last two:\n"
    "  --text FILE            what errors are measured on: a text like those the model is for (-: standard input)\n"
    "  --tokens N             of its beginning (default: 256); the candidates for a budget are measured on the\n"
    "                         1,024 (or N) after them, if there are 256, else on the same\n"
    "  --types LIST           to choose from, beside leaving a tensor as it is (default: q2_0,q4_0,q8_0)\n"
    "  --report               a line for each tensor: its types, bytes, and the error of its change alone\n"
    "Always:\n"
    "  --ternary absmean|twn  how float weights become -1, 0, 1 (default: absmean)\n"
    "  --scale tensor|row|group   weights that share a scale in a ternary type (default: group, the type's\n"
    "                         block, but tensor for i2_s)\n"
    "  --embedding-type TYPE  with --type: of the embedding and of a head of its own (default: as it is)\n"
    "  --threads N            (default: the physical cores); the output does not depend on it\n"
    "A model that was not trained for it does not survive ternary layers: docs/QUANTIZATION.md has figures.\n"
    "The output appears whole or not at all.\n";

typedef struct words {
    const char *type, *embedding, *budget, *error, *text, *tokens, *types, *ternary, *scale;
    int report;
} words;

static int one_of(const char *name, const char *word, const char *const *names, int n, int32_t *out) {
    char shown[60], list[100] = "";
    for (int i = 0; i < n; i++) {
        if (strcmp(word, names[i]) == 0) {
            *out = i;
            return BL_CLI_OK;
        }
        strcat(strcat(list, i ? ", " : ""), names[i]);
    }
    return bl_cli_usage("--%s is %s, but must be one of %s", name, bl_show(shown, sizeof shown, word, strlen(word)), list);
}

static int read_ternary(const words *w, int32_t *ternary, int32_t *scale_per) {
    static const char *const methods[] = {"absmean", "twn"}, *const scales[] = {"tensor", "row", "group"};
    int i2_s = w->type && strcasecmp(w->type, "i2_s") == 0;
    int status = one_of("ternary", w->ternary ? w->ternary : "absmean", methods, 2, ternary);
    return status ? status : one_of("scale", w->scale ? w->scale : i2_s ? "tensor" : "group", scales, 3, scale_per);
}

static int one_type(const bl_cli_line *line, const words *w) {
    int percent = -1, status;
    bitlm_convert_options options;
    bitlm_error error;
    bitlm_host host;
    if (w->text || w->tokens || w->types || w->report)
        return bl_cli_usage("--text, --tokens, --types and --report belong to --budget-bytes and --max-error");
    bl_cli_error_init(&error);
    bl_cli_host(&host);
    bitlm_convert_options_init(&options);
    status = read_ternary(w, &options.ternary, &options.scale_per);
    if (status != BL_CLI_OK)
        return status;
    options.type = (bitlm_text){w->type, strlen(w->type)};
    if (w->embedding)
        options.embedding_type = (bitlm_text){w->embedding, strlen(w->embedding)};
    options.threads = line->options.threads;
    if (isatty(STDERR_FILENO)) {
        options.progress = bl_cli_progress;
        options.progress_context = &percent;
    }
    const char *from = line->arguments[0], *to = line->arguments[1];
    bitlm_status s = bitlm_convert(from, strlen(from), to, strlen(to), &options, &host, &error);
    bl_cli_progress_end(&percent);
    return s == BITLM_OK ? BL_CLI_OK : bl_cli_error(s, &error);
}

/* ---- a type for each tensor ------------------------------------------------------------------------------ */

#define MAX_KINDS 32

typedef struct kind {
    char type[16];
    unsigned long long tensors, bytes;
} kind;

typedef struct tally {
    int report, n_kinds;
    kind kinds[MAX_KINDS];
} tally;

static void on_tensor(void *context, const bitlm_quantized_tensor *t) {
    tally *sum = context;
    char name[80];
    int i = 0;
    while (i < sum->n_kinds && strcmp(sum->kinds[i].type, t->type) != 0)
        i++;
    if (i == sum->n_kinds && i < MAX_KINDS) {
        sum->n_kinds++;
        snprintf(sum->kinds[i].type, sizeof sum->kinds[i].type, "%s", t->type);
    }
    if (i < MAX_KINDS) {
        sum->kinds[i].tensors++;
        sum->kinds[i].bytes += t->bytes;
    }
    if (sum->report)
        printf("%-34s %-6s %-6s %12llu  %.6f\n", bl_show(name, sizeof name, t->name, strlen(t->name)), t->source_type, t->type,
               (unsigned long long)t->bytes, t->error);
}

static int number(const char *name, const char *text, double *value) {
    char *end, shown[60];
    errno = 0;
    *value = strtod(text, &end);
    if (end == text || *end || errno || !isfinite(*value) || *value <= 0)
        return bl_cli_usage("--%s is %s, but must be a positive number", name, bl_show(shown, sizeof shown, text, strlen(text)));
    return BL_CLI_OK;
}

static int read_numbers(const words *w, bitlm_quantize_options *options) {
    long long budget = 0, tokens = 0;
    int status = w->budget ? bl_cli_integer("budget-bytes", w->budget, 1, INT64_MAX, &budget) : BL_CLI_OK;
    if (status == BL_CLI_OK && w->tokens)
        status = bl_cli_integer("tokens", w->tokens, 16, 65536, &tokens);
    if (status == BL_CLI_OK && w->error)
        status = number("max-error", w->error, &options->max_error);
    options->budget_bytes = (uint64_t)budget;
    options->tokens = (int32_t)tokens;
    return status == BL_CLI_OK ? read_ternary(w, &options->ternary, &options->scale_per) : status;
}

static int by_tensor(const bl_cli_line *line, const words *w) {
    int percent = -1;
    char *text = NULL;
    size_t length = 0;
    tally sum = {.report = w->report};
    bitlm_quantize_options options;
    bitlm_quantize_result result = {.size = sizeof result};
    bitlm_error error;
    bitlm_host host;
    if (w->embedding)
        return bl_cli_usage("--embedding-type belongs to --type");
    if (!w->text)
        return bl_cli_usage("--budget-bytes and --max-error need --text FILE to measure errors on");
    bl_cli_error_init(&error);
    bl_cli_host(&host);
    bitlm_quantize_options_init(&options);
    int status = read_numbers(w, &options);
    if (status == BL_CLI_OK)
        status = bl_cli_read_text(w->text, &text, &length);
    if (status != BL_CLI_OK)
        return status;
    options.text = (bitlm_text){text, length};
    if (w->types)
        options.types = (bitlm_text){w->types, strlen(w->types)};
    options.threads = line->options.threads;
    options.tensor = on_tensor;
    options.tensor_context = &sum;
    if (isatty(STDERR_FILENO)) {
        options.progress = bl_cli_progress;
        options.progress_context = &percent;
    }
    const char *from = line->arguments[0], *to = line->arguments[1];
    bitlm_status s = bitlm_quantize_model(from, strlen(from), to, strlen(to), &options, &host, &result, &error);
    bl_cli_progress_end(&percent);
    free(text);
    if (s != BITLM_OK)
        return bl_cli_error(s, &error);
    for (int i = 0; i < sum.n_kinds; i++)
        printf("%-8s      %llu tensors, %llu bytes\n", sum.kinds[i].type, sum.kinds[i].tensors, sum.kinds[i].bytes);
    printf("bytes         %llu of %llu\n", (unsigned long long)result.bytes, (unsigned long long)result.source_bytes);
    printf("error         %.6f nats a token (sum of each change alone: %.6f)\n", result.error, result.predicted_error);
    printf("perplexity    %.4f, of the source %.4f, on %d tokens of the text\n", result.perplexity, result.source_perplexity,
           (int)result.tokens);
    return BL_CLI_OK;
}

int bl_cli_quantize(int argc, char **argv, int first) {
    words w = {0};
    bl_cli_line line;
    const bl_cli_flag flags[] = {{"type", &w.type, NULL},       {"embedding_type", &w.embedding, NULL},
                                 {"budget_bytes", &w.budget, NULL}, {"max_error", &w.error, NULL},
                                 {"text", &w.text, NULL},       {"tokens", &w.tokens, NULL},
                                 {"types", &w.types, NULL},     {"ternary", &w.ternary, NULL},
                                 {"scale", &w.scale, NULL},     {"report", NULL, &w.report},
                                 {NULL, NULL, NULL}};
    int status = bl_cli_parse(argc, argv, first, flags, &line);
    if (status != BL_CLI_OK)
        return status;
    if (line.help)
        fputs(usage, stdout);
    else if (line.n_arguments != 2)
        status = bl_cli_usage("quantize takes a source and an output, but got %d names", line.n_arguments);
    else if (!!w.type + !!w.budget + !!w.error != 1)
        status = bl_cli_usage("quantize takes one of --type, --budget-bytes and --max-error");
    else
        status = w.type ? one_type(&line, &w) : by_tensor(&line, &w);
    bl_cli_line_free(&line);
    return status;
}
