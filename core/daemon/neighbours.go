package daemon

import (
	"maps"
	"net/netip"

	"github.com/caplance/caplance/core/forward"
)

// The kernel's programs write the next hop's MAC into each packet themselves,
// which spares them the kernel's own look-ups. Here the MACs are kept up to
// date, and known before they are needed.

// askAgain is after how many rounds of pools.watch all neighbours are confirmed
// anew: 10 s, well before they go stale (gc_stale_time, 60 s).
const askAgain = 40

// refreshMACs reads the neighbours' MACs and says whether one changed.
func (p *pools) refreshMACs() (changed bool) {
	if p.kernel == nil {
		return false
	}
	links := map[int]map[netip.Addr]forward.MAC{}
	macs := map[netip.Addr]forward.MAC{}
	for i := range p.backends {
		addr := p.backends[i].Addr
		path := p.path(addr)
		if links[path.Link] == nil && path.Link != 0 {
			list, err := forward.Neighbours(path.Link)
			if err != nil {
				p.log.Warn("neighbours not read: the kernel looks them up for each packet", "err", err)
			}
			links[path.Link] = list
		}
		if mac, ok := links[path.Link][path.NextHop]; ok {
			macs[addr] = mac
		}
	}
	changed = !maps.Equal(macs, p.macs)
	p.macs = macs
	return changed
}

// askNeighbours has the kernel find the MACs that are missing, or confirm all.
func (p *pools) askNeighbours(all bool) {
	if p.kernel == nil {
		return
	}
	for i := range p.backends {
		addr := p.backends[i].Addr
		path := p.path(addr)
		if path.Link == 0 || !path.NextHop.IsValid() || p.macs[addr] != (forward.MAC{}) && !all {
			continue
		}
		if err := forward.Ask(path.Link, path.NextHop); err != nil {
			p.log.Debug("neighbour not asked", "err", err)
		}
	}
}
