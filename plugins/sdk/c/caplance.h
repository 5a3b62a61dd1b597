/*
 * Caplance policy ABI v1 for C (docs/policy-abi.md is normative).
 *
 * One translation unit includes this file, says how many backends it can take
 * and which counters it wants, and defines three things:
 *
 *     #define CAPLANCE_MAX_BACKENDS 4096
 *     #define CAPLANCE_WANT_ACTIVE
 *     #include "caplance.h"
 *
 *     static int32_t on_backends(uint32_t count, uint32_t eligible) { return 0; }
 *     static int32_t on_pick(uint64_t hash, const caplance_flow *flow) { ... }
 *
 * Build, with the clang and lld of any distribution:
 *
 *     clang --target=wasm32 -O2 -mbulk-memory -nostdlib -Wl,--no-entry \
 *         -Wl,--max-memory=720896 -I plugins/sdk/c -o mine.wasm mine.c
 */
#ifndef CAPLANCE_H
#define CAPLANCE_H

#include <stdint.h>

#ifndef CAPLANCE_MAX_BACKENDS
#define CAPLANCE_MAX_BACKENDS 4096
#endif

#define CAPLANCE_EXPORT(name) __attribute__((export_name(name), used))

/* What caplance_pick answers besides an index. */
#define CAPLANCE_NO_CHOICE (-1) /* the host's lookup table decides */
#define CAPLANCE_REJECT (-2)    /* the flow gets no backend */
#define CAPLANCE_USE_TABLE (-3) /* the table of caplance_table decides */

/* What caplance_backends answers. */
#define CAPLANCE_OK 0
#define CAPLANCE_REFUSED 1 /* cannot work with this pool: the host picks */

enum {
    CAPLANCE_CONFIG = 1,
    CAPLANCE_FLOW,
    CAPLANCE_BACKENDS,
    CAPLANCE_ACTIVE,
    CAPLANCE_PACKETS,
    CAPLANCE_BYTES,
    CAPLANCE_TABLE,
    CAPLANCE_END,
    CAPLANCE_METRICS,
    CAPLANCE_INFO,
};

/* Bits of caplance_flow.flags. */
enum { CAPLANCE_SYN = 1, CAPLANCE_FRAGMENT = 2, CAPLANCE_MID_FLOW = 4 };

/* Values of caplance_backend.state. */
enum { CAPLANCE_UP, CAPLANCE_UNHEALTHY, CAPLANCE_PAUSED, CAPLANCE_DRAINING, CAPLANCE_LOST };

typedef struct {
    uint16_t size;
    uint8_t family, protocol;
    uint16_t sport, dport;
    uint64_t hash, rand, now_ns;
    uint8_t src[16], dst[16];
    uint32_t service, mark, flags;
    int32_t attempt;
} caplance_flow;

typedef struct {
    uint64_t id;
    uint32_t weight;
    uint16_t state, zone;
    uint8_t addr[16];
    uint16_t port, family;
    uint32_t max_flows, priority, ramp_permille;
    uint64_t user, reserved;
} caplance_backend;

typedef struct {
    uint32_t worker, workers;
    uint64_t seed, epoch, reserved[5];
} caplance_info;

#define CAPLANCE_AT(type, field, offset) \
    _Static_assert(__builtin_offsetof(type, field) == (offset), #type "." #field)

_Static_assert(sizeof(caplance_flow) == 80, "caplance_flow");
CAPLANCE_AT(caplance_flow, sport, 4);
CAPLANCE_AT(caplance_flow, hash, 8);
CAPLANCE_AT(caplance_flow, src, 32);
CAPLANCE_AT(caplance_flow, service, 64);
CAPLANCE_AT(caplance_flow, attempt, 76);
_Static_assert(sizeof(caplance_backend) == 64, "caplance_backend");
CAPLANCE_AT(caplance_backend, weight, 8);
CAPLANCE_AT(caplance_backend, state, 12);
CAPLANCE_AT(caplance_backend, addr, 16);
CAPLANCE_AT(caplance_backend, port, 32);
CAPLANCE_AT(caplance_backend, max_flows, 36);
CAPLANCE_AT(caplance_backend, ramp_permille, 44);
CAPLANCE_AT(caplance_backend, user, 48);
_Static_assert(sizeof(caplance_info) == 64, "caplance_info");
CAPLANCE_AT(caplance_info, seed, 8);
CAPLANCE_AT(caplance_info, epoch, 16);

/*
 * The buffers. They need not be volatile: the host writes between calls only,
 * and since caplance_buffer gives their addresses away, the compiler reads them
 * anew in every call.
 */
static caplance_flow caplance_flow_buffer;
static caplance_info info;
static caplance_backend backends[CAPLANCE_MAX_BACKENDS];
#ifdef CAPLANCE_WANT_ACTIVE
static uint32_t active[CAPLANCE_MAX_BACKENDS];
#endif
#ifdef CAPLANCE_WANT_PACKETS
static uint64_t packets[CAPLANCE_MAX_BACKENDS];
#endif
#ifdef CAPLANCE_WANT_BYTES
static uint64_t bytes[CAPLANCE_MAX_BACKENDS];
#endif

static int32_t on_backends(uint32_t count, uint32_t eligible);
static int32_t on_pick(uint64_t hash, const caplance_flow *flow);

CAPLANCE_EXPORT("caplance_abi_v1") void caplance_abi_v1(void) {}

CAPLANCE_EXPORT("caplance_buffer") void *caplance_buffer(uint32_t slot, uint32_t size)
{
#define CAPLANCE_HAND_OUT(buffer) return size <= sizeof(buffer) ? (void *)&(buffer) : 0
    switch (slot) {
    case CAPLANCE_FLOW:
        CAPLANCE_HAND_OUT(caplance_flow_buffer);
    case CAPLANCE_INFO:
        CAPLANCE_HAND_OUT(info);
    case CAPLANCE_BACKENDS:
        CAPLANCE_HAND_OUT(backends);
#ifdef CAPLANCE_WANT_ACTIVE
    case CAPLANCE_ACTIVE:
        CAPLANCE_HAND_OUT(active);
#endif
#ifdef CAPLANCE_WANT_PACKETS
    case CAPLANCE_PACKETS:
        CAPLANCE_HAND_OUT(packets);
#endif
#ifdef CAPLANCE_WANT_BYTES
    case CAPLANCE_BYTES:
        CAPLANCE_HAND_OUT(bytes);
#endif
    }
    return 0;
}

CAPLANCE_EXPORT("caplance_backends") int32_t caplance_backends(uint32_t count, uint32_t eligible)
{
    return count <= CAPLANCE_MAX_BACKENDS ? on_backends(count, eligible) : CAPLANCE_REFUSED;
}

CAPLANCE_EXPORT("caplance_pick") int32_t caplance_pick(uint64_t hash, const caplance_flow *flow)
{
    return on_pick(hash, flow);
}

#endif
