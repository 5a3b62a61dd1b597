package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forgetNeighbours makes the balancer forget its backends' link addresses, and
// says how many it knew.
func forgetNeighbours(t *testing.T, c *cluster.Cluster) (known int) {
	t.Helper()
	must(t, c.LB.Do(func() error {
		l, err := netlink.LinkByName(c.Link())
		if err != nil {
			return err
		}
		for _, b := range c.Backends {
			n := &netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.IP(b.Data.AsSlice())}
			switch err := netlink.NeighDel(n); {
			case err == nil:
				known++
			case !errors.Is(err, unix.ENOENT):
				return err
			}
		}
		return nil
	}))
	return known
}

// A neighbour entry may be gone when packets come for it: they wait for the
// answer, and none is lost, whether its flow is old or new. UDP would never
// send one again, TCP after 200 ms at the earliest.
func TestForgottenNeighbours(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("tunnel over IPv6 %v", v6), func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 3, DataV6: v6})
			for _, vip := range vips {
				withoutNeighbours(t, c, vip)
			}
		})
	}
}

func withoutNeighbours(t *testing.T, c *cluster.Cluster, vip netip.Addr) {
	t.Helper()
	const rounds, limit = 20, 150 * time.Millisecond
	l := openLines(t, c, vip, 1)[0]
	known, longest := 0, time.Duration(0)
	quick := func(ask func() error) {
		t.Helper()
		known += forgetNeighbours(t, c)
		begin := time.Now()
		must(t, ask())
		longest = max(longest, time.Since(begin))
	}
	for range rounds {
		quick(func() error { return l.ping(2 * time.Second) })
		quick(func() error { _, err := httpGet(t, c, vip); return err })
		quick(func() error { _, _, err := udpAsk(t, c, vip, []byte("x")); return err })
	}
	t.Logf("%v: %d entries were there, the longest answer took %s", vip, known, longest)
	if longest > slow.Time(limit) {
		t.Errorf("%v: an answer took %s: a packet was lost", vip, longest)
	}
	if known < rounds {
		t.Errorf("%v: only %d entries were there to forget: the test proves nothing", vip, known)
	}
}
