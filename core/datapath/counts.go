package datapath

import "sync/atomic"

// Count names something that happened to packets other than being forwarded.
type Count int

// What is counted. Names are what stats and metrics show.
const (
	Malformed     Count = iota // dropped: headers contradict each other
	Foreign                    // accepted: not for a service after all
	NoBackend                  // dropped: no backend is eligible
	Rejected                   // dropped: the policy refused the flow
	Held                       // dropped: the flow's backend has not come back yet
	PausedDrop                 // dropped: the flow's backend is paused
	MidFlow                    // TCP without an entry, sent by the lookup table
	TooBig                     // answered with an ICMP error
	ErrorsUnsent               // such errors that could not be sent
	Fragmented                 // cut to the tunnel's MTU
	ICMPErrors                 // delivered to the flow's backend
	Handed                     // passed to another worker
	HandedLost                 // dropped: the other worker had too much waiting
	FragmentsLost              // dropped: too many fragments waited for their first
	numCounts
)

var countNames = [numCounts]string{
	"malformed", "foreign", "no_backend", "rejected", "held", "paused", "mid_flow", "too_big",
	"icmp_unsent", "fragmented", "icmp_errors", "handed", "handed_lost", "fragments_lost",
}

func (c Count) String() string { return countNames[c] }

// Counts are one worker's counters, for anyone to read.
type Counts [numCounts]atomic.Uint64

func (c *Counts) add(what Count) { c[what].Add(1) }

// AddTo adds the counters to a map by name.
func (c *Counts) AddTo(m map[string]uint64) {
	for i := range c {
		m[Count(i).String()] += c[i].Load()
	}
}
