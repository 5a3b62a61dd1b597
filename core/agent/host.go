package agent

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/caplance/caplance/core/hostnet"
	"github.com/caplance/caplance/core/ruleset"
)

// machine is what a session changes on its host. Its methods are called by one
// goroutine at a time.
type machine interface {
	io.Writer // delivers one IP packet; may be called concurrently with Serve
	// Serve makes the host answer for the VIPs, whose packets come through a
	// tunnel of mtu bytes, and for no others that it served before.
	Serve(vips []netip.Addr, mtu int) error
	// Close undoes all that was changed.
	Close() error
}

// host is the machine this process runs on.
type host struct {
	journal *hostnet.Journal
	tun     *os.File
	vips    []netip.Addr
}

// sysctls are what VIPs on lo need. arp_ignore 1: answer ARP for an address
// only on the interface that has it, so nobody is told where the VIP is.
// arp_announce 2: never ask from a VIP, which would tell it too.
var sysctls = [][2]string{
	{"net/ipv4/conf/all/arp_ignore", "1"},
	{"net/ipv4/conf/all/arp_announce", "2"},
}

// deviceSysctls die with the device. rp_filter 2: the way back to a client is
// not the device (of "all" and the device's the larger value counts).
// addr_gen_mode 1: no link-local address, hence no router solicitations.
var deviceSysctls = [][2]string{
	{"net/ipv4/conf/" + Device + "/rp_filter", "2"},
	{"net/ipv6/conf/" + Device + "/disable_ipv6", "0"},
	{"net/ipv6/conf/" + Device + "/addr_gen_mode", "1"},
}

// openHost takes the machine over from a killed predecessor, if there was one.
func openHost(stateDir string, log *slog.Logger) (_ *host, err error) {
	j, err := hostnet.Open(filepath.Join(stateDir, "agent.journal"))
	if err != nil {
		return nil, err
	}
	if n := j.Reclaimed(); n > 0 {
		log.Info("took back what a killed agent left", "changes", n)
	}
	h := &host{journal: j}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	if err := ruleset.RemoveClamp(); err != nil {
		return nil, err
	}
	if h.tun, err = openTUN(Device); err != nil {
		return nil, err
	}
	for _, s := range slices.Concat(sysctls, deviceSysctls) {
		err := j.SetSysctl(s[0], s[1])
		if errors.Is(err, os.ErrNotExist) {
			log.Debug("sysctl is not there", "sysctl", s[0]) // a kernel without IPv6
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	return h, linkUp(Device)
}

// Write implements machine.
func (h *host) Write(packet []byte) (int, error) { return h.tun.Write(packet) }

// Serve implements machine: the clamp before the address, so that no SYN-ACK
// leaves without it.
func (h *host) Serve(vips []netip.Addr, mtu int) error {
	if err := (&ruleset.Clamp{VIPs: vips, MTU: mtu}).Apply(); err != nil {
		return err
	}
	for _, vip := range vips {
		if err := h.journal.AddAddr("lo", single(vip)); err != nil {
			return err
		}
	}
	for _, vip := range h.vips {
		if slices.Contains(vips, vip) {
			continue
		}
		if err := h.journal.RemoveAddr("lo", single(vip)); err != nil {
			return err
		}
	}
	h.vips = slices.Clone(vips)
	return nil
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Close implements machine.
func (h *host) Close() error {
	errs := []error{h.journal.Close(), ruleset.RemoveClamp()}
	if h.tun != nil {
		errs = append(errs, h.tun.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean-up: %w", err)
	}
	return nil
}
