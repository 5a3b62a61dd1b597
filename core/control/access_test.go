package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/nettest"
)

// childEnv has the sockets, balancer and agent, that a child process asks.
const childEnv = "CONTROL_TEST_SOCKETS"

// child asks and orders at both sockets, and prints what it heard, a line each.
func child(sockets string) {
	server, agent, _ := strings.Cut(sockets, " ")
	ctx := context.Background()
	say := func(err error) { fmt.Println(err) }
	_, err := Dial(server).Stats(ctx)
	say(err)
	_, err = Dial(server).Steer(ctx, api.AdminOrder{Verb: "drain", Backend: "b1"})
	say(err)
	say(Dial(server).Record(ctx, "web", 1, io.Discard))
	_, err = AskAgent(ctx, agent, GetState, "")
	say(err)
	_, err = AskAgent(ctx, agent, Pause, "")
	say(err)
	_, err = AgentWeight(ctx, agent, "", 5)
	say(err)
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// steering accepts every order.
type steering struct{}

func (steering) Order(_ context.Context, o api.AdminOrder, by api.Caller) ([]api.AdminRow, error) {
	return []api.AdminRow{{Backend: o.Backend, UID: by.UID, User: by.User}}, nil
}

const (
	opsGID = 61001
	monGID = 61002
)

// Real processes of several users ask and order, at a socket for two groups, one or
// none.
func TestWhoMayCall(t *testing.T) {
	nettest.Root(t) // others cannot become others
	ops, mon := &Group{"ops", opsGID}, &Group{"61002", monGID}
	const ask, give = "may not ask here: that takes root, or a group that control_group or control_read_group names", "may not give orders here: that takes root, or the group that control_group names"
	for _, tt := range []struct {
		name   string
		access Access
		mode   os.FileMode
		gid    uint32
		uid    uint32
		group  uint32
		more   []uint32 // supplementary groups
		want   [2]string
	}{
		{"root", Access{}, 0o600, 0, 0, 0, nil, [2]string{}},
		{"nobody without groups", Access{}, 0o600, 0, 61000, 61000, nil, [2]string{"your user may not open it", "your user may not open it"}},
		{"operator", Access{Group: ops}, 0o660, opsGID, 61000, opsGID, nil, [2]string{}},
		{"operator by a second group", Access{Group: ops, Read: mon}, 0o666, 0, 61000, 61000, []uint32{61009, opsGID}, [2]string{}},
		{"reader", Access{Group: ops, Read: mon}, 0o666, 0, 61000, monGID, nil, [2]string{"", give + ` (control_group is "ops")`}},
		{"reader alone", Access{Read: mon}, 0o660, monGID, 61000, 61000, []uint32{monGID}, [2]string{"", give + " (control_group names none)"}},
		{"root's group is not root", Access{Read: mon}, 0o660, monGID, 61000, 0, []uint32{monGID}, [2]string{"", give}},
		{"stranger", Access{Group: ops, Read: mon}, 0o666, 0, 61000, 61000, nil, [2]string{`user 61000 (uid 61000) ` + ask + ` (control_group is "ops"; control_read_group is "61002")`, give}},
		{"stranger at a group's", Access{Group: ops}, 0o660, opsGID, 61000, 61000, nil, [2]string{"your user may not open it", "your user may not open it"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "control")
			if err == nil {
				err = os.Chmod(dir, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			log := &logBuffer{}
			o := Options{Path: filepath.Join(dir, "s.sock"), Access: tt.access, Log: slog.New(slog.NewTextHandler(log, nil))}
			s := NewServer(o, new(fakeSource), new(fakePolicies), new(fakeOrders))
			s.OfferRecordings(recorder{})
			s.OfferSteering(steering{})
			serve(t, s.Run, s.Ready())
			o.Path = filepath.Join(dir, "a.sock")
			a := NewAgentServer(o, "b1", func(context.Context, Op) (string, error) { return "Active", nil })
			a.OfferWeight(func(context.Context, uint32) (string, error) { return "Active", nil })
			serve(t, a.Run, a.Ready())
			info, err := os.Stat(o.Path)
			if err != nil || info.Mode().Perm() != tt.mode || info.Sys().(*syscall.Stat_t).Gid != tt.gid {
				t.Errorf("the socket is %v of group %d, %v", info.Mode(), info.Sys().(*syscall.Stat_t).Gid, err)
			}
			cmd := exec.Command("/proc/self/exe", "-test.run=NONE")
			cmd.Env = append(os.Environ(), childEnv+"="+filepath.Join(dir, "s.sock")+" "+o.Path)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tt.uid, Gid: tt.group, Groups: tt.more}}
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if len(lines) != 6 {
				t.Fatalf("%q", lines)
			}
			for i, order := range []bool{false, true, true, false, true, true} {
				want := tt.want[0]
				if order {
					want = tt.want[1]
				}
				if want == "" && lines[i] != "<nil>" || !strings.Contains(lines[i], want) {
					t.Errorf("line %d: %s, want %q", i, lines[i], want)
				}
			}
			audits, denied := strings.Count(log.String(), "msg=order "), strings.Count(log.String(), "order refused: its user may not")
			switch {
			case tt.want[1] == "" && (audits != 4 || denied != 0):
				t.Errorf("%d audit lines, %d refusals:\n%s", audits, denied, log)
			case strings.Contains(tt.want[1], "give orders") && (audits != 0 || denied == 0):
				t.Errorf("%d audit lines, %d refusals:\n%s", audits, denied, log)
			case tt.want[1] == "" && !strings.Contains(log.String(), fmt.Sprintf(`uid=%d user=`, tt.uid)),
				tt.want[1] == "" && !strings.Contains(log.String(), fmt.Sprintf(`pid=%d command="/proc/self/exe -test.run=NONE"`, cmd.Process.Pid)),
				tt.want[1] == "" && !strings.Contains(log.String(), `order="backends/order {\"verb\":\"drain\",\"backend\":\"b1\"}" result=done`):
				t.Errorf("audit:\n%s", log)
			}
		})
	}
}

