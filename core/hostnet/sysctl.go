package hostnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const procSys = "/proc/sys"

// allowed are the parameters of net/ipv4/conf/LINK and net/ipv6/conf/LINK that
// Caplance changes; a journal cannot make it change others.
var allowed = map[string][]string{
	"ipv4": {"accept_local", "arp_announce", "arp_ignore", "arp_notify", "rp_filter", "send_redirects"},
	"ipv6": {"accept_dad", "accept_ra", "addr_gen_mode", "disable_ipv6", "keep_addr_on_down"},
}

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
	return j.setSysctl(key, value)
}

func (j *Journal) setSysctl(key, value string) error {
	if err := checkValues(key, value); err != nil {
		return err
	}
	now, err := readSysctl(key)
	if err != nil {
		return err
	}
	c := change{Sysctl: withSlashes(key), Old: now, New: value}
	set := func() error {
		if now == value {
			return nil
		}
		return writeSysctl(key, value)
	}
	i := j.find(c)
	switch {
	case i < 0 && now == value: // somebody else's
		return nil
	case i < 0, j.done[i].New != value:
		return j.record(c, set)
	}
	return set()
}

// restoreSysctl brings the old value back if the parameter still has one that
// we set; one that went away with its interface needs nothing.
func restoreSysctl(c change) error {
	now, err := readSysctl(c.Sysctl)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || now != c.New && !slices.Contains(c.before, now) {
		return err
	}
	return writeSysctl(c.Sysctl, c.Old)
}

func withSlashes(key string) string {
	if strings.Contains(key, "/") {
		return key
	}
	return strings.ReplaceAll(key, ".", "/")
}

// sysctlPath returns the file of a parameter that is allowed.
func sysctlPath(key string) (string, error) {
	rel := withSlashes(key)
	if !filepath.IsLocal(rel) || filepath.Clean(rel) != rel {
		return "", fmt.Errorf("sysctl %q: not a parameter's name", key)
	}
	parts := strings.Split(rel, "/")
	if len(parts) != 5 || parts[0] != "net" || parts[2] != "conf" || !slices.Contains(allowed[parts[1]], parts[4]) {
		return "", fmt.Errorf("sysctl %s: not one that Caplance changes", key)
	}
	return filepath.Join(procSys, rel), nil
}

// checkValues refuses what no allowed parameter can have.
func checkValues(key string, values ...string) error {
	for _, v := range values {
		if _, err := strconv.ParseInt(v, 10, 32); err != nil {
			return fmt.Errorf("sysctl %s: value %q: not a number", key, v)
		}
	}
	return nil
}

// absent reports whether a parameter is not there because the kernel has no
// IPv6.
func absent(key string) bool {
	if !strings.HasPrefix(withSlashes(key), "net/ipv6/") {
		return false
	}
	_, err := os.Stat(filepath.Join(procSys, "net/ipv6"))
	return errors.Is(err, os.ErrNotExist)
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
