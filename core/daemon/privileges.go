package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/privilege"
	"github.com/caplance/caplance/plugins/manager"
)

// giveUp gives up what the balancer does not need any more.
func (d *Daemon) giveUp(cfg *config.Server) {
	if d.GiveUp == nil {
		return
	}
	p := privilege.Plan{
		All: !cfg.Sandbox.Least(), Paths: cfg.Sandbox.Paths,
		Own: []string{cfg.StateDir}, Socket: cfg.Control, Read: append([]string{cfg.File(), cfg.Registry.Key}, cfg.Registry.Certificate.List()...),
	}
	p.SysAdmin, p.Mounts = fastpath.NeedsSysAdmin(cfg.StateDir)
	if cfg.Log.File != "" {
		p.Own = append(p.Own, filepath.Dir(cfg.Log.File), cfg.Log.File)
	}
	for _, svc := range cfg.Services {
		for _, policy := range []string{svc.Policy, svc.Shadow} {
			if filepath.IsAbs(policy) {
				p.Read = append(p.Read, policy)
			}
		}
	}
	d.GiveUp(d.log, p)
}

// policies are the manager's, with a hint where a file is out of reach.
type policies struct{ *manager.Manager }

// Swap implements control.Policies.
func (p policies) Swap(ctx context.Context, service, policy string) error {
	return outOfReach(p.Manager.Swap(ctx, service, policy))
}

// Shadow implements control.Policies.
func (p policies) Shadow(ctx context.Context, service, policy string) error {
	return outOfReach(p.Manager.Shadow(ctx, service, policy))
}

// outOfReach adds to an error about a file that the balancer has been confined, if
// it has.
func outOfReach(err error) error {
	if errors.Is(err, fs.ErrPermission) && privilege.Held().Confined {
		return fmt.Errorf("%w (the balancer is confined: name the file's directory in sandbox.paths, and restart it)", err)
	}
	return err
}
