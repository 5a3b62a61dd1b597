// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What both programs need of packets: types shared with Go, and parsing. */
#ifndef CAPLANCE_PACKET_H
#define CAPLANCE_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define INLINE static __always_inline

#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

/* Leave the packet to whoever is next: tcx, other filters, the stack. */
#define PASS TC_ACT_UNSPEC

/* Flags of bpf_skb_adjust_room that are newer than Debian 12's headers. */
#ifndef BPF_F_ADJ_ROOM_DECAP_L3_IPV4
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7)
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)
#endif

#define AF_INET 2 /* linux/socket.h has none for programs */
#define AF_INET6 10

#define FRAGMENT 0x3fff /* more fragments, or an offset */

/* aside reports whether the packet is none that this link's IP layer would get:
 * one of a VLAN, which comes again on the VLAN's link, or one for another
 * station, as a promiscuous link sees them. */
INLINE int aside(const struct __sk_buff *skb)
{
	return skb->vlan_present || skb->pkt_type != PACKET_HOST;
}

/* An address is 16 bytes in network order, IPv4 as ::ffff:a.b.c.d. */
INLINE void map4(__be32 a[4], __be32 v4)
{
	a[0] = 0;
	a[1] = 0;
	a[2] = bpf_htonl(0xffff);
	a[3] = v4;
}

INLINE void copy6(__be32 a[4], const struct in6_addr *from)
{
	__builtin_memcpy(a, from, 16);
}

/* linear makes the first bytes of the packet accessible, where they are not:
 * it moves memory. */
INLINE void linear(struct __sk_buff *skb, __u32 bytes)
{
	if (bytes > skb->len)
		bytes = skb->len;
	if (skb->data_end - skb->data < bytes)
		bpf_skb_pull_data(skb, bytes);
}

/* RFC 1071, of a header of 20 bytes. */
INLINE __sum16 checksum4(const struct iphdr *ip)
{
	const __u16 *p = (const void *)ip;
	__u32 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += p[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

#endif
