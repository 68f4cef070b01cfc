/* cli_each.c - `bitlm generate --each`: many prompts decoded together, a JSON text a line in the
 * prompts' order, each written as soon as it and those before it are finished.
 * Called by cli_generate.c. */
#define _GNU_SOURCE
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_LIMIT ((size_t)64 << 20)
#define ROWS 8  /* texts of n_ctx that the cache has room for, unless --rows says */

typedef struct answer {
    char *text;
    size_t length, room;
    int finished;
} answer;

typedef struct each {
    bitlm_text *prompts;
    char **messages;   /* (n) with --chat: what the prompts point into */
    answer *answers;
    size_t n, printed;
} each;

static int append(answer *a, const char *text, size_t length) {
    if (a->length + length + 1 > a->room) {
        size_t room = 2 * (a->length + length) + 64;
        char *grown = realloc(a->text, room);
        if (!grown)
            return bl_cli_fail("there is no memory for an answer of %zu bytes", a->length + length);
        a->text = grown;
        a->room = room;
    }
    if (length)
        memcpy(a->text + a->length, text, length);
    a->length += length;
    return BL_CLI_OK;
}

/* Writes what is finished and whose turn it is. */
static int print_finished(each *e) {
    for (; e->printed < e->n && e->answers[e->printed].finished; e->printed++) {
        answer *a = &e->answers[e->printed];
        json_t *text = json_stringn(a->text ? a->text : "", a->length);
        char *quoted = text ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
        json_decref(text);
        if (!quoted)
            return bl_cli_fail("there is no memory for an answer of %zu bytes", a->length);
        int failed = puts(quoted) < 0 || fflush(stdout) != 0;
        free(quoted);
        free(a->text);
        a->text = NULL;
        if (failed)
            return bl_cli_fail("cannot write the output: %s", strerror(errno));
    }
    return BL_CLI_OK;
}

/* The lines of a text, or the command's arguments. */
static int list_prompts(each *e, const bl_cli_line *line, const char *input, size_t length) {
    size_t n = (size_t)line->n_arguments;
    if (input) {
        n = 0;
        for (size_t i = 0; i < length; i++)
            n += input[i] == '\n';
        n += length && input[length - 1] != '\n';
    }
    e->prompts = calloc(n + 1, sizeof *e->prompts);
    e->messages = calloc(n + 1, sizeof *e->messages);
    e->answers = calloc(n + 1, sizeof *e->answers);
    if (!e->prompts || !e->messages || !e->answers)
        return bl_cli_fail("there is no memory for %zu prompts", n);
    e->n = n;
    for (size_t i = 0; i < n && !input; i++)
        e->prompts[i] = (bitlm_text){line->arguments[i], strlen(line->arguments[i])};
    for (size_t i = 0; i < n && input; i++) {
        const char *end = memchr(input, '\n', length);
        size_t whole = end ? (size_t)(end - input) : length, used = whole;
        if (used && input[used - 1] == '\r')
            used--;
        e->prompts[i] = (bitlm_text){input, used};
        input += whole + (end != NULL);
        length -= whole + (end != NULL);
    }
    return BL_CLI_OK;
}

int bl_cli_generate_each(bl_cli_line *line, int chat, const char *system) {
    each e = {0};
    char *input = NULL;
    size_t length = 0;
    bitlm_model *model = NULL;
    bitlm_session *session = NULL;
    bitlm_error error;
    bitlm_piece piece;
    int status = BL_CLI_OK;
    bl_cli_error_init(&error);
    memset(&piece, 0, sizeof piece);
    piece.size = sizeof piece;
    if (line->options.logprobs)
        return bl_cli_usage("--logprobs shows one text's tokens: leave --each out");
    if (line->n_arguments == 1 && strcmp(line->arguments[0], "-") == 0)
        status = bl_cli_read_stdin(INPUT_LIMIT, &input, &length);
    if (status == BL_CLI_OK)
        status = list_prompts(&e, line, input, length);
    for (size_t i = 0; i < e.n && status == BL_CLI_OK && chat; i++) {
        e.messages[i] = bl_cli_messages(system, e.prompts[i].data, e.prompts[i].length);
        if (!e.messages[i])
            status = bl_cli_fail("prompt %zu is not valid UTF-8", i);
        else
            e.prompts[i] = (bitlm_text){e.messages[i], strlen(e.messages[i])};
    }
    if (line->options.rows == 0)
        line->options.rows = ROWS;
    if (status == BL_CLI_OK)
        status = bl_cli_open(line, "story", &model, &session);
    if (status != BL_CLI_OK)
        goto fail;
    bitlm_status s = bitlm_generate_start(session, e.prompts, e.n, chat ? BITLM_GENERATE_CHAT : 0, &line->options,
                                          &error);
    while (s == BITLM_OK && status == BL_CLI_OK) {
        s = bitlm_generate_next(session, &piece, &error);
        if (s != BITLM_OK)
            break;
        answer *a = &e.answers[piece.row];
        status = append(a, piece.text, piece.text_length);
        a->finished = piece.finish != BITLM_FINISH_NONE;
        if (status == BL_CLI_OK && a->finished)
            status = print_finished(&e);
    }
    if (status == BL_CLI_OK && s != BITLM_DONE)
        status = bl_cli_error(s, &error);
fail:
    bitlm_session_free(session);
    bitlm_model_free(model);
    for (size_t i = 0; i < e.n; i++) {
        free(e.messages[i]);
        free(e.answers[i].text);
    }
    free(e.answers);
    free(e.messages);
    free(e.prompts);
    free(input);
    return status;
}
