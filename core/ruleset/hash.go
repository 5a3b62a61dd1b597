package ruleset

import (
	"encoding/binary"
	"math/bits"

	"github.com/caplance/caplance/core"
)

// FlowQueue returns the queue, counted from 0, to which the ruleset sends the
// packets of a flow: userspace hands fragments and ICMP errors, which the
// kernel could not place, to the worker that owns their flow.
func (c *Capture) FlowQueue(k *core.FlowKey) int {
	if c.Queues == 1 {
		return 0
	}
	var b [20]byte
	n := copy(b[:], source(k))
	binary.BigEndian.PutUint16(b[n:], k.SrcPort)
	binary.BigEndian.PutUint16(b[n+2:], k.DstPort)
	h := jhash(b[:n+4], c.Seed)
	return int(uint64(h) * uint64(c.Queues) >> 32) // reciprocal_scale, linux/kernel.h
}

// source returns the flow's source address as it stands in the packet.
func source(k *core.FlowKey) []byte {
	if mapped := [12]byte{10: 0xff, 11: 0xff}; [12]byte(k.Src[:12]) == mapped {
		return k.Src[12:]
	}
	return k.Src[:]
}

// jhash returns the kernel's hash of bytes (include/linux/jhash.h; Bob Jenkins,
// lookup3, 2006), which nft's jhash expression uses. Words are read in host
// order; every host this runs on has little-endian order.
func jhash(b []byte, seed uint32) uint32 {
	a := 0xdeadbeef + uint32(len(b)) + seed
	x, y, z := a, a, a
	for ; len(b) > 12; b = b[12:] {
		x += binary.LittleEndian.Uint32(b)
		y += binary.LittleEndian.Uint32(b[4:])
		z += binary.LittleEndian.Uint32(b[8:])
		x -= z
		x ^= bits.RotateLeft32(z, 4)
		z += y
		y -= x
		y ^= bits.RotateLeft32(x, 6)
		x += z
		z -= y
		z ^= bits.RotateLeft32(y, 8)
		y += x
		x -= z
		x ^= bits.RotateLeft32(z, 16)
		z += y
		y -= x
		y ^= bits.RotateLeft32(x, 19)
		x += z
		z -= y
		z ^= bits.RotateLeft32(y, 4)
		y += x
	}
	if len(b) == 0 {
		return z
	}
	var tail [12]byte
	copy(tail[:], b)
	x += binary.LittleEndian.Uint32(tail[:])
	y += binary.LittleEndian.Uint32(tail[4:])
	z += binary.LittleEndian.Uint32(tail[8:])
	z ^= y
	z -= bits.RotateLeft32(y, 14)
	x ^= z
	x -= bits.RotateLeft32(z, 11)
	y ^= x
	y -= bits.RotateLeft32(x, 25)
	z ^= y
	z -= bits.RotateLeft32(y, 16)
	x ^= z
	x -= bits.RotateLeft32(z, 4)
	y ^= x
	y -= bits.RotateLeft32(x, 14)
	z ^= y
	z -= bits.RotateLeft32(y, 24)
	return z
}
