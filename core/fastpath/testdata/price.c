//go:build ignore

/*
 * Drives an XDP program in BPF_PROG_TEST_RUN, to find out what a packet costs:
 * each repetition shows it a whole packet again, of one flow, of one of many at
 * random, or of a new one, and calls it. With an empty program in its place,
 * what remains is the driver's own part.
 */
#include "../bpf/packet.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} program SEC(".maps");

#define SIZE 64 /* priceSize */

__u64 frame[SIZE / 8]; /* Ethernet, IPv4, UDP */
__u64 mask;	       /* of the flow's number; all bits: each packet is a new flow */
__u64 next;	       /* number of the next new flow */

/* spread makes a source of a number, a different one for each below 2^36
 * (priceSource). */
INLINE __u64 spread(__u64 n)
{
	return n * 0x9e3779b97f4a7c15ULL & ((1ULL << 36) - 1);
}

SEC("xdp")
int drive(struct xdp_md *ctx)
{
	int grown = (int)(ctx->data_end - ctx->data) - SIZE;
	if (grown && bpf_xdp_adjust_head(ctx, grown))
		return XDP_ABORTED;
	__u64 *p = (void *)(long)ctx->data;
	if ((void *)p + SIZE > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < SIZE / 8; i++)
		p[i] = frame[i];
	__u64 n = mask == ~0ULL ? next++ : bpf_get_prandom_u32() & mask;
	n = spread(n);
	struct iphdr *ip = (void *)p + sizeof(struct ethhdr);
	struct udphdr *udp = (void *)(ip + 1);
	ip->saddr = bpf_htonl(10 << 24 | (n & 0xffffff));
	udp->source = bpf_htons(0x8000 | n >> 24);
	bpf_tail_call(ctx, &program, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int nothing(struct xdp_md *ctx)
{
	return XDP_TX;
}
