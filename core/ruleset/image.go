package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/reconcile"
)

// image is what the kernel holds of one family's table.
type image struct {
	there  bool
	hooks  map[string]string   // of each chain
	rules  map[string][]string // comments of each chain's rules, in order
	sets   map[string]elements
	broken map[string]bool // sets with elements that we cannot have made
}

// lacks returns an error that wraps reconcile.ErrDrift and names the first
// thing of the plan that the image does not have.
func (i *image) lacks(p *plan) error {
	if !i.there {
		return drift("the table is gone")
	}
	for _, c := range p.chains {
		got, ok := i.hooks[c.name]
		switch {
		case !ok:
			return drift("chain %s is gone", c.name)
		case got != c.hook.String():
			return drift("chain %s has %s, not %s", c.name, got, c.hook)
		case !slices.Equal(i.rules[c.name], c.comments()):
			return drift("chain %s has other rules", c.name)
		}
	}
	for _, s := range p.sets {
		have, ok := i.sets[s.name]
		if !ok {
			return drift("set %s is gone", s.name)
		}
		if key, ok := have.has(s.want); !ok {
			return drift("set %s lacks an element of %s", s.name, keyText(key, p.family))
		}
	}
	return nil
}

func drift(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), reconcile.ErrDrift)
}

// errBusy is returned when the ruleset changes faster than it can be read.
var errBusy = errors.New("nftables ruleset: it changes while it is read, again and again")

// read returns the images of a table in both families at one generation.
func read(name string) (images [2]*image, generation uint32, err error) {
	for range 10 {
		before, err := currentGeneration()
		if err != nil {
			return images, 0, err
		}
		for i, f := range families {
			if images[i], err = readFamily(f, name); err != nil {
				break
			}
		}
		after, genErr := currentGeneration()
		if genErr != nil {
			return images, 0, genErr
		}
		if before != after {
			continue // also what was read with an error
		}
		return images, before, err
	}
	return images, 0, errBusy
}

func readFamily(f family, name string) (*image, error) {
	img := &image{hooks: map[string]string{}, rules: map[string][]string{}, sets: map[string]elements{}, broken: map[string]bool{}}
	conn, err := connect()
	if err != nil {
		return nil, err
	}
	table := &nftables.Table{Family: f.table, Name: name}
	if img.there, err = exists(conn, table); err != nil || !img.there {
		return img, err
	}
	chains, err := conn.ListChainsOfTableFamily(f.table)
	if err != nil {
		return nil, fmt.Errorf("nftables chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name == name {
			img.hooks[c.Name] = hookOf(c).String()
		}
	}
	if err := img.readRules(table); err != nil {
		return nil, err
	}
	return img, img.readSets(conn, table)
}

func exists(conn *nftables.Conn, table *nftables.Table) (bool, error) {
	list, err := conn.ListTablesOfFamily(table.Family)
	if err != nil {
		return false, fmt.Errorf("nftables tables: %w", err)
	}
	return slices.ContainsFunc(list, func(t *nftables.Table) bool { return t.Name == table.Name }), nil
}

func hookOf(c *nftables.Chain) *hook {
	if c.Hooknum == nil {
		return nil
	}
	return &hook{*c.Hooknum, *c.Priority}
}

func (i *image) readSets(conn *nftables.Conn, table *nftables.Table) error {
	sets, err := conn.GetSets(table)
	if err != nil {
		return fmt.Errorf("nftables sets: %w", err)
	}
	for _, s := range sets {
		if s.Anonymous {
			continue
		}
		list, err := conn.GetSetElements(s)
		if err != nil {
			return fmt.Errorf("nftables set %s: %w", s.Name, err)
		}
		content, ok := decode(list, s.Interval)
		i.sets[s.Name], i.broken[s.Name] = content, !ok
	}
	return nil
}

// readRules reads the comments of all rules with one request; the library
// would need one for each chain.
func (i *image) readRules(table *nftables.Table) error {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(table.Name + "\x00")}})
	if err != nil {
		return err
	}
	replies, err := request(unix.NFT_MSG_GETRULE, netlink.Dump, byte(table.Family), attrs)
	if err != nil {
		return fmt.Errorf("nftables rules: %w", err)
	}
	for _, m := range replies {
		ad, err := netlink.NewAttributeDecoder(m.Data[nfgenHeader:])
		if err != nil {
			return fmt.Errorf("nftables rules: %w", err)
		}
		var chain, comment string
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			case unix.NFTA_RULE_USERDATA:
				comment, _ = userdata.GetString(ad.Bytes(), userdata.TypeComment)
			}
		}
		if err := ad.Err(); err != nil {
			return fmt.Errorf("nftables rules: %w", err)
		}
		i.rules[chain] = append(i.rules[chain], comment)
	}
	return nil
}

// nfgenHeader is the size of struct nfgenmsg (linux/netfilter/nfnetlink.h).
const nfgenHeader = 4

// request sends one question to nf_tables and returns the answers.
func request(kind uint16, flags netlink.HeaderFlags, family byte, attrs []byte) ([]netlink.Message, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := enlarge(c); err != nil {
		return nil, err
	}
	return c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
}

// currentGeneration returns the number that every change of the ruleset of the
// network namespace raises.
func currentGeneration() (uint32, error) {
	replies, err := request(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, nil)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT):
		return 0, fmt.Errorf("nftables is not in this kernel (modprobe nf_tables; CONFIG_NF_TABLES): %w", err)
	case err != nil:
		return 0, fmt.Errorf("nftables generation: %w", err)
	}
	for _, m := range replies {
		ad, err := netlink.NewAttributeDecoder(m.Data[nfgenHeader:])
		if err != nil {
			return 0, fmt.Errorf("nftables generation: %w", err)
		}
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return binary.BigEndian.Uint32(ad.Bytes()), nil
			}
		}
	}
	return 0, errors.New("nftables generation: the kernel does not say")
}
