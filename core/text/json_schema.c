/* json_schema.c - flat JSON schemas as a machine over bytes: see json_schema.h.
 *
 * Everything whose spelling is fixed is a literal with a table of costs: how few tokens spell it from each
 * offset to its end (a walk backwards over the vocabulary).  What follows a property is the literal of a
 * later one (`, "name": `) or the end (`}`), so optional properties are a choice between literals; the
 * machine keeps the first candidate that agrees with the bytes so far.  Numbers and enum values do not
 * say where they end: a byte that cannot go on is tried as the start of what follows. */
#include "text/json_schema.h"

#include <jansson.h>
#include <string.h>

#define MAX_PROPERTIES 64
#define MAX_LITERALS 256          /* values of an enum */
#define MAX_SCHEMA (1 << 16)      /* bytes */
#define MAX_DIGITS 15
#define NEVER INT32_MAX

enum { KEY, VALUE, STRING, NUMBER, LITERAL, VALUE_END, DONE };
enum { INT_PART, FRACTION };

typedef struct literal {
    char *text;
    uint32_t length;
    int32_t *cost; /* (length + 1) tokens from this offset to the end */
} literal;

typedef struct property {
    literal first, next; /* `{"name": ` and `, "name": ` */
    int required, string, number, integer;
    uint32_t min_length, max_length;
    int64_t minimum, maximum;
    int32_t n_literals;
    literal *literals; /* true, false, null; or all values of an enum */
    int32_t value_cost, after_cost; /* tokens of the cheapest value; and of all after it */
} property;

struct bl_schema {
    bl_alloc alloc;
    const bl_token_table *table;
    int32_t n;
    property properties[MAX_PROPERTIES];
    literal none, end; /* `{}` and `}` */
};

/* ---- literals --------------------------------------------------------------------------------- */

static int32_t plus(int32_t a, int32_t b) { return a == NEVER || b == NEVER ? NEVER : a + b; }

static bitlm_status make_literal(const bl_schema *s, const char *before, const char *text, const char *after,
                                 literal *out, bitlm_error *error) {
    size_t n = strlen(before) + strlen(text) + strlen(after);
    out->text = bl_malloc(&s->alloc, n + 1);
    out->cost = bl_calloc(&s->alloc, n + 1, sizeof *out->cost);
    if (!out->text || !out->cost)
        return bl_error_nomem(error, n, "the schema");
    strcpy(out->text, before);
    strcat(out->text, text);
    strcat(out->text, after);
    out->length = (uint32_t)n;
    for (size_t at = n; at-- > 0;) {
        out->cost[at] = NEVER;
        for (size_t length = 1; length <= n - at && length <= s->table->max_bytes; length++)
            if (out->cost[at + length] < out->cost[at] && bl_token_table_has(s->table, out->text + at, length))
                out->cost[at] = plus(out->cost[at + length], 1);
    }
    return BITLM_OK;
}

static void free_literal(const bl_alloc *alloc, literal *l) {
    bl_free(alloc, l->text);
    bl_free(alloc, l->cost);
}

void bl_schema_free(bl_schema *s) {
    if (!s)
        return;
    bl_alloc alloc = s->alloc;
    for (int32_t i = 0; i < s->n; i++) {
        property *p = &s->properties[i];
        free_literal(&alloc, &p->first);
        free_literal(&alloc, &p->next);
        for (int32_t j = 0; j < p->n_literals; j++)
            free_literal(&alloc, &p->literals[j]);
        bl_free(&alloc, p->literals);
    }
    free_literal(&alloc, &s->none);
    free_literal(&alloc, &s->end);
    bl_free(&alloc, s);
}

/* ---- reading the schema ------------------------------------------------------------------------- */

static const char *const ignored[] = {"title", "description", "default", "examples", "$schema", "$id", "$comment",
                                      "additionalProperties"};

static int is_ignored(const char *key) {
    for (size_t i = 0; i < BL_COUNT(ignored); i++)
        if (strcmp(ignored[i], key) == 0)
            return 1;
    return 0;
}

