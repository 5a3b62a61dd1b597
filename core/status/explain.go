package status

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
)

// Explain returns where a flow's packets go, and why.
func (m *Model) Explain(ctx context.Context, id api.FlowID) (api.Explanation, error) {
	defer m.Fast.Hold()()
	e := api.Explanation{FlowID: id}
	k := core.FlowKey{
		Src: id.Src.Addr().As16(), Dst: id.Dst.Addr().As16(), SrcPort: id.Src.Port(), DstPort: id.Dst.Port(), Proto: core.ProtoTCP,
	}
	if id.Proto == core.ProtoName(core.ProtoUDP) {
		k.Proto = core.ProtoUDP
	}
	snap := m.Store.Snapshot()
	svc := snap.Services.Of(id.Dst.Addr(), k.Proto, k.DstPort)
	if svc == nil {
		e.Decision = foreign(snap, id)
		return e, nil
	}
	e.Service = svc.Name
	row, err := m.lookUp(ctx, &k)
	if err != nil {
		return e, fmt.Errorf("explain: %w", err)
	}
	pool := snap.Pools.Of(svc.ID)
	if e.Flow = row; row != nil {
		e.Backend = row.Backend
	} else {
		e.Decision, e.Backend = m.predict(pool, &k)
		if pool.Panic {
			e.Decision += fmt.Sprintf("; so few backends are well that their health is ignored (panic_threshold %d %%)", svc.Panic)
		}
		if svc.NewFlows > 0 {
			e.Decision += fmt.Sprintf("; at most %d new flows a second from its source", svc.NewFlows)
		}
	}
	for i := range pool.Members {
		if b := &pool.Members[i]; b.Name == e.Backend {
			e.Path = m.path(b)
		}
	}
	return e, nil
}

// foreign says why no service takes a packet, and who does.
func foreign(snap *core.Snapshot, id api.FlowID) string {
	var serves []string
	for _, svc := range snap.Services.List {
		if svc.VIP == id.Dst.Addr() {
			serves = append(serves, fmt.Sprintf("%s (%s %s)", svc.Name, svc.Protocol(), svc.PortList()))
		}
	}
	vip, ok := snap.VIPs.Get(id.Dst.Addr())
	if !ok {
		return fmt.Sprintf("%v is no VIP: the packet is this machine's own", id.Dst.Addr())
	}
	fate := "dropped, unless it answers this machine (datapath.vip_host_access)"
	if vip.Host {
		fate = "this machine's own (datapath.vip_host_access)"
	}
	return fmt.Sprintf("%v is a VIP of %s, and not with this protocol and port: the packet is %s", id.Dst.Addr(), strings.Join(serves, ", "), fate)
}

// lookUp returns a flow of the kernel's tables or a worker's; nil when it is in
// neither.
func (m *Model) lookUp(ctx context.Context, k *core.FlowKey) (row *api.FlowRow, err error) {
	if kernel := m.Fast.Kernel(); kernel != nil {
		if f, ok := kernel.Find(k); ok {
			r := m.kernelRow(&f)
			return &r, nil
		}
	}
	for _, w := range m.Workers() { // while queues change, it may be with any
		err = do(ctx, w, func() {
			if e := w.Path.Table().Find(k, w.Path.Hash(k)); e != nil && !e.Kernel() {
				r := m.workerRow(w, e)
				row = &r
			}
		})
		if err != nil || row != nil {
			return row, err
		}
	}
	return nil, nil
}

// predict returns what would decide on a new flow, and its backend where that
// is certain.
func (m *Model) predict(pool *core.Pool, k *core.FlowKey) (decision, backend string) {
	if !pool.Service.Leaving && !pool.Service.Clients.Allows(&k.Src) {
		return denied(pool.Service, netip.AddrFrom16(k.Src).Unmap()), ""
	}
	if pool.Eligible == 0 && pool.Deserted() && pool.Service.Unserved == core.ResetUnserved {
		return "refused, by a reset or ICMP: no backend is eligible", ""
	}
	if pool.Eligible == 0 {
		return "dropped: no backend is eligible", ""
	}
	st, _ := m.Manager.Stats(pool.Service.Name)
	hash := k.Hash(pool.Service.Seed)
	switch {
	case pool.Service.Leaving:
		return "refused: the service was removed, and only its open flows go on", ""
	case pool.Service.Alone(k.Proto):
		return "each datagram is scheduled by itself", ""
	case pool.Table != nil:
		if i, ok := pool.ByTable(hash); ok {
			return "the table of policy " + st.Policy, pool.Members[i].Name
		}
	case !st.Quarantined:
		return "policy " + st.Policy + " is asked", ""
	}
	return "the lookup table", pool.Members[pool.Fallback(hash)].Name
}

// denied says why a service does not take a client.
func denied(svc *core.Service, client netip.Addr) string {
	if rule, ok := svc.Clients.Rule(client); ok {
		return fmt.Sprintf("dropped: %v is in %v, which service %s denies", client, rule.Prefix, svc.Name)
	}
	return fmt.Sprintf("dropped: %v is in none of the networks that service %s allows", client, svc.Name)
}

// path returns how packets get to a member.
func (m *Model) path(b *core.Member) string {
	kind, reason := m.Fast.Datapath()
	text := fmt.Sprintf("%s to %v, packets up to %d bytes", b.Mode, b.Addr, b.MTU)
	switch {
	case b.State == core.Paused:
		text += ", held back: the backend is paused"
	case kind == core.Userspace:
		text += ", by userspace: " + reason
	case !b.Kernel():
		text += ", by userspace: its agent decapsulates there"
	default:
		text += ", by the kernel: " + string(kind)
	}
	if b.Tells {
		text += "; its agent tells when connections end"
	}
	return text
}
