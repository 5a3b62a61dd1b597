//go:build ignore

/*
 * The balancer's program, at the ingress of the links that clients come in by:
 * a packet of a flow that userspace has placed goes into a UDP datagram to its
 * backend and out again, without meeting the stack. All else is passed on, and
 * so reaches the NFQUEUE rules: new flows, TCP's SYN, FIN and RST (userspace
 * keeps the flow's state by them), fragments, options, what is too long.
 *
 * While the daemon is dead nobody listens there. Then the program places new
 * flows itself, by the last lookup table that the daemon left, and lets SYN,
 * FIN and RST go to their flow's backend.
 */
#include "packet.h"

char _license[] SEC("license") = "GPL";

struct flow_key {
	__be32 src[4], dst[4];
	__be16 sport, dport;
	__u8 proto, pad[3];
};

struct flow {
	__u32 target; /* key into targets */
	__u32 handle; /* the target's, when the flow was placed */
	__u64 seen;   /* bpf_ktime_get_ns of the last packet */
	__u64 packets;
	__u64 bytes; /* of the client's IP packets */
};

struct target {
	__u32 handle; /* of the backend's membership; another one: it left */
	__u32 paused;
	__be32 addr[4], src[4]; /* outer addresses */
	__u32 ifindex;	       /* to send by */
	__u16 mtu;	       /* longest inner packet */
	__be16 port;
	__u32 v6; /* family of the outer header */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(max_entries, 1 << 20);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct target);
	__uint(max_entries, 1 << 16);
} targets SEC(".maps");

/* A VIP's port, or all of them (0), and its service. */
struct service_key {
	__be32 vip[4];
	__be16 port;
	__u8 proto, pad;
};

struct service {
	__u64 seed; /* of the flow hash */
	__u32 index;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_key);
	__type(value, struct service);
	__uint(max_entries, 1 << 18);
} services SEC(".maps");

#define SLOTS 65537 /* core.LookupSize */

/* The lookup tables, SLOTS for each service: slot of the target plus 1, or 0. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, SLOTS);
} lookup SEC(".maps");

/* When the daemon was last alive, bpf_ktime_get_ns. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} heartbeat SEC(".maps");

#define SILENCE 2000000000ULL /* ns: after that the daemon is dead */

/* What was forwarded to each target, without the rivalry of CPUs. */
struct sum {
	__u64 packets, bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct sum);
	__uint(max_entries, 1 << 16);
} sums SEC(".maps");

enum { FORWARDED, TOO_LONG, PAUSED, FAILED, PLACED, COUNTERS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, COUNTERS);
} counters SEC(".maps");

INLINE void count(__u32 what, __u64 by)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &what);
	if (n)
		*n += by;
}

/* parse fills the key and says how long the IP header is, 0 to pass. */
INLINE int parse(struct __sk_buff *skb, struct flow_key *k)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	if ((void *)(eth + 1) > end)
		return 0;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end || ip->ihl != 5 || ip->frag_off & bpf_htons(FRAGMENT))
			return 0;
		map4(k->src, ip->saddr);
		map4(k->dst, ip->daddr);
		k->proto = ip->protocol;
		return sizeof(*ip);
	}
	if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end)
			return 0;
		copy6(k->src, &ip->saddr);
		copy6(k->dst, &ip->daddr);
		k->proto = ip->nexthdr;
		return sizeof(*ip);
	}
	return 0;
}

#define EDGE 2 /* SYN, FIN or RST */

/* ports completes the key; 0 to pass, EDGE for what changes a flow's state. */
INLINE int ports(struct __sk_buff *skb, struct flow_key *k, int header)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	if (k->proto == IPPROTO_TCP) {
		struct tcphdr *t = data + sizeof(struct ethhdr) + header;
		if ((void *)(t + 1) > end)
			return 0;
		k->sport = t->source;
		k->dport = t->dest;
		return t->syn || t->fin || t->rst ? EDGE : 1;
	}
	if (k->proto == IPPROTO_UDP) {
		struct udphdr *u = data + sizeof(struct ethhdr) + header;
		if ((void *)(u + 1) > end)
			return 0;
		k->sport = u->source;
		k->dport = u->dest;
		return 1;
	}
	return 0;
}

INLINE int dead(void)
{
	__u32 zero = 0;
	__u64 *beat = bpf_map_lookup_elem(&heartbeat, &zero);
	return !beat || bpf_ktime_get_ns() - *beat > SILENCE;
}

/* mix and hash are those of core.FlowKey. */
INLINE __u64 mix(__u64 x)
{
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ULL;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ULL;
	return x ^ x >> 32;
}

INLINE __u64 word(const __be32 a[4], int i)
{
	return (__u64)bpf_ntohl(a[i]) << 32 | bpf_ntohl(a[i + 1]);
}

INLINE __u64 hash(const struct flow_key *k, __u64 seed)
{
	__u64 h = mix(seed ^ 0x9e3779b97f4a7c15ULL);
	h = mix(h ^ word(k->src, 0));
	h = mix(h ^ word(k->src, 2));
	h = mix(h ^ word(k->dst, 0));
	h = mix(h ^ word(k->dst, 2));
	return mix(h ^ ((__u64)bpf_ntohs(k->sport) << 32 | (__u64)bpf_ntohs(k->dport) << 16 | k->proto));
}

