package daemon

import (
	"errors"
	"path/filepath"

	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/hostnet"
	"github.com/caplance/caplance/core/ruleset"
)

// Unload takes back all that a killed balancer left on the machine: rules,
// addresses, and flows in the kernel, which end. It fails while the balancer
// runs.
func Unload(cfg *config.Server) error {
	j, err := hostnet.Open(filepath.Join(cfg.StateDir, "server.journal")) // takes the addresses back
	if err != nil {
		return err
	}
	return errors.Join(fastpath.Unload(cfg.StateDir), ruleset.Remove(), j.Close())
}
