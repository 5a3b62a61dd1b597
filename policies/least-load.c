//go:build ignore

/*
 * least-load: of two backends drawn at random, by weight and slow start, the
 * one whose CPUs are pressed less, by steps of 5 %; of equals, or where one
 * tells no load, the one with fewer open flows per weight. The two may be the
 * same one, so the most pressed still gets some: loads are seconds old, and
 * who runs to the least of old ones makes it the most (Mitzenmacher, How
 * Useful Is Old Information?, IEEE TPDS 11(1), 2000).
 */
#define CAPLANCE_MAX_BACKENDS 4096
#define CAPLANCE_WANT_ACTIVE
#include "caplance.h"
#include "full.h"
#include "share.h"

#define STEP 50 /* thousandths of load that are no difference */

static double share[CAPLANCE_MAX_BACKENDS];

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    draw_set(eligible);
    for (uint32_t i = 0; i < n; i++)
        share[i] = (double)caplance_share(i);
    return CAPLANCE_OK;
}

/* better says whether the flow is to go to b rather than to a. */
static int better(uint32_t b, uint32_t a)
{
    uint32_t x = backends[a].load, y = backends[b].load;
    if (x != CAPLANCE_NO_LOAD && y != CAPLANCE_NO_LOAD && x / STEP != y / STEP)
        return y < x;
    return (double)active[b] * share[a] < (double)active[a] * share[b];
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    if (!n || flow->attempt > 0)
        return not_full(flow->rand, n);
    uint32_t a = draw((uint32_t)flow->rand), b = draw((uint32_t)(flow->rand >> 32));
    if (caplance_full(a) || caplance_full(b))
        return caplance_full(a) ? caplance_full(b) ? not_full(flow->rand, n) : (int32_t)b : (int32_t)a;
    return (int32_t)(better(b, a) ? b : a);
}
