/* cli_generate.c - `bitlm generate`: streams the continuation of a prompt to stdout,
 * each piece written as soon as it is final.  Called by cli.c. */
#define _GNU_SOURCE
#include "cli/cli.h"
#include "run/run.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PROMPT_LIMIT ((size_t)64 << 20)

static const char usage[] =
    "usage: bitlm generate [options] PROMPT      (PROMPT - reads the standard input)\n"
    "       bitlm generate --each [options] PROMPT...|-   many, - a line each: a JSON text a line\n"
    "  --model FILE|story    --max-tokens 128      --temperature 0.7 (0: greedy)\n"
    "  --top-p 0.95          --top-k 0 (off)       --min-p 0.05\n"
    "  --repeat-penalty 1.1  --seed 0              --stop TEXT (may be repeated)\n"
    "  --choices TEXT (repeat it, or a JSON array): the answer is one of them\n"
    "  --json-schema SCHEMA  the answer is a flat JSON object of this schema\n"
    "  --ignore-eos          --n-ctx 0 (model's)   --kv-type f16|f32|int8|int4\n"
    "  --threads N           --timeout-ms 0        --truncate none|start|end\n"
    "  --rows 0 (8 with --each: texts of n_ctx that the cache has room for)\n"
    "  --head full|shortlist  shortlist: a float output head is read only where it matters (docs/SQL.md)\n"
    "  --lookup 0 (tokens guessed from the text so far; the answer stays the same)\n"
    "  --load auto|mmap|copy --hidden-act auto|relu2|silu\n"
    "  --chat                the prompt is what a user says (models with a chat template)\n"
    "  --system TEXT         with --chat: the system message\n"
    "  --logprobs            a line a token: number, id, log probability, text\n"
    "  --verbose, --stats    tokens a second, to the standard error\n";

/* [{"role":"system",…},{"role":"user",…}]; NULL if a text is not UTF-8. */
char *bl_cli_messages(const char *system, const char *prompt, size_t length) {
    json_t *list = json_array();
    json_t *user = json_stringn(prompt, length);
    char *text = NULL;
    int ok = list && user;
    if (ok && system)
        ok = json_array_append_new(list, json_pack("{s:s,s:s}", "role", "system", "content",
                                                   system)) == 0;
    if (ok)
        ok = json_array_append_new(list, json_pack("{s:s,s:O}", "role", "user", "content",
                                                   user)) == 0;
    if (ok)
        text = json_dumps(list, JSON_COMPACT);
    json_decref(user);
    json_decref(list);
    return text;
}

static int print_piece(const bitlm_piece *piece, int with_logprobs) {
    if (with_logprobs) {
        if (piece->token >= 0) {
            json_t *text = json_stringn(piece->text, piece->text_length);
            char *quoted = text ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
            printf("%d\t%d\t%.6f\t%s\n", piece->n, piece->token, (double)piece->logprob,
                   quoted ? quoted : "\"\"");
            free(quoted);
            json_decref(text);
        }
    } else if (piece->text_length) {
        fwrite(piece->text, 1, piece->text_length, stdout);
    }
    return fflush(stdout) == 0 && !ferror(stdout);
}

/* prompt NULL: its tokens are not known here (a chat's messages are rendered in the core). */
/* How often the shortlist of the head was enough. */
static void print_head(const bl_short_head *h) {
    unsigned long long settled = h->n_settled, whole = h->n_whole;
    if (h->list && h->on)
        fprintf(stderr, "head:    %llu tokens from the shortlist, %.1f rows of the head read for each; %llu more needed all\n", settled,
                settled ? (double)h->n_kept / (double)settled : 0.0, whole);
    else if (h->list)
        fprintf(stderr, "head:    all rows, since these options need every token's probability\n");
}

static void print_stats(const bitlm_model *model, const bitlm_text *prompt, int64_t n_made,
                        uint64_t t_open, uint64_t t_first, uint64_t t_end, int finish) {
    static const char *const why[] = {"cut off", "stop", "length", "context"};
    size_t n_prompt = 0;
    bitlm_error error;
    bl_cli_error_init(&error);
    double prefill = (double)(t_first - t_open) / 1e9, decode = (double)(t_end - t_first) / 1e9;
    if (prompt) { /* a capacity of 0 only counts */
        bitlm_tokenize(model, prompt->data, prompt->length, BITLM_TOKENS_FRAME, NULL, NULL, 0, &n_prompt,
                       &error);
        fprintf(stderr, "prefill: %zu tokens in %.3f s", n_prompt, prefill);
        if (prefill > 0)
            fprintf(stderr, ", %.1f tokens/s", (double)n_prompt / prefill);
    } else {
        fprintf(stderr, "prefill: %.3f s", prefill);
    }
    fprintf(stderr, "\ndecode:  %lld tokens in %.3f s", (long long)n_made, decode);
    if (decode > 0 && n_made > 1) /* the first token belongs to the prefill */
        fprintf(stderr, ", %.1f tokens/s", (double)(n_made - 1) / decode);
    fprintf(stderr, "\nended by: %s\n", why[finish >= 0 && finish <= 3 ? finish : 0]);
}

