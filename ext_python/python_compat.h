/* python_compat.h - every condition on the version of Python, in one place. */
#ifndef BLPY_COMPAT_H
#define BLPY_COMPAT_H

#if PY_VERSION_HEX < 0x030b0000
#error "bitlm needs Python 3.11 or later"
#endif

/* Interpreters with a GIL of their own came with 3.12, builds without one with 3.13. */
#if PY_VERSION_HEX >= 0x030c0000
#define BLPY_SLOT_INTERPRETERS {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#else
#define BLPY_SLOT_INTERPRETERS
#endif
#if PY_VERSION_HEX >= 0x030d0000
#define BLPY_SLOT_GIL {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#else
#define BLPY_SLOT_GIL
#endif

#endif
