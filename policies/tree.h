/*
 * A tournament tree: which of n keys is the smallest, in O(1), and a changed
 * key in O(log n). Equal keys go to the lower position. The comparison is of
 * the difference, so keys may wrap around as long as they lie within 2^63.
 */
#include <stdint.h>

typedef struct {
    uint64_t key;
    uint32_t pos;
} node;

static node tree[2 * CAPLANCE_MAX_BACKENDS]; /* root at 1, leaf of position p at n + p */
static uint32_t leaves;

static inline node winner(node a, node b)
{
    int64_t d = (int64_t)(b.key - a.key);
    return d < 0 || (d == 0 && b.pos < a.pos) ? b : a;
}

/* tree_build is called with the leaves' keys and positions set. */
static void tree_build(void)
{
    for (uint32_t i = leaves - 1; i > 0; i--)
        tree[i] = winner(tree[2 * i], tree[2 * i + 1]);
}

/* tree_set replaces the key at a position and replays its matches. */
static inline void tree_set(uint32_t pos, uint64_t key)
{
    node w = {key, pos};
    uint32_t i = leaves + pos;
    tree[i] = w;
    for (; i > 1; tree[i] = w) {
        w = winner(w, tree[i ^ 1]);
        i >>= 1;
    }
}
