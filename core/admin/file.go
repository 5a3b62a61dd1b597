package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/api"
)

// maxFile is the largest file that is read, bytes.
const maxFile = 64 << 20

// contents is the file.
type contents struct {
	Orders []api.AdminRow `json:"orders"`
}

// File returns where orders are kept in a state directory.
func File(stateDir string) string { return filepath.Join(stateDir, "admin.json") }

// load reads the orders; no file is none. One that is damaged is an error: a
// backend that was taken out would get traffic again.
func load(path string) ([]api.AdminRow, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("operator's orders: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("operator's orders: %s is not a regular file: remove it", path)
	}
	var c contents
	if err := json.NewDecoder(io.LimitReader(f, maxFile)).Decode(&c); err != nil {
		return nil, fmt.Errorf("operator's orders: %s: %w (repair it, or remove it: then all backends are as their agents say)", path, err)
	}
	for _, r := range c.Orders {
		if !slices.Contains([]string{"pause", "drain", "disable", "weight"}, r.Verb) {
			return nil, fmt.Errorf("operator's orders: %s: order %q is unknown (was it written by a newer balancer? else remove it)", path, r.Verb)
		}
	}
	sortRows(c.Orders)
	return c.Orders, nil
}

// save writes the orders so that a crash, of the machine too, leaves the old ones
// or the new ones. Without any there is no file.
func save(path string, rows []api.AdminRow) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("operator's orders not kept, so nothing was changed: %w", err)
		}
	}()
	if len(rows) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return syncDir(path)
	}
	data, err := json.MarshalIndent(contents{rows}, "", "  ")
	if err != nil {
		return err
	}
	part := path + ".part"
	_ = os.Remove(part)
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(append(data, '\n'))
	if err = errors.Join(err, out.Sync(), out.Close()); err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return syncDir(path)
}

// syncDir brings the name of a file to the disk.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Remove takes the file away.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("operator's orders: %w", err)
	}
	return nil
}
