/* chat.c - chat templates as a table: how each writes a system, a user and an assistant
 * message and lets the assistant speak.
 *
 * A file's Jinja template is never run: a row is chosen by marks that its source must
 * contain.  The BOS token is left to BITLM_TOKENS_FRAME; further ones inside a text (llama2
 * begins every turn with one) are written out.  Called by core/run and core/model.
 *
 * What the templates do is in their models' tokenizer_config.json (ChatML, Llama 3,
 * microsoft/bitnet-b1.58-2B-4T, HuggingFaceH4/zephyr-7b-beta, Phi-3, Llama 2). */
#define _GNU_SOURCE /* memmem */
#include "text/chat.h"

#include <jansson.h>
#include <string.h>

#define MAX_JSON ((size_t)64 << 20)

#define ROLE_SYSTEM 0
#define ROLE_USER 1
#define ROLE_ASSISTANT 2

static const char *const role_names[3] = {"system", "user", "assistant"};

struct bl_chat_template {
    const char *name;
    const char *contains;  /* what its Jinja source holds */
    const char *also;      /* and this too; NULL: nothing more */
    const char *before[3]; /* by role, around the content */
    const char *after[3];
    const char *speak;     /* lets the assistant begin */
    int32_t trim;          /* white space around a content is cut off */
    int32_t llama2;        /* system inside the first user message, turns alternate */
};

#define BITNET_2B4T                                                                                \
    {"System: ", "User: ", "Assistant: "}, {"<|eot_id|>", "<|eot_id|>", "<|eot_id|>"},             \
        "Assistant: ", 1, 0

