//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/*
 * The balancer's programs, at the ingress of the links that clients come in by.
 * A packet of a flow that was placed goes to its backend without meeting the
 * stack: in a UDP datagram, or with the backend's MAC. All else is passed on,
 * and so reaches the NFQUEUE rules: new flows, fragments, options, what is too
 * long.
 *
 * While the daemon is down nobody listens there. Then the programs place new
 * flows themselves, by the last lookup table that the daemon left; so they do
 * when the policy fills that table, and beyond a service's budget.
 *
 * TC does all of it. XDP forwards what it can, and leaves the rest to TC.
 */
#include "flows.h"

char _license[] SEC("license") = "Dual BSD/GPL";

INLINE int to_neighbour(const struct target *t)
{
	struct bpf_redir_neigh nh = {.nh_family = t->v6 ? AF_INET6 : AF_INET};
	if (t->v6)
		__builtin_memcpy(nh.ipv6_nh, t->addr, 16);
	else
		nh.ipv4_nh = t->addr[3];
	return bpf_redirect_neigh(t->ifindex, &nh, sizeof(nh), 0);
}

INLINE int tunnel(struct __sk_buff *skb, const struct target *t, const struct packet *p, __u32 inner)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	if (t->v6) {
		struct outer6 h;
		wrap6(&h, t, p, inner);
		return bpf_skb_adjust_room(skb, sizeof(h) - sizeof(h.eth), BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6) ||
		       bpf_skb_store_bytes(skb, 0, &h, sizeof(h), 0);
	}
	struct outer4 h;
	wrap4(&h, t, p, inner);
	return bpf_skb_adjust_room(skb, sizeof(h) - sizeof(h.eth), BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) ||
	       bpf_skb_store_bytes(skb, 0, &h, sizeof(h), 0);
}

/* A UDP super-packet that bpf_skb_adjust_room took out of a tunnel is still a
 * tunnel's to the backend's kernel, which drops it instead of cutting it into
 * datagrams. On its way through NFQUEUE it is cut before. */
INLINE int uncut(struct __sk_buff *skb, const struct target *t, const struct packet *p)
{
	return skb->gso_size && p->key.proto == IPPROTO_UDP && !t->direct;
}

/* fits reports whether the packet, or each segment of a super-packet, is short
 * enough for the way to the target. */
INLINE int fits(struct __sk_buff *skb, const struct target *t, const struct packet *p, __u32 inner)
{
	__u32 segment = inner;
	if (skb->gso_size)
		segment = skb->gso_size + p->header + (p->key.proto == IPPROTO_TCP ? 32 : 8);
	return segment <= t->mtu && (t->direct || inner + sizeof(struct outer6) <= 0xffff);
}

/* frame gives a packet that came without an Ethernet header an empty one. */
INLINE int frame(struct __sk_buff *skb)
{
	const __be16 proto = skb->protocol;
	return bpf_skb_change_head(skb, sizeof(struct ethhdr), 0) || bpf_skb_store_bytes(skb, 12, &proto, sizeof(proto), 0);
}

/* store_hop writes the TTL or the hop limit into the packet. */
INLINE int store_hop(struct __sk_buff *skb, const struct packet *p, __u32 link)
{
	if (p->header == sizeof(struct ipv6hdr))
		return bpf_skb_store_bytes(skb, link + offsetof(struct ipv6hdr, hop_limit), &p->ttl, sizeof(p->ttl), BPF_F_RECOMPUTE_CSUM);
	struct {
		__u8 ttl, protocol;
		__sum16 check;
	} h = {p->ttl, p->key.proto, p->check};
	return bpf_skb_store_bytes(skb, link + offsetof(struct iphdr, ttl), &h, sizeof(h), 0); /* the sum of the header stays */
}

#define SEEN 0xca91

/* up passes a packet to a VIP on. It may come by again, on a bridge of which this
 * link is a port, and is not to be counted twice. */
INLINE int up(struct __sk_buff *skb)
{
	skb->tc_index = SEEN;
	return PASS;
}

/* forward handles a packet whose IP header comes after so many bytes of the
 * link's: 14, or 0 on links without Ethernet. */
