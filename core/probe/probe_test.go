package probe

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
)

var quiet = slog.New(slog.DiscardHandler)

// target is a service at a port of loopback.
func target(port uint16, protos ...uint8) Target {
	return Target{Service: "web", VIP: netip.MustParseAddr("127.0.0.1"), Ports: []core.PortRange{{First: port, Last: port}}, Protos: protos}
}

// once returns the result of one check, "" if it is well.
func once(t *testing.T, s Spec, to Target) string {
	t.Helper()
	r := New(quiet)
	defer r.asker.close()
	limit := slow.Time(cmp.Or(s.Timeout, 2*time.Second)) // a check that hangs has a short one
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	s.Timeout = limit
	err := r.check(ctx, &job{spec: s, target: to})
	if err == nil {
		return ""
	}
	return reason(err)
}

func wants(t *testing.T, got, want string) {
	t.Helper()
	if (want == "") != (got == "") || !strings.Contains(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Who listens is seen whether it is bound to the address or to any, of either family.
func TestListen(t *testing.T) {
	nettest.NetNS(t)
	for _, tt := range []struct {
		network, bind, at string
		want              string
	}{
		{"tcp", "127.0.0.1:80", "127.0.0.1:80", ""},
		{"tcp4", "0.0.0.0:80", "127.0.0.1:80", ""},
		{"tcp", "[::]:80", "127.0.0.1:80", ""},
		{"tcp", "[::]:80", "[::1]:80", ""},
		{"tcp6", "[::]:80", "127.0.0.1:80", "nothing listens at 127.0.0.1:80/tcp"},
		{"tcp", "127.0.0.2:80", "127.0.0.1:80", "nothing listens"},
		{"tcp", "127.0.0.1:81", "127.0.0.1:80", "nothing listens"},
		{"udp", "127.0.0.1:53", "127.0.0.1:53", ""},
		{"udp4", "0.0.0.0:53", "127.0.0.1:53", ""},
		{"udp", "[::]:53", "127.0.0.1:53", ""},
		{"udp", "[::]:53", "[::1]:53", ""},
		{"udp", "127.0.0.2:53", "127.0.0.1:53", "nothing listens at 127.0.0.1:53/udp"},
		{"udp", "127.0.0.1:53", "[::1]:53", "nothing listens"},
	} {
		t.Run(tt.network+" "+tt.bind+" "+tt.at, func(t *testing.T) {
			proto := uint8(core.ProtoTCP)
			if strings.HasPrefix(tt.network, "udp") {
				proto = core.ProtoUDP
				c, err := net.ListenPacket(tt.network, tt.bind)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
			} else {
				l, err := net.Listen(tt.network, tt.bind)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
			}
			at := netip.MustParseAddrPort(tt.at)
			to := target(at.Port(), proto)
			to.VIP = at.Addr()
			wants(t, once(t, Spec{Kind: Listen}, to), tt.want)
		})
	}
}

// A service is there if one of its protocols and ports is.
func TestListenBoth(t *testing.T) {
	nettest.NetNS(t)
	l, err := net.Listen("tcp", "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := target(80, core.ProtoTCP, core.ProtoUDP)
	wants(t, once(t, Spec{Kind: Listen}, to), "")
	to.Ports = append(to.Ports, core.PortRange{First: 443, Last: 443})
	wants(t, once(t, Spec{Kind: Listen}, to), "")
	l.Close()
	wants(t, once(t, Spec{Kind: Listen}, to), "nothing listens at 127.0.0.1:80/tcp, 127.0.0.1:80/udp, 127.0.0.1:443/tcp, 127.0.0.1:443/udp")
}

// A service of all ports has nothing to look at.
func TestAllPorts(t *testing.T) {
	to := target(80)
	to.Ports = []core.PortRange{core.AllPorts}
	for _, kind := range []Kind{Listen, TCP, HTTP, DNS, UDP} {
		wants(t, once(t, Spec{Kind: kind, Query: "x"}, to), "cannot tell")
	}
}

func TestHTTPAndTCP(t *testing.T) {
	page := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ill":
			w.WriteHeader(503)
		case "/moved":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/slow":
			<-r.Context().Done()
		default:
			fmt.Fprintf(w, "well, %s", r.Host)
		}
	}
	plain, secure := httptest.NewServer(http.HandlerFunc(page)), httptest.NewTLSServer(http.HandlerFunc(page))
	defer plain.Close()
	defer secure.Close()
	port := func(s *httptest.Server) Target { return target(uint16(s.Listener.Addr().(*net.TCPAddr).Port)) }
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := target(uint16(closed.Addr().(*net.TCPAddr).Port))
	closed.Close()
	ok := Status{200, 299}
	for _, tt := range []struct {
		spec Spec
		at   Target
		want string
	}{
		{Spec{Kind: TCP}, port(plain), ""},
		{Spec{Kind: TCP}, nobody, "connection refused"},
		{Spec{Kind: HTTP, Path: "/", Status: ok}, port(plain), ""},
		{Spec{Kind: HTTP, Path: "/", Status: ok}, nobody, "connection refused"},
		{Spec{Kind: HTTP, Path: "/ill", Status: ok}, port(plain), "/ill answers 503"},
		{Spec{Kind: HTTP, Path: "/ill", Status: Status{200, 503}}, port(plain), ""},
		{Spec{Kind: HTTP, Path: "/moved", Status: ok}, port(plain), "/moved answers 302"},
		{Spec{Kind: HTTP, Path: "/", Status: ok, Host: "shop", Body: "well, shop"}, port(plain), ""},
		{Spec{Kind: HTTP, Path: "/", Status: ok, Body: "well, shop"}, port(plain), "answers without"},
		{Spec{Kind: HTTP, Path: "/slow", Status: ok, Timeout: 200 * time.Millisecond}, port(plain), "context deadline"},
		{Spec{Kind: HTTPS, Path: "/", Status: ok}, port(secure), ""},
		{Spec{Kind: HTTPS, Path: "/", Status: ok, VerifyServer: true}, port(secure), "x509"},
		{Spec{Kind: HTTPS, Path: "/", Status: ok}, port(plain), "TLS handshake"},
		{Spec{Kind: HTTP, Path: "/", Status: ok, Address: plain.Listener.Addr().String()}, nobody, ""},
	} {
		t.Run(fmt.Sprint(tt.spec.Kind, tt.spec.Path, tt.want), func(t *testing.T) { wants(t, once(t, tt.spec, tt.at), tt.want) })
	}
}

// A script's exit code counts, its first line is the reason, and it dies with its
// children when it takes too long.
func TestScript(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ script, want string }{
		{"exit 0", ""},
		{"exit 3", "exit status 3"},
		{"echo the disk is full; echo more; exit 1", "exit status 1: the disk is full"},
		{"echo $CAPLANCE_SERVICE $CAPLANCE_VIP $CAPLANCE_ADDRESS; exit 1", "web 127.0.0.1 127.0.0.1:80"},
		{"printf '\\033[2J\\001evil'; exit 1", "[2J evil"},
		{"yes | head -c 10000000; exit 1", "y"},
		{"sleep 1000 & wait", "signal: killed"},
	} {
		t.Run(tt.script, func(t *testing.T) {
			file := filepath.Join(dir, "check")
			if err := os.WriteFile(file, []byte("#!/bin/sh\n"+tt.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			spec := Spec{Kind: Script, Command: []string{file}}
			if strings.HasPrefix(tt.want, "signal") {
				spec.Timeout = 200 * time.Millisecond
			}
			got := once(t, spec, target(80))
			wants(t, got, tt.want)
			if strings.ContainsFunc(got, func(r rune) bool { return r < ' ' }) || len(got) > maxReason+3 {
				t.Errorf("reason %q", got)
			}
		})
	}
	wants(t, once(t, Spec{Kind: Script, Command: []string{filepath.Join(dir, "nothing")}}, target(80)), "no such file")
}

func TestDNS(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	port := uint16(udp.LocalAddr().(*net.UDPAddr).Port)
	tcp, err := net.Listen("tcp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	answer := func(b []byte) []byte {
		var m dnsmessage.Message
		if m.Unpack(b) != nil {
			return nil
		}
		m.Response = true
		switch m.Questions[0].Name.String() {
		case "nothere.":
			m.RCode = dnsmessage.RCodeNameError
		case "confused.":
			m.ID++
		}
		out, _ := m.Pack()
		return out
	}
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			udp.WriteTo(answer(b[:n]), from)
		}
	}()
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			var length [2]byte
			io.ReadFull(c, length[:])
			b := make([]byte, int(length[1]))
			io.ReadFull(c, b)
			out := answer(b)
			c.Write(append([]byte{0, byte(len(out))}, out...))
			c.Close()
		}
	}()
	for _, proto := range []uint8{core.ProtoUDP, core.ProtoTCP} {
		for query, want := range map[string]string{"here": "", "nothere": "answer NameError", "confused.": "another question"} {
			wants(t, once(t, Spec{Kind: DNS, Query: query}, target(port, proto)), want)
		}
	}
}

