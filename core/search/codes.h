/* codes.h - packed codes inside the process: what blocks of them are scanned with.
 *
 * Called by core/search and ext_sqlite. */
#ifndef BL_CODES_H
#define BL_CODES_H

#include "base/base.h"

/* The rows of codes (n, bytes) nearer to query than `below`, ascending, and their distances; room for n
 * of both. */
int64_t bl_codes_below(const uint8_t *query, const uint8_t *codes, int64_t n, int64_t bytes,
                       uint32_t below, uint32_t *rows, uint32_t *distances);

/* How many of the first n bits of a filter are set; bit i % 8 of byte i / 8 is row i. */
uint64_t bl_bits_set(const uint8_t *filter, uint64_t n);

/* 1 if bitlm_codes_pairs would compare less than half of all pairs, as a sample foretells it; 0 without memory for that. */
int bl_pairs_pay(const uint8_t *codes, size_t n, size_t bytes, uint32_t distance, const bitlm_host *host);

#endif
