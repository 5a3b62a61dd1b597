/*
 * Weighted draws: a backend comes with the probability of its share of the
 * weight, slow start included. Inverse transform sampling (Devroye, Non-Uniform
 * Random Variate Generation, 1986, chapter III.2) by binary search.
 */
#include <stdint.h>

static uint32_t n;                           /* the eligible ones */
static uint32_t upto[CAPLANCE_MAX_BACKENDS]; /* sum of the shares up to each, of 2^32-1 */

static void draw_set(uint32_t eligible)
{
    double total = 0, sum = 0;
    n = eligible;
    for (uint32_t i = 0; i < n; i++)
        total += (double)caplance_share(i);
    for (uint32_t i = 0; i + 1 < n; i++) {
        sum += (double)caplance_share(i);
        upto[i] = (uint32_t)(sum / total * UINT32_MAX);
    }
}

/* draw is the first backend that goes beyond x. The last one has no end. */
static uint32_t draw(uint32_t x)
{
    uint32_t at = 0, left = n - 1;
    while (left) {
        uint32_t half = (left + 1) / 2;
        at += upto[at + half - 1] <= x ? half : 0;
        left -= half;
    }
    return at;
}
