package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/e2e/cluster"
)

// load opens connections through the VIP for as long as it runs, and pings an
// established UDP flow all the time.
type load struct {
	wg             sync.WaitGroup
	stop           context.CancelFunc
	opened, failed atomic.Int64
	longest        atomic.Int64 // ns, of a ping
	lost           atomic.Int64 // pings without an answer
}

func startLoad(t *testing.T, c *cluster.Cluster) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel}
	for range 2 {
		l.wg.Go(func() {
			for ctx.Err() == nil {
				l.opened.Add(1)
				if _, err := httpGet(t, c, cluster.VIP4); err != nil {
					l.failed.Add(1)
				}
			}
		})
	}
	pc := udpSocket(t, c, cluster.VIP4)
	l.wg.Go(func() { l.ping(ctx, pc) })
	return l
}

func (l *load) ping(ctx context.Context, pc *net.UDPConn) {
	for ctx.Err() == nil {
		begin := time.Now()
		if _, _, err := udpAskFrom(pc, cluster.VIP4, []byte("ping")); err != nil {
			l.lost.Add(1)
			continue
		}
		if took := int64(time.Since(begin)); took > l.longest.Load() {
			l.longest.Store(took)
		}
	}
}

func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

// policyRow asks how a service's policy does.
func policyRow(t testing.TB, c *cluster.Cluster, service string) api.PolicyRow {
	t.Helper()
	rows, err := c.Control().Policies(t.Context())
	must(t, err)
	i := slices.IndexFunc(rows, func(r api.PolicyRow) bool { return r.Service == service })
	if i < 0 {
		t.Fatalf("no policy of %s", service)
	}
	return rows[i]
}

// Policies are swapped and rolled back again and again under load: no flow is
// lost, none moves, and the new ones are scheduled as the new policy says.
func TestSwapUnderLoad(t *testing.T) {
	c := start(t, cluster.Options{Backends: 4})
	lines := openLines(t, c, cluster.VIP4, 100)
	l := startLoad(t, c)
	names := []string{"hash", "least-packets", "round-robin"}
	for i := range 12 {
		if out, code := ctl(t, "policy", "swap", "web4", names[i%len(names)], "-server", c.ServerSocket()); code != 0 {
			t.Fatalf("swap: exit code %d: %s", code, out)
		}
		if i%4 == 3 {
			if out, code := ctl(t, "policy", "rollback", "web4", "-server", c.ServerSocket()); code != 0 {
				t.Fatalf("rollback: exit code %d: %s", code, out)
			}
		}
		must(t, c.Control().Swap(t.Context(), "echo4", names[i%len(names)]))
	}
	l.end()
	stall := time.Duration(0) // of a worker, as the balancer measured it
	for _, m := range regexp.MustCompile(`policy swapped.* stall=(\S+)`).FindAllStringSubmatch(c.Server.Output(), -1) {
		d, err := time.ParseDuration(m[1])
		must(t, err)
		stall = max(stall, d)
	}
	t.Logf("%d connections opened during 27 swaps, longest stall %s, longest ping %s", l.opened.Load(), stall, time.Duration(l.longest.Load()))
	if stall == 0 {
		t.Error("no swap said for how long packets waited")
	}
	if l.failed.Load() != 0 || l.lost.Load() != 0 || l.opened.Load() < 50 {
		t.Errorf("%d of %d connections failed, %d pings lost", l.failed.Load(), l.opened.Load(), l.lost.Load())
	}
	for _, line := range lines {
		if err := line.ping(5 * time.Second); err != nil {
			t.Errorf("flow at %s: %v", line.backend, err)
		}
	}
	row := policyRow(t, c, "web4")
	if row.Failures != 0 || row.Picks["fallback"] != 0 {
		t.Errorf("%+v", row)
	}
}