// Orders that fail are in the log with why.
func TestAuditOfFailures(t *testing.T) {
	log := &logBuffer{}
	path := filepath.Join(t.TempDir(), "s.sock")
	s := NewServer(Options{Path: path, Log: slog.New(slog.NewTextHandler(log, nil))}, new(fakeSource), new(fakePolicies), failing{})
	serve(t, s.Run, s.Ready())
	for _, dry := range []bool{true, false} {
		if _, err := Dial(path).Reload(t.Context(), dry); err == nil {
			t.Error("reloaded")
		}
	}
	if _, err := Dial(path).Handover(t.Context()); err == nil {
		t.Error("handed over")
	}
	if got := log.String(); strings.Count(got, "msg=order") != 2 || !strings.Contains(got, `order=reload? result="no reload"`) || !strings.Contains(got, `order=handover result="no handover"`) {
		t.Error(got)
	}
}

type failing struct{}

func (failing) Reload(context.Context, bool) ([]api.ChangeRow, error) {
	return nil, errors.New("no reload")
}

func (failing) Handover(context.Context) (api.HandoverReport, func(), error) {
	return api.HandoverReport{}, nil, errors.New("no handover")
}

// Only so many clients are connected; who finds no room is told, and counted. Room
// that is left is used again.
func TestClientsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	s := NewServer(Options{Path: path, Clients: 2}, new(fakeSource), new(fakePolicies), new(fakeOrders))
	serve(t, s.Run, s.Ready())
	var open []net.Conn
	for range 2 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if _, err := Dial(path).Stats(t.Context()); err == nil || !strings.Contains(err.Error(), "control_clients") || s.Refused() != 1 {
		t.Errorf("%v, %d refused", err, s.Refused())
	}
	for _, c := range open {
		c.Close()
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		if _, err := Dial(path).Stats(t.Context()); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// Those who may only ask leave room for orders, and strangers do not take any.
func TestRoomByLevel(t *testing.T) {
	l := &limiter{most: 4}
	for _, want := range []struct {
		level level
		room  bool
	}{
		{reader, true}, {reader, true}, {reader, false}, {nobody, true}, {operator, true}, {operator, true}, {operator, false},
		{nobody, true}, {nobody, true}, {nobody, true}, {nobody, false},
	} {
		if got := l.enter(want.level); got != want.room {
			t.Errorf("level %d: room %v, with %v", want.level, got, l.open)
		}
	}
	l.leave(operator)
	if l.enter(reader) || !l.enter(operator) {
		t.Errorf("after one left: %v", l.open)
	}
}

// Who asks nothing for too long, or does not take its answer, is hung up on.
func TestIdleClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		left := false
		c := &clientConn{Conn: here, gone: func() { left = true }}
		tracked := &trackedConn{c, &hijacked{conns: map[net.Conn]struct{}{}}}
		begin := time.Now()
		if _, err := tracked.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != idleTimeout {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		begin = time.Now()
		if _, err := tracked.Write(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != idleTimeout {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		if err := tracked.Close(); err != nil || !left {
			t.Errorf("%v, its room is free: %v", err, left)
		}
	})
}

// Who may do nothing does not fill the log.
func TestAuditIsBounded(t *testing.T) {
	log := &logBuffer{}
	a := &auditor{log: slog.New(slog.NewTextHandler(log, nil))}
	long := strings.Repeat("é", 1<<19)
	a.refused(caller{}, long)
	a.done(caller{}, long, nil)
	if got := log.String(); strings.Count(got, "order=") != 2 || len(got) > 2*(maxOrder+1000) || !utf8.ValidString(got) {
		t.Errorf("%d bytes of log", len(got))
	}
	log.buf.Reset()
	a.done(caller{}, "backends/order", nil)
	if !strings.Contains(log.String(), "order=backends/order result=done") {
		t.Errorf("log: %s", log)
	}
}
