package control

import (
	"errors"
	"net/rpc"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caplance/caplance/core/api"
)

func TestAgentStatus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	want := api.AgentStatus{State: "Active", Summary: "clamp failed", Targets: []api.TargetRow{
		{Name: "clamp", Revision: 7, Error: "no nftables", Since: time.Unix(1e9, 0).UTC(), Retries: 2, Drifts: 3},
	}}
	s := NewAgentServer(Options{Path: path}, "b1", nil)
	s.ShowStatus(func() api.AgentStatus { return want })
	serve(t, s.Run, s.Ready())
	got, err := AgentStatus(t.Context(), path)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	c, err := rpc.DialHTTP("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	other := "b2"
	if err := c.Call("Client.Status", &other, &got); err == nil || !strings.Contains(err.Error(), "not this agent's") {
		t.Errorf("status of another: %v", err)
	}
}

func TestStatusOfAnAgentWithoutIt(t *testing.T) {
	if _, err := AgentStatus(t.Context(), agent(t, nil)); err == nil || !strings.Contains(err.Error(), "no status") {
		t.Errorf("status: %v", err)
	}
	if _, err := AgentStatus(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil || errors.Is(err, rpc.ErrShutdown) {
		t.Errorf("status of nobody: %v", err)
	}
}
