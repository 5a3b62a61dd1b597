package ruleset

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// The sets of the balancer's table.
const (
	vipSet     = "vips"
	serviceSet = "services"
	echoSet    = "echo"
	hostSet    = "host"
	answersSet = "answers"
)

func (c *Capture) plans(m Method) [2]*plan {
	return [2]*plan{c.plan(families[0], m), c.plan(families[1], m)}
}

// plan writes the plan of one family. A new VIP comes after its services, so
// that its first packets find them.
func (c *Capture) plan(f family, m Method) *plan {
	p := &plan{family: f}
	vips, services := c.elements(f)
	key := nftables.MustConcatSetType(nftables.TypeInetService, nftables.TypeInetProto, f.addr)
	p.sets = []set{
		{name: serviceSet, key: key, interval: true, want: services, in: []string{"vip"}},
		{name: echoSet, key: f.addr, want: f.only(c.Echo), in: []string{"vip"}},
		{name: hostSet, key: f.addr, want: f.only(c.Host), exact: true, in: []string{"vip"}},
		{name: answersSet, key: nftables.MustConcatSetType(f.addr, nftables.TypeInetService, f.addr, nftables.TypeInetService), learns: answersTimeout},
		{name: vipSet, key: f.addr, want: vips, in: []string{"prerouting", "output"}},
	}
	names := make([]string, c.Queues)
	for i := range names {
		q := c.FirstQueue + uint16(i)
		names[i] = fmt.Sprintf("queue_%d", q)
		p.chains = append(p.chains, chain{name: names[i], rules: []rule{newRule(func(*builder) []expr.Any {
			return []expr.Any{&expr.Notrack{}, queueExpr(m, q)}
		}, "queue %d by %s", q, m)}})
	}
	p.chains = append(p.chains, c.spreads(names)...)
	p.chains = append(p.chains, chain{name: unclaimedChain, rules: []rule{newRule(func(*builder) []expr.Any {
		return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
	}, "claimed by no service")}})
	p.chains = append(p.chains, chain{name: "vip", rules: vipRules()})
	p.chains = append(p.chains, c.hooks()...)
	return p
}

// elements returns the contents of the two sets.
func (c *Capture) elements(f family) (vips, services elements) {
	vips, services = elements{}, elements{}
	for _, s := range c.Services {
		if vip := s.VIP.Unmap(); vip.Is4() == f.v4 {
			vips[string(vip.AsSlice())] = nil
			services.cover(serviceKey(vip, s.Proto), s.Ports...)
		}
	}
	return vips, services
}

// only returns those of some VIPs that are of the family.
func (f family) only(list []netip.Addr) elements {
	vips := elements{}
	for _, vip := range list {
		if vip = vip.Unmap(); vip.Is4() == f.v4 {
			vips[string(vip.AsSlice())] = nil
		}
	}
	return vips
}

// serviceKey returns the protocol and the address as they stand in registers.
func serviceKey(vip netip.Addr, proto uint8) string {
	return string(append([]byte{proto, 0, 0, 0}, vip.AsSlice()...))
}

// keyText names a key for people.
func keyText(key string, f family) string {
	vip, _ := netip.AddrFromSlice([]byte(key)[len(key)-int(f.size):])
	if len(key) > int(f.size) {
		return fmt.Sprintf("%v protocol %d", vip, key[0])
	}
	return vip.String()
}

// spreads returns the two chains that choose a queue.
func (c *Capture) spreads(queues []string) []chain {
	comment := fmt.Sprintf("over %d queues from %d, seed %d", c.Queues, c.FirstQueue, c.Seed)
	return []chain{
		{name: "by_flow", rules: []rule{newRule(func(b *builder) []expr.Any {
			ports := b.payload(expr.PayloadBaseTransportHeader, 0, 4, reg0+b.family.size/4)
			return append([]expr.Any{b.address(false, reg0), ports}, b.spread(b.family.size+4, c.Seed, queues)...)
		}, "flows %s", comment)}},
		{name: "by_address", rules: []rule{newRule(func(b *builder) []expr.Any {
			return append([]expr.Any{b.address(false, reg0)}, b.spread(b.family.size, c.Seed, queues)...)
		}, "addresses %s", comment)}},
	}
}

func jump(to string) expr.Any { return &expr.Verdict{Kind: expr.VerdictGoto, Chain: to} }

