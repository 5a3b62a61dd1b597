package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// dnat sets up what the kernel has itself: nftables rewrites the destination, conntrack
// remembers it, and the backend's answers come back through the balancer. No
// masquerade: the backend has a route instead, which is the lightest form.
func dnat(_ context.Context, b *testbed) error {
	if err := b.ownVIP(); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"net.ipv4.ip_forward":               "1",
		"net.ipv4.conf.all.send_redirects":  "0", // or the backend learns the short way back
		"net.ipv4.conf.eth0.send_redirects": "0",
	} {
		if err := b.LB.Sysctl(name, value); err != nil {
			return err
		}
	}
	if err := b.Backends[0].Route(netip.PrefixFrom(clientAddr, 32), balancerAddr); err != nil {
		return err
	}
	if err := b.LB.Do(func() error { return redirect(b.to, b.Backends[0].Data) }); err != nil {
		return err
	}
	// There is a sysctl for it only now that there is conntrack. The table is
	// one of the whole machine: connections that ended are not to fill it.
	return b.LB.Sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "5")
}

// redirect adds the rule "ip daddr FROM dnat to TO" in the calling thread's
// network namespace.
func redirect(from, to netip.Addr) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "bench"})
	chain := conn.AddChain(&nftables.Chain{
		Table: table, Name: "prerouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	const destination = 16 // offset in the IPv4 header
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: destination, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: from.AsSlice()},
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}})
	err = conn.Flush()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return skip("this kernel has no NAT for nftables: " + err.Error())
	}
	if err != nil {
		return fmt.Errorf("nftables: rule for %v: %w", from, err)
	}
	return nil
}
