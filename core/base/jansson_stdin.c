/* jansson_stdin.c - what a static jansson takes for stdin: no stream at all.
 *
 * libjansson.a names the storage of stdin, to say "<stdin>" in the errors of json_loadf, which nothing here
 * calls.  Code compiled for programs cannot do that from inside a shared library, so meson.build renames the
 * reference, in a copy of the archive, to this. */
#include <stddef.h>

extern const void *const bl_jansson_stdin;
const void *const bl_jansson_stdin = NULL;
