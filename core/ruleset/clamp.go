package ruleset

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tcpOptionMSS is the kind of the maximum segment size option (RFC 9293 §3.2).
const tcpOptionMSS = 2

// Clamp is what the agent's ruleset is made from: the maximum segment size that
// a backend announces from a VIP is lowered to what fits the tunnel, or
// full-size packets of the client would not. It is never raised, and a SYN
// without the option is left alone: 536 bytes fit any tunnel.
//
//	output (mangle, −150)
//	  saddr in vips, TCP, SYN, MSS > tunnel's → MSS = tunnel's
//
// A Clamp is not changed once it is a target's state. One without VIPs is the
// empty state: Prune removes the tables.
type Clamp struct {
	VIPs []netip.Addr
	MTU  int // largest IP packet through the tunnel, bytes
}

// Equal reports whether two states ask for the same.
func (c *Clamp) Equal(o *Clamp) bool { return c.MTU == o.MTU && slices.Equal(c.VIPs, o.VIPs) }

// Apply installs the ruleset, replacing what is there.
func (c *Clamp) Apply() error {
	t, ctx := NewClamp(), context.Background()
	err := t.Add(ctx, nil, c)
	if err == nil {
		err = t.Prune(ctx, nil, c)
	}
	return errors.Join(err, t.Release())
}

// MSS returns the segment size that fits an IP packet of mtu bytes: less the IP
// and the TCP header without options (RFC 6691 §2).
func MSS(mtu int, v4 bool) int {
	if v4 {
		return mtu - 40
	}
	return mtu - 60
}

// ClampTarget is the reconcile.Target of a Clamp.
type ClampTarget struct{ tables tables }

// NewClamp returns the target for the tables of this network namespace. All
// calls must come from threads in it.
func NewClamp() *ClampTarget { return &ClampTarget{tables: tables{name: ClampTable}} }

// String implements reconcile.Target.
func (t *ClampTarget) String() string { return "clamp" }

// Add implements reconcile.Target.
func (t *ClampTarget) Add(_ context.Context, was, want *Clamp) error {
	if was == nil {
		t.tables.forget()
	}
	if len(want.VIPs) == 0 {
		return nil
	}
	return t.tables.add(want.plans())
}

// Prune implements reconcile.Target.
func (t *ClampTarget) Prune(_ context.Context, was, want *Clamp) error {
	if was == nil {
		t.tables.forget()
	}
	if len(want.VIPs) == 0 {
		return t.tables.remove()
	}
	return t.tables.prune(want.plans())
}

// Release leaves the tables to a successor.
func (t *ClampTarget) Release() error { return t.tables.release() }

// Verify implements reconcile.Target.
func (t *ClampTarget) Verify(_ context.Context, want *Clamp) error {
	if len(want.VIPs) == 0 {
		return nil
	}
	return t.tables.verify(want.plans())
}

func (c *Clamp) plans() [2]*plan { return [2]*plan{c.plan(families[0]), c.plan(families[1])} }

func (c *Clamp) plan(f family) *plan {
	vips := elements{}
	for _, vip := range c.VIPs {
		if vip = vip.Unmap(); vip.Is4() == f.v4 {
			vips[string(vip.AsSlice())] = nil
		}
	}
	mss := MSS(c.MTU, f.v4)
	return &plan{
		family: f,
		sets:   []set{{name: vipSet, key: f.addr, want: vips, in: []string{"output"}}},
		chains: []chain{{name: "output", hook: &hook{*nftables.ChainHookOutput, *nftables.ChainPriorityMangle}, rules: []rule{
			newRule(func(b *builder) []expr.Any { return b.lower(mss) }, "MSS at most %d", mss),
		}}},
	}
}

// lower returns the one rule. An option that is not there ends it.
func (b *builder) lower(mss int) []expr.Any {
	limit := binaryutil.BigEndian.PutUint16(uint16(mss))
	const flags, syn = 13, 0x02 // the byte of the TCP header, the bit in it
	option := expr.Exthdr{Type: tcpOptionMSS, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt}
	read, write := option, option
	read.DestRegister, write.SourceRegister = reg0, reg0
	return []expr.Any{
		b.address(false, reg0), b.inSet(vipSet),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0}, b.equals(unix.IPPROTO_TCP),
		b.payload(expr.PayloadBaseTransportHeader, flags, 1, reg0),
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 1, Mask: []byte{syn}, Xor: []byte{0}},
		b.equals(syn),
		&read,
		&expr.Cmp{Op: expr.CmpOpGt, Register: reg0, Data: limit},
		&expr.Immediate{Register: reg0, Data: limit},
		&write,
	}
}
