// Package doctor finds out what this machine has of what Caplance needs. It
// tries each thing for real, in a network namespace of its own that is gone
// afterwards, so nothing that runs is disturbed.
//
//	for _, f := range doctor.Examine() { fmt.Println(f.What, f.OK, f.Detail) }
package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/core/verdict"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Finding is one thing that was tried.
type Finding struct {
	What    string `json:"what"`
	OK      bool   `json:"ok"`
	Needed  bool   `json:"needed"` // nothing works without it
	Detail  string `json:"detail"`
	Without string `json:"without,omitempty"` // what its lack means, and the remedy
}

// Examine tries everything. The error says that nothing could be tried.
func Examine() ([]Finding, error) {
	var out []Finding
	err := alone(func() {
		out = append(out, capture(), queue(), tunnel(), fast(false), fast(true), tun())
		out = append(out, owner())
		out = append(out, features()...)
	})
	if err != nil {
		return nil, err
	}
	return append(out, kernel()), nil
}

// alone runs f in a new network namespace.
func alone(f func()) error {
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer before.Close()
	ns, err := netns.New()
	if errors.Is(err, unix.EPERM) {
		return errors.New("network namespace: not permitted: run it as root")
	}
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer ns.Close()
	f()
	if err := netns.Set(before); err != nil {
		return fmt.Errorf("return from the network namespace: %w", err) // the thread stays locked and ends
	}
	runtime.UnlockOSThread()
	return nil
}

func finding(what string, needed bool, detail string, err error, without string) Finding {
	f := Finding{What: what, OK: err == nil, Needed: needed, Detail: detail}
	if err != nil {
		f.Detail, f.Without = err.Error(), without
	}
	return f
}

func capture() Finding {
	c := ruleset.Capture{Queues: 2, Services: []ruleset.Service{{
		VIP: netip.MustParseAddr("192.0.2.1"), Proto: core.ProtoTCP, Ports: []core.PortRange{core.AllPorts},
	}}}
	method, err := c.Apply()
	return finding("capture of VIP packets (balancer)", true, string(method), err,
		"modprobe -a nf_tables nft_hash nft_counter nf_conntrack, and nft_queue or both nft_compat and xt_NFQUEUE")
}

func owner() Finding {
	return finding("nftables tables that nobody else can change (Linux 6.9)", false, "", ruleset.CanOwn(),
		"without: after somebody's nft flush ruleset the host resets what comes until the repair, some ms later")
}

func queue() Finding {
	q, err := verdict.Open(verdict.Config{Length: 64, Buffer: 1 << 20})
	if err == nil {
		err = q.Close()
	}
	return finding("NFQUEUE (balancer)", true, "", err, "modprobe nfnetlink_queue")
}

func tunnel() Finding {
	t, err := forward.Open(1337)
	if err == nil {
		err = t.Close()
	}
	return finding("raw sockets (balancer)", true, "", err, "run as root, or grant CAP_NET_RAW")
}

// fast tries the fast path on a veth of the namespace.
func fast(xdp bool) Finding {
	what, without := "BPF at TC (both: datapath type tc)", "datapath type userspace: every packet comes up. It needs BPF, tcx (Linux 6.6) or clsact (5.10), and the right to mount"
	if xdp {
		what, without = "native XDP (balancer: datapath type xdp)", "datapath type tc"
	}
	how, err := tryFast(xdp)
	if xdp && err == nil {
		how = "on a veth; whether a card's driver has it shows at the start"
	}
	return finding(what, false, how, err, without)
}

func tryFast(xdp bool) (how string, err error) {
	const link = "doctor0"
	l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: link}, PeerName: "doctor1"}
	if err := netlink.LinkAdd(l); err != nil {
		return "", fmt.Errorf("a link to try on (modprobe veth): %w", err)
	}
	defer func() { err = errors.Join(err, netlink.LinkDel(l)) }()
	dir, err := os.MkdirTemp("", "caplance-doctor")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	kind := core.TC
	if xdp {
		kind = core.XDP
	}
	snapshot := &core.Snapshot{
		Settings: &core.Settings{Type: kind, Flows: 16, MaxBackends: 16},
		Services: core.NewServiceSet(nil), Pools: core.NewPoolSet(), VIPs: &core.VIPSet{},
		Links: &core.LinkSet{List: []core.Link{{Name: link, Index: l.Attrs().Index}}}, Complete: true,
	}
	b, err := fastpath.Open(fastpath.Config{StateDir: dir, Settings: snapshot.Settings})
	if err != nil {
		return "", err
	}
	err = b.Add(context.Background(), nil, snapshot)
	how = b.At(l.Attrs().Index)
	return how, errors.Join(err, b.Close())
}

// features are those of the kernel that the fast path has a way without.
func features() (out []Finding) {
	for _, f := range fastpath.Features() {
		if f.Needed {
			continue // BPF at TC shows it
		}
		out = append(out, finding(fmt.Sprintf("%s (Linux %s)", f.Name, f.Since), false, "", f.Have(), "without: "+f.Without))
	}
	return out
}

func tun() Finding {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err == nil {
		err = f.Close()
	}
	return finding("TUN (agent)", true, "", err, "modprobe tun, or make /dev/net/tun")
}

func kernel() Finding {
	var u unix.Utsname
	err := unix.Uname(&u)
	return finding("kernel", true, unix.ByteSliceToString(u.Release[:]), err, "")
}
