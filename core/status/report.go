package status

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/privilege"
	"github.com/caplance/caplance/core/reconcile"
)

// Status returns whether the machine is as the state says.
func (m *Model) Status() api.StatusReport {
	s := m.Store.Snapshot()
	rows, failing := api.TargetRows(m.Targets(), s.Revision)
	kind, reason := m.Fast.Datapath()
	r := api.StatusReport{Healthy: true, Revision: s.Revision, Warnings: m.Warnings(), Targets: rows, Admin: m.Orders(), Privileges: api.Privileges(privilege.Held())}
	r.Links = m.links(s, kind)
	r.Datapath = api.Datapath{Type: kind, Reason: reason}.String()
	backends, without := m.CountBackends(s)
	r.Summary = fmt.Sprintf("all is well: %d services, %d backends", len(s.Services.List), backends)
	var useless error
	r.Certificates, useless = m.Terms()
	switch {
	case failing > 0:
		r.Healthy, r.Summary = false, fmt.Sprintf("%d of %d targets fail: the machine is not as configured", failing, len(r.Targets))
	case useless != nil:
		r.Healthy, r.Summary = false, useless.Error()
	case !s.Complete:
		r.Summary = fmt.Sprintf("waiting for %d backends of the predecessor, whose flows go on", m.Store.Expected())
	case without == 0 && len(m.short(s)) > 0:
		r.Healthy, r.Summary = false, m.short(s)[0]
	case without > 0:
		r.Healthy, r.Summary = false, fmt.Sprintf("%d of %d services have no backend that takes new flows", without, len(s.Services.List))
	}
	if !r.Healthy {
		r.Reasons = m.reasons(s, &r, useless)
	}
	for _, e := range m.Repairs.recent(time.Hour) {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%s %s: %s", e.Time.Format(time.TimeOnly), e.Kind, e.Text))
	}
	return r
}

// reasons returns all that is not as it should be, where the summary has the worst.
func (m *Model) reasons(s *core.Snapshot, r *api.StatusReport, useless error) (out []string) {
	for _, t := range r.Targets {
		if t.Error != "" {
			out = append(out, fmt.Sprintf("target %s fails: %s", t.Name, t.Error))
		}
	}
	if useless != nil {
		out = append(out, useless.Error())
	}
	s.Pools.Each(func(p *core.Pool) {
		if p.Eligible == 0 && !p.Service.Leaving {
			out = append(out, fmt.Sprintf("service %s has no backend that takes new flows", p.Service.Name))
		}
	})
	return append(out, m.short(s)...)
}

// How long loops may be silent. Workers look up four times a second, and the reconcile
// loop is kicked twice, but what it does for thousands of backends may take seconds.
const (
	workerSilence = 10 * time.Second
	loopSilence   = time.Minute
)

// Stuck returns which of the balancer's loops do not run any more.
func (m *Model) Stuck() (out []string) {
	for _, w := range m.Workers() {
		if d := w.Path.Silent(); d > workerSilence {
			out = append(out, fmt.Sprintf("the worker of queue %d has been silent for %s", w.Queue, d.Round(time.Second)))
		}
	}
	if at := m.Passed(); !at.IsZero() && time.Since(at) > loopSilence {
		out = append(out, fmt.Sprintf("the reconcile loop has been silent for %s", time.Since(at).Round(time.Second)))
	}
	return out
}

// links returns the links that clients come in by, and why one has no program or
// not the one that was asked for.
func (m *Model) links(s *core.Snapshot, kind core.DatapathType) []api.LinkRow {
	rows := []api.LinkRow{}
	kernel := m.Fast.Kernel()
	for _, l := range s.Links.List {
		cannot := fastpath.Attachable(l)
		row := api.LinkRow{Name: l.Name, MTU: l.MTU, Up: l.Up}
		if kernel != nil && l.Index != 0 {
			row.Program = kernel.At(l.Index)
		}
		switch {
		case l.Index == 0:
			row.Note = "not there: it is attached to when it comes"
		case kind == core.Userspace:
			row.Note = "all packets go by userspace"
		case cannot != nil:
			row.Note = "its packets go by userspace: " + cannot.Error()
		case l.Type == "bridge" && bridgeFilters():
			row.Note = "packets go by userspace: netfilter sees them on the bridge, before the program (net.bridge.bridge-nf-call-iptables = 0, if nothing needs it)"
		case kernel != nil && kernel.Inherited && !kernel.Attached():
			row.Note = "the predecessor's program goes on until its backends are back"
		case row.Program == "":
			row.Note = "its packets go by userspace until the program is attached"
		case kind == core.XDP && l.Bare:
			row.Note = "no Ethernet header, so no XDP"
		case l.Bare:
			row.Note = "no Ethernet header"
		}
		rows = append(rows, row)
	}
	return rows
}

