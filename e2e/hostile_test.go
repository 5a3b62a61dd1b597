package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// hostile says one malformed thing to the registry.
var hostile = []func(rng *rand.Rand, c net.Conn){
	func(rng *rand.Rand, c net.Conn) { // far too long a line
		fmt.Fprintf(c, "REGISTER %s 10.77.0.11\n", strings.Repeat("x", 600+rng.IntN(60000)))
	},
	func(rng *rand.Rand, c net.Conn) { // binary
		b := make([]byte, 1+rng.IntN(2000))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		c.Write(b)
	},
	func(rng *rand.Rand, c net.Conn) { // words in the wrong place
		verbs := []string{"REGISTER", "SANE", "HEALTH", "PAUSE b1", "DRAIN b1", "DEREGISTER b1", "RESUME b1", "REGISTER b1 10.77.0.11", "GET / HTTP/1.1", ""}
		for range 1 + rng.IntN(6) {
			fmt.Fprintf(c, "%s\n", verbs[rng.IntN(len(verbs))])
		}
	},
	func(rng *rand.Rand, c net.Conn) { c.(*net.TCPConn).SetLinger(0) },            // reset at once
	func(rng *rand.Rand, c net.Conn) { c.(*net.TCPConn).CloseWrite() },            // half-open
	func(rng *rand.Rand, c net.Conn) { fmt.Fprint(c, "REGISTER half-a-li") },      // never ends its line
	func(rng *rand.Rand, c net.Conn) { fmt.Fprintf(c, "REGISTER x 10.77.0.9\n") }, // never proves itself
}

// 5000 malformed connections, among them hundreds held open without a word, do not
// disturb live traffic nor the backends' leases; with keys most of them are no TLS.
func TestHostileRegistryPeers(t *testing.T) {
	for name, keyless := range map[string]bool{"keys": false, "none": true} {
		t.Run(name, func(t *testing.T) {
			attackRegistry(t, start(t, cluster.Options{Backends: 2, Timeout: "2s", Keyless: keyless}))
		})
	}
}

func attackRegistry(t *testing.T, c *cluster.Cluster) {
	lines := openLines(t, c, cluster.VIP4, 20)

	// Live traffic for as long as the attack lasts.
	ctx, stop := context.WithCancel(t.Context())
	var failed, asked atomic.Int64
	var traffic sync.WaitGroup
	traffic.Go(func() {
		for ctx.Err() == nil {
			asked.Add(1)
			if _, err := httpGet(t, c, cluster.VIP4); err != nil {
				failed.Add(1)
			}
		}
	})

	const total, atOnce = 5_000, 16
	var attackers sync.WaitGroup
	var silent sync.Map
	var next atomic.Int64
	for a := range atOnce {
		attackers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(a), 7))
			for n := next.Add(1); n <= total; n = next.Add(1) {
				dctx, cancel := context.WithTimeout(ctx, slow.Time(10*time.Second))
				conn, err := c.Client.Dial(dctx, "tcp", "10.77.0.1:1338")
				cancel()
				if err != nil {
					continue // refused by the connection limiter
				}
				if n%12 == 0 {
					silent.Store(n, conn) // 400 slow ones: they say nothing at all
					continue
				}
				conn.SetDeadline(time.Now().Add(slow.Time(time.Second)))
				hostile[rng.IntN(len(hostile))](rng, conn)
				conn.Close()
			}
		})
	}
	attackers.Wait()
	stop()
	traffic.Wait()
	silent.Range(func(_, conn any) bool { conn.(net.Conn).Close(); return true })

	t.Logf("%d requests during the attack", asked.Load())
	if failed.Load() != 0 || asked.Load() < 20 {
		t.Errorf("%d of %d requests failed", failed.Load(), asked.Load())
	}
	for _, l := range lines {
		if err := l.ping(5 * time.Second); err != nil {
			t.Errorf("flow at %s: %v", l.backend, err)
		}
	}
	rows, err := c.Control().Backends(t.Context())
	must(t, err)
	if len(rows) != 8 {
		t.Errorf("%d backends listed, want 2 in each of 4 services: %+v", len(rows), rows)
	}
	for _, r := range rows {
		if r.State.String() != "active" {
			t.Errorf("%s is %s", r.Name, r.State)
		}
	}
	if strings.Contains(c.Server.Output(), "panic") {
		t.Error("the balancer panicked")
	}
}
