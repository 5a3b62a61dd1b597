//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * The agent's program, at the ingress of the link that tunnelled packets come
 * in by: what a balancer sent for one of its VIPs loses its outer header and goes
 * on as if it had come from the client. All else, sanity checks too, is passed
 * on to the agent's socket.
 */
#include "packet.h"

char _license[] SEC("license") = "Dual BSD/GPL";

volatile const __be16 port;   /* of the tunnel */
volatile const __u8 translate; /* the kernel cannot take an outer header of the other family off */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __be32[4]);
	__type(value, __u8);
	__uint(max_entries, 4096);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __be32[4]);
	__type(value, __u8);
	__uint(max_entries, 256);
} balancers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 2); /* packets, bytes */
} received SEC(".maps");

INLINE void count(__u32 what, __u64 by)
{
	__u64 *n = bpf_map_lookup_elem(&received, &what);
	if (n)
		*n += by;
}

#define CHUNK 256 /* bytes of a datagram that are summed up at once */

/* summed reports whether so many bytes from an offset on, and what sum has, make
 * a right checksum (RFC 1071). It is a function of its own so that the verifier
 * looks at its loop once, not on each way that leads here. */
__attribute__((noinline)) int summed(struct __sk_buff *skb, __u32 at, __u32 length, __u32 sum)
{
	for (int i = 0; i < 65536 / CHUNK; i++) {
		__u8 chunk[CHUNK] = {};
		__u32 n = length < CHUNK ? length : CHUNK;
		if (!n)
			break;
		n = ((n - 1) & (CHUNK - 1)) + 1; /* as the verifier wants it */
		if (bpf_skb_load_bytes(skb, at, chunk, n))
			return 0;
		sum = bpf_csum_diff(0, 0, (__be32 *)chunk, CHUNK, sum);
		at += n;
		length -= n;
	}
	sum = (sum & 0xffff) + (sum >> 16);
	return ((sum & 0xffff) + (sum >> 16)) == 0xffff;
}

/* verified reports whether an outer UDP checksum is right. pseudo is the sum of the
 * addresses. */
