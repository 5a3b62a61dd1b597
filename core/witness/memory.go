package witness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// memory is a file that tells the successor of a killed agent at which ports of
// VIPs sockets were seen. It holds for as long as the same sockets listen there:
// what listens since may pass its connections on to a container.
type memory struct {
	Boot  string                    `json:"boot"`  // /proc/sys/kernel/random/boot_id
	NetNS uint64                    `json:"netns"` // inode: sockets are another namespace's elsewhere
	Ports map[netip.AddrPort]uint64 `json:"ports"` // and the cookies of the sockets that listen
}

// fresh is how the name of a file ends that is being written.
const fresh = ".new"

// here returns an empty memory of this boot and network namespace.
func here() (memory, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return memory{}, err
	}
	var ns unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &ns); err != nil {
		return memory{}, fmt.Errorf("/proc/thread-self/ns/net: %w", err)
	}
	return memory{Boot: string(bytes.TrimSpace(boot)), NetNS: ns.Ino, Ports: map[netip.AddrPort]uint64{}}, nil
}

// recall takes over what a predecessor has seen.
func (w *Witness) recall() error {
	if w.file == "" {
		return nil
	}
	m, err := here()
	if err != nil {
		return err
	}
	data, err := os.ReadFile(w.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var old memory
	if err := json.Unmarshal(data, &old); err != nil {
		return fmt.Errorf("%s: %w", w.file, err)
	}
	if old.Boot != m.Boot || old.NetNS != m.NetNS {
		return nil
	}
	for port, cookie := range old.Ports {
		now, err := w.asker.Listener(port)
		if err != nil {
			return err
		}
		if cookie != 0 && now == cookie && len(w.seen) < maxSeen {
			w.seen[port], w.asked[port.Port()] = cookie, true
		}
	}
	return nil
}

// remember writes what was seen, if that has changed.
func (w *Witness) remember() {
	w.saving.Lock()
	defer w.saving.Unlock()
	w.mu.Lock()
	changed := w.changed && w.file != ""
	w.changed = false
	w.mu.Unlock()
	if !changed {
		return
	}
	if err := w.save(); err != nil {
		w.log.Warn("ports of connections are not kept for the next agent", "err", err)
	}
}

func (w *Witness) save() error {
	m, err := here()
	if err != nil {
		return err
	}
	w.mu.Lock()
	maps.Copy(m.Ports, w.seen)
	w.mu.Unlock()
	for port, cookie := range m.Ports {
		if cookie != 0 {
			continue
		}
		w.asking.Lock()
		m.Ports[port], err = w.asker.Listener(port)
		w.asking.Unlock()
		if err != nil {
			return err
		}
	}
	w.mu.Lock()
	for port := range w.seen {
		if cookie, ok := m.Ports[port]; ok {
			w.seen[port] = cookie
		}
	}
	w.mu.Unlock()
	return m.write(w.file)
}

// write replaces the file at once.
func (m *memory) write(file string) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+fresh, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(file+fresh, file)
}

// Forget removes what is kept for a successor. Run has ended, or was not called.
func (w *Witness) Forget() error {
	if w.file == "" {
		return nil
	}
	for _, file := range []string{w.file, w.file + fresh} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
