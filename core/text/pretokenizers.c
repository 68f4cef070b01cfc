/* pretokenizers.c - how byte-level BPE cuts a text into words before it merges: a table of the
 * names in tokenizer.ggml.pre, and the splitting itself.
 *
 * A row is a short list of stages, each of which cuts what the one before left whole.
 * The models name regular expressions; they are of few kinds, and written out here as
 * matchers over the frozen classes of unicode.h: linear on any text, without recursion,
 * and the same whatever regex library a machine has.  tests/oracle/compare_tokenizers.py
 * holds them against the expressions themselves.
 *
 * Called by byte_bpe.c (splitting) and tokenizer.c (the row). */
#include <string.h>

#include "base/unicode.h"
#include "base/utf8.h"
#include "text/tokenizer_private.h"

/* What a stage matches; what lies between two matches is a word too. */
enum {
    END,
    EACH_DIGIT,  /* \p{N}, each by itself */
    GPT2,        /* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
    LLAMA3,      /* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
                    | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
    QWEN2,       /* the same with \p{N} in place of \p{N}{1,3} */
    PUNCTUATION, /* [\p{P}\$\+<=>\^~\|]+ */
    NUMBERS,     /* \p{N}+ */
    TRIPLES      /* [0-9][0-9][0-9] */
};

struct bl_pretokenizer {
    const char *name;
    uint8_t stages[BL_MAX_STAGES + 1];
    uint8_t ignore_merges; /* a word that is a token is that token, whatever the merges say */
    uint8_t add_bos;       /* unless the file says */
    uint8_t nfc;           /* the model's own tokenizer normalises (llama.cpp's does not) */
};

static const bl_pretokenizer table[] = {
    {"default", {PUNCTUATION, GPT2, NUMBERS, TRIPLES}, 0, 0, 0}, /* as llama.cpp has it */
    {"gpt-2", {GPT2}, 0, 0, 0},
    {"gpt2", {GPT2}, 0, 0, 0},
    {"olmo", {GPT2}, 0, 0, 1}, /* the vocabulary of GPT-NeoX, which TriLM has too */
    {"phi-2", {GPT2}, 0, 0, 0},
    {"llama-bpe", {LLAMA3}, 1, 1, 0},
    {"llama3", {LLAMA3}, 1, 1, 0},
    {"llama-v3", {LLAMA3}, 1, 1, 0},
    {"falcon3", {LLAMA3}, 1, 1, 0},
    {"falcon-h1", {LLAMA3}, 1, 1, 0},
    {"falcon_e", {LLAMA3}, 1, 1, 0}, /* as ik_llama.cpp names it */
    {"falcon-e", {LLAMA3}, 1, 1, 0},
    {"qwen2", {QWEN2}, 0, 0, 1},
    {"deepseek-r1-qwen", {QWEN2}, 0, 0, 1},
    {"smollm", {EACH_DIGIT, GPT2}, 0, 0, 0},
};

const bl_pretokenizer *bl_pretokenizer_find(const char *name, size_t length)
{
    size_t i;

    for (i = 0; i < BL_COUNT(table); i++)
        if (strlen(table[i].name) == length && !memcmp(table[i].name, name, length))
            return &table[i];
    return NULL;
}

const char *bl_pretokenizer_names(void)
{
    return "default, gpt-2, olmo, phi-2, llama-bpe, llama3, llama-v3, falcon3, falcon-h1, falcon_e, qwen2, "
           "deepseek-r1-qwen, smollm";
}

int bl_pretokenizer_ignore_merges(const bl_pretokenizer *p)
{
    return p->ignore_merges;
}

int bl_pretokenizer_add_bos(const bl_pretokenizer *p)
{
    return p->add_bos;
}

int bl_pretokenizer_nfc(const bl_pretokenizer *p)
{
    return p->nfc;
}

/* ---- characters ------------------------------------------------------------------------ */

#define OTHER 64u /* neither letter nor number nor white space */
#define KINDS (BL_CP_LETTER | BL_CP_NUMBER | BL_CP_WHITE)
#define POLL_MASK 0xFFFFu /* characters between polls - 1 */

/* The classes of the character at p, and its bytes; 0 of both at the end. */
static inline uint32_t class_at(const uint8_t *p, const uint8_t *end, size_t *used)
{
    uint32_t flags;
    int valid;

    *used = 0;
    if (p >= end)
        return 0;
    *used = 1;
    flags = bl_cp_split(*p < 128 ? *p : bl_utf8_decode(p, (size_t)(end - p), used, &valid));
    return flags & KINDS ? flags : flags | OTHER;
}

/* Counts a step; 1 when the call was canceled: then scanning stops wherever it is. */
static inline int canceled(bl_words *w)
{
    if ((++w->steps & POLL_MASK) == 0 && bl_poll_check(w->poll))
        w->stopped = 1;
    return w->stopped;
}

/* The end of the run of characters that have one of the classes. */
static const uint8_t *run(bl_words *w, const uint8_t *p, const uint8_t *end, uint32_t classes)
{
    size_t used;

    while (class_at(p, end, &used) & classes && !canceled(w))
        p += used;
    return p;
}

static int is_newline(uint8_t byte)
{
    return byte == '\r' || byte == '\n';
}

