package datapath

import "sync/atomic"

// Count names something that happened to packets other than being forwarded.
type Count int

// What is counted. Names are what stats and metrics show.
const (
	Malformed     Count = iota // dropped: headers contradict each other
	Foreign                    // accepted: not for a service after all
	Unclaimed                  // dropped: for neither a service nor the machine
	NoBackend                  // dropped: no backend is eligible
	Denied                     // dropped: the service does not take the client
	Limited                    // dropped: the source has begun too many flows
	Rejected                   // dropped: the policy refused the flow
	Held                       // dropped: the flow's backend has not come back yet
	PausedDrop                 // dropped: the flow's backend is paused
	MidFlow                    // TCP without an entry, sent by the lookup table
	TooBig                     // answered with an ICMP error
	TTLExpired                 // dropped: TTL or hop limit 1; answered with an ICMP error
	ErrorsUnsent               // such errors that could not be sent
	Fragmented                 // cut to the tunnel's MTU
	ICMPErrors                 // delivered to the flow's backend
	Steered                    // passed to another worker
	SteeredLost                // dropped: the other worker had too much waiting
	FragmentsLost              // dropped: fragments whose first came too late, or never
	HeldDrop                   // dropped: SYNs whose flow's backend did not answer in time, or too many that waited
	Refused                    // of NoBackend: answered with a reset or port unreachable
	ExpiredReset               // idle flows whose clients were told that they are forgotten
	numCounts
)

var countNames = [numCounts]string{
	"malformed", "foreign", "vip_unclaimed", "no_backend", "denied", "limited", "rejected", "held", "paused", "mid_flow", "too_big", "ttl_expired",
	"icmp_unsent", "fragmented", "icmp_errors", "steered", "steered_lost", "fragments_lost", "syn_unasked", "refused", "expired_reset",
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
