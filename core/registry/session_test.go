package registry

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core"
)

func TestRefusals(t *testing.T) {
	long := strings.Repeat("x", 64)
	for _, tt := range []struct{ line, want string }{
		{"", "INVALID line is empty"},
		{"HELLO", `INVALID verb "HELLO" is unknown`},
		{"register web1 10.0.0.1", `INVALID verb "register" is unknown`},
		{"REGISTER web1", "INVALID REGISTER takes a name and a data IP"},
		{"REGISTER wéb 10.0.0.1", "INVALID name \"wéb\" is not 1 to 63 of"},
		{"REGISTER " + long + " 10.0.0.1", "INVALID name"},
		{"REGISTER web1 10.0.0.256", `INVALID data IP "10.0.0.256" is not a unicast IP address`},
		{"REGISTER web1 ff02::1", "INVALID data IP"},
		{"REGISTER web1 0.0.0.0", "INVALID data IP"},
		{"REGISTER web1 255.255.255.255", "INVALID data IP"},
		{"REGISTER web1 fe80::1%eth0", "INVALID data IP"},
		{"REGISTER web1 10.0.0.1 fast", `INVALID option "fast" is not key=value`},
		{"REGISTER web1 10.0.0.1 weight=65536", "INVALID weight"},
		{"REGISTER web1 10.0.0.1 weight=-1", "INVALID weight"},
		{"REGISTER web1 10.0.0.1 v=0", "INVALID v"},
		{"REGISTER web1 10.0.0.1 state=lost", "INVALID state"},
		{"REGISTER web1 10.0.0.1 services=", "INVALID name"},
		{"REGISTER web1 10.0.0.1 services=web,mail", "INVALID service mail is not configured (there are: web, dns)"},
		{"SANE", "INVALID SANE takes the nonce"},
		{"SANE 12", "INVALID SANE before REGISTER"},
		{"HEALTH", "INVALID HEALTH takes a code"},
		{"HEALTH ok", "INVALID code"},
		{"HEALTH 1000", "INVALID code"},
		{"HEALTH 200", "INVALID HEALTH before REGISTER and SANE"},
		{"PAUSE a b", "INVALID PAUSE takes no more than"},
		{"DEREGISTER", "INVALID DEREGISTER before"},
		{strings.Repeat("x", 512), "INVALID verb"},
		{strings.Repeat("x", 513), "INVALID line longer than allowed (512 bytes)"},
	} {
		t.Run(tt.line, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *testbed) {
				p := w.connect()
				defer p.Close()
				p.ask(tt.line, tt.want)
			})
		})
	}
}

func TestBinaryEndsTheSession(t *testing.T) {
	for _, raw := range []string{"\x00\x01\n", "REGISTER \xff\xfe\n", "REG\x1bISTER\n", "a\rb\n"} {
		bubble(t, func(t *testing.T, w *testbed) {
			p := w.connect()
			defer p.Close()
			go p.conn.Write([]byte(raw))
			p.expect("INVALID line is not UTF-8 text")
			if line, err := p.ReadLine(); err == nil {
				t.Errorf("after %q: got %q, want the end", raw, line)
			}
		})
	}
}

func TestLineWithoutEnd(t *testing.T) {
	for _, b := range []string{"x", "\r"} {
		bubble(t, func(t *testing.T, w *testbed) {
			p := w.connect()
			defer p.Close()
			go p.conn.Write([]byte(strings.Repeat(b, 10<<20)))
			p.expect("INVALID line longer than allowed (512 bytes)")
			if line, err := p.ReadLine(); err == nil {
				t.Errorf("got %q, want the end", line)
			}
		})
	}
}

func TestThreeInvalidInARow(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "")
		p.ask("X", "INVALID")
		p.ask("X", "INVALID")
		p.conn.Write([]byte("HEALTH 200\r\n"))
		p.expect("HEALTHACK 200")
		for range 3 {
			p.ask("X", "INVALID")
		}
		if line, err := p.ReadLine(); err == nil {
			t.Errorf("got %q, want the end", line)
		}
		if got := w.seen(); got != "web1 lost" {
			t.Errorf("pool is %q", got)
		}
	})
}

func TestRegisterOptions(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "shape=b services=dns,web weight=7 color= max_flows=9 priority=2 zone=3 label=4")
		defer p.Close()
		p.ask("HEALTH 200 load=0.3 temp=high", "HEALTHACK 200")
		b := w.backend("web1")
		if b.Weight != 7 || strings.Join(b.Services, " ") != "dns web" || b.Vitals.Load() != 3 || b.State != core.Active {
			t.Errorf("backend %+v", b)
		}
		if b.MaxFlows != 9 || b.Priority != 2 || b.Zone != 3 || b.Label != 4 {
			t.Errorf("backend %+v", b)
		}
		q := w.join("web2", "2001:db8::2", "")
		defer q.Close()
		if b := w.backend("web2"); b.Weight != 1 || b.Services != nil {
			t.Errorf("backend %+v", b)
		}
	})
}

func TestNamesAreUnique(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		late := w.connect() // both are told to prove themselves, one is first
		defer late.Close()
		late.send("REGISTER web1 10.0.0.12")
		nonce := w.nonce("10.0.0.12")
		p := w.join("web1", "10.0.0.11", "")
		defer p.Close()
		late.ask("SANE "+nonce, "INVALID name web1 is held by the session of 127.0.0.1:9 for 10.0.0.11")
		late.ask("REGISTER web1 10.0.0.11", "INVALID name web1 is held by the session of")
		p.ask("REGISTER web3 10.0.0.13", "INVALID session is registered as web1 already")
		p.ask("PAUSE web3", "INVALID name web3 is not this session's (web1)")
		if got := w.seen(); got != "web1 active" {
			t.Errorf("pool is %q", got)
		}
	})
}

func TestSanityIsResentAndAnsweredOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		w.dead.Store(true) // the first datagram meets an unresolved neighbour
		p := w.connect()
		defer p.Close()
		p.send("REGISTER web1 10.0.0.11")
		w.dead.Store(false)
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		sane := "SANE " + w.nonce("10.0.0.11")
		if len(w.datagrams) != 2 {
			t.Errorf("%d datagrams in 2.5 s, the first one lost: %q", len(w.datagrams), w.datagrams)
		}
		p.ask(sane, "REGISTERED web1 10.0.0.11")
		p.ask(sane, "REGISTERED web1 10.0.0.11") // the agent had it twice
		time.Sleep(5 * time.Second)
		if len(w.datagrams) != 2 {
			t.Errorf("datagrams after SANE: %q", w.datagrams)
		}
		p.ask("HEALTH 200", "HEALTHACK 200")
	})
}

func TestRegisterAgainBeforeSane(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.connect()
		defer p.Close()
		p.send("REGISTER web1 10.0.0.11")
		stale := w.nonce("10.0.0.11")
		p.send("REGISTER web2 10.0.0.12")
		p.ask("SANE "+stale, "INVALID nonce")
		time.Sleep(resend) // the pace of the datagrams
		synctest.Wait()
		p.ask("SANE "+w.nonce("10.0.0.12"), "REGISTERED web2 10.0.0.12")
	})
}

func TestHealthAckCarriesWhatChanged(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p, old := w.join("web1", "10.0.0.11", "v=2"), w.join("web2", "10.0.0.12", "")
		defer p.Close()
		defer old.Close()
		for _, tt := range [][2]string{
			{"", ""},
			{"vips=192.0.2.1", " vips=192.0.2.1"},
			{"", ""}, // once
			{"mtu=1500 mode=direct", " mtu=1500 mode=direct"},
			{"vips= mode=tunnel", " vips= mode=tunnel"},
			{"vips=192.0.2.7 balancers=10.0.0.2,10.0.0.3", " vips=192.0.2.7 balancers=10.0.0.2,10.0.0.3"},
			{"balancers=", " balancers="},
		} {
			w.setOffer(tt[0])
			p.WriteLine("HEALTH 200")
			if got, err := p.ReadLine(); err != nil || got != "HEALTHACK 200 state=active active=0"+tt[1] {
				t.Errorf("after %q: %q, %v", tt[0], got, err)
			}
			old.WriteLine("HEALTH 200")
			if got, err := old.ReadLine(); err != nil || got != "HEALTHACK 200" {
				t.Errorf("first-generation agent after %q: %q, %v", tt[0], got, err)
			}
		}
	})
}

func TestUpdate(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "v=2 weight=3 services=web")
		defer p.Close()
		p.ask("HEALTH 503", "HEALTHACK 200")
		before, datagrams := w.backend("web1"), len(w.datagrams)
		time.Sleep(time.Minute / 4)
		w.setOffer("vips=192.0.2.9")
		const choices = "v=2 weight=9 services=dns,web max_flows=5 priority=1 zone=2 label=3 mode=direct decap=kernel"
		p.ask("REGISTER web1 10.0.0.11 "+choices, "REGISTERED web1 10.0.0.11 vips=192.0.2.9 mtu=1472 balancers=10.0.0.1 lease=3000 update=yes")
		b := w.backend("web1")
		if !b.Since.Equal(before.Since) || b.State != core.Unhealthy || len(w.datagrams) != datagrams {
			t.Errorf("became %+v, it was %+v; %d datagrams", b, before, len(w.datagrams)-datagrams)
		}
		if b.Weight != 9 || len(b.Services) != 2 || b.MaxFlows != 5 || b.Priority != 1 || b.Zone != 2 || b.Label != 3 || b.Mode != core.ModeDirect || !b.KernelDecap {
			t.Errorf("became %+v", b)
		}
		calls := w.calls
		p.ask("REGISTER web1 10.0.0.11 "+choices, "REGISTERED web1") // changes nothing
		if w.calls != calls {
			t.Errorf("%d calls of Apply", w.calls-calls)
		}
		p.ask("PAUSE", "PAUSED web1")
		p.ask("REGISTER web1 10.0.0.11 v=2", "REGISTERED web1")
		if b := w.backend("web1"); b.State != core.Paused || b.Weight != 1 || b.Services != nil {
			t.Errorf("became %+v", b)
		}
		p.ask("HEALTH 503", "HEALTHACK 200 state=paused active=0")
		for _, line := range []string{"web2 10.0.0.11 v=2", "web1 10.0.0.12 v=2", "web1 10.0.0.11"} {
			p.ask("REGISTER "+line, "INVALID session is registered as web1 already")
			p.ask("HEALTH 503", "HEALTHACK")
		}
		p.ask("REGISTER web1 10.0.0.11 v=2 weight=7 services=mail", "INVALID service mail is not configured")
		if b := w.backend("web1"); b.Weight != 1 {
			t.Errorf("a refused update made it %+v", b)
		}
		old := w.join("web2", "10.0.0.12", "")
		defer old.Close()
		old.ask("REGISTER web2 10.0.0.12 v=2", "INVALID session is registered as web2 already")
	})
}