// A datagram to a port that nobody has is refused; who has one need not answer.
func TestUDP(t *testing.T) {
	nettest.NetNS(t)
	silent, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	wants(t, once(t, Spec{Kind: UDP}, target(53, core.ProtoUDP)), "")
	silent.Close()
	wants(t, once(t, Spec{Kind: UDP}, target(53, core.ProtoUDP)), "connection refused")
}

// fake is a check whose result a test sets.
func fake(t *testing.T, rise, fall int) (Spec, func(ok bool)) {
	file := filepath.Join(t.TempDir(), "well")
	set := func(ok bool) {
		if ok {
			os.WriteFile(file, nil, 0o644)
		} else {
			os.Remove(file)
		}
	}
	return Spec{Kind: Script, Command: []string{"/bin/sh", "-c", "test -e " + file}, Interval: 10 * time.Millisecond, Timeout: slow.Time(5 * time.Second), Rise: rise, Fall: fall}, set
}

// Results count when there are enough in a row, the first one at once; what is new is
// down until then, and what is no longer wanted is forgotten.
func TestNote(t *testing.T) {
	r := New(quiet)
	r.Set([]Spec{{Kind: TCP, Rise: 2, Fall: 3, Interval: time.Second}}, []Target{target(80)})
	var j *job
	for _, j = range r.want {
	}
	down := func(want string) {
		t.Helper()
		if got := r.Down()["web"]; got != want {
			t.Errorf("down %q, want %q", got, want)
		}
	}
	ill := fmt.Errorf("ill")
	down("not checked yet")
	for _, step := range []struct {
		err  error
		want string
	}{
		{nil, ""}, {ill, ""}, {ill, ""}, {nil, ""}, {ill, ""}, {ill, ""}, {ill, "tcp: ill"}, {fmt.Errorf("worse"), "tcp: worse"},
		{nil, "tcp: worse"}, {ill, "tcp: ill"}, {nil, "tcp: ill"}, {nil, ""}, {errCannotTell, ""},
	} {
		r.note(j, step.err)
		down(step.want)
	}
	r.Set(nil, nil)
	down("")
}

