/* cli_info.c - `bitlm info`: what a model file is, what bitlm makes of it, and with
 * --verify whether every number in it is sound.  Called by cli.c.
 *
 * A file that this version cannot run is still shown as far as GGUF goes, followed by
 * the reason. */
#define _GNU_SOURCE
#include "cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "quant/quant.h"

/* model_id reads the whole file that does not tell it: below this it is no trouble to do so unasked. */
#define ID_UNASKED ((uint64_t)64 << 20)

static const char usage[] =
    "usage: bitlm info [options] [FILE|story|embed]     (default: both built-in models)\n"
    "  --tensors             list every tensor\n"
    "  --memory              bytes of the model and of a session, part by part\n"
    "  --shape NAME|JSON     with --memory, in place of FILE: a model that is not there, as JSON; NAME: tiny, 100m,\n"
    "                        700m, bitnet-2b4t, 7b; JSON: {\"hidden\":2560,\"layers\":30,\"heads\":20,\"kv_heads\":5,\n"
    "                        \"ffn\":6912,\"vocab\":128256,\"type\":\"i2_s\"}, {\"parameters\":7e9} or {\"rows\":10000,\"dims\":300}\n"
    "  --n-ctx N  --kv-type f16|f32|int8|int4  --rows N  --threads N   of that session\n"
    "  --verify              read everything: every weight finite, and the model_id, which must be\n"
    "                        what the file says of itself\n"
    "  --load auto|mmap|copy --hidden-act auto|relu2|silu\n";

/* 3510720 as "3,510,720". */
static const char *grouped(uint64_t n, char out[32]) {
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n), o = 0;
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0)
            out[o++] = ',';
        out[o++] = digits[i];
    }
    out[o] = '\0';
    return out;
}

static uint64_t n_weights(const bl_tensor *t) {
    return t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
}

static const char *type_name(int32_t type) {
    const bl_tensor_type *t = bl_tensor_type_find(type);
    return t ? t->name : "?";
}

static void print_types(const bl_gguf *gguf) {
    int32_t seen[64];
    size_t n_seen = 0;
    uint64_t n = bl_gguf_n_tensors(gguf);
    char a[32], b[32];
    puts("\n  type      tensors         weights           bytes   bits a weight");
    for (uint64_t i = 0; i < n; i++) {
        int32_t type = bl_gguf_tensor_at(gguf, i)->type;
        size_t s = 0;
        while (s < n_seen && seen[s] != type)
            s++;
        if (s < n_seen || n_seen == BL_COUNT(seen))
            continue;
        seen[n_seen++] = type;
        uint64_t count = 0, weights = 0, bytes = 0;
        for (uint64_t j = i; j < n; j++) {
            const bl_tensor *t = bl_gguf_tensor_at(gguf, j);
            if (t->type != type)
                continue;
            count++;
            weights += n_weights(t);
            bytes += t->bytes;
        }
        printf("  %-8s %8llu %15s %15s %15.2f\n", type_name(type), (unsigned long long)count,
               grouped(weights, a), grouped(bytes, b),
               weights ? 8.0 * (double)bytes / (double)weights : 0.0);
    }
}

static void print_tensors(const bl_gguf *gguf) {
    puts("\n  tensor                            type     shape (fastest first)         bytes");
    for (uint64_t i = 0; i < bl_gguf_n_tensors(gguf); i++) {
        const bl_tensor *t = bl_gguf_tensor_at(gguf, i);
        char shape[100], name[80], number[32];
        int n = 0;
        for (int d = 0; d < t->n_dims; d++)
            n += snprintf(shape + n, sizeof shape - (size_t)n, "%s%llu", d ? " x " : "",
                          (unsigned long long)t->dims[d]);
        printf("  %-32s  %-7s  %-20s %14s\n",
               bl_show(name, sizeof name, t->name, strlen(t->name)), type_name(t->type), shape,
               grouped(t->bytes, number));
    }
}

static void print_keys(const bl_gguf *gguf) {
    puts("");
    for (uint64_t i = 0; i < bl_gguf_n_keys(gguf); i++) {
        int32_t type;
        char name[80], value[120];
        const char *key = bl_gguf_key_at(gguf, i, &type);
        printf("  %-44s %s\n", bl_show(name, sizeof name, key, strlen(key)),
               bl_gguf_show(gguf, i, value, sizeof value));
    }
}

