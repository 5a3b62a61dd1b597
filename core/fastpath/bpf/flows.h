// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Which backend a packet goes to: the same for the TC and the XDP program.
 *
 *	vips      destination → number of the VIP; other packets are left alone
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

/* flow.state. What is seen of the client is a hint; of a backend that tells of its
 * connections, only what it says ends a flow. */
enum {
	CLOSED = 1,   /* FIN or RST was seen */
	HALF = 2,     /* by FIN: the other direction may go on */
	REOPENED = 4, /* a SYN came while it was there */
	ENDED = 8,    /* its backend said so */
	PROVEN = 16,  /* its backend said that the connection is there */
};

enum { BY_POLICY, BY_TABLE, BY_FALLBACK }; /* flow.rule */

/* Times are in jiffies: reading them costs next to nothing. */
struct flow {
	__u32 handle;  /* core.Handle of the membership that it was placed at */
	__u16 service; /* core.ServiceID */
	__u8 state, rule;
	__u32 created, seen;
	__u64 packets;
	__u64 bytes; /* of the client's IP packets */
	__u32 next;  /* sequence number after the client's last segment; 0: not known */
	__u32 ack;   /* what the client acknowledged last; 0: not known */
};

/* An element takes 24 + 40 bytes, the kernel's 48 and 8 of its allocator, and a
 * bucket 16: 136 bytes a flow, of which the 120 come as flows do. */
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

#define SLOT(handle) ((handle) & 0xfffff) /* core.Handle.Slot */

enum {
	RESOLVED = 1, /* dmac and smac are known */
	BARE = 2,     /* the link has no Ethernet header; TC alone sends there */
};

struct target {
	__u32 handle;	     /* core.Handle of the membership; 0: nobody */
	__u8 paused, direct; /* direct: L2 rewrite, no tunnel */
	__u8 v6;	     /* family of addr, and so of the outer header */
	__u8 resolved;	     /* RESOLVED, BARE, or 0: the kernel knows the MACs */
	__u8 dmac[6], smac[6];
	__be16 port;		/* of the tunnel */
	__u8 tells;		/* its agent tells which connections are there */
	__u8 shut;		/* it gets no new flows */
	__u32 mtu;		/* longest inner packet */
	__u32 ifindex;		/* to send by */
	__be32 addr[4], src[4]; /* outer addresses */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct target);
	__uint(max_entries, 1);
} targets SEC(".maps"); /* by slot */

/* What each target got, counted by each CPU for itself. */
struct target_stat {
	__u64 packets, bytes;
	__u64 by_table, by_fallback; /* flows that the program placed itself */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct target_stat);
	__uint(max_entries, 1);
} target_stats SEC(".maps"); /* by slot */

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

/* A MAC as it is in memory. */
struct mac {
	__u32 high;
	__u16 low, pad;
};

/* By link: XDP is not told for whom a frame is. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct mac);
	__uint(max_entries, 1024);
} macs SEC(".maps");

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
	__u32 datagrams; /* each datagram is scheduled by itself */
	__u32 picky;	 /* its list of clients is to be asked */
	__u32 interval;	 /* between new flows of a source, 2^-16 jiffies; 0: there is no limit */
	__be32 mask4;	 /* of clients' addresses, which makes a source of them */
	__be32 mask6[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct service);
	__uint(max_entries, 1);
} service_conf SEC(".maps"); /* by core.ServiceID */

#define LOOKUP 65537 /* core.LookupSize */

/* A lookup table: the handle of the membership that a hash falls to, or 0. It
 * is one value: an entry of its own would take each slot 8 bytes, and each a
 * part of a system call. */
struct lookup_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* the daemon writes it in place */
	__uint(key_size, 4);
	__uint(value_size, 4 * LOOKUP);
	__uint(max_entries, 1);
};

