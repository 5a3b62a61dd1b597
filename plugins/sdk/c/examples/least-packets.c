/*
 * least-packets: the backend that has been sent the fewest packets per unit of
 * weight, slow start included. Equal ones take turns, from a random start. The
 * bundled policy of that name does the same with a tree.
 */
#define CAPLANCE_WANT_PACKETS
#include "../caplance.h"

static uint32_t n, start;
static uint64_t epoch; /* of the counters when start was drawn */

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    n = eligible;
    return CAPLANCE_OK;
}

/* lighter compares packets per weight without a division. */
static int lighter(uint32_t a, uint32_t b)
{
    return (double)packets[a] * (double)caplance_share(b) < (double)packets[b] * (double)caplance_share(a);
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    if (epoch != info.epoch) { /* all counters are new: let workers begin at different backends */
        epoch = info.epoch;
        start = (uint32_t)(flow->rand % n);
    }
    uint32_t best = start;
    for (uint32_t k = 1; k < n; k++) {
        uint32_t i = start + k < n ? start + k : start + k - n;
        if (lighter(i, best))
            best = i;
    }
    return (int32_t)best;
}