static void print_model(const bitlm_model *m, const bitlm_model_info *info) {
    static const char *const kinds[] = {"of a kind this version does not know: token ids only",
                                        "SentencePiece BPE", "WordPiece", "byte-level BPE"};
    char number[32];
    int kind = bl_tokenizer_kind(m->tokenizer);
    printf("architecture  %s\n", info->architecture);
    if (info->name[0])
        printf("name          %s\n", info->name);
    printf("does          %s", info->can_generate ? "continues text" : "");
    if (info->can_embed)
        printf("%sembeds text as %d bits or %d float32", info->can_generate ? ", " : "",
               info->embedding_bits, info->embedding_bits);
    if (info->can_chat)
        printf(", chats (template: %s)", bl_chat_name(m->chat));
    puts("");
    printf("parameters    %s, padding included\n", grouped(info->n_parameters, number));
    printf("shape         hidden %lld, %lld layers, %lld heads", (long long)m->hidden_size,
           (long long)m->n_layers, (long long)m->n_heads);
    if (m->n_kv_heads != m->n_heads)
        printf(" (%lld KV heads)", (long long)m->n_kv_heads);
    printf(" of %lld, FFN %lld, context %d tokens\n", (long long)m->head_dim,
           (long long)m->ffn_size, info->context_length);
    if (m->n_experts)
        printf("experts       %lld, %lld for a token%s\n", (long long)m->n_experts, (long long)m->n_experts_used,
               m->n_layers && m->layers[0].gate.data ? ", and a shared one" : "");
    printf("activation    %s: %s\n", info->activation == BITLM_ACT_RELU2 ? "ReLU2" : "SiLU",
           info->activation_why);
    printf("vocabulary    %d tokens, %s\n", info->vocab_size,
           kinds[kind >= 0 && kind < (int)BL_COUNT(kinds) ? kind : 0]);
    printf("layers are    mostly %s, run by the %s kernels\n", info->weight_type,
           m->kernels->name);
}

static int print_memory(bitlm_model *model, const bitlm_options *options) {
    bitlm_memory_parts p = {.size = sizeof p};
    bitlm_error error;
    bl_cli_error_init(&error);
    bitlm_status s = bitlm_memory(model, options, &p, &error);
    if (s != BITLM_OK)
        return bl_cli_error(s, &error);
    const struct {
        const char *name, *what;
        uint64_t bytes;
    } rows[] = {
        {"layers", "matrices of the layers", p.layer_bytes},
        {"  low-bit", "of these ternary or binary", p.low_bit_bytes},
        {"embedding", p.head_bytes ? "of tokens" : "of tokens; the head as well, if there is one", p.embedding_bytes},
        {"head", "an output matrix of its own", p.head_bytes},
        {"norms", "norms, biases and scales", p.norm_bytes},
        {"file", "all of it: mapped, shared by all who use it", p.file_bytes},
        {"KV cache", "keys and values of a session", p.kv_bytes},
        {"scratch", "activations, logits and sampler of a session", p.scratch_bytes},
        {"shortlist", "int8 copy of the head, once a process: option head", p.shortlist_bytes},
        {"total", "file, cache, scratch and shortlist", p.total_bytes},
        {"as float32", "the parameters, if they were", p.float_bytes},
    };
    char number[32];
    printf("\n  memory with n_ctx %d (the cache holds %llu tokens)\n", p.n_ctx, (unsigned long long)p.kv_positions);
    for (size_t i = 0; i < BL_COUNT(rows); i++)
        printf("  %-10s %16s  %10.2f MiB  %s\n", rows[i].name, grouped(rows[i].bytes, number),
               (double)rows[i].bytes / 1048576, rows[i].what);
    return BL_CLI_OK;
}

