package agent

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/fastpath"
)

// receiver takes packets out of the tunnel in the kernel (fastpath.Receiver).
type receiver interface {
	// Accept makes it take packets for these VIPs from these balancers only.
	Accept(vips, balancers []netip.Addr) error
	Close() error
}

// openKernel goes down to the kernel's rung, if the configuration wants that
// and the kernel has it.
func (a *Agent) openKernel() error {
	if a.cfg.Rung == config.Userspace {
		return nil
	}
	r, err := openReceiver(a.dataIP, a.cfg.Port)
	switch {
	case err == nil:
		a.kernel = r
		a.log.Info("packets are taken out of the tunnel in the kernel")
	case a.cfg.Rung == config.TC:
		return fmt.Errorf("rung %s: %w", a.cfg.Rung, err)
	default:
		a.log.Warn("packets are taken out of the tunnel in userspace", "why", err)
	}
	return nil
}

func openReceiver(data netip.Addr, port uint16) (*fastpath.Receiver, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("network links: %w", err)
	}
	for _, l := range links {
		addrs, err := l.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == data && len(l.HardwareAddr) == 6 {
				return fastpath.OpenReceiver(l.Name, port)
			}
		}
	}
	return nil, fmt.Errorf("no Ethernet link has the data IP %v", data)
}
