package state

import (
	"fmt"
	"log/slog"
	"reflect"
	"testing"

	"github.com/caplance/caplance/core"
)

// What is rendered from parts reads as what is rendered as a whole, whatever
// has changed.
func TestEncoder(t *testing.T) {
	s := newStore(t)
	e := s.Encoder()
	paused := backend("y")
	paused.State = core.Paused
	for i, change := range []func(*Draft) error{
		services(),
		services(service("a"), service("b")),
		backends(backend("x", "a"), backend("y")),
		backends(backend("x", "a"), paused),
		func(d *Draft) error { d.SetLookup(0, core.NewLookup(nil)); return nil },
		services(service("b"), service("c")),
		backends(),
	} {
		snap := update(t, s, change)
		data, err := e.Encode(snap)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if want := s.Save(snap); !reflect.DeepEqual(got, want) {
			t.Errorf("after change %d: saved %+v, want %+v", i, got, want)
		}
	}
}

// sizes are what the benchmarks are about: so many services, and so many of them
// for each of 1000 backends.
var sizes = []struct {
	name           string
	services, each int
}{{"1000x20", 1000, 20}, {"10x1000", 10, 10}}

// many returns a store with 1000 backends.
func many(tb testing.TB, count, each int) (*Store, []core.Backend) {
	s := New(slog.New(slog.DiscardHandler))
	var list []*core.Service
	for i := range count {
		list = append(list, service(fmt.Sprintf("s%d", i)))
	}
	var all []core.Backend
	for i := range 1000 {
		b := backend(fmt.Sprintf("b%04d", i))
		for j := range each {
			b.Services = append(b.Services, fmt.Sprintf("s%d", (i+j*count/each)%count))
		}
		all = append(all, b)
	}
	for _, change := range []func(*Draft) error{services(list...), backends(all...)} {
		if _, err := s.Update("test", change); err != nil {
			tb.Fatal(err)
		}
	}
	return s, all
}

// reweigh changes one backend back and forth.
func reweigh(tb testing.TB, s *Store, all []core.Backend, i int) {
	all[0].Weight = uint32(1 + i%2)
	if _, err := s.Update("test", backends(all...)); err != nil {
		tb.Fatal(err)
	}
}

func BenchmarkEncodeOneChange(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			s, all := many(b, size.services, size.each)
			e := s.Encoder()
			if _, err := e.Encode(s.Snapshot()); err != nil {
				b.Fatal(err)
			}
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				reweigh(b, s, all, i)
				b.StartTimer()
				if _, err := e.Encode(s.Snapshot()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOneBackend(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			s, all := many(b, size.services, size.each)
			for i := 0; b.Loop(); i++ {
				reweigh(b, s, all, i+1)
			}
		})
	}
}

func BenchmarkOneTable(b *testing.B) {
	s, _ := many(b, 1000, 20)
	l := core.NewLookup(nil)
	for b.Loop() {
		_, _ = s.Update("test", func(d *Draft) error {
			other := *l
			d.SetLookup(7, &other)
			return nil
		})
	}
}
