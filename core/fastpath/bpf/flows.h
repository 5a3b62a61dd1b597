/*
 * Which backend a packet goes to: the same for the TC and the XDP program.
 *
 *	vips      destination → number of the VIP; all else is none of ours
 *	flows     established flows → target
 *	pending   flows of which one packet was seen: a flood turns this map over,
 *	          never the other
 *	services  VIP, protocol and port → service, for flows in neither
 */
#ifndef CAPLANCE_FLOWS_H
#define CAPLANCE_FLOWS_H

#include "packet.h"

struct flow_key {
	__be32 src[4];
	__be16 sport, dport;
	__u16 vip;
	__u8 proto, pad;
};

enum { CLOSED = 1 }; /* flow.state: FIN or RST was seen */

enum { BY_POLICY, BY_TABLE, BY_FALLBACK }; /* flow.rule */

/* Times are in jiffies: reading them costs next to nothing. */
struct flow {
	__u32 target; /* index into targets */
	__u16 gen;    /* the target's, when the flow was placed */
	__u8 state, rule;
	__u32 created, seen;
	__u64 packets;
	__u64 bytes; /* of the client's IP packets */
};

/* An element takes 24 + 32 bytes, the kernel's 48 and 8 of its allocator, and a
 * bucket 16: 128 bytes a flow, of which the 112 come as flows do. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(max_entries, 1 << 20);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(max_entries, 1 << 17);
} pending SEC(".maps");

#define SLOTS 1024 /* fastpath.MaxBackends: targets of a service */

struct target {
	__u16 gen;	     /* of the backend's membership; 0: nobody */
	__u8 paused, direct; /* direct: L2 rewrite, no tunnel */
	__u8 v6;	     /* family of addr, and so of the outer header */
	__u8 resolved;	     /* dmac and smac are known */
	__u8 dmac[6], smac[6];
	__be16 port;		/* of the tunnel */
	__u32 mtu;		/* longest inner packet */
	__u32 ifindex;		/* to send by */
	__be32 addr[4], src[4]; /* outer addresses */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct target);
	__uint(max_entries, SLOTS);
} targets SEC(".maps");

/* What each target got, without the rivalry of CPUs. */
struct sum {
	__u64 packets, bytes;
	__u64 by_table, by_fallback; /* flows that the program placed itself */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sum);
	__uint(max_entries, SLOTS);
} sums SEC(".maps");

#define VIPS 8192 /* fastpath.vipSlots, a power of two */
#define PROBES 8  /* fastpath.vipProbes */

struct vip {
	__be32 addr[4];
	__u32 number; /* plus 1; 0: an empty slot */
};

/* Open addressing in an array, which is inlined: every packet that comes in
 * pays for this look-up. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct vip);
	__uint(max_entries, VIPS);
} vips SEC(".maps");

volatile const __u32 vip_seed; /* with which no VIP takes more than PROBES */

/* A VIP's port, or all of them (0). */
struct service_key {
	__u16 vip;
	__be16 port;
	__u8 proto, pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_key);
	__type(value, __u32);
	__uint(max_entries, 1 << 18);
} services SEC(".maps");

struct service {
	__u64 seed;   /* of the flow hash */
	__u32 table;  /* the policy filled the lookup table: no upcall */
	__u32 budget; /* new flows that may come up in a window; 0: all */
	__u32 window, used;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct service);
	__uint(max_entries, 1);
} rules SEC(".maps");

#define LOOKUP 65537 /* core.LookupSize */

/* The lookup tables, LOOKUP for each service: slot of the target plus 1, or 0. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, LOOKUP);
} lookup SEC(".maps");

/* When the daemon was last alive, jiffies; 0: it is not. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} heartbeat SEC(".maps");

volatile const __u32 silence; /* jiffies: after that the daemon is dead */
volatile const __u32 window;  /* log2 of a budget's time, jiffies */

/* In the order of fastpath.counterNames. */
enum { FORWARDED, XDP_FORWARDED, UPCALLS, PLACED, OVER_BUDGET, SLOW, TOO_LONG, STALE, PAUSED, NO_BACKEND, FULL, FAILED, COUNTERS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, COUNTERS);
} counters SEC(".maps");

