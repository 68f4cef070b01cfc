/* cli_convert.c - `bitlm convert`: a Hugging Face folder or a GGUF file to a GGUF file, or a GGUF file to a folder of
 * safetensors.  The work is bitlm_convert's.  Called by cli.c. */
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static const char usage[] =
    "usage: bitlm convert [options] SOURCE OUTPUT\n"
    "  SOURCE                 a Hugging Face folder (config.json, tokenizer.json or tokenizer.model,\n"
    "                         safetensors) or a GGUF file\n"
    "  OUTPUT                 a file NAME.gguf or, from a GGUF file, a new folder of safetensors\n"
    "  --type TYPE            of the linear layers: i2_s, tq1_0, tq2_0, q2_0, q1_0, q4_0, q4_1, q4_k, q6_k,\n"
    "                         q8_0, f16, bf16, f32 (default: i2_s for BitNet, f16 for float models, as\n"
    "                         it is for GGUF)\n"
    "  --embedding-type TYPE  of the embedding and of a head of its own (default: f16, or as it is)\n"
    "  --threads N            (default: the physical cores); the output does not depend on it\n"
    "  --pre NAME             how the vocabulary splits text, where the converter does not know\n"
    "Ternary types quantize float weights by absmean, which only a model trained as BitNet survives.\n"
    "The output appears whole or not at all.\n";

int bl_cli_convert(int argc, char **argv, int first) {
    int status, percent = -1;
    const char *type = NULL, *embedding = NULL, *pre = NULL;
    bl_cli_line line;
    const bl_cli_flag flags[] = {
        {"type", &type, NULL}, {"embedding_type", &embedding, NULL}, {"pre", &pre, NULL}, {NULL, NULL, NULL}};

    status = bl_cli_parse(argc, argv, first, flags, &line);
    if (status != BL_CLI_OK)
        return status;
    if (line.help) {
        fputs(usage, stdout);
        goto fail;
    }
    if (line.n_arguments != 2) {
        status = bl_cli_usage("convert takes a source and an output, but got %d names", line.n_arguments);
        goto fail;
    }
    bitlm_convert_options options;
    bitlm_error error;
    bitlm_host host;
    bl_cli_error_init(&error);
    bl_cli_host(&host);
    bitlm_convert_options_init(&options);
    if (type)
        options.type = (bitlm_text){type, strlen(type)};
    if (embedding)
        options.embedding_type = (bitlm_text){embedding, strlen(embedding)};
    if (pre)
        options.pre = (bitlm_text){pre, strlen(pre)};
    options.threads = line.options.threads;
    if (isatty(STDERR_FILENO)) {
        options.progress = bl_cli_progress;
        options.progress_context = &percent;
    }
    bitlm_status s = bitlm_convert(line.arguments[0], strlen(line.arguments[0]), line.arguments[1],
                                   strlen(line.arguments[1]), &options, &host, &error);
    bl_cli_progress_end(&percent);
    if (s != BITLM_OK)
        status = bl_cli_error(s, &error);

fail:
    bl_cli_line_free(&line);
    return status;
}
