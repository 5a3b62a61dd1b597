package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
)

var vips = []netip.Addr{cluster.VIP4, cluster.VIP6}

// HTTP over TCP and an echo over UDP get through on both families, whatever
// the family of the tunnel; answers come from the VIP and never pass the
// balancer.
func TestForwardsAndRepliesDirectly(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("tunnel over IPv6 %v", v6), func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 3, DataV6: v6})
			seen := sniff(t, c.LB, "eth0")
			names := map[string]bool{}
			for _, vip := range vips {
				for range 10 {
					name, err := httpGet(t, c, vip)
					must(t, err)
					names[name] = true
					name, from, err := udpAsk(t, c, vip, []byte("hello"))
					must(t, err)
					names[name] = true
					if from != netip.AddrPortFrom(vip, cluster.UDPPort) {
						t.Errorf("the answer came from %v, not from %v", from, vip)
					}
				}
			}
			if len(names) != 3 {
				t.Errorf("backends %v answered", names)
			}
			requests, replies := seen()
			if requests == 0 || replies != 0 {
				t.Errorf("the balancer saw %d requests and %d replies", requests, replies)
			}
		})
	}
}

// 100 MB in one TCP flow, in segments as long as the links allow, arrive whole.
func TestBulkUpload(t *testing.T) {
	data := make([]byte, 100<<20)
	rand.Read(data)
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	for _, mtu := range []int{1500, 9000} {
		t.Run(fmt.Sprintf("MTU %d", mtu), func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 2, MTU: mtu})
			for _, vip := range vips {
				start := time.Now()
				must(t, upload(t, c, vip, bytes.NewReader(data), int64(len(data)), sum))
				took := time.Since(start)
				t.Logf("%v: 100 MB in %.2fs, %.0f Mbit/s", vip, took.Seconds(), float64(len(data))*8/1e6/took.Seconds())
			}
			atTheMTU(t, c, uint64(2*len(data)), mtu)
		})
	}
}

// Whatever links do for packets, or leave to the kernel, a stream arrives whole:
// segmentation, checksums, and the putting together of what comes in.
func TestOffloads(t *testing.T) {
	data := make([]byte, 10<<20)
	rand.Read(data)
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	for name, set := range map[string]func(*topology.Host) error{
		"no segmentation":  func(h *topology.Host) error { return h.Segmentation("eth0", false) },
		"no checksums":     func(h *topology.Host) error { return h.Checksums("eth0", false) },
		"nothing received": func(h *topology.Host) error { return h.Receiving("eth0", false) },
		"all that there is": func(h *topology.Host) error {
			return errors.Join(h.Receiving("eth0", true), h.Segmentation("eth0", true))
		},
		"none": func(h *topology.Host) error {
			return errors.Join(h.Segmentation("eth0", false), h.Checksums("eth0", false), h.Receiving("eth0", false))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := prepare(t, cluster.Options{Backends: 2, Type: withoutXDP()}) // on veth XDP says itself what is on
			for _, h := range append([]*topology.Host{c.LB, c.Client}, hosts(c)...) {
				must(t, set(h))
			}
			must(t, c.StartServer(t.Context()))
			must(t, c.StartAgents(t.Context()))
			for _, vip := range vips {
				must(t, upload(t, c, vip, bytes.NewReader(data), int64(len(data)), sum))
				_, _, err := udpAsk(t, c, vip, bytes.Repeat([]byte("x"), 1300))
				must(t, err)
			}
			inKernel(t, c)
		})
	}
}

// withoutXDP returns the datapath type that is to be tested, tc in the place of xdp.
func withoutXDP() string {
	if kind := os.Getenv("CAPLANCE_TYPE"); kind != "xdp" {
		return kind
	}
	return "tc"
}

// atTheMTU checks that bytes came in segments that fill the links' MTU, none
// too long, and took the fast path if there is one.
func atTheMTU(t *testing.T, c *cluster.Cluster, bytes uint64, mtu int) {
	t.Helper()
	least := bytes / uint64(mtu-40) // a tunnel, IPv6 and options take more
	await(t, "all packets to be counted", func() error {
		rows, err := c.Control().Backends(t.Context())
		n := uint64(0)
		for _, r := range rows {
			n += r.Packets
		}
		if err == nil && (n < least || n > least*3/2) {
			err = fmt.Errorf("%d packets forwarded, want a little over %d: segments are not at the MTU", n, least)
		}
		return err
	})
	stats, err := c.Control().Stats(t.Context())
	must(t, err)
	if up := stats.Counters["forwarded"]; stats.Datapath.Type != core.Userspace && up > least/10 {
		t.Errorf("%d packets of an established flow came up to userspace", up)
	}
	if n := stats.Counters["too_big"] + stats.Counters["fragmented"]; n != 0 {
		t.Errorf("%d segments were too long for the tunnel: the MSS is not clamped", n)
	}
}

// Datagrams longer than a link arrive whole: as fragments, or cut for the
// tunnel; both at the backend that the flow's short datagrams go to.
func TestLongDatagrams(t *testing.T) {
	c := start(t, cluster.Options{Backends: 3})
	for _, vip := range vips {
		for range 6 {
			pc := udpSocket(t, c, vip)
			home := ""
			for _, size := range []int{10, 1400, 3000, 8000, 20} {
				var name string
				// An IPv6 client is told once that the tunnel takes less than its link.
				await(t, fmt.Sprintf("%d bytes to %v", size, vip), func() (err error) {
					name, _, err = udpAskFrom(pc, vip, bytes.Repeat([]byte("x"), size))
					return err
				})
				if home == "" {
					home = name
				}
				if name != home {
					t.Errorf("%v: %d bytes went to %s, the flow is at %s", vip, size, name, home)
				}
			}
		}
	}
}

// A datagram that only the tunnel makes too long: the client is told, and its
// next one is cut by its own kernel.
func TestPathMTU(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Mode: "tunnel"})
	told := uint64(0)
	for _, vip := range vips {
		pc := udpSocket(t, c, vip)
		size := 1472 // with IPv4 and UDP headers 1500; the tunnel takes 1472
		if vip.Is6() {
			size = 1452
		}
		await(t, "the client to learn the tunnel's MTU", func() error {
			pc.SetReadDeadline(time.Now().Add(slow.Time(200 * time.Millisecond)))
			if _, err := pc.WriteToUDPAddrPort(make([]byte, size), netip.AddrPortFrom(vip, cluster.UDPPort)); err != nil {
				return err
			}
			buf := make([]byte, 65536)
			_, _, err := pc.ReadFromUDPAddrPort(buf)
			return err
		})
		stats, err := c.Control().Stats(t.Context())
		must(t, err)
		if stats.Counters["too_big"] <= told {
			t.Errorf("%v: no client was told", vip)
		}
		told = stats.Counters["too_big"]
	}
}

// VIP ports that no service names stay the balancer's own if it may be reached at
// them: refused at once.
func TestUnnamedPortsAreNotCaptured(t *testing.T) {
	c := start(t, cluster.Options{Backends: 1, Datapath: "vip_host_access = \"always\""})
	for _, vip := range vips {
		start := time.Now()
		_, err := dial(t, c, netip.AddrPortFrom(vip, 9999))
		if err == nil || !strings.Contains(err.Error(), "refused") || time.Since(start) > slow.Time(time.Second) {
			t.Errorf("%v: error %v after %s, want connection refused", vip, err, time.Since(start))
		}
	}
}
