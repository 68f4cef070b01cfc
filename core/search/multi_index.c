/* multi_index.c - multi-index hashing (Norouzi, Punjani, Fleet, "Fast exact search in Hamming space with
 * multi-index hashing", 2014) over codes that lie in segments.
 *
 * Of m pieces of `width` bits each, a code within distance r of the query has one that differs from the
 * query's in at most r / m bits.  So a table for each piece leads from its bits to the rows that have them,
 * and a search looks up all bits at 0, then 1, then 2 ... flips from the query's, piece after piece: after s
 * flips in pieces 0 .. p every code within m * s + p has been met.  It ends when that reaches the bound, which
 * comes down to the k-th distance as codes are found.  A code met in several pieces counts in the first.
 *
 * It wins where near codes are near: lookups grow as width^s.  Its cost is therefore foretold, in
 * nanoseconds of one machine (only their ratios matter), and a search that would not beat the flat scan by
 * a margin gives up: before it begins where the bound is known, else after a small part of a scan's time.
 *
 * Pieces need not cover the code: with fewer there are more flips to look up, with less memory.
 *
 * Called by ext_sqlite/code_multi.c. */
#include "search/multi_index.h"

#include <stdatomic.h>
#include <string.h>

#include "search/search.h"

#define MOST_PIECES 64
#define LEAST_WIDTH 8
#define MOST_WIDTH 24
#define LOOKUP_NS 20.0    /* of one value of a piece */
#define ROW_NS 40.0      /* of a row that has it: it lies anywhere in memory */
#define SCAN_ROW_NS 0.6  /* of a row in a flat scan ... */
#define BYTE_NS 0.04     /* ... and of each of its bytes */
#define NEAR_NS 200.0    /* of a row that is near */
#define EXPLORE 0.05     /* of a flat scan's time, to find a bound */
#define STOP_NS 1e6
#define AHEAD 16         /* rows whose codes are asked for before they are compared */

typedef struct piece {
    uint32_t *starts; /* (2^width + 1) */
    uint32_t *places; /* (n) in order of the piece's bits, then of places */
} piece;

struct bl_multi {
    bl_alloc alloc;
    const bl_kernels *kernels;
    bl_segment *segments;
    size_t n_segments, bytes;
    uint64_t n;
    uint32_t width, most_pieces;
    _Atomic uint32_t n_pieces; /* those before it are complete */
    piece pieces[MOST_PIECES];
};

/* Bits [from, from + width) of a code. */
static inline uint32_t bits_of(const uint8_t *code, size_t bytes, uint32_t from, uint32_t width) {
    size_t at = from / 8;
    uint64_t word = 0;
    if (at + 8 <= bytes) {
        memcpy(&word, code + at, 8);
        word = __builtin_bswap64(word);
    } else {
        for (size_t i = 0; i < 8; i++)
            word = word << 8 | (at + i < bytes ? code[at + i] : 0);
    }
    return (uint32_t)(word << from % 8 >> (64 - width));
}

/* Pieces as wide that a value has about two rows. */
static void shape(bl_multi *multi, uint64_t n, size_t bytes) {
    uint32_t width = LEAST_WIDTH;
    while (width < MOST_WIDTH && UINT64_C(2) << width < n)
        width++;
    multi->n = n;
    multi->bytes = bytes;
    multi->width = (uint32_t)BL_MIN(width, bytes * 8);
    multi->most_pieces = (uint32_t)BL_MIN(bytes * 8 / multi->width, MOST_PIECES);
}

bitlm_status bl_multi_new(const bl_segment *segments, size_t n_segments, size_t bytes, const bl_alloc *alloc,
                          bl_multi **result, bitlm_error *error) {
    uint64_t n = 0;
    for (size_t i = 0; i < n_segments; i++)
        n += segments[i].n;
    if (n < BL_MULTI_LEAST_ROWS || n >= UINT32_MAX || n_segments > BL_MULTI_MOST_SEGMENTS || bytes == 0)
        return bl_error(error, BITLM_ARG, "%llu codes in %zu segments, but tables are made for %u codes or more in "
                        "at most %u", (unsigned long long)n, n_segments, BL_MULTI_LEAST_ROWS, BL_MULTI_MOST_SEGMENTS);
    bl_multi *multi = bl_calloc(alloc, 1, sizeof *multi);
    bl_segment *copy = bl_calloc(alloc, n_segments, sizeof *copy);
    if (!multi || !copy) {
        bl_free(alloc, multi);
        bl_free(alloc, copy);
        return bl_error_nomem(error, sizeof *multi + n_segments * sizeof *copy, "the tables of pieces");
    }
    memcpy(copy, segments, n_segments * sizeof *copy);
    multi->alloc = *alloc;
    multi->kernels = bl_kernels_usual();
    multi->segments = copy;
    multi->n_segments = n_segments;
    shape(multi, n, bytes);
    *result = multi;
    return BITLM_OK;
}

void bl_multi_free(bl_multi *multi) {
    if (!multi)
        return;
    bl_alloc alloc = multi->alloc;
    for (uint32_t p = 0; p < multi->n_pieces; p++) {
        bl_free(&alloc, multi->pieces[p].starts);
        bl_free(&alloc, multi->pieces[p].places);
    }
    bl_free(&alloc, multi->segments);
    bl_free(&alloc, multi);
}

