/* options.c - the one table of options, their defaults and ranges, and the JSON parser over it.
 *
 * SQL, Python and the command all come through bitlm_options_json, so an option has one name,
 * one default and one error everywhere.  JSON itself is jansson's. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "run/constraint.h"

typedef enum option_kind { OPT_INT, OPT_FLAG, OPT_FLOAT, OPT_CHOICE, OPT_SEED, OPT_MODEL, OPT_STOP,
                          OPT_CHOICES, OPT_SCHEMA } option_kind;

typedef struct option_row {
    const char *name;
    option_kind kind;
    size_t offset;
    double fallback, lo, hi;
    int lo_open;             /* lo itself is not allowed */
    const char *choices;     /* OPT_CHOICE: names in order of their values, '|' between */
} option_row;

#define AT(field) offsetof(bitlm_options, field)

static const option_row table[] = {
    {"model", OPT_MODEL, AT(model), 0, 0, 0, 0, NULL},
    {"max_tokens", OPT_INT, AT(max_tokens), 128, 0, 2147483647, 0, NULL},
    {"temperature", OPT_FLOAT, AT(temperature), 0.7, 0, 100, 0, NULL},
    {"top_p", OPT_FLOAT, AT(top_p), 0.95, 0, 1, 1, NULL},
    {"top_k", OPT_INT, AT(top_k), 0, 0, 2147483647, 0, NULL},
    {"min_p", OPT_FLOAT, AT(min_p), 0.05, 0, 1, 0, NULL},
    {"repeat_penalty", OPT_FLOAT, AT(repeat_penalty), 1.1, 0, 10, 1, NULL},
    {"seed", OPT_SEED, AT(seed), 0, 0, 0, 0, NULL},
    {"stop", OPT_STOP, AT(stop), 0, 0, 0, 0, NULL},
    {"choices", OPT_CHOICES, AT(choices), 0, 0, 0, 0, NULL},
    {"json_schema", OPT_SCHEMA, AT(json_schema), 0, 0, 0, 0, NULL},
    {"ignore_eos", OPT_FLAG, AT(ignore_eos), 0, 0, 1, 0, NULL},
    {"logprobs", OPT_FLAG, AT(logprobs), 0, 0, 1, 0, NULL},
    {"threads", OPT_INT, AT(threads), 0, 0, 256, 0, NULL},
    {"n_ctx", OPT_INT, AT(n_ctx), 0, 0, 16777216, 0, NULL},
    {"kv_type", OPT_CHOICE, AT(kv_type), BITLM_KV_F16, 0, 0, 0, "f16|f32|int8|int4"},
    {"activations", OPT_CHOICE, AT(activations), BITLM_ACTIVATIONS_INT8, 0, 0, 0, "int8|a4.8|binary"},
    {"head", OPT_CHOICE, AT(head), BITLM_HEAD_FULL, 0, 0, 0, "full|shortlist"},
    {"rows", OPT_INT, AT(rows), 0, 0, 16, 0, NULL},
    {"lookup", OPT_INT, AT(lookup), 0, 0, 15, 0, NULL},
    {"timeout_ms", OPT_INT, AT(timeout_ms), 0, 0, 2147483647, 0, NULL},
    {"truncate", OPT_CHOICE, AT(truncate), BITLM_TRUNCATE_NONE, 0, 0, 0, "none|start|end"},
    {"on_error", OPT_CHOICE, AT(on_error), BITLM_ON_ERROR_RAISE, 0, 0, 0, "raise|null"},
    {"load", OPT_CHOICE, AT(load), BITLM_LOAD_AUTO, 0, 0, 0, "auto|mmap|copy"},
    {"threshold", OPT_FLOAT, AT(threshold), 0, -3e38, 3e38, 0, NULL},
    {"order", OPT_CHOICE, AT(order), BITLM_ORDER_MSB, 0, 0, 0, "msb|lsb"},
    {"group", OPT_INT, AT(group), 0, 0, 2147483647, 0, NULL},
    {"rounding", OPT_CHOICE, AT(rounding), BITLM_ROUND_NEAREST, 0, 0, 0, "nearest|stochastic|feedback"},
    {"hadamard", OPT_INT, AT(hadamard), 0, 0, 32768, 0, NULL},
    {"chat_template", OPT_CHOICE, AT(chat_template), 0, 0, 0, 0,
     "auto|llama3|chatml|bitnet-2b4t|phi3|falcon3|zephyr|llama2"},
    {"hidden_act", OPT_CHOICE, AT(hidden_act), BITLM_ACT_AUTO, 0, 0, 0, "auto|relu2|silu"},
};

