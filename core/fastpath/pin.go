package fastpath

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// What is pinned outlives the process: the maps that hold flows and where they
// go, and the links that keep the programs attached. Layout is part of the
// path, so that a binary with other layouts starts afresh.
const layout = "v6"

// What the pins of a program's links begin with; the link's index follows.
const tcPin, xdpPin = "link_", "xdp_"

// systemFS is where the machine's own BPF file system is, if it has one.
const systemFS = "/sys/fs/bpf"

// pins is the directory of the pins.
type pins struct {
	root string // this balancer's directory in a BPF file system
	own  string // where that file system was mounted for it, "" for the machine's
	// Fleeting says that the pins go with this process: its mount namespace is
	// private, and the machine has no BPF file system in it.
	Fleeting bool
}

func (p *pins) dir() string { return filepath.Join(p.root, layout) }

// Where a balancer and an agent have their pins, whose state directory may be the
// same one: in the machine's BPF file system, and below the state directory.
var (
	balancerPins = pinPlace{"caplance", "bpf"}
	agentPins    = pinPlace{"caplance-agent", "agent-bpf"}
)

type pinPlace struct{ system, own string }

func (w pinPlace) inSystem(stateDir string) string {
	return filepath.Join(systemFS, w.system, escape(stateDir))
}

// found returns the directories that may be there.
func (w pinPlace) found(stateDir string) []*pins {
	own := filepath.Join(stateDir, w.own)
	return []*pins{{root: w.inSystem(stateDir)}, {root: own, own: own}}
}

// openPins makes the directory of a process's pins: in the machine's BPF file
// system, which is in every mount namespace, else in one below the state
// directory.
func openPins(where pinPlace, stateDir string) (*pins, error) {
	p := &pins{root: filepath.Join(stateDir, where.own)}
	switch {
	case isBPF(p.root): // a predecessor's
		p.own = p.root
	case isBPF(systemFS):
		p.root = where.inSystem(stateDir)
	default:
		if err := os.MkdirAll(p.root, 0o700); err != nil {
			return nil, fmt.Errorf("fast path: %w", err)
		}
		if err := unix.Mount("caplance", p.root, "bpf", 0, "mode=0700"); err != nil {
			return nil, fmt.Errorf("fast path: mount a BPF file system on %s: %w", p.root, err)
		}
		p.own = p.root
	}
	p.Fleeting = p.own != "" && privateMounts()
	if err := os.MkdirAll(p.dir(), 0o700); err != nil {
		return nil, fmt.Errorf("fast path: %w", err)
	}
	return p, nil
}

// escape makes a file name of a path, as systemd-escape(1) does. Dots are
// escaped wherever they are: the BPF file system keeps such names for itself
// (bpf_lookup in kernel/bpf/inode.c).
func escape(path string) string {
	return strings.NewReplacer("-", `\x2d`, ".", `\x2e`, "/", "-").Replace(strings.Trim(filepath.Clean(path), "/"))
}

func isBPF(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.BPF_FS_MAGIC
}

// privateMounts reports whether mounts of this process are not those of the
// machine's first one, or of its parent where the first one is not to be seen:
// systemd's PrivateTmp and ProtectSystem make it so.
func privateMounts() bool {
	mounts := func(pid string) string {
		ns, _ := os.Readlink("/proc/" + pid + "/ns/mnt")
		return ns
	}
	others := cmp.Or(mounts("1"), mounts(strconv.Itoa(os.Getppid())))
	return others != "" && others != mounts("self")
}

// restore mounts the file system again, which somebody unmounted.
func (p *pins) restore() error {
	at := cmp.Or(p.own, systemFS)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return fmt.Errorf("fast path: %w", err)
	}
	if !isBPF(at) {
		if err := unix.Mount("caplance", at, "bpf", 0, "mode=0700"); err != nil { // CAP_SYS_ADMIN may have been given up
			return fmt.Errorf("fast path: mount a BPF file system on %[1]s: %[2]w (do it by hand: mount -t bpf bpf %[1]s)", at, err)
		}
	}
	if err := os.MkdirAll(p.dir(), 0o700); err != nil {
		return fmt.Errorf("fast path: %w", err)
	}
	return nil
}

// there reports whether the pins' file system is still mounted.
func (p *pins) there() bool {
	_, err := os.Stat(p.dir())
	return err == nil && isBPF(p.root)
}

// remove takes the pins away: what they hold ends.
func (p *pins) remove() error {
	if p.own == "" {
		err := os.RemoveAll(p.root)
		_ = os.Remove(filepath.Dir(p.root)) // others may have theirs in it
		if err != nil {
			return fmt.Errorf("fast path: pins: %w", err)
		}
		return nil
	}
	if !isBPF(p.own) {
		return nil
	}
	if err := unix.Unmount(p.own, 0); err != nil {
		return fmt.Errorf("fast path: unmount %s: %w", p.own, err)
	}
	if err := os.Remove(p.own); err != nil {
		return fmt.Errorf("fast path: %w", err)
	}
	return nil
}

// Unload removes all that a balancer with this state directory left in the
// kernel: programs, maps and their file system.
func Unload(stateDir string) error {
	var errs []error
	for _, p := range balancerPins.found(stateDir) {
		if !isBPF(p.root) {
			continue
		}
		if flows, err := ebpf.LoadPinnedMap(filepath.Join(p.dir(), "flows"), nil); err == nil {
			err = errors.Join(dropFilters(flows), flows.Close())
			if err != nil {
				errs = append(errs, err)
				continue
			}
		}
		errs = append(errs, p.remove())
	}
	return errors.Join(errs...)
}

// takeLink puts a program in the place of the one that a pinned link holds; ok
// is false where there is none to be had.
func takeLink(path string, prog *ebpf.Program) (l link.Link, ok bool) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return nil, false
	}
	if err := l.Update(prog); err != nil { // its device is gone
		_ = l.Unpin()
		_ = l.Close()
		return nil, false
	}
	return l, true
}

// dropOthers detaches the programs at links that keep says no to, also while a
// predecessor holds them.
func (p *pins) dropOthers(keep func(name string) bool) error {
	list, err := os.ReadDir(p.dir())
	if err != nil {
		return fmt.Errorf("fast path: pins: %w", err)
	}
	for _, e := range list {
		isLink := strings.HasPrefix(e.Name(), tcPin) || strings.HasPrefix(e.Name(), xdpPin)
		if !isLink || keep(e.Name()) {
			continue
		}
		path := filepath.Join(p.dir(), e.Name())
		if l, err := link.LoadPinnedLink(path, nil); err == nil {
			_ = l.Detach() // fails where its device is gone, or on kernels before 5.9
			_ = l.Close()
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("fast path: pin: %w", err)
		}
	}
	return nil
}

// dropOldLayouts removes what programs with other layouts of the maps left, and
// reports whether there were any.
func (p *pins) dropOldLayouts() (found bool, err error) {
	dirs, err := os.ReadDir(p.root)
	if err != nil {
		return false, fmt.Errorf("fast path: pins: %w", err)
	}
	for _, d := range dirs {
		if d.Name() == layout || !d.IsDir() { // the kernel has files of its own there
			continue
		}
		if err := os.RemoveAll(filepath.Join(p.root, d.Name())); err != nil {
			return found, fmt.Errorf("fast path: pins of another layout: %w", err)
		}
		found = true
	}
	return found, nil
}