/* By core.ServiceID; services without backends have none. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, 1);
	__array(values, struct lookup_table);
} lookup SEC(".maps");

/* A prefix of clients' addresses, as struct bpf_lpm_trie_key has it. */
struct client {
	__u32 bits; /* of addr that count: those of IPv4 are behind 96 others */
	__be32 addr[4];
};

const struct client *client_type __attribute__((unused)); /* else Go does not learn of it */

/* Which clients a service takes: what the longest prefix says of them, 1 to deny.
 * It has one of no bits for either family. */
struct client_list {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, sizeof(struct client));
	__uint(value_size, 4);
	__uint(max_entries, 1);
};

/* By core.ServiceID; services that take everybody have none. A list is not
 * changed, another one takes its place. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, 1);
	__array(values, struct client_list);
} clients SEC(".maps");

/* Packets of new flows of a service that were dropped. */
struct refusal {
	__u64 denied;  /* by its list of clients */
	__u64 limited; /* by max_new_flows */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct refusal);
	__uint(max_entries, 1);
} refusals SEC(".maps"); /* by core.ServiceID */

/* Whose new flows are counted together. */
struct source {
	__be32 addr[4]; /* masked */
	__u32 service;
};

/* When the source's token bucket is full again, 2^-16 jiffies (GCRA, ITU-T I.371). Those
 * that give way have a full one. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct source);
	__type(value, __u64);
	__uint(max_entries, 1);
} sources SEC(".maps");

volatile const __u32 burst; /* jiffies of new flows that a source may begin at once */

/* When the daemon was last alive, jiffies; 0: it is not. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} heartbeat SEC(".maps");

/* Not 0: the table of established flows fills. Flows of backends that tell of
 * their connections get there only once they are proven. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} strict SEC(".maps");

/* Where flows went that were placed beyond a budget and have no other entry, so
 * that a SYN that is sent again goes there, too. A flood of them turns this map
 * over, never the pending flows. */
struct overdraft {
	__u32 handle, seen;
	__u16 service, pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct overdraft);
	__uint(max_entries, 1 << 17);
} overdrafts SEC(".maps");

volatile const __u32 overdraft_timeout; /* jiffies */
volatile const __u32 heartbeat_timeout; /* jiffies: after that the daemon is down */
volatile const __u32 window;  /* log2 of a budget's time, jiffies */

/* In the order of fastpath.counterNames. */
enum { FORWARDED, XDP_FORWARDED, UPCALLS, PLACED, OVER_BUDGET, SLOW, TOO_LONG, STALE, PAUSED, NO_BACKEND, FULL, FAILED, DENIED, LIMITED, COUNTERS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 32); /* with room for others */
} counters SEC(".maps");

INLINE void count(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &what);
	if (n)
		(*n)++;
}

/* A packet that may be for a VIP, and what was found out about it. */
struct packet {
	struct flow_key key;
	__be32 dst[4];
	__u32 header; /* bytes of the IP header */
	__u32 length; /* bytes of the IP packet */
	__u8 flags;   /* of TCP */
	__u8 daemon_down;
	__u8 insert; /* its flow gets an entry */
	__u8 placed; /* by the lookup table */
	__u8 alone;  /* a datagram that is scheduled by itself: it has no flow */
	__u8 is_xdp; /* what XDP leaves to TC is counted there */
	__u8 to_vip;
	__u8 refused; /* it is dropped: its flow may not begin */
	__u8 ask; /* its backend is to be asked whether the flow still is */
	__u32 seq, ack;
	__u32 offset; /* bytes of the TCP header */
	__u8 tos; /* DSCP and ECN; of IPv6 the traffic class */
	__u8 ttl; /* of IPv6 the hop limit */
	__sum16 check; /* of an IPv4 header */
	__u64 now;
};

