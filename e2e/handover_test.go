package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/e2e/cluster"
)

// download gets a slow answer, which takes 10 ms a piece, and reports what went
// wrong. began gets the backend's name with its first byte.
func download(t *testing.T, c *cluster.Cluster, vip netip.Addr, pieces int, began chan<- string) error {
	client := httpClient(t, c)
	defer client.CloseIdleConnections()
	resp, err := client.Get(fmt.Sprintf("http://%s/slow/%d", netip.AddrPortFrom(vip, cluster.HTTPPort), pieces))
	if err != nil {
		began <- ""
		return err
	}
	defer resp.Body.Close()
	began <- resp.Header.Get("Backend")
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && n != int64(pieces)*1024 {
		err = fmt.Errorf("%d of %d bytes", n, pieces*1024)
	}
	return err
}

// agentEnds are the ways in which an agent makes room for its successor.
var agentEnds = []struct {
	name string
	end  func(t *testing.T, b *cluster.Backend)
}{
	{"handover", func(t *testing.T, b *cluster.Backend) {
		out, code := ctl(t, "handover", b.Name, "-agent", b.Socket())
		if code != 0 || !strings.Contains(out, "state Active, VIPs 2") {
			t.Errorf("exit code %d: %s", code, out)
		}
		<-b.Agent.Done()
		if err := b.Agent.Err(); err != nil {
			t.Errorf("the agent ended: %v", err)
		}
	}},
	{"kill", func(_ *testing.T, b *cluster.Backend) { b.Agent.Kill() }},
}

// An agent hands its machine over to the next one in the middle of slow downloads
// and of quiet connections: none is lost. In kernel decap they go on while no
// agent runs.
func TestAgentHandover(t *testing.T) {
	const n, pieces = 12, 400
	for _, way := range agentEnds {
		t.Run(way.name, func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 2, Timeout: "10s"})
			h := hold(t, c, 20)
			began, ended := make(chan string, n), make(chan error, n)
			for i := range n {
				go func() { ended <- download(t, c, vips[i%2], pieces, began) }()
			}
			met := map[string]int{}
			for range n {
				met[<-began]++
			}
			b := c.Backends[0]
			if met[b.Name] == 0 || met[""] > 0 {
				t.Fatalf("this proves nothing: the downloads are at %v", met)
			}
			way.end(t, b)
			awaitState(t, c, b.Name, "lost")
			if c.Type != "userspace" {
				h.check(t, "no agent runs")
			}
			<-time.After(500 * time.Millisecond)
			begin := time.Now()
			must(t, b.StartAgent(t.Context()))
			awaitState(t, c, b.Name, "active")
			t.Logf("active %s after the next one's start", time.Since(begin).Round(time.Millisecond))
			lost := 0
			for range n {
				if err := <-ended; err != nil {
					t.Error(err)
					lost++
				}
			}
			t.Logf("%d of %d downloads, %d at the backend, are lost", lost, n, met[b.Name])
			h.check(t, "the next agent runs")
			newWorks(t, c, "the next agent runs", vips...)
		})
	}
}

// A paused agent that is handed over stays paused.
func TestHandoverOfAPausedAgent(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Timeout: "10s"})
	b := c.Backends[0]
	_, err := b.Call("Pause")
	must(t, err)
	awaitState(t, c, b.Name, "paused")
	if out, code := ctl(t, "handover", "-agent", b.Socket()); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	<-b.Agent.Done()
	must(t, b.StartAgent(t.Context()))
	await(t, "the state", func() error {
		if state, err := b.Call("GetState"); err != nil || state != "Paused" {
			return errors.Join(err, errors.New(state))
		}
		return nil
	})
	if got := state(t, c, b.Name); got != "paused" {
		t.Errorf("the balancer has it %s", got)
	}
}
