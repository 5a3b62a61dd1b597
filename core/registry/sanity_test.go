package registry

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// However many REGISTERs one session sends, there is one sanity datagram a second; and
// all sessions together have a limit.
func TestSanityRate(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		sent := func() int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.datagrams)
		}
		p := w.connect()
		for i := range 500 {
			p.send(fmt.Sprintf("REGISTER web1 10.0.0.%d tag=t%d", 11+i%50, i))
			time.Sleep(5 * time.Millisecond)
		}
		if n := sent(); n < 1 || n > 4 {
			t.Errorf("%d datagrams in 2.5 s", n)
		}
		w.mu.Lock()
		last := w.datagrams[len(w.datagrams)-1]
		w.mu.Unlock()
		if _, tag, _ := strings.Cut(last, " SANITY "); !strings.Contains(tag, " t") {
			t.Errorf("datagram %q has no tag", last)
		}
		p.hangUp()

		set := testSettings()
		set.Limits.Sanity = 10
		w.r.Update(set)
		before := sent()
		var all []*peer
		for i := range 50 {
			q := w.connect()
			q.send(fmt.Sprintf("REGISTER many%d 10.0.1.%d", i, i))
			all = append(all, q)
		}
		time.Sleep(1900 * time.Millisecond)
		if n := sent() - before; n < 10 || n > 30 {
			t.Errorf("%d datagrams of all in 1.9 s", n)
		}
		for _, q := range all {
			q.hangUp()
		}
	})
}
