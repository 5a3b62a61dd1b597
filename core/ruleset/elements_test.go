package ruleset

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/google/nftables"
)

func TestMerge(t *testing.T) {
	got := merge([]core.PortRange{{First: 80, Last: 90}, {First: 443, Last: 443}, {First: 85, Last: 100}, {First: 101, Last: 101}, {First: 65535, Last: 65535}, {First: 1, Last: 2}})
	want := []core.PortRange{{First: 1, Last: 2}, {First: 80, Last: 101}, {First: 443, Last: 443}, {First: 65535, Last: 65535}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// random returns a content of a few keys and ports.
func random(r *rand.Rand) elements {
	out := elements{}
	for range r.IntN(6) {
		first := uint16(r.IntN(20) + 1)
		out.cover(string([]byte{byte(r.IntN(3)), 0, 0, 0}), core.PortRange{First: first, Last: first + uint16(r.IntN(5))})
	}
	return out
}

// Changes applied to the elements of the one content are those of the other,
// and a union has both.
func TestChanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		from, to := random(r), random(r)
		list := map[string]nftables.SetElement{}
		id := func(e nftables.SetElement) string { return string(e.Key) + string(e.KeyEnd) }
		for _, c := range changes(nil, from) {
			for _, e := range c.add {
				list[id(e)] = e
			}
		}
		for _, c := range changes(from, to) {
			for _, e := range c.del {
				if _, ok := list[id(e)]; !ok {
					t.Fatalf("%v to %v deletes what is not there: %x", from, to, e.Key)
				}
				delete(list, id(e))
			}
			for _, e := range c.add {
				list[id(e)] = e
			}
		}
		var flat []nftables.SetElement
		for _, e := range list {
			flat = append(flat, e)
		}
		if got, ok := decode(flat, true); !ok || !reflect.DeepEqual(got, to) {
			t.Fatalf("%v to %v gave %v", from, to, got)
		}
		both := union(from, to)
		if _, ok := both.has(from); !ok {
			t.Fatalf("%v is not in %v", from, both)
		}
		if _, ok := both.has(to); !ok {
			t.Fatalf("%v is not in %v", to, both)
		}
	}
}
