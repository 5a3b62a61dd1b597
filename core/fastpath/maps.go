package fastpath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
)

// sharedMaps are those that all generations of the programs share. Those with a name
// are pinned, for a successor goes on with them.
type sharedMaps struct {
	Flows, Pending       *ebpf.Map
	Targets, TargetStats *ebpf.Map // by slot
	Counters             *ebpf.Map
	Heartbeat, Strict    *ebpf.Map // of this process: a predecessor's program has others
}

// byName returns the maps as the programs name them.
func (m *sharedMaps) byName() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		"flows": &m.Flows, "pending": &m.Pending, "targets": &m.Targets, "target_stats": &m.TargetStats,
		"counters": &m.Counters, "heartbeat": &m.Heartbeat, "strict": &m.Strict,
	}
}

// pinned reports whether a successor goes on with a map.
func pinned(name string) bool { return name != "heartbeat" && name != "strict" }

// sizes returns how many entries the settings want the maps to have.
func sizes(s *core.Settings) map[string]uint32 {
	return map[string]uint32{
		"flows": uint32(s.Flows), "pending": uint32(max(s.Flows/8, 1<<10)),
		"targets": uint32(s.MaxBackends), "target_stats": uint32(s.MaxBackends),
	}
}

// openMaps opens the maps, a predecessor's where there are some with the same
// layout, whatever their size.
func openMaps(spec *ebpf.CollectionSpec, dir string, s *core.Settings) (m *sharedMaps, inherited bool, err error) {
	m = &sharedMaps{}
	want := sizes(s)
	for name, into := range m.byName() {
		if n := want[name]; n != 0 {
			spec.Maps[name].MaxEntries = n
		}
		path := ""
		if pinned(name) {
			path = filepath.Join(dir, name)
		}
		old, err := openMap(spec.Maps[name], path, into)
		if err != nil {
			return nil, false, errors.Join(fmt.Errorf("fast path: map %s: %w", name, err), m.close())
		}
		inherited = inherited || old && name == "flows"
	}
	return m, inherited, nil
}

// openMap loads the map that is pinned at path, or makes and pins one.
func openMap(spec *ebpf.MapSpec, path string, into **ebpf.Map) (old bool, err error) {
	if path != "" {
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err == nil {
			like := spec.Copy()
			like.MaxEntries = m.MaxEntries()
			if err := like.Compatible(m); err != nil {
				return false, errors.Join(err, m.Close())
			}
			*into = m
			return true, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
	}
	if *into, err = ebpf.NewMap(spec); err != nil || path == "" {
		return false, err
	}
	return false, (*into).Pin(path)
}

func (m *sharedMaps) close() error {
	if m == nil {
		return nil
	}
	var errs []error
	for _, mp := range m.byName() {
		errs = append(errs, (*mp).Close())
	}
	return errors.Join(errs...)
}

// fit reports whether the maps have the sizes that the settings want.
func (m *sharedMaps) fit(s *core.Settings) bool {
	for name, n := range sizes(s) {
		if (*m.byName()[name]).MaxEntries() != n {
			return false
		}
	}
	return true
}

// resized returns the maps with the sizes that the settings want. What is in
// those that change is copied; moved lists them with the maps that they
// replace.
func (m *sharedMaps) resized(spec *ebpf.CollectionSpec, s *core.Settings) (next *sharedMaps, moved []move, err error) {
	out := *m
	for name, n := range sizes(s) {
		was := *out.byName()[name]
		if was.MaxEntries() == n {
			continue
		}
		like := spec.Maps[name].Copy()
		like.MaxEntries = n
		now, err := ebpf.NewMap(like)
		if err == nil {
			moved = append(moved, move{name, was, now})
			err = moved[len(moved)-1].copy()
		}
		if err != nil {
			for _, mv := range moved {
				_ = mv.to.Close()
			}
			return nil, nil, fmt.Errorf("fast path: map %s of %d entries: %w", name, n, err)
		}
		*out.byName()[name] = now
	}
	return &out, moved, nil
}

// move is a map that another one replaces.
type move struct {
	name     string
	from, to *ebpf.Map
}

// copy copies the entries that are not there yet. Flows that find no room are
// lost: the operator asked for a smaller table.
func (m *move) copy() error {
	if m.from.Type() == ebpf.Array || m.from.Type() == ebpf.PerCPUArray {
		return m.copyArray()
	}
	return m.copyFlows()
}

func (m *move) copyFlows() error {
	var at ebpf.MapBatchCursor
	size := int(min(m.from.MaxEntries(), walkBatch))
	keys, values := make([]balanceFlowKey, size), make([]balanceFlow, size)
	for {
		n, err := m.from.BatchLookup(&at, keys, values, nil)
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !last {
			return err
		}
		for i := range n {
			err := m.to.Update(&keys[i], &values[i], ebpf.UpdateNoExist)
			if err != nil && !errors.Is(err, ebpf.ErrKeyExist) && !errors.Is(err, errFull) {
				return err
			}
		}
		if last {
			return nil
		}
	}
}

func (m *move) copyArray() error {
	for i := range min(m.from.MaxEntries(), m.to.MaxEntries()) {
		if err := copyEntry(m, i); err != nil {
			return err
		}
	}
	return nil
}

func copyEntry(m *move, i uint32) error {
	if m.from.Type() == ebpf.PerCPUArray {
		var v []balanceTargetStat
		if err := m.from.Lookup(i, &v); err != nil {
			return err
		}
		return m.to.Put(i, v)
	}
	var v balanceTarget
	if err := m.from.Lookup(i, &v); err != nil || v.Handle == 0 {
		return err
	}
	return m.to.Put(i, v)
}

// pin puts the new map in the place of the old one's pin, at once.
func (m *move) pin(dir string) error {
	path := filepath.Join(dir, m.name)
	_ = os.Remove(path + "_new")
	if err := m.to.Pin(path + "_new"); err != nil {
		return fmt.Errorf("fast path: pin of %s: %w", m.name, err)
	}
	if err := os.Rename(path+"_new", path); err != nil {
		return fmt.Errorf("fast path: pin of %s: %w", m.name, err)
	}
	return nil
}
