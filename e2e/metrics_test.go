package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/caplance/caplance/e2e/cluster"
)

// Prometheus sees what the kernel does, too.
func TestMetrics(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Server: `metrics = "127.0.0.1:9338"`})
	for range 10 {
		_, err := httpGet(t, c, cluster.VIP4)
		must(t, err)
	}
	await(t, "the packets of ten requests", func() error {
		conn, err := c.LB.Dial(t.Context(), "tcp", "127.0.0.1:9338")
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := fmt.Fprint(conn, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		body, err := io.ReadAll(conn)
		var flows, packets int
		for line := range strings.Lines(string(body)) {
			var n float64
			if _, value, ok := strings.Cut(line, `service="web4"} `); ok {
				fmt.Sscan(value, &n)
			}
			switch {
			case strings.HasPrefix(line, "caplance_backend_flows_total"):
				flows += int(n)
			case strings.HasPrefix(line, "caplance_backend_packets_total"):
				packets += int(n)
			}
		}
		if err == nil && (flows != 10 || packets < 40) {
			err = fmt.Errorf("%d flows and %d packets in\n%s", flows, packets, body)
		}
		return err
	})
}
