//go:build wasip1

package caplance

import "unsafe"

// Register makes p the policy of this module. Call it from init.
func Register(p Policy) { policy = p }

// The buffers. Slices of 64-bit words are aligned as the host wants it, and
// the collector does not move them.
var (
	policy                 Policy
	flow                   Flow
	end                    End
	pool                   Pool
	backends               []Backend
	active, packets, bytes []uint64
	config, tableWords     []uint64
	metrics                [16]uint64
	names                  [64]uint64
)

// words returns a buffer of at least size bytes, never an empty one.
func words(b *[]uint64, size uint32) unsafe.Pointer {
	*b = make([]uint64, size/8+1)
	return unsafe.Pointer(&(*b)[0])
}

//go:wasmexport caplance_abi_v1
func marker() {}

//go:wasmexport caplance_buffer
func buffer(slot, size uint32) unsafe.Pointer {
	switch slot {
	case 1:
		return words(&config, size)
	case 2:
		return unsafe.Pointer(&flow)
	case 3:
		backends = make([]Backend, size/64+1)
		return unsafe.Pointer(&backends[0])
	case 4:
		return words(&active, size)
	case 5:
		return words(&packets, size)
	case 6:
		return words(&bytes, size)
	case 7:
		return words(&tableWords, size)
	case 8:
		return unsafe.Pointer(&end)
	case 9:
		if _, ok := policy.(Metered); ok {
			return unsafe.Pointer(&metrics)
		}
	case 10:
		return unsafe.Pointer(&pool.Info)
	case 11:
		if m, ok := policy.(Metered); ok {
			text := unsafe.Slice((*byte)(unsafe.Pointer(&names)), 8*len(names)-1)
			for _, name := range m.MetricNames() {
				text = text[min(copy(text, name)+1, len(text)):]
			}
			return unsafe.Pointer(&names)
		}
	}
	return nil
}

//go:wasmexport caplance_config
func configure(length uint32) int32 {
	text := unsafe.Slice((*byte)(unsafe.Pointer(&config[0])), length)
	c, ok := policy.(Configurer)
	if !ok {
		return verdict(string(text) != "{}")
	}
	return report(c.Configure(text))
}

//go:wasmexport caplance_backends
func setBackends(count, eligible uint32) int32 {
	pool.Backends, pool.Eligible = backends[:count], int(eligible)
	pool.Active = unsafe.Slice((*uint32)(unsafe.Pointer(&active[0])), count)
	pool.Packets, pool.Bytes = packets[:count], bytes[:count]
	return report(policy.SetPool(&pool))
}

// report returns a guest's answer; the error goes to the balancer's log.
func report(err error) int32 {
	if err != nil {
		println(err.Error())
	}
	return verdict(err != nil)
}

func verdict(refused bool) int32 {
	if refused {
		return 1
	}
	return 0
}

//go:wasmexport caplance_pick
func pick(uint64, unsafe.Pointer) int32 { return int32(policy.Pick(&flow, &pool)) }

// FillTable, FlowEnded and Ticked are for the functions that a policy exports
// itself; see the package's comment.
func FillTable(size uint32) int32 {
	policy.(Tabler).FillTable(unsafe.Slice((*uint16)(unsafe.Pointer(&tableWords[0])), size), &pool)
	return 0
}

func FlowEnded(backend int32) { policy.(Ender).FlowEnded(int(backend), &end) }

func Ticked(now uint64) {
	if t, ok := policy.(Ticker); ok {
		t.Tick(now)
	}
	if m, ok := policy.(Metered); ok {
		m.Metrics(&metrics)
	}
}
