/* floatenv.c - the floating-point environment of the numeric contract.
 *
 * FE_DFL_ENV is round to nearest with every exception masked; glibc and musl
 * also clear FZ and DAZ of MXCSR on x86-64 with it, which a test checks.
 * Called at every public entry that computes, by each worker of the pool, and
 * around the host's callbacks. */
#include "base/base.h"

void bl_float_enter(bl_float_env *env) {
    fegetenv(&env->saved);
    fesetenv(FE_DFL_ENV);
#if defined(__aarch64__)
    /* glibc keeps the bits of FPCR that it takes for reserved; among them are
     * DN, FZ16, FIZ and AH, which change results. */
    __builtin_aarch64_set_fpcr(0);
#endif
}

void bl_float_leave(const bl_float_env *env) { fesetenv(&env->saved); }
