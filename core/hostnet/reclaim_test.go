package hostnet

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/caplance/caplance/core/nettest"
)

// kill drops the journal as SIGKILL does: the lock goes, the file stays.
func kill(j *Journal) {
	j.file.Close()
	j.file, j.done = nil, nil
}

func TestReclaimAfterKill(t *testing.T) {
	nettest.NetNS(t)
	path := filepath.Join(t.TempDir(), "journal")
	before := machine(t)
	j := open(t, path)
	change3(t, j)
	if _, err := j.file.WriteString(`{"sysctl":"net.ipv4.ip_fo`); err != nil { // killed in the middle of a line
		t.Fatal(err)
	}
	kill(j)
	j = open(t, path)
	if got := machine(t); got != before {
		t.Errorf("after the second Open: %s, want %s", got, before)
	}
	if j.Reclaimed() != 3 {
		t.Errorf("reclaimed %d, want 3", j.Reclaimed())
	}
	change3(t, j) // the journal is as good as new
	if err := j.Close(); err != nil || machine(t) != before {
		t.Errorf("after Close: %s, %v, want %s", machine(t), err, before)
	}
}

func TestJournalOfAnotherNamespaceIsDropped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	t.Run("elsewhere", func(t *testing.T) {
		nettest.NetNS(t)
		j := open(t, path)
		change3(t, j)
		kill(j)
	})
	t.Run("here", func(t *testing.T) {
		nettest.NetNS(t)
		if err := writeSysctl(arpIgnore, "1"); err != nil {
			t.Fatal(err)
		}
		j := open(t, path)
		if got, _ := readSysctl(arpIgnore); got != "1" || j.Reclaimed() != 0 {
			t.Errorf("arp_ignore %s, reclaimed %d: the journal was not of this namespace", got, j.Reclaimed())
		}
	})
}

func TestSecondInstance(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	if _, err := Open(path); !errors.Is(err, ErrBusy) {
		t.Errorf("second Open: %v, want ErrBusy", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

func TestBrokenJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, []byte("not json\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil {
		t.Error("a broken journal was accepted")
	}
}
