//go:build ignore

/*
 * weighted-least-connections: the backend with the fewest open flows per unit
 * of weight, slow start included (wlc of the Linux Virtual Server: Zhang, Linux
 * Symposium 2000). For flows that last, on backends of different sizes.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#define CAPLANCE_WANT_ACTIVE
#include "caplance.h"
#include "least.h"

static double per_flow[CAPLANCE_MAX_BACKENDS]; /* 1/weight */

static double load(uint32_t i) { return (double)active[i] * per_flow[i]; }

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    for (uint32_t i = 0; i < eligible; i++)
        per_flow[i] = 1000 / (double)caplance_share(i);
    least_set(eligible);
    return CAPLANCE_OK;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow) { return least_pick(flow); }
