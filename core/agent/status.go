package agent

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/privilege"
	"github.com/caplance/caplance/core/probe"
	"github.com/caplance/caplance/core/reconcile"
)

// status returns how the machine follows the desired state.
func (a *Agent) status() api.AgentStatus {
	var want uint64
	if d := a.store.newest(); d != nil {
		want = d.revision
	}
	rows, failing := api.TargetRows(a.loop.Status(), want)
	state := a.State()
	own := a.config().Own
	useless := auth.Failing(own, time.Now())
	out := api.AgentStatus{State: state.String(), Warnings: auth.Expiring(own, time.Now()), Targets: rows, Admin: a.orders(), Privileges: api.Privileges(privilege.Held())}
	for _, t := range auth.Terms(own) {
		out.Certificates = append(out.Certificates, api.CertificateRow(t))
	}
	if proven := a.proven.Load(); proven != nil {
		out.Proven = proven.String()
	}
	switch {
	case failing > 0:
		out.Summary = fmt.Sprintf("%d of %d targets fail: the machine is not as the balancer wants it", failing, len(rows))
	case slices.ContainsFunc(rows, func(r api.TargetRow) bool { return r.State != "ok" }):
		out.Summary = fmt.Sprintf("revision %d of what the balancer wants is being made", want)
	case useless != nil:
		out.Summary = useless.Error()
	case state == Registering:
		out.Summary = "not registered with the balancer yet; the agent's log says why"
	case out.Admin != "":
		out.Healthy, out.Summary = true, "all is well; the balancer's operator orders "+out.Admin
	case len(a.prober.Down()) > 0:
		out.Summary = downSummary(a.prober.Down())
	default:
		out.Healthy, out.Summary = true, "all is well"
	}
	return out
}

// hear notes what the balancer's operator orders, "" for nothing.
func (a *Agent) hear(orders string) {
	if was := a.orders(); was != orders {
		a.ordered.Store(&orders)
		a.log.Info("orders of the balancer's operator", "were", was, "are", orders)
	}
}

// orders returns what was heard last.
func (a *Agent) orders() string {
	if o := a.ordered.Load(); o != nil {
		return *o
	}
	return ""
}

// downSummary says which services are down, and why the first one is.
func downSummary(down map[string]string) string {
	names := slices.Sorted(maps.Keys(down))
	first := names[0]
	if first == probe.Whole {
		return "the backend takes no new flows: " + down[first]
	}
	if len(names) == 1 {
		return fmt.Sprintf("service %s takes no new flows here: %s", first, down[first])
	}
	return fmt.Sprintf("%d services take no new flows here: %s (%s), …", len(names), first, down[first])
}

// failing returns what of the machine fails, "" if nothing does.
func (a *Agent) failing() string {
	for _, s := range a.loop.Status() {
		if s.Error != nil {
			return fmt.Sprintf("machine: %s: %v", s.Target, s.Error)
		}
	}
	return ""
}

// happened has the machine looked over again and the session report to the
// balancer whether it is fit.
func (a *Agent) happened(e reconcile.Event) {
	signal(a.touched)
	if e.Kind != reconcile.Drift {
		signal(a.stirred)
	}
}
