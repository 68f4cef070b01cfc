/* cli_embed.c - `bitlm embed`: texts to codes or vectors, one line (or one record)
 * for each text.  With `-` a text is a line of the standard input; lines are answered a
 * batch at a time.  Called by cli.c. */
#define _GNU_SOURCE
#include "cli/cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 32 /* texts a call: enough to fill a pass, soon enough on a screen */

static const char usage[] =
    "usage: bitlm embed [options] TEXT...        (-: one text a line of the standard input)\n"
    "  --format hex|f32|json hex: the packed code; f32: raw little-endian float32, unit\n"
    "                        length; json: an object with code and vector a line\n"
    "  --model FILE|embed    --truncate none|start|end   --on-error raise|null\n"
    "  --threads N           --timeout-ms 0              --load auto|mmap|copy\n"
    "  --stats               texts a second, to the standard error\n";

enum format { HEX, F32, JSON };

typedef struct job {
    bitlm_session *session;
    const bitlm_options *options;
    enum format format;
    int32_t bits;
    uint8_t *out;        /* (BATCH, stride) */
    size_t stride;
    int64_t done;
} job;

static void print_hex(const uint8_t *code, size_t n) {
    for (size_t i = 0; i < n; i++)
        printf("%02x", code[i]);
}

static void print_row(const job *j, const uint8_t *row, int failed) {
    size_t n = (size_t)j->bits;
    if (j->format == F32) {
        fwrite(row, 1, n * 4, stdout); /* a failed row is zeros: records keep their places */
    } else if (j->format == HEX) {
        if (!failed)
            print_hex(row, n / 8);
        putchar('\n');
    } else if (failed) {
        puts("null");
    } else {
        const float *v = (const float *)(const void *)row;
        uint8_t byte[1];
        fputs("{\"code\":\"", stdout);
        for (size_t i = 0; i < n; i += 8) {
            bitlm_binarize(v + i, 8, 0.0f, byte);
            print_hex(byte, 1);
        }
        fputs("\",\"vector\":[", stdout);
        for (size_t i = 0; i < n; i++)
            printf("%s%.9g", i ? "," : "", (double)v[i]);
        fputs("]}\n", stdout);
    }
}

/* The core counts from 0 in the batch it was given, which here holds one text. */
static int bad_text(const job *j, const bitlm_error *error) {
    static const char prefix[] = "text 0 ";
    long long number = (long long)j->done + 1;
    if (strncmp(error->text, prefix, sizeof prefix - 1) == 0)
        return bl_cli_fail("text %lld %s", number, error->text + sizeof prefix - 1);
    return bl_cli_fail("text %lld: %s", number, error->text);
}

static int run_batch(job *j, const bitlm_text *texts, size_t n) {
    bitlm_error error;
    bitlm_status row_status[BATCH] = {0};
    int keep_going = j->options->on_error == BITLM_ON_ERROR_NULL;
    bl_cli_error_init(&error);
    memset(j->out, 0, n * j->stride);
    bitlm_status s = bitlm_embed_batch(j->session, texts, n,
                                       j->format == HEX ? BITLM_EMBED_BITS : BITLM_EMBED_F32,
                                       j->options, j->out, j->stride,
                                       keep_going ? row_status : NULL, &error);
    if (s != BITLM_OK && n > 1 && s != BITLM_CANCELED) {
        /* One text is wrong: give the others before it, then the sentence about it. */
        for (size_t i = 0; i < n; i++) {
            int status = run_batch(j, texts + i, 1);
            if (status != BL_CLI_OK)
                return status;
        }
        return BL_CLI_OK;
    }
    if (s == BITLM_CANCELED)
        return bl_cli_error(s, &error);
    if (s != BITLM_OK)
        return bad_text(j, &error);
    for (size_t i = 0; i < n; i++)
        print_row(j, j->out + i * j->stride, row_status[i] != BITLM_OK);
    j->done += (int64_t)n;
    if (fflush(stdout) != 0)
        return bl_cli_fail("cannot write the output: %s", strerror(errno));
    return BL_CLI_OK;
}

