package fastpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// What is pinned outlives the process: the maps that hold flows and where they
// go, and the links that keep the program attached. Layout is part of the
// path, so that a binary with other layouts starts afresh.
const layout = "v3"

// pinned are the maps that a successor goes on with. The others are made anew
// for each program.
var pinned = []string{"flows", "pending", "targets", "sums", "counters"}

// What the pins of a program's links begin with; the link's index follows.
const tcPin, xdpPin = "link_", "xdp_"

// pinDir is the directory in a BPF file system of our own below dir.
func pinDir(dir string) string { return filepath.Join(dir, "bpf", layout) }

// mountPins makes the directory for the pins.
func mountPins(dir string) (string, error) {
	root := filepath.Join(dir, "bpf")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", fmt.Errorf("fast path: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return "", fmt.Errorf("fast path: %s: %w", root, err)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		if err := unix.Mount("caplance", root, "bpf", 0, "mode=0700"); err != nil {
			return "", fmt.Errorf("fast path: mount a BPF file system on %s: %w", root, err)
		}
	}
	if err := os.MkdirAll(pinDir(dir), 0o700); err != nil {
		return "", fmt.Errorf("fast path: %w", err)
	}
	return pinDir(dir), nil
}

// Unload removes all that a balancer with this state directory left in the
// kernel: programs, maps and their file system.
func Unload(dir string) error {
	root := filepath.Join(dir, "bpf")
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); errors.Is(err, fs.ErrNotExist) || err == nil && st.Type != unix.BPF_FS_MAGIC {
		return nil
	}
	if err := dropFilters(); err != nil {
		return err
	}
	if err := unix.Unmount(root, 0); err != nil { // the pins go with it
		return fmt.Errorf("fast path: unmount %s: %w", root, err)
	}
	if err := os.Remove(root); err != nil {
		return fmt.Errorf("fast path: %w", err)
	}
	return nil
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

// dropOldLinks takes a predecessor's programs off links that are not ours any
// more.
func (b *Balancer) dropOldLinks() error {
	pins, err := os.ReadDir(b.pins)
	if err != nil {
		return fmt.Errorf("fast path: pins: %w", err)
	}
	for _, p := range pins {
		if !b.wantsPin(p.Name()) {
			if err := os.Remove(filepath.Join(b.pins, p.Name())); err != nil {
				return fmt.Errorf("fast path: pin: %w", err)
			}
		}
	}
	return nil
}

func (b *Balancer) wantsPin(name string) bool {
	kind, index, ok := strings.Cut(name, "_")
	if !ok {
		return true // a map
	}
	return slices.ContainsFunc(b.cfg.Links, func(link string) bool {
		i, err := linkIndex(link)
		return err == nil && strconv.Itoa(i) == index && (kind+"_" == tcPin || b.xdp != nil)
	})
}

// dropOldLayouts removes what programs with other layouts of the maps left.
func (b *Balancer) dropOldLayouts() error {
	root := filepath.Dir(b.pins)
	dirs, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("fast path: pins: %w", err)
	}
	for _, d := range dirs {
		if d.Name() == layout || !d.IsDir() { // the kernel has files of its own there
			continue
		}
		if err := os.RemoveAll(filepath.Join(root, d.Name())); err != nil {
			return fmt.Errorf("fast path: pins of another layout: %w", err)
		}
		b.Replaced = true
	}
	return nil
}
