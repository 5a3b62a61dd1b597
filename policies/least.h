/*
 * The backend with the least load, in O(log n). Equal ones take turns, from a
 * random start.
 *
 * Loads change in two ways: the host counts the backend that was picked, which
 * the next pick takes into the tree, and it overwrites all counters, which it
 * tells by a new epoch in INFO.
 *
 * Includers define load(i), which is not negative.
 */
#include "tree.h"

static double load(uint32_t i);

/* The load of a backend that is full: infinite, so that it is only picked when
   all are. */
#define FULL 0x7FF0000000000000u

static uint32_t first;  /* which is at position 0 of the tree */
static uint32_t picked; /* position picked last */
static uint32_t built;  /* the tree is of this pool */
static uint64_t epoch;  /* of the counters in the tree */

static uint32_t index_at(uint32_t pos) { return pos + first < leaves ? pos + first : pos + first - leaves; }

/* key: doubles that are not negative are in the order of their bits, so the
   tree can compare them as integers. What the position takes of the mantissa
   leaves 40 bits: exact up to 10^12. */
static uint64_t key(uint32_t pos)
{
    uint32_t i = index_at(pos);
    double l = load(i);
    uint64_t bits;
    __builtin_memcpy(&bits, &l, sizeof bits);
    return ((caplance_full(i) ? FULL : bits) & -(uint64_t)MAX_LEAVES) | pos;
}

static void least_set(uint32_t eligible)
{
    leaves = eligible;
    built = 0;
}

/* build takes in all counters; the next of equals is then the first from a
   random start, or all workers would send their flows to the same backend. */
static void build(uint64_t rand)
{
    first = (uint32_t)(rand % leaves);
    for (uint32_t pos = 0; pos < leaves; pos++)
        tree[leaves + pos] = key(pos);
    tree_build();
    epoch = info.epoch;
    built = 1;
}

static int32_t least_pick(const caplance_flow *flow)
{
    if (!leaves)
        return CAPLANCE_NO_CHOICE;
    if (built && epoch == info.epoch)
        tree_set(key(picked)); /* the host has counted it */
    else
        build(flow->rand);
    picked = position(tree[1]);
    return tree[1] < FULL ? (int32_t)index_at(picked) : CAPLANCE_NO_CHOICE;
}
