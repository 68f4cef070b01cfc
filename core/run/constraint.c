/* constraint.c - answers that are one of several texts or an object of a schema: see constraint.h. */
#include "run/constraint.h"

#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

/* ---- the trie of choices ---------------------------------------------------------------------------- */

static int32_t add_node(bl_trie *trie, const bl_alloc *alloc, int32_t token) {
    if (trie->n == trie->room) {
        int32_t room = trie->room ? trie->room * 2 : 64;
        bl_choice_node *nodes = bl_regrow(alloc, trie->nodes, (size_t)trie->n * sizeof *nodes,
                                          (size_t)room * sizeof *nodes);
        if (!nodes)
            return -1;
        trie->nodes = nodes;
        trie->room = room;
    }
    trie->nodes[trie->n] = (bl_choice_node){token, -1, -1, -1, INT32_MAX};
    return trie->n++;
}

int32_t bl_trie_child(const bl_trie *trie, int32_t node, int32_t token) {
    int32_t child = trie->nodes[node].child;
    while (child >= 0 && trie->nodes[child].token != token)
        child = trie->nodes[child].sibling;
    return child;
}

/* -1: no memory, -2: another choice has the same tokens, else 0. */
static int insert(bl_trie *trie, const bl_alloc *alloc, const int32_t *ids, size_t n, int32_t choice) {
    int32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t child = bl_trie_child(trie, node, ids[i]);
        if (child < 0) {
            child = add_node(trie, alloc, ids[i]);
            if (child < 0)
                return -1;
            trie->nodes[child].sibling = trie->nodes[node].child;
            trie->nodes[node].child = child;
        }
        node = child;
    }
    if (trie->nodes[node].choice >= 0 && trie->nodes[node].choice != choice)
        return -2;
    trie->nodes[node].choice = choice;
    return 0;
}

/* Whether the tokens spell the text: a vocabulary may drop bytes that it has no token for. */
static int spells(const bl_tokenizer *t, const int32_t *ids, size_t n, bitlm_text text, int after_space,
                  uint8_t *room) {
    size_t at = 0, skip = after_space != 0;
    for (size_t i = 0; i < n; i++) {
        size_t length = bl_token_bytes(t, ids[i], room), from = 0;
        if (skip && length) {
            if (room[0] != ' ')
                return 0;
            from = 1;
            skip = 0;
        }
        if (at + length - from > text.length || memcmp(text.data + at, room + from, length - from) != 0)
            return 0;
        at += length - from;
    }
    return at == text.length && n > 0;
}

static bitlm_status add_choice(const bl_tokenizer *t, bitlm_text text, int32_t choice, const bl_alloc *alloc,
                               bl_poll *poll, bl_trie *trie, bl_ids *ids, uint8_t *room, bitlm_error *error) {
    char shown[60];
    int added = 0;
    for (int after_space = 0; after_space < 2; after_space++) {
        ids->n = 0;
        bitlm_status status = bl_tokenize_inner(t, text.data, text.length, after_space, poll, ids, error);
        if (status)
            return status;
        if (!spells(t, ids->data, ids->n, text, after_space, room))
            continue;
        int failed = insert(trie, alloc, ids->data, ids->n, choice);
        if (failed == -1)
            return bl_error_nomem(error, (size_t)trie->n * sizeof *trie->nodes, "the choices");
        added |= !failed; /* " a" after nothing and "a" after a space are the same tokens: the first has them */
    }
    if (!added)
        return bl_error(error, BITLM_ARG, "the choice '%s' cannot be told from another one, or the model's vocabulary "
                        "cannot spell it", bl_show(shown, sizeof shown, text.data, text.length));
    return BITLM_OK;
}

/* Children come after their parents, so one walk backwards does it. */
static void set_distances(bl_trie *trie) {
    for (int32_t i = trie->n; i-- > 0;) {
        bl_choice_node *node = &trie->nodes[i];
        if (node->choice >= 0)
            node->to_end = 0;
        for (int32_t child = node->child; child >= 0; child = trie->nodes[child].sibling)
            if (trie->nodes[child].to_end < INT32_MAX)
                node->to_end = BL_MIN(node->to_end, trie->nodes[child].to_end + 1);
    }
}

bitlm_status bl_check_choices(const bitlm_text *choices, size_t n, bitlm_error *error) {
    char shown[60];
    if (n > BL_MAX_CHOICES)
        return bl_error(error, BITLM_ARG, "%zu choices were given, but at most %d are possible", n, BL_MAX_CHOICES);
    for (size_t i = 0; i < n; i++) {
        if (choices[i].length == 0 || choices[i].length > BL_MAX_CHOICE_BYTES)
            return bl_error(error, BITLM_ARG, "a choice has %zu bytes, but must have 1 to %d", choices[i].length,
                            BL_MAX_CHOICE_BYTES);
        for (size_t j = 0; j < i; j++)
            if (choices[i].length == choices[j].length &&
                memcmp(choices[i].data, choices[j].data, choices[i].length) == 0)
                return bl_error(error, BITLM_ARG, "the choice '%s' is given twice",
                                bl_show(shown, sizeof shown, choices[i].data, choices[i].length));
    }
    return BITLM_OK;
}

