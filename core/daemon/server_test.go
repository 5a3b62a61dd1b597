package daemon

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/reload"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/plugins/host"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// oldAgent speaks the first generation's protocol: plain verbs, UDP 1337.
type oldAgent struct {
	t    *testing.T
	tcp  net.Conn
	read *bufio.Reader
	udp  *net.UDPConn
	buf  [2048]byte
}

// registerOld registers a backend there.
func registerOld(t *testing.T, there *nettest.Peer, registry netip.AddrPort, name string, data netip.Addr) *oldAgent {
	t.Helper()
	var udp *net.UDPConn
	there.Do(func() (err error) {
		udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(data, 1337)))
		return err
	})
	t.Cleanup(func() { udp.Close() })
	tcp := there.Dial("tcp", registry.String())
	a := &oldAgent{t: t, tcp: tcp, read: bufio.NewReader(tcp), udp: udp}
	deadline := time.Now().Add(slow.Time(20 * time.Second))
	udp.SetReadDeadline(deadline)
	tcp.SetDeadline(deadline)
	fmt.Fprintf(tcp, "REGISTER %s %s\n", name, data)
	sanity := string(a.datagram())
	nonce, ok := strings.CutPrefix(sanity, "SANITY ")
	if !ok {
		t.Fatalf("sanity check: %q", sanity)
	}
	if got, want := a.ask("SANE "+nonce), fmt.Sprintf("REGISTERED %s %s", name, data); got != want {
		t.Fatalf("answered %q, want %q", got, want)
	}
	return a
}

func (a *oldAgent) ask(line string) string {
	a.t.Helper()
	fmt.Fprintf(a.tcp, "%s\n", line)
	answer, err := a.read.ReadString('\n')
	if err != nil {
		a.t.Fatalf("%s: %v", line, err)
	}
	return strings.TrimSpace(answer)
}

// datagram returns the next one that came to the data IP.
func (a *oldAgent) datagram() []byte {
	a.t.Helper()
	n, err := a.udp.Read(a.buf[:])
	if err != nil {
		a.t.Fatal(err)
	}
	return a.buf[:n]
}

const testConfig = `
state_dir = %q
control = %q
[registry]
listen = "10.0.0.1:1338"
auth = "none"
agents = ["10.0.0.0/24", "fd00::/64"]
allow = ["10.0.0.0/24"]
[datapath]
type = "userspace"
queues = 2
[[service]]
name = "dns"
vip = "192.0.2.10"
protocol = "udp"
ports = [53]
policy = "round-robin"
[[service]]
name = "dns6"
vip = "2001:db8::10"
protocol = "udp"
ports = [53]
policy = "hash"
`

