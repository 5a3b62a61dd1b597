//go:build ignore

/*
 * power-of-two-choices: of two backends drawn at random, by weight and slow
 * start, the one with fewer open flows per weight (Mitzenmacher, IEEE TPDS
 * 12(10), 2001). Nearly as even as least-connections, but workers and balancers
 * that know little of each other do not all run to the same backend.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#define CAPLANCE_WANT_ACTIVE
#include "caplance.h"
#include "full.h"
#include "share.h"

static double share[CAPLANCE_MAX_BACKENDS];

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    draw_set(eligible);
    for (uint32_t i = 0; i < n; i++)
        share[i] = (double)caplance_share(i);
    return CAPLANCE_OK;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    if (!n || flow->attempt > 0)
        return not_full(flow->rand, n);
    uint32_t a = draw((uint32_t)flow->rand), b = draw((uint32_t)(flow->rand >> 32));
    if (a == b)
        b = b + 1 < n ? b + 1 : 0;
    if (caplance_full(a) || caplance_full(b))
        return caplance_full(a) ? caplance_full(b) ? not_full(flow->rand, n) : (int32_t)b : (int32_t)a;
    return (int32_t)((double)active[b] * share[a] < (double)active[a] * share[b] ? b : a);
}
