package datapath

import (
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/caplance/caplance/core/verdict"
)

// What comes up and is for no service is the machine's only where that is reached at
// the VIP, but for what it answers anyway.
func TestForeignByHostAccess(t *testing.T) {
	other := netip.AddrPortFrom(vip4.Addr(), 81)
	unreachable := packettest.ICMPError(client(1).Addr(), 3, 3, packettest.UDP(other, client(1), nil))
	pings := fragments(t, packettest.IP(client(1).Addr(), vip4.Addr(), protoICMP, append([]byte{8, 0, 0, 0}, make([]byte, 3000)...)), 1280)
	datagram := fragments(t, packettest.UDP(client(1), other, make([]byte, 3000)), 1280)
	tests := []struct {
		name    string
		packets [][]byte
		kept    bool // for the machine alone, where it is reached
	}{
		{"SYN", [][]byte{packettest.TCP(client(1), other, packet.SYN, nil)}, true},
		{"ACK", [][]byte{packettest.TCP(client(1), other, packet.ACK, nil)}, false},
		{"SYN ACK", [][]byte{packettest.TCP(client(1), other, packet.SYN|packet.ACK, nil)}, false},
		{"UDP", [][]byte{packettest.UDP(client(1), other, nil)}, true},
		{"UDP in fragments", datagram, true},
		{"GRE", [][]byte{packettest.IP(client(1).Addr(), vip4.Addr(), 47, make([]byte, 20))}, true},
		{"ping in fragments", pings, false},
		{"error about no flow of a service", [][]byte{unreachable}, false},
	}
	for _, host := range []bool{false, true} {
		for _, tt := range tests {
			r := newRig(t, 1)
			r.change(func(s *core.Snapshot) { s.VIPs = &core.VIPSet{List: []core.VIP{{Addr: vip4.Addr(), Host: host}}} })
			want, counted := verdict.Accept, Foreign
			if tt.kept && !host {
				want, counted = verdict.Drop, Unclaimed
			}
			for _, b := range tt.packets {
				if got := r.workers[0].Packet(b, 0); got != want {
					t.Errorf("%s, host access %v: verdict %v, want %v", tt.name, host, got, want)
				}
			}
			if n := r.count(counted); n != uint64(len(tt.packets)) {
				t.Errorf("%s, host access %v: %d counted as %v", tt.name, host, n, counted)
			}
		}
	}
}

// A new flow of a service that is leaving is refused at once, as by the machine, though
// that does not get it: something may listen there.
func TestLeavingServiceRefuses(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(1, nil, nil)
	leaving := *r.services[0]
	leaving.Leaving = true
	r.change(func(s *core.Snapshot) {
		s.Services, s.VIPs = core.NewServiceSet([]*core.Service{&leaving}), &core.VIPSet{List: []core.VIP{{Addr: vip4.Addr()}}}
	})
	w := r.workers[0]
	w.errQuota, w.rstQuota = errorsPerTick, resetsPerTick
	for _, b := range [][]byte{syn(1), packettest.UDP(client(2), vip4, []byte("x"))} {
		r.tunnels[0].out = nil
		if v := w.Packet(b, 0); v != verdict.Drop || len(r.tunnels[0].out) != 1 {
			t.Errorf("verdict %v, %d answers", v, len(r.tunnels[0].out))
		}
	}
	if n := r.count(Refused); n != 2 {
		t.Errorf("%d refused", n)
	}
}