/* place gives a flow that the daemon never saw a backend, by the lookup table. */
INLINE struct flow *place(struct flow_key *k)
{
	struct service_key sk = {.port = k->dport, .proto = k->proto};
	__builtin_memcpy(sk.vip, k->dst, sizeof(sk.vip));
	struct service *s = bpf_map_lookup_elem(&services, &sk);
	if (!s) {
		sk.port = 0;
		s = bpf_map_lookup_elem(&services, &sk);
		if (!s)
			return 0;
	}
	__u32 at = s->index * SLOTS + (__u32)(hash(k, s->seed) % SLOTS);
	__u32 *slot = bpf_map_lookup_elem(&lookup, &at);
	if (!slot || !*slot)
		return 0;
	struct flow f = {.target = s->index << 16 | (*slot - 1)};
	struct target *t = bpf_map_lookup_elem(&targets, &f.target);
	if (!t)
		return 0;
	f.handle = t->handle;
	if (bpf_map_update_elem(&flows, k, &f, BPF_ANY))
		return 0;
	count(PLACED, 1);
	return bpf_map_lookup_elem(&flows, k);
}

/* The source port spreads flows over paths and queues (RFC 7510, §5.1). */
INLINE __be16 entropy(const struct flow_key *k)
{
	__u32 h = k->src[0] ^ k->src[1] ^ k->src[2] ^ k->src[3] ^ ((__u32)k->sport << 16 | k->dport);
	h ^= h >> 16;
	return bpf_htons(0xc000 | (h & 0x3fff));
}

INLINE int wrap4(struct __sk_buff *skb, const struct target *t, __be16 sport, __u32 inner)
{
	struct { /* 28 bytes, no padding */
		struct iphdr ip;
		struct udphdr udp;
	} h = {};
	h.ip.version = 4;
	h.ip.ihl = 5;
	h.ip.ttl = 64;
	h.ip.protocol = IPPROTO_UDP;
	h.ip.frag_off = bpf_htons(0x4000);
	h.ip.tot_len = bpf_htons(inner + sizeof(h));
	h.ip.saddr = t->src[3];
	h.ip.daddr = t->addr[3];
	h.ip.check = checksum4(&h.ip);
	h.udp.source = sport;
	h.udp.dest = t->port;
	h.udp.len = bpf_htons(inner + sizeof(h.udp));
	return bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &h, sizeof(h), 0);
}

/* The UDP checksum is zero, as tunnels may have it (RFC 6935, §5). */
INLINE int wrap6(struct __sk_buff *skb, const struct target *t, __be16 sport, __u32 inner)
{
	struct { /* 48 bytes, no padding */
		struct ipv6hdr ip;
		struct udphdr udp;
	} h = {};
	h.ip.version = 6;
	h.ip.hop_limit = 64;
	h.ip.nexthdr = IPPROTO_UDP;
	h.ip.payload_len = bpf_htons(inner + sizeof(h.udp));
	__builtin_memcpy(&h.ip.saddr, t->src, 16);
	__builtin_memcpy(&h.ip.daddr, t->addr, 16);
	h.udp.source = sport;
	h.udp.dest = t->port;
	h.udp.len = h.ip.payload_len;
	return bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &h, sizeof(h), 0);
}

SEC("tc")
int balance(struct __sk_buff *skb)
{
	if (skb->vlan_present)
		return PASS;
	struct flow_key k = {};
	int header = parse(skb, &k);
	if (!header)
		return PASS;
	int kind = ports(skb, &k, header);
	if (!kind)
		return PASS;
	struct flow *f = bpf_map_lookup_elem(&flows, &k);
	if (!f || kind == EDGE) {
		if (!dead())
			return PASS;
		if (!f)
			f = place(&k);
		if (!f)
			return PASS;
	}
	struct target *t = bpf_map_lookup_elem(&targets, &f->target);
	if (!t || t->handle != f->handle)
		return PASS; /* its backend left: userspace places the flow anew */
	if (t->paused) {
		count(PAUSED, 1);
		return TC_ACT_SHOT;
	}
	__u32 inner = skb->len - sizeof(struct ethhdr), outer = t->v6 ? 48 : 28;
	/* A super-packet's segments have the header and gso_size bytes each. */
	__u32 segment = skb->gso_size ? skb->gso_size + header + (k.proto == IPPROTO_TCP ? 32 : 8) : inner;
	if (segment > t->mtu || inner + outer > 0xffff) {
		count(TOO_LONG, 1);
		return PASS;
	}
	__u32 packets = skb->gso_segs ? skb->gso_segs : 1;
	f->seen = bpf_ktime_get_ns();
	f->packets += packets; /* one CPU handles a flow at a time, nearly always */
	f->bytes += inner;
	struct sum *sum = bpf_map_lookup_elem(&sums, &f->target);
	if (sum) {
		sum->packets += packets;
		sum->bytes += inner;
	}

	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	flags |= t->v6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	if (bpf_skb_adjust_room(skb, outer, BPF_ADJ_ROOM_MAC, flags) ||
	    (t->v6 ? wrap6(skb, t, entropy(&k), inner) : wrap4(skb, t, entropy(&k), inner))) {
		count(FAILED, 1);
		return TC_ACT_SHOT;
	}
	count(FORWARDED, 1);
	return bpf_redirect_neigh(t->ifindex, 0, 0, 0);
}
