package ruleset

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// reg0 is the first 32-bit register; wider values take the following ones too.
const reg0 uint32 = unix.NFT_REG32_00

// family is what differs between the table of IPv4 and that of IPv6.
type family struct {
	name   string
	table  nftables.TableFamily
	v4     bool
	src    uint32 // offset of the source address; the destination follows it
	size   uint32 // bytes of an address
	addr   nftables.SetDatatype
	icmp   uint8   // protocol number of ICMP
	errors []uint8 // ICMP types that report errors
	host   []uint8 // ICMP types that the host gets of VIPs: echo, neighbour discovery
	echo   uint8   // the ICMP type of a ping
}

var families = []family{
	{name: "ip", table: nftables.TableFamilyIPv4, v4: true, src: 12, size: 4, addr: nftables.TypeIPAddr, icmp: unix.IPPROTO_ICMP, errors: []uint8{3, 11, 12}, host: []uint8{0, 8}, echo: 8},
	{name: "ip6", table: nftables.TableFamilyIPv6, src: 8, size: 16, addr: nftables.TypeIP6Addr, icmp: unix.IPPROTO_ICMPV6, errors: []uint8{1, 2, 3, 4}, host: []uint8{128, 129, 135, 136}, echo: 128},
}

// builder writes one family's expressions into a batch; the first error sticks.
type builder struct {
	connect func() (*nftables.Conn, error)
	conn    *nftables.Conn
	table   *nftables.Table
	family  family
	err     error
}

func (b *builder) check(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *builder) payload(base expr.PayloadBase, offset, size, reg uint32) expr.Any {
	return &expr.Payload{OperationType: expr.PayloadLoad, Base: base, Offset: offset, Len: size, DestRegister: reg}
}

// anonymous adds a constant set or map and returns the lookup into it.
func (b *builder) anonymous(s *nftables.Set, elements []nftables.SetElement) *expr.Lookup {
	s.Table, s.Anonymous, s.Constant = b.table, true, true
	b.check(b.conn.AddSet(s, elements))
	return &expr.Lookup{SourceRegister: reg0, SetID: s.ID, SetName: s.Name}
}

// verdictMap goes where the map sends the value in reg0.
func (b *builder) verdictMap(key nftables.SetDatatype, elements []nftables.SetElement) expr.Any {
	l := b.anonymous(&nftables.Set{IsMap: true, KeyType: key, DataType: nftables.TypeVerdict}, elements)
	l.IsDestRegSet = true // to the verdict register, which is number 0
	return l
}

// spread hashes the first size bytes of the registers and goes to one of the
// chains. A single chain needs no hash.
func (b *builder) spread(size, seed uint32, chains []string) []expr.Any {
	if len(chains) == 1 {
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chains[0]}}
	}
	elements := make([]nftables.SetElement, len(chains))
	for i, c := range chains {
		elements[i] = nftables.SetElement{
			Key:         binaryutil.NativeEndian.PutUint32(uint32(i)),
			VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: c},
		}
	}
	return []expr.Any{
		&expr.Hash{Type: expr.HashTypeJenkins, SourceRegister: reg0, DestRegister: reg0, Length: size, Modulus: uint32(len(chains)), Seed: seed},
		b.verdictMap(nftables.TypeInteger, elements),
	}
}

func (b *builder) equals(v ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: v}
}

// from matches the link that a packet comes in by.
func (b *builder) from(link string) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, link)
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg0}, b.equals(name...)}
}

// toPort matches a protocol and a destination port.
func (b *builder) toPort(proto uint8, port uint16) []expr.Any {
	return append(b.proto(proto), b.payload(expr.PayloadBaseTransportHeader, 2, 2, reg0), b.equals(binaryutil.BigEndian.PutUint16(port)...))
}

// inSet looks the registers from reg0 on up in a named set.
func (b *builder) inSet(name string) expr.Any {
	return &expr.Lookup{SourceRegister: reg0, SetName: name}
}

// address loads the source or the destination address.
func (b *builder) address(destination bool, reg uint32) expr.Any {
	offset := b.family.src
	if destination {
		offset += b.family.size
	}
	return b.payload(expr.PayloadBaseNetworkHeader, offset, b.family.size, reg)
}

// proto matches a protocol.
func (b *builder) proto(proto uint8) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0}, b.equals(proto)}
}

// icmpError matches ICMP errors.
func (b *builder) icmpError() []expr.Any { return b.icmpTypes(b.family.errors) }

// icmpTypes matches ICMP of some types.
func (b *builder) icmpTypes(types []uint8) []expr.Any {
	list := make([]nftables.SetElement, len(types))
	for i, t := range types {
		list[i].Key = []byte{t}
	}
	return append(b.proto(b.family.icmp), b.payload(expr.PayloadBaseTransportHeader, 0, 1, reg0),
		b.anonymous(&nftables.Set{KeyType: nftables.TypeICMPType}, list))
}

// remoteAndLocal loads the remote address and port of a packet and then the local
// ones.
func (b *builder) remoteAndLocal(leaves bool) []expr.Any {
	remote, local := uint32(0), uint32(2) // offsets of the ports
	if leaves {
		remote, local = 2, 0
	}
	words := b.family.size / 4
	return []expr.Any{
		b.address(leaves, reg0), b.payload(expr.PayloadBaseTransportHeader, remote, 2, reg0+words),
		b.address(!leaves, reg0+words+1), b.payload(expr.PayloadBaseTransportHeader, local, 2, reg0+2*words+1),
	}
}

// echoRequest matches pings, of one in fragments the first.
func (b *builder) echoRequest() []expr.Any {
	return append(b.proto(b.family.icmp), b.payload(expr.PayloadBaseTransportHeader, 0, 1, reg0), b.equals(b.family.echo))
}

// fragment matches every fragment of a datagram: IPv4 by its flags and offset
// field, IPv6 by its extension header.
func (b *builder) fragment() []expr.Any {
	if b.family.v4 {
		return []expr.Any{
			b.payload(expr.PayloadBaseNetworkHeader, 6, 2, reg0),
			&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 2, Mask: []byte{0x3f, 0xff}, Xor: []byte{0, 0}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: []byte{0, 0}},
		}
	}
	return []expr.Any{
		&expr.Exthdr{DestRegister: reg0, Type: unix.IPPROTO_FRAGMENT, Offset: 0, Len: 1, Flags: unix.NFT_EXTHDR_F_PRESENT, Op: expr.ExthdrOpIpv6},
		b.equals(1),
	}
}
