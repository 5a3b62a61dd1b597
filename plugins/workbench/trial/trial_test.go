package trial

import (
	"strings"
	"testing"
)

func TestParseBackends(t *testing.T) {
	list, err := ParseBackends("b1=3, b2,b3=0")
	if err != nil || len(list) != 3 || list[0].Weight != 3 || list[1].Name != "b2" || list[1].Weight != 1 || list[2].Weight != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if list, err := ParseBackends("12"); err != nil || len(list) != 12 || list[11].Name != "b12" {
		t.Errorf("%v, %v", list, err)
	}
	for spec, want := range map[string]string{"": "no name", "-1": "make it 0 to", "9999": "make it 0 to", "a,a": "twice", "a=x": "no number", "a=4294967296": "no number"} {
		if _, err := ParseBackends(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", spec, err, want)
		}
	}
}

func TestParseWorkload(t *testing.T) {
	for spec, n := range map[string]int{"uniform:100k": 100_000, "zipf:1M": 1_000_000, "zipf:7:1.5": 7} {
		if w, err := ParseWorkload(spec); err != nil || w.N != n {
			t.Errorf("%s: %+v, %v", spec, w, err)
		}
	}
	for _, spec := range []string{"", "zipf", "zipf:", "zipf:0", "zipf:2000M", "zipf:5:1", "zipf:5:NaN", "uniform:5:2", "other:5", "zipf:99999999999999999999"} {
		if w, err := ParseWorkload(spec); err == nil {
			t.Errorf("%q was accepted: %+v", spec, w)
		}
	}
}

// The same seed gives the same flows; a zipf load has clients that come often.
func TestFlows(t *testing.T) {
	for _, spec := range []string{"uniform:10k", "zipf:10k"} {
		w, err := ParseWorkload(spec)
		if err != nil {
			t.Fatal(err)
		}
		a, b := w.Flows(3), w.Flows(3)
		clients, six := map[[16]byte]int{}, 0
		for range w.N {
			f, g := a.Next(), b.Next()
			if f != g {
				t.Fatalf("%s: %+v and %+v differ", spec, f, g)
			}
			if f.Hash != f.Key.Hash(Service.Seed) {
				t.Fatalf("%s: hash is not that of the 5-tuple", spec)
			}
			if f.Family == 6 {
				six++
			}
			clients[f.Key.Src]++
		}
		most := 0
		for _, n := range clients {
			most = max(most, n)
		}
		if zipf := w.Name == "zipf"; zipf != (most > 100) || !zipf && len(clients) < 9_990 || six == 0 {
			t.Errorf("%s: %d clients, one comes %d times, %d flows of IPv6", spec, len(clients), most, six)
		}
	}
}

func TestPermuted(t *testing.T) {
	pool := NewPools(Backends(3)).Build()
	p := Permuted(pool, []int{2, 0, 1})
	if p.Members[0].Name != "b3" || p.Members[0].ID != pool.Members[2].ID {
		t.Errorf("index 0 holds %s", p.Members[0].Name)
	}
	if i, ok := p.Find(p.Members[1].Handle); !ok || i != 1 {
		t.Error("handles do not name indices any more")
	}
}
