package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/e2e/cluster"
)

// A service's flows are as patient as its timeouts say, and others' as those of
// [datapath.timeouts]; a reload changes that for flows that there are.
func TestServiceTimeouts(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2})
	must(t, c.WriteServerConfig(strings.Replace(c.ServerConfig(""), `name = "echo4"`, "name = \"echo4\"\ntimeouts.udp = \"1s\"", 1)))
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	for _, vip := range vips {
		pc := udpSocket(t, c, vip)
		for range 3 {
			_, _, err := udpAskFrom(pc, vip, []byte("x"))
			must(t, err)
		}
	}
	flows := func(service string) int {
		rows, err := c.Control().Flows(t.Context(), api.FlowFilter{Service: service})
		must(t, err)
		return len(rows)
	}
	if a, b := flows("echo4"), flows("echo6"); a != 1 || b != 1 {
		t.Fatalf("%d and %d flows", a, b)
	}
	gone := func(service string) {
		t.Helper()
		await(t, "the end of the flow of "+service, func() error {
			if n := flows(service); n != 0 {
				return fmt.Errorf("%d are left", n)
			}
			return nil
		})
	}
	gone("echo4")
	if n := flows("echo6"); n != 1 {
		t.Errorf("%d flows are left of the other service", n)
	}
	out, code := reloadWith(t, c, edit(`name = "echo6"`, "name = \"echo6\"\ntimeouts.udp = \"1s\""))
	if code != 0 || !strings.Contains(out, "timeouts.udp") {
		t.Fatal(out)
	}
	gone("echo6")
}
