package reload

import (
	"context"
	"errors"
	"log/slog"

	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/state"
	"github.com/caplance/caplance/plugins/manager"
)

// Check compiles the configuration's policies and starts each once.
func Check(ctx context.Context, cfg *config.Server) error {
	log := slog.New(slog.DiscardHandler)
	m, err := manager.New(ctx, manager.Config{Store: state.New(log), Workers: 1, Limits: Limits(cfg.Policy), Log: log})
	if err != nil {
		return err
	}
	change, err := m.Prepare(ctx, cfg.Services, Limits(cfg.Policy))
	if err == nil {
		change.Discard()
	}
	return errors.Join(err, m.Close())
}

// Ports returns which addresses of a configuration cannot be listened on now, of those
// that a balancer takes at its start. One that runs has them itself.
func Ports(cfg *config.Server) (errs []error) {
	for _, err := range []error{canBind("registry.listen", "", cfg.Registry.Listen.String()), canBind("metrics", "", cfg.Metrics)} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}
