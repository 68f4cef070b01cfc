/* poll.c - may the call go on?  The host's callback and timeout_ms in one
 * check that is cheap enough for inner loops; and the clock behind it.
 *
 * Called between tiles by the pool's caller, and by every loop of core that
 * can outlast 10 ms. */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include "base/base.h"

#include <time.h>

#define PERIOD_NS 2000000u /* a fifth of the 10 ms that hosts are promised */

/* Where checks come within microseconds, reading the clock at each would cost a percent: after two close ones some
 * are skipped, so few that what lies between checks, 2 ms at most, still keeps the promise. */
#define CLOSE_NS 100000u
#define SKIPPED 3

uint64_t bl_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void bl_poll_init(bl_poll *poll, const bitlm_host *host, const bl_float_env *host_env,
                  int32_t timeout_ms) {
    size_t needed = offsetof(bitlm_host, poll) + sizeof host->poll;
    int lends = host && host->size >= needed;

    poll->callback = lends ? host->poll : NULL;
    poll->context = lends ? host->context : NULL;
    poll->host_env = host_env;
    poll->timeout_ms = timeout_ms;
    poll->deadline_ns = timeout_ms > 0 ? bl_now_ns() + (uint64_t)timeout_ms * 1000000u : 0;
    poll->last_ns = poll->seen_ns = 0;
    poll->skips = 0;
    poll->status = BITLM_OK;
}

static int32_t ask(const bl_poll *poll) {
    bl_float_env ours;
    int32_t answer;

    if (!poll->host_env)
        return poll->callback(poll->context);
    bl_float_leave(poll->host_env);
    answer = poll->callback(poll->context);
    bl_float_enter(&ours); /* what it saves is the host's, which host_env keeps already */
    return answer;
}

bitlm_status bl_poll_check(bl_poll *poll) {
    uint64_t now;

    if (!poll || poll->status != BITLM_OK)
        return poll ? poll->status : BITLM_OK;
    if (!poll->callback && !poll->deadline_ns)
        return BITLM_OK;
    if (poll->skips > 0) {
        poll->skips--;
        return BITLM_OK;
    }
    now = bl_now_ns();
    if (now - poll->seen_ns < CLOSE_NS)
        poll->skips = SKIPPED;
    poll->seen_ns = now;
    if (poll->last_ns && now - poll->last_ns < PERIOD_NS)
        return BITLM_OK;
    if (poll->callback) {
        if (ask(poll))
            return poll->status = BITLM_CANCELED;
        now = bl_now_ns(); /* the callback may have been slow */
    }
    poll->last_ns = now;
    if (poll->deadline_ns && now >= poll->deadline_ns)
        poll->status = BITLM_TIMEOUT;
    return poll->status;
}

bitlm_status bl_poll_error(const bl_poll *poll, bitlm_error *error) {
    if (!poll || poll->status == BITLM_OK)
        return BITLM_OK;
    if (poll->status == BITLM_TIMEOUT)
        return bl_error(error, BITLM_TIMEOUT, "stopped: timeout_ms = %d has passed", poll->timeout_ms);
    return bl_error(error, BITLM_CANCELED, "interrupted");
}