INLINE void count(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &what);
	if (n)
		(*n)++;
}

/* A packet that may be ours, and what was found out about it. */
struct packet {
	struct flow_key key;
	__be32 dst[4];
	__u32 header; /* bytes of the IP header */
	__u32 length; /* bytes of the IP packet */
	__u8 flags;   /* of TCP */
	__u8 dead;    /* the daemon is */
	__u8 fresh;   /* its flow is to be remembered */
	__u8 placed;  /* by the lookup table */
	__u8 look;    /* XDP: what it leaves to TC is counted there */
	__u64 now;
};

/* note counts what a packet goes up for. */
INLINE void note(const struct packet *p, __u32 what)
{
	if (!p->look)
		count(what);
}

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

INLINE int transport(void *at, void *end, struct packet *p)
{
	if (p->key.proto == IPPROTO_TCP) {
		struct tcphdr *t = at;
		if ((void *)(t + 1) > end)
			return 0;
		p->key.sport = t->source;
		p->key.dport = t->dest;
		p->flags = ((__u8 *)t)[13];
		return 1;
	}
	if (p->key.proto == IPPROTO_UDP) {
		struct udphdr *u = at;
		if ((void *)(u + 1) > end)
			return 0;
		p->key.sport = u->source;
		p->key.dport = u->dest;
		return 1;
	}
	return 0;
}

/* ours completes the key with the VIP's number. */
INLINE int ours(struct packet *p)
{
	const __be32 *a = p->dst;
	__u32 at = ((a[0] ^ a[1] ^ a[2] ^ a[3]) * vip_seed) / (0x100000000ULL / VIPS);
	for (int i = 0; i < PROBES; i++) {
		__u32 slot = (at + i) % VIPS;
		struct vip *v = bpf_map_lookup_elem(&vips, &slot);
		if (!v || !v->number)
			return 0;
		if (v->addr[3] == a[3] && v->addr[2] == a[2] && v->addr[1] == a[1] && v->addr[0] == a[0]) {
			p->key.vip = v->number - 1;
			return 1;
		}
	}
	return 0;
}

/* extension says whether an IPv6 header is followed by another before the
 * transport's (RFC 8200, §4). */
INLINE int extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT || next == IPPROTO_DSTOPTS;
}

/* parse says whether the packet is for a VIP and the programs can handle it. */
INLINE int parse(void *data, void *end, struct packet *p)
{
	struct ethhdr *eth = data;
	if ((void *)(eth + 1) > end)
		return 0;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end)
			return 0;
		map4(p->key.src, ip->saddr);
		map4(p->dst, ip->daddr);
		if (!ours(p))
			return 0;
		if (ip->ihl != 5 || ip->frag_off & bpf_htons(FRAGMENT)) {
			note(p, SLOW);
			return 0;
		}
		p->key.proto = ip->protocol;
		p->header = sizeof(*ip);
		p->length = bpf_ntohs(ip->tot_len);
		return transport(ip + 1, end, p);
	}
	if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end)
			return 0;
		copy6(p->key.src, &ip->saddr);
		copy6(p->dst, &ip->daddr);
		if (!ours(p))
			return 0;
		if (extension(ip->nexthdr)) {
			note(p, SLOW);
			return 0;
		}
		p->key.proto = ip->nexthdr;
		p->header = sizeof(*ip);
		p->length = bpf_ntohs(ip->payload_len) + sizeof(*ip);
		return transport(ip + 1, end, p);
	}
	return 0;
}

/* least is the shortest that the IP packet can be with its headers. */
INLINE __u32 least(const struct packet *p)
{
	return p->header + (p->key.proto == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr));
}

/* begin takes the time and sees whether the daemon is alive. */
INLINE void begin(struct packet *p)
{
	__u32 zero = 0;
	__u64 *beat = bpf_map_lookup_elem(&heartbeat, &zero);
	p->now = bpf_jiffies64();
	p->dead = !beat || !*beat || (__s64)(p->now - *beat) > silence;
}

