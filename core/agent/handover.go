package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/notify"
)

// handover implements control.HandoverFunc: the agent ends and says nothing to its
// balancer, for which the backend is lost and keeps its flows for a while
// ends. A successor that registers in time goes on with them.
func (a *Agent) handover(context.Context) (report api.AgentHandover, leave func(), err error) {
	select {
	case <-a.stops:
		return report, nil, errors.New("handover: agent is stopping")
	default:
	}
	state := a.State()
	if state == Deregistering {
		return report, nil, fmt.Errorf("handover: agent is %s", state)
	}
	report = api.AgentHandover{State: state.String(), Decap: "userspace"}
	if d := a.store.newest(); d != nil {
		report.VIPs = len(d.vips)
	}
	lasting := a.machine.lasting != nil && a.machine.lasting()
	switch {
	case a.machine.kernel && lasting:
		report.Decap = "kernel"
	case a.machine.kernel:
		report.Decap, report.Text = "kernel", "packets are lost until the next start, for there is no lasting BPF file system at /sys/fs/bpf; TCP sends them again"
	default:
		report.Text = "packets are lost until the next start; TCP sends them again"
	}
	return report, func() {
		a.log.Info("the machine is left to the next agent", "state", report.State, "vips", report.VIPs, "decap", report.Decap)
		a.notify(notify.Stopping)
		a.released.Store(true)
		a.leave()
	}, nil
}

// endMachine takes back what the agent changed, or leaves it to a successor with the
// state that its operator has chosen.
func (a *Agent) endMachine(failed bool) error {
	if !a.released.Load() {
		return a.machine.close(failed)
	}
	return errors.Join(a.saveAdmin(), a.machine.close(true))
}

// adminFile holds what the successor of a handover starts in; it reads it once.
func adminFile(stateDir string) string { return filepath.Join(stateDir, "agent.admin") }

// saveAdmin writes it. Reconnect has ended.
func (a *Agent) saveAdmin() error {
	admin := a.admin
	if a.held {
		admin = Unregistered
	}
	if admin == Active {
		return nil
	}
	if err := os.WriteFile(adminFile(a.config().StateDir), []byte(admin.String()+"\n"), 0o600); err != nil {
		return fmt.Errorf("state for the next agent: %w", err)
	}
	return nil
}

// loadAdmin takes over what a predecessor's operator has chosen. Reconnect has not
// begun.
func (a *Agent) loadAdmin() error {
	data, err := os.ReadFile(adminFile(a.config().StateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.Remove(adminFile(a.config().StateDir))
	}
	if err != nil {
		return fmt.Errorf("state of the last agent: %w", err)
	}
	admin := State(slices.Index(stateNames[:], strings.TrimSpace(string(data))))
	switch admin {
	case Paused, Draining:
		a.admin = admin
	case Unregistered:
		a.held = true
	default:
		return nil
	}
	a.log.Info("starting as the last agent was left", "state", admin)
	return nil
}
