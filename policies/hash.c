//go:build ignore

/*
 * hash: the flow's 5-tuple decides, by a lookup table that changes as little
 * as possible when the pool does (Eisenbud et al., Maglev, NSDI 2016, listing
 * 1), with weights. It is the same function as core.NewLookup of the balancer.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#include "caplance.h"

#define SLOTS 65537 /* = 2^16 + 1, a prime */
#define EMPTY 0xFFFF

typedef struct {
    uint64_t id;
    uint32_t weight, index;
} candidate;

typedef struct {
    uint32_t next, skip;
    uint64_t weight, credit;
} turn;

static candidate sorted[CAPLANCE_MAX_BACKENDS], before[CAPLANCE_MAX_BACKENDS];
static turn turns[CAPLANCE_MAX_BACKENDS];
static uint32_t n, n_before;
static uint16_t table[SLOTS]; /* the slot's place in sorted */
static uint32_t index_of[CAPLANCE_MAX_BACKENDS];

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93;
    return x ^ x >> 32;
}

static void sort(void) /* Shell's, by id: the order of the backends must not matter */
{
    for (uint32_t gap = n / 2; gap; gap /= 2)
        for (uint32_t i = gap, j; i < n; i++) {
            candidate c = sorted[i];
            for (j = i; j >= gap && sorted[j - gap].id > c.id; j -= gap)
                sorted[j] = sorted[j - gap];
            sorted[j] = c;
        }
}

static void fill(void)
{
    uint64_t heaviest = 0;
    for (uint32_t i = 0; i < n; i++) {
        const candidate *c = &sorted[i];
        turns[i] = (turn){(uint32_t)(mix(c->id) % SLOTS),
            (uint32_t)(mix(c->id ^ 0xa5a5a5a5a5a5a5a5) % (SLOTS - 1) + 1), c->weight, 0};
        heaviest = c->weight > heaviest ? c->weight : heaviest;
    }
    __builtin_memset(table, 0xFF, sizeof table);
    for (uint32_t filled = 0;;) {
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
    n = 0;
    for (uint32_t i = 0; i < eligible; i++)
        if (backends[i].weight)
            sorted[n++] = (candidate){backends[i].id, backends[i].weight, i};
    sort();
    uint32_t same = n == n_before;
    for (uint32_t i = 0; i < n; i++) {
        same &= sorted[i].id == before[i].id && sorted[i].weight == before[i].weight;
        before[i] = sorted[i];
        index_of[i] = sorted[i].index;
    }
    n_before = n;
    if (!same && n)
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
    return (int32_t)index_of[table[sum % SLOTS]];
}
