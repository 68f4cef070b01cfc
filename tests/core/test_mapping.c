/* test_mapping.c - files in memory: mapped or copied as their owner and mode say, refused where they are no files, and files
 * that change while they are read. */
#define _GNU_SOURCE
#include <check.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file/gguf.h"
#include "file/mapping.h"
#include "temporary_files.h"
#include "test_support.h"

static uint8_t content[100000];

static bitlm_status map(const char *path, int32_t load, bl_mapping *m, bitlm_error *error) {
    return bl_mapping_open(path, strlen(path), load, NULL, NULL, m, error);
}

START_TEST(mapping_modes) {
    bl_mapping m;
    bl_file_id id;
    bitlm_error error = {sizeof error, 0, 0, ""};
    static const struct {
        mode_t mode;
        int32_t load;
        int mapped;
    } cases[] = {{0644, BITLM_LOAD_AUTO, 1}, {0664, BITLM_LOAD_AUTO, 0}, {0646, BITLM_LOAD_AUTO, 0},
                 {0666, BITLM_LOAD_MMAP, 1}, {0644, BITLM_LOAD_COPY, 0}, {0400, BITLM_LOAD_AUTO, 1}};
    make_folder();
    put_file(in_folder("m"), content, sizeof content);
    for (size_t i = 0; i < BL_COUNT(cases); i++) {
        chmod(in_folder("m"), cases[i].mode);
        ck_assert_int_eq(map(in_folder("m"), cases[i].load, &m, &error), BITLM_OK);
        ck_assert_int_eq(m.mapped, cases[i].mapped);
        ck_assert_uint_eq(m.size, sizeof content);
        ck_assert_mem_eq(m.data, content, sizeof content);
        ck_assert_uint_eq((uintptr_t)m.data % 64, 0);
        const char *path = in_folder("m");
        ck_assert_int_eq(bl_mapping_identify(path, strlen(path), &id, &error), BITLM_OK);
        ck_assert_mem_eq(&id, &m.id, sizeof id);
        bl_mapping_close(&m);
        ck_assert_ptr_null(m.data);
        bl_mapping_close(&m); /* twice is harmless */
    }
    ck_assert_int_eq(map(in_folder("m"), 3, &m, &error), BITLM_ARG);
    if (geteuid() == 0) { /* someone else's file is copied */
        ck_assert_int_eq(chown(in_folder("m"), 12345, 12345), 0);
        ck_assert_int_eq(map(in_folder("m"), BITLM_LOAD_AUTO, &m, &error), BITLM_OK);
        ck_assert_int_eq(m.mapped, 0);
        bl_mapping_close(&m);
    }
    bl_mapping_close(NULL);
    put_file(in_folder("m"), content, sizeof content - 1); /* another size: another identity */
    bl_file_id changed;
    const char *path = in_folder("m");
    ck_assert_int_eq(bl_mapping_identify(path, strlen(path), &changed, &error), BITLM_OK);
    ck_assert_uint_ne(changed.size, id.size);
    remove_folder();
}
END_TEST

