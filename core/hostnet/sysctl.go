package hostnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const procSys = "/proc/sys"

// SetSysctl sets a kernel parameter, named with dots as in sysctl(8), or with
// slashes where an interface's name has dots. A parameter that already has the
// value is left alone, now and at Close. Close restores the old value unless
// somebody else changed the parameter in between.
func (j *Journal) SetSysctl(key, value string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return os.ErrClosed
	}
	old, err := readSysctl(key)
	if err != nil || old == value {
		return err
	}
	return j.record(change{Sysctl: key, Old: old, New: value}, func() error {
		return writeSysctl(key, value)
	})
}

// restoreSysctl brings old back if the parameter still says what we set; one
// that went away with its interface needs nothing.
func restoreSysctl(key, old, ours string) error {
	now, err := readSysctl(key)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || now != ours {
		return err
	}
	return writeSysctl(key, old)
}

func sysctlPath(key string) (string, error) {
	rel := key
	if !strings.Contains(rel, "/") {
		rel = strings.ReplaceAll(rel, ".", "/")
	}
	if !filepath.IsLocal(rel) {
		return "", fmt.Errorf("sysctl %q: not a parameter's name", key)
	}
	return filepath.Join(procSys, rel), nil
}

func readSysctl(key string) (string, error) {
	path, err := sysctlPath(key)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("sysctl %s: %w", key, err)
	}
	return strings.TrimSpace(string(b)), nil
}

func writeSysctl(key, value string) error {
	path, err := sysctlPath(key)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", key, err)
	}
	_, err = f.WriteString(value)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("sysctl %s=%s: %w", key, value, err)
	}
	return nil
}
