/*
 * A tournament tree: which of n keys is the smallest, in O(1), and a changed
 * key in O(log n). A key is 52 bits of what is compared and 12 bits of the
 * position, so equal ones go to the lower position, and a match costs one
 * load, one comparison and one select. The comparison is of the difference:
 * keys may wrap around as long as they lie within half their range.
 */
#include <stdint.h>

#define POSITION_BITS 12
#define MAX_LEAVES (1u << POSITION_BITS)

static uint64_t tree[2 * MAX_LEAVES]; /* root at 1, leaf of position p at n + p */
static uint32_t leaves;               /* n */

static inline uint32_t position(uint64_t key) { return key & (MAX_LEAVES - 1); }

static inline uint64_t winner(uint64_t a, uint64_t b) { return (int64_t)(b - a) < 0 ? b : a; }

/* tree_build is called with all leaves set. */
static void tree_build(void)
{
    for (uint32_t i = leaves; i-- > 1;)
        tree[i] = winner(tree[2 * i], tree[2 * i + 1]);
}

/* tree_set replaces the key of its position and replays the matches. */
static inline void tree_set(uint64_t key)
{
    uint32_t i = leaves + position(key);
    for (tree[i] = key; i > 1; tree[i] = key) {
        key = winner(key, tree[i ^ 1]);
        i >>= 1;
    }
}