size_t bl_multi_piece_bytes(const bl_multi *multi) {
    return (((size_t)1 << multi->width) + 1 + (size_t)multi->n) * sizeof(uint32_t);
}

uint32_t bl_multi_most_pieces(const bl_multi *multi) { return multi->most_pieces; }
uint32_t bl_multi_pieces(const bl_multi *multi) { return multi->n_pieces; }

/* Where piece p begins: spread over the code, so that few pieces are not its beginning only. */
static uint32_t piece_at(const bl_multi *multi, uint32_t p) {
    return (uint32_t)(p * (multi->bytes * 8) / multi->most_pieces);
}

bitlm_status bl_multi_grow(bl_multi *multi, bl_poll *poll, bitlm_error *error) {
    uint32_t p = multi->n_pieces, width = multi->width, from = piece_at(multi, p), sum = 0;
    size_t values = (size_t)1 << width;
    if (p == multi->most_pieces)
        return BITLM_OK;
    uint32_t *starts = bl_calloc(&multi->alloc, values + 1, sizeof *starts);
    uint32_t *places = bl_malloc(&multi->alloc, (size_t)multi->n * sizeof *places);
    uint32_t *values_of = bl_malloc(&multi->alloc, (size_t)multi->n * sizeof *values_of), *value = values_of;
    bitlm_status status = BITLM_OK;
    if (!starts || !places || !values_of) {
        status = bl_error_nomem(error, bl_multi_piece_bytes(multi), "a table of pieces");
        goto fail;
    }
    for (size_t i = 0; i < multi->n_segments; i++) {
        const uint8_t *code = multi->segments[i].codes;
        for (uint32_t row = 0; row < multi->segments[i].n; row++, code += multi->bytes)
            starts[*value++ = bits_of(code, multi->bytes, from, width)]++;
        if ((status = bl_poll_check(poll)) != BITLM_OK)
            goto poll;
    }
    for (size_t v = 0; v <= values; v++) {
        uint32_t count = starts[v];
        starts[v] = sum;
        sum += count;
    }
    value = values_of;
    for (size_t i = 0; i < multi->n_segments; i++) {
        for (uint32_t row = 0; row < multi->segments[i].n; row++)
            places[starts[*value++]++] = (uint32_t)(i << 16 | row);
        if ((status = bl_poll_check(poll)) != BITLM_OK)
            goto poll;
    }
    /* Each start has become the next one. */
    memmove(starts + 1, starts, values * sizeof *starts);
    starts[0] = 0;
    bl_free(&multi->alloc, values_of);
    multi->pieces[p] = (piece){starts, places};
    atomic_store_explicit(&multi->n_pieces, p + 1, memory_order_release);
    return BITLM_OK;
poll:
    status = bl_poll_error(poll, error);
fail:
    bl_free(&multi->alloc, starts);
    bl_free(&multi->alloc, places);
    bl_free(&multi->alloc, values_of);
    return status;
}

/* ---- what it costs ------------------------------------------------------------------------- */

static double scan_ns(const bl_multi *multi, uint64_t rows) {
    return (double)rows * (SCAN_ROW_NS + BYTE_NS * (double)multi->bytes);
}

/* Ways to flip s of `width` bits. */
static double ways(uint32_t width, uint32_t s) {
    double count = 1.0;
    for (uint32_t i = 0; i < s; i++)
        count = count * (double)(width - i) / (double)(i + 1);
    return s > width ? 0.0 : count;
}

static double stage_ns(const bl_multi *multi, uint32_t s) {
    return ways(multi->width, s) * (LOOKUP_NS + ROW_NS * (double)multi->n / (double)(UINT64_C(1) << multi->width));
}

/* From s flips in piece p on until every code within `distance` has been met; stops counting past `most`. */
static double rest_ns(const bl_multi *multi, uint32_t pieces, uint32_t s, uint32_t p, uint32_t distance, double most) {
    double sum = 0.0;
    for (; s <= multi->width && sum <= most; s++, p = 0) {
        if ((uint64_t)pieces * s + p > distance)
            break;
        uint64_t stages = BL_MIN((uint64_t)distance - (uint64_t)pieces * s + 1, pieces);
        sum += stage_ns(multi, s) * (double)(stages - p);
    }
    return sum;
}

double bl_multi_cost(uint64_t n, size_t bytes, uint32_t pieces, uint32_t distance) {
    bl_multi multi = {0};
    shape(&multi, n, bytes);
    double all = scan_ns(&multi, n);
    return BL_MIN(rest_ns(&multi, BL_MIN(pieces, multi.most_pieces), 0, 0, distance, 2.0 * all) / all, 2.0);
}

/* ---- a search ------------------------------------------------------------------------------- */

typedef struct search {
    const bl_multi *multi;
    const uint8_t *query;
    const bl_multi_sink *sink;
    uint32_t n_pieces, flips, piece, below;
    uint32_t values[MOST_PIECES];
    double spent, budget, next_stop;
} search;

