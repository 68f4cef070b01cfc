/* cli.c - the command's front: picks the subcommand, reads the command line, and
 * holds what all subcommands share (messages, Ctrl-C, opening a model).
 *
 * Options of a model or a generation are not known here: `--top-p 0.9` becomes
 * {"top_p":0.9} and goes through bitlm_options_json, so names, ranges, defaults and
 * error sentences are the same as in SQL.  Called by main.c. */
#define _GNU_SOURCE
#include "cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/pool.h"
#include "kernels/kernels.h"

/* ---- messages ------------------------------------------------------------------------- */

static int say(int status, const char *format, va_list args) {
    fflush(stdout); /* what was made so far stands before the message */
    fputs("bitlm: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    return status;
}

int bl_cli_fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    int status = say(BL_CLI_FAILED, format, args);
    va_end(args);
    return status;
}

int bl_cli_usage(const char *format, ...) {
    va_list args;
    va_start(args, format);
    int status = say(BL_CLI_USAGE, format, args);
    va_end(args);
    return status;
}

void bl_cli_error_init(bitlm_error *error) {
    memset(error, 0, sizeof *error);
    error->size = sizeof *error;
}

int bl_cli_error(bitlm_status status, const bitlm_error *error) {
    if (status == BITLM_CANCELED && bl_cli_interrupted())
        return BL_CLI_INTERRUPTED; /* whoever pressed Ctrl-C knows why it stopped */
    return bl_cli_fail("%s", error->text[0] ? error->text : bitlm_status_name(status));
}

/* ---- Ctrl-C ----------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;
static atomic_flag running = ATOMIC_FLAG_INIT; /* the command owns SIGINT and the streams */

static void on_sigint(int number) {
    (void)number;
    interrupted = 1;
}

int bl_cli_interrupted(void) { return interrupted != 0; }

static int32_t poll_sigint(void *context) {
    (void)context;
    return interrupted;
}

/* Warnings go to stderr; the rest is for hosts that keep a log. */
static void log_warning(void *context, int32_t level, const char *text, size_t length) {
    (void)context;
    if (level == BITLM_LOG_WARNING)
        fprintf(stderr, "bitlm: warning: %.*s\n", (int)length, text);
}

void bl_cli_host(bitlm_host *host) {
    memset(host, 0, sizeof *host);
    host->size = sizeof *host;
    host->poll = poll_sigint;
    host->log = log_warning;
}

/* ---- the command line --------------------------------------------------------------------- */

/* Options whose value is text even where it looks like a number, and those that
 * need no value.  Anything else travels as the number it spells, or as text for the
 * parser to refuse. */
static const char *const text_options[] = {"model", "kv_type",    "truncate",   "on_error",    "activations",
                                           "load",  "hidden_act", "json_schema", "chat_template", "head"};
static const char *const list_options[] = {"stop", "choices"}; /* may be given several times */
static const char *const switch_options[] = {"ignore_eos", "logprobs"};

static int is_one_of(const char *name, const char *const *names, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, names[i]) == 0)
            return 1;
    return 0;
}

/* NULL when memory is out or the text is not UTF-8 (jansson takes no other). */
static json_t *number_or_text(const char *text) {
    json_error_t ignored;
    if (strcmp(text, "true") == 0)
        return json_true();
    if (strcmp(text, "false") == 0)
        return json_false();
    json_t *value = json_loads(text, JSON_DECODE_ANY, &ignored);
    if (json_is_number(value))
        return value;
    json_decref(value);
    return json_string(text);
}

/* "--max-tokens=5": the name goes to `out` with '_' for '-'; returns what follows '='. */
static const char *split_name(const char *word, char *out, size_t cap) {
    size_t n = 0;
    const char *p = word + 2;
    for (; *p && *p != '='; p++)
        if (n + 1 < cap)
            out[n++] = *p == '-' ? '_' : *p;
    out[n] = '\0';
    return *p == '=' ? p + 1 : NULL;
}

