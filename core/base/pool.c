/* pool.c - one parallel loop at a time over a few threads.
 *
 * A loop is open for joining while the OPEN bit of `gate` is set; the low bits
 * count the workers inside.  The caller fills the job in, opens the gate, moves
 * `epoch` (the word on which idle workers sleep), works along, closes the gate
 * and waits until nobody is inside.  So it waits only for workers that have
 * joined: one that the kernel has not scheduled in time costs nothing, and no
 * worker at all is a valid state.  Job fields are plain: they change only while
 * the gate is closed and nobody is inside.
 *
 * Used by core/model and core/run through a session, one pool per session. */
#define _GNU_SOURCE /* sched_getaffinity, syscall */
#include "base/pool.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__) && !defined(BL_POOL_CONDVAR)
#define USE_FUTEX 1
#include <linux/futex.h>
#include <sys/syscall.h>
#else
#define USE_FUTEX 0
#endif

#define MAX_THREADS 256
#define SPIN_NS 20000u
#define STACK_BYTES ((size_t)512 << 10)

#define GATE_OPEN 0x80000000u
#define GATE_CALLER 0x40000000u /* the caller sleeps on the gate */
#define GATE_COUNT 0x0000ffffu

typedef struct worker {
    bl_pool *pool;
    int number; /* 1 .. n_threads-1 */
    pthread_t thread;
} worker;

struct bl_pool {
    /* Words that threads fight over, a cache line each. */
    BL_ALIGNED(64) _Atomic uint32_t gate;
    BL_ALIGNED(64) _Atomic uint32_t epoch;
    _Atomic uint32_t sleepers; /* workers asleep on epoch, or about to be */
    _Atomic uint32_t stop;
    BL_ALIGNED(64) _Atomic int64_t next; /* the next unclaimed tile */
    /* The job. */
    BL_ALIGNED(64) bl_tile_fn fn;
    void *arg;
    int64_t n_tiles;
    /* The rest belongs to the caller. */
    uint64_t spin_ns;
    int n_threads;
    int tried;     /* starting workers has been tried */
    int n_started; /* workers[0 .. n_started-1] run */
    pid_t pid;     /* the process that they run in */
    void *block;   /* what was allocated: the struct is aligned inside it */
    bl_alloc alloc;
#if !USE_FUTEX
    pthread_mutex_t lock;
    pthread_cond_t moved;
#endif
    worker workers[]; /* n_threads - 1 */
};

/* ---- sleeping on a word ------------------------------------------------------ */

#if USE_FUTEX
static void word_init(bl_pool *pool) { (void)pool; }

static void word_wait(bl_pool *pool, _Atomic uint32_t *word, uint32_t value) {
    (void)pool;
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void word_wake(bl_pool *pool, _Atomic uint32_t *word, int n) {
    (void)pool;
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}
#else
static void word_init(bl_pool *pool) {
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->moved, NULL);
}

