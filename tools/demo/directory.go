package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const dirPrefix = "caplance-demo-"

// newDirectory makes the directory for sockets and state, named after this
// process, and removes those of demos that were killed. What cannot be removed
// is a warning.
func newDirectory() (dir string, warnings []error, err error) {
	old, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*")) // the pattern is right
	for _, d := range old {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(d), dirPrefix+"%d-", &pid); err != nil || unix.Kill(pid, 0) != unix.ESRCH {
			continue
		}
		if err := removeDirectory(d); err != nil {
			warnings = append(warnings, fmt.Errorf("directory of a killed demo stays: %w", err))
		}
	}
	dir, err = os.MkdirTemp("", fmt.Sprintf("%s%d-", dirPrefix, os.Getpid()))
	if err != nil {
		return "", warnings, fmt.Errorf("directory for sockets: %w", err)
	}
	return dir, warnings, nil
}

// removeDirectory removes a directory with the BPF file system that a killed
// balancer has in its state directory, and so the maps that are pinned there.
func removeDirectory(dir string) error {
	pins := filepath.Join(dir, "lb", "bpf")
	err := unix.Unmount(pins, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("umount %s: %w", pins, err)
	}
	return os.RemoveAll(dir)
}
