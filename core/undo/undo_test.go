package undo

import (
	"errors"
	"strings"
	"testing"
)

func TestUndo(t *testing.T) {
	var s Stack
	var out strings.Builder
	for _, name := range []string{"a", "b", "c"} {
		s.Add(func() error {
			out.WriteString(name)
			if name == "b" {
				return errors.New("b fails")
			}
			return nil
		})
	}
	if err := s.Undo(); err == nil || err.Error() != "b fails" || out.String() != "cba" {
		t.Errorf("%q: %v", out.String(), err)
	}
	if err := s.Undo(); err != nil || out.String() != "cba" {
		t.Errorf("once more: %q: %v", out.String(), err)
	}
}
