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
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type source struct{}

var pressed = 12.5

func (source) Backends(api.BackendFilter) ([]api.BackendRow, error) {
	return []api.BackendRow{{Service: "web", Name: "b1", State: core.Draining, Flows: 3, FlowsTotal: 12, Packets: 100, Bytes: 1 << 40, Weight: 5, Load: &pressed, RTT: 0.002,
		Admin: []api.AdminRow{{Backend: "b1", Verb: "drain"}, {Backend: "b1", Service: "web", Verb: "drain"}}},
		{Service: "web", Name: "b2", State: core.Missing},
		{Name: "b9", State: core.Absent, Admin: []api.AdminRow{{Backend: "b9", Verb: "disable"}}}}, nil
}

func (source) Services() []api.ServiceRow {
	return []api.ServiceRow{{Name: "web", Policy: "hash", Eligible: 2, Quarantined: true, Failures: 4, Picks: map[string]uint64{"policy": 7, "table": 5}}}
}

func (source) Events(int) []api.EventRow { return nil }

func (source) Certificates() []api.CertificateRow {
	return []api.CertificateRow{{File: "/c.pem", Subject: "lb", Fingerprint: "01234567", Until: time.Unix(1e9, 0)}, {File: "/ca.pem", Subject: "ca", Fingerprint: "89abcdef", Authority: true, Until: time.Unix(2e9, 0)}}
}

func (source) Sessions() []api.AgentSession {
	ends := time.Unix(3e9, 0)
	return []api.AgentSession{{Backend: "b1", Expires: &ends}, {Backend: "b2"}}
}

func (source) Stats() api.Stats {
	return api.Stats{Datapath: api.Datapath{Type: core.TC}, Flows: 3, Capacity: 1024, Counters: map[string]uint64{"kernel_forwarded": 90},
		Queues: []api.QueueRow{{Queue: 1337, Packets: 8, Waiting: 1, QueueDrops: 2, SocketDrops: 3}}}
}

func TestSeries(t *testing.T) {
	w := httptest.NewRecorder()
	New(source{}).http.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	for _, want := range []string{
		`caplance_info{capture="",datapath="tc",version=""} 1`, `caplance_flows 3`, `caplance_flows_capacity 1024`,
		`caplance_events_total{event="kernel_forwarded"} 90`, `caplance_queue_packets_total{queue="1337"} 8`,
		`caplance_queue_waiting{queue="1337"} 1`, `caplance_queue_dropped_total{queue="1337"} 5`,
		`caplance_picks_total{by="table",service="web"} 5`, `caplance_policy_quarantined{policy="hash",service="web"} 1`,
		`caplance_policy_failures_total{policy="hash",service="web"} 4`, `caplance_backends_eligible{service="web"} 2`,
		`caplance_backend_state{backend="b1",service="web",state="draining"} 1`, `caplance_backend_flows{backend="b1",service="web"} 3`,
		`caplance_backend_flows_total{backend="b1",service="web"} 12`, `caplance_backend_bytes_total{backend="b1",service="web"} 1.099511627776e+12`,
		`caplance_backend_admin{backend="b1",order="drain",service="web"} 1`, `caplance_backend_weight{backend="b1",service="web"} 5`,
		`caplance_backend_admin{backend="b9",order="disable",service=""} 1`, `caplance_backend_state{backend="b9",service="",state="absent"} 1`,
		`caplance_backend_load{backend="b1",service="web"} 12.5`, `caplance_backend_path_rtt_seconds{backend="b1",service="web"} 0.002`,
		`caplance_backend_state{backend="b2",service="web",state="missing"} 1`,
		`caplance_certificate_expiry_timestamp_seconds{file="/c.pem",fingerprint="01234567",kind="own",subject="lb"} 1e+09`,
		`caplance_certificate_expiry_timestamp_seconds{file="/ca.pem",fingerprint="89abcdef",kind="authority",subject="ca"} 2e+09`,
		`caplance_session_expiry_timestamp_seconds{backend="b1"} 3e+09`,
		"go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in\n%s", want, w.Body)
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
	ask := func(addr string) error {
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
		if err := errors.Join(l.Close(), m.Listen(t.Context(), addr, 4)); err != nil {
			t.Fatal(err)
		}
		if err := ask(addr); err != nil {
			t.Error(err)
		}
		if last != "" && ask(last) == nil {
			t.Error("the address before still answers")
		}
		last = addr
	}
	if err := m.Listen(t.Context(), taken.Addr().String(), 4); err == nil || !strings.Contains(err.Error(), "metrics: ") {
		t.Errorf("a taken address: %v", err)
	}
	if err := ask(last); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
	if err := errors.Join(m.Listen(t.Context(), "", 4), m.Close()); err != nil || ask(last) == nil {
		t.Errorf("still answers: %v", err)
	}
}

// A listener that gave up before Close comes is no error: http.Server closes it
// once more if it had no time to notice.
func TestCloseAfterGivingUp(t *testing.T) {
	for range 200 {
		m := New(source{})
		if err := errors.Join(m.Listen(t.Context(), "127.0.0.1:0", 1), m.Listen(t.Context(), "", 1), m.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// Connections beyond the limit are hung up on and counted, and one that ends makes
// room.
func TestLimit(t *testing.T) {
	m := New(source{})
	if err := m.Listen(t.Context(), "127.0.0.1:0", 2); err != nil {
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
