package state

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core"
)

// What is written is read again; a damaged file is set aside, one of another
// boot is not used, and one that is no file is refused.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t)
	update(t, s, services(service("web")))
	update(t, s, backends(backend("a")))
	data, err := s.Save(s.Snapshot()).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := OpenFile(dir).Load(); got != nil || err != nil {
		t.Errorf("%v, %v without a file", got, err)
	}
	f := OpenFile(dir)
	if err := errors.Join(f.Write(data), f.Alive(), f.Sync()); err != nil {
		t.Fatal(err)
	}
	got, silent, err := OpenFile(dir).Load()
	if err != nil || len(got.Services["web"].Members) != 1 || silent < 0 || silent > 1e9 {
		t.Fatalf("%+v, silent for %s, %v", got, silent, err)
	}
	for name, content := range map[string][]byte{"empty": {}, "cut": data[:len(data)/2], "other": []byte("{}"), "flipped": flip(data)} {
		if err := os.WriteFile(f.path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _, err := OpenFile(dir).Load(); got != nil || !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if _, err := os.Stat(f.path + ".damaged"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	old := s.Save(s.Snapshot())
	old.Boot = "another"
	if data, err = old.Encode(); err == nil {
		err = f.Write(data)
	}
	if got, _, loadErr := OpenFile(dir).Load(); err != nil || got != nil || loadErr != nil {
		t.Errorf("another boot: %v, %v, %v", got, loadErr, err)
	}
	if err := errors.Join(f.Remove(), unix.Mkfifo(f.path, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenFile(dir).Load(); err == nil {
		t.Error("a FIFO was read")
	}
	if err := errors.Join(os.Remove(f.path), os.Symlink(filepath.Join(dir, "elsewhere"), f.path)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenFile(dir).Load(); err == nil {
		t.Error("a link was followed")
	}
}

// flip changes one bit in the middle.
func flip(data []byte) []byte {
	out := append([]byte(nil), data...)
	out[len(out)/2] ^= 1
	return out
}

// Who takes the file away is noticed, before and after it was synced.
func TestFileGone(t *testing.T) {
	f := OpenFile(t.TempDir())
	if !f.There() {
		t.Error("nothing was written, and it is gone")
	}
	data := []byte("state")
	for _, sync := range []bool{false, true} {
		if err := f.Rewrite(data); err != nil || !f.There() {
			t.Fatalf("written: there %v, %v", f.There(), err)
		}
		at := f.newPath()
		if sync {
			at = f.path
			if err := f.Sync(); err != nil || !f.There() {
				t.Fatalf("synced: there %v, %v", f.There(), err)
			}
		}
		if err := os.Remove(at); err != nil || f.There() {
			t.Errorf("removed: there %v, %v", f.There(), err)
		}
		if err := f.Rewrite(data); err != nil || !f.There() {
			t.Errorf("written again: there %v, %v", f.There(), err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = Decode(data) })
}

// A successor of a killed process finds what was written last, on the disk or
// not; what a crash of the machine left of it is no obstacle.
func TestFileUnsynced(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t)
	update(t, s, services(service("web")))
	f := OpenFile(dir)
	write := func(names ...string) {
		t.Helper()
		var list []core.Backend
		for _, n := range names {
			list = append(list, backend(n))
		}
		update(t, s, backends(list...))
		data, err := s.Save(s.Snapshot()).Encode()
		if err := errors.Join(err, f.Write(data)); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(members int) {
		t.Helper()
		got, _, err := OpenFile(dir).Load()
		if err != nil || got == nil || len(got.Services["web"].Members) != members {
			t.Fatalf("%+v, %v, want %d members", got, err, members)
		}
	}
	write("a")
	expect(1)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	expect(1)
	write("a", "b")
	expect(2)
	if err := os.WriteFile(f.newPath(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect(1)
}
