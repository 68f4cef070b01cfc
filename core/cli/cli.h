/* cli.h - the command: its entry point and what its subcommands share.
 *
 * bl_cli_main lives in an archive of its own, so that build/bitlm and
 * `python -m bitlm` are the same program.  It prints, but never exits: it returns
 * the exit status.  One run at a time (it owns SIGINT and the streams meanwhile). */
#ifndef BL_CLI_H
#define BL_CLI_H

#include <jansson.h>
#include <stdio.h>

#include "base/base.h"

#define BL_CLI_OK 0
#define BL_CLI_FAILED 1       /* a sentence went to stderr */
#define BL_CLI_USAGE 2        /* the command line is wrong */
#define BL_CLI_INTERRUPTED 130 /* Ctrl-C: 128 + SIGINT, as shells say it */

/* argv[0] is the program's name, argv[1] the subcommand. */
int bl_cli_main(int argc, char **argv);

/* ---- the command line ---------------------------------------------------------- */

/* A flag of the subcommand's own.  Everything that is not one is an option of
 * bitlm_options_json, which alone knows their names, types and ranges. */
typedef struct bl_cli_flag {
    const char *name;     /* "verify", written --verify; '_' and '-' are the same */
    const char **value;   /* not NULL: takes a value */
    int *set;             /* not NULL: set to 1 */
} bl_cli_flag;

typedef struct bl_cli_line {
    bitlm_options options;  /* laid over the defaults; freed by bl_cli_line_free */
    char **arguments;       /* those that are no flags; point into argv */
    int n_arguments;
    int help;               /* --help or -h was given */
} bl_cli_line;

/* Reads argv[first .. argc).  BL_CLI_OK, or BL_CLI_USAGE / BL_CLI_FAILED after a sentence. */
int bl_cli_parse(int argc, char **argv, int first, const bl_cli_flag *flags, bl_cli_line *line);
void bl_cli_line_free(bl_cli_line *line);
/* A decimal integer in [low, high], else a sentence and BL_CLI_USAGE. */
int bl_cli_integer(const char *name, const char *text, long long low, long long high,
                   long long *value);

/* ---- messages: "bitlm: sentence" on stderr; they return the exit status -------------- */
int bl_cli_fail(const char *format, ...) BL_PRINTF(1, 2);
int bl_cli_usage(const char *format, ...) BL_PRINTF(1, 2);
/* The exit status of a core error: 130 for CANCELED, else 1. */
int bl_cli_error(bitlm_status status, const bitlm_error *error);
void bl_cli_error_init(bitlm_error *error);

/* ---- the host that core calls see ------------------------------------------------ */

/* poll answers Ctrl-C, log prints warnings on stderr. */
void bl_cli_host(bitlm_host *host);
int bl_cli_interrupted(void);

/* Opens options.model or, without one, `builtin`; then a session with the command's
 * default of one thread per physical core. */
int bl_cli_open(const bl_cli_line *line, const char *builtin, bitlm_model **model,
                bitlm_session **session);

/* Reads a file of text, at most 1 GiB, "-" being stdin; *text is malloc'd. */
int bl_cli_read_text(const char *path, char **text, size_t *length);
/* Reads all of stdin, at most `limit` bytes; *text is malloc'd. */
int bl_cli_read_stdin(size_t limit, char **text, size_t *length);

/* A percentage on the terminal's line, drawn when it changes.  last_percent: an int, -1 at first;
 * _end wipes what was drawn. */
void bl_cli_progress(void *last_percent, double fraction);
void bl_cli_progress_end(const int *last_percent);

/* ---- subcommands: argv[first] is the first word after the subcommand ----------------- */
int bl_cli_generate(int argc, char **argv, int first);
/* `generate --each`: many prompts, in the arguments or lines of stdin. */
int bl_cli_generate_each(bl_cli_line *line, int chat, const char *system);
/* A chat of one message, and a system message unless NULL, as JSON; NULL if a text is not UTF-8. */
char *bl_cli_messages(const char *system, const char *prompt, size_t length);
int bl_cli_embed(int argc, char **argv, int first);
int bl_cli_info(int argc, char **argv, int first);
int bl_cli_convert(int argc, char **argv, int first);
int bl_cli_quantize(int argc, char **argv, int first);
int bl_cli_synth(int argc, char **argv, int first);
int bl_cli_perplexity(int argc, char **argv, int first);

#endif
