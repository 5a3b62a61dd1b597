package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/caplance/caplance/core/nettest"
)

// binaries returns the directory of the built programs.
func binaries(t *testing.T) string {
	if dir := os.Getenv("CAPLANCE_BIN"); dir != "" {
		return dir
	}
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir, "../../cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return dir
}

// Every case at a small size: all agents become active, one more comes to all
// lookup tables, and half of them come back. There is no deadline.
func TestSmall(t *testing.T) {
	nettest.Root(t)
	bin := binaries(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c := c.small()
			r, err := measure(t.Context(), options{bin: bin}, c)
			if err != nil {
				t.Fatal(err)
			}
			if c.backends > 0 && (r.agents == 0 || r.again == 0 || r.kernel[1] <= r.kernel[0]) {
				t.Errorf("this proves nothing: %+v", r)
			}
			var out bytes.Buffer
			report(&out, []*result{r})
			if !strings.Contains(out.String(), c.name) {
				t.Errorf("report is %q", &out)
			}
		})
	}
}

// Each service has the same number of backends, and no backend one twice.
func TestShapes(t *testing.T) {
	for _, c := range append(cases, cases[0].small(), cases[1].small()) {
		count := map[string]int{}
		for i := range c.backends {
			mine := map[string]bool{}
			for _, s := range c.serves(i) {
				count[s]++
				mine[s] = true
			}
			if len(mine) != c.each {
				t.Errorf("case %s: backend %d serves %d services, want %d", c.name, i, len(mine), c.each)
			}
		}
		for s, n := range count {
			if n != c.members() {
				t.Errorf("case %s: service %s has %d backends, want %d", c.name, s, n, c.members())
			}
		}
	}
}
