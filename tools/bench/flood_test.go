package main

import (
	"net"
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
)

// The flood's frames are what they look like, and each is another flow.
func TestFrames(t *testing.T) {
	f := &flood{messages: newMessages(frameSize), fd: -1}
	vip := netip.MustParseAddrPort("192.0.2.1:53")
	for i := range f.buf {
		template(f.buf[i], net.HardwareAddr{2, 0, 0, 0, 0, 9}, vip)
	}
	seen := map[core.FlowKey]bool{}
	for range 2000 {
		f.fill()
		for i := range f.buf {
			var p packet.Packet
			if err := p.Parse(f.buf[i][etherHeader:]); err != nil || p.Key.DstAddr() != vip {
				t.Fatalf("frame to %v: %v", p.Key.DstAddr(), err)
			}
			seen[p.Key] = true
		}
	}
	if len(seen) != 2000*len(f.buf) {
		t.Errorf("%d flows in %d frames", len(seen), 2000*len(f.buf))
	}
	// The example of RFC 1071's readers (Wikipedia, Internet checksum).
	h := []byte{0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7}
	if checksum(h); h[10] != 0xb8 || h[11] != 0x61 {
		t.Errorf("checksum %x, want b861", h[10:12])
	}
}