// vipRules send a VIP's packets to the queues.
func vipRules() []rule {
	var rules []rule
	for _, link := range core.Clientless {
		rules = append(rules, newRule(func(b *builder) []expr.Any {
			return append(b.from(link), &expr.Verdict{Kind: expr.VerdictAccept})
		}, "not by %s", link))
	}
	return append(append(rules, []rule{
		newRule(func(b *builder) []expr.Any {
			return append(b.echoRequest(), b.address(true, reg0),
				&expr.Lookup{SourceRegister: reg0, SetName: echoSet, Invert: true}, &expr.Verdict{Kind: expr.VerdictDrop})
		}, "echo requests"),
		newRule(func(b *builder) []expr.Any { return append(b.fragment(), jump("by_address")) }, "fragments"),
		newRule(func(b *builder) []expr.Any { return append(b.icmpError(), jump("by_address")) }, "ICMP errors"),
		newRule(func(b *builder) []expr.Any {
			return []expr.Any{
				b.payload(expr.PayloadBaseTransportHeader, 2, 2, reg0),
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0 + 1},
				b.address(true, reg0+2),
				b.inSet(serviceSet), jump("by_flow"),
			}
		}, "services"),
	}...), unclaimedRules()...)
}

// unclaimedChain is where packets end that are to a VIP and neither to a service nor to
// the machine: in a chain of their own, whose counter no other change resets.
const unclaimedChain = "unclaimed"

// Bits of a TCP header's 14th byte (RFC 9293, §3.1).
const (
	tcpSYN = 1 << 1
	tcpACK = 1 << 4
)

// answersTimeout is how long after the machine's last datagram from a VIP's address
// its answer may come: longer than resolvers wait.
const answersTimeout = 2 * time.Minute

// unclaimedRules tell what of a VIP's other packets is for the machine. No state is kept of
// TCP: whoever answers a SYN that came is not reached, as none comes.
func unclaimedRules() []rule {
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	return []rule{
		newRule(func(b *builder) []expr.Any { return []expr.Any{b.address(true, reg0), b.inSet(hostSet), accept} }, "the machine's own"),
		newRule(func(b *builder) []expr.Any { return append(b.icmpTypes(b.family.host), accept) }, "ICMP that the machine answers"),
		newRule(func(b *builder) []expr.Any {
			return append(b.proto(core.ProtoTCP), b.payload(expr.PayloadBaseTransportHeader, 13, 1, reg0),
				&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 1, Mask: []byte{tcpSYN | tcpACK}, Xor: []byte{0}},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: []byte{tcpSYN}}, accept)
		}, "TCP but SYNs"),
		newRule(func(b *builder) []expr.Any {
			return append(append(b.proto(core.ProtoUDP), b.remoteAndLocal(false)...), b.inSet(answersSet), accept)
		}, "answers to the machine"),
		newRule(func(*builder) []expr.Any { return []expr.Any{jump(unclaimedChain)} }, "the rest"),
	}
}

func (c *Capture) hooks() []chain {
	raw := *nftables.ChainPriorityRaw
	return []chain{
		{name: "prerouting", hook: &hook{*nftables.ChainHookPrerouting, raw}, rules: []rule{
			newRule(func(b *builder) []expr.Any {
				return []expr.Any{b.address(true, reg0), b.inSet(vipSet), jump("vip")}
			}, "VIPs"),
		}},
		{name: "output", hook: &hook{*nftables.ChainHookOutput, raw}, rules: []rule{
			newRule(func(b *builder) []expr.Any {
				return append(b.toPort(core.ProtoUDP, c.TunnelPort), &expr.Notrack{})
			}, "tunnel to port %d", c.TunnelPort),
			newRule(func(b *builder) []expr.Any {
				return []expr.Any{b.address(true, reg0), b.inSet(vipSet), &expr.Notrack{}}
			}, "sent on to VIPs"),
			newRule(func(b *builder) []expr.Any {
				match := append(b.proto(core.ProtoUDP), b.address(false, reg0), b.inSet(vipSet))
				return append(append(match, b.remoteAndLocal(true)...),
					&expr.Dynset{SrcRegKey: reg0, SetName: answersSet, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: answersTimeout})
			}, "asked from VIPs"),
		}},
	}
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
