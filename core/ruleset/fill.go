package ruleset

import (
	"fmt"

	"github.com/google/nftables"
)

// Elements in one message of a batch, whose length is 16 bits, and in one
// batch. An element is at most 100 bytes long.
const (
	perMessage = 256
	perBatch   = 1 << 16
)

// costly is how many removals times elements of an interval set are too many:
// the kernel goes through all elements for each removal (nft_pipapo_remove).
// Measured: 4000 of 4000 took 12 s, a new set with 4000 takes 0.05 s.
const costly = 1 << 17

// fill changes the content of the plans' sets to what goal makes of what they
// have and what is wanted.
func (t *tables) fill(plans [2]*plan, goal func(have, want elements) elements) error {
	for i, p := range plans {
		b := &builder{connect: t.connect, table: &nftables.Table{Family: p.family.table, Name: t.name}, family: p.family}
		for _, s := range p.sets {
			img := t.have[i]
			if _, there := img.sets[s.name]; !there || s.learns != 0 { // a drift, which Verify finds
				continue
			}
			to := s.want
			if !s.exact {
				to = goal(img.sets[s.name], s.want)
			}
			if err := b.refill(p, &s, img.sets[s.name], to, img.broken[s.name]); err != nil {
				return fmt.Errorf("nftables table %s: set %s: %w", t.name, s.name, err)
			}
			img.sets[s.name], img.broken[s.name] = to, false
		}
	}
	return nil
}

// refill brings one set from a content to another.
func (b *builder) refill(p *plan, s *set, from, to elements, broken bool) (err error) {
	if b.conn, err = b.connect(); err != nil {
		return err
	}
	list := changes(from, to)
	if broken || s.interval && removals(list)*len(from) > costly {
		b.renew(p, s)
		list = changes(nil, to)
	}
	if b.err != nil {
		return b.err
	}
	return b.apply(s.table(b.table), list)
}

func removals(list []change) (n int) {
	for _, c := range list {
		n += len(c.del)
	}
	return n
}

// renew puts an empty set in the place of one, with the rules that look it up.
// Nobody sees it empty, for its elements come in the same batch.
func (b *builder) renew(p *plan, s *set) {
	users := s.users(p)
	for _, c := range users {
		b.conn.FlushChain(&nftables.Chain{Table: b.table, Name: c.name})
	}
	t := s.table(b.table)
	b.conn.DelSet(t)
	b.check(b.conn.AddSet(t, nil))
	for _, c := range users {
		b.fillChain(&c, false)
	}
}

// apply makes changes. A key is changed in one batch: at no time is a port not
// there that is there before and after.
func (b *builder) apply(s *nftables.Set, list []change) error {
	for len(list) > 0 {
		var c change
		c, list = take(list)
		if err := put(c.del, func(e []nftables.SetElement) error { return b.conn.SetDeleteElements(s, e) }); err != nil {
			return err
		}
		if err := put(c.add, func(e []nftables.SetElement) error { return b.conn.SetAddElements(s, e) }); err != nil {
			return err
		}
		if err := b.conn.Flush(); err != nil {
			return err
		}
	}
	return b.conn.Flush()
}

// take returns the changes of one batch, put together, and the rest.
func take(list []change) (batch change, rest []change) {
	for len(list) > 0 && len(batch.del)+len(batch.add) < perBatch {
		batch.del = append(batch.del, list[0].del...)
		batch.add = append(batch.add, list[0].add...)
		list = list[1:]
	}
	return batch, list
}

// put hands elements on in messages.
func put(list []nftables.SetElement, f func([]nftables.SetElement) error) error {
	for len(list) > 0 {
		n := min(len(list), perMessage)
		if err := f(list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}
