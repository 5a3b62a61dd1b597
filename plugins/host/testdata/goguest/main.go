// A policy in standard Go: it picks the backend with the fewest open flows,
// and allocates in every pick, so that its garbage has to be collected. That
// takes milliseconds, more than pick_fuel allows, and is done between batches.
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o go.wasm .
package main

import (
	"runtime"
	"runtime/debug"
	"unsafe"
)

type backend struct {
	id   uint64
	rest [7]uint64
}

var (
	flow     [10]uint64
	backends []backend
	active   []uint32
	eligible uint32
	garbage  []byte
)

//go:wasmexport caplance_abi_v1
func abi() {}

//go:wasmexport caplance_buffer
func buffer(slot, size uint32) unsafe.Pointer {
	switch slot {
	case 2:
		return unsafe.Pointer(&flow)
	case 3:
		backends = make([]backend, size/64+1)
		return unsafe.Pointer(&backends[0])
	case 4:
		active = make([]uint32, size/4+2)
		return unsafe.Pointer(&active[0])
	}
	return nil
}

//go:wasmexport caplance_backends
func setBackends(count, n uint32) int32 {
	eligible = n
	return 0
}

//go:wasmexport caplance_pick
func pick(hash uint64, _ unsafe.Pointer) int32 {
	garbage = make([]byte, 1024)
	best := uint32(0)
	for i := range eligible {
		if active[i] < active[best] {
			best = i
		}
	}
	if flow[1] != hash {
		panic("the flow record is not the flow's")
	}
	return int32(best)
}

//go:wasmexport caplance_tick
func tick(now int64) { runtime.GC() }

func init() { debug.SetGCPercent(-1) }

func main() {}
