//go:build ignore

/*
 * sticky-failover: the backends of the lowest priority value that are up serve
 * everything, the next ones only when none of these is left; among equals the
 * flow's 5-tuple decides, as in hash (Eisenbud et al., Maglev, NSDI 2016). For
 * primaries with standbys, and for a near site before a far one. Flows that
 * find all of them full (max_flows) overflow to the next priority.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#define CAPLANCE_WANT_ACTIVE
#define CAPLANCE_WANT_METRICS
#define CAPLANCE_NAMES_OF_METRICS "serving_priority\0serving_backends\0overflowed_flows"
#define RANK(i) backends[i].priority
#include "caplance.h"
#include "full.h"
#include "maglev.h"

static uint32_t n; /* the eligible ones */

static int before(uint32_t a, uint32_t b)
{
    const caplance_backend *x = &backends[a], *y = &backends[b];
    return x->priority != y->priority ? x->priority < y->priority : x->id < y->id;
}

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    uint32_t first = 0; /* so many serve */
    n = eligible;
    sort(order, n, before);
    while (first < n && backends[order[first]].priority == backends[order[0]].priority)
        first++;
    maglev_set(first);
    metrics[0] = n ? backends[order[0]].priority : 0;
    metrics[1] = first;
    return CAPLANCE_OK;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    if (flow->attempt <= 0)
        return maglev_pick(hash);
    metrics[2]++;
    return not_full(hash, n);
}
