// Package sources writes into the state what others say: the registry its
// backends, the configuration those without an agent and checks how they are, the
// network monitor how packets get to them, the clock how far a slow start is. It tells the registry in turn what agents are to set up.
//
//	s := &sources.Sources{Store: store, Net: monitor, …}
//	reg := registry.New(registry.Config{Offer: s.Offer, Apply: s.Apply, …})
//	err := s.FollowNetwork(ctx) // a task
package sources

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/netmon"
	"github.com/caplance/caplance/core/registry"
	"github.com/caplance/caplance/core/state"
	"github.com/caplance/caplance/core/task"
)

// The names of the sources that have to speak before anything is pruned, beside
// the predecessor.
const (
	Config  = "config"
	Network = "network"
)

// Sources is what the sources need. All is set before the first task runs.
type Sources struct {
	Server   func() *config.Server // the configuration that holds
	Store    *state.Store
	Net      *netmon.Monitor
	Registry *registry.Registry
	Agents   func(*config.Server) []auth.Agent // who may register; nil: whom the configuration lists
	Moved    func()                            // called when links or addresses may have changed
	Log      *slog.Logger

	static static
}

// Tasks returns what follows the others, once the machine is as the state says.
// FollowNetwork runs from the start.
func (s *Sources) Tasks() []task.Task {
	return []task.Task{
		task.New("offers", s.followOffers),
		task.New("settling", s.settle),
		task.New("static backends", s.followStatic),
		task.New("withdrawn VIPs", s.followWithdrawn),
		task.Every("slow start", time.Second, s.ramp),
	}
}

// FollowNetwork writes what the network monitor sees into the state.
func (s *Sources) FollowNetwork(ctx context.Context) error {
	known := map[netip.Addr]offered{}
	for {
		changed := s.Net.Changed()
		paths, news := map[netip.Addr]core.Path{}, false
		for addr, p := range s.Net.Paths() {
			paths[addr] = corePath(addr, p)
			now := offeredOf(paths[addr])
			was, ok := known[addr]
			news = news || ok && was != now
			known[addr] = now
		}
		_, _ = s.Store.Update(Network, func(dr *state.Draft) error {
			dr.SetNetwork(s.Net.Network(), paths)
			return nil
		})
		cfg := s.Server()
		if len(cfg.Registry.Agents) == 0 { // the connected networks
			s.Registry.Update(s.RegistrySettings(cfg))
		}
		s.Moved()
		s.Registry.Recheck()
		if news {
			s.Registry.Offers()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// settleTime is how long after a lease agents may take to find a balancer that
// has started again.
const settleTime = 5 * time.Second

// settle writes into the state when backends have had the time to register: until
// then a service without any waits for its first.
func (s *Sources) settle(ctx context.Context) error {
	timer := time.NewTimer(s.Server().Registry.Rejoin + settleTime)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-timer.C:
	}
	_, err := s.Store.Update("settling", func(dr *state.Draft) error {
		dr.Settle()
		return nil
	})
	return err
}

// ramp brings slow starts up to date.
func (s *Sources) ramp(context.Context) error {
	_, err := s.Store.Update("slow start", func(dr *state.Draft) error {
		dr.Ramp()
		return nil
	})
	return err
}
