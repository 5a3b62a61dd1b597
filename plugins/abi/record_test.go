package abi_test

import (
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/abi"
	"github.com/google/go-cmp/cmp"
)

var flow = core.NewFlow{
	Key: core.FlowKey{
		Src: netip.MustParseAddr("192.0.2.1").As16(), SrcPort: 0x1122,
		Dst: netip.MustParseAddr("2001:db8::7").As16(), DstPort: 0x3344,
		Proto: core.ProtoTCP,
	},
	Hash: 0x0102030405060708, Rand: 0x1112131415161718, Now: 0x2122232425262728,
	Family: 6, Service: 0x31323334, Mark: 0x41424344,
	Flags: core.FlowSYN | core.FlowFragment, Attempt: -2,
}

var member = core.Member{
	Backend: core.Backend{Addr: netip.MustParseAddr("198.51.100.9"), Weight: 0x01020304, State: core.Draining, Zone: 0x2122, MaxFlows: 0x31, Priority: 0x41, Label: 0x51},
	ID:      0x1112131415161718,
	Ramp:    core.FullRamp,
}

func TestPutFlow(t *testing.T) {
	want := []byte{
		80, 0, 6, 6, 0x22, 0x11, 0x44, 0x33,
		8, 7, 6, 5, 4, 3, 2, 1,
		0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
		0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1,
		0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
		0x34, 0x33, 0x32, 0x31, 0x44, 0x43, 0x42, 0x41,
		3, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff,
	}
	var got [abi.FlowSize]byte
	abi.PutFlow(&got, &flow)
	if d := cmp.Diff(want, got[:]); d != "" {
		t.Errorf("flow record (-want +got):\n%s", d)
	}
}

func TestPutBackend(t *testing.T) {
	want := make([]byte, abi.BackendSize)
	copy(want, []byte{
		0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
		4, 3, 2, 1, 3, 0, 0x22, 0x21,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 9,
		0, 0, 4, 0, 0x31, 0, 0, 0,
		0x41, 0, 0, 0, 0xe8, 3, 0, 0,
		0x51, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x03,
	})
	got := [abi.BackendSize]byte{60: 0xff} // leftovers of another record
	member.Vitals = new(core.Vitals)
	member.Vitals.SetLoad(0x302)
	abi.PutBackend(&got, &member)
	if d := cmp.Diff(want, got[:]); d != "" {
		t.Errorf("backend record (-want +got):\n%s", d)
	}
}

func TestPutEnd(t *testing.T) {
	want := [abi.EndSize]byte{0: 7, 8: 8, 16: 9}
	got := [abi.EndSize]byte{31: 0xff}
	abi.PutEnd(&got, &core.FlowEnd{Packets: 7, Bytes: 8, Duration: 9})
	if got != want {
		t.Errorf("END record is % x, want % x", got, want)
	}
}

func TestPutInfo(t *testing.T) {
	want := [abi.InfoSize]byte{1, 0, 0, 0, 4, 0, 0, 0, 8: 9, 16: 3}
	got := [abi.InfoSize]byte{63: 0xff}
	abi.PutInfo(&got, abi.Info{Worker: 1, Workers: 4, Seed: 9, Epoch: 3})
	if got != want {
		t.Errorf("info record is % x, want % x", got, want)
	}
}

func TestEncodersDoNotAllocate(t *testing.T) {
	var f [abi.FlowSize]byte
	var b [abi.BackendSize]byte
	if n := testing.AllocsPerRun(100, func() {
		abi.PutFlow(&f, &flow)
		abi.PutBackend(&b, &member)
	}); n != 0 {
		t.Errorf("encoding allocates %v times, want 0", n)
	}
}

func BenchmarkPutFlow(b *testing.B) {
	var r [abi.FlowSize]byte
	for b.Loop() {
		abi.PutFlow(&r, &flow)
	}
}