INLINE int forward(struct __sk_buff *skb, const __u32 link)
{
	if (aside(skb) || skb->tc_index == SEEN)
		return PASS;
	linear(skb, link + sizeof(struct tcphdr) + (skb->protocol == bpf_htons(ETH_P_IPV6) ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)));
	struct packet p = {};
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	if (!(link ? parse_frame(data, end, &p) : parse(data, end, skb->protocol, &p)))
		return p.to_vip ? up(skb) : PASS;
	__u32 whole = skb->len - link; /* with padding, perhaps */
	__u32 inner = skb->gso_size ? whole : p.length;
	if (inner > whole || inner < least(&p))
		return up(skb);
	begin(&p);
	struct flow new = {};
	struct target *t = 0;
	struct flow *f = decide(&p, &new, &t);
	if (p.refused)
		return TC_ACT_SHOT;
	if (!f || !t)
		return up(skb);
	if (t->paused) {
		count(PAUSED);
		return TC_ACT_SHOT;
	}
	if (!fits(skb, t, &p, inner) || uncut(skb, t, &p)) {
		count(TOO_LONG);
		track(f, &p, inner);
		return up(skb);
	}
	account(f, &p, skb->gso_segs ? skb->gso_segs : 1, inner);
	count(FORWARDED);
	hop(&p);
	if (store_hop(skb, &p, link) || (!link && frame(skb)))
		goto failed;
	/* Nobody keeps the MACs up to date when the daemon is down. */
	int resolved = t->resolved == BARE || (t->resolved && !p.daemon_down);
	if (!t->direct) {
		if (tunnel(skb, t, &p, inner))
			goto failed;
		return resolved ? bpf_redirect(t->ifindex, 0) : bpf_redirect_neigh(t->ifindex, 0, 0, 0);
	}
	if (!resolved)
		return to_neighbour(t);
	struct {
		__u8 dmac[6], smac[6];
	} macs;
	__builtin_memcpy(macs.dmac, t->dmac, 6);
	__builtin_memcpy(macs.smac, t->smac, 6);
	if (bpf_skb_store_bytes(skb, 0, &macs, sizeof(macs), 0))
		goto failed;
	return bpf_redirect(t->ifindex, 0);
failed:
	count(FAILED);
	return TC_ACT_SHOT;
}

SEC("tc")
int balance(struct __sk_buff *skb)
{
	return forward(skb, sizeof(struct ethhdr));
}

SEC("tc")
int balance_bare(struct __sk_buff *skb)
{
	return forward(skb, 0);
}

/* grow makes room before the packet and says where the headers go, or 0. */
INLINE void *grow(struct xdp_md *ctx, int by, int size)
{
	if (bpf_xdp_adjust_head(ctx, -by))
		return 0;
	void *data = (void *)(long)ctx->data;
	return data + size > (void *)(long)ctx->data_end ? 0 : data;
}

/* ours reports whether the frame is for the link that it came in by. */
INLINE int ours(const struct ethhdr *eth, __u32 link)
{
	struct mac *m = bpf_map_lookup_elem(&macs, &link);
	return m && m->high == *(__u32 *)eth->h_dest && m->low == *(__u16 *)(eth->h_dest + 4);
}

/* write_hop does so in XDP. */
INLINE void write_hop(void *ip, void *end, const struct packet *p)
{
	struct iphdr *v4 = ip;
	struct ipv6hdr *v6 = ip;
	if (p->header == sizeof(*v6)) {
		if ((void *)(v6 + 1) <= end)
			v6->hop_limit = p->ttl;
	} else if ((void *)(v4 + 1) <= end) {
		v4->ttl = p->ttl;
		v4->check = p->check;
	}
}

SEC("xdp")
int balance_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct packet p = {.is_xdp = 1};
	if (!parse_frame(data, end, &p) || p.length > end - data - sizeof(struct ethhdr) || p.length < least(&p) || !ours(data, ctx->ingress_ifindex))
		return XDP_PASS;
	begin(&p);
	if (p.daemon_down)
		return XDP_PASS;
	struct flow new = {};
	struct target *t = 0;
	struct flow *f = decide(&p, &new, &t);
	if (p.refused)
		return XDP_DROP;
	if (!f || !t || t->paused || t->resolved != RESOLVED || p.length > t->mtu)
		return XDP_PASS;
	account(f, &p, 1, p.length);
	count(XDP_FORWARDED);
	hop(&p);
	write_hop(data + sizeof(struct ethhdr), end, &p);
	if (t->direct) {
		struct ethhdr *eth = data;
		link_header(eth, t, eth->h_proto);
	} else if (t->v6) {
		struct outer6 *h = grow(ctx, sizeof(*h) - sizeof(h->eth), sizeof(*h));
		if (!h)
			goto failed;
		wrap6(h, t, &p, p.length);
	} else {
		struct outer4 *h = grow(ctx, sizeof(*h) - sizeof(h->eth), sizeof(*h));
		if (!h)
			goto failed;
		wrap4(h, t, &p, p.length);
	}
	return t->ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(t->ifindex, 0);
failed:
	count(FAILED);
	return XDP_DROP;
}
