package e2e

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
	"github.com/vishvananda/netlink"
)

// Half a million SYNs from addresses that nobody has, to a flow table for a
// tenth of them: no established connection breaks, and a new one is made at
// once.
//
//	attacker 10.77.0.66 ── switch ── balancer, client, backends as ever
//
// The backends have no route to 198.18.0.0/15 (RFC 2544), so their answers end
// there; what a flood does to a TCP stack is not our subject.
func TestSYNFlood(t *testing.T) {
	const syns, attackers = 500_000, 2
	c := start(t, cluster.Options{Backends: 2, Datapath: fmt.Sprintf("flows = %d", syns/10), Timeout: "20s"})
	lines := append(openLines(t, c, cluster.VIP4, 50), openLines(t, c, cluster.VIP6, 50)...)
	attacker, err := c.Net.Host("attacker")
	must(t, err)
	must(t, c.Switch.Attach(attacker, "eth0", netip.MustParsePrefix("10.77.0.66/24")))

	limit := 30 * time.Second // in userspace flows wait in the same queues
	if c.Type != "userspace" {
		limit = 5 * time.Second
	}
	p := startPulse(t, lines, 100*time.Millisecond, limit)
	target, began := linkOf(t, c.LB, c.Link()), time.Now()
	arrived := func() int {
		return int(linkOf(t, c.LB, c.Link()).Statistics.RxPackets - target.Statistics.RxPackets)
	}
	for wave := range 5 { // a veth with XDP loses some
		var attack sync.WaitGroup
		missing := max(syns-arrived(), 0)
		for i := range attackers {
			f := &flood{
				to: [6]byte(target.HardwareAddr), vip: netip.AddrPortFrom(cluster.VIP4, cluster.HTTPPort), seed: uint64(wave*attackers + i),
			}
			attack.Go(func() {
				if err := f.send(attacker, "eth0", missing/attackers); err != nil {
					t.Error(err)
				}
			})
		}
		attack.Wait()
	}
	took := time.Since(began)
	await(t, "the flood to be worked off", func() error {
		stats, err := c.Control().Stats(t.Context())
		for _, q := range stats.Queues {
			if q.Waiting > 100 {
				err = fmt.Errorf("%d packets wait in queue %d", q.Waiting, q.Queue)
			}
		}
		return err
	})
	for _, vip := range vips {
		atOnce(t, c, vip)
	}
	p.end()
	t.Logf("%d SYNs in %s; %s", syns, took.Round(time.Millisecond), p)
	if len(p.broken) > 0 {
		t.Error("established connections broke")
	}
	if n := arrived(); n < syns*99/100 {
		t.Errorf("only %d packets reached the balancer: the test proves nothing", n)
	}
}

// atOnce opens connections, none of which may have to send its SYN again.
func atOnce(t *testing.T, c *cluster.Cluster, vip netip.Addr) {
	t.Helper()
	for range 20 {
		began := time.Now()
		_, err := httpGet(t, c, vip)
		must(t, err)
		if took := time.Since(began); took > slow.Time(900*time.Millisecond) {
			t.Errorf("a new connection to %v took %s", vip, took)
		}
	}
}

// linkOf returns a host's link as it is now.
func linkOf(t *testing.T, h *topology.Host, name string) (attrs *netlink.LinkAttrs) {
	t.Helper()
	must(t, h.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			attrs = l.Attrs()
		}
		return err
	}))
	return attrs
}