static bitlm_status refuse(bitlm_error *error, const char *where, const char *what) {
    char shown[80], name[80];
    return bl_error(error, BITLM_UNSUPPORTED, "json_schema: %s in %s is not supported; objects are flat, of strings "
                    "(minLength, maxLength), integers (minimum, maximum), numbers, booleans, null, enum and const",
                    bl_show(shown, sizeof shown, what, strlen(what)), bl_show(name, sizeof name, where, strlen(where)));
}

static bitlm_status add_literal(bl_schema *s, property *p, const char *text, bitlm_error *error) {
    if (!p->literals && !(p->literals = bl_calloc(&s->alloc, MAX_LITERALS, sizeof *p->literals)))
        return bl_error_nomem(error, MAX_LITERALS * sizeof *p->literals, "the schema");
    for (int32_t i = 0; i < p->n_literals; i++)
        if (strcmp(p->literals[i].text, text) == 0)
            return BITLM_OK;
    if (p->n_literals == MAX_LITERALS)
        return bl_error(error, BITLM_LIMIT, "json_schema: an enum has more than %d values", MAX_LITERALS);
    return make_literal(s, "", text, "", &p->literals[p->n_literals++], error);
}

static bitlm_status add_value(bl_schema *s, property *p, const char *name, const json_t *v, bitlm_error *error) {
    if (json_is_object(v) || json_is_array(v))
        return refuse(error, name, "an enum or const that is an object or an array");
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!text)
        return bl_error_nomem(error, 0, "the schema");
    bitlm_status status = add_literal(s, p, text, error);
    free(text);
    return status;
}

static bitlm_status add_type(bl_schema *s, property *p, const char *name, const json_t *type, bitlm_error *error) {
    const char *t = json_string_value(type);
    if (!t)
        return bl_error(error, BITLM_ARG, "json_schema: a type of %.60s is no text", name);
    bitlm_status status = BITLM_OK;
    if (strcmp(t, "string") == 0)
        p->string = 1;
    else if (strcmp(t, "number") == 0)
        p->number = 1;
    else if (strcmp(t, "integer") == 0)
        p->integer = 1;
    else if (strcmp(t, "null") == 0)
        status = add_literal(s, p, "null", error);
    else if (strcmp(t, "boolean") == 0) {
        status = add_literal(s, p, "true", error);
        if (!status)
            status = add_literal(s, p, "false", error);
    } else {
        char what[60];
        snprintf(what, sizeof what, "the type %.40s", t);
        status = refuse(error, name, what);
    }
    return status;
}

static bitlm_status read_bound(const json_t *v, const char *name, const char *key, int64_t lo, int64_t hi,
                               int64_t *out, bitlm_error *error) {
    double x = json_number_value(v);
    if (!json_is_number(v) || x != (double)(int64_t)BL_MIN(BL_MAX(x, (double)lo), (double)hi))
        return bl_error(error, BITLM_ARG, "json_schema: %s of %.60s must be a whole number from %lld to %lld", key, name,
                        (long long)lo, (long long)hi);
    *out = (int64_t)x;
    return BITLM_OK;
}