int bl_cli_generate(int argc, char **argv, int first) {
    int status, verbose = 0, chat = 0, each = 0, newline = 1;
    const char *system = NULL;
    char *owned = NULL, *messages = NULL;
    bitlm_model *model = NULL;
    bitlm_session *session = NULL;
    bitlm_text prompt = {NULL, 0};
    bl_cli_line line;
    const bl_cli_flag flags[] = {{"verbose", NULL, &verbose}, {"stats", NULL, &verbose},
                                 {"chat", NULL, &chat},       {"system", &system, NULL},
                                 {"each", NULL, &each},       {NULL, NULL, NULL}};

    status = bl_cli_parse(argc, argv, first, flags, &line);
    if (status != BL_CLI_OK)
        return status;
    if (line.help) {
        fputs(usage, stdout);
        goto fail;
    }
    if (system && !chat) {
        status = bl_cli_usage("--system needs --chat");
        goto fail;
    }
    if (each && line.n_arguments > 0) {
        status = bl_cli_generate_each(&line, chat, system);
        goto fail;
    }
    if (line.n_arguments != 1) {
        status = bl_cli_usage("generate takes one prompt, but got %d; `bitlm generate --help` "
                              "shows the options", line.n_arguments);
        goto fail;
    }
    prompt.data = line.arguments[0];
    prompt.length = strlen(prompt.data);
    if (strcmp(prompt.data, "-") == 0) {
        status = bl_cli_read_stdin(PROMPT_LIMIT, &owned, &prompt.length);
        if (status != BL_CLI_OK)
            goto fail;
        /* As $(…) does: the line end that echo and editors add is not meant. */
        if (prompt.length && owned[prompt.length - 1] == '\n')
            prompt.length--;
        if (prompt.length && owned[prompt.length - 1] == '\r')
            prompt.length--;
        prompt.data = owned;
    }
    if (chat) {
        messages = bl_cli_messages(system, prompt.data, prompt.length);
        if (!messages) {
            status = bl_cli_fail("the messages are not valid UTF-8");
            goto fail;
        }
        prompt.data = messages;
        prompt.length = strlen(messages);
    }
    status = bl_cli_open(&line, "story", &model, &session);
    if (status != BL_CLI_OK)
        goto fail;

    bitlm_error error;
    bitlm_piece piece;
    bl_cli_error_init(&error);
    memset(&piece, 0, sizeof piece);
    piece.size = sizeof piece;
    uint64_t t_open = bl_now_ns(), t_first = 0;
    int64_t n_made = 0;
    int finish = BITLM_FINISH_NONE;
    bitlm_status s = bitlm_generate_start(session, &prompt, 1, chat ? BITLM_GENERATE_CHAT : 0,
                                          &line.options, &error);
    while (s == BITLM_OK) {
        s = bitlm_generate_next(session, &piece, &error);
        if (s != BITLM_OK)
            break;
        if (!t_first)
            t_first = bl_now_ns();
        if (piece.token >= 0)
            n_made++;
        finish = piece.finish;
        if (!print_piece(&piece, line.options.logprobs)) {
            status = bl_cli_fail("cannot write the output: %s", strerror(errno));
            goto fail;
        }
        if (piece.text_length)
            newline = piece.text[piece.text_length - 1] == '\n';
        else if (n_made == 1)
            newline = 0;
    }
    uint64_t t_end = bl_now_ns();
    /* Also after Ctrl-C and errors: what came is shown, the terminal's line ended. */
    if (!line.options.logprobs && t_first && !newline)
        putchar('\n');
    fflush(stdout);
    if (s != BITLM_DONE)
        status = bl_cli_error(s, &error);
    if (verbose && t_first)
        print_stats(model, chat ? NULL : &prompt, n_made, t_open, t_first, t_end, finish);
    if (verbose && t_first)
        print_head(&session->head);

fail:
    bitlm_session_free(session);
    bitlm_model_free(model);
    free(messages);
    free(owned);
    bl_cli_line_free(&line);
    return status;
}
