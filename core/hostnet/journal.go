// Package hostnet changes the machine's addresses and sysctls and takes every
// change back. Each change is written to a journal before it is made; a
// successor of a killed process adopts them as its own.
//
//	j, err := hostnet.Adopt("/run/caplance/server.journal")
//	defer j.Close()
//	target := hostnet.NewTarget(j) // a reconcile.Target
//	err = target.Add(ctx, nil, &hostnet.State{
//		Addrs:   []hostnet.Addr{{Link: "eth0", Prefix: netip.MustParsePrefix("192.0.2.1/32")}},
//		Sysctls: map[string]string{"net.ipv4.conf.all.arp_ignore": "1"},
//	})
//
// All calls must come from threads of one network namespace.
package hostnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrBusy is wrapped by errors about what another live process holds.
var ErrBusy = errors.New("held by another running instance")

// Journal is the undo list of one process. Its methods may be called
// concurrently; after Close they fail with os.ErrClosed.
type Journal struct {
	mu      sync.Mutex
	path    string
	file    *os.File
	done    []change // in the order they were made
	adopted int
	undone  int

	ours sync.Map // linkAddr → struct{}: those of done, for those who cannot wait for mu
}

// linkAddr is an address of the link with an index.
type linkAddr struct {
	index int
	addr  netip.Addr
}

// Ours reports whether an address of a link is there by this journal. It does not wait
// for a change that is under way, whose address is ours already.
func (j *Journal) Ours(link int, a netip.Addr) bool {
	_, ok := j.ours.Load(linkAddr{link, a.Unmap()})
	return ok
}

// note remembers whether the address of a change is ours.
func (j *Journal) note(c change, ours bool) {
	p, err := netip.ParsePrefix(c.Addr)
	at := linkAddr{c.Index, p.Addr().Unmap()}
	switch {
	case err != nil: // a sysctl's
	case ours:
		j.ours.Store(at, struct{}{})
	default:
		j.ours.Delete(at)
	}
}

// change is one line of the journal: either an address or a sysctl. A later
// line about the same thing takes the earlier one's place.
type change struct {
	Link   string `json:"link,omitempty"`
	Index  int    `json:"index,omitempty"` // of the link, which may be renamed
	Addr   string `json:"addr,omitempty"`
	Sysctl string `json:"sysctl,omitempty"` // with slashes
	Old    string `json:"old,omitempty"`
	New    string `json:"new,omitempty"`
	Undone bool   `json:"undone,omitempty"` // it was taken back

	before []string // values that New had in earlier lines
}

func (c change) String() string {
	if c.Sysctl != "" {
		return fmt.Sprintf("sysctl %s=%s (was %s)", c.Sysctl, c.New, c.Old)
	}
	return fmt.Sprintf("address %s on %s", c.Addr, c.Link)
}

// about reports whether two changes are about the same thing.
func (c change) about(o change) bool {
	if c.Sysctl != "" || o.Sysctl != "" {
		return c.Sysctl == o.Sysctl
	}
	return c.Addr == o.Addr && (c.Link == o.Link || c.Index != 0 && c.Index == o.Index)
}

func (c change) undo() error {
	var err error
	if c.Sysctl != "" {
		err = restoreSysctl(c)
	} else {
		err = removeAddr(c)
	}
	if err != nil {
		return fmt.Errorf("undo of %s: %w", c, err)
	}
	return nil
}

// merge puts a line behind those before it.
func merge(done []change, c change) []change {
	i := slices.IndexFunc(done, c.about)
	switch {
	case i < 0 && c.Undone:
	case i < 0:
		done = append(done, c)
	case c.Undone:
		done = slices.Delete(done, i, i+1)
	case c.Sysctl != "":
		c.Old, c.before = done[i].Old, append(done[i].before, done[i].New)
		done[i] = c
	default:
		done[i] = c
	}
	return done
}

// find returns the change about the same thing, or -1.
func (j *Journal) find(c change) int { return slices.IndexFunc(j.done, c.about) }

// record makes one change: journal first, so that a kill between the two
// leaves an entry whose undo finds nothing to do.
func (j *Journal) record(c change, make func() error) error {
	if err := j.write(c); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.note(c, true)
	if err := make(); err != nil {
		j.note(c, j.find(c) >= 0)
		return err
	}
	j.done = merge(j.done, c)
	return nil
}

// takeBack undoes a change and says so in the journal, lest a successor takes
// what somebody else makes later for ours.
func (j *Journal) takeBack(c change) error {
	if err := c.undo(); err != nil {
		return err
	}
	c.Undone = true
	j.done = merge(j.done, c)
	j.note(c, false)
	// On a full disk it is undone once more at worst.
	if err := j.write(c); err != nil && !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("journal: %w", err)
	}
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

// parse returns the changes of a journal that was written at this boot in this
// network namespace; those of another one went away with it. A last line
// without its end was cut by the kill, before its change was made.
func parse(data []byte, here origin) ([]change, error) {
	lines := bytes.SplitAfter(data, []byte("\n"))
	var from origin
	var left []change
	for i, line := range lines {
		if !bytes.HasSuffix(line, []byte("\n")) {
			if !torn(line, i == 0) {
				return nil, fmt.Errorf("line %d: %.40q is not the begin of a change", i+1, line)
			}
			break
		}
		var c change
		var err error
		if i == 0 {
			err = json.Unmarshal(line, &from)
		} else if err = decode(line, &c); err == nil {
			left = merge(left, c)
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

// torn reports whether the last line may be one that a kill has cut: the begin of an
// origin, in the first line, or of a change. What else stands there is damage, and hides
// what was changed.
func torn(line []byte, first bool) bool {
	begins := []string{`{"link":"`, `{"index":`, `{"addr":"`, `{"sysctl":"`, `{"undone":`}
	if first {
		begins = []string{`{"boot":"`}
	}
	return slices.ContainsFunc(begins, func(begin string) bool {
		n := min(len(begin), len(line))
		return begin[:n] == string(line[:n])
	})
}

// check refuses what this package does not write.
func (c change) check() error {
	if c.Sysctl == "" {
		return nil
	}
	if _, err := sysctlPath(c.Sysctl); err != nil {
		return err
	}
	return checkValues(c.Sysctl, c.Old, c.New)
}

func decode(line []byte, c *change) error {
	if err := json.Unmarshal(line, c); err != nil {
		return err
	}
	return c.check()
}
