//go:build ignore

/*
 * hash: the flow's 5-tuple decides, by a lookup table that changes as little
 * as possible when the pool does (Eisenbud et al., Maglev, NSDI 2016, listing
 * 1), with weights. It is the same function as core.NewLookup of the balancer.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#include "caplance.h"
#include "sort.h"

#define SLOTS 65537 /* = 2^16 + 1, a prime */
#define EMPTY 0xFFFF

typedef struct {
    uint64_t id;
    uint32_t weight;
} candidate;

typedef struct {
    uint32_t next, skip;
    uint64_t weight, credit;
} turn;

static uint32_t n, order[CAPLANCE_MAX_BACKENDS]; /* the eligible ones; their indices by id */
static candidate filled_for[CAPLANCE_MAX_BACKENDS]; /* in that order */
static turn turns[CAPLANCE_MAX_BACKENDS];
static uint16_t table[SLOTS]; /* positions in order */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93;
    return x ^ x >> 32;
}

static int before(uint32_t a, uint32_t b) { return backends[a].id < backends[b].id; }

static void fill(void)
{
    uint64_t heaviest = 0;
    for (uint32_t i = 0; i < n; i++) {
        const candidate *c = &filled_for[i];
        turns[i] = (turn){(uint32_t)(mix(c->id) % SLOTS),
            (uint32_t)(mix(c->id ^ 0xa5a5a5a5a5a5a5a5) % (SLOTS - 1) + 1), c->weight, 0};
        heaviest = c->weight > heaviest ? c->weight : heaviest;
    }
    __builtin_memset(table, 0xFF, sizeof table);
    for (uint32_t filled = 0; heaviest;) {
        for (uint32_t i = 0; i < n; i++) {
            turn *t = &turns[i];
            if ((t->credit += t->weight) < heaviest)
                continue;
            t->credit -= heaviest;
            while (table[t->next] != EMPTY)
                t->next = t->next + t->skip < SLOTS ? t->next + t->skip : t->next + t->skip - SLOTS;
            table[t->next] = (uint16_t)i;
            if (++filled == SLOTS)
                return;
        }
    }
}

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    uint32_t same = n == eligible;
    n = eligible;
    sort(order, n, before); /* the order of the pool must not matter */
    for (uint32_t i = 0; i < n; i++) {
        const caplance_backend *b = &backends[order[i]];
        same &= filled_for[i].id == b->id && filled_for[i].weight == b->weight;
        filled_for[i] = (candidate){b->id, b->weight};
    }
    if (!same)
        fill();
    return CAPLANCE_OK;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    if (!n)
        return CAPLANCE_NO_CHOICE;
    /* hash mod 2^16+1 without a division: 2^16 is -1 there, so it is the
       alternating sum of the 16-bit digits. */
    uint32_t sum = (hash & 0xFFFF) - (hash >> 16 & 0xFFFF) + (hash >> 32 & 0xFFFF) - (hash >> 48) + 2 * SLOTS;
    uint16_t at = table[sum % SLOTS];
    return at == EMPTY ? CAPLANCE_NO_CHOICE : (int32_t)order[at];
}
