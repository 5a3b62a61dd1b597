/*
 * hash: the 5-tuple decides, by a lookup table that changes as little as
 * possible when the pool does (Eisenbud et al., Maglev, NSDI 2016, listing 1),
 * with weights. The bundled policy of that name fills it faster.
 */
#include "../caplance.h"

#define SLOTS 65537
#define EMPTY 0xFFFF

static struct turn {
    uint64_t id, weight, credit;
    uint32_t next, skip, index;
} turns[CAPLANCE_MAX_BACKENDS];
static uint16_t slots[SLOTS];

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93;
    return x ^ x >> 32;
}

/* The order of the pool must not matter: turns are in that of the ids. */
static void insert(uint32_t at, struct turn t)
{
    for (; at && turns[at - 1].id > t.id; at--)
        turns[at] = turns[at - 1];
    turns[at] = t;
}

static int32_t on_backends(uint32_t count, uint32_t n)
{
    uint64_t heaviest = 0;
    for (uint32_t i = 0; i < n; i++) {
        const caplance_backend *b = &backends[i];
        insert(i, (struct turn){b->id, b->weight, 0, (uint32_t)(mix(b->id) % SLOTS),
            (uint32_t)(mix(b->id ^ 0xa5a5a5a5a5a5a5a5) % (SLOTS - 1) + 1), i});
        heaviest = b->weight > heaviest ? b->weight : heaviest;
    }
    __builtin_memset(slots, 0xFF, sizeof slots);
    for (uint32_t filled = 0; heaviest;)
        for (struct turn *t = turns; t < turns + n; t++) {
            if ((t->credit += t->weight) < heaviest)
                continue;
            t->credit -= heaviest;
            while (slots[t->next] != EMPTY)
                t->next = (t->next + t->skip) % SLOTS;
            slots[t->next] = (uint16_t)t->index;
            if (++filled == SLOTS)
                return CAPLANCE_OK;
        }
    return CAPLANCE_OK;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    uint16_t index = slots[hash % SLOTS];
    return index == EMPTY ? CAPLANCE_NO_CHOICE : index;
}
