package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
)

// What a successor needs to know of the flows is kept beside them: it lives and
// goes with them, whatever becomes of files.

// savedPin is the map of one element that holds the saved state, after its
// length in four bytes.
const savedPin = "saved"

// SaveState keeps data for a successor. It is written by one system call, so
// that a kill leaves the old one or the new one.
func (b *Balancer) SaveState(data []byte) error {
	size := powerOfTwo(max(len(data)+4, 1<<12))
	if b.saved == nil || b.saved.ValueSize() < size {
		if err := b.growSaved(size); err != nil {
			return fmt.Errorf("fast path: saved state of %d bytes: %w", len(data), err)
		}
	}
	value := make([]byte, b.saved.ValueSize())
	binary.NativeEndian.PutUint32(value, uint32(len(data)))
	copy(value[4:], data)
	if err := b.saved.Put(uint32(0), value); err != nil {
		return fmt.Errorf("fast path: saved state: %w", err)
	}
	return nil
}

// growSaved makes a larger map. The old one's pin is there until the new one
// is full.
func (b *Balancer) growSaved(size uint32) error {
	next, err := ebpf.NewMap(&ebpf.MapSpec{Name: savedPin, Type: ebpf.Array, KeySize: 4, ValueSize: size, MaxEntries: 1})
	if err != nil {
		return err
	}
	old := b.saved
	if old != nil {
		value := make([]byte, size)
		have, err := old.LookupBytes(uint32(0))
		if err == nil {
			copy(value, have)
			err = next.Put(uint32(0), value)
		}
		if err != nil {
			return errors.Join(err, next.Close())
		}
	}
	b.saved = next
	mv := move{name: savedPin, to: next}
	err = mv.pin(b.pins.dir())
	if old != nil {
		err = errors.Join(err, old.Close())
	}
	return err
}

// LoadState returns what a predecessor kept, nil if there is nothing.
func (b *Balancer) LoadState() ([]byte, error) {
	m, err := ebpf.LoadPinnedMap(b.pinPath(savedPin), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("fast path: saved state: %w", err)
	}
	b.saved = m
	value, err := m.LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("fast path: saved state: %w", err)
	}
	if len(value) < 4 {
		return nil, nil
	}
	return value[4 : 4+min(int(binary.NativeEndian.Uint32(value)), len(value)-4)], nil
}
