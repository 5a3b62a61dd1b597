package main

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/caplance/caplance/core"
	"golang.org/x/sys/unix"
)

// arrayOfMaps is the type of the balancer's map of lookup tables
// (BPF_MAP_TYPE_ARRAY_OF_MAPS).
const arrayOfMaps = 12

// inTable returns nil when the kernel's lookup table of a service leads to so
// many backends.
func (b *testbed) inTable(id core.ServiceID, backends int) error {
	n, err := distinct(b.lookups, uint32(id))
	if err != nil { // another generation of the programs has another map
		if err := b.findLookups(); err != nil {
			return err
		}
		n, err = distinct(b.lookups, uint32(id))
	}
	if err == nil && n != backends {
		err = fmt.Errorf("lookup table of service %d leads to %d backends of %d", id, n, backends)
	}
	return err
}

// findLookups notes the map of the balancer's lookup tables.
func (b *testbed) findLookups() error {
	maps, err := kernelMaps(b.pid())
	for _, m := range maps {
		if m.kind == arrayOfMaps {
			b.lookups = uint32(m.id)
			return nil
		}
	}
	return errors.Join(err, errors.New("balancer has no lookup tables"))
}

// distinct returns the number of backends in a lookup table.
func distinct(outer, service uint32) (int, error) {
	fd, err := mapByID(outer)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var inner uint32
	if err := lookup(fd, service, unsafe.Pointer(&inner)); err != nil {
		return 0, fmt.Errorf("no lookup table of service %d: %w", service, err)
	}
	table, err := mapByID(inner)
	if err != nil {
		return 0, err
	}
	defer unix.Close(table)
	seen := map[uint32]bool{}
	slots, err := readTable(table)
	for _, h := range slots {
		seen[h] = true
	}
	delete(seen, 0)
	return len(seen), err
}

// readTable reads a table of core.LookupSize handles.
func readTable(fd int) ([]uint32, error) {
	slots := make([]uint32, core.LookupSize)
	return slots, lookup(fd, 0, unsafe.Pointer(&slots[0]))
}

func mapByID(id uint32) (fd int, err error) {
	attr := struct{ id, next, flags uint32 }{id: id}
	n, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_GET_FD_BY_ID, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return 0, fmt.Errorf("BPF map %d: %w", id, errno)
	}
	return int(n), nil
}

func lookup(fd int, key uint32, value unsafe.Pointer) error {
	attr := struct {
		fd, _      uint32
		key, value unsafe.Pointer
		flags      uint64
	}{fd: uint32(fd), key: unsafe.Pointer(&key), value: value}
	return bpf(unix.BPF_MAP_LOOKUP_ELEM, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size); errno != 0 {
		return errno
	}
	return nil
}