/* Decodes every row; a weight that is not finite is named. */
static int verify_tensors(const bl_gguf *gguf) {
    uint64_t n = bl_gguf_n_tensors(gguf), total = 0;
    char number[32], name[80];
    for (uint64_t i = 0; i < n; i++) {
        const bl_tensor *t = bl_gguf_tensor_at(gguf, i);
        uint64_t k = t->dims[0], rows = k ? n_weights(t) / k : 0;
        float *row = malloc((size_t)k * sizeof *row + 1);
        if (!row)
            return bl_cli_fail("there is no memory for a row of %s weights", grouped(k, number));
        bl_show(name, sizeof name, t->name, strlen(t->name));
        for (uint64_t r = 0; r < rows; r++) {
            bl_decode_row(t->type, t->data, rows, k, r, row);
            for (uint64_t j = 0; j < k; j++) {
                if (isfinite(row[j]))
                    continue;
                free(row);
                return bl_cli_fail("tensor %s holds a number that is not finite, in row %llu, "
                                   "column %llu", name, (unsigned long long)r,
                                   (unsigned long long)j);
            }
            if (bl_cli_interrupted()) {
                free(row);
                return BL_CLI_INTERRUPTED;
            }
        }
        total += n_weights(t);
        free(row);
    }
    printf("verified      %llu tensors, %s weights, all finite\n", (unsigned long long)n,
           grouped(total, number));
    return BL_CLI_OK;
}

/* Computes the id, whatever the file tells, and compares. */
static int verify_id(bitlm_model *model) {
    char told[BL_ID_KEY_BYTES + 1], found[BL_ID_KEY_BYTES + 1];
    uint8_t stored[16], id[16];
    bl_float_env env;
    bl_poll poll;
    bitlm_error error;
    bitlm_host host;
    if (!bl_model_stored_id(model, stored))
        return BL_CLI_OK;
    bl_cli_error_init(&error);
    bl_cli_host(&host);
    bl_float_enter(&env);
    bl_poll_init(&poll, &host, &env, 0);
    bitlm_status s = bl_model_hash(model, &poll, id, &error);
    bl_float_leave(&env);
    if (s != BITLM_OK)
        return bl_cli_error(s, &error);
    bl_model_id_text(model, stored, told);
    bl_model_id_text(model, id, found);
    if (memcmp(stored, id, sizeof id) != 0)
        return bl_cli_fail("the file's key " BL_ID_KEY " says %.32s, but its content is %.32s: it was changed or damaged "
                           "after it was written", told, found);
    return BL_CLI_OK;
}

static int print_id(bitlm_model *model) {
    bitlm_error error;
    bitlm_host host;
    uint8_t id[16];
    bl_cli_error_init(&error);
    bl_cli_host(&host);
    bitlm_status s = bitlm_model_id(model, &host, id, &error);
    if (s != BITLM_OK)
        return bl_cli_error(s, &error);
    fputs("model_id      ", stdout);
    for (int i = 0; i < 16; i++)
        printf("%02x", id[i]);
    printf(" (numerics %d)\n", BITLM_NUMERICS);
    return BL_CLI_OK;
}

static void print_file(const char *name, const bl_gguf *gguf, uint64_t bytes) {
    char shown[300], number[32];
    printf("file          %s\n", bl_show(shown, sizeof shown, name, strlen(name)));
    printf("format        GGUF v%u, %s bytes, %llu tensors, %llu keys\n", bl_gguf_version(gguf),
           grouped(bytes, number), (unsigned long long)bl_gguf_n_tensors(gguf),
           (unsigned long long)bl_gguf_n_keys(gguf));
}

/* The file as GGUF alone, for one that is no model of ours. */
static int show_container(const bl_cli_line *line, const char *name, int tensors, int verify) {
    bl_alloc alloc = bl_alloc_from_host(NULL);
    bl_mapping mapping;
    bl_gguf *gguf = NULL;
    bitlm_error error;
    bl_cli_error_init(&error);
    memset(&mapping, 0, sizeof mapping);
    if (bl_mapping_open(name, strlen(name), line->options.load, &alloc, NULL, &mapping, &error) !=
        BITLM_OK)
        return 0;
    int shown = bl_gguf_open(mapping.data, mapping.size, &alloc, &gguf, &error) == BITLM_OK;
    if (shown) {
        bitlm_text text;
        char value[100];
        print_file(name, gguf, mapping.size);
        if (bl_gguf_string(gguf, "general.architecture", &text) == 1)
            printf("architecture  %s\n", bl_show(value, sizeof value, text.data, text.length));
        if (verify)
            verify_tensors(gguf);
        print_types(gguf);
        print_keys(gguf);
        if (tensors)
            print_tensors(gguf);
    }
    bl_gguf_free(gguf);
    bl_mapping_close(&mapping);
    return shown;
}

