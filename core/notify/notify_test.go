package notify

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)
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
