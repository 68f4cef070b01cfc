/* pool.h - a small thread pool: one parallel loop at a time, tiles claimed in
 * any order, the caller working along and polling between tiles.
 *
 * Results must not depend on which thread runs a tile.  Workers start lazily
 * at the first parallel loop, block all signals, run in the contract's float
 * environment, spin at most 20 us for the next loop and then sleep on a futex.
 * After fork() the child finds the pid changed and starts its own workers. */
#ifndef BL_POOL_H
#define BL_POOL_H

#include "base/base.h"

typedef struct bl_pool bl_pool;

/* thread: 0 is the caller, 1 .. n_threads-1 the workers: for scratch memory.
 * Must not take longer than about 2 ms. */
typedef void (*bl_tile_fn)(void *arg, int64_t tile, int thread);

/* n_threads counts the caller: 1 .. 256. */
bitlm_status bl_pool_create(const bl_alloc *alloc, int n_threads, bl_pool **pool,
                            bitlm_error *error);
void bl_pool_free(bl_pool *pool);
int bl_pool_threads(const bl_pool *pool);

/* Runs fn(arg, 0 .. n_tiles-1, thread).  Returns OK after the last tile, or
 * CANCELED / TIMEOUT from poll after all threads have stopped (some tiles then
 * never ran).  If no worker can be started the caller does all the work.
 * Not reentrant. */
bitlm_status bl_pool_run(bl_pool *pool, bl_tile_fn fn, void *arg, int64_t n_tiles, bl_poll *poll);

/* Physical cores that this process may use (sched_getaffinity, SMT siblings
 * counted once), at least 1. */
int bl_physical_cores(void);

#endif
