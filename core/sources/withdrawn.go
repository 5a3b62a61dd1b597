package sources

import (
	"context"
	"net/netip"

	"github.com/caplance/caplance/core"
)

// followWithdrawn logs which VIPs are withdrawn and which are announced again, until
// ctx ends, which is no error.
func (s *Sources) followWithdrawn(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	s.Store.Notify(func(*core.Snapshot) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	var known map[netip.Addr]*core.Service
	for {
		snap := s.Store.Snapshot()
		now := snap.Withdrawn()
		for vip, svc := range now {
			if known[vip] == nil {
				s.Log.Warn("VIP withdrawn: too few backends take new flows", "vip", vip, "service", svc.Name,
					"backends", snap.Pools.Of(svc.ID).Eligible, "min_backends", svc.MinBackends)
			}
		}
		for vip, svc := range known {
			if now[vip] == nil {
				s.Log.Info("VIP announced again", "vip", vip, "service", svc.Name)
			}
		}
		known = now
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}
