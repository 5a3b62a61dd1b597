//go:build ignore

/*
 * least-connections: the backend with the fewest open flows, whatever its
 * weight; only slow start counts (lc of the Linux Virtual Server: Zhang, Linux
 * Symposium 2000). For flows that last, on backends that are alike.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#define CAPLANCE_WANT_ACTIVE
#include "caplance.h"
#include "least.h"

static double per_flow[CAPLANCE_MAX_BACKENDS]; /* 1/ramp */

static double load(uint32_t i) { return (double)active[i] * per_flow[i]; }

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    for (uint32_t i = 0; i < eligible; i++)
        per_flow[i] = 1000 / (double)(backends[i].ramp_permille ? backends[i].ramp_permille : 1);
    least_set(eligible);
    return CAPLANCE_OK;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow) { return least_pick(flow); }