// The whole balancer in a namespace, with clients and backends in another.
func TestServer(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "s.sock")
	cfg, err := config.ParseServer("test.toml", fmt.Appendf(nil, testConfig, dir, socket))
	if err != nil {
		t.Fatal(err)
	}
	there := nettest.NewPeer(t, []string{"10.0.0.1/24", "fd00::1/64"}, []string{"10.0.0.7/24", "10.0.0.11/24", "10.0.0.12/24", "fd00::7/64"})
	there.Route("192.0.2.0/24", "10.0.0.1")
	there.Route("2001:db8::/64", "fd00::1")
	before := footprint(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	load := func() (*config.Server, error) { return cfg, nil }
	s := New(load, cfg, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})), nil)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatal(err)
	case <-time.After(slow.Time(10 * time.Second)):
		t.Fatal("not ready")
	}
	agents := []*oldAgent{
		registerOld(t, there, cfg.Registry.Listen, "b1", netip.MustParseAddr("10.0.0.11")),
		registerOld(t, there, cfg.Registry.Listen, "b2", netip.MustParseAddr("10.0.0.12")),
	}
	if got := agents[0].ask("HEALTH 200"); got != "HEALTHACK 200" {
		t.Errorf("answered %q", got)
	}

	for _, vip := range []string{"192.0.2.10", "[2001:db8::10]"} {
		const flows = 60
		for i := range flows {
			conn := there.Dial("udp", vip+":53") // closed at the end: its port would be another flow's
			for range 2 {                        // the second one proves that the flow sticks
				fmt.Fprintf(conn, "%d", i)
			}
		}
		home := map[string]int{}
		counts := make([]int, 2)
		for b, a := range agents {
			a.udp.SetReadDeadline(time.Now().Add(slow.Time(500 * time.Millisecond)))
			for {
				n, err := a.udp.Read(a.buf[:])
				if err != nil {
					break // silent: that was all
				}
				var p packet.Packet
				if err := p.Parse(a.buf[:n]); err != nil {
					t.Fatal(err)
				}
				payload := string(a.buf[p.Header+8 : n])
				if was, ok := home[payload]; ok && was != b {
					t.Errorf("flow %s moved", payload)
				}
				home[payload] = b
				counts[b]++
			}
		}
		if counts[0]+counts[1] != 2*flows || len(home) != flows {
			t.Errorf("%s: %v datagrams of %d flows arrived", vip, counts, len(home))
		}
		if d := counts[0] - counts[1]; vip == "192.0.2.10" && (d < -8 || d > 8) {
			t.Errorf("round-robin: %v", counts)
		}
	}

	c := control.Dial(socket)
	rows, err := c.Backends(ctx)
	if err != nil || len(rows) != 4 || rows[0].FlowsTotal+rows[1].FlowsTotal != 60 {
		t.Errorf("backends %+v: %v", rows, err)
	}
	flows, err := c.Flows(ctx, api.FlowFilter{Service: "dns", Backend: "b1"})
	if err != nil || uint64(len(flows)) != rows[0].FlowsTotal {
		t.Errorf("%d flows of b1, want %d: %v", len(flows), rows[0].FlowsTotal, err)
	}
	stats, err := c.Stats(ctx)
	if err != nil || stats.Counters["forwarded"] != 240 || len(stats.Queues) != 2 || stats.Flows == 0 {
		t.Errorf("stats %+v: %v", stats, err)
	}
	services, err := c.Services(ctx)
	if err != nil || services[0].Picks["policy"] != 60 || services[1].Picks["policy"] != 60 {
		t.Errorf("services %+v: %v", services, err)
	}
	// A second balancer is refused and harms nothing.
	if err := New(load, cfg, slog.New(slog.DiscardHandler), nil).Run(ctx); err == nil || !strings.Contains(err.Error(), "another running instance") {
		t.Errorf("second start: %v", err)
	}
	if got := agents[1].ask("DEREGISTER b2"); !strings.HasPrefix(got, "DEREGISTERED b2") {
		t.Errorf("answered %q", got)
	}

	start := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > slow.Time(2*time.Second) {
		t.Errorf("stopping took %s", took)
	}
	if after := footprint(t); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the control socket is still there")
	}
}

// footprint lists what a balancer changes on a machine.
func footprint(t *testing.T) string {
	t.Helper()
	m, err := config.ThisMachine()
	if err != nil {
		t.Fatal(err)
	}
	addrs := m.Addrs
	tables, err := ruleset.Tables()
	if err != nil {
		t.Fatal(err)
	}
	queues, _ := os.ReadFile("/proc/net/netfilter/nfnetlink_queue")
	return fmt.Sprintf("%v tables %v queues %q", addrs, tables, queues)
}

func TestBadPolicyNamesTheService(t *testing.T) {
	file := filepath.Join(t.TempDir(), "broken.wasm")
	if err := os.WriteFile(file, []byte("not wasm"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, policy := range []string{file, "/nowhere/mine.wasm", "no-such-policy"} {
		cfg, err := config.ParseServer("t.toml", fmt.Appendf(nil, "[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\npolicy = %q", policy))
		if err != nil {
			t.Fatal(err)
		}
		if err := reload.Check(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), `service "web"`) {
			t.Errorf("%s: error %v", policy, err)
		}
	}
}

// What the configuration grants by default is what the host does.
func TestPolicyLimitDefaults(t *testing.T) {
	cfg, err := config.ParseServer("t.toml", []byte("[[service]]\nname = \"web\"\nvip = \"192.0.2.1\""))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := reload.Limits(cfg.Policy), host.DefaultLimits(); got != want {
		t.Errorf("%+v, the host's are %+v", got, want)
	}
}
