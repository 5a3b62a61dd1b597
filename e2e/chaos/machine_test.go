package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/agent"
	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
)

// giveBack gives a host an address again that went with its link, as its network
// manager would.
func giveBack(h *topology.Host, link, addr string) error {
	if err := h.AddAddr(link, netip.MustParsePrefix(addr)); !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// onLink does something to a link of a host.
func onLink(h *topology.Host, name string, do ...func(netlink.Link) error) error {
	return h.Do(func() error {
		l, err := netlink.LinkByName(name)
		for _, f := range do {
			if err == nil {
				err = f(l)
			}
		}
		return err
	})
}

func rename(to string) func(netlink.Link) error {
	return func(l netlink.Link) error { return netlink.LinkSetName(l, to) }
}

// without takes the VIPs off a link.
func without(h *topology.Host, link string) error {
	return onLink(h, link, func(l netlink.Link) (err error) {
		for _, vip := range []netip.Addr{cluster.VIP4, cluster.VIP6} {
			mask := net.CIDRMask(vip.BitLen(), vip.BitLen())
			err = errors.Join(err, netlink.AddrDel(l, &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: mask}}))
		}
		return err
	})
}

func flushRuleset() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.FlushRuleset()
	return conn.Flush()
}

// owned reports whether nobody else can change the balancer's tables.
func owned(l *lab) bool { return l.LB.Do(ruleset.CanOwn) == nil }

func inUserspace(l *lab) bool { return l.Type == "userspace" }

// onLB and onVictim have something done on that machine.
func onLB(do func(h *topology.Host) error) func(*lab) error {
	return func(l *lab) error { return do(l.LB) }
}

func onVictim(do func(h *topology.Host) error) func(*lab) error {
	return func(l *lab) error { return do(l.victim.Host) }
}

// flap takes the balancer's link down and up; its IPv6 address goes with it.
func flap(l *lab) error {
	return errors.Join(onLink(l.LB, "eth0", netlink.LinkSetDown, netlink.LinkSetUp), giveBack(l.LB, "eth0", "fd77::1/64"))
}

// drifts are what others do to the machines of balancer and backend.
var drifts = []scenario{
	{name: "ruleset flushed", what: "`nft flush ruleset` on the balancer", do: func(l *lab) error { return l.LB.Do(flushRuleset) }},
	{name: "table deleted", what: "`nft delete table ip caplance`; refused from Linux 6.9 on", do: func(l *lab) error {
		if err := l.LB.Do(ruleset.Remove); !errors.Is(err, unix.EPERM) {
			return err
		}
		return nil
	}},
	{name: "VIPs deleted", what: "both addresses taken off the balancer's link", do: func(l *lab) error { return without(l.LB, "eth0") }},
	{name: "programs detached", what: "the balancer's BPF program taken off its link", bound: bound{moved: 32, gap: 2 * second, stall: 2 * second, recovery: 3 * second}, why: "until the program is back, datagrams come up to a worker that does not know their flows and places them: those whose policy gives another answer than before move, and back when it is there again", skip: inUserspace, do: func(l *lab) error { return l.LB.DetachPrograms("eth0") }},
	{name: "link renamed", what: "down, renamed, up, and back", bound: bound{lost: 300, gap: 3 * second, stall: 4 * second, recovery: 5 * second}, do: func(l *lab) error {
		for _, to := range [][2]string{{"eth0", "lan0"}, {"lan0", "eth0"}} {
			if err := onLink(l.LB, to[0], netlink.LinkSetDown, rename(to[1]), netlink.LinkSetUp); err != nil {
				return err
			}
			if err := giveBack(l.LB, to[1], "fd77::1/64"); err != nil {
				return err
			}
			l.pass(second)
		}
		return nil
	}},
	{name: "link made again", what: "the balancer's link deleted and made anew, with another MAC", bound: bound{moved: 32, lost: 300, gap: 3 * second, stall: 4 * second, recovery: 5 * second}, why: "without a link nothing comes, and clients have the old MAC until the VIPs are announced at the new one; UDP as where programs are detached", do: func(l *lab) error {
		if err := onLink(l.LB, "eth0", netlink.LinkDel); err != nil {
			return err
		}
		return l.Reattach()
	}},
	{name: "another MTU", what: "of the balancer's link: 1480, and back", do: func(l *lab) error {
		err := l.LB.SetMTU("eth0", 1480)
		l.pass(second)
		return errors.Join(err, l.LB.SetMTU("eth0", 1500))
	}},
	{name: "another MAC", what: "of the balancer's link", bound: bound{lost: 200, gap: 3 * second, stall: 4 * second, recovery: 5 * second}, why: "clients have the old MAC until the VIPs are announced at the new one", do: func(l *lab) error {
		mac := net.HardwareAddr{2, 0, 0, 0, 0x99, byte(l.rng.IntN(256))}
		return onLink(l.LB, "eth0", func(link netlink.Link) error { return netlink.LinkSetHardwareAddr(link, mac) })
	}},
	{name: "backend: VIPs deleted", what: "both addresses taken off `lo`", bound: bound{failed: 20, reset: 0, lost: 50, gap: 2 * second, stall: 3 * second, recovery: 3 * second}, why: "what comes before the agent has put them back is nobody's", do: onVictim(func(h *topology.Host) error { return without(h, "lo") })},
	{name: "backend: sysctls set back", what: "`arp_ignore` and `arp_announce` to 0", do: onVictim(func(h *topology.Host) error {
		return errors.Join(h.Sysctl("net.ipv4.conf.all.arp_ignore", "0"), h.Sysctl("net.ipv4.conf.all.arp_announce", "0"))
	})},
	{name: "backend: ruleset flushed", what: "`nft flush ruleset`", do: onVictim(func(h *topology.Host) error { return h.Do(flushRuleset) })},
	{name: "backend: program detached", what: "the agent's receiver taken off the link", bound: bound{failed: 20, lost: 400, gap: 2 * second, stall: 4 * second, recovery: 5 * second}, why: "until the agent looks, once a second, and puts it back, tunnelled packets are nobody's", skip: func(l *lab) bool { return inUserspace(l) || l.Mode == "direct" },
		do: onVictim(func(h *topology.Host) error { return h.DetachPrograms("eth0") })},
	{name: "backend: device deleted", what: "`caplance0`, which tunnelled packets come by", bound: bound{lost: 100, gap: 2 * second, stall: 3 * second, recovery: 3 * second}, skip: func(l *lab) bool { return l.Mode == "direct" },
		do: onVictim(func(h *topology.Host) error { return onLink(h, agent.Device, netlink.LinkDel) })},
	{name: "backend: link flap", what: "down and up at once", bound: bound{lost: 50, gap: 2 * second, stall: 3 * second, recovery: 3 * second}, do: func(l *lab) error {
		return errors.Join(onLink(l.victim.Host, "eth0", netlink.LinkSetDown), reconnect(l))
	}},
}