static int add_option(json_t *object, const char *name, const char *text) {
    json_t *value;
    int listed = is_one_of(name, list_options, BL_COUNT(list_options));
    if (!text)
        value = json_true();
    else if (listed && strcmp(name, "choices") == 0 && text[0] == '[')
        value = json_loads(text, 0, NULL); /* as SQL has them */
    else if (listed || is_one_of(name, text_options, BL_COUNT(text_options)))
        value = json_string(text);
    else
        value = number_or_text(text);
    if (!value && listed)
        return bl_cli_usage("the value of --%s is no JSON array and no UTF-8 text", name);
    if (!value)
        return bl_cli_usage("the value of --%s is not valid UTF-8", name);
    int failed;
    if (listed) {
        json_t *list = json_object_get(object, name);
        if (!list) {
            list = json_array();
            json_object_set_new(object, name, list);
        }
        if (json_is_array(value)) {
            failed = json_array_extend(list, value);
            json_decref(value);
        } else {
            failed = json_array_append_new(list, value);
        }
    } else {
        failed = json_object_set_new(object, name, value);
    }
    return failed ? bl_cli_fail("there is no memory for the options, or --%s is not UTF-8", name)
                  : BL_CLI_OK;
}

int bl_cli_parse(int argc, char **argv, int first, const bl_cli_flag *flags, bl_cli_line *line) {
    int status = BL_CLI_OK, only_arguments = 0;
    char *text = NULL;
    json_t *object = json_object();

    memset(line, 0, sizeof *line);
    bitlm_options_init(&line->options);
    line->arguments = calloc((size_t)argc + 1, sizeof *line->arguments);
    if (!line->arguments || !object) {
        status = bl_cli_fail("there is no memory for the command line");
        goto fail;
    }
    for (int i = first; i < argc; i++) {
        char *word = argv[i];
        if (only_arguments || word[0] != '-' || word[1] == '\0') {
            line->arguments[line->n_arguments++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            only_arguments = 1;
            continue;
        }
        if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0) {
            line->help = 1;
            continue;
        }
        if (word[1] != '-') {
            char shown[60];
            status = bl_cli_usage("there is no option %s; put -- before a text that begins with -",
                                  bl_show(shown, sizeof shown, word, strlen(word)));
            goto fail;
        }
        char name[64];
        const char *value = split_name(word, name, sizeof name);
        const bl_cli_flag *flag = flags;
        while (flag && flag->name && strcmp(flag->name, name) != 0)
            flag++;
        int own = flag && flag->name;
        if (own && flag->set) {
            if (value) {
                status = bl_cli_usage("--%s takes no value", name);
                goto fail;
            }
            *flag->set = 1;
            continue;
        }
        if (!value && !is_one_of(name, switch_options, BL_COUNT(switch_options))) {
            if (i + 1 >= argc) {
                status = bl_cli_usage("--%s needs a value", name);
                goto fail;
            }
            value = argv[++i];
        }
        if (own)
            *flag->value = value;
        else if ((status = add_option(object, name, value)) != BL_CLI_OK)
            goto fail;
    }
    text = json_dumps(object, JSON_COMPACT);
    if (!text) {
        status = bl_cli_fail("there is no memory for the options");
        goto fail;
    }
    bitlm_error error;
    bl_cli_error_init(&error);
    if (bitlm_options_json(&line->options, text, strlen(text), &error) != BITLM_OK) {
        status = bl_cli_usage("%s", error.text);
        goto fail;
    }
    free(text);
    json_decref(object);
    return BL_CLI_OK;

fail:
    free(text);
    json_decref(object);
    bl_cli_line_free(line);
    return status;
}

void bl_cli_line_free(bl_cli_line *line) {
    bitlm_options_clear(&line->options);
    free(line->arguments);
    line->arguments = NULL;
    line->n_arguments = 0;
}

