// Package chaos is the failure lab: it does to a whole installation what happens to
// machines, under the load of e2e/load, and counts what that costs clients. `make
// chaos` runs every scenario on every datapath type and writes docs/failures.md;
// `make e2e` a few of them on each. No row may cost more than its bound, in
// scenarios_test.go.
//
//	client 10.77.0.100 ─┐        ┌─ b1, b2, b3 10.77.0.11 …
//	                    switch ──┼─ b4, whose agent runs in one scenario alone
//	balancer 10.77.0.1 ─┘        └─ attacker 10.77.0.66
package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/fleet"
	"github.com/caplance/caplance/e2e/load"
	"github.com/caplance/caplance/e2e/topology"
)

var (
	bin  string // the directory of the built binaries
	out  = flag.String("failures", "", "write the table to this file: of every scenario on every type, or those rows anew that match")
	only = flag.String("scenario", "", "run those that match, on the type that CAPLANCE_TYPE names or on all")
	seed = flag.Uint64("seed", 0, "of what is at random; 0: another one each time")
)

func TestMain(m *testing.M) {
	flag.Parse()
	var done func()
	var err error
	if bin, done, err = topology.Binaries("../.."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if *seed == 0 {
		*seed = uint64(rand.Uint32())
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		done()
		os.Exit(code)
	}))
}

// members are the backends that have agents.
const members = 3

// lab is an installation under load.
type lab struct {
	*cluster.Cluster
	ctx      context.Context
	load     *load.Load
	rng      *rand.Rand       // of the scenario
	victim   *cluster.Backend // one of the members, at random
	attacker *topology.Host
	state    *topology.Mounts // where state_dir is a small file system
	crowd    *fleet.Fleet     // nil until somebody needs it
	crowdKey auth.PublicKey
}

