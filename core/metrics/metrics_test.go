package metrics

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/control"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type source struct{}

func (source) Backends() []control.BackendRow {
	return []control.BackendRow{{Service: "web", Name: "b1", State: core.Draining, Flows: 3, FlowsTotal: 12, Packets: 100, Bytes: 1 << 40}}
}

func (source) Services() []control.ServiceRow {
	return []control.ServiceRow{{Name: "web", Policy: "hash", Eligible: 2, Quarantined: true, Failures: 4, Picks: map[string]uint64{"policy": 7, "table": 5}}}
}

func (source) Stats() control.Stats {
	return control.Stats{Rung: "tc", Flows: 3, Capacity: 1024, Counters: map[string]uint64{"kernel_forwarded": 90},
		Queues: []control.QueueRow{{Queue: 1337, Packets: 8, Waiting: 1, QueueDrops: 2, SocketDrops: 3}}}
}

func TestSeries(t *testing.T) {
	w := httptest.NewRecorder()
	New("", source{}).handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	for _, want := range []string{
		`caplance_info{capture="",rung="tc",version=""} 1`, `caplance_flows 3`, `caplance_flows_capacity 1024`,
		`caplance_events_total{event="kernel_forwarded"} 90`, `caplance_queue_packets_total{queue="1337"} 8`,
		`caplance_queue_waiting{queue="1337"} 1`, `caplance_queue_dropped_total{queue="1337"} 5`,
		`caplance_picks_total{by="table",service="web"} 5`, `caplance_policy_quarantined{policy="hash",service="web"} 1`,
		`caplance_policy_failures_total{policy="hash",service="web"} 4`, `caplance_backends_eligible{service="web"} 2`,
		`caplance_backend_state{backend="b1",service="web",state="draining"} 1`, `caplance_backend_flows{backend="b1",service="web"} 3`,
		`caplance_backend_flows_total{backend="b1",service="web"} 12`, `caplance_backend_bytes_total{backend="b1",service="web"} 1.099511627776e+12`,
		"go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in\n%s", want, w.Body)
		}
	}
}

func TestRun(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := New(addr, source{}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "metrics: ") {
		t.Errorf("a port that is taken: %v", err)
	}
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(addr, source{}).Run(ctx) }()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var resp *http.Response
	for range 1000 {
		if resp, err = client.Get(fmt.Sprintf("http://%s/metrics", addr)); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), "caplance_flows 3") {
		t.Errorf("%s %v", body, err)
	}
	resp.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
