//go:build ignore

/*
 * weighted-round-robin: smooth. Every flow earns each backend its weight, slow
 * start included; the richest gets the flow and pays for all (nginx,
 * ngx_http_upstream_round_robin.c, 2012). Turns of heavy backends are spread
 * evenly between those of light ones: weights 5, 1, 1 give a a b a c a a.
 *
 * A pick is O(n), four backends at a time. Credits go on when the pool changes
 * and start differently in every worker.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#define CAPLANCE_WANT_ACTIVE
#include "caplance.h"
#include "full.h"
#include <wasm_simd128.h>

#define SIMD __attribute__((target("simd128")))
#define LANES 4
#define UNROLL 4
/* Weights are scaled to sum up to less than this. Nobody is ever owed more than
   ln n times the sum (Adler et al., A proportionate fair scheduling rule with
   good worst-case performance, SPAA 2003): 32 bits suffice. */
#define MAX_SUM (1 << 27)
#define NEVER INT32_MIN /* of those that are not there */

static int32_t weight[CAPLANCE_MAX_BACKENDS] __attribute__((aligned(16)));
static int32_t credit[CAPLANCE_MAX_BACKENDS] __attribute__((aligned(16)));
static int32_t n, sum; /* the eligible ones; their weights */

static struct place {
    uint64_t id;
    int32_t credit;
} pools[2][CAPLANCE_MAX_BACKENDS], *places = pools[0]; /* credit as the pool changed */

/* scale: the ratios of the weights are exact, unless these are enormous. */
static void scale(void)
{
    uint64_t total = n, shift = 0;
    for (int32_t i = 0; i < n; i++)
        total += caplance_share(i);
    while (total >> shift > MAX_SUM)
        shift++;
    uint64_t factor = n ? ((uint64_t)MAX_SUM << shift) / total : 0;
    sum = 0;
    for (int32_t i = 0; i < n; i++) {
        uint64_t w = caplance_share(i) * factor >> shift;
        sum += weight[i] = w ? (int32_t)w : 1;
    }
}

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    int32_t old_n = n, old_sum = sum, from = 0;
    struct place *old = places;
    for (int32_t i = 0; i < n; i++)
        old[i].credit = credit[i];
    places = pools[old == pools[0]];
    n = (int32_t)eligible;
    scale();
    for (int32_t i = 0; i < CAPLANCE_MAX_BACKENDS; i++) {
        credit[i] = NEVER;
        if (i >= n) {
            weight[i] = 0;
            continue;
        }
        uint64_t id = places[i].id = backends[i].id;
        credit[i] = (int32_t)(mix(id + info.worker) % (uint32_t)weight[i]);
        for (int32_t k = 0; k < old_n; k++, from = from + 1 < old_n ? from + 1 : 0)
            if (old[from].id == id) { /* pools are in the same order: the first try, mostly */
                credit[i] = (int32_t)((int64_t)old[from].credit * sum / old_sum);
                break;
            }
    }
    return CAPLANCE_OK;
}

SIMD static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    if (!n || flow->attempt > 0)
        return not_full(flow->rand, (uint32_t)n);
    v128_t most = wasm_i32x4_splat(NEVER), who = wasm_i32x4_splat(0), here = wasm_i32x4_const(0, 1, 2, 3);
    for (int32_t i = 0; i < n; i += UNROLL * LANES)
        for (int32_t k = i; k < i + UNROLL * LANES; k += LANES) {
            v128_t c = wasm_i32x4_add(wasm_v128_load(credit + k), wasm_v128_load(weight + k));
            wasm_v128_store(credit + k, c);
            who = wasm_v128_bitselect(here, who, wasm_i32x4_gt(c, most));
            most = wasm_i32x4_max(most, c);
            here = wasm_i32x4_add(here, wasm_i32x4_splat(LANES));
        }
    int32_t owed[LANES], of[LANES], best = 0;
    wasm_v128_store(owed, most);
    wasm_v128_store(of, who);
    for (int32_t l = 1; l < LANES; l++)
        if (owed[l] > owed[best] || (owed[l] == owed[best] && of[l] < of[best]))
            best = l;
    credit[of[best]] -= sum;
    return of[best];
}