// bridgeFilters reports whether frames that a bridge gets pass the IP hooks of
// netfilter there (br_netfilter), and so the capture.
func bridgeFilters() bool {
	on, _ := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables")
	return strings.TrimSpace(string(on)) == "1"
}

// CountBackends returns how many distinct backends there are, and how many
// services have none that takes new flows.
func (m *Model) CountBackends(s *core.Snapshot) (backends, without int) {
	names := map[string]bool{}
	s.Pools.Each(func(p *core.Pool) {
		for i := range p.Members {
			names[p.Members[i].Name] = true
		}
		if p.Eligible == 0 && !p.Service.Leaving {
			without++
		}
	})
	return len(names), without
}

// short returns which services have fewer backends that take new flows than their
// min_backends.
func (m *Model) short(s *core.Snapshot) (out []string) {
	withdrawn := s.Withdrawn()
	s.Pools.Each(func(p *core.Pool) {
		if p.Eligible < p.Service.MinBackends && !p.Service.Leaving {
			text := fmt.Sprintf("service %s has %d backends that take new flows, fewer than its min_backends (%d)", p.Service.Name, p.Eligible, p.Service.MinBackends)
			if withdrawn[p.Service.VIP] != nil {
				text += fmt.Sprintf(": VIP %v is withdrawn", p.Service.VIP)
			}
			out = append(out, text)
		}
	})
	return out
}

// unwell returns what is to be known of services that go on all the same.
func unwell(s *core.Snapshot) (out []string) {
	s.Pools.Each(func(p *core.Pool) {
		if p.Panic {
			out = append(out, fmt.Sprintf("service %s: so few of its backends are well that their health is ignored (panic_threshold %d %%)", p.Service.Name, p.Service.Panic))
		}
		for _, name := range p.Service.Expected {
			if missing(p, name) {
				out = append(out, fmt.Sprintf("service %s: backend %s is expected, and not registered", p.Service.Name, name))
			}
		}
	})
	return out
}

// recent returns the events of the time that has just passed.
func (e *Repairs) recent(within time.Duration) (out []Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.list {
		if time.Since(ev.Time) < within {
			out = append(out, ev)
		}
	}
	return out
}

// Warnings returns what the operator should know though all works.
func (m *Model) Warnings() (out []string) {
	if b := m.Fast.Kernel(); b != nil && b.Fleeting() {
		out = append(out, "a restart will lose the flows: this process has a mount namespace of its own (PrivateTmp or ProtectSystem?) and no BPF file system at /sys/fs/bpf in it")
	}
	if why := m.Unsaved(); why != "" {
		out = append(out, why)
	}
	out = append(out, m.Doubts()...)
	s := m.Store.Snapshot()
	out = append(out, m.short(s)...)
	out = append(out, unwell(s)...)
	for _, v := range s.VIPs.List {
		if v.Link.Name == "lo" {
			out = append(out, fmt.Sprintf("vip %v is in no connected network: a router must send its packets here", v.Addr))
		}
		if v.Host && s.Settings.HostAccess == core.HostOwn {
			out = append(out, fmt.Sprintf("vip %v was an address of this machine before: what no service claims there reaches it (vip_host_access = \"never\" drops it)", v.Addr))
		}
	}
	for _, l := range s.Links.List {
		if l.Index == 0 {
			out = append(out, fmt.Sprintf("link %s is not there: it is attached to when it comes", l.Name))
		}
	}
	return out
}

// Certificates returns those in use.
func (m *Model) Certificates() []api.CertificateRow {
	rows, _ := m.Terms()
	return rows
}

// Sessions returns those of agents.
func (m *Model) Sessions() []api.AgentSession { return m.Peers() }

// Events returns what was logged last, the newest at the end, and after one.
func (m *Model) Events(limit int, after uint64) []api.EventRow {
	rows := []api.EventRow{}
	for _, e := range m.Log.After(after, limit) {
		rows = append(rows, api.EventRow{Seq: e.Seq, Time: e.Time, Level: e.Level.String(), Text: e.Text, About: e.About})
	}
	return rows
}

// Repairs is what happened to the targets last, for status.
type Repairs struct {
	mu   sync.Mutex
	list []Event
}

// Event is something that happened to a target.
type Event struct {
	Time time.Time
	reconcile.Event
}

// keptEvents is how many events are shown.
const keptEvents = 100

// Add notes one.
func (e *Repairs) Add(ev reconcile.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list[max(0, len(e.list)-keptEvents+1):], Event{time.Now(), ev})
}
