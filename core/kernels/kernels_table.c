/* kernels_table.c - chooses a kernel table: the last in the list of those compiled
 * in whose instructions the CPU has and the caller's mask allows.
 *
 * Called when a model is opened, by code search, and by the checking program; compiled once more with AMX_SOFTWARE for
 * a test of whole models, where mask amx means tiles in software. */
#include <stdatomic.h>

#include "kernels/kernels_amx.h"

#if defined(__AVX__) || defined(__AVX2__) || defined(__FMA__) || defined(__AVX512F__)
#error "kernels_table.c must be built without ISA flags: it runs before any check of the CPU"
#endif
#if defined(__ARM_FEATURE_DOTPROD) || defined(__ARM_FEATURE_MATMUL_INT8)
#error "kernels_table.c must be built for ARMv8-A: it runs before any check of the CPU"
#endif

#if defined(__x86_64__)
extern const bl_kernels bl_kernels_avx2;
extern const bl_kernels bl_kernels_avxvnni;
#elif defined(__aarch64__)
extern const bl_kernels bl_kernels_neon, bl_kernels_neon_dotprod, bl_kernels_neon_i8mm;
#endif

/* Worst first. */
static const bl_kernels *const tables[] = {
    &bl_kernels_ref,
#if defined(__x86_64__)
    &bl_kernels_avx2,
    &bl_kernels_avxvnni,
    &bl_kernels_avx512,
#elif defined(__aarch64__)
    &bl_kernels_neon,
    &bl_kernels_neon_dotprod,
    &bl_kernels_neon_i8mm,
#endif
};

/* Number i of them and, after them, of those that are made of another; NULL past the end. */
static const bl_kernels *table(size_t i) {
#if defined(__x86_64__)
    if (i == BL_COUNT(tables)) {
        return AMX_NAME(bl_kernels)();
    }
#endif
    return i < BL_COUNT(tables) ? tables[i] : NULL;
}

const bl_kernels *bl_kernels_get(uint32_t mask) {
    uint32_t usable = bl_cpu_detect() & mask;
    const bl_kernels *t, *best = NULL;
    for (size_t i = 0; (t = table(i)) != NULL; i++) {
        best = (t->cpu & usable) == t->cpu ? t : best; /* plain C needs nothing */
    }
    return best;
}

/* Two threads that come first at the same time choose the same table. */
const bl_kernels *bl_kernels_usual(void) {
    static _Atomic(const bl_kernels *) chosen;
    const bl_kernels *k = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (!k) {
        int ok;
        uint32_t mask = bl_cpu_env_mask(&ok);
        k = bl_kernels_get(ok ? mask : BL_CPU_ALL);
        atomic_store_explicit(&chosen, k, memory_order_relaxed);
    }
    return k;
}

const bl_kernels *bl_kernels_nth(int i) {
    uint32_t usable = bl_cpu_detect();
    const bl_kernels *t;
    for (size_t n = 0; (t = table(n)) != NULL; n++) {
        if ((t->cpu & usable) == t->cpu && i-- == 0) {
            return t;
        }
    }
    return NULL;
}
