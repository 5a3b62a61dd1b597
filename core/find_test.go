package core

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// Members are found by name whether or not they are eligible, and nobody else
// is.
func TestNamed(t *testing.T) {
	svc := &Service{Name: "web"}
	var members []Member
	for i := range 20 {
		b := Backend{Name: fmt.Sprintf("b%d", i), Weight: 1}
		if i%3 == 0 {
			b.State = Paused
		}
		members = append(members, NewMember(svc, &b, Handle(i+1), time.Now()))
	}
	p := NewPool(svc, 1, members)
	for i := range p.Members {
		if m := p.Named(p.Members[i].Name); m != &p.Members[i] {
			t.Errorf("%s is found as %+v", p.Members[i].Name, m)
		}
	}
	for _, name := range []string{"", "a", "b", "b00", "b21", "c"} {
		if m := p.Named(name); m != nil {
			t.Errorf("%q is found as %+v", name, m)
		}
	}
}

// A backend is once in each of the services that it names and that there are.
func TestServicesOfABackend(t *testing.T) {
	set := NewServiceSet([]*Service{{Name: "a", ID: 1}, {Name: "b", ID: 0}, {Name: "c", ID: 3}})
	for _, tt := range []struct {
		names []string
		want  string
	}{
		{nil, "[a b c]"},
		{[]string{}, "[]"},
		{[]string{"c", "gone", "a", "c"}, "[c a]"},
	} {
		var got []string
		for _, svc := range set.For(&Backend{Services: tt.names}) {
			got = append(got, svc.Name)
		}
		if text := fmt.Sprint(slices.Clip(got)); text != tt.want {
			t.Errorf("a backend of %q is in %s, want %s", tt.names, text, tt.want)
		}
	}
}
