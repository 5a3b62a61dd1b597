package announce

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/reconcile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ reconcile.Target[State] = (*L2)(nil)

var (
	vip4 = netip.MustParseAddr("192.0.2.1")
	vip6 = netip.MustParseAddr("2001:db8::1")
)

// log is the announcements that a fake sender took, with their times.
type log struct {
	mu    sync.Mutex
	start time.Time
	at    map[netip.Addr][]time.Duration
	err   error
}

func (*log) Close() {}

func (l *log) Send(v *VIP) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at[v.VIP] = append(l.at[v.VIP], time.Since(l.start))
	return l.err
}

// take returns and forgets the times at which a VIP was announced.
func (l *log) take(v netip.Addr) []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.at[v]
	delete(l.at, v)
	l.start = time.Now()
	return out
}

// run starts a target with a fake sender in a synctest bubble.
func run(t *testing.T) (*L2, *log) {
	t.Helper()
	l, sent := New(Config{}), &log{start: time.Now(), at: map[netip.Addr][]time.Duration{}}
	l.open = func() sender { return sent }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l, sent
}

func TestAnnouncesThreeTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, sent := run(t)
		var was *State
		v := VIP{VIP: vip4, Link: "eth0", Index: 2, MAC: MAC{2, 1}, Up: true}
		set := func(v VIP) {
			want := &State{v}
			if err := errors.Join(l.Add(t.Context(), was, want), l.Prune(t.Context(), was, want), l.Verify(t.Context(), want)); err != nil {
				t.Fatal(err)
			}
			was = want
		}
		expect := func(what string, times ...time.Duration) {
			t.Helper()
			time.Sleep(time.Minute)
			if got := sent.take(vip4); !slices.Equal(got, times) {
				t.Errorf("%s: announced at %v, want %v", what, got, times)
			}
		}
		three := []time.Duration{0, time.Second, 2 * time.Second}
		set(v)
		expect("new", three...)
		set(v)
		expect("nothing new")
		was = nil
		set(v)
		expect("state not known")
		v.Up = false
		set(v)
		expect("link down")
		v.Up = true
		set(v)
		expect("link up", three...)
		v.MAC = MAC{2, 2}
		set(v)
		expect("other MAC", three...)
		v.Index = 3
		set(v)
		expect("other link", three...)
		v.Epoch++
		set(v)
		expect("other epoch", three...)
		l.Again()
		expect("again", three...)
		v.MAC = MAC{}
		set(v)
		expect("a link without neighbours")
		if n := l.Sent.Load(); n != 18 {
			t.Errorf("counted %d announcements, want 18", n)
		}
	})
}

func TestErrorsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, sent := run(t)
		sent.err = errors.New("no")
		if err := l.Add(t.Context(), nil, &State{{VIP: vip4, MAC: MAC{2}, Up: true}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if sent, failed := l.Sent.Load(), l.Failed.Load(); sent != 0 || failed != 3 {
			t.Errorf("%d sent, %d failed, want 0 and 3", sent, failed)
		}
	})
}

// A neighbour at the other end of a veth pair sees the frames:
//
//	ext0 ── far0 (captured)
func TestFramesOnTheLink(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ext0"}, PeerName: "far0"}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	far, err := netlink.LinkByName("far0")
	if err == nil {
		err = errors.Join(netlink.LinkSetUp(link), netlink.LinkSetUp(far))
	}
	if err != nil {
		t.Fatal(err)
	}
	ext, err := netlink.LinkByName("ext0")
	if err != nil {
		t.Fatal(err)
	}
	fd := capture(t, far.Attrs().Index)
	mac := MAC(ext.Attrs().HardwareAddr)
	l := New(Config{Count: 100, Interval: 20 * time.Millisecond}) // the link-local address comes late
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	want := &State{
		{VIP: vip4, Link: "ext0", Index: ext.Attrs().Index, MAC: mac, Up: true},
		{VIP: vip6, Link: "ext0", Index: ext.Attrs().Index, MAC: mac, Up: true},
	}
	if err := l.Add(ctx, nil, want); err != nil {
		t.Fatal(err)
	}
	var arps, nas int
	buf := make([]byte, 2000)
	for arps == 0 || nas == 0 {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("%d ARP and %d NA: %v", arps, nas, err)
		}
		arps += isARP(t, buf[:n], mac)
		nas += isNA(t, buf[:n], mac)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The neighbours hear of the last of many VIPs as soon as of the first: one
// round of 500 takes less than a second, whatever the sockets cost.
func TestManyVIPs(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ext0"}, PeerName: "far0"}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	l := New(Config{Count: 1})
	want := make(State, 500)
	for i := range want {
		vip := netip.AddrFrom4([4]byte{198, 51, 100 + byte(i>>8), byte(i)})
		want[i] = VIP{VIP: vip, Link: "ext0", Index: link.Attrs().Index, MAC: MAC{2}, Up: true}
	}
	if err := l.Add(t.Context(), nil, &want); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	l.announce(t.Context(), begin)
	if d := time.Since(begin); d > slow.Time(time.Second) {
		t.Errorf("one round took %v", d)
	}
	if n := l.Sent.Load(); n != 500 {
		t.Errorf("%d sent, %d failed, want 500 sent", n, l.Failed.Load())
	}
}

// capture returns a socket with the frames that arrive at a link; reading from
// it fails after ten seconds without one.
func capture(t *testing.T, index int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}),
	)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func isARP(t *testing.T, f []byte, mac MAC) int {
	if binary.BigEndian.Uint16(f[12:]) != unix.ETH_P_ARP {
		return 0
	}
	want := slices.Concat(bytes.Repeat([]byte{0xff}, 6), mac[:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1},
		mac[:], vip4.AsSlice(), make([]byte, 6), vip4.AsSlice())
	if !bytes.HasPrefix(f, want) {
		t.Errorf("ARP frame\n%x, want\n%x", f, want)
	}
	return 1
}

func isNA(t *testing.T, f []byte, mac MAC) int {
	const eth, ip6 = 14, 40
	if binary.BigEndian.Uint16(f[12:]) != unix.ETH_P_IPV6 || f[eth+6] != unix.IPPROTO_ICMPV6 || f[eth+ip6] != 136 {
		return 0
	}
	p := f[eth:]
	if p[7] != 255 || !bytes.Equal(p[24:40], netip.IPv6LinkLocalAllNodes().AsSlice()) {
		t.Errorf("hop limit %d, destination %x", p[7], p[24:40])
	}
	want := slices.Concat([]byte{0x20, 0, 0, 0}, vip6.AsSlice(), []byte{2, 1}, mac[:])
	if !bytes.Equal(p[ip6+4:], want) {
		t.Errorf("advertisement\n%x, want\n%x", p[ip6+4:], want)
	}
	return 1
}
