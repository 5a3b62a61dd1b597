package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/rpc"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/nettest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		child(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// serve runs a task until the test ends.
func serve(t *testing.T, run func(context.Context) error, ready <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
}

func agent(t *testing.T, run CommandFunc) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "a.sock")
	s := NewAgentServer(Options{Path: path}, "b1", run)
	serve(t, s.Run, s.Ready())
	return path
}

func TestAgentSocket(t *testing.T) {
	var ops []Op
	path := agent(t, func(_ context.Context, op Op) (string, error) {
		ops = append(ops, op)
		if op == Drain {
			return "", errors.New("agent is not registered")
		}
		return string(op) + "d", nil
	})
	c, err := rpc.DialHTTP("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	all := []Op{Pause, Resume, Deregister, GetState}
	for _, op := range all {
		var reply string
		if err := c.Call("Client."+string(op), new(string), &reply); err != nil || reply != string(op)+"d" {
			t.Errorf("%s: %q, %v", op, reply, err)
		}
	}
	if diff := cmp.Diff(all, ops); diff != "" {
		t.Error(diff)
	}
	if _, err := AskAgent(t.Context(), path, Drain, "b1"); err == nil || !strings.Contains(err.Error(), "not registered") {
		t.Errorf("drain: %v", err)
	}
	if _, err := AskAgent(t.Context(), path, Pause, "b2"); err == nil || !strings.Contains(err.Error(), "is not this agent's") {
		t.Errorf("pause of another: %v", err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", st.Mode(), err)
	}
}

// An idle client's connection and a call under way must not hold up the end.
func TestAgentSocketStopsUnderCalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	called := make(chan struct{})
	s := NewAgentServer(Options{Path: path}, "b1", func(ctx context.Context, _ Op) (string, error) {
		close(called)
		<-ctx.Done()
		return "", ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	idle, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	answered := make(chan error)
	go func() {
		_, err := AskAgent(context.Background(), path, Pause, "")
		answered <- err
	}()
	<-called
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := <-answered; err == nil {
		t.Error("a call was answered by an agent that stopped")
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("socket is left: %v", err)
	}
}

func TestAskAgentTimesOut(t *testing.T) {
	path := agent(t, func(ctx context.Context, _ Op) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := AskAgent(ctx, path, GetState, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "x.sock")
	l, err := Listen(path, Access{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, Access{}); err == nil || !strings.Contains(err.Error(), "another process answers there") {
		t.Errorf("live socket: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as a killed process leaves it
	l.Close()
	if l, err = Listen(path, Access{}); err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	l.Close()
}

// Anything but a dead socket of this user stays as it is.
func TestListenLeavesOthersAlone(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		make func(path string) error
		want string
	}{
		"file":      {func(p string) error { return os.WriteFile(p, []byte("precious"), 0o600) }, "something else is there, -rw-------"},
		"directory": {func(p string) error { return os.Mkdir(p, 0o700) }, "something else is there, drwx------"},
		"link":      {func(p string) error { return os.Symlink("file", p) }, "something else is there, L"},
		"fifo":      {func(p string) error { return syscall.Mkfifo(p, 0o600) }, "something else is there, prw-------"},
		"datagrams": {func(p string) error {
			fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			t.Cleanup(func() { syscall.Close(fd) })
			return syscall.Bind(fd, &syscall.SockaddrUnix{Name: p})
		}, "another process may be there"},
		"somebody else's": {func(p string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return errors.Join(l.Close(), os.Chown(p, 4711, 4711))
		}, "belongs to user 4711"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if err := tt.make(path); errors.Is(err, fs.ErrPermission) {
				nettest.Missing(t, "CAP_CHOWN")
			} else if err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(path)
			if _, err := Listen(path, Access{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("it was replaced: %v", err)
			}
		})
	}
}

// The socket is had before anything else is done, and goes if nothing is.
func TestServerListensBeforeItRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	s := NewServer(Options{Path: path}, new(fakeSource), new(fakePolicies), new(fakeOrders))
	if err := errors.Join(s.Close(), s.Listen(), s.Listen()); err != nil {
		t.Fatal(err)
	}
	if err := NewServer(Options{Path: path}, new(fakeSource), new(fakePolicies), new(fakeOrders)).Listen(); err == nil {
		t.Error("a second server took the socket")
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("socket is left: %v", err)
	}
}

var (
	backends = []api.BackendRow{{Service: "web", Name: "b1", Addr: netip.MustParseAddr("10.0.0.11"), State: core.Draining, Share: 0.5, Since: time.Unix(1e9, 0).UTC()}}
	services = []api.ServiceRow{{Name: "web", VIP: netip.MustParseAddr("192.0.2.1"), Picks: map[string]uint64{"policy": 3}}}
	status   = api.StatusReport{Healthy: true, Summary: "all is well", Revision: 7, Warnings: []string{"x"}, Targets: []api.TargetRow{{Name: "ruleset", State: "ok"}}}
	changes  = []api.ChangeRow{{Key: "datapath.flows", From: "1", To: "2"}}
	stats    = api.Stats{Datapath: api.Datapath{Type: core.TC, Reason: "as configured"}, Capture: "xt NFQUEUE", Queues: []api.QueueRow{{Queue: 1}}, Counters: map[string]uint64{"x": 1}}
)

type fakeSource struct {
	filter   api.FlowFilter
	backends api.BackendFilter
}

func (s *fakeSource) Backends(f api.BackendFilter) ([]api.BackendRow, error) {
	s.backends = f
	return backends, nil
}
func (*fakeSource) Services() []api.ServiceRow        { return services }
func (*fakeSource) Events(int, uint64) []api.EventRow { return nil }
func (*fakeSource) Stats() api.Stats                  { return stats }
func (*fakeSource) Policies() []api.PolicyRow {
	return []api.PolicyRow{{Service: "web", Policy: "hash"}}
}
func (*fakeSource) Explain(_ context.Context, id api.FlowID) (api.Explanation, error) {
	return api.Explanation{FlowID: id, Service: "web", Decision: "policy hash is asked"}, nil
}
func (*fakeSource) Status() api.StatusReport { return status }
func (s *fakeSource) Flows(_ context.Context, f api.FlowFilter) ([]api.FlowRow, error) {
	s.filter = f
	if f.Service == "none" {
		return nil, errors.New("flows: a worker is too busy; try again")
	}
	return []api.FlowRow{{Proto: "tcp", Age: 1.5}}, nil
}

// fakeOrders refuses a reload that is no dry run, and a second handover.
type fakeOrders struct{ left chan struct{} } // closed by a handover

func (*fakeOrders) Reload(_ context.Context, dryRun bool) ([]api.ChangeRow, error) {
	if !dryRun {
		return changes, errors.New("state_dir cannot change")
	}
	return changes, nil
}

func (o *fakeOrders) Handover(context.Context) (api.HandoverReport, func(), error) {
	select {
	case <-o.left:
		return api.HandoverReport{}, nil, errors.New("handover: once is enough")
	default:
	}
	return api.HandoverReport{Services: 1, Backends: 2, Flows: 3, Text: "soon"}, func() { close(o.left) }, nil
}

// fakePolicies knows the policy "hash" only.
type fakePolicies struct{ did []string }

func (p *fakePolicies) Swap(_ context.Context, service, policy string) error {
	p.did = append(p.did, "swap "+service+" "+policy)
	if policy != "hash" {
		return errors.New("policy is unknown")
	}
	return nil
}
func (p *fakePolicies) Rollback(_ context.Context, service string) error {
	p.did = append(p.did, "rollback "+service)
	return nil
}
func (p *fakePolicies) Shadow(_ context.Context, service, policy string) error {
	p.did = append(p.did, "shadow "+service+" "+policy)
	return nil
}

func TestBalancerSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	src := new(fakeSource)
	pol := new(fakePolicies)
	orders := &fakeOrders{left: make(chan struct{})}
	s := NewServer(Options{Path: path}, src, pol, orders)
	serve(t, s.Run, s.Ready())
	c, ctx := Dial(path), t.Context()
	same := func(want, got any, err error) {
		t.Helper()
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})); diff != "" || err != nil {
			t.Error(err, diff)
		}
	}
	b, err := c.Backends(ctx)
	same(backends, b, err)
	_, err = c.BackendsOf(ctx, api.BackendFilter{Service: "we/b", Backend: "b 1"})
	same(api.BackendFilter{Service: "we/b", Backend: "b 1"}, src.backends, err)
	sv, err := c.Services(ctx)
	same(services, sv, err)
	st, err := c.Stats(ctx)
	same(stats, st, err)
	p, err := c.Policies(ctx)
	same([]api.PolicyRow{{Service: "web", Policy: "hash"}}, p, err)
	same(nil, nil, c.Swap(ctx, "web", "hash"))
	same(nil, nil, c.Rollback(ctx, "web"))
	same(nil, nil, c.Shadow(ctx, "web", ""))
	if err := c.Swap(ctx, "web", "nonsense"); err == nil || err.Error() != "policy is unknown" {
		t.Error(err)
	}
	same([]string{"swap web hash", "rollback web", "shadow web ", "swap web nonsense"}, pol.did, nil)
	id, err := api.ParseFlowID("198.51.100.7:40000", "[2001:db8::1]:443/udp")
	same(api.FlowID{Src: netip.MustParseAddrPort("198.51.100.7:40000"), Dst: netip.MustParseAddrPort("[2001:db8::1]:443"), Proto: "udp"}, id, err)
	e, err := c.Explain(ctx, id)
	same(api.Explanation{FlowID: id, Service: "web", Decision: "policy hash is asked"}, e, err)
	report, err := c.Status(ctx)
	same(status, report, err)
	rows, err := c.Reload(ctx, true)
	same(changes, rows, err)
	if rows, err = c.Reload(ctx, false); err == nil || err.Error() != "state_dir cannot change" {
		t.Error(err)
	}
	same(changes, rows, nil) // a refusal shows what it refuses
	h, err := c.Handover(ctx)
	same(api.HandoverReport{Services: 1, Backends: 2, Flows: 3, Text: "soon"}, h, err)
	<-orders.left // soon after the answer
	if _, err := c.Handover(ctx); err == nil || err.Error() != "handover: once is enough" {
		t.Error(err)
	}
	filter := api.FlowFilter{Service: "web", Backend: "b1", Top: true, Limit: 7}
	f, err := c.Flows(ctx, filter)
	same([]api.FlowRow{{Proto: "tcp", Age: 1.5}}, f, err)
	same(filter, src.filter, nil)
	if _, err := c.Flows(ctx, api.FlowFilter{Service: "none"}); err == nil || !strings.Contains(err.Error(), "too busy") {
		t.Error(err)
	}
	if _, err := Dial(path + "x").Stats(ctx); err == nil || !strings.Contains(err.Error(), "is caplance server running") {
		t.Error(err)
	}
	if err := c.get(ctx, "flows?limit=many", nil); err == nil || !strings.Contains(err.Error(), `limit "many" is not a number`) {
		t.Error(err)
	}
}

// recorder writes what it was asked for, then fails.
type recorder struct{}

func (recorder) Record(ctx context.Context, service string, picks int, w io.Writer) error {
	if service != "web" {
		return errors.New("service is unknown")
	}
	fmt.Fprintf(w, "%d picks", picks)
	if picks == 0 { // until the client hangs up
		<-ctx.Done()
	}
	return ctx.Err()
}

// hangUp ends a recording when something of it has come.
type hangUp struct {
	got    bytes.Buffer
	cancel context.CancelFunc
}

func (h *hangUp) Write(b []byte) (int, error) {
	h.cancel()
	return h.got.Write(b)
}

func TestRecordings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	s := NewServer(Options{Path: path}, new(fakeSource), new(fakePolicies), new(fakeOrders))
	s.OfferRecordings(recorder{})
	serve(t, s.Run, s.Ready())
	var out bytes.Buffer
	if err := Dial(path).Record(t.Context(), "web", 7, &out); err != nil || out.String() != "7 picks" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := Dial(path).Record(t.Context(), "dns", 7, &out); err == nil || err.Error() != "service is unknown" {
		t.Error(err)
	}
	if err := Dial(path).Record(t.Context(), "web", -1, &out); err == nil || !strings.Contains(err.Error(), `picks "-1" is not a number`) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h := &hangUp{cancel: cancel}
	if err := Dial(path).Record(ctx, "web", 0, h); err != nil || h.got.String() != "0 picks" {
		t.Errorf("%q, %v", h.got.String(), err)
	}
}
