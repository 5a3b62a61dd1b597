/*
 * Caplance policy ABI v1 for C (docs/policy-abi.md is normative).
 *
 * One translation unit says what it wants, includes this file and defines
 * on_backends, on_pick and what else it asked for:
 *
 *     #define CAPLANCE_WANT_ACTIVE
 *     #include "caplance.h"
 *
 *     static int32_t on_backends(uint32_t count, uint32_t eligible) { return 0; }
 *     static int32_t on_pick(uint64_t hash, const caplance_flow *flow) { ... }
 *
 * CAPLANCE_WANT_...  gives                   and asks for
 *     ACTIVE         active[], caplance_full
 *     PACKETS        packets[]
 *     BYTES          bytes[]
 *     CONFIG         config[], JSON          int32_t on_config(uint32_t len)
 *     TABLE          table[65537]            int32_t on_table(uint32_t size)
 *     FLOW_END                               void on_flow_end(int32_t backend, const caplance_end *)
 *     TICK                                   void on_tick(uint64_t now_ns)
 *     METRICS        metrics[16]             #define CAPLANCE_NAMES_OF_METRICS "one\0two"
 *
 * Build, with the clang and lld of any distribution:
 *     clang --target=wasm32 -O2 -mbulk-memory -nostdlib -Wl,--no-entry \
 *         -Wl,--max-memory=851968 -I plugins/sdk/c -o mine.wasm mine.c
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

#define CAPLANCE_OK 0 /* what the other functions answer */
#define CAPLANCE_REFUSED 1 /* cannot work with this pool: the host picks */

/* Slots. */
enum {
    CAPLANCE_CONFIG = 1, CAPLANCE_FLOW, CAPLANCE_BACKENDS, CAPLANCE_ACTIVE, CAPLANCE_PACKETS, CAPLANCE_BYTES,
    CAPLANCE_TABLE, CAPLANCE_END, CAPLANCE_METRICS, CAPLANCE_INFO, CAPLANCE_NAMES
};

/* Bits of caplance_flow.flags; all others are reserved and zero. */
enum { CAPLANCE_SYN = 1, CAPLANCE_FRAGMENT = 2 };

/* Values of caplance_backend.state. */
enum { CAPLANCE_UP, CAPLANCE_UNHEALTHY, CAPLANCE_PAUSED, CAPLANCE_DRAINING, CAPLANCE_LOST, CAPLANCE_UNREACHABLE };
#define CAPLANCE_NO_LOAD UINT32_MAX /* caplance_backend.load, per mille: its agent tells none */

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
    uint64_t user; uint32_t load, reserved;
} caplance_backend;

typedef struct {
    uint32_t worker, workers;
    uint64_t seed, epoch, reserved[5];
} caplance_info;

typedef struct {
    uint64_t packets, bytes, duration_ns, reserved;
} caplance_end;

#define CAPLANCE_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type)
#define CAPLANCE_AT(type, field, at) _Static_assert(__builtin_offsetof(type, field) == (at), #type "." #field)

CAPLANCE_SIZE(caplance_flow, 80);
CAPLANCE_AT(caplance_flow, sport, 4); CAPLANCE_AT(caplance_flow, hash, 8); CAPLANCE_AT(caplance_flow, src, 32);
CAPLANCE_AT(caplance_flow, service, 64); CAPLANCE_AT(caplance_flow, attempt, 76);
CAPLANCE_SIZE(caplance_backend, 64);
CAPLANCE_AT(caplance_backend, weight, 8); CAPLANCE_AT(caplance_backend, state, 12); CAPLANCE_AT(caplance_backend, addr, 16);
CAPLANCE_AT(caplance_backend, port, 32); CAPLANCE_AT(caplance_backend, max_flows, 36);
CAPLANCE_AT(caplance_backend, ramp_permille, 44); CAPLANCE_AT(caplance_backend, user, 48); CAPLANCE_AT(caplance_backend, load, 56);
CAPLANCE_SIZE(caplance_info, 64);
CAPLANCE_AT(caplance_info, seed, 8); CAPLANCE_AT(caplance_info, epoch, 16);
CAPLANCE_SIZE(caplance_end, 32);
CAPLANCE_AT(caplance_end, duration_ns, 16);

/*
 * The buffers. They need not be volatile: the host writes between calls only,
 * and since caplance_buffer gives their addresses away, the compiler reads them
 * anew in every call.
 */
#define CAPLANCE_BUFFER(type, name, size) static type name[size] __attribute__((aligned(8)))
static caplance_flow caplance_flow_buffer;
static caplance_info info;
CAPLANCE_BUFFER(caplance_backend, backends, CAPLANCE_MAX_BACKENDS);

