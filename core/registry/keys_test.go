package registry

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core/auth"
)

// secure has the registry ask for keys; the keys are those of the agents, by name.
func (w *testbed) secure(agents ...auth.Agent) (set Settings, keys map[string]auth.PublicKey) {
	set, keys = testSettings(), map[string]auth.PublicKey{}
	set.Own = auth.NewKeyPair()
	for _, a := range agents {
		keys[a.Name] = auth.NewKeyPair().Public()
		a.Keys = []auth.PublicKey{keys[a.Name]}
		a.MaxWeight = max(a.MaxWeight, 1)
		set.Known = append(set.Known, a)
	}
	w.r.Update(set)
	return set, keys
}

// proves is a peer with a key.
func proves(key auth.PublicKey) proveFunc {
	return func(context.Context) (*auth.Identity, error) { return key.Identity(), nil }
}

var anywhere = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}

func TestNamesOfAnAgent(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		_, keys := w.secure(auth.Agent{Name: "node", Allow: anywhere, MaxNames: 2, Services: []string{"web"}})
		join := func(name, addr string) *peer {
			p := w.connectBy(proves(keys["node"]))
			p.send("REGISTER " + name + " " + addr)
			p.ask("SANE "+w.nonce(addr), "REGISTERED "+name)
			return p
		}
		first := join("node", "10.0.0.1")
		second := join("node-a", "10.0.0.1")
		third := w.connectBy(proves(keys["node"]))
		third.ask("REGISTER node-b 10.0.0.1", "INVALID agent node has 2 backends already")
		third.ask("REGISTER other 10.0.0.1", "INVALID it is agent node, which may register as node and")
		third.hangUp()
		third = w.connectBy(proves(keys["node"]))
		third.ask("REGISTER node 192.0.2.9", "INVALID data IP 192.0.2.9 is in none of the networks")
		third.ask("REGISTER node-c 10.0.0.1 services=dns", "INVALID agent node may not join service dns")
		if got := w.backend("node").Services; len(got) != 1 || got[0] != "web" {
			t.Errorf("it joins %v, want the services that it may", got)
		}
		second.hangUp()
		third.ask("REGISTER node-b 10.0.0.1", "INVALID agent node has 2 backends already") // one of them is lost
		third.hangUp()
		first.hangUp()
	})
}

// Whoever has no key, or one that is not listed any more, is hung up on; a backend of
// an agent that proves one now waits for it.
func TestKeysFromNowOn(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "v=2")
		set, keys := w.secure(auth.Agent{Name: "web1", Allow: anywhere, MaxNames: 1})
		if _, err := p.ReadLine(); err == nil {
			t.Fatal("a session without a key goes on")
		}
		w.until("web1 lost")
		p = w.connectBy(proves(keys["web1"]))
		p.send("REGISTER web1 10.0.0.11 v=2")
		p.ask("SANE "+w.nonce("10.0.0.11"), "REGISTERED web1")
		w.until("web1 unhealthy")

		set.Known[0].Allow = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
		w.r.Update(set)
		p.expect("DEREGISTERED web1 data IP 10.0.0.11 is in none of the networks")
		w.until("")
		p.hangUp()

		p = w.connectBy(func(ctx context.Context) (*auth.Identity, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		began := time.Now()
		if _, err := p.ReadLine(); err == nil {
			t.Error("a peer that proves nothing is served")
		}
		within(t, "hung up", time.Since(began), 0, DefaultLimits.Handshake+time.Second)
	})
}

// Without keys a peer has the address that it comes from, or one that is allowed, and
// each data IP is one backend's.
func TestWithoutKeys(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		set := testSettings()
		set.Allow = anywhere
		w.r.Update(set)
		p := w.join("web1", "10.0.0.11", "v=2")
		q := w.connect()
		q.ask("REGISTER web2 192.0.2.1", "INVALID data IP 192.0.2.1 is not the address that the agent comes from, 127.0.0.1")
		q.ask("REGISTER web2 10.0.0.11", "INVALID data IP 10.0.0.11 is that of backend web1 already")
		q.send("REGISTER web2 127.0.0.1")
		q.ask("SANE "+w.nonce("127.0.0.1"), "REGISTERED web2")
		set.Allow = nil
		w.r.Update(set)
		p.expect("DEREGISTERED web1 data IP 10.0.0.11 is not the address")
		w.until("web2 active")
		p.hangUp()
		q.hangUp()
	})
}

// What an agent may have becomes less: between its REGISTER and its SANE, and while it
// has it.
func TestLessIsAllowed(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		set, keys := w.secure(auth.Agent{Name: "node", Allow: anywhere, MaxNames: 3, MaxWeight: 9})
		less := func(change func(*auth.Agent)) {
			next := set
			next.Known = []auth.Agent{set.Known[0]}
			change(&next.Known[0])
			w.r.Update(next)
		}
		p := w.connectBy(proves(keys["node"]))
		p.send("REGISTER node 10.0.0.1 weight=9")
		nonce := w.nonce("10.0.0.1")
		less(func(a *auth.Agent) { a.MaxWeight = 1 })
		p.ask("SANE "+nonce, "INVALID weight 9 is more than")
		p.hangUp()

		less(func(*auth.Agent) {})
		var all []*peer
		for _, name := range []string{"node", "node-a", "node-b"} {
			p := w.connectBy(proves(keys["node"]))
			p.send("REGISTER " + name + " 10.0.0.1 v=2")
			p.ask("SANE "+w.nonce("10.0.0.1"), "REGISTERED "+name)
			all = append(all, p)
		}
		less(func(a *auth.Agent) { a.MaxNames = 2 })
		all[2].expect("DEREGISTERED node-b agent node has 2 other backends")
		w.until("node unhealthy, node-a unhealthy")
		less(func(a *auth.Agent) { a.Services = []string{"web"} })
		all[0].expect("DEREGISTERED node agent node may not join every service")
		all[1].expect("DEREGISTERED node-a agent node may not join every service")
		w.until("")
		for _, p := range all {
			p.hangUp()
		}
	})
}
