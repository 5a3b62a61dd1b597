package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caplance/caplance/e2e/cluster"
)

// An agent joins by a token and nothing else: one command on each side. The token is
// used then, what has joined outlives the balancer's restart, and who is removed is
// out.
func TestJoin(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2})
	late := c.Backends[1]
	late.Keys = nil
	must(t, c.Rewrite())
	must(t, c.StartServer(t.Context()))
	must(t, c.Backends[0].StartAgent(t.Context()))
	must(t, c.AwaitActive(t.Context(), 1))

	key, file := filepath.Join(c.Dir, "joined.key"), filepath.Join(c.Dir, "joined.toml")
	join := func(token string) (string, error) {
		p, err := late.Start(filepath.Join(c.Bin, "caplance"), "join", "-key", key, "-c", file, token)
		must(t, err)
		<-p.Done()
		return p.Output(), p.Err()
	}
	create := func(more ...string) string {
		t.Helper()
		out, code := ctl(t, append([]string{"token", "create", "-name", "b2", "-address", "10.77.0.1", "-allow", "0.0.0.0/0,::/0", "-server", c.ServerSocket()}, more...)...)
		_, token, ok := strings.Cut(out, "caplance join ")
		if code != 0 || !ok {
			t.Fatalf("exit code %d: %s", code, out)
		}
		return strings.TrimSpace(token)
	}
	if out, code := ctl(t, "token", "create", "-name", "b1", "-address", "10.77.0.1", "-server", c.ServerSocket()); code != 1 || !strings.Contains(out, "agent b1 is in the balancer's configuration") {
		t.Errorf("a token for one that is listed: exit code %d: %s", code, out)
	}
	if out, code := ctl(t, "token", "create", "-name", "b2", "-server", c.ServerSocket()); code != 1 || !strings.Contains(out, "say at which address agents reach this balancer") {
		t.Errorf("no address: exit code %d: %s", code, out)
	}
	void := create()
	token := create() // takes the other's place
	if out, err := join(void); err == nil || !strings.Contains(out, "token is not known here") {
		t.Errorf("a token that another took the place of: %v, %s", err, out)
	}
	if out, err := join(token); err != nil || !strings.Contains(out, "knows this machine as b2 from now on") {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := join(token); err == nil || !strings.Contains(out, "no token is out") {
		t.Errorf("a second time: %v, %s", err, out)
	}
	written, err := os.ReadFile(file)
	must(t, err)
	if strings.Contains(string(written), token) {
		t.Error("the token is in the agent's file")
	}
	must(t, os.WriteFile(file, fmt.Appendf(written, "data_ip = %q\nstate_dir = %q\ncontrol = %q\ntype = %q\n",
		late.Data, filepath.Join(c.Dir, "b2"), late.Socket(), "auto"), 0o644))
	must(t, late.StartAgentWith(t.Context(), file))
	must(t, c.AwaitActive(t.Context(), 2))
	if out, code := ctl(t, "agents", "-server", c.ServerSocket()); code != 0 || !strings.Contains(out, "b2     joined") {
		t.Errorf("exit code %d: %s", code, out)
	}

	must(t, c.StopServer())
	must(t, c.StartServer(t.Context()))
	must(t, c.AwaitActive(t.Context(), 2))

	if out, code := ctl(t, "agent", "remove", "b2", "-server", c.ServerSocket()); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	must(t, c.AwaitActive(t.Context(), 1))
	await(t, "the agent to say why", func() error {
		if out := late.Agent.Output(); !strings.Contains(out, "does not know this agent's key") {
			return fmt.Errorf("it says %s", out)
		}
		return nil
	})
	if out, code := ctl(t, "events", "-server", c.ServerSocket()); code != 0 || !strings.Contains(out, "no [[agent]] of the balancer lists its key") || !strings.Contains(out, "agent removed") {
		t.Errorf("the balancer does not say who was refused: %s", out)
	}
	if out, code := ctl(t, "agent", "remove", "b2", "-server", c.ServerSocket()); code != 1 || !strings.Contains(out, "no agent") {
		t.Errorf("removed twice: exit code %d: %s", code, out)
	}
	token = create("-ttl", "1s")
	await(t, "the token's end", func() error {
		if out, _ := ctl(t, "agents", "-server", c.ServerSocket()); strings.Contains(out, "token, for") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	if out, err := join(token); err == nil || !strings.Contains(out, "no token is out") {
		t.Errorf("after its time: %v, %s", err, out)
	}
}