static int32_t *int_at(bitlm_options *o, const option_row *row) {
    return (int32_t *)(void *)((char *)o + row->offset);
}
static float *float_at(bitlm_options *o, const option_row *row) {
    return (float *)(void *)((char *)o + row->offset);
}

void bitlm_options_init(bitlm_options *options) {
    memset(options, 0, sizeof *options);
    options->size = sizeof *options;
    for (size_t i = 0; i < BL_COUNT(table); i++) {
        const option_row *row = &table[i];
        if (row->kind == OPT_FLOAT)
            *float_at(options, row) = (float)row->fallback;
        else if (row->kind == OPT_INT || row->kind == OPT_FLAG || row->kind == OPT_CHOICE)
            *int_at(options, row) = (int32_t)row->fallback;
    }
}

void bitlm_options_clear(bitlm_options *options) {
    if (!options)
        return;
    free(options->owned);
    bitlm_options_init(options);
}

/* ---- one value -------------------------------------------------------------------------- */

static const char *kind_of(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a text";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "true or false";
    default: return "null";
    }
}

static bitlm_status set_number(bitlm_options *o, const option_row *row, const json_t *v, bitlm_error *error) {
    if (row->kind == OPT_FLAG && json_is_boolean(v)) {
        *int_at(o, row) = json_is_true(v);
        return BITLM_OK;
    }
    if (!json_is_number(v))
        return bl_error(error, BITLM_ARG, "option %s must be %s, not %s", row->name,
                        row->kind == OPT_FLAG ? "true or false" : "a number", kind_of(v));
    double x = json_number_value(v);
    if (row->kind != OPT_FLOAT && x != rint(x))
        return bl_error(error, BITLM_ARG, "option %s must be a whole number, not %g", row->name, x);
    if (!(x >= row->lo && x <= row->hi) || (row->lo_open && x <= row->lo))
        return bl_error(error, BITLM_ARG, "option %s is %.15g, but must be %s%g to %.15g", row->name, x,
                        row->lo_open ? "above " : "", row->lo, row->hi);
    if (row->kind == OPT_FLOAT)
        *float_at(o, row) = (float)x;
    else
        *int_at(o, row) = (int32_t)x;
    return BITLM_OK;
}

static bitlm_status set_choice(bitlm_options *o, const option_row *row, const json_t *v, bitlm_error *error) {
    const char *name = row->choices;
    char shown[48];
    if (!json_is_string(v))
        return bl_error(error, BITLM_ARG, "option %s must be one of %s, not %s", row->name, row->choices, kind_of(v));
    for (int32_t value = 0; *name; value++) {
        size_t n = strcspn(name, "|");
        if (n == json_string_length(v) && memcmp(name, json_string_value(v), n) == 0) {
            *int_at(o, row) = value;
            return BITLM_OK;
        }
        name += n + (name[n] == '|');
    }
    return bl_error(error, BITLM_ARG, "option %s is '%s', but must be one of %s", row->name,
                    bl_show(shown, sizeof shown, json_string_value(v), json_string_length(v)), row->choices);
}

static bitlm_status set_seed(bitlm_options *o, const json_t *v, bitlm_error *error) {
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return bl_error(error, BITLM_ARG, "option seed must be a whole number from 0 to 2^63-1");
    o->seed = (uint64_t)json_integer_value(v);
    return BITLM_OK;
}

/* A list of texts: stop or choices. */
typedef struct list_rule {
    const char *name, *what;
    size_t most, most_bytes;
} list_rule;
static const list_rule stop_rule = {"stop", "a stop text", 64, 1024};
static const list_rule choices_rule = {"choices", "a choice", BL_MAX_CHOICES, BL_MAX_CHOICE_BYTES};