// floodRate is how many frames a second an attacker sends, of two processors that
// all machines of the lab share.
const floodRate = 20_000

// attack sends frames to the balancer for some seconds, of which most must arrive.
func attack(rate int, frame func(rng *rand.Rand) []byte) func(l *lab) error {
	return func(l *lab) error {
		var was, is netlink.LinkAttrs
		look := func(at *netlink.LinkAttrs) error {
			return onLink(l.LB, "eth0", func(link netlink.Link) error { *at = *link.Attrs(); return nil })
		}
		if err := look(&was); err != nil {
			return err
		}
		head := append(append([]byte{}, was.HardwareAddr...), 2, 0, 0, 0, 0, 1, unix.ETH_P_IP>>8, unix.ETH_P_IP&0xff)
		pause, n := topology.FrameBatch*time.Second/time.Duration(rate), 3*rate
		err := l.attacker.SendFrames("eth0", n, pause, func() []byte { return append(head[:len(head):len(head)], frame(l.rng)...) })
		if err = errors.Join(err, look(&is)); err != nil {
			return err
		}
		if arrived := int(is.Statistics.RxPackets - was.Statistics.RxPackets); arrived < n/2 {
			return fmt.Errorf("only %d of %d frames came: this proves nothing", arrived, n)
		}
		return nil
	}
}

// somebody returns an address that nobody has, 198.18.0.0/15 (RFC 2544).
func somebody(rng *rand.Rand) netip.AddrPort {
	r := rng.Uint32()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18 | byte(r>>16&1), byte(r >> 8), byte(r)}), uint16(1024+rng.Uint32N(64000)))
}

// segment is one of somebody's to the line protocol's port.
func segment(flags uint8) func(rng *rand.Rand) []byte {
	return func(rng *rand.Rand) []byte {
		return packettest.TCP(somebody(rng), netip.AddrPortFrom(cluster.VIP4, cluster.LinePort), flags, nil)
	}
}

// datagram is one of somebody's.
func datagram(rng *rand.Rand) []byte {
	return packettest.UDP(somebody(rng), netip.AddrPortFrom(cluster.VIP4, cluster.UDPPort), []byte("flood"))
}

