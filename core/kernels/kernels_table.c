/* kernels_table.c - chooses a kernel table: the last in the list of those compiled
 * in whose instructions the CPU has and the caller's mask allows.
 *
 * Called when a model is opened, by code search, and by the checking program. */
#include "kernels/kernels.h"

#if defined(__AVX__) || defined(__AVX2__) || defined(__FMA__) || defined(__AVX512F__)
#error "kernels_table.c must be built without ISA flags: it runs before any check of the CPU"
#endif

#if defined(__x86_64__)
extern const bl_kernels bl_kernels_avx2;
extern const bl_kernels bl_kernels_avxvnni;
extern const bl_kernels bl_kernels_avx512;
#endif

/* Worst first. */
static const bl_kernels *const tables[] = {
    &bl_kernels_ref,
#if defined(__x86_64__)
    &bl_kernels_avx2,
    &bl_kernels_avxvnni,
    &bl_kernels_avx512,
#endif
};

const bl_kernels *bl_kernels_get(uint32_t mask) {
    uint32_t usable = bl_cpu_detect() & mask;
    for (size_t i = BL_COUNT(tables); i-- > 1;) {
        if ((tables[i]->cpu & usable) == tables[i]->cpu) {
            return tables[i];
        }
    }
    return tables[0];
}

const bl_kernels *bl_kernels_nth(int i) {
    uint32_t usable = bl_cpu_detect();
    for (size_t t = 0; t < BL_COUNT(tables); t++) {
        if ((tables[t]->cpu & usable) == tables[t]->cpu && i-- == 0) {
            return tables[t];
        }
    }
    return NULL;
}