static size_t list_count(const json_t *v) { return json_is_array(v) ? json_array_size(v) : 1; }
static const json_t *list_item(const json_t *v, size_t i) { return json_is_array(v) ? json_array_get(v, i) : v; }

static bitlm_status check_list(const json_t *v, const list_rule *rule, bitlm_error *error) {
    size_t n = list_count(v);
    if (n > rule->most)
        return bl_error(error, BITLM_ARG, "option %s has %zu texts, but may have at most %zu", rule->name, n,
                        rule->most);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = list_item(v, i);
        if (!json_is_string(item))
            return bl_error(error, BITLM_ARG, "option %s must be a text or an array of texts, not %s", rule->name,
                            kind_of(item));
        size_t bytes = json_string_length(item);
        if (bytes == 0 || bytes > rule->most_bytes)
            return bl_error(error, BITLM_ARG, "%s has %zu bytes, but must have 1 to %zu", rule->what, bytes,
                            rule->most_bytes);
    }
    return BITLM_OK;
}

static bitlm_status check_choices(const json_t *v, bitlm_error *error) {
    if (!json_is_array(v) || json_array_size(v) == 0)
        return bl_error(error, BITLM_ARG, "option choices must be an array of at least one text, not %s",
                        json_is_array(v) ? "an empty one" : kind_of(v));
    return check_list(v, &choices_rule, error);
}

/* ---- texts: one block holds the lists and all bytes --------------------------------------- */

/* What the options will own: texts that lie in the old block, in the JSON document or in `dumped`. */
typedef struct texts {
    bitlm_text model, json_schema;
    bitlm_text *lists[2]; /* stop, choices */
    size_t n[2];
    const json_t *json[2]; /* where a list comes from, if not from lists[] */
} texts;

static bitlm_text list_text(const texts *t, int list, size_t i) {
    const json_t *v = t->json[list];
    if (!v)
        return t->lists[list][i];
    v = list_item(v, i);
    return (bitlm_text){json_string_value(v), json_string_length(v)};
}

static bitlm_text put_text(char **at, bitlm_text text) {
    bitlm_text out = {*at, text.length};
    if (!text.data)
        return (bitlm_text){NULL, 0};
    memcpy(*at, text.data, text.length);
    (*at)[text.length] = 0;
    *at += text.length + 1;
    return out;
}

/* Copies the texts to a fresh block and points `o` to it; the old block is left for the caller to free. */
static bitlm_status own_texts(bitlm_options *o, const texts *t, bitlm_error *error) {
    size_t n = t->n[0] + t->n[1], bytes = n * sizeof(bitlm_text) + t->model.length + t->json_schema.length + 2;
    for (int list = 0; list < 2; list++)
        for (size_t i = 0; i < t->n[list]; i++)
            bytes += list_text(t, list, i).length + 1;
    bitlm_text *block = malloc(bytes), *row = block;
    if (!block)
        return bl_error_nomem(error, bytes, "the options");
    char *at = (char *)(block + n);
    bitlm_text *lists[2];
    for (int list = 0; list < 2; list++) {
        lists[list] = t->n[list] ? row : NULL;
        for (size_t i = 0; i < t->n[list]; i++)
            *row++ = put_text(&at, list_text(t, list, i));
    }
    o->model = put_text(&at, t->model);
    o->json_schema = put_text(&at, t->json_schema);
    o->stop = lists[0];
    o->n_stop = t->n[0];
    o->choices = lists[1];
    o->n_choices = t->n[1];
    o->owned = block;
    return BITLM_OK;
}

static bitlm_status set_texts(bitlm_options *o, const json_t *model, const json_t *stop, const json_t *choices,
                              const json_t *schema, bitlm_error *error) {
    texts t = {o->model, o->json_schema, {o->stop, o->choices}, {o->n_stop, o->n_choices}, {stop, choices}};
    char *dumped = NULL;
    bitlm_status status = BITLM_OK;
    if (model && !json_is_string(model))
        return bl_error(error, BITLM_ARG, "option model must be a text, not %s", kind_of(model));
    if (schema && !json_is_string(schema) && !json_is_object(schema))
        return bl_error(error, BITLM_ARG, "option json_schema must be an object or its text, not %s", kind_of(schema));
    if (stop)
        status = check_list(stop, &stop_rule, error);
    if (!status && choices)
        status = check_choices(choices, error);
    if (status)
        return status;
    if (model)
        t.model = (bitlm_text){json_string_value(model), json_string_length(model)};
    if (stop)
        t.n[0] = list_count(stop);
    if (choices)
        t.n[1] = list_count(choices);
    if (schema && json_is_string(schema)) {
        t.json_schema = (bitlm_text){json_string_value(schema), json_string_length(schema)};
    } else if (schema) {
        dumped = json_dumps(schema, JSON_COMPACT);
        if (!dumped)
            return bl_error_nomem(error, 0, "the schema");
        t.json_schema = (bitlm_text){dumped, strlen(dumped)};
    }
    status = own_texts(o, &t, error);
    free(dumped);
    return status;
}

