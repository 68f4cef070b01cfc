/* cli_synth.c - `bitlm synth`: writes a random-weight model of a known shape and tensor
 * type, for tests and measurements.  The work is synth.c's.  Called by cli.c. */
#define _GNU_SOURCE
#include "cli/synth.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static const char usage[] =
    "usage: bitlm synth [options] FILE\n"
    "  --shape SHAPE          tiny, mini-2b4t, 100m, 700m, bitnet-2b4t, 7b or moe-tiny (default: tiny)\n"
    "  --type TYPE            of the layers: i2_s, tq1_0, tq2_0, q1_0, q2_0, q4_0, q4_1, q4_k,\n"
    "                         q6_k, q8_0, f16, bf16, f32\n"
    "                         (default: i2_s; tq2_0 for moe-tiny)\n"
    "  --embedding-type TYPE  of the embedding, which is also the head (default: f16)\n"
    "  --context N            tokens the file says the model was made for, 16 to 1048576 (default: the shape's)\n"
    "  --architecture NAME    bitnet-b1.58 (bitnet.cpp's) or bitnet (llama.cpp's); both the same tensors\n"
    "                         (default: bitnet-b1.58)\n"
    "  --seed N               equal seeds give equal files (default: 0)\n"
    "The weights are random: the text that comes out says nothing.\n";

static int find_type(const char *flag, const char *name, int32_t *type) {
    const bl_tensor_type *found = bl_tensor_type_named(name, strlen(name));
    char shown[60];
    if (!found)
        return bl_cli_usage("--%s is %s, which is no tensor type; i2_s, tq1_0, tq2_0, q1_0, q2_0, q4_0, q4_1, "
                            "q4_k, q6_k, q8_0, f16, bf16 and f32 are written", flag,
                            bl_show(shown, sizeof shown, name, strlen(name)));
    *type = found->id;
    return BL_CLI_OK;
}

static int find_context(const char *text, uint32_t *context) {
    char shown[60], *end;
    unsigned long n = strtoul(text, &end, 10);
    if (*end || n < 16 || n > 1048576)
        return bl_cli_usage("--context is %s, but must be 16 to 1048576 tokens",
                            bl_show(shown, sizeof shown, text, strlen(text)));
    *context = (uint32_t)n;
    return BL_CLI_OK;
}

int bl_cli_synth(int argc, char **argv, int first) {
    int status, percent = -1;
    const char *type_name = NULL, *embedding_name = "f16", *context = NULL;
    bl_synth_spec spec = {.shape = "tiny", .type = -1};
    bl_cli_line line;
    const bl_cli_flag flags[] = {{"shape", &spec.shape, NULL},
                                 {"type", &type_name, NULL},
                                 {"embedding_type", &embedding_name, NULL},
                                 {"context", &context, NULL},
                                 {"architecture", &spec.architecture, NULL},
                                 {NULL, NULL, NULL}};

    status = bl_cli_parse(argc, argv, first, flags, &line);
    if (status != BL_CLI_OK)
        return status;
    if (line.help) {
        fputs(usage, stdout);
        goto fail;
    }
    if (line.n_arguments != 1) {
        status = bl_cli_usage("synth writes one file, but got %d names", line.n_arguments);
        goto fail;
    }
    status = type_name ? find_type("type", type_name, &spec.type) : BL_CLI_OK;
    if (status == BL_CLI_OK)
        status = find_type("embedding-type", embedding_name, &spec.embd_type);
    if (status == BL_CLI_OK && context)
        status = find_context(context, &spec.context);
    if (status != BL_CLI_OK)
        goto fail;

    bitlm_error error;
    bitlm_host host;
    bl_poll poll;
    bl_alloc alloc = bl_alloc_from_host(NULL);
    int tty = isatty(STDERR_FILENO);
    spec.seed = line.options.seed;
    bl_cli_error_init(&error);
    bl_cli_host(&host);
    bl_poll_init(&poll, &host, NULL, line.options.timeout_ms);
    bitlm_status s = bl_synth(&spec, line.arguments[0], &alloc, &poll, tty ? bl_cli_progress : NULL, &percent, &error);
    bl_cli_progress_end(&percent);
    if (s == BITLM_ARG)
        status = bl_cli_usage("%s", error.text);
    else if (s != BITLM_OK)
        status = bl_cli_error(s, &error);

fail:
    bl_cli_line_free(&line);
    return status;
}