/* The first row that fits wins, so the particular stand before the general. */
static const bl_chat_template templates[] = {
    {"llama3",
     "<|start_header_id|>",
     NULL,
     {"<|start_header_id|>system<|end_header_id|>\n\n",
      "<|start_header_id|>user<|end_header_id|>\n\n",
      "<|start_header_id|>assistant<|end_header_id|>\n\n"},
     {"<|eot_id|>", "<|eot_id|>", "<|eot_id|>"},
     "<|start_header_id|>assistant<|end_header_id|>\n\n",
     1,
     0},
    {"chatml",
     "<|im_start|>",
     "<|im_end|>",
     {"<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n"},
     {"<|im_end|>\n", "<|im_end|>\n", "<|im_end|>\n"},
     "<|im_start|>assistant\n",
     0,
     0},
    {"bitnet-2b4t", "capitalize", "<|eot_id|>", BITNET_2B4T},
    /* The official 2B-4T GGUF carries an early template of its converter; the model was
     * trained with the one above. */
    {"bitnet-2b4t", "BITNETAssistant", NULL, BITNET_2B4T},
    {"phi3",
     "<|assistant|>",
     "<|end|>",
     {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"},
     {"<|end|>\n", "<|end|>\n", "<|end|>\n"},
     "<|assistant|>\n",
     0,
     0},
    {"falcon3",
     "<|user|>",
     "not loop.last",
     {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"},
     {"\n", "\n", "<|endoftext|>\n"},
     "<|assistant|>\n",
     0,
     0},
    {"zephyr",
     "<|user|>",
     "eos_token",
     {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"},
     {"</s>\n", "</s>\n", "</s>\n"},
     "<|assistant|>\n",
     0,
     0},
    {"llama2",
     "[INST]",
     "<<SYS>>",
     {"<<SYS>>\n", "<s>[INST] ", " "},
     {"\n<</SYS>>\n\n", " [/INST]", " </s>"},
     "",
     1,
     1},
};

static int holds(const char *text, size_t length, const char *mark)
{
    return !mark || memmem(text, length, mark, strlen(mark)) != NULL;
}

const bl_chat_template *bl_chat_find(const char *jinja, size_t length)
{
    size_t i;

    for (i = 0; length && i < BL_COUNT(templates); i++)
        if (holds(jinja, length, templates[i].contains) && holds(jinja, length, templates[i].also))
            return &templates[i];
    return NULL;
}

const char *bl_chat_name(const bl_chat_template *t)
{
    return t->name;
}

const bl_chat_template *bl_chat_number(int32_t number)
{
    const char *name = bl_chat_names();
    size_t i;

    while (--number > 0 && (name = strchr(name, ',')) != NULL)
        name += 2;
    for (i = 0; name && number == 0 && i < BL_COUNT(templates); i++)
        if (strcspn(name, ",") == strlen(templates[i].name) &&
            !memcmp(name, templates[i].name, strlen(templates[i].name)))
            return &templates[i];
    return NULL;
}

const char *bl_chat_names(void)
{
    return "llama3, chatml, bitnet-2b4t, phi3, falcon3, zephyr, llama2";
}

/* A ready-made system message stands in the source as one literal: its mark, a newline (or \n), words
 * without quotes or braces, the closing mark.  (SmolLM2, Qwen2.5) */
bitlm_text bl_chat_system(const bl_chat_template *t, const char *jinja, size_t length)
{
    const char *mark = t->before[ROLE_SYSTEM], *close = t->after[ROLE_SYSTEM];
    size_t mark_length = strcspn(mark, "\n"), close_length = strcspn(close, "\n");
    const char *end = jinja + length, *at = jinja;

    if (!mark_length || !close_length || t->llama2)
        return (bitlm_text){"", 0};
    while ((at = memmem(at, (size_t)(end - at), mark, mark_length)) != NULL) {
        const char *text = at + mark_length, *stop;

        at = text;
        if (end - text > 2 && text[0] == '\\' && text[1] == 'n')
            text += 2;
        else if (end > text && text[0] == '\n')
            text++;
        else
            continue;
        stop = memmem(text, (size_t)(end - text), close, close_length);
        if (stop && stop > text && !memchr(text, '\'', (size_t)(stop - text)) &&
            !memchr(text, '"', (size_t)(stop - text)) && !memchr(text, '{', (size_t)(stop - text)) &&
            !memchr(text, '\\', (size_t)(stop - text)))
            return (bitlm_text){text, (size_t)(stop - text)};
    }
    return (bitlm_text){"", 0};
}

/* ---- messages ------------------------------------------------------------------------------ */

typedef struct message {
    int role;
    const char *text; /* owned by the JSON tree */
    size_t length;
} message;

static bitlm_status read_message(json_t *item, size_t number, message *m, bitlm_error *error)
{
    const json_t *role, *content;
    json_t *value;
    const char *key;
    char shown[60];

    if (!json_is_object(item))
        return bl_error(error, BITLM_ARG,
                        "message %zu is not an object, but must be {\"role\": …, \"content\": …}",
                        number);
    json_object_foreach(item, key, value) {
        (void)value;
        if (strcmp(key, "role") && strcmp(key, "content"))
            return bl_error(error, BITLM_ARG,
                            "message %zu has the member '%s', but only role and content are known",
                            number, bl_show(shown, sizeof(shown), key, strlen(key)));
    }
    role = json_object_get(item, "role");
    if (!role)
        return bl_error(error, BITLM_ARG, "message %zu has no role", number);
    if (!json_is_string(role))
        return bl_error(error, BITLM_ARG, "the role of message %zu is not a string", number);
    for (m->role = 0; m->role < 3; m->role++)
        if (json_string_length(role) == strlen(role_names[m->role]) &&
            !memcmp(json_string_value(role), role_names[m->role], json_string_length(role)))
            break;
    if (m->role == 3)
        return bl_error(error, BITLM_ARG,
                        "the role of message %zu is '%s', but must be system, user or assistant",
                        number,
                        bl_show(shown, sizeof(shown), json_string_value(role),
                                json_string_length(role)));
    content = json_object_get(item, "content");
    if (!content)
        return bl_error(error, BITLM_ARG, "message %zu has no content", number);
    if (!json_is_string(content))
        return bl_error(error, BITLM_ARG, "the content of message %zu is not a string", number);
    m->text = json_string_value(content);
    m->length = json_string_length(content);
    return BITLM_OK;
}

static int is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void trim(message *m)
{
    while (m->length && is_blank(m->text[0])) {
        m->text++;
        m->length--;
    }
    while (m->length && is_blank(m->text[m->length - 1]))
        m->length--;
}

/* What llama2's layout cannot say. */
static bitlm_status check_turns(const bl_chat_template *t, const message *m, size_t n,
                                bitlm_error *error)
{
    size_t i, first = m[0].role == ROLE_SYSTEM;

    if (!t->llama2)
        return BITLM_OK;
    for (i = first; i < n; i++) {
        int wanted = (i - first) % 2 ? ROLE_ASSISTANT : ROLE_USER;
        if (m[i].role != wanted)
            return bl_error(error, BITLM_ARG,
                            "message %zu has the role %s, but the template %s wants %s there", i + 1,
                            role_names[m[i].role], t->name, role_names[wanted]);
    }
    if (m[n - 1].role != ROLE_USER)
        return bl_error(error, BITLM_ARG,
                        "the last message has the role %s, but the template %s wants user",
                        role_names[m[n - 1].role], t->name);
    return BITLM_OK;
}

/* ---- rendering: once to measure, once to write -------------------------------------------- */

typedef struct writer {
    char *out; /* NULL while measuring */
    size_t n;
    size_t *segments;
    size_t n_segments; /* pairs */
} writer;

static void put(writer *w, const char *text, size_t length)
{
    if (w->out && length)
        memcpy(w->out + w->n, text, length);
    w->n += length;
}

static void put_mark(writer *w, const char *mark)
{
    put(w, mark, strlen(mark));
}

static void put_content(writer *w, const message *m)
{
    if (w->out) {
        w->segments[2 * w->n_segments] = w->n;
        w->segments[2 * w->n_segments + 1] = w->n + m->length;
    }
    w->n_segments++;
    put(w, m->text, m->length);
}

static void render(const bl_chat_template *t, bitlm_text system, const message *m, size_t n, writer *w)
{
    size_t i;

    if (system.length && m[0].role != ROLE_SYSTEM) {
        put_mark(w, t->before[ROLE_SYSTEM]);
        put(w, system.data, system.length);
        put_mark(w, t->after[ROLE_SYSTEM]);
    }

    for (i = 0; i < n; i++) {
        const char *before = t->before[m[i].role];

        if (t->llama2 && i == 0) {
            /* The first BOS is the frame's; a system message stands inside the first turn. */
            put_mark(w, t->before[ROLE_USER] + strlen("<s>"));
            if (m[0].role == ROLE_USER)
                before = "";
        } else if (t->llama2 && i == 1 && m[0].role == ROLE_SYSTEM) {
            before = "";
        }
        put_mark(w, before);
        put_content(w, &m[i]);
        put_mark(w, t->after[m[i].role]);
    }
    put_mark(w, t->speak);
}

bitlm_status bl_chat_render(const bl_chat_template *t, bitlm_text system, const char *messages_json, size_t length,
                            const bl_alloc *alloc, char **text, size_t *text_length,
                            size_t **segments, size_t *n_segments, bitlm_error *error)
{
    json_error_t problem;
    json_t *json;
    message *m = NULL;
    writer w;
    bitlm_status status;
    size_t i, n;

    memset(&w, 0, sizeof(w));
    if (length > MAX_JSON)
        return bl_error(error, BITLM_LIMIT,
                        "the messages have %zu bytes, but at most %zu are possible", length,
                        MAX_JSON);
    json = json_loadb(length ? messages_json : "", length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL,
                      &problem);
    if (!json && json_error_code(&problem) == json_error_out_of_memory)
        return bl_error_nomem(error, length, "the messages");
    if (!json)
        return bl_error(error, BITLM_ARG, "the messages are not valid JSON: line %d: %s",
                        problem.line, problem.text);
    if (!json_is_array(json)) {
        status = bl_error(error, BITLM_ARG, "the messages are not a JSON array of objects");
        goto fail;
    }
    n = json_array_size(json);
    if (n == 0) {
        status = bl_error(error, BITLM_ARG, "the array of messages is empty");
        goto fail;
    }
    m = bl_calloc(alloc, n, sizeof(*m));
    if (!m) {
        status = bl_error_nomem(error, n * sizeof(*m), "the messages");
        goto fail;
    }
    for (i = 0; i < n; i++) {
        if ((status = read_message(json_array_get(json, i), i + 1, &m[i], error)))
            goto fail;
        if (t->trim)
            trim(&m[i]);
    }
    if ((status = check_turns(t, m, n, error)))
        goto fail;
    render(t, system, m, n, &w);
    w.out = bl_malloc(alloc, w.n + 1);
    w.segments = bl_calloc(alloc, n, 2 * sizeof(*w.segments));
    if (!w.out || !w.segments) {
        status = bl_error_nomem(error, w.n, "the messages");
        goto fail;
    }
    w.n = w.n_segments = 0;
    render(t, system, m, n, &w);
    w.out[w.n] = '\0';
    bl_free(alloc, m);
    json_decref(json);
    *text = w.out;
    *text_length = w.n;
    *segments = w.segments;
    *n_segments = w.n_segments;
    return BITLM_OK;
fail:
    bl_free(alloc, w.segments);
    bl_free(alloc, w.out);
    bl_free(alloc, m);
    json_decref(json);
    return status;
}
