package e2e

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/caplance/caplance/e2e/topology"
	"golang.org/x/sys/unix"
)

// flood sends segments to a VIP from addresses and ports at random, as raw frames.
type flood struct {
	to    [6]byte // link-layer address
	vip   netip.AddrPort
	seed  uint64
	each  []uint8       // the flags of what each address sends; default: a SYN
	pause time.Duration // between two batches

	from netip.AddrPort // of the next segment
	sent int            // segments from there
}

// send sends n segments from a host's link.
func (f *flood) send(h *topology.Host, link string, n int) error {
	rng := rand.New(rand.NewPCG(f.seed, 0))
	return h.SendFrames(link, n, f.pause, func() []byte { return f.frame(rng) })
}

// frame returns a segment from somebody.
func (f *flood) frame(rng *rand.Rand) []byte {
	if len(f.each) == 0 {
		f.each = []uint8{packet.SYN}
	}
	if f.sent%len(f.each) == 0 {
		r := rng.Uint32()
		from := netip.AddrFrom4([4]byte{198, 18 | byte(r>>16&1), byte(r >> 8), byte(r)})
		f.from = netip.AddrPortFrom(from, uint16(1024+rng.Uint32N(64000)))
	}
	segment := packettest.TCP(f.from, f.vip, f.each[f.sent%len(f.each)], nil)
	f.sent++
	b := append(make([]byte, 0, 64), f.to[:]...)
	b = append(b, 2, 0, 0, 0, 0, 1, unix.ETH_P_IP>>8, unix.ETH_P_IP&0xff)
	return append(b, segment...)
}
