package agent

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"

	"github.com/caplance/caplance/core"
)

// hostName is RFC 1123's, which net.Dial resolves, and the underscore that some
// networks use.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?$`)

// server adds the registry's port where it is left out.
func (v *validator) server(s string) string {
	const port = "1338"
	if s == "" {
		v.failf("server", "the balancer's registry is missing (like \"10.0.0.1:%s\")", port)
		return ""
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return net.JoinHostPort(a.String(), port)
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		host, p = s, port
	}
	_, notAddr := netip.ParseAddr(host)
	if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 || notAddr != nil && !hostName.MatchString(host) {
		v.failf("server", "%q is not host:port of one balancer (like \"10.0.0.1:%s\" or \"lb.example.net\")", s, port)
	}
	return net.JoinHostPort(host, p)
}

// dataIP refuses addresses that no balancer can send to.
func (v *validator) dataIP(s string) netip.Addr {
	a := v.addr("data_ip", s)
	if is := core.Special(a); is != "" {
		v.failf("data_ip", "%s is %s and cannot be reached from a balancer (set an address of a network link, or leave it empty for the one towards the server)", a, is)
	}
	return a
}

// distinct refuses VIPs that would cut the agent off: a VIP is put on lo, where
// it takes the packets to that address.
func (v *validator) distinct(c *Config) {
	server, _ := netip.ParseAddrPort(c.Server) // else a name
	for i, vip := range c.VIPs {
		key := fmt.Sprintf("vips[%d]", i)
		switch {
		case !vip.IsValid():
		case vip == server.Addr().Unmap():
			v.failf(key, "%s is the server's address: on lo it would cut the agent off from its balancer (remove it, or give the service another vip)", vip)
		case vip == c.DataIP:
			v.failf(key, "%s is the data_ip: packets for it do not come through the tunnel (remove it, or give the service another vip)", vip)
		case core.Special(vip) != "":
			v.failf(key, "%s is %s and cannot be reached by clients (give the service another vip)", vip, core.Special(vip))
		}
	}
}
