/* checkkernels_bench.h - the measuring half of checkkernels. */
#ifndef CHECKKERNELS_BENCH_H
#define CHECKKERNELS_BENCH_H

#ifndef CHECKKERNELS_GOLDEN
#define CHECKKERNELS_GOLDEN "golden_hashes.txt"
#endif

struct bl_kernels;
/* Table n of those to check (checkkernels.c), NULL past the end. */
const struct bl_kernels *table_nth(int n);

/* Prints rates of the kernels whose names contain `only` (NULL: all).  Returns the exit status. */
int bench_kernels(const char *only);

#endif