void bl_trie_free(bl_trie *trie, const bl_alloc *alloc) {
    bl_free(alloc, trie->nodes);
    memset(trie, 0, sizeof *trie);
}

bitlm_status bl_trie_build(const bl_tokenizer *t, const bitlm_text *choices, size_t n, const bl_alloc *alloc,
                           bl_poll *poll, bl_trie *trie, bitlm_error *error) {
    bl_ids ids = {.alloc = alloc};
    memset(trie, 0, sizeof *trie);
    bitlm_status status = bl_check_choices(choices, n, error);
    if (status)
        return status;
    uint8_t *room = bl_malloc(alloc, bl_tokenizer_max_bytes(t) + 16);
    if (!room || add_node(trie, alloc, -1) < 0)
        status = bl_error_nomem(error, bl_tokenizer_max_bytes(t), "the choices");
    for (size_t i = 0; i < n && !status; i++)
        status = add_choice(t, choices[i], (int32_t)i, alloc, poll, trie, &ids, room, error);
    bl_ids_free(&ids);
    bl_free(alloc, room);
    if (status)
        bl_trie_free(trie, alloc);
    else
        set_distances(trie);
    return status;
}

/* ---- open -------------------------------------------------------------------------------------------- */

static bitlm_status keep_texts(bl_constraint *c, const bitlm_text *choices, size_t n, bitlm_error *error) {
    size_t bytes = n * sizeof *choices;
    for (size_t i = 0; i < n; i++)
        bytes += choices[i].length;
    c->choices = bl_malloc(&c->alloc, bytes);
    if (!c->choices)
        return bl_error_nomem(error, bytes, "the choices");
    char *at = (char *)(c->choices + n);
    for (size_t i = 0; i < n; i++) {
        memcpy(at, choices[i].data, choices[i].length);
        c->choices[i] = (bitlm_text){at, choices[i].length};
        at += choices[i].length;
    }
    return BITLM_OK;
}

static bitlm_status open_choices(bl_constraint *c, const bl_tokenizer *t, const bitlm_options *o, int64_t budget,
                                 bl_poll *poll, bitlm_error *error) {
    bitlm_status status = bl_trie_build(t, o->choices, o->n_choices, &c->alloc, poll, &c->trie, error);
    if (!status)
        status = keep_texts(c, o->choices, o->n_choices, error);
    if (!status && c->trie.nodes[0].to_end > budget)
        status = bl_error(error, BITLM_LIMIT, "the shortest of the choices takes %d tokens, but max_tokens and n_ctx "
                          "leave %lld", c->trie.nodes[0].to_end, (long long)budget);
    return status;
}

static bitlm_status open_schema(bl_constraint *c, const bl_tokenizer *t, const bitlm_options *o, int64_t budget,
                                bitlm_error *error) {
    bitlm_status status = bl_token_table_get(t, &c->table, error);
    if (!status)
        status = bl_schema_compile(o->json_schema.data, o->json_schema.length, c->table, &c->alloc, &c->schema, error);
    if (status)
        return status;
    size_t depth = c->table->max_bytes + 1;
    c->path = bl_calloc(&c->alloc, depth, sizeof *c->path);
    c->path_started = bl_calloc(&c->alloc, depth, 1);
    if (!c->path || !c->path_started)
        return bl_error_nomem(error, depth * sizeof *c->path, "the schema");
    int32_t least = bl_schema_cost(c->schema, &c->state);
    if (least > budget)
        return bl_error(error, BITLM_LIMIT, "the smallest object of json_schema may take %d tokens, but max_tokens and "
                        "n_ctx leave %lld", least, (long long)budget);
    return BITLM_OK;
}

bitlm_status bl_constraint_open(const bl_tokenizer *t, const bitlm_options *o, int64_t budget,
                                const bl_alloc *alloc, bl_poll *poll, bl_constraint **constraint,
                                bitlm_error *error) {
    int has_schema = o->json_schema.data != NULL;
    *constraint = NULL;
    if (!o->n_choices && !has_schema)
        return BITLM_OK;
    if (o->n_choices && has_schema)
        return bl_error(error, BITLM_ARG, "choices and json_schema exclude each other");
    if (o->n_stop)
        return bl_error(error, BITLM_ARG, "stop would cut an answer of %s short; leave it out",
                        has_schema ? "json_schema" : "choices");
    bl_constraint *c = bl_calloc(alloc, 1, sizeof *c);
    if (!c)
        return bl_error_nomem(error, sizeof *c, "the constraint");
    c->alloc = *alloc;
    bitlm_status status = has_schema ? open_schema(c, t, o, budget, error) : open_choices(c, t, o, budget, poll, error);
    if (status)
        bl_constraint_free(c);
    else
        *constraint = c;
    return status;
}

