package host

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/caplance/caplance/core"
)

// SmokePicks is how many picks a policy must survive before it takes over.
const SmokePicks = 10_000

// Smoke tries the policy on a pool with made-up flows, TCP and UDP, IPv4 and
// IPv6, in an instance of its own. The first failure is the error.
func (p *Policy) Smoke(ctx context.Context, cfg Config, pool *core.Pool) error {
	if p.HasTable() && pool.Eligible > 0 {
		if _, err := p.BuildTable(ctx, cfg, pool); err != nil {
			return err
		}
	}
	s, err := p.NewScheduler(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	s.SetPool(pool.WithTable(nil)) // ask the policy itself
	rng := rand.New(rand.NewPCG(cfg.Seed, SmokePicks))
	for i := range SmokePicks {
		if s.in == nil {
			return fmt.Errorf("policy %q: in a trial of %d picks, at pick %d: %s", p.name, SmokePicks, i, s.failure())
		}
		f := smokeFlow(rng, uint64(i))
		index, _ := s.Pick(&f)
		if index >= 0 && i%2 == 1 {
			s.Ended(&core.FlowEnd{Backend: pool.Members[index].Handle, Packets: 10, Bytes: 5000, Duration: uint64(time.Second)})
		}
		if i%1000 == 999 {
			s.Tick(f.Now)
			s.Refresh(nil, nil, nil)
		}
	}
	if s.in == nil {
		return fmt.Errorf("policy %q: at the end of a trial of %d picks: %s", p.name, SmokePicks, s.failure())
	}
	return nil
}

// failure ends the scheduler and says what its last failure was.
func (s *Scheduler) failure() string {
	s.cancel()
	s.building.Wait()
	return s.Stats().LastError
}

func smokeFlow(rng *rand.Rand, i uint64) core.NewFlow {
	f := core.NewFlow{Hash: rng.Uint64(), Rand: rng.Uint64(), Now: i * 1000, Family: 4, Flags: core.FlowSYN}
	le.PutUint64(f.Key.Src[8:], rng.Uint64())
	copy(f.Key.Src[:12], []byte{10: 0xff, 11: 0xff})
	if i%4 == 0 {
		f.Family = 6
		le.PutUint64(f.Key.Src[:], rng.Uint64())
	}
	f.Key.SrcPort, f.Key.DstPort, f.Key.Proto = uint16(rng.Uint32()), 80, core.ProtoTCP
	if i%3 == 0 {
		f.Key.Proto, f.Flags = core.ProtoUDP, 0
	}
	return f
}
