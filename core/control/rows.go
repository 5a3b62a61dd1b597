package control

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
)

// Source is what the balancer's socket shows. Its methods may be called
// concurrently.
type Source interface {
	Backends() []BackendRow
	Services() []ServiceRow
	// Flows collects from the workers, which takes some milliseconds.
	Flows(ctx context.Context, f FlowFilter) ([]FlowRow, error)
	Stats() Stats
	// Explain tells of one flow, known or not.
	Explain(ctx context.Context, flow FlowID) (Explanation, error)
	// Handover prepares to leave the flows to the kernel until a successor
	// starts; leave then ends the process.
	Handover() (leave func(), err error)
}

// FlowID names a flow as the client sees it.
type FlowID struct {
	Src   netip.AddrPort `json:"src"`
	Dst   netip.AddrPort `json:"dst"` // VIP and port
	Proto string         `json:"proto"`
}

// ParseFlowID reads "SRC:PORT" and "VIP:PORT/proto".
func ParseFlowID(src, dst string) (f FlowID, err error) {
	if f.Src, err = netip.ParseAddrPort(src); err != nil {
		return f, fmt.Errorf("client %q is not ADDRESS:PORT (like 198.51.100.7:40000 or [2001:db8::7]:40000)", src)
	}
	addr, proto, _ := strings.Cut(dst, "/")
	if f.Dst, err = netip.ParseAddrPort(addr); err != nil || proto != "tcp" && proto != "udp" {
		return f, fmt.Errorf("destination %q is not VIP:PORT/tcp or VIP:PORT/udp", dst)
	}
	f.Proto = proto
	return f, nil
}

// Explanation says where a flow's packets go, and why.
type Explanation struct {
	FlowID
	Service string   `json:"service"`         // "" when no service has that VIP, protocol and port
	Flow    *FlowRow `json:"flow"`            // null for a flow that is not known
	Fresh   string   `json:"fresh,omitempty"` // what would decide on the first packet of an unknown one
	Backend string   `json:"backend"`         // where its packets go; for an unknown one if its fresh packet can be foretold
	Way     string   `json:"way,omitempty"`   // how they get there: mode, address, and through what
}

// Policies changes and shows the services' policies. Its methods may be called
// concurrently; a change that fails leaves everything as it was.
type Policies interface {
	Policies() []PolicyRow
	Swap(ctx context.Context, service, policy string) error
	Rollback(ctx context.Context, service string) error
	Shadow(ctx context.Context, service, policy string) error
}

// BackendRow is one backend in one service.
type BackendRow struct {
	Service    string            `json:"service"`
	Name       string            `json:"name"`
	Addr       netip.Addr        `json:"addr"`
	Mode       string            `json:"mode"`
	State      core.BackendState `json:"state"`
	Weight     uint32            `json:"weight"`
	Flows      int64             `json:"flows"`       // now
	FlowsTotal uint64            `json:"flows_total"` // since it registered
	Share      float64           `json:"share"`       // of its service's flows_total, 0 to 1
	Packets    uint64            `json:"packets"`
	Bytes      uint64            `json:"bytes"`
	Since      time.Time         `json:"since"`
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
	Flows       int64             `json:"flows"`
	Picks       map[string]uint64 `json:"picks"`       // by core.Decision's name
	Failures    uint64            `json:"failures"`    // traps and impossible answers of the policy
	Quarantined bool              `json:"quarantined"` // the policy is no longer asked
	LastError   string            `json:"last_error,omitempty"`
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

// FlowFilter narrows a list of flows; zero values do not.
type FlowFilter struct {
	Service, Backend string
	Top              bool // those with the most bytes, and in that order
	Limit            int
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
	Rung     string            `json:"rung"`     // how established flows are forwarded, and why not better
	Queues   []QueueRow        `json:"queues"`
	Flows    int64             `json:"flows"`
	Capacity int64             `json:"capacity"` // of the flow tables
	Counters map[string]uint64 `json:"counters"`
}

// QueueRow is one NFQUEUE.
type QueueRow struct {
	Queue       uint16 `json:"queue"`
	Packets     uint64 `json:"packets"`      // seen by the worker
	Batches     uint64 `json:"batches"`      // system calls that brought them
	Waiting     uint64 `json:"waiting"`      // in the kernel, now
	QueueDrops  uint64 `json:"queue_drops"`  // the queue was full
	SocketDrops uint64 `json:"socket_drops"` // the socket's buffer was full
}
