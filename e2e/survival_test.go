package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/e2e/cluster"
)

// inTheKernel starts a cluster whose flows live in the kernel; the
// type userspace has another promise, which TestBalancerRestart holds.
func inTheKernel(t *testing.T, o cluster.Options) *cluster.Cluster {
	t.Helper()
	if o.Type = os.Getenv("CAPLANCE_TYPE"); o.Type != "xdp" {
		o.Type = "tc"
	}
	return start(t, o)
}

// upload posts data and reports what went wrong.
func upload(t *testing.T, c *cluster.Cluster, vip netip.Addr, body io.Reader, size int64, sum string) error {
	client := httpClient(t, c)
	defer client.CloseIdleConnections()
	resp, err := client.Post(fmt.Sprintf("http://%s/", netip.AddrPortFrom(vip, cluster.HTTPPort)), "application/octet-stream", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && !strings.Contains(string(answer), fmt.Sprintf("%d %s", size, sum)) {
		err = fmt.Errorf("the backend says %s", answer)
	}
	return err
}

// The balancer is killed in the middle of a transfer and stays dead for a
// while: not a byte is lost, established flows go on, new ones are made. After
// the restart flows of a policy that does not repeat itself are where they were.
func TestKernelOutlivesTheDaemon(t *testing.T) {
	c := inTheKernel(t, cluster.Options{Backends: 3, Policy: "round-robin", Timeout: "5s"})
	lines := append(openLines(t, c, cluster.VIP4, 60), openLines(t, c, cluster.VIP6, 60)...)
	for _, l := range lines {
		must(t, l.ping(5*time.Second)) // now it is established
	}
	data := make([]byte, 64<<20)
	rand.Read(data)
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	pipe, feed := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- upload(t, c, cluster.VIP4, pipe, int64(len(data)), sum) }()
	_, err := io.Copy(feed, bytes.NewReader(data[:len(data)/2]))
	must(t, err)
	c.Server.Kill()
	_, err = io.Copy(feed, bytes.NewReader(data[len(data)/2:]))
	must(t, err)
	feed.Close()
	if err := <-done; err != nil {
		t.Errorf("the transfer that met the kill: %v", err)
	}
	for _, l := range lines {
		if err := l.ping(5 * time.Second); err != nil {
			t.Errorf("flow at %s while the balancer is dead: %v", l.backend, err)
		}
	}
	// New connections, once the silence has lasted long enough.
	names := map[string]int{}
	for i := range 30 {
		l, err := openLine(t, c, vips[i%2])
		if err != nil {
			t.Fatalf("new connection while the balancer is dead: %v", err)
		}
		t.Cleanup(func() { l.Close() })
		names[l.backend]++
		lines = append(lines, l)
		if name, _, err := udpAsk(t, c, vips[i%2], []byte("x")); err != nil {
			t.Errorf("new UDP flow while the balancer is dead: %v", err)
		} else {
			names[name]++
		}
	}
	if len(names) != 3 {
		t.Errorf("new flows went to %v", names)
	}

	must(t, c.StartServer(t.Context()))
	must(t, c.AwaitActive(t.Context(), 3))
	for _, l := range lines {
		if err := l.ping(10 * time.Second); err != nil {
			t.Errorf("flow at %s after the restart: %v", l.backend, err)
		}
	}
	await(t, "the takeover", func() error {
		if !strings.Contains(c.Server.Output(), "taken over") {
			return fmt.Errorf("not in the log")
		}
		return nil
	})
	// The last packets of a flow come up: they must find its backend.
	for _, l := range lines[:20] {
		must(t, l.ping(5*time.Second))
		l.Close()
	}
	await(t, "garbage collection after the takeover", func() error {
		rows, err := c.Control().Backends(t.Context())
		active := int64(0)
		for _, r := range rows {
			active += r.Flows
		}
		if err == nil && active < 100 {
			err = fmt.Errorf("%d flows known", active)
		}
		return err
	})
	if name, err := httpGet(t, c, cluster.VIP4); err != nil {
		t.Errorf("a new flow after the restart: %s %v", name, err)
	}
}

// After a clean stop nothing is left in the kernel to wait for: flows go there
// at once, though a backend of before stays away.
func TestFlowsGoDownAfterACleanRestart(t *testing.T) {
	c := inTheKernel(t, cluster.Options{Backends: 2, Timeout: "20s"})
	must(t, c.StopServer())
	c.Backends[1].Agent.Kill()
	must(t, c.StartServer(t.Context()))
	must(t, c.AwaitActive(t.Context(), 1))
	l, err := openLine(t, c, cluster.VIP4)
	must(t, err)
	defer l.Close()
	must(t, l.ping(5*time.Second))
	flows, err := c.Control().Flows(t.Context(), api.FlowFilter{Service: "web4"})
	must(t, err)
	if len(flows) != 1 || !flows[0].Kernel {
		t.Errorf("%+v", flows)
	}
}
