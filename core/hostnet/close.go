package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Reclaimed is the number of changes of a killed predecessor that Open undid.
func (j *Journal) Reclaimed() int { return j.reclaimed }

// Close undoes every change, the last one first, and removes the journal. What
// could not be undone is reported and stays in the file for the next Open.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := undo(j.done)
	if err == nil {
		err = os.Remove(j.file.Name()) // before the lock goes with the file
	}
	err = errors.Join(err, j.file.Close())
	j.file, j.done = nil, nil
	return err
}

// Leave keeps every change, and the journal for the next Open to take back.
func (j *Journal) Leave() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file, j.done = nil, nil
	return err
}

func undo(changes []change) error {
	var errs []error
	for _, c := range slices.Backward(changes) {
		errs = append(errs, c.undo())
	}
	return errors.Join(errs...)
}

// record makes one change: journal first, so that a kill between the two
// leaves an entry whose undo finds nothing to do.
func (j *Journal) record(c change, make func() error) error {
	if err := j.write(c); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := make(); err != nil {
		return err
	}
	j.done = append(j.done, c)
	return nil
}

// write appends one line with a single write(2), which a kill does not split.
func (j *Journal) write(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = j.file.Write(append(line, '\n'))
	return err
}

// origin is where and when changes were made: addresses and sysctls outlive
// neither the boot nor the network namespace.
type origin struct {
	Boot  string `json:"boot"`
	NetNS uint64 `json:"netns"` // inode of the namespace
}

func currentOrigin() (origin, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return origin{}, fmt.Errorf("boot id: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return origin{}, fmt.Errorf("network namespace: %w", err)
	}
	return origin{Boot: strings.TrimSpace(string(boot)), NetNS: st.Ino}, nil
}
