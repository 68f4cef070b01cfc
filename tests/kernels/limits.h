/* limits.h - what the machine allows one or more threads by the clock: reading memory and int8 products. */
#ifndef LIMITS_H
#define LIMITS_H

#include <stddef.h>
#include <stdint.h>

/* GB/s at which n_threads threads together read `bytes` bytes, each its part of them; one pass. */
double limit_read_threads(const uint8_t *p, size_t bytes, int n_threads);

/* The int8 instructions, slowest first: "maddubs" (AVX2), "vnni256", "vnni512", "amx". */
#define LIMIT_N_INT8 4
const char *limit_int8_name(int which);
/* GOP/s of n_threads threads together, two operations a product; 0: not on this machine. */
double limit_int8_threads(int which, int n_threads);

#endif
