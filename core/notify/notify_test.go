package notify

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// serviceManager returns the socket at which a service manager listens.
func serviceManager(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { manager.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return manager
}

func TestNotify(t *testing.T) {
	manager := serviceManager(t)
	buf := make([]byte, 100)
	for want, notify := range map[string]func() error{
		"READY=1": Ready, "STOPPING=1": Stopping, "RELOADING=1\nMONOTONIC_USEC=": Reloading,
	} {
		if err := notify(); err != nil {
			t.Fatal(err)
		}
		if n, err := manager.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), want) {
			t.Errorf("got %q, %v, want %q", buf[:n], err, want)
		}
	}
}

// The manager hears of a service while it is alive, and of no other process.
func TestWatchdog(t *testing.T) {
	manager := serviceManager(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	var hung atomic.Bool
	asked := make(chan bool)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- Watchdog(func(context.Context) error {
			asked <- hung.Load()
			if hung.Load() {
				return errors.New("hung")
			}
			return nil
		})(ctx)
	}()
	buf := make([]byte, 100)
	for range 3 {
		<-asked
		if n, err := manager.Read(buf); err != nil || string(buf[:n]) != "WATCHDOG=1" {
			t.Fatalf("got %q, %v", buf[:n], err)
		}
	}
	hung.Store(true)
	for !<-asked { // one may have begun before
	}
	<-asked // so that the one before is over
	hung.Store(false)
	manager.SetReadDeadline(time.Now().Add(time.Millisecond))
	for heard := 0; ; heard++ {
		if _, err := manager.Read(buf); err != nil {
			break
		}
		if heard > 1 {
			t.Error("the manager hears of one that hangs")
		}
	}
	go func() {
		for range asked {
		}
	}()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	close(asked)
	for env, value := range map[string]string{"WATCHDOG_PID": "1", "WATCHDOG_USEC": ""} {
		t.Run(env, func(t *testing.T) {
			t.Setenv(env, value)
			if got := watchdogInterval(); got != 0 {
				t.Errorf("%s", got)
			}
		})
	}
}

func TestNobodyToNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Ready(); err != nil {
		t.Error(err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	if err := Ready(); err == nil || !strings.HasPrefix(err.Error(), "service manager: ") {
		t.Errorf("a manager that is not there: %v", err)
	}
}