// malformed is a packet to the VIP with a few bytes at random, and an end at random.
func malformed(rng *rand.Rand) []byte {
	p := segment(uint8(rng.Uint32()))(rng)
	if rng.IntN(2) == 0 {
		p = datagram(rng)
	}
	if rng.IntN(8) == 0 {
		p = packettest.ICMPError(somebody(rng).Addr(), uint8(rng.IntN(20)), uint8(rng.IntN(20)), p)
	}
	for range 1 + rng.IntN(4) {
		i := rng.IntN(len(p))
		if i >= 16 && i < 20 { // the VIP
			continue
		}
		p[i] = byte(rng.Uint32())
	}
	return p[:1+rng.IntN(len(p))]
}

// state is the balancer's state directory as the balancer sees it, whose mounts are
// its own.
func (l *lab) stateDir() string {
	return filepath.Join("/proc", fmt.Sprint(l.Server.Process.Pid), "root", l.Dir, "lb")
}

// fill leaves not a byte in the file system of the state directory.
func (l *lab) fill() error {
	f, err := os.Create(filepath.Join(l.stateDir(), "full"))
	if err != nil {
		return err
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	return nil
}

// descriptors leaves the balancer so many more of them than it has.
func (l *lab) descriptors(more int) error {
	pid := l.Server.Process.Pid
	used, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return err
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		return fmt.Errorf("prlimit: %w", err)
	}
	limit.Cur = min(uint64(len(used)+more), limit.Max)
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		return fmt.Errorf("prlimit: %w", err)
	}
	return nil
}

// reload has the balancer read another configuration.
func (l *lab) reload(toml string) error {
	if err := l.WriteServerConfig(toml); err != nil {
		return err
	}
	if _, err := l.Control().Reload(l.ctx, false); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	return nil
}

// keys are changes of the configuration, in every section, one after the other.
var keys = [][2]string{
	{"[datapath]", "[datapath]\nflows = 200000"},
	{"flows = 200000", "flows = 600000\nmax_backends = 4096"},
	{"[datapath]", "[datapath]\nqueues = 4"},
	{"queues = 4", "queues = 1\nfirst_queue = 2000"},
	{"queues = 1\n", "queues = 2\nqueue_length = 4096\n"},
	{"[datapath]", "[datapath]\nvip_host_access = \"always\"\nlinks = [\"eth0\"]"},
	{"[registry]", "[datapath.timeouts]\ntcp = \"20m\"\n[registry]\nlease = \"4s\"\ngrace = \"2s\"\nrejoin = \"40s\"\ndrain_timeout = \"40s\""},
	{`listen = "[::]:1338"`, `listen = "0.0.0.0:1339"`},
	{`listen = "0.0.0.0:1339"`, `listen = "[::]:1338"`},
	{"[log]", "[log]\nformat = \"json\""},
	{"state_dir", "metrics = \"127.0.0.1:9338\"\nstate_dir"},
	{"[registry]", "[policy]\npick_fuel = 700000\n[registry]"},
	{`policy = "hash"`, "policy = \"hash\"\nseed = 4711"},
	{"seed = 4711", "seed = 4711\nslow_start = \"1s\"\nmax_upcalls = 10000\nmax_new_flows = 100000"},
	{"seed = 4711", "seed = 4711\nremoved_flows = \"reset\"\nno_backend = \"drop\"\nicmp_echo = \"backends\"\nallow = [\"10.77.0.0/24\", \"fd77::/64\"]"},
	{"seed = 4711", "seed = 4711\nshadow = \"random\""},
	{"ports = [80, 7]", "ports = [80, 7, 8080]"},
	{`policy = "hash"`, `policy = "maglev"`},
}

// reloadKeys changes one after the other, the datapath type and back, and at last all
// of it back.
func reloadKeys(l *lab) error {
	toml := l.config()
	other := "userspace"
	if l.Type == other {
		other = "tc"
	}
	mine, theirs := fmt.Sprintf("type = %q", l.Type), fmt.Sprintf("type = %q", other)
	for _, k := range append(keys[:len(keys):len(keys)], [2]string{mine, theirs}, [2]string{theirs, mine}) {
		next := strings.ReplaceAll(toml, k[0], k[1])
		if next == toml {
			return fmt.Errorf("no %q to change", k[0])
		}
		if err := l.reload(next); err != nil {
			return fmt.Errorf("%q: %w", k[1], err)
		}
		toml = next
	}
	return l.reload(l.config())
}