static bitlm_status read_property(bl_schema *s, const char *name, const json_t *v, property *p, bitlm_error *error) {
    const json_t *types = NULL, *values = NULL, *value = NULL;
    const int64_t most = 999999999999999; /* MAX_DIGITS nines: exact in a double too */
    int64_t n = 0;
    int bounded = 0, measured = 0;
    bitlm_status status = BITLM_OK;
    const char *key;
    json_t *item;
    size_t i;
    p->minimum = -most;
    p->maximum = most;
    p->max_length = UINT32_MAX;
    if (!json_is_object(v))
        return bl_error(error, BITLM_ARG, "json_schema: the property %.60s is no object", name);
    json_object_foreach((json_t *)(uintptr_t)v, key, item) {
        if (strcmp(key, "type") == 0) {
            types = item;
        } else if (strcmp(key, "enum") == 0) {
            values = item;
        } else if (strcmp(key, "const") == 0) {
            value = item;
        } else if (strcmp(key, "minLength") == 0 || strcmp(key, "maxLength") == 0) {
            status = read_bound(item, name, key, 0, 1 << 20, &n, error);
            *(key[1] == 'i' ? &p->min_length : &p->max_length) = (uint32_t)n;
            measured = 1;
        } else if (strcmp(key, "minimum") == 0 || strcmp(key, "maximum") == 0) {
            status = read_bound(item, name, key, -most, most, key[1] == 'i' ? &p->minimum : &p->maximum, error);
            bounded = 1;
        } else if (!is_ignored(key)) {
            status = refuse(error, name, key);
        }
        if (status)
            return status;
    }
    if (value || values) {
        if (values && (!json_is_array(values) || json_array_size(values) == 0))
            return bl_error(error, BITLM_ARG, "json_schema: the enum of %.60s must be an array of at least one value",
                            name);
        if (value)
            return add_value(s, p, name, value, error);
        json_array_foreach((json_t *)(uintptr_t)values, i, item) {
            status = add_value(s, p, name, item, error);
            if (status)
                return status;
        }
        return BITLM_OK;
    }
    if (json_is_array(types)) {
        json_array_foreach((json_t *)(uintptr_t)types, i, item) {
            status = add_type(s, p, name, item, error);
            if (status)
                return status;
        }
    } else if (types) {
        status = add_type(s, p, name, types, error);
    }
    if (!status && !p->string && !p->number && !p->integer && p->n_literals == 0)
        return bl_error(error, BITLM_ARG, "json_schema: the property %.60s has no type, enum or const", name);
    if (!status && bounded && (p->number || !p->integer))
        return refuse(error, name, "minimum or maximum of what is no integer");
    if (!status && measured && !p->string)
        return refuse(error, name, "minLength or maxLength of what is no string");
    if (!status && (p->minimum > p->maximum || p->min_length > p->max_length))
        return bl_error(error, BITLM_ARG, "json_schema: the least of %.60s is above its most", name);
    return status;
}

static bitlm_status read_required(bl_schema *s, const json_t *required, const json_t *properties, bitlm_error *error) {
    size_t i;
    json_t *item;
    for (int32_t k = 0; k < s->n; k++)
        s->properties[k].required = required == NULL;
    if (required && !json_is_array(required))
        return bl_error(error, BITLM_ARG, "json_schema: required must be an array of names");
    json_array_foreach((json_t *)(uintptr_t)required, i, item) {
        const char *name = json_string_value(item), *key;
        json_t *v;
        int32_t k = 0;
        if (!name || !json_object_get(properties, name))
            return bl_error(error, BITLM_ARG, "json_schema: required names %.60s, which is no property",
                            name ? name : "something");
        json_object_foreach((json_t *)(uintptr_t)properties, key, v) {
            if (strcmp(key, name) == 0)
                s->properties[k].required = 1;
            k++;
        }
    }
    return BITLM_OK;
}

static bitlm_status read_properties(bl_schema *s, const json_t *properties, bitlm_error *error) {
    const char *key;
    json_t *v;
    if (json_object_size(properties) > MAX_PROPERTIES)
        return bl_error(error, BITLM_LIMIT, "json_schema has %zu properties, but may have at most %d",
                        json_object_size(properties), MAX_PROPERTIES);
    json_object_foreach((json_t *)(uintptr_t)properties, key, v) {
        property *p = &s->properties[s->n++];
        json_t *name = json_string(key);
        char *quoted = name ? json_dumps(name, JSON_ENCODE_ANY) : NULL;
        bitlm_status status = quoted ? BITLM_OK : bl_error_nomem(error, 0, "the schema");
        if (!status)
            status = make_literal(s, "{", quoted, ": ", &p->first, error);
        if (!status)
            status = make_literal(s, ", ", quoted, ": ", &p->next, error);
        free(quoted);
        json_decref(name);
        if (!status)
            status = read_property(s, key, v, p, error);
        if (status)
            return status;
    }
    return BITLM_OK;
}

