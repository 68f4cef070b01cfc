/* rng.h - counter-based random numbers: the value depends on (seed, stream,
 * counter) and nothing else, so it is the same for any batch or thread. */
#ifndef BL_RNG_H
#define BL_RNG_H

#include <stdint.h>

/* 64 mixed bits (SplitMix64 finalizer over a Weyl sequence, Steele et al. 2014). */
uint64_t bl_rng_u64(uint64_t seed, uint64_t stream, uint64_t counter);
/* Uniform in [0, 1) with 53 bits. */
double bl_rng_unit(uint64_t seed, uint64_t stream, uint64_t counter);

#endif
