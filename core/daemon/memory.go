package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
)

// memory keeps the pools of each service in a file, for the next process: its
// flow tables are empty, and until the backends have registered again a lookup
// table over those that have would send the flows of the others astray. The
// flows that are left in the kernel name their backends by seat.
type memory struct {
	path  string
	until time.Time         // when the predecessor's backends are given up
	old   map[string]memoir // the predecessor's pools, by service; empty when they no longer matter
	now   map[string]memoir
	saved []byte
}

// memoir is what is kept of a pool.
type memoir struct {
	Index      uint16           `json:"index"` // of the service
	VIP        netip.Addr       `json:"vip"`
	Candidates []core.Candidate `json:"candidates"`
	Seats      []core.Seat      `json:"seats"`
}

// remember reads what a predecessor left. Pools older than maxAge are of no
// use: the flows are gone. The backends in them have grace to come back.
func remember(path string, maxAge, grace time.Duration) (*memory, error) {
	m := &memory{path: path, until: time.Now().Add(grace), now: map[string]memoir{}}
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
func (m *memory) before(service string) []core.Candidate { return m.old[service].Candidates }

// recovering says whether backends of the predecessor are still waited for.
func (m *memory) recovering() bool { return len(m.old) > 0 }

// tells says whether the predecessor's seats are known for just these
// services, in this order: only then do the kernel's flows mean anything.
func (m *memory) tells(services []*core.Service) bool {
	for _, s := range services {
		if o, ok := m.old[s.Name]; !ok || o.Index != s.Index || o.VIP != s.VIP {
			return false
		}
	}
	return len(m.old) == len(services)
}

// observe notes a service's pool. A predecessor's pool is done with when all
// its backends are back. Those that have not said yet how they are, are not:
// the lookup table leaves them out, and would send their flows astray.
func (m *memory) observe(p *core.Pool) {
	service := p.Service.Name
	m.now[service] = memoir{p.Service.Index, p.Service.VIP, p.Candidates(), p.Seats()}
	for _, seat := range m.old[service].Seats {
		if !slices.ContainsFunc(p.Members, func(b core.Member) bool { return b.Name == seat.Name && b.State != core.Unhealthy }) {
			return
		}
	}
	delete(m.old, service)
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
	all := maps.Clone(m.now)
	maps.Copy(all, m.old)
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
