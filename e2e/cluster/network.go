package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/caplance/caplance/e2e/topology"
)

// segment is a switch and its networks, 10.N.0.0/24 and fdN::/64.
type segment struct {
	*topology.Switch
	number byte
}

func (s segment) addr4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, s.number, 0, byte(n)}) }
func (s segment) addr6(n int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd%d::%x", s.number, n))
}

// networks returns those of the segment's hosts.
func (s segment) networks() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(s.addr4(0), 24), netip.PrefixFrom(s.addr6(0), 64)}
}

// router is the number of a router's address in each segment.
const router = 254

// network makes the switches and all hosts.
func (c *Cluster) network() (err error) {
	if c.Net, err = topology.New(cmp.Or(c.Name, "capl")); err != nil {
		return err
	}
	if c.front, err = c.segment("sw", 77); err != nil {
		return err
	}
	c.Switch, c.back = c.front.Switch, c.front
	if c.Routed {
		if err = c.behindRouter(); err != nil {
			return err
		}
	}
	port := c.Switch.Ports()
	if c.LB, err = c.host(c.front, "lb", 1); err != nil {
		return err
	}
	if c.Client, err = c.host(c.front, "client", 100); err != nil {
		return err
	}
	for i := range c.Options.Backends {
		if err = c.backend(i); err != nil {
			return err
		}
	}
	if c.Type == "xdp" {
		return c.forXDP(port)
	}
	return nil
}

// forXDP makes the network one in which the balancer, at a port of the switch,
// can forward by native XDP.
func (c *Cluster) forXDP(port int) (err error) {
	if c.passing, err = c.Switch.PassXDP(port); err != nil {
		return err
	}
	return c.Client.Checksums("eth0", false)
}

// longestXDP is the MTU up to which a packet is in one page with what XDP needs
// around it.
const longestXDP = 3000

// datapathType returns the one that was asked for, or tc where there is no native XDP: on
// links above others, and for packets of several pages.
func (o *Options) datapathType() string {
	kind := cmp.Or(o.Type, os.Getenv("CAPLANCE_TYPE"), "auto")
	if kind == "xdp" && (o.Upper != "" || o.MTU > longestXDP) {
		return "tc"
	}
	return kind
}

// agentType returns the agents' datapath type, else the balancer's as agents have it.
func (c *Cluster) agentType() string {
	if c.Agents == "" && c.Type == "xdp" {
		return "tc"
	}
	return cmp.Or(c.Agents, c.Type)
}

// segment makes a switch.
func (c *Cluster) segment(name string, number byte) (segment, error) {
	s, err := c.Net.Switch(name)
	if err == nil {
		s.MTU = c.MTU
	}
	return segment{s, number}, err
}

// behindRouter gives the backends a segment of their own.
func (c *Cluster) behindRouter() (err error) {
	if c.back, err = c.segment("sw2", 78); err != nil {
		return err
	}
	r, err := c.Net.Host("router")
	if err != nil {
		return err
	}
	for link, s := range map[string]segment{"eth0": c.front, "eth1": c.back} {
		if err := c.join(s, r, link, router); err != nil {
			return err
		}
	}
	for _, name := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := r.Sysctl(name, "1"); err != nil {
			return err
		}
	}
	return nil
}

// host adds a host to a segment, with the n-th address of both families and a
// way to the other segment, if there is one.
func (c *Cluster) host(s segment, name string, n int) (*topology.Host, error) {
	h, err := c.Net.Host(name)
	if err != nil {
		return nil, err
	}
	if err := c.join(s, h, "eth0", n); err != nil || !c.Routed {
		return h, err
	}
	other := c.front
	if s == c.front {
		other = c.back
	}
	for i, gateway := range []netip.Addr{s.addr4(router), s.addr6(router)} {
		if err := h.Route(other.networks()[i], gateway); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// join attaches a host's link to a segment, with the n-th address of both
// families.
func (c *Cluster) join(s segment, h *topology.Host, link string, n int) error {
	addrs := []netip.Prefix{netip.PrefixFrom(s.addr4(n), 24), netip.PrefixFrom(s.addr6(n), 64)}
	if c.Upper == "" {
		return s.Attach(h, link, addrs...)
	}
	if err := s.Attach(h, link); err != nil {
		return err
	}
	return h.AddUpper(c.Upper, link, addrs...)
}

// backend adds the i-th backend and starts its services.
func (c *Cluster) backend(i int) error {
	h, err := c.host(c.back, fmt.Sprintf("b%d", i+1), 11+i)
	if err != nil {
		return err
	}
	b := &Backend{Host: h, cluster: c, Data: c.back.addr4(11 + i)}
	if c.DataV6 {
		b.Data = c.back.addr6(11 + i)
	}
	c.Backends = append(c.Backends, b)
	return b.Serve()
}

// Reattach gives the balancer its link again, after it was deleted.
func (c *Cluster) Reattach() error {
	port := c.Switch.Ports()
	err := c.join(c.front, c.LB, "eth0", 1)
	if err == nil && c.passing != nil {
		err = errors.Join(c.passing.Close(), c.forXDP(port))
	}
	return err
}

// Link returns the name of the link that a host has its addresses on.
func (c *Cluster) Link() string {
	if c.Upper != "" {
		return topology.UpperName("eth0")
	}
	return "eth0"
}
