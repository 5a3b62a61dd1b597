package api

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core"
)

// BackendRow is one backend in one service. One for which the operator has orders
// and that is not registered is absent: its row has nothing but its name, the
// service of the orders, "" for all, and the orders.
type BackendRow struct {
	Service    string            `json:"service"`
	Name       string            `json:"name"`
	Addr       netip.Addr        `json:"addr"`
	Mode       string            `json:"mode"`
	State      core.BackendState `json:"state"`
	Reason     string            `json:"reason,omitempty"`  // why it is in that state
	Warning    string            `json:"warning,omitempty"` // what is wrong though it gets flows
	Down       bool              `json:"down,omitempty"`    // its checks say that the service does not work there
	RTT        float64           `json:"rtt_s,omitempty"`   // seconds, of the last proof of its path; 0: not known
	Load       *float64          `json:"load,omitempty"`    // pressure on its CPUs, percent; nil: not known
	Weight     uint32            `json:"weight"`
	Flows      int64             `json:"flows"`       // now
	FlowsTotal uint64            `json:"flows_total"` // since it registered
	Share      float64           `json:"share"`       // of its service's flows_total, 0 to 1
	Packets    uint64            `json:"packets"`
	Bytes      uint64            `json:"bytes"`
	Since      time.Time         `json:"since"`

	AgentState  core.BackendState `json:"agent_state"`  // without the operator's orders
	AgentWeight uint32            `json:"agent_weight"` // likewise
	Admin       []AdminRow        `json:"admin,omitempty"`
}

// Absent reports whether the backend is not registered.
func (r *BackendRow) Absent() bool { return r.State == core.Absent || r.State == core.Missing }

// Why returns the state that Reason is about, and Reason: the operator's orders need
// none.
func (r *BackendRow) Why() string {
	state := r.State
	if r.AgentState != core.Active {
		state = r.AgentState
	}
	return state.String() + ": " + r.Reason
}

// ServiceRow is one service.
type ServiceRow struct {
	Name        string            `json:"name"`
	VIP         netip.Addr        `json:"vip"`
	Protocol    string            `json:"protocol"`
	Ports       string            `json:"ports"`
	Mode        string            `json:"mode"`
	Policy      string            `json:"policy"`
	Backends    int               `json:"backends"`
	Eligible    int               `json:"eligible"`
	Least       int               `json:"min_backends,omitempty"` // of those, by the configuration
	Panic       bool              `json:"panic,omitempty"`        // too few are well: health is ignored
	Withdrawn   bool              `json:"withdrawn,omitempty"`    // its VIP is, for want of backends
	Leaving     bool              `json:"leaving,omitempty"`      // it was removed: its open flows go on
	Flows       int64             `json:"flows"`
	Picks       map[string]uint64 `json:"picks"`       // by core.Decision's name
	PickTime    *Histogram        `json:"pick_time"`   // how long a sample of the policy's picks took; null: there is no worker yet
	Denied      uint64            `json:"denied"`      // packets of new flows, by the list of clients
	Limited     uint64            `json:"limited"`     // likewise, by max_new_flows
	Failures    uint64            `json:"failures"`    // traps and impossible answers of the policy
	Quarantined bool              `json:"quarantined"` // the policy is no longer asked
	LastError   string            `json:"last_error,omitempty"`
}

// Histogram is how durations are spread.
type Histogram struct {
	Buckets []Bucket `json:"buckets"`
	Count   uint64   `json:"count"` // in all
	Sum     float64  `json:"sum_s"` // seconds
}

// Bucket is how many durations were not longer than a bound.
type Bucket struct {
	Bound float64 `json:"le_s"` // seconds
	Count uint64  `json:"count"`
}

// PolicyRow is how a service's policy does.
type PolicyRow struct {
	Service     string            `json:"service"`
	Policy      string            `json:"policy"`
	Since       time.Time         `json:"since"`
	Previous    string            `json:"previous,omitempty"` // what a rollback brings back
	Picks       map[string]uint64 `json:"picks"`              // by core.Decision's name
	NoChoice    uint64            `json:"no_choice"`          // the policy left it to the lookup table
	Failures    uint64            `json:"failures"`
	Causes      map[string]uint64 `json:"causes"`   // of the failures, by host.Cause's name
	Replaced    uint64            `json:"replaced"` // instances that took over after a failure
	Quarantined bool              `json:"quarantined"`
	LastError   string            `json:"last_error,omitempty"`
	Metrics     map[string]uint64 `json:"metrics,omitempty"`
	Shadow      *ShadowRow        `json:"shadow,omitempty"`
	Table       *TableRow         `json:"table,omitempty"`
}

