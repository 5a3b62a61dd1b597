package registry

import (
	"testing"
	"testing/synctest"
)

// Kick removes a backend and hangs up; it may register again at once. HEALTHACK
// tells of orders while there are some.
func TestOperator(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		orders := ""
		w.r.cfg.Admin = func(backend string) string { return map[string]string{"web1": orders}[backend] }
		p, old := w.join("web1", "10.0.0.11", "v=2"), w.join("web2", "10.0.0.12", "v=1")
		defer old.Close()
		orders = "drain,weight:5@web"
		p.ask("HEALTH 200", "HEALTHACK 200 state=active active=0 admin=drain,weight:5@web")
		old.ask("HEALTH 200", "HEALTHACK 200")
		orders = ""
		p.send("HEALTH 200")
		if line, err := p.ReadLine(); err != nil || line != "HEALTHACK 200 state=active active=0" {
			t.Errorf("%q, %v", line, err)
		}
		if w.r.Kick(w.ctx, "web3") {
			t.Error("kicked a backend that is not there")
		}
		if !w.r.Kick(w.ctx, "web1") {
			t.Error("not kicked")
		}
		synctest.Wait()
		p.expect("DEREGISTERED web1 ended by the balancer's operator")
		if _, err := p.ReadLine(); err == nil {
			t.Error("the session goes on")
		}
		if got := w.seen(); got != "web2 active" {
			t.Errorf("pool is %q", got)
		}
		again := w.join("web1", "10.0.0.11", "")
		defer again.Close()
		if got := w.seen(); got != "web1 active, web2 active" {
			t.Errorf("pool is %q", got)
		}
		again.hangUp() // lost, it can be kicked, too
		if !w.r.Kick(w.ctx, "web1") || w.seen() != "web2 active" {
			t.Errorf("pool is %q", w.seen())
		}
	})
}
