package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// File is where the state is saved, for a successor without flows in the
// kernel. A file beside it holds the predecessor's last heartbeat.
//
// Write is for the death of the process and Sync for that of the machine: what a
// process has written is there for the next one, whether or not it is on the disk.
type File struct {
	path string

	mu      sync.Mutex
	written []byte // to newPath
	synced  bool   // written is at path
}

// OpenFile names the file; nothing is read yet.
func OpenFile(stateDir string) *File { return &File{path: filepath.Join(stateDir, "state.json.gz")} }

// ErrDamaged is what Load returns for a file that is not a saved state. It has
// been renamed.
var ErrDamaged = errors.New("damaged")

// Load returns what a predecessor saved and how long ago it was last alive, by
// the boot clock; nil without one, or of another boot.
func (f *File) Load() (saved *Saved, silent time.Duration, err error) {
	if data, err := readRegular(f.newPath()); err == nil {
		if saved, err = Decode(data); err == nil { // else a crash of the machine left it, and the other one is whole
			return f.ofThisBoot(saved)
		}
	}
	data, err := readRegular(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("saved state: %w", err)
	}
	saved, err = Decode(data)
	if err != nil {
		aside := f.path + ".damaged"
		return nil, 0, errors.Join(fmt.Errorf("%s: %w (%w), set aside as %s", f.path, ErrDamaged, err, aside), os.Rename(f.path, aside))
	}
	return f.ofThisBoot(saved)
}

// ofThisBoot returns what Load does, nothing if saved is of another boot.
func (f *File) ofThisBoot(saved *Saved) (_ *Saved, silent time.Duration, err error) {
	if !saved.SameBoot() {
		return nil, 0, nil
	}
	last, err := os.ReadFile(f.heartbeatPath())
	if err != nil {
		return saved, 0, nil // killed before its first heartbeat
	}
	var at int64
	if _, err := fmt.Sscan(string(last), &at); err != nil {
		return saved, 0, nil
	}
	return saved, max(boottime()-time.Duration(at), 0), nil
}

// readRegular reads a file that is one, and no link to another place.
func readRegular(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file: remove it", path)
	}
	return io.ReadAll(io.LimitReader(f, maxSaved))
}

// newPath is where the state is that has not been synced yet.
func (f *File) newPath() string { return f.path + ".new" }

func (f *File) heartbeatPath() string { return f.path + ".alive" }

// boottime returns CLOCK_BOOTTIME, which goes on in suspend.
func boottime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}

// Alive notes that this process lives.
func (f *File) Alive() error {
	return os.WriteFile(f.heartbeatPath(), fmt.Appendln(nil, int64(boottime())), 0o600)
}

// Write saves an encoded state, which it keeps. It does not wait for the disk.
func (f *File) Write(data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if bytes.Equal(data, f.written) {
		return nil
	}
	part := f.path + ".part"
	_ = os.Remove(part)
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("saved state: %w", err)
	}
	_, err = out.Write(data)
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("saved state: %w", err)
	}
	if err := os.Rename(part, f.newPath()); err != nil {
		return fmt.Errorf("saved state: %w (if that is a directory, remove it)", err)
	}
	f.written, f.synced = data, false
	return nil
}

// Sync brings what was written last to the disk, so that a crash leaves the old
// state or the new one. Writes do not wait for it.
func (f *File) Sync() error {
	f.mu.Lock()
	data, synced := f.written, f.synced
	f.mu.Unlock()
	if data == nil || synced {
		return nil
	}
	out, err := os.OpenFile(f.newPath(), os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("saved state: %w", err)
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("saved state: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.written == nil || &data[0] != &f.written[0] { // a newer one, for the next Sync
		return nil
	}
	if err := os.Rename(f.newPath(), f.path); err != nil {
		return fmt.Errorf("saved state: %w", err)
	}
	f.synced = true
	return nil
}

// There reports whether what was written is still there.
func (f *File) There() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.written == nil {
		return true
	}
	at := f.newPath()
	if f.synced {
		at = f.path
	}
	_, err := os.Lstat(at)
	return err == nil
}

// Rewrite writes, whatever was written before.
func (f *File) Rewrite(data []byte) error {
	f.mu.Lock()
	f.written, f.synced = nil, false
	f.mu.Unlock()
	return f.Write(data)
}

// Remove takes the file away: after a requested stop there is nothing to go on
// with.
func (f *File) Remove() error {
	var errs []error
	for _, p := range []string{f.path, f.newPath(), f.path + ".part", f.heartbeatPath()} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("saved state: %w", err))
		}
	}
	return errors.Join(errs...)
}
