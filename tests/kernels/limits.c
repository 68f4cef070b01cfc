/* limits.c - the machine's limits measured by the clock over threads that begin together.
 *
 * Each call measures once, so that a caller can take turns between a limit and what it is compared with.
 * Called by tests/bench/bench_model.c. */
#define _GNU_SOURCE
#include "limits.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/base.h"
#include "kernels/kernels.h"
#include "limits_isa.h"

#define MOST_THREADS 64

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct job {
    const uint8_t *data;
    size_t bytes;
    double (*run)(int n); /* NULL: read data */
    int rounds;
    double done, begin, end;
    pthread_barrier_t *start;
} job;

static void *work(void *arg) {
    job *j = arg;
    uint64_t sum = 0;
    pthread_barrier_wait(j->start);
    j->begin = now();
    if (j->run) {
        j->done = j->run(j->rounds);
    } else {
        sum = limit_run_read(j->data, j->bytes);
        j->done = (double)j->bytes;
    }
    j->end = now();
    __asm__ volatile("" : : "r"(sum));
    return NULL;
}

/* 10^9 units a second of all jobs, from the first's begin to the last's end. */
static double together(job *jobs, int n) {
    pthread_t threads[MOST_THREADS];
    pthread_barrier_t start;
    double begin = 1e300, end = 0, done = 0;
    pthread_barrier_init(&start, NULL, (unsigned)n);
    for (int i = 0; i < n; i++)
        jobs[i].start = &start;
    for (int i = 1; i < n; i++)
        if (pthread_create(&threads[i], NULL, work, &jobs[i])) {
            fprintf(stderr, "the limits need %d threads, but the system gives no more than %d\n", n, i);
            exit(1);
        }
    work(&jobs[0]);
    for (int i = 1; i < n; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&start);
    for (int i = 0; i < n; i++) {
        begin = BL_MIN(begin, jobs[i].begin);
        end = BL_MAX(end, jobs[i].end);
        done += jobs[i].done;
    }
    return end > begin ? done / (end - begin) * 1e-9 : 0;
}

double limit_read_threads(const uint8_t *p, size_t bytes, int n_threads) {
    job jobs[MOST_THREADS] = {0};
    size_t part = bytes / (size_t)n_threads / 128 * 128;
    for (int i = 0; i < n_threads; i++)
        jobs[i] = (job){.data = p + (size_t)i * part, .bytes = part};
    return together(jobs, n_threads);
}

static const struct {
    const char *name;
    uint32_t cpu; /* any of these */
    double (*run)(int n);
    int rounds; /* some ten milliseconds */
} int8s[LIMIT_N_INT8] = {
    {"maddubs", BL_CPU_AVX2, limit_run_maddubs, 2000000},
    {"vnni256", BL_CPU_AVX512 | BL_CPU_AVXVNNI, limit_run_vnni256, 4000000},
    {"vnni512", BL_CPU_AVX512, limit_run_vnni512, 2000000},
    {"amx", BL_CPU_AMX, limit_run_amx, 500000},
};

const char *limit_int8_name(int which) { return int8s[which].name; }

double limit_int8_threads(int which, int n_threads) {
    job jobs[MOST_THREADS] = {0};
    if (!(bl_cpu_detect() & int8s[which].cpu) || ((int8s[which].cpu & BL_CPU_AMX) && !limit_amx_allowed()))
        return 0;
    for (int i = 0; i < n_threads; i++)
        jobs[i] = (job){.run = int8s[which].run, .rounds = int8s[which].rounds};
    return together(jobs, n_threads);
}