static bitlm_status unknown_option(const char *name, bitlm_error *error) {
    char names[600], shown[60];
    size_t used = 0;
    for (size_t i = 0; i < BL_COUNT(table); i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", table[i].name);
    return bl_error(error, BITLM_ARG, "unknown option '%s'; the options are %s",
                    bl_show(shown, sizeof shown, name, strlen(name)), names);
}

static bitlm_status apply(bitlm_options *o, json_t *root, bitlm_error *error) {
    const json_t *model = NULL, *stop = NULL, *choices = NULL, *schema = NULL;
    const char *name;
    json_t *v;
    json_object_foreach(root, name, v) {
        const option_row *row = NULL;
        bitlm_status s = BITLM_OK;
        for (size_t i = 0; i < BL_COUNT(table) && !row; i++)
            if (strcmp(table[i].name, name) == 0)
                row = &table[i];
        if (!row)
            return unknown_option(name, error);
        switch (row->kind) {
        case OPT_INT:
        case OPT_FLAG:
        case OPT_FLOAT: s = set_number(o, row, v, error); break;
        case OPT_CHOICE: s = set_choice(o, row, v, error); break;
        case OPT_SEED: s = set_seed(o, v, error); break;
        case OPT_MODEL: model = v; break;
        case OPT_STOP: stop = v; break;
        case OPT_CHOICES: choices = v; break;
        case OPT_SCHEMA: schema = v; break;
        }
        if (s)
            return s;
    }
    return model || stop || choices || schema ? set_texts(o, model, stop, choices, schema, error) : BITLM_OK;
}

bitlm_status bitlm_options_choices(bitlm_options *options, const char *json, size_t length, bitlm_error *error) {
    json_error_t why;
    bl_error_clear(error);
    json_t *list = json_loadb(json, length, JSON_DECODE_ANY, &why);
    if (!list) {
        char shown[160];
        return bl_error(error, BITLM_ARG, "the list is not valid JSON at byte %d: %s", why.position,
                        bl_show(shown, sizeof shown, why.text, strlen(why.text)));
    }
    bitlm_options changed = *options;
    bitlm_status status = set_texts(&changed, NULL, NULL, list, NULL, error);
    if (!status) {
        free(options->owned);
        *options = changed;
    }
    json_decref(list);
    return status;
}

bitlm_status bitlm_options_json(bitlm_options *options, const char *json, size_t length, bitlm_error *error) {
    bl_error_clear(error);
    if (length == 0)
        return BITLM_OK;
    json_error_t why;
    json_t *root = json_loadb(json, length, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &why);
    if (!root) {
        char shown[160];
        return bl_error(error, BITLM_ARG, "the options are not valid JSON at byte %d: %s", why.position,
                        bl_show(shown, sizeof shown, why.text, strlen(why.text)));
    }
    bitlm_status status = BITLM_OK;
    if (json_is_string(root)) {
        status = bl_error(error, BITLM_ARG, "the options must be a JSON object such as {\"model\":\"%.80s\"}, not a text",
                          json_string_value(root));
    } else if (json_is_object(root)) {
        bitlm_options changed = *options;
        status = apply(&changed, root, error);
        if (!status) {
            if (changed.owned != options->owned)
                free(options->owned);
            *options = changed;
        }
    } else if (!json_is_null(root)) {
        status = bl_error(error, BITLM_ARG, "the options must be a JSON object, not %s", kind_of(root));
    }
    json_decref(root);
    return status;
}