static bitlm_status read_schema(bl_schema *s, const json_t *root, bitlm_error *error) {
    const json_t *properties = NULL, *required = NULL;
    const char *key;
    json_t *v;
    if (!json_is_object(root))
        return bl_error(error, BITLM_ARG, "json_schema must be an object");
    json_object_foreach((json_t *)(uintptr_t)root, key, v) {
        if (strcmp(key, "type") == 0) {
            if (!json_is_string(v) || strcmp(json_string_value(v), "object") != 0)
                return refuse(error, "the schema", "a type other than object");
        } else if (strcmp(key, "properties") == 0) {
            properties = v;
        } else if (strcmp(key, "required") == 0) {
            required = v;
        } else if (!is_ignored(key)) {
            return refuse(error, "the schema", key);
        }
    }
    if (!json_is_object(properties))
        return bl_error(error, BITLM_ARG, "json_schema needs an object of properties");
    bitlm_status status = read_properties(s, properties, error);
    if (!status)
        status = read_required(s, required, properties, error);
    if (!status)
        status = make_literal(s, "", "{}", "", &s->none, error);
    if (!status)
        status = make_literal(s, "", "}", "", &s->end, error);
    return status;
}

/* ---- what may follow a property ------------------------------------------------------------------ */

/* The literal of candidate k after property `prop` (-1: none yet); k = n is the end. */
static const literal *candidate(const bl_schema *s, int32_t prop, int32_t k) {
    if (k == s->n)
        return prop < 0 ? &s->none : &s->end;
    return prop < 0 ? &s->properties[k].first : &s->properties[k].next;
}

/* The candidate after k, or -1: a required property hides what is behind it. */
static int32_t candidate_after(const bl_schema *s, int32_t k) {
    return k == s->n || s->properties[k].required ? -1 : k + 1;
}

/* Tokens to the end, `pos` bytes into the candidates that agree with number `cand`. */
static int32_t cost_of_key(const bl_schema *s, int32_t prop, int32_t cand, uint32_t pos) {
    const literal *seen = candidate(s, prop, cand);
    int32_t best = NEVER;
    for (int32_t k = cand; k >= 0; k = candidate_after(s, k)) {
        const literal *l = candidate(s, prop, k);
        if (pos > l->length || memcmp(l->text, seen->text, pos) != 0)
            continue;
        int32_t cost = l->cost[pos];
        if (k < s->n)
            cost = plus(plus(cost, s->properties[k].value_cost), s->properties[k].after_cost);
        best = BL_MIN(best, cost);
    }
    return best;
}

/* ---- numbers ----------------------------------------------------------------------------------------- */

/* How few more digits bring value (of `digits` digits) into the property's range; NEVER: none do. */
static int32_t digits_to_range(const property *p, int negative, int64_t value, uint32_t digits) {
    if (p->number) /* no bounds; something must stand there */
        return digits ? 0 : 1;
    int64_t least = value, most = value;
    for (int32_t more = 0; digits + (uint32_t)more <= MAX_DIGITS; more++) {
        int64_t from = negative ? -most : least, to = negative ? -least : most;
        if (digits + (uint32_t)more > 0 && from <= p->maximum && to >= p->minimum && !(negative && most == 0))
            return more;
        if (digits == 1 && value == 0)
            return NEVER; /* nothing may follow a leading zero */
        if (digits == 0 && more == 0) { /* the first digit; 0 stands alone */
            least = negative ? 1 : 0;
            most = 9;
        } else {
            least = (digits == 0 && least == 0 ? 1 : least) * 10;
            most = most * 10 + 9;
        }
    }
    return NEVER;
}

static int number_complete(const property *p, const bl_schema_state *st) {
    if (st->part == FRACTION)
        return st->pos > 0;
    return st->pos > 0 && digits_to_range(p, st->negative, st->value, st->pos) == 0;
}

static int step_number(const property *p, bl_schema_state *st, uint8_t byte) {
    if (byte == '.' && st->part == INT_PART && p->number && st->pos > 0) {
        st->part = FRACTION;
        st->pos = 0;
        return 1;
    }
    if (byte < '0' || byte > '9' || st->pos >= MAX_DIGITS)
        return 0;
    if (st->part == INT_PART) {
        if (st->pos == 1 && st->value == 0)
            return 0;
        st->value = st->value * 10 + (byte - '0');
        st->pos++;
        return digits_to_range(p, st->negative, st->value, st->pos) != NEVER;
    }
    st->pos++;
    return 1;
}

