package fastpath

import (
	"fmt"

	"github.com/caplance/caplance/core"
)

// The VIPs' table, as find_vip in flows.h reads it.
const (
	vipSlots  = 8192
	vipProbes = 8
	maxVIPs   = vipSlots / 4
)

// vipNumbers are the VIPs' numbers in the flow keys, and the inverse.
type vipNumbers struct {
	byAddr   map[[16]byte]uint16
	byNumber map[uint16][16]byte
}

func numberVIPs(set *core.VIPSet) *vipNumbers {
	v := &vipNumbers{map[[16]byte]uint16{}, map[uint16][16]byte{}}
	for _, vip := range set.List {
		v.byAddr[vip.Addr.As16()], v.byNumber[vip.Number] = vip.Number, vip.Addr.As16()
	}
	return v
}

// vipTable places the VIPs in slots by a seed with which each is found in a few
// probes.
func vipTable(vips map[[16]byte]uint16) (table map[uint32]balanceVip, seed uint32, err error) {
	if len(vips) > maxVIPs {
		return nil, 0, fmt.Errorf("%d VIPs are more than the kernel's table takes (%d)", len(vips), maxVIPs)
	}
	seed = 0x9e3779b1
	for range 1000 {
		if table := placeVIPs(vips, seed); table != nil {
			return table, seed, nil
		}
		seed = seed*1664525 + 1013904222 | 1 // odd, and another one (Numerical Recipes, 7.1)
	}
	return nil, 0, fmt.Errorf("%d VIPs found no place in the kernel's table", len(vips))
}

// placeVIPs returns the table by one seed, nil when that will not do.
func placeVIPs(vips map[[16]byte]uint16, seed uint32) map[uint32]balanceVip {
	table := map[uint32]balanceVip{}
	for vip, number := range vips {
		v := balanceVip{Addr: words(vip), Number: uint32(number) + 1}
		at, tries := (v.Addr[0]^v.Addr[1]^v.Addr[2]^v.Addr[3])*seed/(1<<32/vipSlots), 0
		for ; tries < vipProbes; tries++ {
			if _, taken := table[at]; !taken {
				break
			}
			at = (at + 1) % vipSlots
		}
		if tries == vipProbes {
			return nil
		}
		table[at] = v
	}
	return table
}
