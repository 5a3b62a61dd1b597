package core_test

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core"
)

// A pool is immutable. Without a policy its lookup table decides, by the hash of
// the flow: a backend that leaves takes only its own flows with it.
func ExamplePool_Fallback() {
	web := &core.Service{Name: "web", VIP: netip.MustParseAddr("192.0.2.1"), Protos: []uint8{core.ProtoTCP}, Seed: 1}
	var backends []core.Backend
	for i, name := range []string{"b1", "b2", "b3"} {
		addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
		backends = append(backends, core.Backend{Name: name, Addr: addr, Weight: 1, Since: time.Unix(1, 0)})
	}
	builder := core.NewPoolBuilder(web)
	all, fewer := builder.Build(backends), builder.Build(backends[:2])
	moved := 0
	for port := range uint16(1000) {
		flow := core.FlowKey{
			Src: netip.MustParseAddr("198.51.100.7").As16(), SrcPort: 10000 + port,
			Dst: web.VIP.As16(), DstPort: 80, Proto: core.ProtoTCP,
		}
		hash := flow.Hash(web.Seed)
		was, is := all.Members[all.Fallback(hash)].Name, fewer.Members[fewer.Fallback(hash)].Name
		if was != "b3" && was != is {
			moved++
		}
	}
	fmt.Println(len(all.Members), "backends, then", len(fewer.Members))
	fmt.Println("few flows of those that stay are moved:", moved < 50)
	// Output:
	// 3 backends, then 2
	// few flows of those that stay are moved: true
}

// A Handle names a membership: a backend that comes back is another one, though
// its slot, and so its place in arrays, may be the same.
func ExampleSlots() {
	slots := core.NewSlots()
	a, b := slots.Take(), slots.Take()
	slots.Release(a)
	again := slots.Take()
	fmt.Println(a.Slot(), b.Slot(), again.Slot())
	fmt.Println(a.Generation(), again.Generation(), a == again)
	// Output:
	// 0 1 0
	// 1 2 false
}
