package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/caplance/caplance/e2e/cluster"
)

// startUntold starts a cluster whose agents tell nothing of their connections, as
// those of the first generation: somebody on their way to the balancer strikes
// the offer to. perService is more TOML for the services of TCP.
func startUntold(t *testing.T, o cluster.Options, perService string) *cluster.Cluster {
	t.Helper()
	o.Keyless = true
	c := prepare(t, o)
	must(t, c.WriteServerConfig(strings.ReplaceAll(c.ServerConfig(""), "protocol = \"tcp\"", "protocol = \"tcp\"\n"+perService)))
	must(t, c.StartServer(t.Context()))
	for _, b := range c.Backends {
		l, err := b.Listen("127.0.0.1:1339")
		must(t, err)
		t.Cleanup(func() { l.Close() })
		go strike(l, b)
		file, err := b.WriteConfig()
		must(t, err)
		toml, err := os.ReadFile(file)
		must(t, err)
		must(t, os.WriteFile(file, []byte(strings.Replace(string(toml), "10.77.0.1:1338", "127.0.0.1:1339", 1)), 0o600))
		must(t, b.StartAgentWith(t.Context(), file))
	}
	must(t, c.AwaitActive(t.Context(), len(c.Backends)))
	return c
}

func strike(l net.Listener, b *cluster.Backend) {
	for {
		agent, err := l.Accept()
		if err != nil {
			return
		}
		balancer, err := b.Dial(context.Background(), "tcp", "10.77.0.1:1338")
		if err != nil {
			agent.Close()
			continue
		}
		go func() { io.Copy(agent, balancer); agent.Close() }()
		go func() {
			r := bufio.NewReader(agent)
			line, _ := r.ReadString('\n')
			io.WriteString(balancer, strings.Replace(line, " connections=yes", "", 1))
			io.Copy(balancer, r)
			balancer.Close()
		}()
	}
}

// Nobody tells which connections live. Forged ends hit none all the same, but what
// is silent for too long is forgotten, and its client is told if it is to be.
func TestConnectionsThatNobodyTellsOf(t *testing.T) {
	o := cluster.Options{Backends: 3, Datapath: fmt.Sprintf("[datapath.timeouts]\ntcp = %q\ntcp_fin = %q\n", slow.Time(4*time.Second), slow.Time(time.Second))}
	c := startUntold(t, o, `on_expire = "reset"`)
	h := hold(t, c, 12)
	if n := counted(t, c)["connections_asked"]; n > 0 {
		t.Fatalf("%d questions: this proves nothing", n)
	}
	for _, l := range h.lines {
		from, to := l.LocalAddr().(*net.TCPAddr).AddrPort(), l.RemoteAddr().(*net.TCPAddr).AddrPort()
		for _, flags := range []uint8{packet.RST, packet.SYN, packet.FIN | packet.ACK, packet.SYN} {
			must(t, c.Client.Do(func() error { return sendRaw(packettest.TCPAt(rand.Uint32(), from, to, flags, nil)) }))
		}
	}
	h.check(t, "forged ends")
	late := halfClose(t, c, 6) // silent for longer than tcp_fin
	late.expect(t, "half-closed")
	for _, l := range h.lines { // their own silence is over by now
		l.SetDeadline(time.Now().Add(slow.Time(20 * time.Second)))
		if _, err := l.r.ReadByte(); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("idle connection from %v: %v, want a reset", netip.MustParseAddrPort(l.LocalAddr().String()), err)
		}
	}
}