int bl_cli_integer(const char *name, const char *text, long long low, long long high,
                   long long *value) {
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end || errno || v < low || v > high) {
        char shown[60];
        return bl_cli_usage("--%s is %s, but must be a whole number from %lld to %lld", name,
                            bl_show(shown, sizeof shown, text, strlen(text)), low, high);
    }
    *value = v;
    return BL_CLI_OK;
}

/* ---- models and input ---------------------------------------------------------------------- */

int bl_cli_open(const bl_cli_line *line, const char *builtin, bitlm_model **model,
                bitlm_session **session) {
    bitlm_error error;
    bitlm_host host;
    bitlm_options options = line->options; /* the texts stay the line's */
    bl_cli_error_init(&error);
    bl_cli_host(&host);
    *model = NULL;
    *session = NULL;

    const char *name = options.model.data ? options.model.data : builtin;
    size_t length = options.model.data ? options.model.length : strlen(builtin);
    bitlm_status s = bitlm_model_open(name, length, 0, &options, &host, model, &error);
    if (s != BITLM_OK)
        return bl_cli_error(s, &error);
    if (options.threads == 0)
        options.threads = bl_physical_cores();
    s = bitlm_session_open(*model, &options, &host, session, &error);
    if (s != BITLM_OK) {
        bitlm_model_free(*model);
        *model = NULL;
        return bl_cli_error(s, &error);
    }
    return BL_CLI_OK;
}

int bl_cli_read_stdin(size_t limit, char **text, size_t *length) {
    size_t n = 0, room = 1 << 16;
    char *buffer = malloc(room);
    if (!buffer)
        return bl_cli_fail("there is no memory to read the standard input");
    for (;;) {
        ssize_t got = read(STDIN_FILENO, buffer + n, room - n);
        if (got < 0 && errno == EINTR && !interrupted)
            continue;
        if (got < 0) {
            int status = interrupted ? BL_CLI_INTERRUPTED
                                     : bl_cli_fail("cannot read the standard input: %s",
                                                   strerror(errno));
            free(buffer);
            return status;
        }
        if (got == 0)
            break;
        n += (size_t)got;
        if (n > limit) {
            free(buffer);
            return bl_cli_fail("the standard input is longer than %zu bytes", limit);
        }
        if (n == room) {
            char *grown = realloc(buffer, room * 2);
            if (!grown) {
                free(buffer);
                return bl_cli_fail("there is no memory to read the standard input");
            }
            buffer = grown;
            room *= 2;
        }
    }
    *text = buffer;
    *length = n;
    return BL_CLI_OK;
}

#define MAX_TEXT ((size_t)1 << 30)

int bl_cli_read_text(const char *path, char **text, size_t *length) {
    char shown[300];
    if (strcmp(path, "-") == 0)
        return bl_cli_read_stdin(MAX_TEXT, text, length);
    FILE *f = fopen(path, "rb");
    struct stat st;
    bl_show(shown, sizeof shown, path, strlen(path));
    if (!f || fstat(fileno(f), &st) != 0 || !S_ISREG(st.st_mode)) {
        int status = bl_cli_fail("cannot read %s: %s", shown, f && errno == 0 ? "it is no file" : strerror(errno));
        if (f)
            fclose(f);
        return status;
    }
    int status = BL_CLI_OK;
    if ((uint64_t)st.st_size > MAX_TEXT)
        status = bl_cli_fail("%s has %lld bytes, but a text may have at most %zu", shown, (long long)st.st_size,
                             MAX_TEXT);
    *text = NULL;
    if (status == BL_CLI_OK && !(*text = malloc((size_t)st.st_size + 1)))
        status = bl_cli_fail("there is no memory for the %lld bytes of %s", (long long)st.st_size, shown);
    if (status == BL_CLI_OK) {
        *length = fread(*text, 1, (size_t)st.st_size, f);
        if (ferror(f))
            status = bl_cli_fail("cannot read %s: %s", shown, strerror(errno));
    }
    fclose(f);
    return status;
}

