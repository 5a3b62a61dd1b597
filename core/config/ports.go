package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caplance/caplance/core"
)

// ports reads a list of ports and ranges: [80, "8000-8080"].
func (v *validator) ports(key string, raw []any) []core.PortRange {
	if len(raw) == 0 {
		return []core.PortRange{core.AllPorts}
	}
	var out []core.PortRange
	for i, r := range raw {
		p, ok := portRange(r)
		if !ok {
			v.failf(fmt.Sprintf("%s[%d]", key, i), "%#v is not a port from 1 to 65535 or a range of them (like 80 or \"8000-8080\")", r)
			continue
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b core.PortRange) int { return int(a.First) - int(b.First) })
	for i := 1; i < len(out); i++ {
		if out[i].First <= out[i-1].Last {
			v.failf(key, "%s and %s overlap", out[i-1], out[i])
		}
	}
	return out
}

func portRange(raw any) (core.PortRange, bool) {
	text := fmt.Sprint(raw)
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	a, err1 := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	ok := err1 == nil && err2 == nil && 1 <= a && a <= b
	return core.PortRange{First: uint16(a), Last: uint16(b)}, ok
}

type protoPorts struct {
	proto uint8
	ports core.PortRange
}

// overlap finds ports that two services both claim.
func overlap(a, b *core.Service) (protoPorts, bool) {
	if a.VIP != b.VIP {
		return protoPorts{}, false
	}
	for _, proto := range b.Protos {
		if !slices.Contains(a.Protos, proto) {
			continue
		}
		for _, x := range a.Ports {
			for _, y := range b.Ports {
				if both := (core.PortRange{First: max(x.First, y.First), Last: min(x.Last, y.Last)}); both.First <= both.Last {
					return protoPorts{proto, both}, true
				}
			}
		}
	}
	return protoPorts{}, false
}
