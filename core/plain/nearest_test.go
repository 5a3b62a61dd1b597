package plain

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	keys := []string{"vip", "ports", "policy", "policy_config", "protocol", "min_backends", "mode"}
	for s, want := range map[string]string{
		"vipp": "vip", "vpi": "vip", "prots": "ports", "polcy": "policy", "protocl": "protocol", "min_backend": "min_backends", "max_backends": "min_backends",
		"policyconfig": "policy policy_config", "mod": "mode", "zone": "", "x": "", "": "", "weighting": "", "Ports": "ports",
	} {
		if got := strings.Join(Nearest(s, keys), " "); got != want {
			t.Errorf("%s: %q, want %q", s, got, want)
		}
	}
	names := []string{"web1", "web2", "web10", "db1", "mail"}
	for name, want := range map[string]string{"web": "web1 web2 web10", "wbe1": "web1", "WEB1": "web1 web2 web10", "zzzzzzz": ""} {
		if got := strings.Join(Nearest(name, names), " "); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := DidYouMean("vipp", keys); got != "; did you mean vip?" {
		t.Error(got)
	}
	if got := DidYouMean("zone", keys); got != "" {
		t.Error(got)
	}
}
