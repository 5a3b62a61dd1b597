package simulate

import (
	"math"
	"slices"

	"github.com/caplance/caplance/core"
)

// Result is how one policy did.
type Result struct {
	Policy     string                 `json:"policy"`
	Flows      int                    `json:"flows"`
	Workers    int                    `json:"workers"`
	Seed       uint64                 `json:"seed"`
	Table      bool                   `json:"table_mode"`
	Consistent bool                   `json:"consistent"` // a flow asked about twice gets the same backend
	Picks      [core.Decisions]uint64 `json:"-"`
	By         map[string]uint64      `json:"picks"` // by core.Decision's name
	Backends   []Backend              `json:"backends"`
	MaxMean    float64                `json:"max_mean"`   // the fullest backend's flows over its fair number
	ChiSquare  float64                `json:"chi_square"` // Σ (flows − fair)² / fair
	Freedom    int                    `json:"degrees_of_freedom"`
	Events     []Disruption           `json:"events"`
	Peak       float64                `json:"peak_imbalance"` // the most that a backend's open flows were above their fair number, max/mean
	PeakAt     float64                `json:"peak_at"`        // share of the flows that had come
	Imbalance  []float64              `json:"imbalance"`      // of open flows over time, max/mean
}

// Backend is what one backend got.
type Backend struct {
	Name     string  `json:"name"`
	Weight   uint32  `json:"weight"` // in the end
	Flows    uint64  `json:"flows"`
	Fair     float64 `json:"fair"` // flows that its weight was worth while it was eligible
	PeakOpen int64   `json:"peak_open"`
}

// Disruption is what a change of the pool does to flows that have no entry in
// the flow table (after a restart of the balancer, in another balancer), as
// shares of all flows.
type Disruption struct {
	Event    string  `json:"event"`
	At       float64 `json:"at"`
	Moved    float64 `json:"moved"`
	Least    float64 `json:"least"`    // that any policy has to move to be fair again
	Needless float64 `json:"needless"` // from a backend whose share did not fall, or to one whose share did not rise
}

// settle credits the backends with what was fair of the flows since the pool
// changed last.
func (s *simulation) settle() {
	for id, share := range fair(s.pool) {
		s.byID(id).Fair += float64(s.came) * share
	}
	s.came = 0
}

func (s *simulation) byID(id uint64) *tally {
	i := slices.IndexFunc(s.pool.Members, func(m core.Member) bool { return m.ID == id })
	return s.tallies[s.pool.Members[i].Name]
}

// sample notes how uneven the open flows are.
func (s *simulation) sample() {
	open, most := 0.0, 0.0
	members := s.pool.Members[:s.pool.Eligible]
	weight := 0.0
	for _, m := range members {
		open += float64(s.tallies[m.Name].active)
		weight += float64(m.Weight)
	}
	for _, m := range members {
		most = max(most, float64(s.tallies[m.Name].active)*weight/float64(m.Weight)/max(open, 1))
	}
	r := s.result
	r.Imbalance = append(r.Imbalance, most)
	// While there are few flows, one more or less is a peak that means nothing.
	if at := float64(len(r.Imbalance)-1) / samples; at > 0.1 && most > r.Peak {
		r.Peak, r.PeakAt = most, at
	}
}

// judge computes the figures of merit.
func (r *Result) judge() {
	r.By = map[string]uint64{}
	for by, n := range r.Picks {
		r.By[core.Decision(by).String()] = n
	}
	for _, b := range r.Backends {
		if b.Fair <= 0 {
			continue
		}
		r.MaxMean = max(r.MaxMean, float64(b.Flows)/b.Fair)
		d := float64(b.Flows) - b.Fair
		r.ChiSquare += d * d / b.Fair
		r.Freedom++
	}
	r.Freedom = max(r.Freedom-1, 0)
}

// Chance returns how probable it is that random picks by weight are at least as
// uneven, by Wilson and Hilferty's approximation (1931).
func (r *Result) Chance() float64 {
	if r.Freedom == 0 {
		return 1
	}
	v := 2 / (9 * float64(r.Freedom))
	z := (math.Cbrt(r.ChiSquare/float64(r.Freedom)) - (1 - v)) / math.Sqrt(v)
	return math.Erfc(z/math.Sqrt2) / 2
}