// ShadowRow is what a service's shadow would have done.
type ShadowRow struct {
	Policy string            `json:"policy"`
	Asked  uint64            `json:"asked"`
	Agreed uint64            `json:"agreed"`
	Would  map[string]uint64 `json:"would"` // flows by backend
}

// TableRow is the table of a policy in table mode.
type TableRow struct {
	Built      time.Time `json:"built"`
	Took       float64   `json:"took_s"`     // seconds
	Disruption float64   `json:"disruption"` // share of the slots moved without need by the last change
	Error      string    `json:"error,omitempty"`
}

// PolicyChange is an order to change a service's policy.
type PolicyChange struct {
	Service string `json:"service"`
	Policy  string `json:"policy"` // bundled name or absolute path; "" for no shadow
}

// EventRow is something that happened: a line of the log, whatever the log lets through.
type EventRow struct {
	Seq   uint64    `json:"seq"` // grows; what came after this one is asked for by it
	Time  time.Time `json:"time"`
	Level string    `json:"level"`
	Text  string    `json:"text"`
	About string    `json:"about"` // key=value …
}

// FlowRow is one flow.
type FlowRow struct {
	Src     netip.AddrPort `json:"src"`
	Dst     netip.AddrPort `json:"dst"`
	Proto   string         `json:"proto"`
	Service string         `json:"service"`
	Backend string         `json:"backend"`
	State   string         `json:"state"`
	Kernel  bool           `json:"kernel"` // forwarded without coming up
	Rule    string         `json:"rule"`   // by what it was placed: policy, table, fallback
	Age     float64        `json:"age_s"`  // seconds
	Idle    float64        `json:"idle_s"` // seconds
	Packets uint64         `json:"packets"`
	Bytes   uint64         `json:"bytes"`
}

// Stats is the state of the balancer as a whole.
type Stats struct {
	Version  string            `json:"version"`
	Uptime   float64           `json:"uptime_s"` // seconds
	Capture  string            `json:"capture"`  // how packets reach userspace
	Datapath Datapath          `json:"datapath"`
	Queues   []QueueRow        `json:"queues"`
	Flows    int64             `json:"flows"`
	Capacity int64             `json:"capacity"` // of the flow tables
	Counters map[string]uint64 `json:"counters"`
	Kernel   *KernelRow        `json:"kernel,omitempty"` // null: the fast path is off
}

// KernelRow is how the fast path's tables are.
type KernelRow struct {
	Maps        []MapRow   `json:"maps"`
	Collections *Histogram `json:"collections"`          // how long garbage collections took
	Counted     *time.Time `json:"counted_at,omitempty"` // when the last one began that is over; null: none is
}

// MapRow is how full a BPF map is.
type MapRow struct {
	Name    string `json:"name"`
	Entries int    `json:"entries"`
	Max     int    `json:"max"`
}

// Datapath is how established flows are forwarded, and why not faster.
type Datapath struct {
	Type   core.DatapathType `json:"type"` // what runs: never auto
	Reason string            `json:"reason,omitempty"`
}

// String returns the type with its reason: tc (xdp has to be asked for).
func (d Datapath) String() string {
	if d.Reason == "" {
		return string(d.Type)
	}
	return fmt.Sprintf("%s (%s)", d.Type, d.Reason)
}

// QueueRow is one NFQUEUE.
type QueueRow struct {
	Queue       uint16 `json:"queue"`
	Packets     uint64 `json:"packets"`      // seen by the worker
	Batches     uint64 `json:"batches"`      // system calls that brought them
	Waiting     uint64 `json:"waiting"`      // in the kernel, now
	Length      uint32 `json:"length"`       // how many may wait there
	QueueDrops  uint64 `json:"queue_drops"`  // the queue was full
	SocketDrops uint64 `json:"socket_drops"` // the socket's buffer was full
}
