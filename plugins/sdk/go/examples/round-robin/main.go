// round-robin: every backend in turn, in proportion to its weight: stride
// scheduling (Waldspurger and Weihl, 1995). A backend's next turn is one stride
// after its last one; the earliest turn is picked.
package main

import caplance "github.com/caplance/caplance/plugins/sdk/go"

type place struct{ turn, stride uint64 }

type roundRobin struct {
	places map[uint64]*place // by backend id
	inPool []*place          // by index
	now    uint64            // the turn picked last
}

// SetPool keeps everybody's place; newcomers line up in their first stride, in
// every worker beginning with another one.
func (r *roundRobin) SetPool(p *caplance.Pool) error {
	places, n := make(map[uint64]*place), p.Eligible
	r.inPool = make([]*place, n)
	for i, b := range p.Backends[:n] {
		stride := 1 << 40 / uint64(max(b.Weight, 1))
		position := (i + n - n*int(p.Info.Worker)/int(p.Info.Workers)) % n
		turn := r.now + stride*(uint64(position)<<16/uint64(n))>>16
		if was := r.places[b.ID]; was != nil {
			turn = min(was.turn, r.now+stride-1)
		}
		r.inPool[i] = &place{turn, stride}
		places[b.ID] = r.inPool[i]
	}
	r.places = places
	return nil
}

func (r *roundRobin) Pick(*caplance.Flow, *caplance.Pool) int {
	next := 0
	for i, p := range r.inPool {
		if first := r.inPool[next]; p.turn < first.turn || p.turn == first.turn && p.stride < first.stride {
			next = i
		}
	}
	r.now = r.inPool[next].turn
	r.inPool[next].turn += r.inPool[next].stride
	return next
}

func init() { caplance.Register(&roundRobin{}) }

func main() {}