/* live is the flow's target, if that is still the membership it was. */
INLINE struct target *live(const struct flow *f)
{
	__u32 at = f->target;
	struct target *t = bpf_map_lookup_elem(&targets, &at);
	return t && t->gen == f->gen ? t : 0;
}

INLINE int opens(const struct packet *p)
{
	return (p->flags & (SYN | ACK)) == SYN;
}

/* promote makes a pending flow an established one. */
INLINE struct flow *promote(struct packet *p, struct flow *f)
{
	struct flow now = *f;
	long err = bpf_map_update_elem(&flows, &p->key, &now, BPF_NOEXIST);
	if (err && err != -17 /* EEXIST: another CPU did */) {
		count(FULL);
		return f;
	}
	bpf_map_delete_elem(&pending, &p->key);
	return bpf_map_lookup_elem(&flows, &p->key);
}

/* find is the packet's flow. One whose backend left is forgotten, and one that
 * closed when its port is used anew. */
INLINE struct flow *find(struct packet *p, struct target **t)
{
	struct flow *f = bpf_map_lookup_elem(&flows, &p->key);
	if (f) {
		*t = live(f);
		if (*t && !(f->state & CLOSED && opens(p)))
			return f;
		if (!*t)
			count(STALE);
		bpf_map_delete_elem(&flows, &p->key);
		return 0;
	}
	f = bpf_map_lookup_elem(&pending, &p->key);
	if (!f)
		return 0;
	*t = live(f);
	if (*t && !(f->state & CLOSED && opens(p)))
		return opens(p) ? f : promote(p, f);
	if (!*t)
		count(STALE);
	bpf_map_delete_elem(&pending, &p->key);
	return 0;
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

INLINE __u64 hash(const struct packet *p, __u64 seed)
{
	const struct flow_key *k = &p->key;
	__u64 h = mix(seed ^ 0x9e3779b97f4a7c15ULL);
	h = mix(h ^ word(k->src, 0));
	h = mix(h ^ word(k->src, 2));
	h = mix(h ^ word(p->dst, 0));
	h = mix(h ^ word(p->dst, 2));
	return mix(h ^ ((__u64)bpf_ntohs(k->sport) << 32 | (__u64)bpf_ntohs(k->dport) << 16 | k->proto));
}

/* service is the index of the packet's service, or -1. */
INLINE __s64 service(struct packet *p)
{
	struct service_key k = {.vip = p->key.vip, .port = p->key.dport, .proto = p->key.proto};
	if (!k.port) /* that stands for all ports, and is none of them */
		return -1;
	__u32 *at = bpf_map_lookup_elem(&services, &k);
	if (!at) {
		k.port = 0;
		at = bpf_map_lookup_elem(&services, &k);
	}
	return at ? *at : -1;
}

/* spent takes one from the service's budget. CPUs may overdraw it a little. */
INLINE int spent(struct service *s, __u64 now)
{
	if (!s->budget)
		return 0;
	__u32 in = now >> window;
	if (s->window != in) {
		s->window = in;
		s->used = 0;
	}
	if (s->used >= s->budget)
		return 1;
	__sync_fetch_and_add(&s->used, 1);
	return 0;
}

/* place sends a flow that is in neither map where the lookup table says. */
INLINE struct flow *place(struct packet *p, __u32 at, struct service *s, __u8 rule, struct flow *f, struct target **t)
{
	__u32 i = at * LOOKUP + (__u32)(hash(p, s->seed) % LOOKUP);
	__u32 *slot = bpf_map_lookup_elem(&lookup, &i);
	if (!slot || !*slot)
		goto nobody;
	__u32 to = at * SLOTS + *slot - 1;
	*t = bpf_map_lookup_elem(&targets, &to);
	if (!*t || !(*t)->gen)
		goto nobody;
	f->target = to;
	f->gen = (*t)->gen;
	f->rule = rule;
	f->created = p->now;
	p->placed = 1;
	return f;
nobody:
	note(p, NO_BACKEND);
	return 0;
}

/* decide is the packet's flow and target, or 0: the packet goes up. new is
 * room for a flow without an entry. XDP leaves the budget to TC. */
INLINE struct flow *decide(struct packet *p, struct flow *new, struct target **t)
{
	struct flow *f = find(p, t);
	if (f)
		return f;
	__s64 found = service(p);
	if (found < 0)
		return 0;
	__u32 at = found;
	struct service *s = bpf_map_lookup_elem(&rules, &at);
	if (!s)
		return 0;
	if (p->dead || s->table) {
		p->fresh = 1;
		return place(p, at, s, p->dead ? BY_FALLBACK : BY_TABLE, new, t);
	}
	if (p->look)
		return 0;
	if (spent(s, p->now)) { /* a flood, perhaps: it is not worth an entry */
		count(OVER_BUDGET);
		return place(p, at, s, BY_FALLBACK, new, t);
	}
	count(UPCALLS);
	return 0;
}

/* account notes a packet that is forwarded, and a flow that is new. */
INLINE void account(struct flow *f, const struct packet *p, __u32 packets, __u32 bytes)
{
	f->seen = p->now;
	f->packets += packets; /* one CPU handles a flow at a time, nearly always */
	f->bytes += bytes;
	if (p->flags & (FIN | RST))
		f->state = CLOSED;
	if (p->placed)
		count(PLACED);
	__u32 to = f->target;
	struct sum *sum = bpf_map_lookup_elem(&sums, &to);
	if (!sum)
		return;
	sum->packets += packets;
	sum->bytes += bytes;
	if (!p->fresh)
		return;
	if (f->rule == BY_TABLE)
		sum->by_table++;
	else
		sum->by_fallback++;
	bpf_map_update_elem(&pending, &p->key, f, BPF_ANY);
}

/* The source port spreads flows over paths and queues (RFC 7510, §5.1). */
INLINE __be16 entropy(const struct flow_key *k)
{
	__u32 h = k->src[0] ^ k->src[1] ^ k->src[2] ^ k->src[3] ^ ((__u32)k->sport << 16 | k->dport);
	return bpf_htons(0xc000 | h * 0x9e3779b1 >> 18); /* Fibonacci hashing: all bits of the ports count */
}

/* The headers before a tunnelled packet. */
struct outer4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

struct outer6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct udphdr udp;
} __attribute__((packed));