/* Lines of stdin, gathered into batches. */
static int run_lines(job *j) {
    char *lines[BATCH] = {0};
    size_t rooms[BATCH] = {0};
    bitlm_text texts[BATCH];
    int status = BL_CLI_OK;
    size_t n = 0;
    for (;;) {
        errno = 0;
        ssize_t length = getline(&lines[n], &rooms[n], stdin);
        if (length >= 0) {
            if (length && lines[n][length - 1] == '\n')
                length--;
            if (length && lines[n][length - 1] == '\r')
                length--;
            texts[n].data = lines[n];
            texts[n].length = (size_t)length;
            n++;
        } else if (!feof(stdin)) {
            status = bl_cli_interrupted() ? BL_CLI_INTERRUPTED
                                          : bl_cli_fail("cannot read the standard input: %s",
                                                        strerror(errno));
            break;
        }
        if (n == BATCH || (length < 0 && n)) {
            status = run_batch(j, texts, n);
            n = 0;
            if (status != BL_CLI_OK)
                break;
        }
        if (length < 0)
            break;
    }
    for (size_t i = 0; i < BATCH; i++)
        free(lines[i]);
    return status;
}

static int run_arguments(job *j, char **arguments, int n) {
    bitlm_text texts[BATCH];
    for (int i = 0; i < n;) {
        size_t m = 0;
        for (; m < BATCH && i < n; m++, i++) {
            texts[m].data = arguments[i];
            texts[m].length = strlen(arguments[i]);
        }
        int status = run_batch(j, texts, m);
        if (status != BL_CLI_OK)
            return status;
    }
    return BL_CLI_OK;
}

int bl_cli_embed(int argc, char **argv, int first) {
    int status, stats = 0;
    const char *format = "hex";
    bitlm_model *model = NULL;
    job j;
    bl_cli_line line;
    const bl_cli_flag flags[] = {{"format", &format, NULL}, {"stats", NULL, &stats},
                                 {"verbose", NULL, &stats}, {NULL, NULL, NULL}};

    memset(&j, 0, sizeof j);
    status = bl_cli_parse(argc, argv, first, flags, &line);
    if (status != BL_CLI_OK)
        return status;
    if (line.help) {
        fputs(usage, stdout);
        goto fail;
    }
    if (strcmp(format, "hex") == 0) {
        j.format = HEX;
    } else if (strcmp(format, "f32") == 0) {
        j.format = F32;
    } else if (strcmp(format, "json") == 0) {
        j.format = JSON;
    } else {
        char shown[60];
        status = bl_cli_usage("--format is %s, but must be hex, f32 or json",
                              bl_show(shown, sizeof shown, format, strlen(format)));
        goto fail;
    }
    if (line.n_arguments == 0) {
        status = bl_cli_usage("embed takes one text or more, or - for the standard input");
        goto fail;
    }
    status = bl_cli_open(&line, "embed", &model, &j.session);
    if (status != BL_CLI_OK)
        goto fail;
    bitlm_error error;
    bitlm_model_info info;
    bl_cli_error_init(&error);
    memset(&info, 0, sizeof info);
    info.size = sizeof info;
    bitlm_status s = bitlm_model_describe(model, &info, &error);
    if (s != BITLM_OK) {
        status = bl_cli_error(s, &error);
        goto fail;
    }
    if (!info.can_embed) {
        status = bl_cli_fail("%s has no pooling rule, so it cannot embed; without --model, embed "
                             "uses the built-in encoder", info.path);
        goto fail;
    }
    j.options = &line.options;
    j.bits = info.embedding_bits;
    j.stride = j.format == HEX ? (size_t)j.bits / 8 : (size_t)j.bits * 4;
    j.out = malloc(j.stride * BATCH);
    if (!j.out) {
        status = bl_cli_fail("there is no memory for %d codes", BATCH);
        goto fail;
    }
    uint64_t start = bl_now_ns();
    if (line.n_arguments == 1 && strcmp(line.arguments[0], "-") == 0)
        status = run_lines(&j);
    else
        status = run_arguments(&j, line.arguments, line.n_arguments);
    if (stats) {
        double seconds = (double)(bl_now_ns() - start) / 1e9;
        fprintf(stderr, "%lld texts in %.3f s, %.1f texts/s\n", (long long)j.done, seconds,
                seconds > 0 ? (double)j.done / seconds : 0.0);
    }

fail:
    free(j.out);
    bitlm_session_free(j.session);
    bitlm_model_free(model);
    bl_cli_line_free(&line);
    return status;
}
