/* cpu.c - which instructions may be used: what the CPU has and the operating
 * system saves, and what environment variable BITLM_CPU allows.
 *
 * AVX needs XCR0 bits 1-2 (the OS saves ymm), AVX-512 bits 5-7 as well, AMX bits
 * 17-18: CPUID alone is not enough, as an OS or a hypervisor may not save them.
 * Called by kernels_table.c and by `bitlm info`. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

#if defined(__AVX__) || defined(__AVX2__) || defined(__FMA__) || defined(__AVX512F__)
#error "cpu.c must be built without ISA flags: it decides whether they may be used"
#endif
#if defined(__ARM_FEATURE_DOTPROD) || defined(__ARM_FEATURE_MATMUL_INT8)
#error "cpu.c must be built for ARMv8-A: it decides whether more may be used"
#endif

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int all(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

static uint32_t detect(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) {
        return 0;
    }
    uint32_t c1 = c;
    if (!all(c1, bit_OSXSAVE | bit_AVX) || !all(xcr0(), 0x6)) {
        return 0;
    }
    uint64_t state = xcr0();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return 0;
    }
    uint32_t last_leaf = a, b7 = b, c7 = c, d7 = d, a71 = 0;
    if (last_leaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
        a71 = a;
    }

    uint32_t flags = 0;
    const uint32_t popcnt = 1u << 23, fma = 1u << 12, f16c = 1u << 29;
    const uint32_t bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8;
    if (!all(c1, popcnt | fma | f16c) || !all(b7, bmi1 | avx2 | bmi2)) {
        return 0;
    }
    flags |= BL_CPU_AVX2;
    if (all(a71, 1u << 4)) {
        flags |= BL_CPU_AVXVNNI;
    }
    const uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    const uint32_t vbmi = 1u << 1, vnni = 1u << 11, vpopcntdq = 1u << 14;
    if (all(state, 0xe0) && all(b7, f | dq | bw | vl) && all(c7, vbmi | vnni | vpopcntdq)) {
        flags |= BL_CPU_AVX512;
    }
    const uint32_t amx_tile = 1u << 24, amx_int8 = 1u << 25;
    if (all(state, 0x60000) && all(d7, amx_tile | amx_int8)) {
        flags |= BL_CPU_AMX;
    }
    return flags;
}

#elif defined(__aarch64__)

#if defined(__linux__)
#include <sys/auxv.h>

/* Bits of the kernel's interface, which older headers lack. */
#define HWCAP_DOTPROD (1ul << 20)
#define HWCAP2_MATMUL_I8 (1ul << 13)

static uint32_t extensions(void) {
    uint32_t flags = getauxval(AT_HWCAP) & HWCAP_DOTPROD ? BL_CPU_DOTPROD : 0;
    return flags | (getauxval(AT_HWCAP2) & HWCAP2_MATMUL_I8 ? BL_CPU_I8MM : 0);
}
#else
static uint32_t extensions(void) { return 0; }
#endif

/* NEON itself is part of the architecture. */
static uint32_t detect(void) { return BL_CPU_NEON | extensions(); }

#else

static uint32_t detect(void) { return 0; }

#endif

uint32_t bl_cpu_detect(void) {
    static atomic_uint known; /* the flags with bit 31 set; 0 before the first call */
    uint32_t flags = atomic_load_explicit(&known, memory_order_relaxed);
    if (flags == 0) {
        flags = detect() | 0x80000000u;
        atomic_store_explicit(&known, flags, memory_order_relaxed);
    }
    return flags & 0x7fffffffu;
}

uint32_t bl_cpu_env_mask(int *ok) {
    static const struct {
        const char *name;
        uint32_t mask;
    } levels[] = {
        {"ref", BL_CPU_REF},
        {"avx2", BL_CPU_AVX2},
        {"avxvnni", BL_CPU_AVX2 | BL_CPU_AVXVNNI},
        {"avx512", BL_CPU_AVX2 | BL_CPU_AVXVNNI | BL_CPU_AVX512},
        {"amx", BL_CPU_AVX2 | BL_CPU_AVXVNNI | BL_CPU_AVX512 | BL_CPU_AMX},
        {"neon", BL_CPU_NEON | BL_CPU_DOTPROD | BL_CPU_I8MM},
    };
    const char *value = getenv("BITLM_CPU");
    *ok = 1;
    if (value == NULL || value[0] == '\0') {
        return BL_CPU_ALL;
    }
    for (size_t i = 0; i < BL_COUNT(levels); i++) {
        if (strcmp(value, levels[i].name) == 0) {
            return levels[i].mask;
        }
    }
    *ok = 0;
    return BL_CPU_ALL;
}
