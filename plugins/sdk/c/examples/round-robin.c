/*
 * round-robin: every backend in turn, in proportion to its weight: stride
 * scheduling (Waldspurger and Weihl, 1995). A backend's next turn is one stride
 * after its last one; the earliest turn is picked. The bundled policy of that
 * name does the same with a tree.
 */
#include "../caplance.h"

static struct place {
    uint64_t id, turn, stride;
} pools[2][CAPLANCE_MAX_BACKENDS], *places = pools[0]; /* by index */
static uint32_t n;
static uint64_t now; /* the turn picked last */

static const struct place *find(uint64_t id, const struct place *in, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (in[i].id == id)
            return &in[i];
    return 0;
}

/* Everybody keeps the place; newcomers line up in their first stride, in every
   worker beginning with another one. */
static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    const struct place *old = places, *was;
    uint32_t old_n = n, start = (uint32_t)((uint64_t)eligible * info.worker / info.workers);
    places = pools[old == pools[0]];
    n = eligible;
    for (uint32_t i = 0; i < n; i++) {
        const caplance_backend *b = &backends[i];
        uint64_t stride = (1ull << 40) / (b->weight ? b->weight : 1);
        uint64_t turn = now + (stride * (((uint64_t)((i + n - start) % n) << 16) / n) >> 16);
        if ((was = find(b->id, old, old_n)))
            turn = was->turn < now + stride - 1 ? was->turn : now + stride - 1;
        places[i] = (struct place){b->id, turn, stride};
    }
    return CAPLANCE_OK;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    struct place *next = places;
    for (struct place *p = places; p < places + n; p++)
        if (p->turn < next->turn || (p->turn == next->turn && p->stride < next->stride))
            next = p;
    now = next->turn;
    next->turn += next->stride;
    return (int32_t)(next - places);
}
