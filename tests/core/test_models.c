/* test_models.c - what model_load.c refuses, by name and with a sentence, and which activation it chooses.
 *
 * A sound file of one layer is written for each case and changed in one place: a key more, a tensor more,
 * another architecture.  The unchanged file loads, so nothing else is the reason. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file/gguf.h"
#include "test_support.h"

#define HIDDEN 8
#define VOCAB 16

typedef struct file_case {
    const char *arch, *key; /* key: behind the architecture's name, or whole if it begins with "=" */
    const char *text;       /* the value: this text, or the number */
    double number;
    const char *tensor;     /* one more, of HIDDEN floats */
    const char *sentence;   /* part of the error; NULL: the file loads */
    const char *why;        /* part of activation_why, if it loads */
} file_case;

static const file_case cases[] = {
    {.arch = "llama", .why = "the default of architecture llama"},
    {.arch = "qwen35", .sentence = "architecture 'qwen35' is not supported, because it has recurrent layers: bitlm runs bitnet,"},
    {.arch = "mamba", .sentence = "architecture 'mamba' is not supported, because it has recurrent layers"},
    {.arch = "gemma3", .sentence = "architecture 'gemma3' is not supported, because it has sliding windows"},
    {.arch = "starcoder2", .sentence = "architecture 'starcoder2' is not supported: bitlm runs bitnet, bitnet-b1.58"},
    {.arch = "llama", .key = "attention.sliding_window", .number = 32, .sentence = "the key llama.attention.sliding_window asks"},
    {.arch = "llama", .key = "attention.sliding_window", .number = 64}, /* as long as the context: no window */
    {.arch = "llama", .key = "rope.scaling.type", .text = "longrope", .sentence = "llama.rope.scaling.type is 'longrope'"},
    {.arch = "qwen3", .key = "pooling_type", .number = 4, .sentence = "pooling_type 4 is not supported for qwen3"},
    {.arch = "llama", .key = "attention.causal", .number = -1, .sentence = "llama.attention.causal must be true or false"},
    {.arch = "llama", .key = "expert_count", .number = 8, .sentence = "the key llama.expert_count is 8, which is not supported"},
    {.arch = "llama", .key = "attn_logit_softcapping", .number = 50, .sentence = "llama.attn_logit_softcapping is 50"},
    {.arch = "llama", .key = "final_logit_softcapping", .number = 30, .sentence = "a soft cap on logits"},
    {.arch = "llama", .key = "logit_scale", .number = 0.0625, .sentence = "llama.logit_scale is 0.0625"},
    {.arch = "llama", .key = "logit_scale", .number = 1},
    {.arch = "llama", .key = "residual_scale", .number = 0.22, .sentence = "llama.residual_scale is 0.22"},
    {.arch = "llama", .key = "embedding_scale", .number = 12, .sentence = "llama.embedding_scale is 12"},
    {.arch = "llama", .key = "rope.scale_linear", .number = 4, .sentence = "write rope.scaling.type"},
    {.arch = "llama", .key = "hidden_act", .text = "gelu", .sentence = "llama.hidden_act is 'gelu': bitlm knows relu2 and silu"},
    {.arch = "llama", .key = "=general.type", .text = "adapter", .sentence = "general.type is 'adapter'"},
    {.arch = "llama", .key = "=general.type", .text = "model"},
    {.arch = "llama", .key = "=split.count", .number = 3, .sentence = "the key split.count is 3, which is not supported: join"},
    {.arch = "llama", .key = "=prism.hadamard.block", .number = 128, .sentence = "Hadamard rotation"},
    {.arch = "llama", .tensor = "blk.0.ffn_post_norm.weight", .sentence = "tensor blk.0.ffn_post_norm.weight is not part of"},
    {.arch = "llama", .tensor = "blk.0.attn_q_norm.weight", .sentence = "that architecture llama does not use"},
    {.arch = "llama", .tensor = "blk.1.attn_norm.weight", .sentence = "tensor blk.1.attn_norm.weight is not part of"},
    {.arch = "llama", .tensor = "position_embd.weight", .sentence = "tensor position_embd.weight is not part of"},
    {.arch = "llama", .key = "hidden_act", .text = "relu2", .why = "the file's key llama.hidden_act"},
    {.arch = "bitnet", .why = "the default of architecture bitnet"},
    {.arch = "bitnet", .key = "hidden_activation", .text = "relu2", .why = "the file's key bitnet.hidden_activation"},
    {.arch = "bitnet", .key = "=general.name", .text = "bitnet b1.58 2B-4T", .why = "general.name says 2B-4T"},
    {.arch = "bitnet-b1.58", .why = "the default of architecture bitnet-b1.58"},
};

static void put_key(bl_gguf_writer *w, const char *arch, const char *suffix, uint32_t number) {
    char key[100];
    snprintf(key, sizeof key, "%s.%s", arch, suffix);
    bl_gguf_write_u32(w, key, number);
}

static void put_case(bl_gguf_writer *w, const file_case *c) {
    char key[100];
    if (!c->key)
        return;
    if (c->key[0] == '=')
        snprintf(key, sizeof key, "%s", c->key + 1);
    else
        snprintf(key, sizeof key, "%s.%s", c->arch, c->key);
    if (c->text)
        bl_gguf_write_string(w, key, c->text, strlen(c->text));
    else if (c->number >= 0 && c->number == (double)(uint32_t)c->number)
        bl_gguf_write_u32(w, key, (uint32_t)c->number);
    else
        bl_gguf_write_f32(w, key, (float)c->number);
}

