//go:build ignore

/*
 * round-robin: every backend in turn, in proportion to its weight. For flows
 * that cost about the same. Turns of heavy backends are spread between those of
 * light ones, and no share is ever off by more than a turn: stride scheduling
 * (Waldspurger and Weihl, 1995). A backend's next turn is one stride,
 * SCALE/weight, after its last one, and the earliest turn is picked.
 *
 * A backend keeps its place when the pool changes. Workers start at different
 * backends, so that all of them together are even, too.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#define CAPLANCE_WANT_ACTIVE
#include "caplance.h"
#include "full.h"
#include "sort.h"
#include "tree.h"

/* The tree has 52 bits for a turn. Turns lie within the longest stride, 2^40,
   and the shortest, of weight 2^32-1, is still exact to 1/256. */
#define SCALE (1ull << 40)

static struct place {
    uint64_t id, turn, stride;
} places[2][MAX_LEAVES], *at = places[0]; /* of two pools; of the present one */
static uint32_t used;                     /* places of the present pool */
static uint64_t now;                      /* the turn picked last */

/* Backends of one weight take their turns in a fixed circle. The tree is one of
   circles: with all weights equal, which is the rule, a pick is O(1). */
static uint32_t order[MAX_LEAVES]; /* the backends by circle, then turn */
static struct {
    uint32_t first, next, end;
} circles[MAX_LEAVES]; /* positions in order */

/* find is a backend among n places, or 0. Pools are in the same order, so the
   search goes on from the last find: a whole round only for a newcomer. */
static const struct place *find(uint64_t id, const struct place *in, uint32_t n)
{
    static uint32_t from;
    for (uint32_t k = n; k > 0; k--) {
        from = from + 1 < n ? from + 1 : 0;
        if (in[from].id == id)
            return &in[from];
    }
    return 0;
}

/* wait: a newcomer's first turn comes within its first stride, in order of the
   pool, beginning with another backend in every worker. */
static uint64_t wait(uint32_t i, uint32_t n, uint64_t stride)
{
    uint32_t start = info.workers ? (uint32_t)((uint64_t)n * info.worker / info.workers) : 0;
    return stride * (((uint64_t)((i + n - start) % n) << 16) / n) >> 16;
}

static int before(uint32_t a, uint32_t b)
{
    if (at[a].stride != at[b].stride)
        return at[a].stride < at[b].stride;
    return at[a].turn != at[b].turn ? at[a].turn - now < at[b].turn - now : a < b;
}

static uint64_t key(uint32_t c) { return at[order[circles[c].next]].turn << POSITION_BITS | c; }

static int32_t on_backends(uint32_t count, uint32_t n)
{
    const struct place *old = at, *was;
    at = places[old == places[0]];
    for (uint32_t i = 0; i < n; i++) {
        uint64_t id = backends[i].id, stride = SCALE / (backends[i].weight ? backends[i].weight : 1);
        uint64_t w = (was = find(id, old, used)) ? was->turn - now : wait(i, n, stride);
        at[i] = (struct place){id, now + (w < stride ? w : stride - 1), stride};
    }
    used = n;
    sort(order, n, before);
    leaves = 0;
    for (uint32_t i = 0; i < n; circles[leaves - 1].end = ++i)
        if (!i || at[order[i]].stride != at[order[i - 1]].stride) {
            circles[leaves].first = circles[leaves].next = i;
            leaves++;
        }
    for (uint32_t c = 0; c < leaves; c++)
        tree[leaves + c] = key(c);
    tree_build();
    return CAPLANCE_OK;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    if (!leaves || flow->attempt > 0)
        return not_full(flow->rand, used);
    uint32_t c = position(tree[1]), i = order[circles[c].next];
    now = at[i].turn;
    at[i].turn += at[i].stride;
    circles[c].next = circles[c].next + 1 < circles[c].end ? circles[c].next + 1 : circles[c].first;
    tree_set(key(c));
    return (int32_t)i;
}
