package api

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// BackendFilter chooses backends; an empty name is any.
type BackendFilter struct{ Service, Backend string }

// FlowFilter chooses flows.
type FlowFilter struct {
	Service, Backend string
	Client           netip.Prefix  // that the source is in; invalid: any
	State            string        // one of FlowStates; "": any
	Older            time.Duration // than this
	Top              bool          // those with the most bytes, and in that order
	Limit            int
}

// FlowStates are those of a flow.
var FlowStates = []string{"pending", "established", "closing", "ended"}

// Matches reports whether a flow passes.
func (f *FlowFilter) Matches(row *FlowRow) bool {
	return (f.Service == "" || f.Service == row.Service) && (f.Backend == "" || f.Backend == row.Backend) &&
		(!f.Client.IsValid() || f.Client.Contains(row.Src.Addr().Unmap())) && (f.State == "" || f.State == row.State) &&
		row.Age >= f.Older.Seconds()
}

// Values returns the filter as a request's query.
func (f *FlowFilter) Values() url.Values {
	q := url.Values{"service": {f.Service}, "backend": {f.Backend}, "state": {f.State}, "limit": {strconv.Itoa(f.Limit)}}
	if f.Client.IsValid() {
		q.Set("client", f.Client.String())
	}
	if f.Older > 0 {
		q.Set("older", f.Older.String())
	}
	if f.Top {
		q.Set("top", "")
	}
	return q
}

// ParseFlowFilter reads a request's query.
func ParseFlowFilter(q url.Values) (f FlowFilter, err error) {
	f = FlowFilter{Service: q.Get("service"), Backend: q.Get("backend"), State: q.Get("state"), Top: q.Has("top")}
	if f.Limit, err = strconv.Atoi(q.Get("limit")); q.Has("limit") && (err != nil || f.Limit < 0) {
		return f, fmt.Errorf("limit %q is not a number", q.Get("limit"))
	}
	if f.State != "" && !slices.Contains(FlowStates, f.State) {
		return f, fmt.Errorf("state %q is none of a flow's (%s)", f.State, strings.Join(FlowStates, ", "))
	}
	if q.Has("client") {
		if f.Client, err = ParsePrefix(q.Get("client")); err != nil {
			return f, fmt.Errorf("client %w", err)
		}
	}
	if q.Has("older") {
		if f.Older, err = time.ParseDuration(q.Get("older")); err != nil {
			return f, fmt.Errorf("older %q is not a time (like 30s or 5m)", q.Get("older"))
		}
	}
	return f, nil
}

// ParsePrefix reads a network, or an address, which is one of itself alone.
func ParsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is not an address or a network (like 192.0.2.7 or 192.0.2.0/24)", s)
	}
	return p.Masked(), nil
}