/* Did an earlier stage meet the code already? */
static int met(const search *s, const uint8_t *code) {
    const bl_multi *multi = s->multi;
    for (uint32_t p = 0; p < s->n_pieces; p++) {
        uint32_t value = bits_of(code, multi->bytes, piece_at(multi, p), multi->width);
        uint32_t flips = (uint32_t)__builtin_popcount(value ^ s->values[p]);
        if (flips < s->flips || (flips == s->flips && p < s->piece))
            return 1;
    }
    return 0;
}

static inline const uint8_t *code_at(const bl_multi *multi, uint32_t place) {
    return multi->segments[place >> 16].codes + (size_t)(place & 0xffff) * multi->bytes;
}

static void compare(search *s, const uint32_t *places, uint32_t n) {
    const bl_multi *multi = s->multi;
    for (uint32_t i = 0; i < BL_MIN(n, AHEAD); i++)
        __builtin_prefetch(code_at(multi, places[i]));
    for (uint32_t i = 0; i < n; i++) {
        if (i + AHEAD < n)
            __builtin_prefetch(code_at(multi, places[i + AHEAD]));
        const uint8_t *code = code_at(multi, places[i]);
        uint64_t distance = multi->kernels->hamming(s->query, code, (int64_t)multi->bytes);
        if (distance < s->below && !met(s, code)) {
            s->spent += NEAR_NS;
            s->below = s->sink->near(s->sink->context, places[i], (uint32_t)distance);
        }
    }
}

/* Looks up all values at s->flips flips from the query's piece.  The rows of many values are gathered before they are
 * compared, so that memory is asked for many at a time. */
static int stage(search *s) {
    enum { VALUES = 64, PLACES = 1024 };
    const bl_multi *multi = s->multi;
    const piece *p = &multi->pieces[s->piece];
    uint64_t mask = (UINT64_C(1) << s->flips) - 1, end = UINT64_C(1) << multi->width;
    uint32_t values[VALUES], places[PLACES], n_places = 0;
    while (mask < end) {
        uint32_t n = 0;
        for (; n < VALUES && mask < end; n++) {
            values[n] = s->values[s->piece] ^ (uint32_t)mask;
            __builtin_prefetch(&p->starts[values[n]]);
            /* The next number with as many bits set. */
            uint64_t low = mask & (0 - mask), ripple = mask + low;
            mask = mask ? (((ripple ^ mask) >> 2) / low) | ripple : end;
        }
        for (uint32_t i = 0; i < n; i++) {
            if (p->starts[values[i]] < p->starts[values[i] + 1])
                __builtin_prefetch(&p->places[p->starts[values[i]]]);
        }
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t at = p->starts[values[i]], last = p->starts[values[i] + 1]; at < last;) {
                uint32_t count = BL_MIN(last - at, PLACES - n_places);
                memcpy(places + n_places, p->places + at, count * sizeof *places);
                at += count;
                n_places += count;
                if (n_places < PLACES)
                    break;
                s->spent += ROW_NS * PLACES;
                if (s->spent > s->budget)
                    return BL_MULTI_GAVE_UP;
                compare(s, places, n_places);
                n_places = 0;
            }
        }
        s->spent += LOOKUP_NS * n;
        if (s->spent > s->next_stop) {
            s->next_stop = s->spent + STOP_NS;
            if (s->sink->stop && s->sink->stop(s->sink->context))
                return BL_MULTI_STOPPED;
        }
        if (s->spent > s->budget)
            return BL_MULTI_GAVE_UP;
    }
    s->spent += ROW_NS * n_places;
    compare(s, places, n_places);
    return BL_MULTI_DONE;
}

int bl_multi_search(const bl_multi *multi, const uint8_t *query, uint32_t below, uint64_t rows, int shrinks,
                    const bl_multi_sink *sink) {
    search s = {.multi = multi, .query = query, .sink = sink, .below = below};
    double all = scan_ns(multi, rows);
    s.budget = BL_MULTI_WINS * all;
    s.next_stop = STOP_NS;
    s.n_pieces = atomic_load_explicit(&((bl_multi *)multi)->n_pieces, memory_order_acquire);
    if (s.n_pieces == 0)
        return BL_MULTI_GAVE_UP;
    for (uint32_t p = 0; p < s.n_pieces; p++)
        s.values[p] = bits_of(query, multi->bytes, piece_at(multi, p), multi->width);
    for (s.flips = 0; s.flips <= multi->width; s.flips++) {
        for (s.piece = 0; s.piece < s.n_pieces; s.piece++) {
            if (s.below <= (uint64_t)s.n_pieces * s.flips + s.piece) /* all nearer ones have been met */
                return BL_MULTI_DONE;
            double rest = rest_ns(multi, s.n_pieces, s.flips, s.piece, s.below - 1, s.budget);
            if (s.spent + rest > s.budget && (!shrinks || s.spent + stage_ns(multi, s.flips) > EXPLORE * all))
                return BL_MULTI_GAVE_UP;
            int answer = stage(&s);
            if (answer != BL_MULTI_DONE)
                return answer;
        }
    }
    return BL_MULTI_DONE;
}
