/* status.c - statuses and the sentences that go with them.
 *
 * Every message is formatted into a buffer of its own (an argument may be the
 * old text of the same error), made valid UTF-8, cut at a character's end and
 * copied out.  Called by everything in core. */
#define _GNU_SOURCE /* strerrordesc_np: errno's text in English whatever the locale */
#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const names[] = {
    "OK",    "ARG",  "NOMEM",   "IO",       "FORMAT",   "CORRUPT", "UNSUPPORTED",
    "LIMIT", "BUSY", "TIMEOUT", "CANCELED", "INTERNAL",
};

const char *bitlm_status_name(bitlm_status status) {
    if (status == BITLM_DONE)
        return "DONE";
    if (status < 0 || (size_t)status >= BL_COUNT(names))
        return "?";
    return names[status];
}

const char *bitlm_version(void) { return BITLM_VERSION; }

/* Bytes of the UTF-8 character at text (Unicode 15, table 3-7), 0 if it is
 * none.  core/text has a decoder too, but base stands below it. */
static size_t character(const unsigned char *text, size_t length) {
    unsigned char low = 0x80, high = 0xbf;
    size_t n;

    if (text[0] < 0x80)
        return 1;
    if (text[0] < 0xc2 || text[0] > 0xf4)
        return 0;
    n = text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;
    if (n > length)
        return 0;
    if (text[0] == 0xe0)
        low = 0xa0;
    else if (text[0] == 0xed)
        high = 0x9f;
    else if (text[0] == 0xf0)
        low = 0x90;
    else if (text[0] == 0xf4)
        high = 0x8f;
    if (text[1] < low || text[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

/* Copies whole characters while they fit in room bytes; '?' for what is no
 * character and, on demand, for control characters.  Writes no NUL.  Returns
 * the bytes written and sets *all when nothing was left out. */
static size_t copy_clean(char *out, size_t room, const char *text, size_t length, int hide_controls,
                         int *all) {
    const unsigned char *from = (const unsigned char *)text;
    size_t read = 0, written = 0;

    while (read < length) {
        size_t n = character(from + read, length - read);
        int hide = n == 0;
        if (n == 1 && hide_controls)
            hide = from[read] < 0x20 || from[read] == 0x7f;
        if (n == 2 && hide_controls) /* U+0080 .. U+009F */
            hide = from[read] == 0xc2 && from[read + 1] < 0xa0;
        if (written + (hide ? 1 : n) > room)
            break;
        if (hide) {
            out[written++] = '?';
        } else {
            memcpy(out + written, from + read, n);
            written += n;
        }
        read += n ? n : 1;
    }
    *all = read == length;
    return written;
}

const char *bl_show(char *out, size_t cap, const char *text, size_t length) {
    static const char ellipsis[] = "\xe2\x80\xa6";
    size_t n;
    int all;

    if (cap == 0)
        return "";
    n = copy_clean(out, cap - 1, text, length, 1, &all);
    if (!all && cap > sizeof ellipsis) {
        n = copy_clean(out, cap - sizeof ellipsis, text, length, 1, &all);
        memcpy(out + n, ellipsis, sizeof ellipsis - 1);
        n += sizeof ellipsis - 1;
    }
    out[n] = '\0';
    return out;
}

/* Writes no further than the struct that the caller knows (error->size; 0 is
 * taken for the struct of this header). */
static void set(bitlm_error *error, bitlm_status status, int sys_errno, const char *text) {
    size_t size = error->size, head = offsetof(bitlm_error, text), n;
    int all;

    if (size == 0 || size > sizeof *error)
        size = sizeof *error;
    if (size < head + 1)
        return;
    error->status = status;
    error->sys_errno = sys_errno;
    n = copy_clean(error->text, size - head - 1, text, strlen(text), 0, &all);
    error->text[n] = '\0';
}

bitlm_status bl_error(bitlm_error *error, bitlm_status status, const char *format, ...) {
    char text[sizeof error->text + 4]; /* + 4: the cut is made by set, at a character */
    va_list args;

    if (!error)
        return status;
    va_start(args, format);
    if (vsnprintf(text, sizeof text, format, args) < 0)
        snprintf(text, sizeof text, "%s", bitlm_status_name(status));
    va_end(args);
    set(error, status, 0, text);
    return status;
}

static const char *errno_text(int number, char *buffer, size_t cap) {
    const char *text = NULL;
    if (cap)
        buffer[0] = '\0';
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 32)
    text = strerrordesc_np(number);
#elif defined(__GLIBC__)
    text = strerror_r(number, buffer, cap);
#else
    if (strerror_r(number, buffer, cap) == 0)
        text = buffer;
#endif
    if (!text) {
        snprintf(buffer, cap, "error %d", number);
        text = buffer;
    }
    return text;
}

bitlm_status bl_error_io(bitlm_error *error, int saved_errno, const char *format, ...) {
    char text[sizeof error->text + 4], reason[100], room[sizeof error->text + 4];
    va_list args;
    size_t keep;

    if (!error)
        return BITLM_IO;
    va_start(args, format);
    if (vsnprintf(text, sizeof text, format, args) < 0)
        snprintf(text, sizeof text, "input/output");
    va_end(args);
    /* A long path must not push the reason out: it is what the reader needs. */
    errno_text(saved_errno, reason, sizeof reason);
    snprintf(room, sizeof room, ": %s", errno_text(saved_errno, reason, sizeof reason));
    keep = sizeof error->text - 1 - strlen(room);
    if (strlen(text) > keep) {
        char cut[sizeof text];
        int all;
        size_t n = copy_clean(cut, keep, text, strlen(text), 0, &all);
        memcpy(text, cut, n);
        text[n] = '\0';
    }
    memcpy(text + strlen(text), room, strlen(room) + 1);
    set(error, BITLM_IO, saved_errno, text);
    return BITLM_IO;
}

bitlm_status bl_error_nomem(bitlm_error *error, size_t bytes, const char *what) {
    return bl_error(error, BITLM_NOMEM, "out of memory: %zu bytes for %s", bytes, what);
}

void bl_error_clear(bitlm_error *error) {
    if (error)
        set(error, BITLM_OK, 0, "");
}
