/* base.h - what every part of core stands on: errors, memory, checked sizes,
 * the compiler's macros, the floating-point environment, time.
 *
 * Called by all of core; depends on bitlm.h alone. */
#ifndef BL_BASE_H
#define BL_BASE_H

#include <fenv.h>
#include <stddef.h>
#include <stdint.h>

#include "bitlm.h"

#if defined(__GNUC__)
#define BL_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define BL_LIKELY(x) __builtin_expect(!!(x), 1)
#define BL_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define BL_ALIGNED(n) __attribute__((aligned(n)))
#if defined(__x86_64__) || defined(__i386__)
#define BL_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define BL_PAUSE() __asm__ volatile("yield")
#else
#define BL_PAUSE() ((void)0)
#endif
#else
#define BL_PRINTF(fmt, args)
#define BL_LIKELY(x) (x)
#define BL_UNLIKELY(x) (x)
#define BL_ALIGNED(n)
#define BL_PAUSE() ((void)0)
#endif

#define BL_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define BL_MIN(a, b) ((a) < (b) ? (a) : (b))
#define BL_MAX(a, b) ((a) > (b) ? (a) : (b))

/* ---- errors: error may be NULL; returns `status` so that a caller can write
 * `return bl_error(error, BITLM_ARG, "top_p is %g, but must be …", x);`
 * The text is cut at a UTF-8 boundary if it does not fit. */
bitlm_status bl_error(bitlm_error *error, bitlm_status status, const char *format, ...)
    BL_PRINTF(3, 4);
/* BITLM_IO with errno's text appended: "cannot open 'x': No such file …". */
bitlm_status bl_error_io(bitlm_error *error, int saved_errno, const char *format, ...)
    BL_PRINTF(3, 4);
void bl_error_clear(bitlm_error *error);
/* BITLM_NOMEM naming what did not fit. */
bitlm_status bl_error_nomem(bitlm_error *error, size_t bytes, const char *what);

/* For messages: copies at most `cap`-1 bytes of a text that may hold anything,
 * control bytes and invalid UTF-8 shown as '?', "…" where it was cut. */
const char *bl_show(char *out, size_t cap, const char *text, size_t length);

/* ---- memory: the host's allocator or malloc; alloc(0) is valid ------------- */
typedef struct bl_alloc {
    void *context;
    void *(*alloc)(void *context, size_t size);
    void (*release)(void *context, void *memory);
} bl_alloc;

bl_alloc bl_alloc_from_host(const bitlm_host *host);  /* host may be NULL */
void *bl_malloc(const bl_alloc *a, size_t size);      /* NULL on failure */
void *bl_calloc(const bl_alloc *a, size_t count, size_t size); /* zeroed; checks the product */
/* Grows by copy (hosts lend no realloc).  NULL on failure, `old` then intact. */
void *bl_regrow(const bl_alloc *a, void *old, size_t old_size, size_t new_size);
void bl_free(const bl_alloc *a, void *memory);        /* NULL is ignored */

/* An arena: one block, handed out in 64-byte-aligned pieces.  Measuring pass:
 * init with base NULL, take everything, read `used`; then allocate and repeat. */
typedef struct bl_arena {
    uint8_t *base;  /* 64-byte aligned, or NULL while measuring */
    size_t size;
    size_t used;
    int overflow;   /* set when a product or a sum did not fit size_t */
} bl_arena;

/* count * size bytes, 64-byte aligned; while measuring returns NULL. */
void *bl_arena_take(bl_arena *arena, size_t count, size_t size);

/* ---- checked arithmetic: 1 on success, 0 on overflow (result untouched) ---- */
int bl_mul_size(size_t a, size_t b, size_t *result);
int bl_add_size(size_t a, size_t b, size_t *result);

/* ---- the floating-point environment of the numeric contract ----------------
 * Round to nearest, no flush to zero, all exceptions masked. */
typedef struct bl_float_env {
    fenv_t saved;
} bl_float_env;

void bl_float_enter(bl_float_env *env);        /* saves the caller's, sets ours */
void bl_float_leave(const bl_float_env *env);  /* restores the caller's */

/* ---- time ------------------------------------------------------------------- */
uint64_t bl_now_ns(void);  /* monotonic */

/* ---- poll: the host's callback, its float environment and timeout_ms --------
 * One of these lives in each running call.  bl_poll_check is cheap to call
 * often: it asks the host at most every 2 ms (first call always). */
typedef struct bl_poll {
    int32_t (*callback)(void *context);  /* may be NULL */
    void *context;
    const bl_float_env *host_env;        /* restored around the callback; may be NULL */
    uint64_t deadline_ns;                /* 0: none */
    int32_t timeout_ms;                  /* for the sentence */
    uint64_t last_ns, seen_ns;           /* when the host was asked, when the clock was read */
    int32_t skips;                       /* checks that need not read the clock */
    bitlm_status status;                 /* OK, CANCELED or TIMEOUT; sticks */
} bl_poll;

void bl_poll_init(bl_poll *poll, const bitlm_host *host, const bl_float_env *host_env,
                  int32_t timeout_ms);
bitlm_status bl_poll_check(bl_poll *poll);  /* poll may be NULL: always OK */
/* The sentence for CANCELED or TIMEOUT. */
bitlm_status bl_poll_error(const bl_poll *poll, bitlm_error *error);

#endif
