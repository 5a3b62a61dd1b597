package hostnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Adopt takes the journal at path for this process, making its directory when
// that is missing. The changes of a killed predecessor stay, and count as made
// by this process from now on. It fails with ErrBusy when the predecessor is
// alive.
func Adopt(path string) (*Journal, error) {
	if err := secureDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	f, err := openLocked(path)
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	j := &Journal{path: path, file: f}
	if err := j.adopt(); err != nil {
		j.file.Close()
		return nil, fmt.Errorf("journal %s: what the last run left: %w (%s)", path, err, remedy(err))
	}
	return j, nil
}

// Open opens a journal as Adopt does, but undoes the predecessor's changes.
func Open(path string) (*Journal, error) {
	j, err := Adopt(path)
	if err != nil {
		return nil, err
	}
	for len(j.done) > 0 {
		if err := j.takeBack(j.done[len(j.done)-1]); err != nil {
			return nil, errors.Join(fmt.Errorf("journal %s: what the last run left: %w (%s)", path, err, remedy(err)), j.file.Close())
		}
		j.undone++
	}
	return j, nil
}

// Adopted returns the number of changes that a predecessor left.
func (j *Journal) Adopted() int { return j.adopted }

// Reclaimed returns the number of changes of a predecessor that Open undid.
func (j *Journal) Reclaimed() int { return j.undone }

// secureDir makes a directory, or refuses one whose files somebody else can
// exchange: what is in the journal is done by root.
func secureDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("state directory %s: %w", dir, err)
	}
	if uid := os.Geteuid(); int(st.Uid) != uid {
		return fmt.Errorf("state directory %s: owned by user %d, not by user %d who runs this: chown it, or set state_dir to another", dir, st.Uid, uid)
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("state directory %s: others than its owner may write to it (mode %04o): chmod go-w it, or set state_dir to another", dir, st.Mode&0o7777)
	}
	return nil
}

// openFile opens a file of this user and nothing else that may be there.
func openFile(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW|flags, 0o600)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%w: it is a symbolic link: remove it", err)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() {
		f.Close()
		return nil, fmt.Errorf("not a regular file of user %d: remove it", os.Geteuid())
	}
	return f, nil
}

// openLocked opens and locks the file. A predecessor unlinks it while it holds
// the lock, so the file that was locked must still be the one at path.
func openLocked(path string) (*os.File, error) {
	for {
		f, err := openFile(path, 0)
		if err != nil {
			return nil, err
		}
		if err := lockFile(f); err != nil {
			f.Close()
			return nil, err
		}
		mine, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return f, nil
		}
		f.Close()
	}
}

func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrBusy
	}
	return err
}

// adopt reads the changes in the file.
func (j *Journal) adopt() error {
	data, err := io.ReadAll(j.file)
	if err != nil {
		return err
	}
	here, err := currentOrigin()
	if err != nil {
		return err
	}
	if j.done, err = parse(data, here); err != nil {
		return err
	}
	for _, c := range j.done {
		j.note(c, true)
	}
	j.adopted = len(j.done)
	err = j.rewrite(here)
	if errors.Is(err, unix.ENOSPC) && len(j.done) > 0 {
		return nil // the file as it was says the same
	}
	return err
}

// remedy says what to do about an error of the journal.
func remedy(err error) string {
	if errors.Is(err, unix.ENOSPC) {
		return "free some space there"
	}
	return "take it back by hand and remove the file"
}

// rewrite puts a file that holds the changes and nothing else in the place of
// the journal. A kill in between leaves the old one.
func (j *Journal) rewrite(here origin) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	err := enc.Encode(here)
	for _, c := range j.done {
		for _, v := range c.before {
			earlier := c
			earlier.New = v
			err = errors.Join(err, enc.Encode(earlier))
		}
		err = errors.Join(err, enc.Encode(c))
	}
	if err != nil {
		return err
	}
	next := j.path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := openFile(next, os.O_EXCL)
	if err != nil {
		return err
	}
	if err = lockFile(f); err == nil {
		_, err = f.Write(b.Bytes())
	}
	if err == nil {
		err = os.Rename(next, j.path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(next))
	}
	old := j.file
	j.file = f
	return old.Close()
}
