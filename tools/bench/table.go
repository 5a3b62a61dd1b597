package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
)

// benchTable measures what a flow costs in memory, as the growth of this process'
// resident set while a million of them come in, and a look-up among them.
func benchTable(_ context.Context, b *bench) error {
	const flows = 1 << 20
	memory := b.measure("flow table, 1 Mi flows, resident", "memory per flow", "B", nil)
	lookup := b.measure("flow table, 1 Mi flows, random", "flow look-up", "ns", nil)
	timeouts := &core.IdleTimeouts{All: core.Timeouts{TCP: time.Hour, TCPSyn: time.Hour, TCPFin: time.Hour, UDP: time.Hour}}
	for i := range b.rounds {
		b.step("flow table: memory and look-up", i+1, b.rounds)
		debug.FreeOSMemory()
		before, err := resident()
		if err != nil {
			return err
		}
		tab := flow.New(flows, timeouts, nil)
		for n := range uint32(flows) {
			k := tupleOf(n)
			tab.Insert(&k, k.Hash(1), 0)
		}
		after, err := resident()
		if err != nil {
			return err
		}
		memory.add(float64(after-before) / flows)
		n, lost := uint32(0), 0
		r := testing.Benchmark(func(tb *testing.B) {
			for tb.Loop() {
				n = n*1664525 + 1013904223 // Numerical Recipes' generator
				k := tupleOf(n % flows)
				if tab.Find(&k, k.Hash(1)) == nil {
					lost++
				}
			}
		})
		if lost > 0 {
			return fmt.Errorf("%d look-ups found nothing", lost)
		}
		lookup.add(float64(r.T.Nanoseconds()) / float64(r.N))
		runtime.KeepAlive(tab)
	}
	return nil
}

// tupleOf returns the n-th flow.
func tupleOf(n uint32) core.FlowKey {
	k := core.FlowKey{SrcPort: uint16(n), DstPort: 80, Proto: core.ProtoTCP}
	k.Src = [16]byte{10: 0xff, 11: 0xff, 12: 10}
	k.Dst = [16]byte{10: 0xff, 11: 0xff, 12: 192, 14: 2, 15: 1}
	binary.BigEndian.PutUint16(k.Src[14:], uint16(n>>16))
	return k
}

// resident returns the size of this process in memory, bytes (proc(5), statm).
func resident() (int, error) {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("resident set: %w", err)
	}
	fields := bytes.Fields(data)
	if len(fields) < 2 {
		return 0, fmt.Errorf("resident set: /proc/self/statm is %q", data)
	}
	pages, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0, fmt.Errorf("resident set: %w", err)
	}
	return pages * os.Getpagesize(), nil
}
