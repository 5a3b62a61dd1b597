package sources

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/netmon"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/state"
)

// What a data IP cannot be: the balancer's own, a VIP, and where no packet gets
// to. The VIPs are those of the moment.
func TestRefused(t *testing.T) {
	nettest.NetNS(t)
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	addr4, _ := netlink.ParseAddr("10.0.0.1/24")
	addr6, _ := netlink.ParseAddr("fd00::1/64")
	if err := errors.Join(netlink.LinkAdd(link), netlink.AddrAdd(link, addr4), netlink.AddrAdd(link, addr6)); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	net, err := netmon.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Close()
	cfg := &config.Server{}
	s := &Sources{Server: func() *config.Server { return cfg }, Store: state.New(log), Net: net, Log: log}
	vips := func(list ...string) {
		services := make([]*core.Service, len(list))
		for i, vip := range list {
			services[i] = &core.Service{Name: "web" + vip, VIP: netip.MustParseAddr(vip), Protos: []uint8{core.ProtoTCP}}
		}
		if _, err := s.Store.Update(Config, func(dr *state.Draft) error { return dr.SetServices(services) }); err != nil {
			t.Fatal(err)
		}
	}
	vips("192.0.2.1")
	for addr, want := range map[string]string{
		"10.0.0.2": "", "10.0.1.255": "", "fd00::2": "", "fd00::ffff:ffff:ffff:ffff": "", "192.0.2.2": "",
		"10.0.0.1": "is the balancer's own", "fd00::1": "is the balancer's own",
		"10.0.0.255": "is the broadcast address of 10.0.0.0/24",
		"192.0.2.1":  "is the VIP of service web192.0.2.1",
		"127.0.0.1":  "is a loopback address", "169.254.0.9": "is a link-local address", "fe80::9": "is a link-local address",
		"255.255.255.255": "is the broadcast address", "250.0.0.1": "is a reserved address",
	} {
		got := s.Refused("web1", netip.MustParseAddr(addr))
		if (want == "") != (got == nil) || got != nil && !strings.Contains(got.Error(), "data IP "+addr+" "+want) {
			t.Errorf("%s: %v, want %q", addr, got, want)
		}
	}
	vips("192.0.2.1", "192.0.2.2")
	if s.Refused("web1", netip.MustParseAddr("192.0.2.2")) == nil {
		t.Error("a VIP that came later is not refused")
	}
	cfg = &config.Server{Static: []config.StaticBackend{{Backend: core.Backend{Name: "old1"}}}}
	if err := s.Refused("old1", netip.MustParseAddr("10.0.0.2")); err == nil || !strings.Contains(err.Error(), "is in the balancer's configuration") {
		t.Errorf("a static backend's name: %v", err)
	}
}