static int show(const bl_cli_line *line, const char *name, int tensors, int verify, int memory) {
    bitlm_model *model = NULL;
    bitlm_error error;
    bitlm_host host;
    bitlm_model_info info;
    int status = BL_CLI_OK;
    bl_cli_error_init(&error);
    bl_cli_host(&host);
    memset(&info, 0, sizeof info);
    info.size = sizeof info;
    bitlm_status s = bitlm_model_open(name, strlen(name), 0, &line->options, &host, &model, &error);
    if (s != BITLM_OK) {
        if (s == BITLM_UNSUPPORTED || s == BITLM_FORMAT)
            show_container(line, name, tensors, verify);
        return bl_cli_error(s, &error);
    }
    s = bitlm_model_describe(model, &info, &error);
    if (s != BITLM_OK) {
        status = bl_cli_error(s, &error);
        goto fail;
    }
    print_file(info.path, model->gguf, info.file_bytes);
    print_model(model, &info);
    if (verify)
        status = verify_tensors(model->gguf);
    if (status == BL_CLI_OK && verify)
        status = verify_id(model);
    uint8_t id[16];
    if (status == BL_CLI_OK && (verify || info.file_bytes <= ID_UNASKED || bl_model_stored_id(model, id)))
        status = print_id(model);
    if (status == BL_CLI_OK && memory) {
        status = print_memory(model, &line->options);
    } else if (status == BL_CLI_OK) {
        bl_alloc alloc = bl_alloc_from_host(NULL);
        bl_gguf *whole = NULL; /* the model has forgotten its vocabulary's texts */
        print_types(model->gguf);
        s = bl_gguf_open(model->mapping.data, model->mapping.size, &alloc, &whole, &error);
        if (s == BITLM_OK)
            print_keys(whole);
        else
            status = bl_cli_error(s, &error);
        bl_gguf_free(whole);
        if (tensors)
            print_tensors(model->gguf);
    }

fail:
    bitlm_model_free(model);
    return status;
}

static int show_shape(const bl_cli_line *line, const char *shape) {
    char json[1000];
    bitlm_error error;
    bl_cli_error_init(&error);
    bitlm_status s = bitlm_memory_shape_json(shape, strlen(shape), &line->options, json, sizeof json, &error);
    if (s != BITLM_OK)
        return bl_cli_error(s, &error);
    puts(json);
    return BL_CLI_OK;
}

int bl_cli_info(int argc, char **argv, int first) {
    int status, tensors = 0, verify = 0, memory = 0;
    const char *shape = NULL;
    bl_cli_line line;
    const bl_cli_flag flags[] = {{"tensors", NULL, &tensors}, {"verify", NULL, &verify},
                                 {"memory", NULL, &memory}, {"shape", &shape, NULL},
                                 {NULL, NULL, NULL}};
    status = bl_cli_parse(argc, argv, first, flags, &line);
    if (status != BL_CLI_OK)
        return status;
    if (line.help) {
        fputs(usage, stdout);
    } else if (shape && (line.n_arguments || line.options.model.data || !memory)) {
        status = bl_cli_usage("--shape goes with --memory, in place of a file");
    } else if (shape) {
        status = show_shape(&line, shape);
    } else if (line.n_arguments > 1) {
        status = bl_cli_usage("info takes one file, but got %d", line.n_arguments);
    } else if (line.n_arguments == 1) {
        status = show(&line, line.arguments[0], tensors, verify, memory);
    } else if (line.options.model.data) {
        /* the options' texts end at their length, not at a NUL */
        char *name = strndup(line.options.model.data, line.options.model.length);
        status = name ? show(&line, name, tensors, verify, memory)
                      : bl_cli_fail("there is no memory for a file name");
        free(name);
    } else {
        status = show(&line, "story", tensors, verify, memory);
        puts("");
        if (status == BL_CLI_OK)
            status = show(&line, "embed", tensors, verify, memory);
    }
    bl_cli_line_free(&line);
    return status;
}
