// least-packets: the backend that has been sent the fewest packets per unit of
// weight, slow start included. Equal ones take turns, from a random start.
package main

import caplance "github.com/caplance/caplance/plugins/sdk/go"

type leastPackets struct {
	start int
	epoch uint64 // of the counters when start was drawn
}

func (l *leastPackets) SetPool(*caplance.Pool) error { return nil }

func (l *leastPackets) Pick(f *caplance.Flow, p *caplance.Pool) int {
	if l.epoch != p.Info.Epoch {
		// All counters are new: let workers begin at different backends.
		l.epoch, l.start = p.Info.Epoch, int(f.Rand%uint64(p.Eligible))
	}
	best := l.start
	for k := range p.Eligible {
		if i := (l.start + k) % p.Eligible; lighter(p, i, best) {
			best = i
		}
	}
	return best
}

// lighter compares packets per weight without a division.
func lighter(p *caplance.Pool, a, b int) bool {
	return float64(p.Packets[a])*float64(p.Backends[b].Share()) < float64(p.Packets[b])*float64(p.Backends[a].Share())
}

func init() { caplance.Register(&leastPackets{}) }

func main() {}