/* note counts what a packet goes up for. */
INLINE void note(const struct packet *p, __u32 what)
{
	if (!p->is_xdp)
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
		p->seq = bpf_ntohl(t->seq);
		p->ack = bpf_ntohl(t->ack_seq);
		p->offset = t->doff * 4;
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

/* find_vip completes the key with the VIP's number. */
INLINE int find_vip(struct packet *p)
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
			p->to_vip = 1;
			return 1;
		}
	}
	return 0;
}

/* extension reports whether an IPv6 header is followed by another before the
 * transport's (RFC 8200, §4). */
INLINE int extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT || next == IPPROTO_DSTOPTS;
}

/* parse reports whether the IP packet is for a VIP and the programs can handle
 * it. One that may go no further is answered by the daemon. */
INLINE int parse(void *data, void *end, __be16 proto, struct packet *p)
{
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data;
		if ((void *)(ip + 1) > end)
			return 0;
		map4(p->key.src, ip->saddr);
		map4(p->dst, ip->daddr);
		if (!find_vip(p))
			return 0;
		if (*(__u8 *)ip != 0x45 /* version and ihl */ || ip->frag_off & bpf_htons(FRAGMENT) || ip->ttl <= 1) {
			note(p, SLOW);
			return 0;
		}
		p->tos = ip->tos;
		p->ttl = ip->ttl;
		p->check = ip->check;
		p->key.proto = ip->protocol;
		p->header = sizeof(*ip);
		p->length = bpf_ntohs(ip->tot_len);
		return transport(ip + 1, end, p);
	}
	if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data;
		if ((void *)(ip + 1) > end)
			return 0;
		copy6(p->key.src, &ip->saddr);
		copy6(p->dst, &ip->daddr);
		if (!find_vip(p))
			return 0;
		if (ip->version != 6 || extension(ip->nexthdr) || ip->hop_limit <= 1) {
			note(p, SLOW);
			return 0;
		}
		p->tos = bpf_ntohs(*(__be16 *)ip) >> 4;
		p->ttl = ip->hop_limit;
		p->key.proto = ip->nexthdr;
		p->header = sizeof(*ip);
		p->length = bpf_ntohs(ip->payload_len) + sizeof(*ip);
		return transport(ip + 1, end, p);
	}
	return 0;
}

/* parse_frame does so for an Ethernet frame. */
INLINE int parse_frame(void *data, void *end, struct packet *p)
{
	struct ethhdr *eth = data;
	return (void *)(eth + 1) <= end && parse(eth + 1, end, eth->h_proto, p);
}

/* least is the shortest that the IP packet can be with its headers. */
INLINE __u32 least(const struct packet *p)
{
	return p->header + (p->key.proto == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr));
}

/* begin takes the time and checks the daemon's heartbeat. */
INLINE void begin(struct packet *p)
{
	__u32 zero = 0;
	__u64 *beat = bpf_map_lookup_elem(&heartbeat, &zero);
	p->now = bpf_jiffies64();
	p->daemon_down = !beat || !*beat || (__s64)(p->now - *beat) > heartbeat_timeout;
}

/* target_of returns the target of a handle, if its slot still belongs to that
 * membership. */
