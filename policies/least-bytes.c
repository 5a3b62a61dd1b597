//go:build ignore

/*
 * least-bytes: the backend that has been sent the fewest bytes per unit of
 * weight, slow start included: start-time fair queueing (Goyal, Vin and Cheng,
 * SIGCOMM 1996) with backends for queues. For uploads, and wherever the line
 * is what runs short.
 *
 * A flow's bytes are known long after its pick. Until the host's next count
 * each is taken for an average one, or all would go to the same backend.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#define CAPLANCE_WANT_ACTIVE
#define CAPLANCE_WANT_BYTES
#define CAPLANCE_WANT_FLOW_END
#define CAPLANCE_WANT_METRICS
#define CAPLANCE_NAMES_OF_METRICS "mean_flow_bytes"
#include "caplance.h"
#include "least.h"

#define FIRST_GUESS 10000 /* bytes of a flow, before any has ended */

static double per_byte[CAPLANCE_MAX_BACKENDS]; /* 1/weight */
static double placed[CAPLANCE_MAX_BACKENDS];   /* flows, since the host's last count */
static uint64_t counted;                       /* epoch of that */
static double mean = FIRST_GUESS;              /* bytes per flow, moving: the last 64 or so */
static double guess;                           /* mean at that count */

static double load(uint32_t i) { return ((double)bytes[i] + placed[i] * guess) * per_byte[i]; }

static void on_flow_end(int32_t backend, const caplance_end *end)
{
    mean += ((double)end->bytes - mean) / 64;
    metrics[0] = (uint64_t)mean;
}

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    for (uint32_t i = 0; i < eligible; i++)
        per_byte[i] = 1000 / (double)caplance_share(i);
    least_set(eligible);
    return CAPLANCE_OK;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow)
{
    if (counted != info.epoch) {
        __builtin_memset(placed, 0, sizeof placed);
        counted = info.epoch;
        guess = mean;
    }
    int32_t i = least_pick(flow);
    if (i >= 0)
        placed[i]++;
    return i;
}
