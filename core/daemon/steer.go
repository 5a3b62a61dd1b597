package daemon

import (
	"context"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/admin"
	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/datapath"
	"github.com/caplance/caplance/core/enrol"
)

// openAdmin reads the operator's orders about backends into the state.
func (d *Daemon) openAdmin(cfg *config.Server) (err error) {
	if err := d.openDesk(cfg); err != nil {
		return err
	}
	d.admin, err = admin.Open(admin.Config{
		File: admin.File(cfg.StateDir), Store: d.store, Log: d.log, Wait: d.loop.Wait,
		Listed: func() (names []string) {
			for _, a := range d.desk.Rows() {
				names = append(names, a.Name)
			}
			return names
		},
		DrainTimeout: func() time.Duration { return d.cfg.Load().Registry.DrainTimeout },
		Flows:        d.model.FlowsOf, Live: d.fast.Liveness.Live, CountedAt: d.fast.CountedAt,
		Kick: func(ctx context.Context, backend string) bool { return d.registry.Kick(ctx, backend) },
	})
	return err
}

// keptEvents are shown by caplancectl events.
const keptEvents = 1000

// openDesk reads which agents have joined.
func (d *Daemon) openDesk(cfg *config.Server) error {
	store, err := enrol.Open(cfg.Registry.Enrolled)
	if err != nil {
		return err
	}
	balancer := func(cfg *config.Server) enrol.Balancer {
		b := enrol.Balancer{Agents: cfg.Known, Listen: cfg.Registry.Listen, Auth: string(cfg.Registry.Auth), Own: cfg.Registry.Own}
		for _, s := range cfg.Services {
			b.Services = append(b.Services, s.Name)
		}
		return b
	}
	d.desk = &enrol.Desk{
		Store: store, Balancer: func() enrol.Balancer { return balancer(d.cfg.Load()) }, Sessions: d.sessions, Log: d.log,
		Changed: func() { d.registry.Update(d.sources.RegistrySettings(d.cfg.Load())) },
	}
	d.sources.Agents = func(cfg *config.Server) []auth.Agent { return d.desk.Agents(balancer(cfg)) }
	return nil
}

// doubts returns what better was otherwise.
func (d *Daemon) doubts() []string {
	return append(d.cfg.Load().Doubts(len(d.desk.Rows()) > 0), d.desk.Hidden()...)
}

// openControl takes the control socket.
func (d *Daemon) openControl(cfg *config.Server) error {
	access, err := control.NewAccess(cfg.ControlGroup, cfg.ControlReadGroup, config.Group)
	if err != nil {
		return err
	}
	o := control.Options{Path: cfg.Control, Access: access, Clients: cfg.ControlClients, Log: d.log}
	d.control = control.NewServer(o, d.model, policies{d.policies}, d)
	d.control.OfferRecordings(d.policies)
	d.control.OfferSteering(d.admin)
	d.control.OfferAgents(d.desk)
	return d.control.Listen()
}

// addCounters adds what is counted outside the fast path.
func (d *Daemon) addCounters(m map[string]uint64) {
	d.workers.AddTo(m)
	d.registry.AddTo(m)
	m["control_clients_refused"] = d.control.Refused()
	m["metrics_refused"] = d.metrics.Refused()
}

// apply takes the registered backends into the state.
func (d *Daemon) apply(list []core.Backend) uint64 {
	d.admin.Saw(list)
	return d.sources.Apply(list)
}

// probe sends one of the registry's on the path of tunnelled packets.
func (d *Daemon) probe(to netip.Addr, datagram []byte) error { return d.workers.Probe(to, datagram) }

// scheduler returns where a worker finds its schedulers.
func (d *Daemon) scheduler(worker int) func(*core.Service) datapath.Scheduler {
	return func(s *core.Service) datapath.Scheduler {
		if sched := d.policies.Scheduler(worker, s.Name); sched != nil {
			return sched
		}
		return nil
	}
}
