package registry

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core"
)

// Only who reads OFFER is told unasked, and only what is news.
func TestOffers(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p, old := w.join("web1", "10.0.0.11", "v=2 offers=yes"), w.join("web2", "10.0.0.12", "v=2")
		defer p.Close()
		defer old.Close()
		first := w.join("web3", "10.0.0.13", "offers=yes") // v=2 goes with it
		defer first.Close()
		w.r.Offers() // no news
		synctest.Wait()
		p.ask("HEALTH 200 offer=1", "HEALTHACK 200 state=active active=0")
		old.ask("HEALTH 200", "HEALTHACK 200 state=active active=0")
		w.setOffer("balancers=10.0.0.2 mtu=1300")
		w.r.Offers()
		p.expect("OFFER mtu=1300 balancers=10.0.0.2 offer=2")
		old.ask("HEALTH 200", "HEALTHACK 200 state=active active=0 mtu=1300 balancers=10.0.0.2")
		first.ask("HEALTH 200", "HEALTHACK 200")
		p.ask("HEALTH 200 offer=2", "HEALTHACK 200 state=active active=0")
		p.ask("HEALTH 200 offer=x", "INVALID offer")
		p.ask("DEREGISTER", "DEREGISTERED")
		w.r.Offers()
	})
}

// A VIP counts from the HEALTH on that came after it was offered.
func TestBackendHasWhatItsAgentAcknowledged(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		v4, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")
		first := w.join("web2", "10.0.0.12", "")
		defer first.Close()
		p := w.join("web1", "10.0.0.11", "v=2")
		has := func(name string, vip netip.Addr, want bool) {
			t.Helper()
			b := w.backend(name)
			if got := b.Has(vip); got != want {
				t.Errorf("%s has %v: %v", name, vip, got)
			}
		}
		has("web2", other, true)
		has("web1", v4, false)
		p.ask("HEALTH 200", "HEALTHACK")
		has("web1", v4, true)
		w.setOffer("vips=192.0.2.9")
		p.ask("HEALTH 200", "HEALTHACK 200 state=active active=0 vips=192.0.2.9")
		has("web1", v4, false)
		has("web1", other, false)
		calls := w.calls
		p.ask("HEALTH 200", "HEALTHACK")
		p.ask("HEALTH 200", "HEALTHACK")
		has("web1", other, true)
		if w.calls != calls+1 {
			t.Errorf("%d calls of Apply", w.calls-calls)
		}
		p.hangUp()
		again := w.join("web1", "10.0.0.11", "v=2 offers=yes")
		defer again.Close()
		has("web1", other, true) // its flows go on
	})
}

// An agent that does not read is hung up on after the write timeout, and holds
// up nobody until then.
func TestOffersToAnAgentThatDoesNotRead(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		deaf, p := w.join("web1", "10.0.0.11", "v=2 offers=yes"), w.join("web2", "10.0.0.12", "v=2 offers=yes")
		defer deaf.Close()
		defer p.Close()
		began := time.Now()
		w.setOffer("vips=192.0.2.9")
		w.r.Offers()
		p.expect("OFFER vips=192.0.2.9 offer=2")
		w.setOffer("vips=192.0.2.8")
		w.r.Offers()
		p.expect("OFFER vips=192.0.2.8 offer=3")
		if d := time.Since(began); d != 0 {
			t.Errorf("the other one waited %s", d)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if got := w.seen(); got != "web1 lost, web2 unhealthy" {
			t.Errorf("pool is %q", got)
		}
	})
}

// A heartbeat makes no offer while nothing has changed: with many services that costs
// more than all else. What changed without a word reaches the agent all the same.
func TestHeartbeatsMakeNoOffers(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		made := 0
		offer := w.r.cfg.Offer
		w.r.cfg.Offer = func(b core.Backend) Offer {
			made++
			return offer(b)
		}
		p := w.connect()
		p.send("REGISTER web1 10.0.0.11 v=2")
		p.ask("SANE "+w.nonce("10.0.0.11"), "REGISTERED web1")
		for range 100 {
			time.Sleep(time.Second)
			p.ask("HEALTH 200", "HEALTHACK 200 state=active active=0")
		}
		if made < 5 || made > 15 {
			t.Errorf("%d offers in 100 s", made)
		}
		w.mu.Lock()
		w.offer.MTU = 1300
		w.mu.Unlock()
		time.Sleep(offerAge)
		p.ask("HEALTH 200", "HEALTHACK 200 state=active active=0 mtu=1300")
	})
}
