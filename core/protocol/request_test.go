package protocol

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caplance/caplance/core"
)

func TestParse(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.11")
	for line, want := range map[string]Request{
		"REGISTER web1 10.0.0.11":                                        {Verb: Register, Name: "web1", Addr: addr, Weight: 1, Version: 1},
		"  REGISTER\tweb1  ::ffff:10.0.0.11 ":                            {Verb: Register, Name: "web1", Addr: addr, Weight: 1, Version: 1},
		"REGISTER web1 10.0.0.11 decap=kernel mode=direct":               {Verb: Register, Name: "web1", Addr: addr, Weight: DefaultWeight, Version: 1, Kernel: true, Mode: core.ModeDirect},
		"REGISTER web1 10.0.0.11 services=a,b weight=9 v=2 state=paused": {Verb: Register, Name: "web1", Addr: addr, Services: []string{"a", "b"}, Weight: 9, Version: 2, State: core.Paused},
		"REGISTER web1 10.0.0.11 v=2 offers=yes":                         {Verb: Register, Name: "web1", Addr: addr, Weight: 1, Version: 2, Offers: true},
		"HEALTH 200 load=1 offer=7":                                      {Verb: Health, Code: 200, Load: "1", Offer: 7},
		"SANE 1a2b":                                                      {Verb: Sane, Nonce: "1a2b"},
		"HEALTH 503":                                                     {Verb: Health, Code: 503},
		"HEALTH 200 load=1=2":                                            {Verb: Health, Code: 200, Load: "1=2"},
		"PAUSE":                                                          {Verb: Pause},
		"DRAIN web1":                                                     {Verb: Drain, Name: "web1"},
		"RESUME a-b_c.d":                                                 {Verb: Resume, Name: "a-b_c.d"},
		"DEREGISTER web1":                                                {Verb: Deregister, Name: "web1"},
	} {
		got, err := Parse(line)
		if err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
}

func TestParseReply(t *testing.T) {
	got, err := ParseReply("REGISTERED web1 10.0.0.11 vips=192.0.2.1,2001:db8::1 mtu=1472")
	want := Reply{
		Verb: Registered, Text: "web1 10.0.0.11 vips=192.0.2.1,2001:db8::1 mtu=1472",
		Args:    []string{"web1", "10.0.0.11"},
		Options: map[string]string{"vips": "192.0.2.1,2001:db8::1", "mtu": "1472"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if _, err := ParseReply("  "); err == nil {
		t.Error("an empty answer was taken")
	}
}

// FuzzParse: no line breaks the parser, a refusal fits the wire, and what was
// understood is written back to mean the same.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, line string) {
		ParseReply(line)
		req, err := Parse(line)
		if err != nil {
			if answer := Refuse(err); !isText(answer) || len(answer) > MaxRequest {
				t.Errorf("%q is answered by %q", line, answer)
			}
			return
		}
		if strings.ContainsAny(line, "\r\n") && strings.ContainsAny(req.String(), "\r\n") {
			return // no communicator hands out such a line
		}
		again, err := Parse(req.String())
		if err != nil {
			t.Fatalf("%q was written as %q: %v", line, req.String(), err)
		}
		if diff := cmp.Diff(req, again, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%q was written as %q (-want +got):\n%s", line, req.String(), diff)
		}
	})
}
