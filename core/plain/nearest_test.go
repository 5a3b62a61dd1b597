package plain

import "testing"

func TestNearest(t *testing.T) {
	keys := []string{"vip", "ports", "policy", "policy_config", "protocol", "min_backends", "mode"}
	for s, want := range map[string]string{
		"vipp": "vip", "vpi": "vip", "prots": "ports", "polcy": "policy", "protocl": "protocol", "min_backend": "min_backends", "max_backends": "min_backends",
		"policyconfig": "policy_config", "mod": "mode", "zone": "", "x": "", "": "", "weighting": "", "Ports": "ports",
	} {
		if got := Nearest(s, keys); got != want {
			t.Errorf("%s: %q, want %q", s, got, want)
		}
	}
	if got := DidYouMean("vipp", keys); got != "; did you mean vip?" {
		t.Error(got)
	}
	if got := DidYouMean("zone", keys); got != "" {
		t.Error(got)
	}
}
