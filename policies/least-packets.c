//go:build ignore

/*
 * least-packets: the backend that has been sent the fewest packets per unit of
 * weight, slow start included: start-time fair queueing (Goyal, Vin and Cheng,
 * SIGCOMM 1996) with backends for queues. For services whose flows differ a
 * lot in what they carry.
 */
#define CAPLANCE_MAX_BACKENDS 4096
#define CAPLANCE_WANT_ACTIVE
#define CAPLANCE_WANT_PACKETS
#include "caplance.h"
#include "least.h"

static double per_packet[CAPLANCE_MAX_BACKENDS]; /* 1/weight */

static double load(uint32_t i) { return (double)packets[i] * per_packet[i]; }

static int32_t on_backends(uint32_t count, uint32_t eligible)
{
    for (uint32_t i = 0; i < eligible; i++)
        per_packet[i] = 1000 / (double)caplance_share(i);
    least_set(eligible);
    return CAPLANCE_OK;
}

static int32_t on_pick(uint64_t hash, const caplance_flow *flow) { return least_pick(flow); }