/* ---- strings ---------------------------------------------------------------------------------------- */

static int step_string(const property *p, bl_schema_state *st, uint8_t byte) {
    if (st->need) {
        if (byte < st->low || byte > st->high)
            return 0;
        st->need--;
        st->low = 0x80;
        st->high = 0xBF;
        return 1;
    }
    if (st->escape) {
        st->escape = 0;
        return byte != 0 && strchr("\"\\/bfnrt", byte) != NULL;
    }
    if (byte == '"') {
        st->phase = VALUE_END;
        return st->count >= p->min_length;
    }
    if (byte < 0x20 || st->count >= p->max_length)
        return 0;
    st->count++;
    st->escape = byte == '\\';
    if (byte < 0x80)
        return 1;
    if (byte < 0xC2 || byte > 0xF4)
        return 0;
    st->need = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    st->low = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
    st->high = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
    return 1;
}

/* ---- the machine ---------------------------------------------------------------------------------------- */

/* One more byte of a literal: the first of the values or candidates that agrees. */
static int step_key(const bl_schema *s, bl_schema_state *st, int32_t prop, uint8_t byte) {
    if (st->phase != KEY) {
        st->phase = KEY;
        st->prop = prop;
        st->cand = prop + 1;
        st->pos = 0;
    }
    const literal *seen = candidate(s, st->prop, st->cand);
    for (int32_t k = st->cand; k >= 0; k = candidate_after(s, k)) {
        const literal *l = candidate(s, st->prop, k);
        if (st->pos >= l->length || memcmp(l->text, seen->text, st->pos) != 0 || (uint8_t)l->text[st->pos] != byte)
            continue;
        st->cand = k;
        if (++st->pos == l->length) {
            st->phase = k == s->n ? DONE : VALUE;
            st->prop = k;
        }
        return 1;
    }
    return 0;
}

static int step_literal(const bl_schema *s, bl_schema_state *st, uint8_t byte) {
    const property *p = &s->properties[st->prop];
    const literal *seen = &p->literals[st->cand];
    int whole = 0;
    for (int32_t k = 0; k < p->n_literals; k++) {
        const literal *l = &p->literals[k];
        if (st->pos > l->length || memcmp(l->text, seen->text, st->pos) != 0)
            continue;
        whole |= l->length == st->pos;
        if (st->pos < l->length && (uint8_t)l->text[st->pos] == byte) {
            st->cand = k;
            st->pos++;
            return 1;
        }
    }
    return whole && step_key(s, st, st->prop, byte);
}

static int step_value(const bl_schema *s, bl_schema_state *st, uint8_t byte) {
    const property *p = &s->properties[st->prop];
    st->pos = st->count = 0;
    st->value = 0;
    st->negative = st->part = st->escape = st->need = 0;
    if (byte == '"' && p->string) {
        st->phase = STRING;
        return 1;
    }
    if ((p->number || p->integer) && (byte == '-' || (byte >= '0' && byte <= '9'))) {
        st->phase = NUMBER;
        st->negative = byte == '-';
        if (byte == '-')
            return digits_to_range(p, 1, 0, 0) != NEVER;
        return step_number(p, st, byte);
    }
    if (p->n_literals == 0)
        return 0;
    st->phase = LITERAL;
    st->cand = 0;
    return step_literal(s, st, byte);
}

int bl_schema_step(const bl_schema *s, bl_schema_state *st, uint8_t byte) {
    const property *p = &s->properties[BL_MAX(st->prop, 0)]; /* -1: none yet, and not looked at */
    switch (st->phase) {
    case KEY:
        if (st->pos == 0 && st->cand == 0)
            st->prop = -1; /* a state of zeros: nothing has been read */
        return step_key(s, st, st->prop, byte);
    case VALUE:
        return step_value(s, st, byte);
    case STRING:
        return step_string(p, st, byte);
    case NUMBER:
        if ((byte >= '0' && byte <= '9') || byte == '.')
            return step_number(p, st, byte);
        return number_complete(p, st) && step_key(s, st, st->prop, byte);
    case LITERAL:
        return step_literal(s, st, byte);
    case VALUE_END:
        return step_key(s, st, st->prop, byte);
    default:
        return 0;
    }
}

