package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/hostnet"
	"github.com/caplance/caplance/core/ruleset"
)

// portsFile keeps at which ports sockets were seen, for the successor of a killed
// agent.
func portsFile(stateDir string) string { return filepath.Join(stateDir, "agent.ports") }

// Unload takes back what a killed agent left on this machine, or one that was
// handed over: VIPs, sysctls, rules, the program that takes packets out of the
// tunnel, and what it noted. It refuses while an agent runs.
func Unload(stateDir string) error {
	lock, err := takeLock(stateDir)
	if err != nil {
		return err
	}
	journal, err := hostnet.Adopt(filepath.Join(stateDir, "agent.journal"))
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	errs := []error{journal.Close(), ruleset.RemoveClamp()}
	links, err := net.Interfaces()
	if err != nil {
		errs = append(errs, fmt.Errorf("links: %w", err))
	}
	for _, l := range append(links, net.Interface{}) { // its pins go without a link, too
		errs = append(errs, fastpath.UnloadReceiver(stateDir, l.Name))
	}
	for _, file := range []string{portsFile(stateDir), adminFile(stateDir)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, lock.Close())...)
}
