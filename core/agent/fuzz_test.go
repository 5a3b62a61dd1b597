package agent

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// FuzzSession: whatever a balancer says, line after line, the agent answers with
// requests that a balancer understands, short enough for every balancer, serves no VIP
// outside vip_networks and none that would cut its session off, and gets to the end of
// the session.
func FuzzSession(f *testing.F) {
	text, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range strings.Split(string(text), "```transcript\n")[1:] {
		script, _, _ := strings.Cut(b, "```")
		var lines []string
		for line := range strings.Lines(script) {
			if line, ok := strings.CutPrefix(line, "balancer: "); ok {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		f.Add(strings.Join(lines, "\n"))
	}
	f.Add("REGISTERED b1 127.0.0.1 vips=127.0.0.1\nHEALTHACK 200")
	f.Add("REGISTERED b1 127.0.0.1 vips=10.0.0.1,192.0.2.7 mtu=1400 mode=direct offer=1 serves=web/tcp/192.0.2.7/80 update=yes\nOFFER vips= offer=2")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	dir := f.TempDir()
	if err := os.WriteFile(adminFile(dir), []byte(Unregistered.String()), 0o600); err != nil { // its own sessions rest
		f.Fatal(err)
	}
	m := &fakeMachine{packets: make(chan []byte, 100)}
	a := New(Config{
		Name: "b1", Server: l.Addr().String(), DataIP: netip.MustParseAddr("127.0.0.1"), Port: freePort(f), Weight: 1, ReadTimeout: time.Minute, WriteTimeout: time.Minute,
		Control: filepath.Join(dir, "agent.sock"), StateDir: dir, VIPNetworks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")},
	}, slog.New(slog.DiscardHandler))
	a.prepare()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		defer close(a.stopped)
		done <- a.run(ctx, m.open)
	}()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Error(err)
		}
	})
	<-a.Ready()
	f.Fuzz(func(t *testing.T, script string) {
		if len(script) > 1<<14 {
			return
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			balance(t, l, script)
		}()
		if err := (&session{a: a}).run(t.Context(), t.Context()); err == nil && !strings.Contains(script, string(protocol.Deregistered)) {
			t.Error("the session ended without a reason")
		}
		<-ended
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, vip := range m.vips {
			if !slices.ContainsFunc(a.config().VIPNetworks, func(p netip.Prefix) bool { return p.Contains(vip) }) {
				t.Errorf("it serves %v", vip)
			}
		}
	})
}

// balance says the lines of a script to the one agent that connects, and reads what it
// says until it hangs up.
func balance(t *testing.T, l net.Listener, script string) {
	conn, err := l.Accept()
	if err != nil {
		t.Error(err)
		return
	}
	tcp := conn.(*net.TCPConn)
	defer tcp.Close()
	_ = tcp.SetLinger(0) // else its ports are used up
	_ = tcp.SetDeadline(time.Now().Add(time.Minute))
	go func() {
		_, _ = io.WriteString(tcp, script+"\n") // it may have hung up
		_ = tcp.CloseWrite()
	}()
	for in := bufio.NewScanner(tcp); in.Scan(); {
		if len(in.Text()) > protocol.MaxRequest {
			t.Errorf("%d bytes: %q", len(in.Text()), in.Text())
		}
		if _, err := protocol.Parse(in.Text()); err != nil {
			t.Errorf("%q: %v", in.Text(), err)
		}
	}
}

// FuzzParse: any text is an agent's configuration or is refused.
func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("../../agent.example.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte("name = \"a\"\nserver = \"10.0.0.1:1338\"\n[[check]]\nservice = \"*\"\ntype = \"http\"\nstatus = \"200-399\"\n"))
	f.Add([]byte("name = \"a\"\nserver = \"[::1]:1\"\nvips = [\"192.0.2.1\"]\nvip_networks = [\"::/0\"]\n[log]\nlevel = \"debug\"\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if cfg, err := Parse("agent.toml", text); err == nil && (cfg.Name == "" || cfg.Server == "" || cfg.Port == 0) {
			t.Errorf("accepted: %+v", cfg)
		}
	})
}
