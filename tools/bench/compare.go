package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// benchSystems puts every load on every system, in turns: all systems stand
// all the time, and what is not measured is idle.
func benchSystems(ctx context.Context, b *bench) (err error) {
	// Threads that block in system calls keep their place in the runtime.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(32))
	var picked []load
	for _, l := range loads {
		if b.only.MatchString(l.name) {
			picked = append(picked, l)
		}
	}
	if len(picked) == 0 {
		return nil
	}
	beds, err := b.setUp(ctx, picked)
	defer func() {
		for _, bed := range beds {
			err = errors.Join(err, bed.close())
		}
	}()
	if err != nil {
		return err
	}
	picked = slices.DeleteFunc(picked, func(l load) bool { return l.suited(beds) == nil })
	for _, l := range picked {
		b.begin(l, beds)
	}
	for i := range b.rounds {
		for _, l := range picked {
			b.mark(fmt.Sprintf("systems, round %d/%d:", i+1, b.rounds), l.name)
			if err := b.turn(ctx, i, l, beds); err != nil {
				return err
			}
		}
	}
	return nil
}

// setUp sets all systems up that a load is for.
func (b *bench) setUp(ctx context.Context, loads []load) (beds []*bed, err error) {
	for i, s := range systems {
		used := false
		for _, l := range loads {
			used = used || l.suits(s)
		}
		if !used || s.name != none && !b.systems.MatchString(s.name) {
			continue
		}
		b.mark("setting up:", s.name+",")
		bed, err := newBed(ctx, s, fmt.Sprintf("s%c", 'a'+i), b.bin, b.dir)
		var why skip
		switch {
		case ctx.Err() != nil, err != nil && !errors.As(err, &why):
			return beds, fmt.Errorf("%s: %w", s.name, err)
		case err != nil:
			b.note(fmt.Sprintf("%s is left out: %s", s.name, why))
		default:
			beds = append(beds, bed)
		}
	}
	return beds, nil
}

// begin starts the series of a load. The baseline is the first of its beds.
func (b *bench) begin(l load, beds []*bed) {
	for _, m := range l.metrics {
		var base *series
		for _, bed := range l.suited(beds) {
			s := b.measure(bed.name, m.name, m.unit, base)
			bed.results[m.name] = s
			if base == nil {
				base = s
			}
		}
	}
}

// turn puts the load on each system once; every round begins with another.
func (b *bench) turn(ctx context.Context, round int, l load, beds []*bed) error {
	beds = l.suited(beds)
	for i := range beds {
		bed := beds[(round+i)%len(beds)]
		values, err := l.measure(ctx, bed)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", l.name, bed.name, err)
		}
		for j, m := range l.metrics {
			bed.results[m.name].add(values[j])
		}
	}
	return nil
}

// pause lets the measurement run for a while.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
