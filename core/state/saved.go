package state

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/caplance/caplance/core"
)

// Saved is what a successor process needs to go on with the flows of this one:
// the numbers and handles by which they name services, VIPs and backends.
type Saved struct {
	Boot     string // /proc/sys/kernel/random/boot_id: it means nothing after another boot
	Services map[string]SavedService
	VIPs     map[string]uint16 // number by address
}

// SavedService is a service in Saved.
type SavedService struct {
	ID      core.ServiceID
	Members []SavedMember
}

// SavedMember is one membership in Saved.
type SavedMember struct {
	Name     string
	Addr     netip.Addr
	Handle   core.Handle
	Weight   uint32
	Eligible bool
}

// Save returns what is to be saved of a snapshot.
func (s *Store) Save(snap *core.Snapshot) *Saved {
	out := &Saved{Boot: bootID(), Services: map[string]SavedService{}, VIPs: savedVIPs(snap)}
	snap.Pools.Each(func(p *core.Pool) { out.Services[p.Service.Name] = savedService(p) })
	s.keepUnreturned(out)
	return out
}

func savedVIPs(snap *core.Snapshot) map[string]uint16 {
	out := map[string]uint16{}
	for _, v := range snap.VIPs.List {
		out[v.Addr.String()] = v.Number
	}
	return out
}

func savedService(p *core.Pool) SavedService {
	svc := SavedService{ID: p.Service.ID}
	for i := range p.Members {
		m := &p.Members[i]
		svc.Members = append(svc.Members, SavedMember{m.Name, m.Addr, m.Handle, m.Weight, i < p.Eligible})
	}
	return svc
}

// keepUnreturned adds what a predecessor left and is still waited for.
func (s *Store) keepUnreturned(out *Saved) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, k := range s.kept {
		svc, ok := out.Services[name]
		if !ok {
			continue
		}
		for b, h := range s.held[svc.ID] {
			if h.kept {
				svc.Members = append(svc.Members, SavedMember{b, h.addr, h.handle, 1, slices.Contains(k.names, b)})
			}
		}
		out.Services[name] = svc
	}
}

// Restore takes over what a predecessor saved. It comes before the services.
func (s *Store) Restore(saved *Saved) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for addr, n := range saved.VIPs {
		s.vips.reserve(addr, n)
	}
	for name, svc := range saved.Services {
		if !s.services.reserve(name, uint16(svc.ID)) {
			continue
		}
		s.restoreMembers(name, svc)
	}
}

func (s *Store) restoreMembers(name string, svc SavedService) {
	of := map[string]*holder{}
	kept := &keptPool{}
	var candidates []core.Candidate
	for _, m := range svc.Members {
		if !s.slots.Reserve(m.Handle) {
			continue
		}
		of[m.Name] = &holder{handle: m.Handle, addr: m.Addr, kept: true}
		if m.Eligible {
			candidates = append(candidates, core.Candidate{ID: core.BackendID(name, m.Name), Weight: m.Weight, Index: uint16(len(candidates)), Handle: m.Handle})
		}
		kept.names = append(kept.names, m.Name)
	}
	s.held[svc.ID] = of
	if len(kept.names) == 0 {
		return
	}
	if len(candidates) > 0 {
		kept.lookup = core.NewLateLookup(candidates)
	}
	s.kept[name] = kept
}

// DropUnknown forgets what was restored of services that there are not any
// more.
func (s *Store) DropUnknown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.Snapshot()
	known := func(name string) bool { return snap.Services.Named(name) != nil }
	for name, id := range s.services.of {
		if known(name) {
			continue
		}
		for _, h := range s.held[core.ServiceID(id)] {
			s.slots.Release(h.handle)
		}
		delete(s.held, core.ServiceID(id))
		delete(s.kept, name)
	}
	s.services.keep(known)
}

// Expected returns how many backends of a predecessor are waited for.
func (s *Store) Expected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := map[string]bool{}
	for _, k := range s.kept {
		for _, n := range k.names {
			names[n] = true
		}
	}
	return len(names)
}

// Encode renders the saved state, compressed.
func (s *Saved) Encode() ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	if err := json.NewEncoder(z).Encode(s); err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	return out.Bytes(), nil
}

// maxSaved is the largest state that is read, bytes.
const maxSaved = 256 << 20

// Decode reads what Encode rendered. Bytes after it are ignored.
func Decode(data []byte) (*Saved, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	z.Multistream(false)
	s := &Saved{}
	if err := json.NewDecoder(io.LimitReader(z, maxSaved)).Decode(s); err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	if _, err := io.Copy(io.Discard, z); err != nil { // the checksum comes last
		return nil, fmt.Errorf("saved state: %w", err)
	}
	return s, nil
}

func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

// SameBoot reports whether the state was saved in this boot.
func (s *Saved) SameBoot() bool { return s.Boot == bootID() }