INLINE struct target *target_of(__u32 handle)
{
	__u32 at = SLOT(handle);
	struct target *t = bpf_map_lookup_elem(&targets, &at);
	return t && t->handle == handle ? t : 0;
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

/* What a packet may be to a flow with its tuple. */
enum { SAME, ANOTHER, ASK };

/* reused tells whether a SYN begins another connection. A backend that tells of
 * its connections sorts that out itself, as RFC 5961 says, unless it is to get
 * no new ones: then it is asked. Of others, FIN or RST must have been seen. */
INLINE int reused(const struct packet *p, const struct flow *f, const struct target *t)
{
	if (!opens(p))
		return SAME;
	if (!t->tells)
		return f->state & CLOSED ? ANOTHER : SAME;
	if (f->state & ENDED)
		return ANOTHER;
	return t->shut && !p->daemon_down ? ASK : SAME;
}

/* established returns a flow whose second packet came: it leaves the map that a
 * flood turns over. */
INLINE struct flow *established(struct packet *p, struct flow *f, const struct target *t)
{
	__u32 zero = 0;
	__u32 *full = bpf_map_lookup_elem(&strict, &zero);
	return full && *full && t->tells && !p->daemon_down ? f : promote(p, f);
}

/* find is the packet's flow. One whose backend left is forgotten, and one that
 * is over when its port is used anew. */
INLINE struct flow *find(struct packet *p, struct target **t)
{
	int pend = 0;
	struct flow *f = bpf_map_lookup_elem(&flows, &p->key);
	if (!f) {
		f = bpf_map_lookup_elem(&pending, &p->key);
		pend = 1;
	}
	if (!f)
		return 0;
	*t = target_of(f->handle);
	if (*t) {
		int what = reused(p, f, *t);
		if (what == SAME)
			return pend && !opens(p) ? established(p, f, *t) : f;
		if (what == ASK) {
			p->ask = 1;
			return 0;
		}
	} else {
		count(STALE);
	}
	if (pend)
		bpf_map_delete_elem(&pending, &p->key);
	else
		bpf_map_delete_elem(&flows, &p->key);
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

/* service returns the ID of the packet's service, or -1. */
INLINE __s64 service(struct packet *p)
{
	struct service_key k = {.vip = p->key.vip, .port = p->key.dport, .proto = p->key.proto};
	if (!k.port) /* 0 stands for all ports in the map, and is no port */
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

/* placed makes f the packet's flow, at a backend that the program found. */
INLINE struct flow *placed(struct packet *p, __u32 at, __u32 handle, __u8 rule, struct flow *f)
{
	f->handle = handle;
	f->service = at;
	f->rule = rule;
	f->created = p->now;
	p->placed = 1;
	return f;
}

/* place sends a flow that is in neither map where the lookup table says. */
INLINE struct flow *place(struct packet *p, __u32 at, struct service *s, __u8 rule, struct flow *f, struct target **t)
{
	__u32 zero = 0;
	__u64 h = hash(p, s->seed);
	if (p->alone) /* a socket's datagrams are spread like flows */
		h = mix(h ^ bpf_get_prandom_u32());
	__u64 i = h % LOOKUP;
	asm volatile("" : "+r"(i)); /* else the compiler takes out the check that the verifier wants */
	void *table = bpf_map_lookup_elem(&lookup, &at);
	if (!table)
		goto nobody;
	__u32 *handles = bpf_map_lookup_elem(table, &zero);
	if (!handles || i >= LOOKUP)
		goto nobody;
	__u32 handle = handles[i];
	if (!handle)
		goto nobody;
	*t = target_of(handle);
	if (!*t)
		goto nobody;
	return placed(p, at, handle, rule, f);
nobody:
	note(p, NO_BACKEND);
	return 0;
}

/* overdraw places a flow beyond the budget: a flood, perhaps, that is not worth a
 * pending entry. */
INLINE struct flow *overdraw(struct packet *p, __u32 at, struct service *s, struct flow *new, struct target **t)
{
	count(OVER_BUDGET);
	struct flow *f = place(p, at, s, BY_FALLBACK, new, t);
	/* The middle of a TCP flow goes by the lookup table in userspace, too. */
	if (f && !p->alone && (p->key.proto != IPPROTO_TCP || opens(p))) {
		struct overdraft o = {.handle = f->handle, .seen = p->now, .service = at};
		bpf_map_update_elem(&overdrafts, &p->key, &o, BPF_ANY);
	}
	return f;
}

/* ration places a flow by the service's budget: new flows come up while it
 * lasts. One that was placed beyond it stays where it was, and gets its pending
 * entry once the budget has room. */
INLINE struct flow *ration(struct packet *p, __u32 at, struct service *s, struct flow *new, struct target **t)
{
	int over = spent(s, p->now);
	struct overdraft *o = p->alone ? 0 : bpf_map_lookup_elem(&overdrafts, &p->key);
	*t = 0;
	if (o && o->service == at && (__s32)(p->now - o->seen) <= (__s32)overdraft_timeout)
		*t = target_of(o->handle);
	if (!o || !*t) {
		if (over)
			return overdraw(p, at, s, new, t);
		count(UPCALLS);
		return 0;
	}
	placed(p, at, o->handle, BY_FALLBACK, new);
	o->seen = p->now;
	if (over)
		count(OVER_BUDGET);
	if (!over || p->flags & (FIN | RST))
		bpf_map_delete_elem(&overdrafts, &p->key);
	p->insert = !over;
	return new;
}

/* denied reports whether a service's list of clients says no. Without the list,
 * which is there before it is to be asked, nobody is taken. */
INLINE int denied(const struct packet *p, __u32 at)
{
	struct client k = {.bits = 128};
	__builtin_memcpy(k.addr, p->key.src, sizeof(k.addr));
	void *list = bpf_map_lookup_elem(&clients, &at);
	if (!list)
		return 1;
	__u32 *deny = bpf_map_lookup_elem(list, &k);
	return !deny || *deny;
}

/* limited reports whether the packet's source has begun too many flows, and counts
 * this one, if take says so. CPUs may overdraw the bucket a little. */
INLINE int limited(const struct packet *p, __u32 at, const struct service *s, int take)
{
	const __be32 *a = p->key.src;
	struct source k = {.service = at};
	if (!a[0] && !a[1] && a[2] == bpf_htonl(0xffff)) {
		k.addr[2] = a[2];
		k.addr[3] = a[3] & s->mask4;
	} else {
#pragma unroll
		for (int i = 0; i < 4; i++)
			k.addr[i] = a[i] & s->mask6[i];
	}
	__u64 now = p->now << 16;
	__u64 *full = bpf_map_lookup_elem(&sources, &k);
	__u64 next = full && (__s64)(*full - now) > 0 ? *full : now;
	next += s->interval;
	if (next - now > (__u64)burst << 16)
		return 1;
	if (!take)
		return 0;
	if (full)
		*full = next;
	else
		bpf_map_update_elem(&sources, &k, &next, BPF_ANY);
	return 0;
}

/* refuse notes that a packet is dropped. */
INLINE int refuse(struct packet *p, __u32 what)
{
	count(what);
	p->refused = 1;
	return 0;
}

/* may_begin reports whether a packet may be the first of a flow. */
INLINE int may_begin(struct packet *p, __u32 at, const struct service *s)
{
	if (!s->picky && !s->interval)
		return 1;
	struct refusal *r = bpf_map_lookup_elem(&refusals, &at);
	if (s->picky && denied(p, at)) {
		if (r)
			r->denied++;
		return refuse(p, DENIED);
	}
	/* What XDP leaves to TC is counted there. */
	if (s->interval && limited(p, at, s, !p->is_xdp || s->table)) {
		if (r)
			r->limited++;
		return refuse(p, LIMITED);
	}
	return 1;
}

/* decide is the packet's flow and target, or 0: the packet goes up, unless it is
 * refused. new is room for a flow without an entry. XDP leaves the budget to
 * TC. */
INLINE struct flow *decide(struct packet *p, struct flow *new, struct target **t)
{
	struct flow *f = find(p, t);
	if (f || p->ask)
		return f;
	__s64 found = service(p);
	if (found < 0)
		return 0;
	__u32 at = found;
	struct service *s = bpf_map_lookup_elem(&service_conf, &at);
	if (!s || !may_begin(p, at, s))
		return 0;
	p->alone = s->datagrams && p->key.proto == IPPROTO_UDP;
	if (p->daemon_down || s->table) {
		p->insert = !p->alone;
		return place(p, at, s, p->daemon_down ? BY_FALLBACK : BY_TABLE, new, t);
	}
	if (p->is_xdp)
		return 0;
	return ration(p, at, s, new, t);
}

#define WINDOW (1 << 16) /* how far a segment may be from what is expected */

/* track follows a TCP flow. A FIN or RST counts only near the place where the
 * client is: others can forge one, but not its sequence number (RFC 5961). What
 * the client sends after it takes it back. */
INLINE void track(struct flow *f, const struct packet *p, __u32 bytes)
{
	if (p->key.proto != IPPROTO_TCP)
		return;
	__u32 payload = bytes - p->header - p->offset;
	if ((__s32)payload < 0)
		payload = 0;
	if (opens(p)) {
		if (!p->insert) {
			f->state |= REOPENED;
			return;
		}
		payload++;
	} else if (f->next && p->seq - f->next + WINDOW >= 2 * WINDOW) {
		return;
	} else if (p->flags & RST) {
		f->state = (f->state | CLOSED) & ~HALF;
	} else if (p->flags & FIN) {
		f->state |= CLOSED | HALF;
		payload++;
	} else if ((__s32)(p->seq + payload - f->next) > 0) {
		f->state &= ~(CLOSED | HALF);
	}
	if (p->flags & ACK)
		f->ack = p->ack;
	__u32 next = p->seq + payload;
	if (!f->next || (__s32)(next - f->next) > 0)
		f->next = next;
}

/* account notes a packet that is forwarded, and a flow that is new. */
INLINE void account(struct flow *f, const struct packet *p, __u32 packets, __u32 bytes)
{
	f->seen = p->now;
	f->packets += packets; /* one CPU handles a flow at a time, nearly always */
	f->bytes += bytes;
	track(f, p, bytes);
	if (p->placed)
		count(PLACED);
	__u32 at = SLOT(f->handle);
	struct target_stat *stat = bpf_map_lookup_elem(&target_stats, &at);
	if (!stat)
		return;
	stat->packets += packets;
	stat->bytes += bytes;
	if (!p->insert)
		return;
	if (f->rule == BY_TABLE)
		stat->by_table++;
	else
		stat->by_fallback++;
	bpf_map_update_elem(&pending, &p->key, f, BPF_ANY);
}

/* The source port spreads flows over paths and queues (RFC 7510, §5.1);
 * core.FlowKey.TunnelPort is the same. */
INLINE __be16 entropy(const struct flow_key *k)
{
	__u32 h = k->src[0] ^ k->src[1] ^ k->src[2] ^ k->src[3] ^ ((__u32)k->sport << 16 | k->dport);
	return bpf_htons(0xc000 | h * 0x9e3779b1 >> 18); /* Fibonacci hashing: all bits of the ports count */
}

/* hop takes one from the TTL, as a router does, and brings the checksum in line
 * (RFC 1624): the TTL is the high byte of its word. */
INLINE void hop(struct packet *p)
{
	__u32 sum = p->check + bpf_htons(0x0100);
	p->check = sum + (sum >= 0xffff);
	p->ttl--;
}

/* The headers before a tunnelled packet. DSCP and ECN are those of the packet
 * within (RFC 2983, §3.1; RFC 6040, §4.1, normal mode). */
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
		.version = 4, .ihl = 5, .tos = p->tos, .ttl = 64, .protocol = IPPROTO_UDP, .frag_off = bpf_htons(0x4000),
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
		.version = 6, .priority = p->tos >> 4, .hop_limit = 64, .nexthdr = IPPROTO_UDP, .payload_len = bpf_htons(inner + sizeof(h->udp)),
	};
	ip.flow_lbl[0] = p->tos << 4;
	__builtin_memcpy(&ip.saddr, t->src, 16);
	__builtin_memcpy(&ip.daddr, t->addr, 16);
	h->ip = ip;
	h->udp = (struct udphdr){.source = entropy(&p->key), .dest = t->port, .len = ip.payload_len};
}

#endif
