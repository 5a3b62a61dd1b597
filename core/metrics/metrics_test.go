package metrics

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ask returns what a server answers, that runs or does not.
func ask(t *testing.T, src source, running bool, path string) (code int, body string) {
	t.Helper()
	s := New(src)
	s.running.Store(running)
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
	return w.Code, w.Body.String()
}

func TestSeries(t *testing.T) {
	_, body := ask(t, source{}, true, "/metrics")
	for _, want := range []string{
		`caplance_info{capture="queue",datapath="tc",version="v1"} 1`, `caplance_flows 3`, `caplance_flows_capacity 1024`, `caplance_healthy 1`, `caplance_warnings 1`,
		`caplance_state_revision 12`, `caplance_target_up{target="ruleset"} 1`, `caplance_target_up{target="fastpath"} 0`,
		`caplance_target_drifts_total{target="ruleset"} 2`, `caplance_target_retries{target="fastpath"} 3`, `caplance_target_revision{target="fastpath"} 11`,
		`caplance_events_total{event="kernel_forwarded"} 90`, `caplance_worker_forwarded_bytes_total 77`, `caplance_queue_packets_total{queue="1337"} 8`,
		`caplance_queue_batches_total{queue="1337"} 4`, `caplance_queue_waiting{queue="1337"} 1`, `caplance_queue_capacity{queue="1337"} 8192`,
		`caplance_queue_dropped_total{at="queue",queue="1337"} 2`, `caplance_queue_dropped_total{at="socket",queue="1337"} 3`,
		`caplance_bpf_map_entries{map="flows"} 5`, `caplance_bpf_map_max_entries{map="flows"} 1024`,
		`caplance_collection_duration_seconds_bucket{le="0.001"} 2`, `caplance_collection_duration_seconds_bucket{le="+Inf"} 3`, `caplance_collection_duration_seconds_sum 0.5`,
		`caplance_collection_timestamp_seconds 4.0000000005e+09`,
		`caplance_picks_total{by="table",service="web"} 5`, `caplance_policy_quarantined{service="web"} 1`, `caplance_policy_info{policy="hash",service="web"} 1`,
		`caplance_policy_failures_total{cause="trap",service="web"} 3`, `caplance_backends_eligible{service="web"} 2`, `caplance_service_backends{service="web"} 3`,
		`caplance_service_flows{service="web"} 7`, `caplance_refused_packets_total{service="web",why="denied"} 8`, `caplance_refused_packets_total{service="web",why="limited"} 9`,
		`caplance_pick_duration_seconds_bucket{service="web",le="1e-06"} 3`, `caplance_pick_duration_seconds_count{service="web"} 4`,
		`caplance_policy_no_choice_total{service="web"} 6`, `caplance_policy_replaced_total{service="web"} 2`, `caplance_policy_shadow_agreement_ratio{service="web"} 0.25`,
		`caplance_policy_table_build_duration_seconds{service="web"} 0.25`, `caplance_policy_table_disruption_ratio{service="web"} 0.125`, `caplance_policy_table_failing{service="web"} 0`,
		`caplance_backend_state{backend="b1",service="web",state="draining"} 1`, `caplance_backend_flows{backend="b1",service="web"} 3`,
		`caplance_backend_flows_total{backend="b1",service="web"} 12`, `caplance_backend_bytes_total{backend="b1",service="web"} 1.099511627776e+12`,
		`caplance_backend_admin{backend="b1",order="drain",service="web"} 1`, `caplance_backend_weight{backend="b1",service="web"} 5`,
		`caplance_backend_admin{backend="b9",order="disable",service=""} 1`, `caplance_backend_state{backend="b9",service="",state="absent"} 1`,
		`caplance_backend_load_ratio{backend="b1",service="web"} 0.125`, `caplance_backend_path_rtt_seconds{backend="b1",service="web"} 0.002`,
		`caplance_backend_check_up{backend="b1",service="web"} 1`, `caplance_backend_check_up{backend="b3",service="web"} 0`,
		`caplance_backend_state{backend="b2",service="web",state="missing"} 1`, `caplance_backend_state{backend="b4",service="web",state="disabled"} 1`,
		`caplance_certificate_expiry_timestamp_seconds{file="/c.pem",fingerprint="01234567",kind="own"} 1e+09`,
		`caplance_certificate_expiry_timestamp_seconds{file="/ca.pem",fingerprint="89abcdef",kind="authority"} 2e+09`,
		`caplance_session_expiry_timestamp_seconds{backend="b1"} 3e+09`, `caplance_lease_duration_seconds{backend="b1"} 4`, `caplance_lease_age_seconds{backend="b1"} 60.`,
		"go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	for _, never := range []string{"free text", "refused\"", "unreachable executed", `_total{backend="b2"`, `_total{backend="b4"`} {
		if strings.Contains(body, never) {
			t.Errorf("%s is in\n%s", never, body)
		}
	}
}

