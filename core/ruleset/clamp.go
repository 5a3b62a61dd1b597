package ruleset

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ClampTable is the name of the agent's table, in the families ip and ip6.
const ClampTable = "caplance-agent"

// tcpOptionMSS is the kind of the maximum segment size option (RFC 9293 §3.2).
const tcpOptionMSS = 2

// Clamp is the agent's ruleset: what a backend announces from a VIP as its
// maximum segment size is lowered to what fits the tunnel, or full-size
// packets of the client would not. It is never raised, and a SYN without the
// option is left alone: 536 bytes fit any tunnel.
//
//	output (mangle, −150)
//	  saddr = VIP, TCP, SYN, MSS > tunnel's → MSS = tunnel's
type Clamp struct {
	VIPs []netip.Addr
	MTU  int // largest IP packet through the tunnel, bytes
}

// Apply installs the ruleset in one batch, replacing what is there.
func (c *Clamp) Apply() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	for _, f := range families {
		c.build(&builder{conn: conn, table: replaceTable(conn, f.table, ClampTable), family: f})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables table %s: %w", ClampTable, err)
	}
	return nil
}

// RemoveClamp deletes the ruleset, if it is there.
func RemoveClamp() error { return removeTables(ClampTable) }

// MSS is the segment size that fits an IP packet of mtu bytes: less the IP and
// the TCP header without options (RFC 6691 §2).
func MSS(mtu int, v4 bool) int {
	if v4 {
		return mtu - 40
	}
	return mtu - 60
}

func (c *Clamp) build(b *builder) {
	const chain = "output"
	b.conn.AddChain(&nftables.Chain{
		Table: b.table, Name: chain, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle,
	})
	for _, vip := range c.VIPs {
		if vip.Is4() == b.family.v4 {
			b.rule(chain, b.lower(vip, MSS(c.MTU, b.family.v4))...)
		}
	}
}

// lower is the rule for one VIP. An exthdr that is not there ends the rule.
func (b *builder) lower(vip netip.Addr, mss int) []expr.Any {
	limit := binaryutil.BigEndian.PutUint16(uint16(mss))
	const flags, syn = 13, 0x02 // the byte of the TCP header, the bit in it
	option := expr.Exthdr{Type: tcpOptionMSS, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt}
	read, write := option, option
	read.DestRegister, write.SourceRegister = reg0, reg0
	return []expr.Any{
		b.payload(expr.PayloadBaseNetworkHeader, b.family.src, b.family.size, reg0),
		b.equals(vip.AsSlice()...),
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
