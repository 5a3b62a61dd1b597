package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
)

// soak is what runs all the time: connections that are busy, quiet and half-closed,
// and new ones.
type soak struct {
	c    *cluster.Cluster
	t    *testing.T
	busy *pulse
	idle *held

	attacker *topology.Host

	mu     sync.Mutex
	opened int
	lost   []error // of the new ones
}

// lose notes an error of a new connection; nil notes a good one.
func (s *soak) lose(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	if err != nil {
		s.lost = append(s.lost, err)
	}
}

// work opens connections, uses and ends them in one way or another until stop is
// closed. One that cannot be opened while nobody takes it is tried again by TCP.
func (s *soak) work(stop <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(50 * time.Millisecond):
		}
		l, err := openLine(s.t, s.c, vips[n%2])
		if err != nil {
			s.lose(fmt.Errorf("opened: %w", err))
			continue
		}
		for range n % 4 {
			if err = l.ping(pingTimeout); err != nil {
				break
			}
		}
		switch {
		case err != nil:
			l.Close()
		case n%3 == 0:
			err = l.reset()
		case n%3 == 1:
			err = l.finish()
		default:
			err = l.Close()
		}
		s.lose(err)
	}
}

// Whatever happens to agents and balancer, and whoever floods them, no connection
// is lost: busy, quiet or half-closed. CAPLANCE_SOAK=20m goes on for longer than
// one round.
func TestSoak(t *testing.T) {
	o := hasty(3)
	o.Timeout = "20s" // the lease, in which restarts are over
	o.Datapath = "flows = 8192\n" + o.Datapath
	c := start(t, o)
	s := &soak{c: c, t: t, idle: hold(t, c, 30), busy: startPulse(t, openLines(t, c, cluster.VIP4, 20), 100*time.Millisecond, 10*time.Second)}
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() { s.work(stop) })
	}
	var err error
	s.attacker, err = c.Net.Host("attacker")
	must(t, err)
	must(t, c.Switch.Attach(s.attacker, "eth0", netip.MustParsePrefix("10.77.0.66/24")))
	length, _ := time.ParseDuration(os.Getenv("CAPLANCE_SOAK"))
	began, rounds := time.Now(), 0
	for ; rounds == 0 || time.Since(began) < length; rounds++ {
		s.round(t, rounds)
	}
	close(stop)
	workers.Wait()
	s.busy.end()
	s.idle.check(t, "the soak")
	if len(s.busy.broken) > 0 || len(s.lost) > 0 {
		t.Errorf("%d busy connections broke (%v), %d of %d new ones (%v)", len(s.busy.broken), s.busy.broken, len(s.lost), s.opened, s.lost[:min(len(s.lost), 5)])
	}
	t.Logf("%d rounds in %s: %d new connections; %s", rounds, time.Since(began).Round(time.Second), s.opened, s.busy)
}

// round does everything once that may happen.
func (s *soak) round(t *testing.T, n int) {
	c, b := s.c, s.c.Backends[n%len(s.c.Backends)]
	late := halfClose(t, c, 6)
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"a flood", func() { s.flood(t, uint64(n)) }},
		{"a drain", func() { s.steer(t, b, "Drain", "draining") }},
		{"resumed", func() { s.steer(t, b, "Resume", "active") }},
		{"an agent's handover", func() { s.restart(t, b, agentEnds[0].end) }},
		{"an agent's kill", func() { s.restart(t, b, agentEnds[1].end) }},
		{"a flood during a drain", func() {
			s.steer(t, b, "Drain", "draining")
			s.flood(t, uint64(n)+1<<32)
			s.steer(t, b, "Resume", "active")
		}},
		{"a handover", func() { s.succeed(t, successions[1]) }},
		{"a kill", func() { s.succeed(t, successions[0]) }},
		{"a reload", func() { s.reload(t, n) }},
	} {
		step.do()
		s.idle.check(t, fmt.Sprintf("round %d, %s", n, step.name))
	}
	late.expect(t, fmt.Sprintf("round %d", n))
}

// steer has an operator do something to a backend.
func (s *soak) steer(t *testing.T, b *cluster.Backend, what, state string) {
	_, err := b.Call(what)
	must(t, err)
	awaitState(t, s.c, b.Name, state)
}

// succeed has another balancer take over. On type userspace nothing forwards
// meanwhile, and flows do not outlive their balancer.
func (s *soak) succeed(t *testing.T, by succession) {
	if s.c.Type != "userspace" {
		by.end(t, s.c)
		takenOver(t, s.c)
	}
}

// reload changes the policy of all services.
func (s *soak) reload(t *testing.T, n int) {
	policy := []string{"least-connections", "round-robin", "hash"}[n%3]
	must(t, s.c.WriteServerConfig(strings.ReplaceAll(s.c.ServerConfig(""), `policy = "round-robin"`, fmt.Sprintf("policy = %q", policy))))
	if out, code := ctl(t, "reload", "-server", s.c.ServerSocket()); code != 0 {
		t.Fatal(out)
	}
}

// restart ends an agent and starts another.
func (s *soak) restart(t *testing.T, b *cluster.Backend, end func(*testing.T, *cluster.Backend)) {
	end(t, b)
	awaitState(t, s.c, b.Name, "lost")
	must(t, b.StartAgent(t.Context()))
	awaitState(t, s.c, b.Name, "active")
}

// flood sends segments that make flows without connections.
func (s *soak) flood(t *testing.T, seed uint64) {
	f := &flood{
		to: [6]byte(linkOf(t, s.c.LB, s.c.Link()).HardwareAddr), vip: netip.AddrPortFrom(cluster.VIP4, cluster.LinePort), seed: seed,
		each: []uint8{packet.SYN, packet.ACK, packet.ACK}, pause: slow.Time(topology.FrameBatch * time.Second / 20_000),
	}
	must(t, f.send(s.attacker, "eth0", 60_000))
}
