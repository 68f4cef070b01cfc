/* alloc.c - memory from the host or from malloc, arenas, checked sizes.
 *
 * An allocator is a value that each object keeps; there is no global hook, so
 * two hosts in one process do not meet.  Called by everything in core. */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

static void *heap_alloc(void *context, size_t size) {
    (void)context;
    return malloc(size);
}

static void heap_release(void *context, void *memory) {
    (void)context;
    free(memory);
}

bl_alloc bl_alloc_from_host(const bitlm_host *host) {
    bl_alloc a = {NULL, heap_alloc, heap_release};
    /* A host built against an older, shorter struct lends nothing past its end. */
    size_t needed = offsetof(bitlm_host, release) + sizeof host->release;
    if (host && host->size >= needed && host->alloc && host->release) {
        a.context = host->context;
        a.alloc = host->alloc;
        a.release = host->release;
    }
    return a;
}

void *bl_malloc(const bl_alloc *a, size_t size) {
    return a->alloc(a->context, size ? size : 1); /* malloc(0) may be NULL, which means failure here */
}

void *bl_calloc(const bl_alloc *a, size_t count, size_t size) {
    size_t bytes;
    void *memory;

    if (!bl_mul_size(count, size, &bytes))
        return NULL;
    memory = bl_malloc(a, bytes);
    if (memory)
        memset(memory, 0, bytes);
    return memory;
}

void *bl_regrow(const bl_alloc *a, void *old, size_t old_size, size_t new_size) {
    void *memory = bl_malloc(a, new_size);
    if (!memory)
        return NULL;
    if (old) {
        memcpy(memory, old, BL_MIN(old_size, new_size));
        bl_free(a, old);
    }
    return memory;
}

void bl_free(const bl_alloc *a, void *memory) {
    if (memory)
        a->release(a->context, memory);
}

void *bl_arena_take(bl_arena *arena, size_t count, size_t size) {
    size_t bytes, start, end;

    if (arena->overflow)
        return NULL;
    if (!bl_mul_size(count, size, &bytes) || !bl_add_size(arena->used, 63, &start) ||
        !bl_add_size(start & ~(size_t)63, bytes, &end)) {
        arena->overflow = 1;
        return NULL;
    }
    start &= ~(size_t)63;
    if (arena->base && end > arena->size) {
        arena->overflow = 1;
        return NULL;
    }
    arena->used = end;
    return arena->base ? arena->base + start : NULL;
}

int bl_mul_size(size_t a, size_t b, size_t *result) {
    if (b && a > SIZE_MAX / b)
        return 0;
    *result = a * b;
    return 1;
}

int bl_add_size(size_t a, size_t b, size_t *result) {
    if (a > SIZE_MAX - b)
        return 0;
    *result = a + b;
    return 1;
}