static void word_wait(bl_pool *pool, _Atomic uint32_t *word, uint32_t value) {
    pthread_mutex_lock(&pool->lock);
    if (atomic_load(word) == value)
        pthread_cond_wait(&pool->moved, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

static void word_wake(bl_pool *pool, _Atomic uint32_t *word, int n) {
    (void)word;
    (void)n; /* both words share one condition: all look again */
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->moved);
    pthread_mutex_unlock(&pool->lock);
}
#endif

/* Spins until (*word & mask) != value; 0 when spin_ns have passed in vain. */
static int spin(const bl_pool *pool, _Atomic uint32_t *word, uint32_t mask, uint32_t value) {
    uint64_t start = 0;

    for (;;) {
        for (int i = 0; i < 16; i++) {
            if ((atomic_load_explicit(word, memory_order_acquire) & mask) != value)
                return 1;
            BL_PAUSE();
        }
        if (!pool->spin_ns)
            return 0;
        if (!start)
            start = bl_now_ns();
        else if (bl_now_ns() - start >= pool->spin_ns)
            return 0;
    }
}

/* ---- workers ------------------------------------------------------------------- */

static int join_loop(bl_pool *pool) {
    uint32_t gate = atomic_load(&pool->gate);
    while (gate & GATE_OPEN)
        if (atomic_compare_exchange_weak(&pool->gate, &gate, gate + 1))
            return 1;
    return 0;
}

static void leave_loop(bl_pool *pool) {
    uint32_t gate = atomic_fetch_sub(&pool->gate, 1) - 1;
    if ((gate & GATE_COUNT) == 0 && (gate & GATE_CALLER))
        word_wake(pool, &pool->gate, 1);
}

static void *work(void *arg) {
    worker *self = arg;
    bl_pool *pool = self->pool;
    uint32_t seen = 0; /* behind any epoch that a loop has: the first one is 1 or more */
    bl_float_env unused;

    bl_float_enter(&unused); /* a thread inherits its creator's environment */
    for (;;) {
        if (!spin(pool, &pool->epoch, UINT32_MAX, seen)) {
            atomic_fetch_add(&pool->sleepers, 1);
            while (atomic_load(&pool->epoch) == seen)
                word_wait(pool, &pool->epoch, seen);
            atomic_fetch_sub(&pool->sleepers, 1);
        }
        seen = atomic_load(&pool->epoch);
        if (atomic_load(&pool->stop))
            return NULL;
        if (!join_loop(pool))
            continue;
        for (;;) {
            int64_t tile = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
            if (tile >= pool->n_tiles)
                break;
            pool->fn(pool->arg, tile, self->number);
        }
        leave_loop(pool);
    }
}

static int usable_cpus(void);

/* Starts what can be started; fewer workers, or none, is no error. */
static void start_workers(bl_pool *pool) {
    pthread_attr_t attr;
    sigset_t all, old;

    pool->tried = 1;
    pool->pid = getpid();
    /* With more threads than processors a spinning one keeps a working one out. */
    pool->spin_ns = usable_cpus() >= pool->n_threads ? SPIN_NS : 0;
    if (pthread_attr_init(&attr))
        return;
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    /* The host's signals must find the host's threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int i = 0; i < pool->n_threads - 1; i++) {
        worker *w = &pool->workers[i];
        w->pool = pool;
        w->number = i + 1;
        if (pthread_create(&w->thread, &attr, work, w))
            break;
        pool->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
}

/* In a forked child no worker exists, whatever the memory says. */
static void forget_workers(bl_pool *pool) {
    atomic_store(&pool->gate, 0);
    atomic_store(&pool->epoch, 0);
    atomic_store(&pool->sleepers, 0);
    atomic_store(&pool->stop, 0);
    pool->tried = 0;
    pool->n_started = 0;
    word_init(pool);
}

/* ---- the pool ---------------------------------------------------------------------- */

bitlm_status bl_pool_create(const bl_alloc *alloc, int n_threads, bl_pool **out, bitlm_error *error) {
    size_t bytes;
    bl_pool *pool;
    void *block;

    if (n_threads < 1 || n_threads > MAX_THREADS)
        return bl_error(error, BITLM_ARG, "threads is %d, but must be 1 to %d", n_threads, MAX_THREADS);
    bytes = sizeof(bl_pool) + (size_t)(n_threads - 1) * sizeof(worker) + 63;
    block = bl_calloc(alloc, 1, bytes);
    if (!block)
        return bl_error_nomem(error, bytes, "a thread pool");
    pool = (bl_pool *)(((uintptr_t)block + 63) & ~(uintptr_t)63);
    pool->block = block;
    pool->alloc = *alloc;
    pool->n_threads = n_threads;
    atomic_init(&pool->gate, 0);
    atomic_init(&pool->epoch, 0);
    atomic_init(&pool->sleepers, 0);
    atomic_init(&pool->stop, 0);
    atomic_init(&pool->next, 0);
    word_init(pool);
    *out = pool;
    return BITLM_OK;
}

void bl_pool_free(bl_pool *pool) {
    bl_alloc alloc;

    if (!pool)
        return;
    if (pool->n_started && pool->pid == getpid()) {
        atomic_store(&pool->stop, 1);
        atomic_fetch_add(&pool->epoch, 1);
        word_wake(pool, &pool->epoch, INT_MAX);
        for (int i = 0; i < pool->n_started; i++)
            pthread_join(pool->workers[i].thread, NULL);
#if !USE_FUTEX
        pthread_cond_destroy(&pool->moved);
        pthread_mutex_destroy(&pool->lock);
#endif
    }
    alloc = pool->alloc;
    bl_free(&alloc, pool->block);
}

int bl_pool_threads(const bl_pool *pool) { return pool->n_threads; }

static void open_gate(bl_pool *pool, bl_tile_fn fn, void *arg, int64_t n_tiles) {
    uint32_t epoch = atomic_load(&pool->epoch) + 1, asleep;
    int64_t wanted = n_tiles - 1;

    pool->fn = fn;
    pool->arg = arg;
    pool->n_tiles = n_tiles;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store(&pool->gate, GATE_OPEN);
    /* 0 is what a fresh worker has seen. */
    atomic_store(&pool->epoch, epoch ? epoch : 1);
    /* A worker counts itself before it looks at epoch for the last time, so
     * either it is counted here or it finds the new epoch. */
    asleep = atomic_load(&pool->sleepers);
    if (asleep)
        word_wake(pool, &pool->epoch, (int)BL_MIN(wanted, (int64_t)asleep));
}

static void close_gate(bl_pool *pool) {
    atomic_fetch_and(&pool->gate, ~GATE_OPEN);
    while (atomic_load(&pool->gate) & GATE_COUNT) {
        uint32_t gate = atomic_load(&pool->gate);
        if ((gate & GATE_COUNT) && spin(pool, &pool->gate, UINT32_MAX, gate))
            continue;
        gate = atomic_fetch_or(&pool->gate, GATE_CALLER) | GATE_CALLER;
        if (gate & GATE_COUNT)
            word_wait(pool, &pool->gate, gate);
    }
    atomic_store(&pool->gate, 0);
}

bitlm_status bl_pool_run(bl_pool *pool, bl_tile_fn fn, void *arg, int64_t n_tiles, bl_poll *poll) {
    bitlm_status status = BITLM_OK;

    if (pool->n_threads == 1 || n_tiles <= 1) {
        for (int64_t tile = 0; tile < n_tiles; tile++) {
            status = bl_poll_check(poll);
            if (status != BITLM_OK)
                return status;
            fn(arg, tile, 0);
        }
        return BITLM_OK;
    }
    if (pool->tried && pool->pid != getpid())
        forget_workers(pool);
    if (!pool->tried)
        start_workers(pool);
    open_gate(pool, fn, arg, n_tiles);
    for (;;) {
        int64_t tile;
        status = bl_poll_check(poll);
        if (status != BITLM_OK) {
            atomic_store_explicit(&pool->next, n_tiles, memory_order_relaxed);
            break;
        }
        tile = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (tile >= n_tiles)
            break;
        fn(arg, tile, 0);
    }
    close_gate(pool);
    return status;
}

/* ---- processors ---------------------------------------------------------------------- */

#if defined(__linux__)
/* The processors this process may use, in a set of *bytes bytes to be freed
 * with CPU_FREE; NULL if the kernel will not tell. */
static cpu_set_t *allowed(size_t *bytes, int *n_cpus) {
    for (int n = 1024; n <= 1 << 18; n *= 4) {
        cpu_set_t *set = CPU_ALLOC(n);
        if (!set)
            return NULL;
        *bytes = CPU_ALLOC_SIZE(n);
        *n_cpus = n;
        if (sched_getaffinity(0, *bytes, set) == 0)
            return set;
        CPU_FREE(set); /* EINVAL: the kernel's own set is larger */
    }
    return NULL;
}

static int usable_cpus(void) {
    size_t bytes;
    int n_cpus, n = 1;
    cpu_set_t *set = allowed(&bytes, &n_cpus);
    if (set) {
        n = CPU_COUNT_S(bytes, set);
        CPU_FREE(set);
    }
    return BL_MAX(n, 1);
}

/* 1 if a processor below `cpu` in its core is usable too: the core has been
 * counted then.  The list reads "0,64" or "0-1". */
static int counted_before(int cpu, const cpu_set_t *set, size_t bytes) {
    char path[96], list[256], *p = list;
    FILE *file;

    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    file = fopen(path, "re");
    if (!file)
        return 0;
    if (!fgets(list, sizeof list, file))
        list[0] = '\0';
    fclose(file);
    while (*p >= '0' && *p <= '9') {
        long first = strtol(p, &p, 10), last = first;
        if (*p == '-')
            last = strtol(p + 1, &p, 10);
        for (long i = first; i <= last && i < cpu; i++)
            if (CPU_ISSET_S((size_t)i, bytes, set))
                return 1;
        if (*p == ',')
            p++;
    }
    return 0;
}

int bl_physical_cores(void) {
    size_t bytes;
    int n_cpus, n = 0;
    cpu_set_t *set = allowed(&bytes, &n_cpus);

    if (!set)
        return 1;
    for (int cpu = 0; cpu < n_cpus; cpu++)
        if (CPU_ISSET_S((size_t)cpu, bytes, set) && !counted_before(cpu, set, bytes))
            n++;
    CPU_FREE(set);
    return BL_MAX(n, 1);
}
#else
static int usable_cpus(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : (int)n;
}

int bl_physical_cores(void) { return usable_cpus(); }
#endif