void bl_constraint_restart(bl_constraint *c) {
    c->node = c->started = 0;
    memset(&c->state, 0, sizeof c->state);
}

void bl_constraint_free(bl_constraint *c) {
    if (!c)
        return;
    bl_alloc alloc = c->alloc;
    bl_trie_free(&c->trie, &alloc);
    bl_free(&alloc, c->choices);
    bl_schema_free(c->schema);
    bl_free(&alloc, c->path);
    bl_free(&alloc, c->path_started);
    bl_free(&alloc, c);
}

/* ---- next tokens ---------------------------------------------------------------------------------------- */

/* ln of the summed exponentials of all logits but those of the node's children: the weight of stopping. */
static float stop_logit(const bl_trie *trie, const bl_choice_node *node, const float *logits, int64_t n_vocab) {
    double max = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < n_vocab; i++)
        max = (double)logits[i] > max ? (double)logits[i] : max;
    for (int64_t i = 0; i < n_vocab; i++) {
        double x = (double)logits[i] - max;
        sum += x < -100.0 ? 0.0 : bl_exp(x);
    }
    for (int32_t child = node->child; child >= 0; child = trie->nodes[child].sibling) {
        double x = (double)logits[trie->nodes[child].token] - max;
        sum -= x < -100.0 ? 0.0 : bl_exp(x);
    }
    return (float)(max + bl_log(sum > 1e-9 ? sum : 1e-9));
}

int64_t bl_trie_candidates(const bl_trie *trie, int32_t at, const float *logits, int64_t n_vocab, int64_t budget,
                           bl_candidate *out) {
    const bl_choice_node *node = &trie->nodes[at];
    int64_t n = 0;
    for (int32_t child = node->child; child >= 0; child = trie->nodes[child].sibling) {
        const bl_choice_node *next = &trie->nodes[child];
        if (next->to_end < budget)
            out[n++] = (bl_candidate){logits[next->token], next->token};
    }
    if (node->choice >= 0)
        out[n++] = (bl_candidate){n ? stop_logit(trie, node, logits, n_vocab) : 0.0f, BL_STOP_HERE};
    return n;
}

/* One byte of an answer, which may have a space in front that is not part of it. */
static int step(const bl_constraint *c, bl_schema_state *state, uint8_t *started, uint8_t byte) {
    if (!*started) {
        *started = 1;
        if (byte == ' ')
            return 1;
    }
    return bl_schema_step(c->schema, state, byte);
}

/* Walks the sorted vocabulary with the machine's state at each depth of the token's bytes; a token that shares
 * more bytes with its forerunner than the machine could take is passed over. */
static int64_t schema_candidates(bl_constraint *c, const float *logits, int64_t n_vocab, int64_t budget,
                                 bl_candidate *out) {
    const bl_token_table *table = c->table;
    uint32_t depth = 0; /* path[0 .. depth] holds for the current token */
    int64_t n = 0;
    c->path[0] = c->state;
    c->path_started[0] = (uint8_t)c->started;
    for (int32_t i = 0; i < table->n; i++) {
        const uint8_t *bytes = table->bytes + table->offsets[i];
        uint32_t length = table->offsets[i + 1] - table->offsets[i];
        if (table->common[i] > depth)
            continue;
        for (depth = table->common[i]; depth < length; depth++) {
            c->path[depth + 1] = c->path[depth];
            c->path_started[depth + 1] = c->path_started[depth];
            if (!step(c, &c->path[depth + 1], &c->path_started[depth + 1], bytes[depth]))
                break;
        }
        if (depth == length && table->ids[i] < n_vocab && bl_schema_cost(c->schema, &c->path[depth]) < budget)
            out[n++] = (bl_candidate){logits[table->ids[i]], table->ids[i]};
    }
    return n;
}

int64_t bl_constraint_candidates(bl_constraint *c, const float *logits, int64_t n_vocab, int64_t budget,
                                 bl_candidate *out) {
    return c->schema ? schema_candidates(c, logits, n_vocab, budget, out)
                     : bl_trie_candidates(&c->trie, c->node, logits, n_vocab, budget, out);
}

int bl_constraint_accept(bl_constraint *c, const bl_tokenizer *t, int32_t token) {
    if (!c->schema) {
        c->node = bl_trie_child(&c->trie, c->node, token);
        return c->trie.nodes[c->node].child < 0;
    }
    uint8_t *bytes = (uint8_t *)c->path; /* at least as wide as a token, and free between two walks */
    uint8_t started = (uint8_t)c->started;
    size_t length = bl_token_bytes(t, token, bytes);
    for (size_t i = 0; i < length; i++)
        step(c, &c->state, &started, bytes[i]);
    c->started = started;
    return bl_schema_done(&c->state);
}

const bitlm_text *bl_constraint_answer(const bl_constraint *c) {
    return c->schema ? NULL : &c->choices[c->trie.nodes[c->node].choice];
}
