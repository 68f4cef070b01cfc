/* temporary_files.c - see temporary_files.h. */
#define _GNU_SOURCE
#include "temporary_files.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *count_alloc(void *context, size_t size) {
    counter *c = context;
    if (++c->calls == c->fail_at)
        return NULL;
    size_t *p = malloc(size + 16);
    p[0] = size;
    c->blocks++;
    c->bytes += size;
    c->peak = BL_MAX(c->peak, c->bytes);
    return p + 2;
}

static void count_release(void *context, void *memory) {
    counter *c = context;
    size_t *p = (size_t *)memory - 2;
    c->blocks--;
    c->bytes -= p[0];
    free(p);
}

bl_alloc counting(counter *c) {
    bl_alloc a = {c, count_alloc, count_release};
    return a;
}

char folder[64];

void make_folder(void) {
    snprintf(folder, sizeof folder, "/tmp/bitlm-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

int files_in_folder(void) {
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e = readdir(d); e != NULL; e = readdir(d))
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

void remove_folder(void) {
    char path[400];
    DIR *d = opendir(folder);
    for (struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        unlink(path);
    }
    closedir(d);
    rmdir(folder);
}

const char *in_folder(const char *name) {
    static char path[200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

void put_file(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
    fclose(f);
}
