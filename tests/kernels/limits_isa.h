/* limits_isa.h - what the limits' instruction-set files give to limits.c: loops that run n rounds of one
 * instruction and return how many operations (two a product) that was, and a pass over memory. */
#ifndef LIMITS_ISA_H
#define LIMITS_ISA_H

#include <stddef.h>
#include <stdint.h>

double limit_run_maddubs(int n);
double limit_run_vnni256(int n);
double limit_run_vnni512(int n);
double limit_run_amx(int n);
/* Asks the operating system for the tiles; 0: it refuses. */
int limit_amx_allowed(void);
/* Reads all bytes once; returns something made of them. */
uint64_t limit_run_read(const uint8_t *p, size_t bytes);

#endif
