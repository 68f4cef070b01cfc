/* profile.c - the clock of profile.h.  Called by core/run around a call and by core/model between operations. */
#include "model/profile.h"

static const char *const names[BL_OP_COUNT] = {
    [BL_OP_OTHER] = "other",
    [BL_OP_EMBED] = "embed",
    [BL_OP_NORM] = "norm+quantize",
    [BL_OP_QKV] = "q/k/v",
    [BL_OP_ROPE_STORE] = "rope+store",
    [BL_OP_ATTENTION] = "attention",
    [BL_OP_O] = "o",
    [BL_OP_GATE_UP] = "gate/up",
    [BL_OP_ACTIVATION] = "activation",
    [BL_OP_DOWN] = "down",
    [BL_OP_HEAD] = "head",
    [BL_OP_SAMPLING] = "sampling",
};

const char *bl_op_name(int op) { return op < 0 || op >= BL_OP_COUNT ? NULL : names[op]; }

void bl_profile_start(bl_profile *p) {
    p->running = p->on;
    p->op = BL_OP_OTHER;
    if (p->on)
        p->since = bl_now_ns();
}

void bl_profile_count(bl_profile *p, int op) {
    uint64_t now = bl_now_ns();
    p->seconds[p->op] += (double)(now - p->since) * 1e-9;
    p->since = now;
    p->op = op;
}

void bl_profile_stop(bl_profile *p) {
    if (p->running)
        bl_profile_count(p, BL_OP_OTHER);
    p->running = 0;
}
