//go:build ignore

/*
 * least-packets: the backend that has been sent the fewest packets per unit of
 * weight. Equal ones take turns, from a random start.
 *
 * The counters change in two ways: the host adds one to the backend that was
 * picked, which the next pick takes into the tree, and it overwrites them all,
 * which it tells by a new epoch in INFO.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#define CAPLANCE_WANT_PACKETS
#include "caplance.h"
#include "tree.h"

static double per_packet[CAPLANCE_MAX_BACKENDS]; /* 1/weight */
static uint32_t n, first; /* the eligible ones; which is at position 0 of the tree */
static uint32_t picked;   /* position picked last */
static uint32_t built;    /* the tree is of this pool */
static uint64_t epoch;    /* of the counters in the tree */

static uint32_t index_at(uint32_t pos) { return pos + first < n ? pos + first : pos + first - n; }

/* key is packets/weight. Doubles that are not negative are in the order of
   their bits, so the tree can compare them as integers. What the position
   takes of the mantissa leaves 40 bits: exact up to 10^12 packets. */
static uint64_t key(uint32_t pos)
{
    uint32_t i = index_at(pos);
    double load = (double)packets[i] * per_packet[i];
    uint64_t bits;
    __builtin_memcpy(&bits, &load, sizeof bits);
    return (bits & -(uint64_t)MAX_LEAVES) | pos;
}

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    n = leaves = eligible;
    for (uint32_t i = 0; i < n; i++)
        per_packet[i] = 1.0 / (backends[i].weight ? backends[i].weight : 1);
    built = 0;
    return CAPLANCE_OK;
}

/* build takes in all counters; the next of equals is then the first from a
   random start, or all workers would send their flows to the same backend. */
static void build(uint64_t rand)
{
    first = (uint32_t)(rand % n);
    for (uint32_t pos = 0; pos < n; pos++)
        tree[n + pos] = key(pos);
    tree_build();
    epoch = info.epoch;
    built = 1;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    if (!n)
        return CAPLANCE_NO_CHOICE;
    if (built && epoch == info.epoch)
        tree_set(key(picked)); /* the host has counted it */
    else
        build(flow->rand);
    picked = position(tree[1]);
    return (int32_t)index_at(picked);
}