// What is gone has no series any more.
func TestGoneSeries(t *testing.T) {
	_, body := ask(t, source{gone: true}, true, "/metrics")
	for _, never := range []string{`service="`, `backend="`} {
		if strings.Contains(body, never) {
			t.Errorf("%s is in\n%s", never, body)
		}
	}
}

func TestProbes(t *testing.T) {
	for _, tt := range []struct {
		path    string
		src     source
		running bool
		code    int
		body    string
	}{
		{"/healthz", source{}, true, 200, "the loops run\n"},
		{"/healthz", source{stuck: []string{"nobody"}}, false, 200, "the balancer is starting or stopping\n"},
		{"/healthz", source{sick: []string{"no backends"}}, true, 200, "the loops run\n"}, // a restart brings none
		{"/healthz", source{stuck: []string{"the worker of queue 1 has been silent for 11s", "so has the loop"}}, true, 503, "the worker of queue 1 has been silent for 11s\nso has the loop\n"},
		{"/readyz", source{}, true, 200, "all is well: 1 services, 3 backends\n"},
		{"/readyz", source{}, false, 503, "the balancer is starting or stopping\n"},
		{"/readyz", source{sick: []string{"1 of 1 services have no backend that takes new flows", "service web has none"}}, true, 503, "1 of 1 services have no backend that takes new flows\nservice web has none\n"},
		{"/metrics", source{}, false, 503, "the balancer is starting or stopping\n"},
		{"/", source{}, true, 404, "404 page not found\n"},
	} {
		code, body := ask(t, tt.src, tt.running, tt.path)
		if code != tt.code || body != tt.body {
			t.Errorf("%s of %+v, running %t: %d %q, want %d %q", tt.path, tt.src, tt.running, code, body, tt.code, tt.body)
		}
	}
}

// Profiles are there while the settings want them, and no longer.
func TestProfiles(t *testing.T) {
	s := New(source{})
	defer s.Close()
	for _, on := range []bool{false, true, false} {
		if err := s.Listen(t.Context(), Settings{Pprof: on}); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"", "cmdline", "profile?seconds=1", "symbol", "trace?seconds=0.01", "heap", "goroutine?debug=2"} {
			if on && path == "profile?seconds=1" { // a test's own profile may be on
				continue
			}
			w := httptest.NewRecorder()
			s.http.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/pprof/"+path, http.NoBody))
			if got := w.Code == http.StatusOK; got != on || !on && w.Code != http.StatusNotFound {
				t.Errorf("/debug/pprof/%s is answered with %d while pprof is %t", path, w.Code, on)
			}
		}
	}
}

// The address changes while it is asked, one that is taken leaves the one
// before, and in the end nobody listens.
func TestListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	m := New(source{})
	get := func(addr string) error {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + addr + "/metrics")
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return errors.Join(err, resp.Body.Close())
	}
	var last string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		if err := errors.Join(l.Close(), m.Listen(t.Context(), Settings{Addr: addr, Connections: 4})); err != nil {
			t.Fatal(err)
		}
		if err := get(addr); err != nil {
			t.Error(err)
		}
		if last != "" && get(last) == nil {
			t.Error("the address before still answers")
		}
		last = addr
	}
	if err := m.Listen(t.Context(), Settings{Addr: taken.Addr().String(), Connections: 4}); err == nil || !strings.Contains(err.Error(), "metrics: ") {
		t.Errorf("a taken address: %v", err)
	}
	if err := get(last); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
	if err := errors.Join(m.Listen(t.Context(), Settings{}), m.Close()); err != nil || get(last) == nil {
		t.Errorf("still answers: %v", err)
	}
}

// A listener that gave up before Close comes is no error: http.Server closes it
// once more if it had no time to notice.
func TestCloseAfterGivingUp(t *testing.T) {
	for range 200 {
		m := New(source{})
		if err := errors.Join(m.Listen(t.Context(), Settings{Addr: "127.0.0.1:0", Connections: 1}), m.Listen(t.Context(), Settings{}), m.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// Connections beyond the limit are hung up on and counted, and one that ends makes
// room.
func TestLimit(t *testing.T) {
	m := New(source{})
	if err := m.Listen(t.Context(), Settings{Addr: "127.0.0.1:0", Connections: 2}); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	open := func() net.Conn {
		c, err := net.Dial("tcp", m.at.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	answered := func(c net.Conn) bool {
		if _, err := io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			return false
		}
		n, err := c.Read(make([]byte, 16))
		return err == nil && n == 16
	}
	first, second := open(), open()
	if !answered(first) || !answered(second) || m.Refused() != 0 {
		t.Fatalf("two have room; %d refused", m.Refused())
	}
	if answered(open()) || m.Refused() != 1 {
		t.Errorf("a third is answered; %d refused", m.Refused())
	}
	first.Close()
	for m.open.Load() == 2 {
		runtime.Gosched()
	}
	if !answered(open()) {
		t.Error("no room after one has ended")
	}
}
