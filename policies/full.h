/*
 * Where a flow goes whose own backend takes no more: attempt > 0 in its record.
 *
 * Of the backends that still take flows the one with the highest score
 * (rendezvous hashing: Thaler and Ravishankar, IEEE/ACM Transactions on
 * Networking 6(1), 1998). With the flow's hash as key this is as consistent as
 * the first choice was; with its random number it is an even draw.
 *
 * Includers say what takes precedence over the score: RANK(i), smaller first.
 */
#include "mix.h"

#ifndef RANK
#define RANK(i) 0u
#endif

static int32_t not_full(uint64_t key, uint32_t n)
{
    int32_t best = CAPLANCE_NO_CHOICE;
    uint32_t lowest = 0;
    uint64_t highest = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (caplance_full(i))
            continue;
        uint32_t rank = RANK(i);
        uint64_t score = mix(backends[i].id ^ key);
        if (best < 0 || rank < lowest || (rank == lowest && score > highest)) {
            best = (int32_t)i;
            lowest = rank;
            highest = score;
        }
    }
    return best;
}
