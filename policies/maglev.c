//go:build ignore

/*
 * maglev: what hash does, in table mode: the table is handed to the balancer,
 * which then places flows without asking a policy at all (Eisenbud et al.,
 * Maglev, NSDI 2016, section 3.4). For the highest rates of new flows.
 *
 * Other than in hash, no backend goes without a slot, be its weight as small
 * as it may beside the others'.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#define CAPLANCE_WANT_TABLE
#include "caplance.h"
#include "maglev.h"

#define TURNS_PER_CALL 32768

static int begun;
static uint32_t n, share[CAPLANCE_MAX_BACKENDS]; /* the eligible ones; slots of each */

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    n = eligible;
    begun = 0;
    return CAPLANCE_OK;
}

/* provide gives slots of those that have several to those that have none, in
   the order of their preferences. */
static void provide(void)
{
    __builtin_memset(share, 0, sizeof share);
    for (uint32_t s = 0; s < SLOTS; s++)
        share[slots[s]]++;
    for (uint32_t i = 0; i < candidates; i++) {
        struct turn *t = &turns[i];
        if (share[i])
            continue;
        while (share[slots[t->next]] < 2)
            step(t);
        share[slots[t->next]]--;
        slots[t->next] = (uint16_t)i;
        share[i] = 1;
    }
}

static int32_t on_table(uint32_t size)
{
    __builtin_memset(table, 0xFF, sizeof table);
    if (!n)
        return 0;
    if (!begun) {
        sort(order, n, by_id); /* the order of the pool must not matter */
        begun = 1;
        maglev_begin(n);
    }
    if (!heaviest)
        return 0;
    if (filled < SLOTS && maglev_fill(TURNS_PER_CALL))
        return 1;
    provide();
    for (uint32_t s = 0; s < SLOTS; s++)
        table[s] = (uint16_t)order[slots[s]];
    return 0;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow) { return CAPLANCE_USE_TABLE; }
