/* temporary_files.h - what tests of files share: a temporary folder, and an allocator that counts and fails. */
#ifndef TEMPORARY_FILES_H
#define TEMPORARY_FILES_H

#include "base/base.h"

typedef struct counter {
    long calls, fail_at; /* the call, from 1, that fails; 0: none */
    size_t blocks, bytes, peak;
} counter;
bl_alloc counting(counter *c);

/* One folder at a time; `folder` is its path. */
extern char folder[64];
void make_folder(void);
int files_in_folder(void);
void remove_folder(void); /* with its files */
const char *in_folder(const char *name); /* valid until the next call */
void put_file(const char *path, const void *bytes, size_t n);

#endif
