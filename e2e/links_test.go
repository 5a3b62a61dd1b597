package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
)

// All hosts have their addresses on a link above the one with the wire, which
// has none:
//
//	balancer eth0.7 ── eth0 ── switch ── eth0 ── eth0.7 backend, client
//
// What a kernel is built without is tried on those of `make vm`.
func TestUpperLinks(t *testing.T) {
	for _, kind := range []topology.Kind{topology.VLAN, topology.QinQ, topology.MACVLAN, topology.Bridge, topology.Bond} {
		t.Run(string(kind), func(t *testing.T) {
			c := prepare(t, cluster.Options{Backends: 3, Upper: kind})
			for _, h := range append([]*topology.Host{c.LB, c.Client}, hosts(c)...) {
				if err := h.BridgeFilters(false); err != nil {
					t.Fatal(err)
				}
			}
			must(t, c.StartServer(t.Context()))
			must(t, c.StartAgents(t.Context()))
			allWorks(t, c, vips...)
			inKernel(t, c)
		})
	}
}

// Where netfilter sees a bridge's frames, as on a machine with Docker, packets are
// captured before the program sees them: all works, and status says why it is slow.
func TestFilteringBridge(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 3, Upper: topology.Bridge})
	if err := c.LB.BridgeFilters(true); errors.Is(err, os.ErrNotExist) {
		nettest.Unbuilt(t, "br_netfilter")
	} else {
		must(t, err)
	}
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	allWorks(t, c, vips...)
	s, err := c.Control().Status(t.Context())
	must(t, err)
	if c.Type != "userspace" && (len(s.Links) != 1 || !strings.Contains(s.Links[0].Note, "bridge-nf-call-iptables")) {
		t.Errorf("status says %+v", s.Links)
	}
}

// VLAN tags are in the packets, as drivers without offload have them.
func TestVLANTagsInPackets(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 3, Upper: topology.VLAN})
	for _, h := range append([]*topology.Host{c.LB, c.Client}, hosts(c)...) {
		must(t, h.VLANTags("eth0", false))
	}
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	allWorks(t, c, vips...)
	inKernel(t, c)
}

func hosts(c *cluster.Cluster) (list []*topology.Host) {
	for _, b := range c.Backends {
		list = append(list, b.Host)
	}
	return list
}

// The balancer has one wire, with the clients in one VLAN and the backends in
// another:
//
//	client eth0.7 ── switch ── eth0.7 balancer eth0.8 ── switch ── eth0.8 backend
func TestTrunk(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 3, Upper: topology.VLAN})
	second := func(h *topology.Host, n int) {
		t.Helper()
		must(t, h.AddVLAN("eth0", "eth0.8", 8, netlink.VLAN_PROTOCOL_8021Q))
		must(t, h.AddAddr("eth0.8", netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 88, 0, byte(n)}), 24)))
	}
	second(c.LB, 1)
	for i, b := range c.Backends {
		second(b.Host, 11+i)
		b.Data = netip.AddrFrom4([4]byte{10, 88, 0, byte(11 + i)})
	}
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	allWorks(t, c, vips...)
	inKernel(t, c)
}

// The active member of the balancer's bond loses its carrier: the other one takes
// over, and no connection is lost.
func TestBondFailsOver(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2, Upper: topology.Bond, Policy: "round-robin"})
	port := c.Switch.Ports()
	must(t, c.Switch.Attach(c.LB, "eth1"))
	must(t, c.LB.AddMember("eth0", "eth1"))
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	h := hold(t, c, 50)
	first, second := "port0", fmt.Sprintf("port%d", port) // the balancer is the first host at the switch
	for range 3 {
		must(t, c.Switch.SetUp(first, false))
		h.check(t, first+" down")
		newWorks(t, c, first+" down", vips...)
		must(t, c.Switch.SetUp(first, true))
		h.check(t, first+" up again")
		first, second = second, first
	}
	inKernel(t, c)
}

