package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
)

// memory keeps the eligible backends of each service in a file, for the next
// process: its flow tables are empty, and until the backends have registered
// again a lookup table over those that have would send the flows of the others
// astray.
type memory struct {
	path  string
	until time.Time                   // when the predecessor's backends are given up
	old   map[string][]core.Candidate // the predecessor's pools, by service; nil when it no longer matters
	now   map[string][]core.Candidate
	saved []byte
}

// remember reads what a predecessor left. Pools older than maxAge are of no
// use: the flows are gone. The backends in them have grace to come back.
func remember(path string, maxAge, grace time.Duration) (*memory, error) {
	m := &memory{path: path, until: time.Now().Add(grace), now: map[string][]core.Candidate{}}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && time.Since(info.ModTime()) > maxAge {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("saved pools: %w", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("saved pools: %w", err)
	}
	if err := json.Unmarshal(data, &m.old); err != nil {
		return nil, fmt.Errorf("saved pools %s: %w (remove the file)", path, err)
	}
	return m, nil
}

// before is the predecessor's pool of a service, while it matters.
func (m *memory) before(service string) []core.Candidate { return m.old[service] }

// observe notes a service's pool. A predecessor's pool is done with when all
// its backends are back.
func (m *memory) observe(service string, p *core.Pool) {
	now := p.Candidates()
	back := func(c core.Candidate) bool {
		return slices.ContainsFunc(now, func(n core.Candidate) bool { return n.ID == c.ID })
	}
	if old, ok := m.old[service]; ok && !slices.ContainsFunc(old, func(c core.Candidate) bool { return !back(c) }) {
		delete(m.old, service)
	}
	m.now[service] = now
}

// fade forgets the predecessor when its backends had their time, and says
// whether that changed anything.
func (m *memory) fade(now time.Time) bool {
	if len(m.old) == 0 || now.Before(m.until) {
		return false
	}
	m.old = nil
	return true
}

// save writes the pools, those of the predecessor where they still matter.
func (m *memory) save() error {
	all := map[string][]core.Candidate{}
	for s, c := range m.now {
		all[s] = c
	}
	for s, c := range m.old {
		all[s] = c
	}
	data, err := json.Marshal(all)
	if err != nil || slices.Equal(data, m.saved) {
		return err
	}
	tmp := m.path + ".new"
	if err := os.MkdirAll(filepath.Dir(m.path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	m.saved = data
	return os.Rename(tmp, m.path)
}
