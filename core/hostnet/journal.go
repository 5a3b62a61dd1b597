// Package hostnet changes the machine's addresses and sysctls and takes every
// change back: at Close, or at the next Open when the process was killed. Each
// change is written to a journal before it is made.
//
//	j, err := hostnet.Open("/run/caplance/agent.journal")
//	defer j.Close()
//	err = j.SetSysctl("net.ipv4.conf.all.arp_ignore", "1")
//	err = j.AddAddr("lo", netip.MustParsePrefix("192.0.2.1/32"))
//
// All calls must come from threads of one network namespace.
package hostnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrBusy says that another live process holds the journal.
var ErrBusy = errors.New("journal held by another running instance")

// Journal is the undo list of one process. Its methods may be called
// concurrently; after Close they fail with os.ErrClosed.
type Journal struct {
	mu        sync.Mutex
	file      *os.File
	done      []change // in the order they were made
	reclaimed int
}

// change is one line of the journal: either an address or a sysctl.
type change struct {
	Link   string `json:"link,omitempty"`
	Addr   string `json:"addr,omitempty"`
	Sysctl string `json:"sysctl,omitempty"`
	Old    string `json:"old,omitempty"`
	New    string `json:"new,omitempty"`
}

func (c change) String() string {
	if c.Sysctl != "" {
		return fmt.Sprintf("sysctl %s=%s (was %s)", c.Sysctl, c.New, c.Old)
	}
	return fmt.Sprintf("address %s on %s", c.Addr, c.Link)
}

func (c change) undo() error {
	var err error
	if c.Sysctl != "" {
		err = restoreSysctl(c.Sysctl, c.Old, c.New)
	} else {
		err = removeAddr(c.Link, c.Addr)
	}
	if err != nil {
		return fmt.Errorf("undo of %s: %w", c, err)
	}
	return nil
}

// Open takes the journal at path for this process, making its directory when
// that is missing, and undoes what a killed predecessor left there. It fails
// with ErrBusy when the predecessor is alive.
func Open(path string) (*Journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("journal directory: %w", err)
	}
	f, err := openLocked(path)
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	j := &Journal{file: f}
	if err := j.reclaim(); err != nil {
		f.Close()
		return nil, fmt.Errorf("journal %s: what the last run left: %w (take it back by hand and remove the file)", path, err)
	}
	return j, nil
}

// openLocked opens and locks the file. A predecessor unlinks it while it holds
// the lock, so the file that was locked must still be the one at path.
func openLocked(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = ErrBusy
			}
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

// reclaim undoes the changes in the file and starts it afresh.
func (j *Journal) reclaim() error {
	data, err := io.ReadAll(j.file)
	if err != nil {
		return err
	}
	here, err := currentOrigin()
	if err != nil {
		return err
	}
	left, err := parse(data, here)
	if err != nil {
		return err
	}
	if err := undo(left); err != nil {
		return err
	}
	j.reclaimed = len(left)
	if err := j.file.Truncate(0); err != nil {
		return err
	}
	return j.write(here)
}

// parse returns the changes of a journal that was written at this boot in this
// network namespace; those of another one went away with it. A last line
// without its end was cut by the kill, before its change was made.
func parse(data []byte, here origin) ([]change, error) {
	lines := bytes.SplitAfter(data, []byte("\n"))
	var from origin
	var left []change
	for i, line := range lines {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var c change
		var err error
		if i == 0 {
			err = json.Unmarshal(line, &from)
		} else if err = json.Unmarshal(line, &c); err == nil {
			left = append(left, c)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if from != here {
		return nil, nil
	}
	return left, nil
}