INLINE int verified(struct __sk_buff *skb, __u32 at, __u32 length, __u64 pseudo)
{
	if (bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
		return 1; /* the card has looked */
	pseudo += (__u64)bpf_htonl(IPPROTO_UDP) + bpf_htonl(length);
	pseudo = (pseudo & 0xffffffff) + (pseudo >> 32);
	return summed(skb, at, length, (pseudo & 0xffffffff) + (pseudo >> 32));
}

enum { NOT_ECT, ECT1, ECT0, CE }; /* RFC 3168, §5 */

/* fold returns what becomes of the ECN field within when the outer header goes
 * (RFC 6040, §4.2), or -1: what says that it cannot take a mark and got one is to
 * be dropped. forward.Fold is the same. */
INLINE int fold(__u8 outer, __u8 inner)
{
	outer &= 3;
	inner &= 3;
	if (outer == CE)
		return inner == NOT_ECT ? -1 : CE;
	return outer == ECT1 && inner == ECT0 ? ECT1 : inner;
}

/* set_class writes an ECN field into the packet within, which comes after so many
 * bytes. The sum of an IPv4 header stays. */
INLINE int set_class(struct __sk_buff *skb, __u32 at, const struct iphdr *in4, int ecn)
{
	if (in4->version == 4) {
		__u8 tos = (in4->tos & ~3) | ecn;
		__u32 sum = (__u16)~in4->check + (__u16)~bpf_htons(in4->tos & 3) + bpf_htons(ecn); /* RFC 1624 */
		sum = (sum & 0xffff) + (sum >> 16);
		__sum16 check = ~((sum & 0xffff) + (sum >> 16));
		return bpf_skb_store_bytes(skb, at + offsetof(struct iphdr, tos), &tos, sizeof(tos), 0) ||
		       bpf_skb_store_bytes(skb, at + offsetof(struct iphdr, check), &check, sizeof(check), 0);
	}
	__u8 second = (((const __u8 *)in4)[1] & ~0x30) | ecn << 4;
	return bpf_skb_store_bytes(skb, at + 1, &second, sizeof(second), BPF_F_RECOMPUTE_CSUM);
}

/* open handles a packet whose IP header comes after so many bytes of the link's:
 * 14, or 0 on links without Ethernet. */
INLINE int open(struct __sk_buff *skb, const __u32 link)
{
	if (aside(skb))
		return PASS;
	linear(skb, link + (skb->protocol == bpf_htons(ETH_P_IPV6) ? 48 : 28) + sizeof(struct ipv6hdr));
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	__be16 proto = skb->protocol;
	struct udphdr *udp;
	__be32 from[4] = {}, to[4] = {};
	__u8 marks, inner;
	__u64 pseudo = 0;
	int outer;
	if (link) {
		if ((void *)(eth + 1) > end)
			return PASS;
		proto = eth->h_proto;
		data = eth + 1;
	}
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data;
		if ((void *)(ip + 1) > end || *(__u8 *)ip != 0x45 /* version and ihl */ || ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(FRAGMENT))
			return PASS;
		map4(from, ip->saddr);
		pseudo = (__u64)ip->saddr + ip->daddr;
		marks = ip->tos;
		udp = (void *)(ip + 1);
		outer = 28;
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data;
		if ((void *)(ip + 1) > end || ip->version != 6 || ip->nexthdr != IPPROTO_UDP)
			return PASS;
		copy6(from, &ip->saddr);
		for (int i = 0; i < 4; i++)
			pseudo += (__u64)ip->saddr.in6_u.u6_addr32[i] + ip->daddr.in6_u.u6_addr32[i];
		marks = bpf_ntohs(*(__be16 *)ip) >> 4;
		udp = (void *)(ip + 1);
		outer = 48;
	} else {
		return PASS;
	}
	if ((void *)(udp + 1) > end || udp->dest != port || !bpf_map_lookup_elem(&balancers, from))
		return PASS;
	struct iphdr *in4 = (void *)(udp + 1);
	struct ipv6hdr *in6 = (void *)(udp + 1);
	if ((void *)(in4 + 1) > end)
		return PASS;
	__be16 outside = proto;
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	if (in4->version == 4) {
		map4(to, in4->daddr);
		inner = in4->tos;
		proto = bpf_htons(ETH_P_IP);
		if (outer == 48)
			flags |= BPF_F_ADJ_ROOM_DECAP_L3_IPV4;
	} else if (in4->version == 6 && (void *)(in6 + 1) <= end) {
		copy6(to, &in6->daddr);
		inner = bpf_ntohs(*(__be16 *)in6) >> 4;
		proto = bpf_htons(ETH_P_IPV6);
		if (outer == 28)
			flags |= BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
	} else {
		return PASS;
	}
	if (!bpf_map_lookup_elem(&vips, to))
		return PASS;
	__u32 length = bpf_ntohs(udp->len);
	if (udp->check && !verified(skb, link + outer - sizeof(*udp), length, pseudo))
		return PASS; /* the kernel's UDP drops it, and counts */
	int ecn = fold(marks, inner);
	if (ecn < 0)
		return PASS; /* the agent drops it, and counts */
	if (ecn != (inner & 3) && set_class(skb, link + outer, in4, ecn))
		return TC_ACT_SHOT;
	__u32 packets = skb->gso_segs ? skb->gso_segs : 1; /* 0 afterwards */
	if (translate && proto != outside) {
		/* Where the flags are missing (before Linux 6.3) the packet becomes
		 * one of the other family first, which moves 20 bytes. */
		if (bpf_skb_change_proto(skb, proto, 0))
			return PASS; /* the agent's socket takes it */
		outer = outer == 28 ? 48 : 28;
		if (bpf_skb_adjust_room(skb, -outer, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
			return TC_ACT_SHOT;
	} else if (bpf_skb_adjust_room(skb, -outer, BPF_ADJ_ROOM_MAC, flags)) {
		return PASS;
	}
	if (link)
		bpf_skb_store_bytes(skb, 12, &proto, sizeof(proto), 0);
	count(0, packets);
	count(1, skb->len - link);
	return PASS;
}

SEC("tc")
int receive(struct __sk_buff *skb)
{
	return open(skb, sizeof(struct ethhdr));
}

SEC("tc")
int receive_bare(struct __sk_buff *skb)
{
	return open(skb, 0);
}

/* Succeeds where bpf_skb_adjust_room takes an outer header of the other family
 * off. */
SEC("tc")
int probe_decap(struct __sk_buff *skb)
{
	return bpf_skb_adjust_room(skb, -28, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_DECAP_L3_IPV6) ? TC_ACT_SHOT : TC_ACT_OK;
}
