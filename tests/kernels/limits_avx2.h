/* limits_avx2.h - the machine's limits for one thread; 0 where they cannot be measured. */
#ifndef LIMITS_AVX2_H
#define LIMITS_AVX2_H

#include <stddef.h>
#include <stdint.h>

/* CPU time of this thread. */
uint64_t limit_clock_ns(void);
double limit_read_bandwidth(const uint8_t *p, size_t bytes); /* GB/s */
double limit_maddubs(void);                                  /* GOP/s */

#endif
