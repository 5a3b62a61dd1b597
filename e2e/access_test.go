package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caplance/caplance/e2e/cluster"
)

// Users of the groups of control_group and control_read_group may order and ask,
// at the balancer and the agent; others are told why not. Orders are in the log.
func TestControlGroups(t *testing.T) {
	const groups = "control_group = \"61001\"\ncontrol_read_group = \"61002\"\n"
	c := prepare(t, cluster.Options{Backends: 1, Server: groups})
	b := c.Backends[0]
	b.Config = groups
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))

	// A place that others reach, with a caplancectl.
	dir, err := os.MkdirTemp("", "control")
	must(t, err)
	defer os.RemoveAll(dir)
	program, err := os.ReadFile(filepath.Join(bin, "caplancectl"))
	must(t, errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "caplancectl"), program, 0o755)))
	for d := c.Dir; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		must(t, os.Chmod(d, 0o755))
	}
	as := func(gid uint32, args ...string) (string, int) {
		cmd := exec.Command(filepath.Join(dir, "caplancectl"), args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 61000, Gid: gid}}
		cmd.Dir = "/"
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	for _, tt := range []struct {
		gid       uint32
		asks, may bool
	}{{61001, true, true}, {61002, true, false}, {61003, false, false}} {
		for _, q := range []struct {
			args []string
			ok   bool
			want string
		}{
			{[]string{"backends", "-server", c.ServerSocket()}, tt.asks, `may not ask here: that takes root, or a group that control_group or control_read_group names`},
			{[]string{"getstate", "-agent", b.Socket()}, tt.asks, `may not ask here`},
			{[]string{"drain", "b1", "-server", c.ServerSocket()}, tt.may, `may not give orders here: that takes root, or the group that control_group names (control_group is "61001")`},
			{[]string{"resume", "b1", "-server", c.ServerSocket()}, tt.may, `may not give orders here`},
			{[]string{"weight", "3", "-agent", b.Socket()}, tt.may, `may not give orders here`},
		} {
			out, code := as(tt.gid, q.args...)
			if q.ok != (code == 0) || !q.ok && !strings.Contains(out, q.want) {
				t.Errorf("group %d: %v: exit code %d: %s", tt.gid, q.args, code, out)
			}
		}
	}
	for _, want := range []string{`msg=order uid=61000 user=61000 pid=`, `caplancectl drain b1 -server`, `\"verb\":\"drain\"`, "order refused: its user may not"} {
		if !strings.Contains(c.Server.Output(), want) {
			t.Errorf("the balancer's log has no %s", want)
		}
	}
	if want := `order="Weight 3" result=done`; !strings.Contains(b.Agent.Output(), want) {
		t.Errorf("the agent's log has no %s", want)
	}
}
