package metrics

import (
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
)

// source has all that there may be: every metric has a series.
type source struct {
	gone  bool // services and backends are
	stuck []string
	sick  []string
}

var (
	pressed = 12.5
	begun   = time.Unix(4e9, 5e8)
)

func (s source) Backends(api.BackendFilter) ([]api.BackendRow, error) {
	if s.gone {
		return nil, nil
	}
	return []api.BackendRow{
		{Service: "web", Name: "b1", State: core.Draining, Flows: 3, FlowsTotal: 12, Packets: 100, Bytes: 1 << 40, Weight: 5, Load: &pressed, RTT: 0.002, Since: begun,
			Admin: []api.AdminRow{{Backend: "b1", Verb: "drain"}, {Backend: "b1", Service: "web", Verb: "drain"}}},
		{Service: "web", Name: "b2", State: core.Missing},
		{Service: "web", Name: "b3", State: core.Unhealthy, Down: true, Reason: "check of port 80: refused"},
		{Service: "web", Name: "b4", State: core.Disabled, Admin: []api.AdminRow{{Backend: "b4", Verb: "disable", Reason: "free text"}}},
		{Name: "b9", State: core.Absent, Admin: []api.AdminRow{{Backend: "b9", Verb: "disable"}}},
	}, nil
}

func (s source) Services() []api.ServiceRow {
	if s.gone {
		return nil
	}
	return []api.ServiceRow{{
		Name: "web", Policy: "hash", Backends: 3, Eligible: 2, Least: 1, Flows: 7, Quarantined: true, Failures: 4, Picks: map[string]uint64{"policy": 7, "table": 5}, Denied: 8, Limited: 9,
		PickTime: &api.Histogram{Buckets: []api.Bucket{{Bound: 1e-7, Count: 1}, {Bound: 1e-6, Count: 3}}, Count: 4, Sum: 3e-6},
	}}
}

func (s source) Policies() []api.PolicyRow {
	if s.gone {
		return nil
	}
	return []api.PolicyRow{{
		Service: "web", Policy: "hash", NoChoice: 6, Failures: 4, Causes: map[string]uint64{"trap": 3, "fuel": 1}, Replaced: 2, Quarantined: true,
		LastError: "unreachable executed at 0x12", Metrics: map[string]uint64{"free text": 1},
		Shadow: &api.ShadowRow{Policy: "random", Asked: 8, Agreed: 2}, Table: &api.TableRow{Built: begun, Took: 0.25, Disruption: 0.125},
	}}
}

func (source) Certificates() []api.CertificateRow {
	return []api.CertificateRow{{File: "/c.pem", Subject: "lb", Fingerprint: "01234567", Until: time.Unix(1e9, 0)}, {File: "/ca.pem", Subject: "ca", Fingerprint: "89abcdef", Authority: true, Until: time.Unix(2e9, 0)}}
}

func (s source) Sessions() []api.AgentSession {
	if s.gone {
		return nil
	}
	ends := time.Unix(3e9, 0)
	return []api.AgentSession{{Backend: "b1", Expires: &ends, Heard: time.Now().Add(-time.Minute), Lease: 4}, {Backend: "b2", Heard: time.Now(), Lease: 30}}
}

func (source) Stats() api.Stats {
	return api.Stats{
		Version: "v1", Datapath: api.Datapath{Type: core.TC, Reason: "free text"}, Capture: "queue", Flows: 3, Capacity: 1024, Counters: map[string]uint64{"kernel_forwarded": 90, "forwarded_bytes": 77},
		Queues: []api.QueueRow{{Queue: 1337, Packets: 8, Batches: 4, Waiting: 1, Length: 8192, QueueDrops: 2, SocketDrops: 3}},
		Kernel: &api.KernelRow{
			Maps: []api.MapRow{{Name: "flows", Entries: 5, Max: 1024}}, Counted: &begun,
			Collections: &api.Histogram{Buckets: []api.Bucket{{Bound: 0.001, Count: 2}}, Count: 3, Sum: 0.5},
		},
	}
}

func (s source) Status() api.StatusReport {
	r := api.StatusReport{
		Healthy: s.sick == nil, Summary: "all is well: 1 services, 3 backends", Revision: 12, Warnings: []string{"free text"},
		Targets: []api.TargetRow{{Name: "ruleset", Revision: 12, State: "ok", Drifts: 2}, {Name: "fastpath", Revision: 11, Retries: 3, Error: "free text"}},
	}
	if s.sick != nil {
		r.Summary, r.Reasons = s.sick[0], s.sick[1:]
	}
	return r
}

func (s source) Stuck() []string { return s.stuck }
