package ruleset

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
)

// tables are the two tables of one name, with what is known of them.
type tables struct {
	name     string
	have     [2]*image // nil when it is not known
	loaded   uint32    // generation that have was read at; ours came later
	verified uint32    // generation at which all was right; 0: none

	owner  *owner // nil: others can change them
	shared bool   // nobody can own them
}

func (t *tables) forget() { t.have, t.verified = [2]*image{}, 0 }

// connect returns a connection that may change the tables.
func (t *tables) connect() (*nftables.Conn, error) {
	if t.owner != nil {
		return t.owner.use()
	}
	return connect()
}

// claim sees to it that nobody else can change the tables, where the kernel has
// that.
func (t *tables) claim() (err error) {
	if t.owner != nil || t.shared {
		return nil
	}
	t.owner, err = own(t.name)
	if errors.Is(err, errUnowned) {
		t.shared = true
		return nil
	}
	t.forget()
	return err
}

// release gives the tables up; they stay.
func (t *tables) release() error {
	t.forget()
	if t.owner == nil {
		return nil
	}
	err := t.owner.close()
	t.owner = nil
	return err
}

// load reads the kernel's tables unless they are known.
func (t *tables) load() (err error) {
	if t.have[0] == nil || t.have[1] == nil {
		t.have, t.loaded, err = read(t.name)
	}
	return err
}

// rounds is how often a change is tried when somebody else is faster.
const rounds = 5

// change does what is to be done with what the kernel has, once more when it
// failed because that was not so any more.
func (t *tables) change(do func() error) error {
	for round := 1; ; round++ {
		if err := errors.Join(t.claim(), t.load()); err != nil {
			return err
		}
		t.verified = 0
		err := do()
		if err == nil {
			return nil
		}
		loaded := t.loaded
		_ = t.release() // answers to what failed may still be in the socket
		now, genErr := currentGeneration()
		if genErr != nil || now == loaded || round == rounds {
			return err
		}
	}
}

// add makes what the plans have and keeps what there is besides.
func (t *tables) add(plans [2]*plan) error {
	return t.change(func() error {
		if err := t.build(plans); err != nil {
			return err
		}
		return t.fill(plans, union)
	})
}

// prune removes what the plans do not have.
func (t *tables) prune(plans [2]*plan) error {
	return t.change(func() error {
		if err := t.fill(plans, func(_, want elements) elements { return want }); err != nil {
			return err
		}
		return t.sweep(plans)
	})
}

// remove deletes the tables where they are.
func (t *tables) remove() error {
	if err := t.load(); err != nil {
		return err
	}
	there := t.have[0].there || t.have[1].there
	err := t.release() // the kernel drops nothing of tables that persist
	if !there {
		return err
	}
	return errors.Join(err, removeTables(t.name))
}

// verify returns an error that wraps reconcile.ErrDrift when something lacks.
// While nobody changes the ruleset it costs one question.
func (t *tables) verify(plans [2]*plan) error {
	if t.verified != 0 {
		if now, err := currentGeneration(); err != nil || now == t.verified {
			return err
		}
	}
	images, generation, err := read(t.name)
	if err != nil {
		return err
	}
	for i, p := range plans {
		if err := images[i].lacks(p); err != nil {
			return fmt.Errorf("nftables table %s %s: %w", p.family.name, t.name, err)
		}
	}
	t.verified = generation
	return nil
}

// build makes tables, sets, chains and rules in one batch. A chain whose rules
// differ gets all of them anew, without a moment in between.
func (t *tables) build(plans [2]*plan) error {
	conn, err := t.connect()
	if err != nil {
		return err
	}
	next := [2]*image{}
	for i, p := range plans {
		b := &builder{conn: conn, table: &nftables.Table{Family: p.family.table, Name: t.name}, family: p.family}
		next[i] = b.structure(p, t.have[i])
		if b.err != nil {
			return fmt.Errorf("nftables table %s: %w", t.name, b.err)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables table %s: %w", t.name, err)
	}
	t.have = next
	return nil
}

// structure adds what the image lacks to the batch and returns the image of
// the result.
func (b *builder) structure(p *plan, have *image) *image {
	next := &image{there: true, hooks: maps.Clone(have.hooks), rules: maps.Clone(have.rules), sets: maps.Clone(have.sets), broken: maps.Clone(have.broken)}
	if !have.there {
		b.conn.AddTable(b.table)
	}
	for _, s := range p.sets {
		if _, ok := have.sets[s.name]; !ok {
			b.check(b.conn.AddSet(s.table(b.table), nil))
			next.sets[s.name] = elements{}
		}
	}
	for _, c := range p.chains {
		if got, ok := have.hooks[c.name]; !ok || got != c.hook.String() {
			b.chain(&c, ok)
			next.hooks[c.name], next.rules[c.name] = c.hook.String(), nil
		}
	}
	for _, c := range p.chains {
		if !slices.Equal(next.rules[c.name], c.comments()) {
			b.fillChain(&c, len(next.rules[c.name]) > 0)
			next.rules[c.name] = c.comments()
		}
	}
	return next
}

// chain makes a chain; one that is there has another hook and goes first.
func (b *builder) chain(c *chain, there bool) {
	nc := &nftables.Chain{Table: b.table, Name: c.name}
	if there {
		b.conn.FlushChain(nc)
		b.conn.DelChain(nc)
	}
	if c.hook != nil {
		nc.Type, nc.Hooknum, nc.Priority = nftables.ChainTypeFilter, &c.hook.num, &c.hook.priority
	}
	b.conn.AddChain(nc)
}

func (b *builder) fillChain(c *chain, flush bool) {
	nc := &nftables.Chain{Table: b.table, Name: c.name}
	if flush {
		b.conn.FlushChain(nc)
	}
	for _, r := range c.rules {
		comment := userdata.AppendString(nil, userdata.TypeComment, r.comment)
		b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: nc, Exprs: r.build(b), UserData: comment})
	}
}

// sweep removes chains and sets that no plan has.
func (t *tables) sweep(plans [2]*plan) error {
	conn, err := t.connect()
	if err != nil {
		return err
	}
	for i, p := range plans {
		table, have := &nftables.Table{Family: p.family.table, Name: t.name}, t.have[i]
		var old []*nftables.Chain
		for name := range have.hooks {
			if !slices.ContainsFunc(p.chains, func(c chain) bool { return c.name == name }) {
				old = append(old, &nftables.Chain{Table: table, Name: name})
			}
		}
		for _, c := range old { // first the rules, which may jump from one to another
			conn.FlushChain(c)
		}
		for _, c := range old {
			conn.DelChain(c)
			delete(have.hooks, c.Name)
			delete(have.rules, c.Name)
		}
		for name := range have.sets {
			if !slices.ContainsFunc(p.sets, func(s set) bool { return s.name == name }) {
				conn.DelSet(&nftables.Set{Table: table, Name: name})
				delete(have.sets, name)
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables table %s: remove what is left over: %w", t.name, err)
	}
	return nil
}
