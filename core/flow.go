package core

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"time"
)

// IP protocol numbers that a service can balance (IANA protocol-numbers).
const (
	ProtoTCP uint8 = 6
	ProtoUDP uint8 = 17
)

// FlowKey is the 5-tuple of a flow as the client sends it: Src is the client,
// Dst the VIP. Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d,
// ports in host order. The zero padding makes the type comparable and usable
// as a map key.
type FlowKey struct {
	Src, Dst         [16]byte
	SrcPort, DstPort uint16
	Proto            uint8
}

// Hash returns the keyed hash of the 5-tuple: the same for the same seed on every
// machine, so balancers that share a seed agree. It folds the tuple's five
// 64-bit words through the xorshift-multiply permutation below; it uses only
// 64-bit multiplications, so that a BPF program can compute the same value.
func (k *FlowKey) Hash(seed uint64) uint64 {
	h := Mix(seed ^ 0x9e3779b97f4a7c15)
	h = Mix(h ^ binary.BigEndian.Uint64(k.Src[:8]))
	h = Mix(h ^ binary.BigEndian.Uint64(k.Src[8:]))
	h = Mix(h ^ binary.BigEndian.Uint64(k.Dst[:8]))
	h = Mix(h ^ binary.BigEndian.Uint64(k.Dst[8:]))
	return Mix(h ^ (uint64(k.SrcPort)<<32 | uint64(k.DstPort)<<16 | uint64(k.Proto)))
}

// TunnelPort returns the source port of the flow's tunnel packets: it spreads
// flows over paths and queues (RFC 7510, §5.1) in the dynamic range (RFC 6335).
// entropy in fastpath/bpf/flows.h returns the same.
func (k *FlowKey) TunnelPort() uint16 {
	le := binary.LittleEndian
	h := le.Uint32(k.Src[:]) ^ le.Uint32(k.Src[4:]) ^ le.Uint32(k.Src[8:]) ^ le.Uint32(k.Src[12:])
	h ^= uint32(bits.ReverseBytes16(k.SrcPort))<<16 | uint32(bits.ReverseBytes16(k.DstPort))
	return 0xc000 | uint16(h*0x9e3779b1>>18) // Fibonacci hashing: all bits of the ports count
}

// Mix maps the 64-bit words one to one so that it spreads every input bit over the
// output (constants of Degski's 64-bit mixer, 2018).
func Mix(x uint64) uint64 {
	x ^= x >> 32
	x *= 0xd6e8feb86659fd93
	x ^= x >> 32
	x *= 0xd6e8feb86659fd93
	x ^= x >> 32
	return x
}

// SrcAddr returns the client's address and port.
func (k *FlowKey) SrcAddr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(k.Src).Unmap(), k.SrcPort)
}

// DstAddr returns the VIP and the service's port.
func (k *FlowKey) DstAddr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(k.Dst).Unmap(), k.DstPort)
}

// ClockSlack is how far two times may be apart that were one: what a backend says
// is as exact as its clock and the ticks of our kernel (10 ms).
const ClockSlack = 20 * time.Millisecond

// Unseen returns for how long at most nothing can have come of a flow whose last
// packet is some time old. If a SYN came on its tuple, the doubt is in favour of
// another connection.
func Unseen(idle time.Duration, reopened bool) time.Duration {
	if reopened {
		return idle - ClockSlack
	}
	return idle + ClockSlack
}

// NewFlow is what a policy may know when it is asked for a backend.
type NewFlow struct {
	Key     FlowKey
	Hash    uint64 // Key.Hash(service seed)
	Rand    uint64 // fresh for every pick, so that a recorded pick replays
	Now     uint64 // CLOCK_MONOTONIC, ns
	Family  uint8  // 4 or 6
	Service uint32 // Service.ID
	Mark    uint32 // the packet's fwmark
	Flags   uint32 // Flow… bits
	Attempt int32  // 0 at first, counts re-schedulings of the same flow
}

// Bits of NewFlow.Flags; all others are reserved and zero.
const (
	FlowSYN      uint32 = 1 << 0 // the packet opens a TCP connection
	FlowFragment uint32 = 1 << 1 // the packet is an IP fragment
)

// Decision says who picked the backend of a flow.
type Decision uint8

// The deciders, in the order in which they are tried.
const (
	ByPolicy   Decision = iota // the policy's pick
	ByTable                    // the table that the policy filled beforehand
	ByFallback                 // the lookup table: the policy failed or had no choice
	ByReject                   // the policy refused the flow (no backend)
	ByNobody                   // no backend is eligible (no backend)
)

var decisionNames = [...]string{"policy", "table", "fallback", "reject", "nobody"}

// Decisions is the number of deciders, for arrays indexed by Decision.
const Decisions = len(decisionNames)

func (d Decision) String() string { return decisionNames[d] }

// FlowEnd is what a policy is told of a flow that ended.
type FlowEnd struct {
	Backend  Handle
	Packets  uint64 // from the client
	Bytes    uint64 // of these
	Duration uint64 // from first to last packet, ns
}