/* caplance_share is the weight of slow start, in thousandths. */
static inline uint64_t caplance_share(uint32_t i)
{
    uint64_t share = (uint64_t)backends[i].weight * backends[i].ramp_permille;
    return share ? share : 1;
}

#ifdef CAPLANCE_WANT_ACTIVE
CAPLANCE_BUFFER(uint32_t, active, CAPLANCE_MAX_BACKENDS);
/* The host gives a full one no flow, and asks again with attempt > 0. */
static inline int caplance_full(uint32_t i) { return backends[i].max_flows && active[i] >= backends[i].max_flows; }
#endif
#ifdef CAPLANCE_WANT_PACKETS
CAPLANCE_BUFFER(uint64_t, packets, CAPLANCE_MAX_BACKENDS);
#endif
#ifdef CAPLANCE_WANT_BYTES
CAPLANCE_BUFFER(uint64_t, bytes, CAPLANCE_MAX_BACKENDS);
#endif
#ifdef CAPLANCE_WANT_CONFIG
CAPLANCE_BUFFER(char, config, 4096);
static int32_t on_config(uint32_t len);
CAPLANCE_EXPORT("caplance_config") int32_t caplance_config(uint32_t len) { return on_config(len); }
#endif
#ifdef CAPLANCE_WANT_TABLE
CAPLANCE_BUFFER(uint16_t, table, 65537);
static int32_t on_table(uint32_t size);
CAPLANCE_EXPORT("caplance_table") int32_t caplance_table(uint32_t size) { return on_table(size); }
#endif
#ifdef CAPLANCE_WANT_FLOW_END
static caplance_end caplance_end_buffer;
static void on_flow_end(int32_t backend, const caplance_end *end);
CAPLANCE_EXPORT("caplance_flow_end") void caplance_flow_end(int32_t b, const caplance_end *end) { on_flow_end(b, end); }
#endif
#ifdef CAPLANCE_WANT_TICK
static void on_tick(uint64_t now_ns);
CAPLANCE_EXPORT("caplance_tick") void caplance_tick(uint64_t now_ns) { on_tick(now_ns); }
#endif
#ifdef CAPLANCE_WANT_METRICS
CAPLANCE_BUFFER(uint64_t, metrics, 16);
static char caplance_names[512] __attribute__((aligned(8))) = CAPLANCE_NAMES_OF_METRICS;
#endif

static int32_t on_backends(uint32_t count, uint32_t eligible);
static int32_t on_pick(uint64_t hash, const caplance_flow *flow);

CAPLANCE_EXPORT("caplance_abi_v1") void caplance_abi_v1(void) {}

CAPLANCE_EXPORT("caplance_buffer") void *caplance_buffer(uint32_t slot, uint32_t size)
{
#define CAPLANCE_HAND_OUT(slot, buffer) case slot: return size <= sizeof(buffer) ? (void *)&(buffer) : 0
    switch (slot) {
        CAPLANCE_HAND_OUT(CAPLANCE_FLOW, caplance_flow_buffer);
        CAPLANCE_HAND_OUT(CAPLANCE_INFO, info);
        CAPLANCE_HAND_OUT(CAPLANCE_BACKENDS, backends);
#ifdef CAPLANCE_WANT_ACTIVE
        CAPLANCE_HAND_OUT(CAPLANCE_ACTIVE, active);
#endif
#ifdef CAPLANCE_WANT_PACKETS
        CAPLANCE_HAND_OUT(CAPLANCE_PACKETS, packets);
#endif
#ifdef CAPLANCE_WANT_BYTES
        CAPLANCE_HAND_OUT(CAPLANCE_BYTES, bytes);
#endif
#ifdef CAPLANCE_WANT_CONFIG
        CAPLANCE_HAND_OUT(CAPLANCE_CONFIG, config);
#endif
#ifdef CAPLANCE_WANT_TABLE
        CAPLANCE_HAND_OUT(CAPLANCE_TABLE, table);
#endif
#ifdef CAPLANCE_WANT_FLOW_END
        CAPLANCE_HAND_OUT(CAPLANCE_END, caplance_end_buffer);
#endif
#ifdef CAPLANCE_WANT_METRICS
        CAPLANCE_HAND_OUT(CAPLANCE_METRICS, metrics);
        CAPLANCE_HAND_OUT(CAPLANCE_NAMES, caplance_names);
#endif
    }
    return 0;
}

CAPLANCE_EXPORT("caplance_backends") int32_t caplance_backends(uint32_t count, uint32_t eligible)
{
    return count <= CAPLANCE_MAX_BACKENDS ? on_backends(count, eligible) : CAPLANCE_REFUSED;
}

CAPLANCE_EXPORT("caplance_pick") int32_t caplance_pick(uint64_t hash, const caplance_flow *flow) { return on_pick(hash, flow); }

#endif