/* 's|'t|'re|'ve|'m|'ll|'d: its bytes, or 0.  Case folds to ASCII but for U+017F, a long s. */
static size_t contraction(const uint8_t *p, const uint8_t *end, int fold)
{
    uint8_t a, b;

    if (end - p < 2 || p[0] != '\'')
        return 0;
    if (fold && end - p > 2 && p[1] == 0xC5 && p[2] == 0xBF)
        return 3;
    a = fold && p[1] >= 'A' && p[1] <= 'Z' ? (uint8_t)(p[1] | 32) : p[1];
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if (end - p < 3)
        return 0;
    b = fold && p[2] >= 'A' && p[2] <= 'Z' ? (uint8_t)(p[2] | 32) : p[2];
    return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* White space begins at p: \s*[\r\n]+ (if newlines count), else \s+(?!\S), else \s+. */
static const uint8_t *white(bl_words *w, const uint8_t *p, const uint8_t *end, int newlines)
{
    const uint8_t *at = p, *last = p, *after_newline = NULL;
    size_t used;

    while (class_at(at, end, &used) & BL_CP_WHITE && !canceled(w)) {
        last = at;
        at += used;
        if (newlines && is_newline(*last))
            after_newline = at;
    }
    if (after_newline)
        return after_newline;
    return at == end || last == p ? at : last; /* the last one goes to the word behind it */
}

static const uint8_t *cut_gpt2(bl_words *w, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *from = p + (*p == ' ');
    size_t used = contraction(p, end, 0);
    uint32_t class;

    if (used)
        return p + used;
    class = class_at(from, end, &used) & (BL_CP_LETTER | BL_CP_NUMBER | OTHER);
    return class ? run(w, from, end, class) : white(w, p, end, 0);
}

/* digits: most that stay together. */
static const uint8_t *cut_llama3(bl_words *w, const uint8_t *p, const uint8_t *end, int digits)
{
    size_t used = contraction(p, end, 1), next;
    uint32_t class;

    if (used)
        return p + used;
    class = class_at(p, end, &used);
    if (class & BL_CP_LETTER)
        return run(w, p, end, BL_CP_LETTER);
    if (class & BL_CP_NUMBER) {
        do
            p += used;
        while (--digits && class_at(p, end, &used) & BL_CP_NUMBER);
        return p;
    }
    if (!is_newline(*p) && class_at(p + used, end, &next) & BL_CP_LETTER)
        return run(w, p + used, end, BL_CP_LETTER);
    if (class_at(p + (*p == ' '), end, &next) & OTHER) {
        p = run(w, p + (*p == ' '), end, OTHER);
        while (p < end && is_newline(*p) && !canceled(w))
            p++;
        return p;
    }
    return white(w, p, end, 1);
}

/* A match of [\p{P}\$\+<=>\^~\|]. */
static int is_punctuation(const uint8_t *p, uint32_t class)
{
    return class & BL_CP_P || *p == '$' || *p == '+' || (*p >= '<' && *p <= '>') || *p == '^' ||
           *p == '~' || *p == '|';
}

/* A run of punctuation, or what stands before the next one. */
static const uint8_t *cut_punctuation(bl_words *w, const uint8_t *p, const uint8_t *end)
{
    size_t used;
    uint32_t class = class_at(p, end, &used);
    int first = is_punctuation(p, class);

    do {
        p += used;
        class = class_at(p, end, &used);
    } while (used && is_punctuation(p, class) == first && !canceled(w));
    return p;
}

static int is_triple(const uint8_t *p, const uint8_t *end)
{
    return end - p > 2 && p[0] >= '0' && p[0] <= '9' && p[1] >= '0' && p[1] <= '9' && p[2] >= '0' &&
           p[2] <= '9';
}

static const uint8_t *cut(bl_words *w, int stage, const uint8_t *p, const uint8_t *end)
{
    size_t used;
    uint32_t class;

    switch (stage) {
    case EACH_DIGIT:
        class = class_at(p, end, &used);
        if (class & BL_CP_DIGIT)
            return p + used;
        while (used && !(class & BL_CP_DIGIT) && !canceled(w)) {
            p += used;
            class = class_at(p, end, &used);
        }
        return p;
    case GPT2:
        return cut_gpt2(w, p, end);
    case LLAMA3:
        return cut_llama3(w, p, end, 3);
    case QWEN2:
        return cut_llama3(w, p, end, 1);
    case PUNCTUATION:
        return cut_punctuation(w, p, end);
    case NUMBERS:
        class = class_at(p, end, &used);
        return run(w, p, end,
                   class & BL_CP_NUMBER ? BL_CP_NUMBER : BL_CP_LETTER | BL_CP_WHITE | OTHER);
    default: /* TRIPLES */
        if (is_triple(p, end))
            return p + 3;
        while (p < end && !is_triple(p, end) && !canceled(w))
            p++;
        return p;
    }
}

void bl_words_begin(bl_words *w, const bl_pretokenizer *p, const uint8_t *text, size_t length,
                    bl_poll *poll)
{
    memset(w, 0, sizeof(*w));
    w->pretokenizer = p;
    w->poll = poll;
    w->at[0] = text;
    w->end[0] = text + length;
}

int bl_words_next(bl_words *w, const uint8_t **word, size_t *length)
{
    const uint8_t *stages = w->pretokenizer->stages;

    for (;;) {
        int d = w->depth;
        const uint8_t *begin = w->at[d];

        if (begin == w->end[d]) {
            if (d == 0)
                return 0;
            w->depth--;
            continue;
        }
        w->at[d] = cut(w, stages[d], begin, w->end[d]);
        if (w->stopped)
            return 0;
        if (stages[d + 1] == END) {
            *word = begin;
            *length = (size_t)(w->at[d] - begin);
            return 1;
        }
        w->depth = d + 1;
        w->end[d + 1] = w->at[d];
        w->at[d + 1] = begin;
    }
}
