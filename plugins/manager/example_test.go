package manager_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/state"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/manager"
)

// A service's policy is compiled and tried before anything changes; a swap
// leaves the one before at hand.
func Example() {
	ctx, log := context.Background(), slog.New(slog.DiscardHandler)
	limits := host.DefaultLimits()
	m, err := manager.New(ctx, manager.Config{Store: state.New(log), Workers: 1, Limits: limits, Log: log})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	web := &core.Service{Name: "web", VIP: netip.MustParseAddr("192.0.2.1"), Policy: "sticky-failover"}
	change, err := m.Prepare(ctx, []*core.Service{web}, limits)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := change.Commit(); err != nil {
		fmt.Println(err)
	}
	pool := core.NewPoolBuilder(web).Build([]core.Backend{
		{Name: "first", Addr: netip.MustParseAddr("10.0.0.1"), Weight: 1, Priority: 1, Since: time.Unix(1, 0)},
		{Name: "spare", Addr: netip.MustParseAddr("10.0.0.2"), Weight: 1, Priority: 2, Since: time.Unix(1, 0)},
	})
	s := m.Scheduler(0, "web") // worker 0's
	s.SetPool(pool)
	index, by := s.Pick(&core.NewFlow{Hash: 1, Family: 4})
	fmt.Println(pool.Members[index].Name, "by the", by)

	if err := m.Swap(ctx, "web", "nonsense"); err != nil {
		fmt.Println("refused, the policy stays")
	}
	fmt.Println(m.Swap(ctx, "web", "round-robin"), m.Rollback(ctx, "web"))
	// Output:
	// first by the policy
	// refused, the policy stays
	// <nil> <nil>
}
