/* kernels_amx.c - the table of the AMX kernels, which is AVX-512's but for theirs, and the permission to use tiles.
 *
 * Linux saves the tiles' 8 KiB for a process that has asked for it (arch_prctl, since 5.16); asking makes the
 * stacks of signal handlers larger, so it is done when the first kernel needs tiles, and a refusal leaves AVX-512.
 * The table is copied at the first call, so that it follows AVX-512's whatever that holds.
 *
 * Called by kernels_table.c; compiled once more over tiles in software for the tests. */
#include <pthread.h>
#include <stdatomic.h>

#include "kernels/kernels_amx.h"

#if defined(__AVX__) || defined(__AVX2__) || defined(__AVX512F__)
#error "kernels_amx.c must be built without ISA flags: the table is made before any check of the CPU"
#endif

#if defined(AMX_SOFTWARE)

int AMX_NAME(bl_tiles_usable)(void) { return 1; }

#elif defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

#define REQUEST_PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM, <asm/prctl.h> */
#define TILE_DATA 18              /* XFEATURE_XTILEDATA */

int AMX_NAME(bl_tiles_usable)(void) {
    static atomic_int known; /* 0 before the first call, 1 usable, 2 not */
    int state = atomic_load_explicit(&known, memory_order_relaxed);
    if (state == 0) {
        state = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0 ? 1 : 2;
        atomic_store_explicit(&known, state, memory_order_relaxed);
    }
    return state == 1;
}

#else

int AMX_NAME(bl_tiles_usable)(void) { return 0; }

#endif

static bl_kernels table;

static void fill(void) {
    table = bl_kernels_avx512;
#if defined(AMX_SOFTWARE)
    table.name = "amx-software";
#else
    table.name = "amx";
    table.cpu |= BL_CPU_AMX;
#endif
    table.ternary_i8 = AMX_NAME(bl_ternary_i8);
    table.group_i8 = AMX_NAME(bl_group_i8);
}

const bl_kernels *AMX_NAME(bl_kernels)(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
    return &table;
}