// What is broken is refused and leaves the old policy live.
func TestRefusedSwaps(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2})
	moody, err := filepath.Abs("../plugins/host/testdata/moody.wasm")
	must(t, err)
	broken := filepath.Join(c.Dir, "broken.wasm")
	must(t, os.WriteFile(broken, []byte("\x00asm\x01\x00\x00\x00 nonsense"), 0o644))
	for spec, want := range map[string]string{
		moody:                   "trial",
		broken:                  "damaged",
		"no-such":               "unknown",
		c.Dir + "/nowhere.wasm": "no such file",
	} {
		out, code := ctl(t, "policy", "swap", "web4", spec, "-server", c.ServerSocket())
		if code != 1 || !strings.Contains(out, want) || !strings.Contains(out, `keeps "round-robin"`) {
			t.Errorf("%s: exit code %d: %s", filepath.Base(spec), code, out)
		}
	}
	if row := policyRow(t, c, "web4"); row.Policy != "round-robin" || row.Previous != "" {
		t.Errorf("%+v", row)
	}
	if _, err := httpGet(t, c, cluster.VIP4); err != nil {
		t.Error(err)
	}
	if out, code := ctl(t, "policy", "rollback", "web4", "-server", c.ServerSocket()); code != 1 || !strings.Contains(out, "nothing to roll back to") {
		t.Errorf("rollback: exit code %d: %s", code, out)
	}
}

// A changed TOML takes effect on SIGHUP; so does a policy file that was
// replaced in its place.
func TestReload(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2})
	lines := openLines(t, c, cluster.VIP4, 20)
	mine := filepath.Join(c.Dir, "mine.wasm")
	install := func(name string) {
		t.Helper()
		wasm, err := os.ReadFile("../policies/" + name + ".wasm")
		must(t, err)
		must(t, os.WriteFile(mine, wasm, 0o644))
	}
	awaitPolicy := func(what string, ok func(api.PolicyRow) bool) {
		t.Helper()
		await(t, what, func() error {
			if r := policyRow(t, c, "web4"); !ok(r) {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
	}
	install("hash")
	c.Policy = mine
	must(t, c.Rewrite())
	c.Server.Signal(syscall.SIGHUP)
	awaitPolicy("the new file's policy", func(r api.PolicyRow) bool { return r.Policy == mine })
	first := policyRow(t, c, "web4").Since
	install("least-packets")
	c.Server.Signal(syscall.SIGHUP)
	awaitPolicy("the replaced file", func(r api.PolicyRow) bool { return r.Since.After(first) })
	must(t, c.WriteServerConfig("nonsense = 1\n"))
	c.Server.Signal(syscall.SIGHUP)
	await(t, "the complaint about a bad file", func() error {
		if !strings.Contains(c.Server.Output(), "unknown key") {
			return fmt.Errorf("not in the log")
		}
		return nil
	})
	for _, l := range lines {
		must(t, l.ping(5*time.Second))
	}
}

// A shadow gets every flow and decides nothing.
func TestShadowPolicy(t *testing.T) {
	c := start(t, cluster.Options{Backends: 3, Policy: "hash"})
	must(t, c.Control().Shadow(t.Context(), "web4", "round-robin"))
	for range 60 {
		_, err := httpGet(t, c, cluster.VIP4)
		must(t, err)
	}
	row := policyRow(t, c, "web4")
	s := row.Shadow
	if s == nil || s.Policy != "round-robin" || s.Asked != 60 || s.Agreed == 0 || s.Agreed == 60 {
		t.Fatalf("%+v", s)
	}
	for name, n := range s.Would {
		if n < 18 || n > 22 {
			t.Errorf("the shadow would have given %s %d of 60 flows", name, n)
		}
	}
	must(t, c.Control().Shadow(t.Context(), "web4", ""))
	if row := policyRow(t, c, "web4"); row.Shadow != nil {
		t.Error("still there")
	}
	_, err := httpGet(t, c, cluster.VIP4)
	must(t, err)
}
