/* profile.h - where the wall time of a session's calls goes, by operation.
 *
 * A clock that the calling thread switches from one operation to the next, so the seconds add up to
 * the time spent inside calls; off, a switch is a test of one word.  Workers' time counts under what
 * the caller waits for.  Kept in bl_context; core/run starts and stops it with each call, and
 * measuring programs reach it by bl_session_profile (core/run/run.h). */
#ifndef BL_PROFILE_H
#define BL_PROFILE_H

#include "base/base.h"

enum bl_op {
    BL_OP_OTHER, /* in a call, but in none of the below: tokenizer, text, bookkeeping */
    BL_OP_EMBED,
    BL_OP_NORM, /* norms, and activations to int8 */
    BL_OP_QKV,
    BL_OP_ROPE_STORE,
    BL_OP_ATTENTION, /* where each text has one token, rope and store too: one step does all */
    BL_OP_O,
    BL_OP_GATE_UP, /* experts: the router too */
    BL_OP_ACTIVATION,
    BL_OP_DOWN,
    BL_OP_HEAD,
    BL_OP_SAMPLING,
    BL_OP_COUNT
};

/* "norm+quantize", "q/k/v", …; NULL outside 0 .. BL_OP_COUNT-1. */
const char *bl_op_name(int op);

typedef struct bl_profile {
    int32_t on;       /* set by who measures, between calls */
    int32_t running;  /* in a call: the clock was started */
    int32_t op;       /* what the time since `since` belongs to */
    uint64_t since;
    double seconds[BL_OP_COUNT];
} bl_profile;

/* Begins and ends the time of a call. */
void bl_profile_start(bl_profile *p);
void bl_profile_stop(bl_profile *p);
void bl_profile_count(bl_profile *p, int op);

/* From now on the time is op's; returns whose it was. */
static inline int bl_profile_switch(bl_profile *p, int op) {
    int before = p->op;
    if (p->running)
        bl_profile_count(p, op);
    return before;
}

#endif
