package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/caplance/caplance/core/api"
)

// Reload implements control.Orders.
func (d *Daemon) Reload(ctx context.Context, dryRun bool) ([]api.ChangeRow, error) {
	select {
	case <-d.ready:
		rows, err := d.reloader.Reload(ctx, dryRun)
		return rows, outOfReach(err)
	default:
		return nil, errors.New("reload: the balancer is still starting; try again")
	}
}

// Handover implements control.Orders.
func (d *Daemon) Handover(context.Context) (report api.HandoverReport, leave func(), err error) {
	b := d.fast.Kernel()
	s := d.store.Snapshot()
	kind, reason := d.fast.Datapath()
	switch {
	case b == nil:
		return report, nil, fmt.Errorf("handover: nothing forwards without the balancer on datapath type %s (%s); stop it instead", kind, reason)
	case !b.Attached() || !s.Complete:
		return report, nil, errors.New("handover: the last one is not finished: backends are still missing; try again in some seconds")
	}
	report.Services = len(s.Services.List)
	report.Backends, _ = d.model.CountBackends(s)
	report.Flows = int(d.counters.Table().Flows)
	if b.Fleeting() {
		return report, nil, errors.New("handover: the flows would be lost: this process has a mount namespace of its own and no BPF file system at /sys/fs/bpf; mount one, or stop the balancer instead")
	}
	d.log.Info("flows are left to the kernel until the next start", "services", report.Services, "backends", report.Backends, "flows", report.Flows)
	return report, func() {
		d.released.Store(true)
		if err := d.fast.Leave(); err != nil { // before nobody listens to what comes up
			d.log.Warn("new flows wait until the kernel finds the balancer silent", "err", err)
		}
		d.stop()
	}, nil
}