INLINE void link_header(struct ethhdr *eth, const struct target *t, __be16 proto)
{
	__builtin_memcpy(eth->h_dest, t->dmac, 6);
	__builtin_memcpy(eth->h_source, t->smac, 6);
	eth->h_proto = proto;
}

INLINE void wrap4(struct outer4 *h, const struct target *t, const struct packet *p, __u32 inner)
{
	const __u32 size = sizeof(h->ip) + sizeof(h->udp);
	link_header(&h->eth, t, bpf_htons(ETH_P_IP));
	struct iphdr ip = {
		.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .frag_off = bpf_htons(0x4000),
		.tot_len = bpf_htons(inner + size), .saddr = t->src[3], .daddr = t->addr[3],
	};
	ip.check = checksum4(&ip);
	h->ip = ip;
	h->udp = (struct udphdr){.source = entropy(&p->key), .dest = t->port, .len = bpf_htons(inner + sizeof(h->udp))};
}

/* The UDP checksum is zero, as tunnels may have it (RFC 6935, §5). */
INLINE void wrap6(struct outer6 *h, const struct target *t, const struct packet *p, __u32 inner)
{
	link_header(&h->eth, t, bpf_htons(ETH_P_IPV6));
	struct ipv6hdr ip = {
		.version = 6, .hop_limit = 64, .nexthdr = IPPROTO_UDP, .payload_len = bpf_htons(inner + sizeof(h->udp)),
	};
	__builtin_memcpy(&ip.saddr, t->src, 16);
	__builtin_memcpy(&ip.daddr, t->addr, 16);
	h->ip = ip;
	h->udp = (struct udphdr){.source = entropy(&p->key), .dest = t->port, .len = ip.payload_len};
}

#endif
