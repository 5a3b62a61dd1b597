package main

import (
	"bytes"
	"testing"
)

// A wrong command line does nothing and ends in 2.
func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{}, {""}, {"", "-t"}, {"fly"}, {"Server"}, {"-x"}, {"server", "now"}, {"server", "-x"}, {"agent", ""}, {"doctor", "-o", "xml"}, {"doctor", "-o", ""},
		{"unload", "all"}, {"version", "-v"}, {"policy"}, {"policy", ""}, {"policy", "inspect", "-o", "xml", "hash"}, {"policy", "inspect", "hash", ""},
	} {
		var out, errOut bytes.Buffer
		if code := run(t.Context(), env{args: args, stdout: &out, stderr: &errOut}); code != 2 || out.Len() > 0 || errOut.Len() == 0 {
			t.Errorf("caplance %q: exit code %d, %q, %q", args, code, out.String(), errOut.String())
		}
	}
}
