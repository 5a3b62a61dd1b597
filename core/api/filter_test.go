package api

import (
	"net/netip"
	"net/url"
	"testing"
	"time"
)

// A filter is the same behind a request, and lets through what it says.
func TestFlowFilter(t *testing.T) {
	row := FlowRow{Src: netip.MustParseAddrPort("192.0.2.7:1"), Service: "web", Backend: "b1", State: "established", Age: 60}
	for _, tt := range []struct {
		f    FlowFilter
		want bool
	}{
		{FlowFilter{}, true},
		{FlowFilter{Service: "web", Backend: "b1", State: "established", Client: netip.MustParsePrefix("192.0.2.0/24"), Older: time.Minute, Top: true, Limit: 5}, true},
		{FlowFilter{Service: "dns"}, false},
		{FlowFilter{Backend: "b2"}, false},
		{FlowFilter{State: "closing"}, false},
		{FlowFilter{Client: netip.MustParsePrefix("192.0.3.0/24")}, false},
		{FlowFilter{Client: netip.MustParsePrefix("2001:db8::/32")}, false},
		{FlowFilter{Older: time.Minute + time.Second}, false},
	} {
		f, err := ParseFlowFilter(tt.f.Values())
		if err != nil || f != tt.f {
			t.Errorf("%+v became %+v, %v", tt.f, f, err)
		}
		if got := f.Matches(&row); got != tt.want {
			t.Errorf("%+v: %v", tt.f, got)
		}
	}
	for _, bad := range []string{"limit=x", "limit=-1", "state=open", "client=x", "older=5"} {
		q, _ := url.ParseQuery(bad)
		if _, err := ParseFlowFilter(q); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	if p, err := ParsePrefix("::ffff:192.0.2.7"); err != nil || p != netip.MustParsePrefix("192.0.2.7/32") {
		t.Errorf("%v, %v", p, err)
	}
}
