//go:build ignore

/*
 * round-robin: every backend in turn, in proportion to its weight.
 *
 * Stride scheduling (Waldspurger and Weihl, 1995): a backend's next turn is
 * one stride, SCALE/weight, after its last one, and the earliest turn is
 * picked. So turns of heavy backends are spread between those of light ones,
 * and no share is ever off by more than a turn.
 *
 * A backend keeps its place when the pool changes. Workers start at different
 * backends, so that all of them together are even, too.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#include "caplance.h"
#include "tree.h"

/* So the largest weight, 2^32-1, still has a stride exact to 1/256, and turns,
   never more than the longest stride apart, lie well within the tree's 2^63. */
#define SCALE (1ull << 40)

static struct {
    uint64_t id, turn;
} places[2][CAPLANCE_MAX_BACKENDS]; /* of this pool and of the one before */
static uint32_t used[2], now_in_use;
static uint64_t strides[CAPLANCE_MAX_BACKENDS], now; /* the turn picked last */

/* place_of is where the backend stood in the pool before, or -1. Pools list
   their backends in the same order, so the search goes on from the last find:
   one step for a backend that stayed, a whole round for a newcomer. */
static int32_t place_of(uint64_t id, uint32_t pool, uint32_t *from)
{
    for (uint32_t k = 0, i = *from; k < used[pool]; k++, i++) {
        if (i >= used[pool])
            i = 0;
        if (places[pool][i].id == id) {
            *from = i + 1;
            return (int32_t)i;
        }
    }
    return -1;
}

/* phase is where in its first stride a newcomer has its turn, in 1/2^16: in
   order of the pool, beginning with another backend in every worker. */
static uint64_t phase(uint32_t i, uint32_t n)
{
    uint32_t start = info.workers ? (uint32_t)((uint64_t)n * info.worker / info.workers) : 0;
    return (((uint64_t)(i + n - start) % n) << 16) / n;
}

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    uint32_t old = now_in_use, new = !old, from = 0;
    for (uint32_t i = 0; i < eligible; i++) {
        const caplance_backend *b = &backends[i];
        uint64_t stride = SCALE / (b->weight ? b->weight : 1), turn;
        int32_t was = place_of(b->id, old, &from);
        if (was >= 0) {
            /* A lighter backend's next turn may be far away; one that has
               become heavier need not wait longer than its new stride. */
            turn = places[old][was].turn;
            if ((int64_t)(turn - now) > (int64_t)stride)
                turn = now + stride;
        } else {
            turn = now + (stride * phase(i, eligible) >> 16);
        }
        places[new][i].id = b->id;
        places[new][i].turn = turn;
        strides[i] = stride;
        tree[eligible + i] = (node){turn, i};
    }
    used[new] = leaves = eligible;
    now_in_use = new;
    if (eligible)
        tree_build();
    return CAPLANCE_OK;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    if (!leaves)
        return CAPLANCE_NO_CHOICE;
    node next = tree[1];
    now = next.key;
    places[now_in_use][next.pos].turn = next.key + strides[next.pos];
    tree_set(next.pos, next.key + strides[next.pos]);
    return (int32_t)next.pos;
}