// Clients come in by a link that no program is at: their flows go by userspace,
// and end. They were offloaded and never collected, so that full backends stayed
// full.
func TestLinkWithoutAProgram(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Type: withoutXDP(), Datapath: "links = [\"eth9\"]\ntimeouts.tcp_syn = \"1s\"\ntimeouts.tcp_fin = \"1s\""})
	for range 10 {
		for _, vip := range vips {
			_, err := httpGet(t, c, vip)
			must(t, err)
		}
	}
	await(t, "the end of all flows", func() error {
		rows, err := c.Control().Backends(t.Context())
		for _, r := range rows {
			if r.Flows != 0 && err == nil {
				err = fmt.Errorf("%d flows at %s in %s", r.Flows, r.Name, r.Service)
			}
		}
		return err
	})
}

var tunnels = []struct {
	kind topology.Kind
	vips []netip.Addr
}{
	{topology.WireGuard, vips}, {topology.GRE, vips}, {topology.IPIP, vips[:1]},
}

// join makes a tunnel between the balancer and another host of the cluster, with
// the addresses 10.N.0.1 and 10.N.0.2, and their like of IPv6, in it.
func join(t *testing.T, c *cluster.Cluster, kind topology.Kind, n byte, link string, h *topology.Host, outer netip.Addr) (lb, other []netip.Prefix) {
	t.Helper()
	inner := func(host byte) []netip.Prefix {
		list := []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 90, n, host}), 24)}
		if kind != topology.IPIP {
			list = append(list, netip.MustParsePrefix(fmt.Sprintf("fd90:%x::%x/64", n, host)))
		}
		return list
	}
	lb, other = inner(1), inner(2)
	err := topology.Tunnel(kind, topology.End{Host: c.LB, Link: link, Outer: netip.MustParseAddr("10.77.0.1"), Inner: lb},
		topology.End{Host: h, Link: "tun0", Outer: outer, Inner: other})
	if errors.Is(err, unix.EOPNOTSUPP) {
		nettest.Unbuilt(t, string(kind)+" links")
	}
	must(t, err)
	return lb, other
}

// The client comes in by a link without an Ethernet header; what the backends
// answer takes the ordinary way.
func TestTunnelledClients(t *testing.T) {
	for _, tt := range tunnels {
		t.Run(string(tt.kind), func(t *testing.T) {
			slow := fastpath.Attachable(core.Link{Type: string(tt.kind)}) != nil
			c := prepare(t, cluster.Options{Backends: 2})
			gateways, _ := join(t, c, tt.kind, 0, "tun0", c.Client, netip.MustParseAddr("10.77.0.100"))
			for _, key := range []string{"all", "eth0"} {
				must(t, c.Client.Sysctl("net.ipv4.conf."+key+".rp_filter", "0"))
			}
			for i, vip := range tt.vips {
				must(t, c.Client.Route(netip.PrefixFrom(vip, vip.BitLen()), gateways[i].Addr()))
				for _, b := range c.Backends {
					must(t, b.Route(gateways[i].Masked(), []netip.Addr{netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("fd77::64")}[i]))
				}
			}
			must(t, c.StartServer(t.Context()))
			must(t, c.StartAgents(t.Context()))
			allWorks(t, c, tt.vips...)
			s, err := c.Control().Status(t.Context())
			must(t, err)
			for _, l := range s.Links {
				if l.Name == "tun0" && (l.Program == "") != (c.Type == "userspace" || slow) || l.Name == "tun0" && l.Note == "" {
					t.Errorf("status says %+v", l)
				}
			}
			if !slow {
				inKernel(t, c)
			}
		})
	}
}

// The backends are behind links without an Ethernet header.
func TestTunnelledBackends(t *testing.T) {
	for _, tt := range tunnels {
		t.Run(string(tt.kind), func(t *testing.T) {
			c := prepare(t, cluster.Options{Backends: 2})
			slow := fastpath.Attachable(core.Link{Type: string(tt.kind)}) != nil
			if slow { // an agent that is to have tc would not start
				c.Agents = "auto"
			}
			for i, b := range c.Backends {
				_, inner := join(t, c, tt.kind, byte(1+i), fmt.Sprintf("tun%d", i), b.Host, b.Data)
				b.Data = inner[0].Addr()
			}
			must(t, c.StartServer(t.Context()))
			must(t, c.StartAgents(t.Context()))
			allWorks(t, c, vips...)
			if !slow {
				inKernel(t, c)
			}
		})
	}
}
