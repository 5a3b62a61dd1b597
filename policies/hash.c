//go:build ignore

/*
 * hash: the flow's 5-tuple decides, by a lookup table that changes as little
 * as possible when the pool does (Eisenbud et al., Maglev, NSDI 2016), with
 * weights. For services whose flows should stay where they are whatever
 * happens to the balancer: several balancers, or one that restarts, agree.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#define CAPLANCE_WANT_ACTIVE
#include "caplance.h"
#include "full.h"
#include "maglev.h"

static uint32_t n; /* the eligible ones */

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    n = eligible;
    sort(order, n, by_id); /* the order of the pool must not matter */
    maglev_set(n);
    return CAPLANCE_OK;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    return flow->attempt > 0 ? not_full(hash, n) : maglev_pick(hash);
}
