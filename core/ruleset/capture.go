// Package ruleset is the only place that touches nftables. A plan is made from
// plain values, without I/O; Apply puts it in the kernel in one batch, so that
// it is there whole or not at all, and replaces what an earlier process left.
//
// The balancer's plan steers the packets of the VIPs to its NFQUEUEs:
//
//	prerouting (raw, −300)
//	  daddr vmap { VIP → its chain }
//	vip chain
//	  fragment of a balanced protocol   → by_address   (ports unknown)
//	  ICMP error                        → by_address   (concerns a flow of ours, perhaps)
//	  service's protocol and port       → by_flow
//	by_flow       jhash(saddr, ports)   → queue chain  (one flow, one queue)
//	by_address    jhash(saddr)          → queue chain
//	queue chain   notrack, NFQUEUE n
//
// What leaves for the tunnel's port, or for a VIP, is not tracked either.
//
// Connection tracking is kept off: it sees one direction only and would call
// every packet after the SYN invalid.
package ruleset

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// Table is the name of the balancer's table, in the families ip and ip6. Two
// tables, because the xt target is not to be had in family inet.
const Table = "caplance"

// Capture is what the balancer's ruleset is made from.
type Capture struct {
	Services   []*core.Service
	FirstQueue uint16 // queues [FirstQueue, FirstQueue+Queues)
	Queues     int
	Seed       uint32 // of the hash that spreads flows over the queues; see FlowQueue
	TunnelPort uint16 // own tunnel packets are not tracked either
}

// Method names the expression that hands packets to userspace.
type Method string

// The methods, the first tried first. Some kernels are built without
// CONFIG_NFT_QUEUE; iptables' target does the same through nft's compat layer.
const (
	NativeQueue Method = "nft queue"
	XTQueue     Method = "xt NFQUEUE"
)

// Apply installs the ruleset and says by which method packets are queued.
// Installing again replaces it without a gap.
func (c *Capture) Apply() (Method, error) {
	err := c.apply(NativeQueue)
	if err == nil {
		return NativeQueue, nil
	}
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return "", fmt.Errorf("nftables ruleset: %w", err)
	}
	if xtErr := c.apply(XTQueue); xtErr != nil {
		return "", fmt.Errorf("nftables ruleset: the kernel has neither nft_queue (%w) nor xt_NFQUEUE behind nft_compat (%w); load one of the modules", err, xtErr)
	}
	return XTQueue, nil
}

// Remove deletes the ruleset, if it is there.
func Remove() error { return removeTables(Table) }

func (c *Capture) apply(m Method) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	for _, f := range families {
		b := &builder{conn: conn, table: replaceTable(conn, f.table, Table), family: f}
		c.build(b, m)
		if b.err != nil {
			return b.err
		}
	}
	return conn.Flush()
}

// build writes the plan of one family. Chains that are jumped to come first.
func (c *Capture) build(b *builder, m Method) {
	queues := make([]string, c.Queues)
	for i := range queues {
		queues[i] = fmt.Sprintf("queue_%d", i)
		b.chain(queues[i])
		b.rule(queues[i], &expr.Notrack{}, queueExpr(m, c.FirstQueue+uint16(i)))
	}
	src := b.payload(expr.PayloadBaseNetworkHeader, b.family.src, b.family.size, reg0)
	ports := b.payload(expr.PayloadBaseTransportHeader, 0, 4, reg0+b.family.size/4)
	b.chain("by_flow")
	b.rule("by_flow", append([]expr.Any{src, ports}, b.spread(b.family.size+4, c.Seed, queues)...)...)
	b.chain("by_address")
	b.rule("by_address", append([]expr.Any{src}, b.spread(b.family.size, c.Seed, queues)...)...)

	var jumps []nftables.SetElement
	for i, vip := range c.vips(b.family) {
		name := fmt.Sprintf("vip_%d", i)
		b.chain(name)
		c.vipRules(b, name, vip)
		jumps = append(jumps, nftables.SetElement{Key: vip.AsSlice(), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: name}})
	}
	b.hook("prerouting", nftables.ChainHookPrerouting)
	if len(jumps) > 0 {
		dst := b.payload(expr.PayloadBaseNetworkHeader, b.family.src+b.family.size, b.family.size, reg0)
		b.rule("prerouting", dst, b.verdictMap(b.family.addr, jumps))
	}
	b.hook("output", nftables.ChainHookOutput)
	b.rule("output", append(b.transport(core.ProtoUDP, core.PortRange{First: c.TunnelPort, Last: c.TunnelPort}), &expr.Notrack{})...)
	for _, vip := range c.vips(b.family) { // direct mode: clients' packets, sent on
		dst := b.payload(expr.PayloadBaseNetworkHeader, b.family.src+b.family.size, b.family.size, reg0)
		b.rule("output", dst, b.equals(vip.AsSlice()...), &expr.Notrack{})
	}
}

// vipRules sends a VIP's packets to the queues.
func (c *Capture) vipRules(b *builder, chain string, vip netip.Addr) {
	toAddress := &expr.Verdict{Kind: expr.VerdictGoto, Chain: "by_address"}
	b.rule(chain, append(b.fragment(), toAddress)...)
	b.rule(chain, append(b.icmpError(), toAddress)...)
	for _, s := range c.Services {
		if s.VIP != vip {
			continue
		}
		for _, proto := range s.Protos {
			for _, ports := range s.Ports {
				b.rule(chain, append(b.transport(proto, ports), &expr.Verdict{Kind: expr.VerdictGoto, Chain: "by_flow"})...)
			}
		}
	}
}

// vips are the distinct VIPs of a family.
func (c *Capture) vips(f family) []netip.Addr {
	var out []netip.Addr
	for _, s := range c.Services {
		if s.VIP.Is4() == f.v4 && !slices.Contains(out, s.VIP) {
			out = append(out, s.VIP)
		}
	}
	return out
}

func queueExpr(m Method, queue uint16) expr.Any {
	if m == NativeQueue {
		return &expr.Queue{Num: queue, Total: 1}
	}
	// struct xt_NFQ_info_v3 { __u16 queuenum, queues_total, flags } padded to
	// 8 bytes (linux/netfilter/xt_NFQUEUE.h).
	info := xt.Unknown(make([]byte, 8))
	copy(info, binaryutil.NativeEndian.PutUint16(queue))
	copy(info[2:], binaryutil.NativeEndian.PutUint16(1))
	return &expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}
}
