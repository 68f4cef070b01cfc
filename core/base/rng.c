/* rng.c - counter-based random numbers.
 *
 * Stream 0 is SplitMix64 itself (Steele, Lea, Flood: Fast Splittable
 * Pseudorandom Number Generators, OOPSLA 2014): output number `counter` of the
 * generator that starts at `seed`.  Another stream starts at a point that is
 * far away on the same Weyl sequence; the finalizer maps 0 to 0.
 * Called by the sampler (core/run) and wherever a seed makes test data. */
#include "base/rng.h"

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t bl_rng_u64(uint64_t seed, uint64_t stream, uint64_t counter) {
    return mix((seed ^ mix(stream)) + (counter + 1) * 0x9e3779b97f4a7c15u);
}

double bl_rng_unit(uint64_t seed, uint64_t stream, uint64_t counter) {
    return (double)(bl_rng_u64(seed, stream, counter) >> 11) * 0x1p-53;
}
