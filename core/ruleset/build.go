package ruleset

import (
	"errors"
	"fmt"

	"github.com/caplance/caplance/core"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// reg0 is the first 32-bit register; wider values take the following ones too.
const reg0 uint32 = unix.NFT_REG32_00

// family is what differs between the table of IPv4 and that of IPv6.
type family struct {
	table  nftables.TableFamily
	v4     bool
	src    uint32 // offset of the source address; the destination follows it
	size   uint32 // bytes of an address
	addr   nftables.SetDatatype
	icmp   uint8   // protocol number of ICMP
	errors []uint8 // ICMP types that report errors
}

var families = []family{
	{table: nftables.TableFamilyIPv4, v4: true, src: 12, size: 4, addr: nftables.TypeIPAddr, icmp: unix.IPPROTO_ICMP, errors: []uint8{3, 11, 12}},
	{table: nftables.TableFamilyIPv6, src: 8, size: 16, addr: nftables.TypeIP6Addr, icmp: unix.IPPROTO_ICMPV6, errors: []uint8{1, 2, 3, 4}},
}

// builder adds one family's chains and rules to a batch; the first error
// sticks.
type builder struct {
	conn   *nftables.Conn
	table  *nftables.Table
	family family
	err    error
}

// replaceTable starts a batch that ends with an empty table, whatever was
// there: deleting what may not exist is an error, deleting what was just added
// is not.
func replaceTable(conn *nftables.Conn, f nftables.TableFamily, name string) *nftables.Table {
	t := &nftables.Table{Family: f, Name: name}
	conn.AddTable(t)
	conn.DelTable(t)
	return conn.AddTable(t)
}

// removeTables deletes a table in both families. Missing ones are none of an
// error.
func removeTables(name string) error {
	for _, f := range families {
		conn, err := nftables.New()
		if err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
		conn.DelTable(&nftables.Table{Family: f.table, Name: name})
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("nftables table %s: delete: %w", name, err)
		}
	}
	return nil
}

func (b *builder) chain(name string) {
	b.conn.AddChain(&nftables.Chain{Table: b.table, Name: name})
}

func (b *builder) hook(name string, hook *nftables.ChainHook) {
	b.conn.AddChain(&nftables.Chain{
		Table: b.table, Name: name, Type: nftables.ChainTypeFilter,
		Hooknum: hook, Priority: nftables.ChainPriorityRaw,
	})
}

func (b *builder) rule(chain string, exprs ...expr.Any) {
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: &nftables.Chain{Name: chain}, Exprs: exprs})
}

func (b *builder) payload(base expr.PayloadBase, offset, size, reg uint32) expr.Any {
	return &expr.Payload{OperationType: expr.PayloadLoad, Base: base, Offset: offset, Len: size, DestRegister: reg}
}

// anonymous adds a constant set or map and returns the lookup into it.
func (b *builder) anonymous(s *nftables.Set, elements []nftables.SetElement) *expr.Lookup {
	s.Table, s.Anonymous, s.Constant = b.table, true, true
	if err := b.conn.AddSet(s, elements); err != nil && b.err == nil {
		b.err = err
	}
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

// transport matches a protocol and its destination ports. Fragments without a
// transport header never match.
func (b *builder) transport(proto uint8, ports core.PortRange) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0}, b.equals(proto),
		b.payload(expr.PayloadBaseTransportHeader, 2, 2, reg0),
		&expr.Cmp{Op: expr.CmpOpGte, Register: reg0, Data: binaryutil.BigEndian.PutUint16(ports.First)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: reg0, Data: binaryutil.BigEndian.PutUint16(ports.Last)},
	}
}

// icmpError matches ICMP errors.
func (b *builder) icmpError() []expr.Any {
	types := make([]nftables.SetElement, len(b.family.errors))
	for i, t := range b.family.errors {
		types[i].Key = []byte{t}
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0}, b.equals(b.family.icmp),
		b.payload(expr.PayloadBaseTransportHeader, 0, 1, reg0),
		b.anonymous(&nftables.Set{KeyType: nftables.TypeICMPType}, types),
	}
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

// Tables lists the nftables tables of this network namespace, "family name"
// each: what an operator or a test looks at to see whether ours are there.
func Tables() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	list, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("nftables tables: %w", err)
	}
	var out []string
	for _, t := range list {
		out = append(out, fmt.Sprintf("%d %s", t.Family, t.Name))
	}
	return out, nil
}
