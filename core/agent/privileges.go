package agent

import (
	"log/slog"
	"path/filepath"

	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/privilege"
)

// DropPrivileges has the agent give up by giveUp, which is privilege.GiveUp, what it
// does not need any more once it has started. Call it before Run; without it, the agent
// keeps what it has.
func (a *Agent) DropPrivileges(giveUp func(*slog.Logger, privilege.Plan)) { a.drop = giveUp }

// giveUp does so.
func (a *Agent) giveUp() {
	cfg := a.config()
	if a.drop == nil {
		return
	}
	p := privilege.Plan{
		All: !cfg.Sandbox.Least(), Paths: cfg.Sandbox.Paths,
		Own: []string{cfg.StateDir}, Socket: cfg.Control, Read: append([]string{cfg.File(), cfg.Key}, cfg.Certificate.List()...),
	}
	p.SysAdmin, p.Mounts = fastpath.NeedsSysAdmin(cfg.StateDir)
	if cfg.Log.File != "" {
		p.Own = append(p.Own, filepath.Dir(cfg.Log.File), cfg.Log.File)
	}
	a.drop(a.log, p)
}