START_TEST(mapping_edges) {
    bl_mapping m;
    bl_gguf *g = NULL;
    bl_file_id id;
    bitlm_error error = {sizeof error, 0, 0, ""};
    static const int32_t loads[] = {BITLM_LOAD_AUTO, BITLM_LOAD_MMAP, BITLM_LOAD_COPY};
    make_folder();
    put_file(in_folder("empty"), "", 0);
    ck_assert_int_eq(mkfifo(in_folder("fifo"), 0644), 0);
    ck_assert_int_eq(symlink("nowhere", in_folder("dangling")), 0);
    ck_assert_int_eq(symlink("empty", in_folder("link")), 0);
    for (size_t i = 0; i < BL_COUNT(loads); i++) {
        ck_assert_int_eq(map(in_folder("empty"), loads[i], &m, &error), BITLM_OK);
        ck_assert_uint_eq(m.size, 0);
        ck_assert_ptr_nonnull(m.data);
        ck_assert_int_eq(bl_gguf_open(m.data, m.size, NULL, &g, &error), BITLM_FORMAT);
        bl_mapping_close(&m);
        ck_assert_int_eq(map(in_folder("link"), loads[i], &m, &error), BITLM_OK);
        bl_mapping_close(&m);
        ck_assert_int_eq(map(folder, loads[i], &m, &error), BITLM_IO);
        ck_assert_int_eq(error.sys_errno, 21);
        ck_assert_int_eq(map(in_folder("fifo"), loads[i], &m, &error), BITLM_IO); /* at once */
        ck_assert_ptr_nonnull(strstr(error.text, "is a FIFO, not a regular file"));
        ck_assert_int_eq(map("/dev/zero", loads[i], &m, &error), BITLM_IO);
        ck_assert_ptr_nonnull(strstr(error.text, "is a device"));
        ck_assert_int_eq(map(in_folder("missing"), loads[i], &m, &error), BITLM_IO);
        ck_assert_int_eq(error.sys_errno, 2);
        ck_assert_ptr_nonnull(strstr(error.text, "missing"));
        ck_assert_int_eq(map(in_folder("dangling"), loads[i], &m, &error), BITLM_IO);
        ck_assert_int_eq(map(in_folder("empty/inside"), loads[i], &m, &error), BITLM_IO);
        ck_assert_int_eq(bl_mapping_open("", 0, loads[i], NULL, NULL, &m, &error), BITLM_ARG);
        ck_assert_int_eq(bl_mapping_open("/tmp\0x", 6, loads[i], NULL, NULL, &m, &error), BITLM_ARG);
        ck_assert_ptr_nonnull(strstr(error.text, "NUL"));
    }
    static char name[9000];
    memset(name, 'x', sizeof name);
    ck_assert_int_eq(bl_mapping_open(name, sizeof name, 0, NULL, NULL, &m, &error), BITLM_IO);
    ck_assert_int_eq(bl_mapping_identify(name, sizeof name, &id, &error), BITLM_IO);
    ck_assert_int_eq(bl_mapping_identify(folder, strlen(folder), &id, &error), BITLM_IO);
    ck_assert_int_eq(bl_mapping_identify("/dev/zero", 9, &id, &error), BITLM_IO);
    chmod(in_folder("empty"), 0);
    if (geteuid() != 0 || seteuid(65534) == 0) { /* root reads everything: as nobody */
        chmod(folder, 0755);
        ck_assert_int_eq(map(in_folder("empty"), BITLM_LOAD_AUTO, &m, &error), BITLM_IO);
        ck_assert(error.sys_errno == 13);
        if (getuid() == 0)
            ck_assert_int_eq(seteuid(0), 0);
    }
    remove_folder();
}
END_TEST

/* poll is asked between pieces: it can stop the copy, and here it also plays the other process. */
static const char *victim;
static off_t victim_size;

static int32_t resize_victim(void *context) {
    (void)context;
    return truncate(victim, victim_size) != 0;
}

static int32_t say_stop(void *context) {
    (void)context;
    return 1;
}

START_TEST(mapping_under_attack) {
    bl_mapping m;
    bitlm_error error = {sizeof error, 0, 0, ""};
    bitlm_host host = {sizeof host, 0, NULL, say_stop, NULL, NULL, NULL};
    bl_poll poll;
    counter c = {0};
    bl_alloc a = counting(&c);
    char path[200];
    make_folder();
    put_file(in_folder("m"), content, sizeof content);
    snprintf(path, sizeof path, "%s", in_folder("m"));
    victim = path;
    bl_poll_init(&poll, &host, NULL, 0);
    ck_assert_int_eq(bl_mapping_open(path, strlen(path), BITLM_LOAD_COPY, &a, &poll, &m, &error),
                     BITLM_CANCELED);
    ck_assert_uint_eq(c.blocks, 0);
    host.poll = resize_victim;
    victim_size = (off_t)sizeof content / 2;
    bl_poll_init(&poll, &host, NULL, 0);
    ck_assert_int_eq(bl_mapping_open(path, strlen(path), BITLM_LOAD_COPY, &a, &poll, &m, &error), BITLM_IO);
    ck_assert_ptr_nonnull(strstr(error.text, "shrank"));
    ck_assert_uint_eq(c.blocks, 0);
    victim_size = (off_t)sizeof content * 2;
    bl_poll_init(&poll, &host, NULL, 0);
    ck_assert_int_eq(bl_mapping_open(path, strlen(path), BITLM_LOAD_COPY, &a, &poll, &m, &error), BITLM_IO);
    ck_assert_ptr_nonnull(strstr(error.text, "was written to while it was read"));
    ck_assert_uint_eq(c.blocks, 0);
    memset(&c, 0, sizeof c);
    c.fail_at = 1;
    ck_assert_int_eq(bl_mapping_open(path, strlen(path), BITLM_LOAD_COPY, &a, NULL, &m, &error), BITLM_NOMEM);
    remove_folder();
}
END_TEST

int main(void) {
    Suite *suite = suite_create("mapping");
    TCase *tests = tcase_create("mapping");
    for (size_t i = 0; i < sizeof content; i++)
        content[i] = (uint8_t)(i * i >> 7);
    tcase_add_test(tests, mapping_modes);
    tcase_add_test(tests, mapping_edges);
    tcase_add_test(tests, mapping_under_attack);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