void bl_cli_progress(void *last_percent, double fraction) {
    int *last = last_percent, percent = (int)(fraction * 100);
    if (percent == *last)
        return;
    *last = percent;
    fprintf(stderr, "\r%3d %%", percent);
    fflush(stderr);
}

void bl_cli_progress_end(const int *last_percent) {
    if (*last_percent >= 0)
        fputs("\r     \r", stderr);
}

/* ---- the subcommands -------------------------------------------------------------------------- */

static const char help_text[] =
    "bitlm " BITLM_VERSION ": 1-bit language models on this machine\n"
    "\n"
    "  bitlm generate [options] PROMPT|-      continue a text, token by token\n"
    "  bitlm embed    [options] TEXT...|-     binary codes of texts (-: one text a line)\n"
    "  bitlm info     [options] FILE|story|embed   what is in a model file\n"
    "  bitlm convert  [options] SOURCE OUTPUT a Hugging Face folder or GGUF file to a GGUF file\n"
    "  bitlm quantize [options] SOURCE OUTPUT a GGUF file to fewer bits, by type, size or error\n"
    "  bitlm perplexity [options] [MODEL] FILE   how well a model foretells a text\n"
    "  bitlm synth    [options] FILE          write a random-weight model of a known shape\n"
    "  bitlm version\n"
    "\n"
    "`bitlm COMMAND --help` shows the options.  Without --model, generate uses the\n"
    "built-in model `story` and embed the built-in model `embed`.\n";

static int show_help(int argc, char **argv, int first) {
    (void)argc, (void)argv, (void)first;
    fputs(help_text, stdout);
    return BL_CLI_OK;
}

static int show_version(int argc, char **argv, int first) {
    (void)argv;
    if (first < argc)
        return bl_cli_usage("version takes no argument");
    int ok;
    uint32_t mask = bl_cpu_env_mask(&ok);
    printf("bitlm %s, numerics %d, kernels %s\n", bitlm_version(), BITLM_NUMERICS,
           bl_kernels_get(ok ? mask : BL_CPU_ALL)->name);
    return BL_CLI_OK;
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv, int first);
} commands[] = {
    {"generate", bl_cli_generate}, {"embed", bl_cli_embed}, {"info", bl_cli_info},
    {"convert", bl_cli_convert},   {"synth", bl_cli_synth},       {"perplexity", bl_cli_perplexity},
    {"quantize", bl_cli_quantize},
    {"help", show_help},           {"--help", show_help},   {"-h", show_help},
    {"version", show_version},     {"--version", show_version},
};

int bl_cli_main(int argc, char **argv) {
    if (argc < 2) {
        fputs(help_text, stderr);
        return BL_CLI_USAGE;
    }
    int which = -1;
    for (size_t i = 0; i < BL_COUNT(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            which = (int)i;
    if (which < 0) {
        char shown[60];
        return bl_cli_usage("there is no command %s; `bitlm help` lists them",
                            bl_show(shown, sizeof shown, argv[1], strlen(argv[1])));
    }
    if (atomic_flag_test_and_set(&running))
        return bl_cli_fail("the command is running already in this process");
    /* No SA_RESTART: a read of the terminal must end, too. */
    struct sigaction ours, before;
    memset(&ours, 0, sizeof ours);
    ours.sa_handler = on_sigint;
    sigemptyset(&ours.sa_mask);
    interrupted = 0;
    sigaction(SIGINT, NULL, &before);
    if (before.sa_handler != SIG_IGN) /* `bitlm … &` in a script: stays ignored */
        sigaction(SIGINT, &ours, NULL);
    int status = commands[which].run(argc, argv, 2);
    sigaction(SIGINT, &before, NULL);
    if (fflush(stdout) != 0 && status == BL_CLI_OK)
        status = bl_cli_fail("cannot write the output: %s", strerror(errno));
    atomic_flag_clear(&running);
    return status;
}