// Another check of a service holds once it has a result; until then the service stays as
// it was.
func TestAnotherCheck(t *testing.T) {
	r := New(quiet)
	set := func(kind Kind) (j *job) {
		r.Set([]Spec{{Kind: kind, Rise: 1, Fall: 2, Interval: time.Second}}, []Target{target(80)})
		for _, j = range r.want {
		}
		return j
	}
	down := func(want string) {
		t.Helper()
		if got := r.Down()["web"]; got != want {
			t.Errorf("down %q, want %q", got, want)
		}
	}
	r.note(set(TCP), nil)
	j := set(HTTP)
	down("")
	r.note(j, fmt.Errorf("ill"))
	down("") // one is not enough
	r.note(j, fmt.Errorf("ill"))
	down("http: ill")
	j = set(DNS)
	down("http: ill")
	r.note(j, nil)
	down("")
}

// A service's own check takes the place of the one for all, which takes that of the
// default; several of one service must all succeed.
func TestJobs(t *testing.T) {
	web, dns := target(80), target(53)
	dns.Service = "dns"
	for _, tt := range []struct {
		specs []Spec
		want  string
	}{
		{nil, "dns listen, web listen"},
		{[]Spec{{Kind: TCP}}, "dns tcp, web tcp"},
		{[]Spec{{Kind: TCP}, {Kind: HTTP, Service: "web"}}, "dns tcp, web http"},
		{[]Spec{{Kind: None, Service: "dns"}}, "web listen"},
		{[]Spec{{Kind: None}, {Kind: HTTP, Service: "web"}, {Kind: TCP, Service: "web"}}, "web http, web tcp"},
		{[]Spec{{Kind: TCP, Service: Whole, Address: "127.0.0.1:80"}}, "* tcp, dns listen, web listen"},
	} {
		var got []string
		for _, j := range jobsFor(tt.specs, []Target{web, dns}) {
			got = append(got, j.service+" "+string(j.spec.Kind))
		}
		slices.Sort(got)
		if s := strings.Join(got, ", "); s != tt.want {
			t.Errorf("%v: %s, want %s", tt.specs, s, tt.want)
		}
	}
}

// The runner follows Set and the results, and ends with its context.
func TestRun(t *testing.T) {
	nettest.NetNS(t)
	spec, set := fake(t, 1, 1)
	r := New(quiet)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	r.Set([]Spec{spec}, []Target{target(80)})
	until := func(what string, ok func(why string, down bool) bool) {
		t.Helper()
		deadline := time.After(slow.Time(10 * time.Second))
		for {
			why, down := r.Down()["web"]
			if ok(why, down) {
				return
			}
			select {
			case <-r.Changed():
			case <-deadline:
				t.Fatalf("not %s: %q", what, why)
			}
		}
	}
	until("down", func(why string, down bool) bool { return strings.Contains(why, "exit status 1") })
	set(true)
	until("up", func(_ string, down bool) bool { return !down })
	set(false)
	until("down again", func(_ string, down bool) bool { return down })
	r.Set([]Spec{{Kind: None}}, []Target{target(80)})
	until("not checked", func(_ string, down bool) bool { return !down })
	cancel()
	if err := <-done; err != nil || len(r.jobs) != 0 {
		t.Errorf("%v, %d jobs left", err, len(r.jobs))
	}
}

// A check that hangs says so at its timeout, and again at its interval.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(quiet)
		ctx, cancel := context.WithCancel(t.Context())
		j := &job{spec: Spec{Kind: Kind("hangs"), Timeout: time.Second, Interval: time.Minute, Rise: 1, Fall: 1}, service: "web"}
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		go r.keepWith(ctx, j, hang)
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		r.mu.Lock()
		if !j.known || j.up || j.why != "hangs: no answer within 1s" {
			t.Errorf("%+v", j)
		}
		r.mu.Unlock()
		cancel()
		synctest.Wait()
	})
}
