package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"caplance": main})
}

// TestScripts runs testdata/*.txtar: the policy tools as a user meets them.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata"})
}

// Every tool explains itself, with an example and the exit codes.
func TestToolHelp(t *testing.T) {
	for _, tool := range tools {
		var out, errOut bytes.Buffer
		code := run(t.Context(), env{args: []string{"policy", tool.name, "-h"}, stdout: &out, stderr: &errOut})
		if code != 0 || errOut.Len() > 0 {
			t.Errorf("%s -h: exit code %d, %q", tool.name, code, errOut.String())
		}
		for _, word := range []string{"Usage: caplance policy " + tool.name, "Example:\n  caplance policy " + tool.name, "Exit codes:", "  -o "} {
			if !strings.Contains(out.String(), word) {
				t.Errorf("%s -h lacks %q:\n%s", tool.name, word, out.String())
			}
		}
	}
}
