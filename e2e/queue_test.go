package e2e

import (
	"fmt"
	"testing"

	"github.com/caplance/caplance/e2e/cluster"
)

// The flows of one client are shared by all queues, and so by all processors:
// a client may be a whole provider behind one address.
func TestOneClientUsesAllQueues(t *testing.T) {
	const queues, flows = 4, 200
	c := start(t, cluster.Options{Backends: 2, Datapath: fmt.Sprintf("queues = %d", queues)})
	for i := range flows {
		vip := vips[i%2]
		l, err := openLine(t, c, vip)
		must(t, err)
		defer l.Close()
		must(t, l.ping(pingTimeout))
		_, _, err = udpAsk(t, c, vip, []byte("x"))
		must(t, err)
	}
	stats, err := c.Control().Stats(t.Context())
	must(t, err)
	if len(stats.Queues) != queues {
		t.Fatalf("%d queues", len(stats.Queues))
	}
	for _, q := range stats.Queues {
		t.Logf("queue %d: %d packets", q.Queue, q.Packets)
		// 100 flows are its fair share; 40 would be seven standard deviations off.
		if q.Packets < flows/5 {
			t.Errorf("queue %d got %d packets", q.Queue, q.Packets)
		}
	}
}