int bl_schema_done(const bl_schema_state *st) { return st->phase == DONE; }

static int32_t cost_of_literals(const property *p, int32_t cand, uint32_t pos) {
    int32_t best = NEVER;
    for (int32_t k = 0; k < p->n_literals; k++)
        if (pos <= p->literals[k].length && memcmp(p->literals[k].text, p->literals[cand].text, pos) == 0)
            best = BL_MIN(best, p->literals[k].cost[pos]);
    return best;
}

int32_t bl_schema_cost(const bl_schema *s, const bl_schema_state *st) {
    const property *p = &s->properties[BL_MAX(st->prop, 0)];
    int32_t here;
    switch (st->phase) {
    case KEY:
        return cost_of_key(s, st->pos == 0 ? -1 : st->prop, st->cand, st->pos);
    case VALUE:
        return plus(p->value_cost, p->after_cost);
    case STRING:
        if (st->need && !s->table->whole_utf8)
            return NEVER;
        here = (int32_t)st->need + st->escape + 1;
        return plus(here + (int32_t)(p->min_length > st->count ? p->min_length - st->count : 0), p->after_cost);
    case NUMBER:
        if (st->part == FRACTION)
            here = st->pos == 0;
        else
            here = digits_to_range(p, st->negative, st->value, st->pos);
        return plus(here, p->after_cost);
    case LITERAL:
        return plus(cost_of_literals(p, st->cand, st->pos), p->after_cost);
    case VALUE_END:
        return p->after_cost;
    default:
        return 0;
    }
}

/* Costs from the last property to the first, since each stands on those after it. */
static void set_costs(bl_schema *s) {
    for (int32_t i = s->n; i-- > 0;) {
        property *p = &s->properties[i];
        p->value_cost = cost_of_literals(p, 0, 0);
        if (p->string)
            p->value_cost = BL_MIN(p->value_cost, 2 + (int32_t)p->min_length);
        if (p->number || p->integer) {
            int32_t positive = digits_to_range(p, 0, 0, 0), negative = plus(digits_to_range(p, 1, 0, 0), 1);
            p->value_cost = BL_MIN(p->value_cost, BL_MIN(positive, negative));
        }
        p->after_cost = cost_of_key(s, i, i + 1, 0);
    }
}

/* What machines of strings and numbers take for granted. */
static int spells_values(const bl_token_table *table) {
    static const char needed[] = "\"-0123456789an";
    for (const char *c = needed; *c; c++)
        if (!bl_token_table_has(table, c, 1))
            return 0;
    return 1;
}

bitlm_status bl_schema_compile(const char *text, size_t length, const bl_token_table *table, const bl_alloc *alloc,
                               bl_schema **schema, bitlm_error *error) {
    json_error_t why;
    if (length > MAX_SCHEMA)
        return bl_error(error, BITLM_LIMIT, "json_schema has %zu bytes, but may have at most %d", length, MAX_SCHEMA);
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &why);
    if (!root) {
        char shown[160];
        return bl_error(error, BITLM_ARG, "json_schema is not valid JSON at byte %d: %s", why.position,
                        bl_show(shown, sizeof shown, why.text, strlen(why.text)));
    }
    bl_schema *s = bl_calloc(alloc, 1, sizeof *s);
    bitlm_status status = BITLM_OK;
    if (!s)
        status = bl_error_nomem(error, sizeof *s, "the schema");
    if (!status) {
        s->alloc = *alloc;
        s->table = table;
        status = read_schema(s, root, error);
    }
    if (!status) {
        bl_schema_state begin = {0};
        set_costs(s);
        if (!spells_values(table) || bl_schema_cost(s, &begin) == NEVER)
            status = bl_error(error, BITLM_UNSUPPORTED, "this model's vocabulary cannot spell such an object, or a "
                              "property of it has no possible value");
    }
    json_decref(root);
    if (status)
        bl_schema_free(s);
    else
        *schema = s;
    return status;
}
