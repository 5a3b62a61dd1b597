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
	testbeds, err := b.setUp(ctx, picked)
	defer func() {
		for _, tb := range testbeds {
			err = errors.Join(err, tb.close())
		}
	}()
	if err != nil {
		return err
	}
	picked = slices.DeleteFunc(picked, func(l load) bool { return l.suited(testbeds) == nil })
	for _, l := range picked {
		b.begin(l, testbeds)
	}
	for i := range b.rounds {
		for _, l := range picked {
			b.mark(fmt.Sprintf("systems, round %d/%d:", i+1, b.rounds), l.name)
			if err := b.turn(ctx, i, l, testbeds); err != nil {
				return err
			}
		}
	}
	return nil
}

// setUp sets all systems up that a load is for.
func (b *bench) setUp(ctx context.Context, loads []load) (testbeds []*testbed, err error) {
	for i, s := range systems {
		used := false
		for _, l := range loads {
			used = used || l.suits(s)
		}
		if !used || s.name != none && !b.systems.MatchString(s.name) {
			continue
		}
		b.mark("setting up:", s.name+",")
		tb, err := newTestbed(ctx, s, fmt.Sprintf("s%c", 'a'+i), b.bin, b.dir)
		var why skip
		switch {
		case ctx.Err() != nil, err != nil && !errors.As(err, &why):
			return testbeds, fmt.Errorf("%s: %w", s.name, err)
		case err != nil:
			b.note(fmt.Sprintf("%s is left out: %s", s.name, why))
		default:
			testbeds = append(testbeds, tb)
		}
	}
	return testbeds, nil
}

// begin starts the series of a load. The baseline is the first of its testbeds.
func (b *bench) begin(l load, testbeds []*testbed) {
	for _, m := range l.metrics {
		var base *series
		for _, tb := range l.suited(testbeds) {
			s := b.measure(tb.name, m.name, m.unit, base)
			tb.results[m.name] = s
			if base == nil {
				base = s
			}
		}
	}
}

// turn puts the load on each system once; every round begins with another.
func (b *bench) turn(ctx context.Context, round int, l load, testbeds []*testbed) error {
	testbeds = l.suited(testbeds)
	for i := range testbeds {
		tb := testbeds[(round+i)%len(testbeds)]
		values, err := l.measure(ctx, tb)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", l.name, tb.name, err)
		}
		for j, m := range l.metrics {
			tb.results[m.name].add(values[j])
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
