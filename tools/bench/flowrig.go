package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/e2e/topology"
	"github.com/vishvananda/netlink"
)

// flowRig is the network, the rule and our worker.
type flowRig struct {
	net     *topology.Net
	lb      *topology.Host
	cfg     *config.Server
	flood   *flood
	parts   *parts
	offered float64 // by the last flood, 1/s
}

const flowConfig = `
[[service]]
name = "flood"
vip = "192.0.2.1"
protocol = "udp"
ports = [53]
policy = "round-robin"
`

func newFlowRig(ctx context.Context) (_ *flowRig, err error) {
	r := &flowRig{}
	if r.cfg, err = config.ParseServer("bench", []byte(flowConfig)); err != nil {
		return nil, err
	}
	if r.net, err = topology.New("bench"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	sender, err := r.net.Switch("sender")
	if err != nil {
		return nil, err
	}
	if r.lb, err = r.net.Host("lb"); err != nil {
		return nil, err
	}
	if err := sender.Attach(r.lb, "eth0"); err != nil {
		return nil, err
	}
	svc := r.cfg.Services[0]
	var mac net.HardwareAddr
	if err := r.lb.Do(func() (err error) {
		capture := &ruleset.Capture{Services: ruleset.Services(r.cfg.Services), FirstQueue: r.cfg.Datapath.FirstQueue, Queues: 1, TunnelPort: r.cfg.Datapath.TunnelPort}
		if _, err = capture.Apply(); err != nil {
			return err
		}
		if mac, err = links(); err != nil {
			return err
		}
		r.parts, err = newParts(ctx, r.cfg)
		return err
	}); err != nil {
		return nil, err
	}
	// The switch's end of the link to the balancer.
	r.flood, err = openFlood(sender.Host, "port0", mac, netip.AddrPortFrom(svc.VIP, svc.Ports[0].First))
	return r, err
}

// links adds the way to the backends and returns the link address of eth0. A
// bridge without ports swallows what is sent; every kernel that has veths has
// it, unlike the dummy device.
func links() (net.HardwareAddr, error) {
	out := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := netlink.LinkAdd(out); err != nil {
		return nil, fmt.Errorf("link to the backends: %w", err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 78, 0, 254), Mask: net.CIDRMask(24, 32)}}
	if err := errors.Join(netlink.LinkSetARPOff(out), netlink.AddrAdd(out, addr), netlink.LinkSetUp(out)); err != nil {
		return nil, fmt.Errorf("link to the backends: %w", err)
	}
	in, err := netlink.LinkByName("eth0")
	if err != nil {
		return nil, fmt.Errorf("link to the sender: %w", err)
	}
	return in.Attrs().HardwareAddr, nil
}

func (r *flowRig) close() (err error) {
	if r.flood != nil {
		err = r.flood.close()
	}
	if r.parts != nil {
		err = errors.Join(err, r.parts.close())
	}
	return errors.Join(err, r.net.Close())
}
