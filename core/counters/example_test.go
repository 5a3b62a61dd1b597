package counters_test

import (
	"fmt"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/counters"
)

// Two workers count for one membership; nobody waits for anybody.
func Example() {
	set := counters.New(2)
	backend := core.NewHandle(7, 1)
	for i := range 2 {
		w := set.Worker(i)
		w.Open(backend) // when a pool with it is adopted
		w.Began(backend)
		w.Packet(backend, 1500)
	}
	set.Worker(1).Ended(backend)
	t := set.Total(backend)
	fmt.Println(t.Active, "of", t.Flows, "flows are open,", t.Packets, "packets,", t.Bytes, "bytes")
	// Output: 1 of 2 flows are open, 2 packets, 3000 bytes
}