static void write_file(const char *path, const file_case *c) {
    static const char *const matrices[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
    static const char *const norms[] = {"attn_norm", "ffn_norm", "attn_sub_norm", "ffn_sub_norm"};
    static float ones[HIDDEN * VOCAB];
    bitlm_error e = {.size = sizeof e};
    bl_gguf_writer *w;
    uint64_t embedding[] = {HIDDEN, VOCAB}, square[] = {HIDDEN, HIDDEN}, vector[] = {HIDDEN}, head[] = {HIDDEN};
    size_t n_norms = strncmp(c->arch, "bitnet", 6) ? 2 : 4, qwen3 = strcmp(c->arch, "qwen3") == 0;
    size_t n = HIDDEN * VOCAB + HIDDEN * (1 + n_norms) + 7 * HIDDEN * HIDDEN + (qwen3 ? 2 * HIDDEN : 0);
    char name[80];
    ck_assert_int_eq(bl_gguf_writer_begin(path, NULL, &w, &e), BITLM_OK);
    bl_gguf_write_string(w, "general.architecture", c->arch, strlen(c->arch));
    put_key(w, c->arch, "context_length", 64);
    put_key(w, c->arch, "embedding_length", HIDDEN);
    put_key(w, c->arch, "block_count", 1);
    put_key(w, c->arch, "feed_forward_length", HIDDEN);
    put_key(w, c->arch, "attention.head_count", 1);
    put_case(w, c);
    bl_gguf_write_tensor(w, "token_embd.weight", BL_TYPE_F32, 2, embedding);
    bl_gguf_write_tensor(w, "output_norm.weight", BL_TYPE_F32, 1, vector);
    for (size_t i = 0; i < n_norms; i++) {
        snprintf(name, sizeof name, "blk.0.%s.weight", norms[i]);
        bl_gguf_write_tensor(w, name, BL_TYPE_F32, 1, vector);
    }
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof name, "blk.0.%s.weight", matrices[i]);
        bl_gguf_write_tensor(w, name, BL_TYPE_F32, 2, square);
    }
    for (int i = 0; i < 2 && qwen3; i++)
        bl_gguf_write_tensor(w, i ? "blk.0.attn_q_norm.weight" : "blk.0.attn_k_norm.weight", BL_TYPE_F32, 1, head);
    if (c->tensor)
        bl_gguf_write_tensor(w, c->tensor, BL_TYPE_F32, 1, vector);
    n += c->tensor ? HIDDEN : 0;
    for (int i = 0; i < HIDDEN * VOCAB; i++)
        ones[i] = 1;
    for (; n; n -= n < HIDDEN ? n : HIDDEN)
        bl_gguf_write_data(w, ones, (n < HIDDEN ? n : HIDDEN) * sizeof(float));
    ck_assert_msg(bl_gguf_writer_finish(w, &e) == BITLM_OK, "%s", e.text);
}

static bitlm_status open_file(const char *path, const char *options, bitlm_model **m, bitlm_error *e) {
    bitlm_options o;
    bitlm_options_init(&o);
    ck_assert_int_eq(bitlm_options_json(&o, options, strlen(options), NULL), BITLM_OK);
    bitlm_status s = bitlm_model_open(path, strlen(path), 0, &o, NULL, m, e);
    bitlm_options_clear(&o);
    return s;
}

START_TEST(refused_by_name) {
    const file_case *c = &cases[_i];
    char path[] = "/tmp/bitlm-models-XXXXXX";
    bitlm_error e = {.size = sizeof e};
    bitlm_model_info info = {.size = sizeof info};
    bitlm_model *m = NULL;
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    write_file(path, c);
    bitlm_status s = open_file(path, "{}", &m, &e);
    if (c->sentence) {
        ck_assert_ptr_null(m);
        ck_assert_int_eq(s, strstr(c->sentence, "must be true") ? BITLM_FORMAT : BITLM_UNSUPPORTED);
        ck_assert_msg(strstr(e.text, c->sentence) != NULL, "'%s' lacks '%s'", e.text, c->sentence);
        remove(path);
        return;
    }
    ck_assert_msg(s == BITLM_OK, "%s", e.text);
    bitlm_model_describe(m, &info, NULL);
    if (c->why)
        ck_assert_msg(strstr(info.activation_why, c->why) != NULL, "'%s' lacks '%s'", info.activation_why, c->why);
    int relu2 = (c->text && strcmp(c->text, "model")) || strcmp(c->arch, "bitnet-b1.58") == 0;
    ck_assert_int_eq(info.activation, relu2 ? BITLM_ACT_RELU2 : BITLM_ACT_SILU);
    bitlm_model_free(m);
    ck_assert_int_eq(open_file(path, relu2 ? "{\"hidden_act\":\"silu\"}" : "{\"hidden_act\":\"relu2\"}", &m, &e), BITLM_OK);
    bitlm_model_describe(m, &info, NULL);
    ck_assert_int_eq(info.activation, relu2 ? BITLM_ACT_SILU : BITLM_ACT_RELU2);
    ck_assert_str_eq(info.activation_why, "the option hidden_act asked for it");
    bitlm_model_free(m);
    remove(path);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("models");
    TCase *c = tcase_create("files");
    tcase_add_loop_test(c, refused_by_name, 0, (int)(sizeof cases / sizeof *cases));
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