// newLab starts one, with everything as the product has it by default.
func newLab(t *testing.T, kind string) *lab {
	t.Helper()
	nettest.Root(t)
	c, err := cluster.New(cluster.Options{Name: "chaos", Bin: bin, Dir: t.TempDir(), Backends: members + 1, Policy: "hash", Type: kind})
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{Cluster: c, ctx: t.Context()}
	t.Cleanup(func() {
		if t.Failed() {
			l.tell(t)
		}
		if err := errors.Join(c.Close(), l.state.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := l.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.load.Stop)
	t.Cleanup(l.scatter)
	return l
}

// leases are the lines of the cluster's configuration that hurry detection.
var leases = regexp.MustCompile(`(?m)^(lease|grace|plain_lease|rejoin|sanity_timeout|drain_timeout) = .*\n`)

// config returns the balancer's configuration, with the product's defaults.
func (l *lab) config() string {
	return strings.Replace(leases.ReplaceAllString(l.ServerConfig(""), ""), `level = "debug"`, `level = "info"`, 1)
}

func (l *lab) start() (err error) {
	if l.state, err = topology.NewMounts(); err != nil {
		return err
	}
	state := l.Dir + "/lb"
	if err := os.Mkdir(state, 0o755); err != nil {
		return err
	}
	// As machines have it: a BPF file system that outlives the balancer.
	if err := errors.Join(l.state.Mount("tmpfs", state, "size=2m,mode=755"), l.state.Mount("bpf", "/sys/fs/bpf", "")); err != nil {
		return err
	}
	l.LB.Mounts = l.state
	if l.attacker, err = l.Net.Host("attacker"); err != nil {
		return err
	}
	if err := l.Switch.Attach(l.attacker, "eth0", netip.MustParsePrefix("10.77.0.66/24")); err != nil {
		return err
	}
	if err := l.WriteServerConfig(l.config()); err != nil {
		return err
	}
	if err := l.StartServer(l.ctx); err != nil {
		return err
	}
	for _, b := range l.Backends[:members] {
		if err := b.StartAgent(l.ctx); err != nil {
			return err
		}
	}
	if err := l.AwaitActive(l.ctx, members); err != nil {
		return err
	}
	l.load, err = load.Start(l.ctx, l.Cluster)
	return err
}

// tell logs what the programs said last.
func (l *lab) tell(t *testing.T) {
	tail := func(s string) string { return s[max(0, len(s)-3000):] }
	if l.Server != nil {
		t.Logf("balancer:\n%s", tail(l.Server.Output()))
	}
	if l.victim != nil && l.victim.Agent != nil {
		t.Logf("agent of %s:\n%s", l.victim.Name, tail(l.victim.Agent.Output()))
	}
}

// run does what a scenario says, once the clients are well, and returns what it
// cost them.
func (l *lab) run(s scenario) (c load.Cost, err error) {
	h := fnv.New64a()
	h.Write([]byte(s.name))
	l.rng = rand.New(rand.NewPCG(*seed, h.Sum64()))
	l.victim = l.Backends[l.rng.IntN(members)]
	if s.before != nil {
		err = s.before(l)
	}
	if err == nil {
		err = cluster.Await(l.ctx, "connections to begin with", l.load.Renew)
	}
	if err == nil {
		err = l.load.Calm(l.ctx)
	}
	if err != nil {
		return c, fmt.Errorf("before: %w", err)
	}
	t := l.load.Measure()
	l.pass(time.Duration(l.rng.IntN(200)) * time.Millisecond)
	t.Mark()
	err = s.do(l)
	l.pass(s.watch)
	if s.undo != nil {
		t.Mark()
		err = errors.Join(err, s.undo(l))
	}
	err = errors.Join(err, l.healthy())
	l.pass(500 * time.Millisecond)
	return l.load.Finish(t), err
}

// attempts is how often a scenario is tried in which the machine itself stands still.
const attempts = 3

// attempt runs a scenario, once more if what it cost is over its bound and the
// machine stood still for longer than clients take for trouble.
func (l *lab) attempt(t *testing.T, s scenario) (c load.Cost, over []string, err error) {
	for n := range attempts {
		began := time.Now()
		c, err = l.run(s)
		over = s.limit(l.Type).exceeded(c)
		t.Logf("%s, %s: %s; the machine stood still for %s", l.Type, time.Since(began).Round(100*time.Millisecond), row(c), round(c.Jolt))
		if len(over) == 0 && err == nil || c.Jolt < load.Prompt/2 || n == attempts-1 {
			break
		}
		t.Logf("once more: %v %s", err, strings.Join(over, ", "))
	}
	return c, over, err
}

// pass lets clients go on for a time.
func (l *lab) pass(d time.Duration) {
	select {
	case <-time.After(d):
	case <-l.ctx.Done():
	}
}

// healthy waits until the balancer has all members, and nothing to say.
func (l *lab) healthy() error {
	if err := l.AwaitActive(l.ctx, members); err != nil {
		return err
	}
	return cluster.Await(l.ctx, "a healthy status", func() error {
		s, err := l.Control().Status(l.ctx)
		if err == nil && !s.Healthy {
			err = errors.New(s.Summary)
		}
		return err
	})
}

// TestScenarios runs what was asked for, and holds it to the bounds.
func TestScenarios(t *testing.T) {
	want := regexp.MustCompile(*only)
	these, short := kinds, *out == "" && *only == ""
	if kind := os.Getenv("CAPLANCE_TYPE"); kind != "" {
		these = []string{kind}
	}
	costs := table{}
	if *out != "" && *only != "" {
		page, err := os.ReadFile(*out)
		if err != nil {
			t.Fatal(err)
		}
		costs, _ = read(string(page)) // what is missing is to be measured
	}
	began := time.Now()
	for _, kind := range these {
		t.Run(kind, func(t *testing.T) {
			l := newLab(t, kind)
			for _, s := range scenarios {
				if short && s.short != kind || !want.MatchString(s.name) || s.skip != nil && s.skip(l) {
					continue
				}
				ok := t.Run(strings.ReplaceAll(s.name, " ", "_"), func(t *testing.T) {
					c, over, err := l.attempt(t, s)
					if err != nil {
						t.Error(err)
					}
					if len(over) > 0 {
						t.Errorf("%s: %s; %q", s.name, strings.Join(over, ", "), c.Why)
					}
					costs.add(s.name, kind, c)
				})
				if !ok {
					t.Logf("again: make chaos SEED=%d SCENARIO='^%s$' TYPE=%s", *seed, s.name, kind)
				}
			}
		})
	}
	t.Logf("%s, seed %d", time.Since(began).Round(time.Second), *seed)
	if *out != "" {
		if err := costs.write(*out); err != nil {
			t.Error(err)
		}
	}
}

// scaled is a time on this machine.
func scaled(d time.Duration) time.Duration { return slow.Time(d) }
