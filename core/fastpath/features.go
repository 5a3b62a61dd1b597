package fastpath

import (
	"errors"
	"fmt"
	"sync"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Feature is something that some kernels have and others lack. It is tried at
// most once.
type Feature struct {
	Name    string
	Since   string // the first Linux with it
	Needed  bool   // the fast path does not work without it
	Without string // what is done instead, or the remedy
	probe   func() error

	once sync.Once
	err  error
}

// The features that the programs use and that not every kernel from 5.10 on has.
var (
	featureRedirect = &Feature{
		Name: "forwarding programs at TC", Since: "5.10", Needed: true, Without: "Linux 5.10 with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS, and the capabilities of root",
		probe: func() error { return features.HaveProgramHelper(ebpf.SchedCLS, asm.FnRedirectNeigh) },
	}
	featureTCX = &Feature{
		Name: "tcx", Since: "6.6", Without: "a filter of the clsact qdisc",
		probe: func() error {
			_, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXIngress})
			if errors.Is(err, unix.EINVAL) { // as older kernels say to a kind of attachment that they do not know
				err = ebpf.ErrNotSupported
			}
			return err
		},
	}
	featureDecap = &Feature{
		Name: "decapsulation across families", Since: "6.3", Without: "the packet is translated to the other family before, at the cost of some ns", probe: probeDecap,
	}
	featureTunnels = &Feature{
		Name: "programs at IPIP, SIT and GRE links", Since: "5.14", Without: "their packets go by userspace",
		// Before, programs there see the outer headers, too ("net: reset MAC header consistently across L3 virtual
		// devices"). There is nothing to be probed without such a link.
		probe: func() error {
			var u unix.Utsname
			if err := unix.Uname(&u); err != nil {
				return err
			}
			var major, minor int
			if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
				return fmt.Errorf("release of the kernel: %w", err)
			}
			if major < 5 || major == 5 && minor < 14 {
				return ebpf.ErrNotSupported
			}
			return nil
		},
	}
	featureBatch = &Feature{
		Name: "batches of entries of per-CPU maps", Since: "5.13", Without: "a system call for each backend whose counters are read",
		probe: func() error { return probeBatch(ebpf.PerCPUArray, 8) },
	}
)

// Features returns all of them, for doctor.
func Features() []*Feature {
	return []*Feature{featureRedirect, featureTCX, featureDecap, featureTunnels, featureBatch}
}

// Attachable returns nil where a program can be attached to a link, and otherwise
// why not.
func Attachable(l core.Link) error {
	switch l.Type {
	case "ipip", "ip6tnl", "sit", "gre", "ip6gre":
		return featureTunnels.Have()
	}
	return nil
}

// Have returns nil where the kernel has the feature, and otherwise an error that
// is an *UnsupportedFeatureError, unless the probe itself failed.
func (f *Feature) Have() error {
	f.once.Do(func() {
		if f.err = f.probe(); errors.Is(f.err, ebpf.ErrNotSupported) {
			f.err = &UnsupportedFeatureError{Name: f.Name, MinimumVersion: f.Since}
		}
	})
	return f.err
}

// UnsupportedFeatureError says that this kernel lacks something. It is an
// ebpf.ErrNotSupported.
type UnsupportedFeatureError struct{ Name, MinimumVersion string }

func (e *UnsupportedFeatureError) Error() string {
	return fmt.Sprintf("%s: not in this kernel (it came with Linux %s)", e.Name, e.MinimumVersion)
}

// Is reports whether target is ebpf.ErrNotSupported.
func (e *UnsupportedFeatureError) Is(target error) bool { return target == ebpf.ErrNotSupported }

// loopback is lo's index in every network namespace.
const loopback = 1

func probeDecap() error {
	spec, err := loadReceive()
	if err != nil {
		return err
	}
	p, err := ebpf.NewProgram(spec.Programs["probe_decap"])
	if err != nil {
		return err
	}
	defer p.Close()
	frame := make([]byte, 14+28+40+20)
	frame[12], frame[13], frame[14] = 8, 0, 0x45
	verdict, err := p.Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, 2*len(frame))})
	if err == nil && verdict != 0 {
		err = ebpf.ErrNotSupported
	}
	return err
}

func probeBatch(kind ebpf.MapType, valueSize uint32) error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: kind, KeySize: 4, ValueSize: valueSize, MaxEntries: 2})
	if err != nil {
		return err
	}
	defer m.Close()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	var at ebpf.MapBatchCursor
	_, err = m.BatchLookup(&at, make([]uint32, 2), make([]uint64, 2*cpus), nil)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil // the end of the map
	}
	return err
}
