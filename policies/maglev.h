/*
 * The lookup table of Maglev (Eisenbud et al., NSDI 2016, listing 1) with
 * weights, which changes as little as possible when the pool does: the same
 * function as core.NewLookup of the balancer.
 */
#include "mix.h"
#include "sort.h"
#include "tree.h"

#define SLOTS 65537 /* = 2^16 + 1, a prime */
#define EMPTY 0xFFFF

static uint32_t order[CAPLANCE_MAX_BACKENDS]; /* indices of the candidates, by id */
static uint32_t candidates;                   /* their number */
static uint16_t slots[SLOTS];                 /* positions in order */

static struct turn {
    uint64_t id, weight, credit;
    uint32_t next, skip;
} turns[CAPLANCE_MAX_BACKENDS];
static uint64_t heaviest;
static uint32_t alike;  /* all weigh the same: they simply take turns */
static uint32_t filled; /* slots */

static inline int by_id(uint32_t a, uint32_t b) { return backends[a].id < backends[b].id; }

static void step(struct turn *t) { t->next = t->next + t->skip < SLOTS ? t->next + t->skip : t->next + t->skip - SLOTS; }

/* due is the round of the next turn: in every round each candidate earns its
   weight, and the one who has as much as the heaviest spends that on a turn. */
static uint64_t due(uint32_t i, uint64_t round)
{
    struct turn *t = &turns[i];
    uint64_t wait = t->weight ? (heaviest - t->credit + t->weight - 1) / t->weight : SLOTS;
    t->credit += wait * t->weight - heaviest;
    return (round + wait) << POSITION_BITS | i;
}

/* maglev_begin takes the first n of order as candidates; false if they are
   those of the present table. */
static int maglev_begin(uint32_t n)
{
    uint32_t news = candidates != n;
    for (uint32_t i = 0; i < n; i++) {
        const caplance_backend *b = &backends[order[i]];
        news |= turns[i].id != b->id || turns[i].weight != b->weight;
    }
    if (!news)
        return 0;
    candidates = leaves = n;
    filled = 0;
    heaviest = 0;
    for (uint32_t i = 0; i < n; i++) {
        const caplance_backend *b = &backends[order[i]];
        turns[i] = (struct turn){b->id, b->weight, 0, (uint32_t)(mix(b->id) % SLOTS),
            (uint32_t)(mix(b->id ^ 0xa5a5a5a5a5a5a5a5) % (SLOTS - 1) + 1)};
        alike = !i || (alike && b->weight == heaviest);
        heaviest = b->weight > heaviest ? b->weight : heaviest;
    }
    for (uint32_t i = 0; i < n; i++)
        tree[n + i] = due(i, 0);
    tree_build();
    __builtin_memset(slots, 0xFF, sizeof slots);
    return heaviest > 0;
}

/* maglev_fill goes on for so many turns; true when the table is not full yet. */
static int maglev_fill(uint32_t most)
{
    for (; most; most--) {
        uint32_t i = alike ? filled % candidates : position(tree[1]);
        struct turn *t = &turns[i];
        while (slots[t->next] != EMPTY)
            step(t);
        slots[t->next] = (uint16_t)i;
        if (++filled == SLOTS)
            return 0;
        if (!alike)
            tree_set(due(i, tree[1] >> POSITION_BITS));
    }
    return 1;
}

/* maglev_set fills the table in one go. */
static inline void maglev_set(uint32_t n)
{
    if (maglev_begin(n))
        while (maglev_fill(UINT32_MAX))
            ;
}

static inline int32_t maglev_pick(uint64_t hash)
{
    /* hash mod 2^16+1 without a division: 2^16 is -1 there, so it is the
       alternating sum of the 16-bit digits. */
    uint32_t sum = (hash & 0xFFFF) - (hash >> 16 & 0xFFFF) + (hash >> 32 & 0xFFFF) - (hash >> 48) + 2 * SLOTS;
    uint16_t at = slots[sum % SLOTS];
    return at == EMPTY || !candidates ? CAPLANCE_NO_CHOICE : (int32_t)order[at];
}
