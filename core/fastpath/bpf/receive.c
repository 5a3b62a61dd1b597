//go:build ignore

/*
 * The agent's program, at the ingress of the link that tunnelled packets come
 * in by: what a balancer sent for a VIP of ours loses its outer header and goes
 * on as if it had come from the client. All else, sanity checks too, is passed
 * on to the agent's socket.
 */
#include "packet.h"

char _license[] SEC("license") = "GPL";

volatile const __be16 port; /* of the tunnel */

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

SEC("tc")
int receive(struct __sk_buff *skb)
{
	if (skb->vlan_present)
		return PASS;
	linear(skb, sizeof(struct ethhdr) + (skb->protocol == bpf_htons(ETH_P_IPV6) ? 48 : 28) + sizeof(struct ipv6hdr));
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct udphdr *udp;
	__be32 from[4] = {}, to[4] = {};
	int outer;
	if ((void *)(eth + 1) > end)
		return PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end || ip->ihl != 5 || ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(FRAGMENT))
			return PASS;
		map4(from, ip->saddr);
		udp = (void *)(ip + 1);
		outer = 28;
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end || ip->nexthdr != IPPROTO_UDP)
			return PASS;
		copy6(from, &ip->saddr);
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
	__be16 proto;
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	if (in4->version == 4) {
		map4(to, in4->daddr);
		proto = bpf_htons(ETH_P_IP);
		if (outer == 48)
			flags |= BPF_F_ADJ_ROOM_DECAP_L3_IPV4;
	} else if (in4->version == 6 && (void *)(in6 + 1) <= end) {
		copy6(to, &in6->daddr);
		proto = bpf_htons(ETH_P_IPV6);
		if (outer == 28)
			flags |= BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
	} else {
		return PASS;
	}
	if (!bpf_map_lookup_elem(&vips, to))
		return PASS;
	__u32 packets = skb->gso_segs ? skb->gso_segs : 1; /* 0 afterwards */
	if (bpf_skb_adjust_room(skb, -outer, BPF_ADJ_ROOM_MAC, flags))
		return PASS; /* a kernel without the flag: the agent's socket takes it */
	bpf_skb_store_bytes(skb, 12, &proto, sizeof(proto), 0);
	count(0, packets);
	count(1, skb->len - sizeof(struct ethhdr));
	return PASS;
}
