//go:build ignore

/*
 * random: any backend, with a probability in proportion to its weight and slow
 * start. It keeps nothing and knows nothing, so workers and balancers need not
 * agree on anything; shares are even to the square root of the flows (Raab and
 * Steger, Balls into Bins, RANDOM 1998).
 */
#define CAPLANCE_MAX_BACKENDS 4096
#define CAPLANCE_WANT_ACTIVE
#include "caplance.h"
#include "full.h"
#include "share.h"

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    draw_set(eligible);
    return CAPLANCE_OK;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    if (!n || flow->attempt > 0)
        return not_full(flow->rand, n);
    return (int32_t)draw((uint32_t)flow->rand);
}
