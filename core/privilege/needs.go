package privilege

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
)

// Plan is what a daemon keeps.
type Plan struct {
	All      bool     // all capabilities
	SysAdmin string   // why CAP_SYS_ADMIN is needed, "" if it is not
	Mounts   bool     // it is needed to mount something
	Own      []string // directories that it writes to, and a file; "" for none
	Socket   string   // of control
	Read     []string // files that it reads again
	Paths    []string // trees that may be read beside, and executed; with any the process is confined to what is named here
}

// GiveUp gives up what the plan does not keep, and says in the log what is kept.
// Where that fails the process goes on with what it has.
func GiveUp(log *slog.Logger, p Plan) {
	needs := p.needs()
	if p.All {
		log.Info("privileges kept: all, as configured")
	} else if err := Drop(needs); err != nil {
		log.Warn("privileges not given up", "err", err)
	} else {
		for _, n := range needs {
			log.Info("privilege kept", "capability", n.Capability, "for", n.Why)
		}
	}
	if len(p.Paths) == 0 {
		return
	}
	if err := p.confine(); err != nil {
		log.Warn("files not restricted to sandbox.paths", "err", err)
	}
}

// needs returns the capabilities that balancers and agents need while they run.
func (p *Plan) needs() []Need {
	needs := []Need{
		{NetAdmin, "nftables, NFQUEUE, addresses, routes, programs at links"},
		{NetRaw, "packets as they are"},
		{NetBindService, "ports below 1024 after a reload"},
	}
	why := p.SysAdmin
	if KnowsBPF() {
		needs = append(needs, Need{BPF, "maps and programs"}, Need{Perfmon, "programs without the detours for unprivileged ones"})
	} else {
		why = "kernels before 5.8 have no CAP_BPF"
	}
	if why != "" {
		needs = append(needs, Need{SysAdmin, why})
	}
	if f := Foreign(slices.Concat(p.Own, p.Read, []string{filepath.Dir(p.Socket)})...); f != "" {
		needs = append(needs, Need{DACOverride, f + " belongs to another user"})
	}
	return needs
}

// confine keeps the process from all files but those of the plan and those that
// every daemon needs.
func (p *Plan) confine() error {
	if p.Mounts {
		return fmt.Errorf("who is confined mounts nothing, but %s", p.SysAdmin)
	}
	read := append([]string{"/proc", "/sys", "/etc", "/usr/share/zoneinfo", "/dev/urandom"}, p.Paths...)
	if exe, err := filepath.EvalSymlinks("/proc/self/exe"); err == nil {
		read = append(read, exe) // compiles policies
	}
	for _, f := range p.Read {
		if f != "" {
			read = append(read, filepath.Dir(f))
		}
	}
	write := []string{"/proc/sys", "/sys/fs/bpf", "/dev/net/tun", "/dev/null"}
	for _, f := range p.Own {
		if f != "" {
			write = append(write, f)
		}
	}
	return Restrict(read, write, []string{filepath.Dir(p.Socket)})
}
