//go:build ignore

/*
 * source-hash: client affinity. All flows of one client address go to one
 * backend, whatever their ports, by the same table as hash (Eisenbud et al.,
 * Maglev, NSDI 2016). For services that keep state per client. Few clients, or
 * many behind one address, make for uneven shares.
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

/* client is not keyed: a balancer's seed is for 5-tuples, INFO's differs from
   worker to worker. */
static uint64_t client(const caplance_flow *flow)
{
    uint64_t half[2];
    __builtin_memcpy(half, flow->src, sizeof half);
    return mix(mix(half[0]) ^ half[1]);
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    uint64_t key = client(flow);
    return flow->attempt > 0 ? not_full(key, n) : maglev_pick(key);
}
