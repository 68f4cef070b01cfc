/* limits_amx.c - int8 products a second with the tiles of AMX.
 *
 * Called by limits.c where the CPU has them; the kernel is asked for them first, as it must be. */
#define _GNU_SOURCE
#include "limits_isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

int limit_amx_allowed(void) { return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0; }

/* Four sums of 16 x 16 int32 from two left and two right tiles of 16 x 64 int8, as a matrix product uses them. */
__attribute__((target("amx-tile,amx-int8"), noinline)) double limit_run_amx(int n) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t column_bytes[16];
        uint8_t rows[16];
    } config;
    static const uint8_t ones[16 * 64] = {1};
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) {
        config.column_bytes[i] = 64;
        config.rows[i] = 16;
    }
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, ones, 64);
    _tile_loadd(5, ones, 64);
    _tile_loadd(6, ones, 64);
    _tile_loadd(7, ones, 64);
    for (int i = 0; i < n; i++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_release();
    return 2.0 * 16 * 16 * 64 * 4 * n;
}

#else

int limit_amx_allowed(void) { return 0; }
double limit_run_amx(int n) { return 0 * n; }

#endif
