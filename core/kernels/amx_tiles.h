/* amx_tiles.h - the tile operations that *_amx.c are written over: AMX's own, or the same in C.
 *
 * A tile is up to 16 rows of up to 64 bytes, as its configuration says.  With AMX_SOFTWARE defined the operations
 * are C functions that compute what Intel's manual (SDM volume 2, the instructions' "Operation") writes down and
 * abort where the processor would raise an exception, so that a program of tests runs the kernels on processors
 * without AMX.  What only hardware can show: that the processor takes this configuration (palette 1, TILECFG's
 * layout), and that the operating system saves the state.  Included by the *_amx.c files only. */
#ifndef BL_AMX_TILES_H
#define BL_AMX_TILES_H

#include <stdint.h>

/* LDTILECFG's 64 bytes (SDM volume 1, 18.3): palette 1 has 8 tiles of 16 rows and 64 bytes a row. */
typedef struct amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16]; /* of a row: 8 .. 15 must be 0 */
    uint8_t rows[16];
} amx_config;

_Static_assert(sizeof(amx_config) == 64, "TILECFG");

#if !defined(AMX_SOFTWARE)

#include <immintrin.h>

/* GCC's intrinsics do not say that they read memory (of a configuration, 8 bytes): stores before them must not
 * move behind them. */
#define MEMORY_IS_READ() __asm__ volatile("" : : : "memory")

static inline void tile_configure(const amx_config *config) {
    __asm__ volatile("" : : "r"(config) : "memory");
    _tile_loadconfig(config);
}

/* The tiles' numbers are part of the instructions: constants. */
#define tile_release() _tile_release()
#define tile_zero(t) _tile_zero(t)
#define tile_load(t, p, stride)                                                                                \
    do {                                                                                                       \
        MEMORY_IS_READ();                                                                                      \
        _tile_loadd(t, p, stride);                                                                             \
    } while (0)
#define tile_store(t, p, stride)                                                                               \
    do {                                                                                                       \
        _tile_stored(t, p, stride);                                                                            \
        MEMORY_IS_READ(); /* by what follows */                                                                \
    } while (0)
/* c[m][n] += a[m][4k+i] * b[k][4n+i] over k and i < 4; a is signed, b unsigned or, in the second, signed. */
#define tile_dot_su(c, a, b) _tile_dpbsud(c, a, b)
#define tile_dot_ss(c, a, b) _tile_dpbssd(c, a, b)

#else

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local struct {
    amx_config config;
    uint8_t tile[8][16][64];
} amx;

static inline void amx_require(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "amx_tiles.h: %s\n", what);
        abort();
    }
}

static inline void tile_release(void) { memset(&amx, 0, sizeof amx); }

static inline void tile_configure(const amx_config *c) {
    int ok = c->palette == 1 && c->start_row == 0;
    for (int i = 0; i < 14; i++) {
        ok &= c->reserved[i] == 0;
    }
    for (int i = 0; i < 16; i++) {
        ok &= c->rows[i] <= 16 && c->bytes[i] <= 64 && (c->rows[i] == 0) == (c->bytes[i] == 0);
        ok &= i < 8 || c->rows[i] == 0;
    }
    amx_require(ok, "LDTILECFG: #GP");
    tile_release(); /* the tiles become zero */
    amx.config = *c;
}

static inline void amx_require_tile(int t) {
    amx_require(amx.config.palette == 1 && t < 8 && amx.config.rows[t] != 0, "a tile that is not configured: #UD");
}

static inline void tile_zero(int t) {
    amx_require_tile(t);
    memset(amx.tile[t], 0, sizeof amx.tile[t]);
}

static inline void tile_load(int t, const void *p, int64_t stride) {
    tile_zero(t);
    for (int r = 0; r < amx.config.rows[t]; r++) {
        memcpy(amx.tile[t][r], (const uint8_t *)p + r * stride, amx.config.bytes[t]);
    }
}

static inline void tile_store(int t, void *p, int64_t stride) {
    amx_require_tile(t);
    for (int r = 0; r < amx.config.rows[t]; r++) {
        memcpy((uint8_t *)p + r * stride, amx.tile[t][r], amx.config.bytes[t]);
    }
}

static inline void amx_dot(int c, int a, int b, int b_signed) {
    const amx_config *g = &amx.config;
    amx_require_tile(a);
    amx_require_tile(b);
    amx_require_tile(c);
    amx_require(a != b && b != c && a != c && g->bytes[c] % 4 == 0 && g->bytes[a] % 4 == 0 &&
                    g->rows[c] == g->rows[a] && g->bytes[a] / 4 == g->rows[b] && g->bytes[c] == g->bytes[b],
                "TDPBSUD or TDPBSSD: #UD");
    for (int m = 0; m < g->rows[c]; m++) {
        for (int n = 0; n < g->bytes[c] / 4; n++) {
            uint32_t sum;
            memcpy(&sum, &amx.tile[c][m][4 * n], sizeof sum);
            for (int k = 0; k < g->bytes[a]; k++) {
                const uint8_t right = amx.tile[b][k / 4][4 * n + k % 4];
                sum += (uint32_t)((int8_t)amx.tile[a][m][k] * (b_signed ? (int8_t)right : right));
            }
            memcpy(&amx.tile[c][m][4 * n], &sum, sizeof sum);
        }
    }
}

static inline void tile_dot_su(int c, int a, int b) { amx_dot(c, a, b, 0); }
static inline void tile_dot_ss(int c, int a, int b) { amx_dot(c, a, b, 1); }

#endif
#endif
