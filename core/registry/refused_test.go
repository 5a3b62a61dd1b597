package registry

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// A data IP that is refused is so at REGISTER, at SANE if that has changed, and
// later on: then its backend leaves, be its session there or not.
func TestRefusedDataIP(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		var ours atomic.Value
		ours.Store("10.0.0.1")
		w.r.cfg.Refused = func(_ string, a netip.Addr) error {
			if a == netip.MustParseAddr(ours.Load().(string)) {
				return errors.New("data IP is ours")
			}
			return nil
		}
		p := w.connect()
		defer p.Close()
		p.ask("REGISTER web1 10.0.0.1", "INVALID data IP is ours")
		p.send("REGISTER web1 10.0.0.11")
		ours.Store("10.0.0.11")
		p.ask("SANE "+w.nonce("10.0.0.11"), "INVALID data IP is ours")
		ours.Store("10.0.0.1")
		q, lost := w.join("web2", "10.0.0.12", ""), w.join("web3", "10.0.0.13", "")
		defer q.Close()
		lost.hangUp()
		w.r.Recheck()
		synctest.Wait()
		if got := w.seen(); got != "web2 active, web3 lost" {
			t.Errorf("pool is %q", got)
		}
		for _, addr := range []string{"10.0.0.12", "10.0.0.13"} {
			ours.Store(addr)
			w.r.Recheck()
			synctest.Wait()
			if addr == "10.0.0.12" {
				q.expect("DEREGISTERED web2 data IP is ours")
				if _, err := q.ReadLine(); err == nil {
					t.Error("the session goes on")
				}
			}
		}
		if got := w.seen(); got != "" {
			t.Errorf("pool is %q", got)
		}
	})
}
