/* mix spreads every input bit over the output: core.Mix of the balancer. */
#ifndef MIX_H
#define MIX_H
#include <stdint.h>

static inline uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93;
    return x ^ x >> 32;
}

#endif
