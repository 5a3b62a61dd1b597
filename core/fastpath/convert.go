package fastpath

import (
	"encoding/binary"
	"net/netip"
)

// words returns an address as the programs hold it: in network order.
func words(a [16]byte) (w [4]uint32) {
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(a[4*i:])
	}
	return w
}

// octets returns the inverse of words.
func octets(w [4]uint32) (a [16]byte) {
	for i := range w {
		binary.NativeEndian.PutUint32(a[4*i:], w[i])
	}
	return a
}

func address(a netip.Addr) [4]uint32 { return words(a.As16()) }

// network returns a port as it stands in a packet.
func network(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

func flag(on bool) uint8 {
	if on {
		return 1
	}
	return 0
}
