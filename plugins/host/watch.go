package host

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/tetratelabs/wazero/api"
	"golang.org/x/sys/unix"
)

// Fuel bounds work, not time: a unit takes 0.5 ns, or 15 when every load misses
// the cache. So some calls that packets wait for are timed. Which ones is drawn, and
// the policy cannot know; the others pay one subtraction. A slow one may have been
// interrupted: after it the next ones are timed by what their thread has
// spent, and only those count.
const (
	watchEvery = 128  // of so many calls one is timed
	watchAfter = 4096 // calls that are timed after a slow one
	watchMost  = 3    // slow ones of those that are a failure
	// nsPerUnit is how long a call may take for its fuel: 2 ms with the default of
	// pick_fuel. An endless loop takes a fifth of that until its fuel is spent.
	nsPerUnit = 2.5
)

// Clocks are what slow calls are told by.
type Clocks struct {
	Wall   func() time.Duration
	Thread func() time.Duration // CPU time of the calling thread
}

// RealClocks returns those of the machine.
func RealClocks() *Clocks {
	start := time.Now()
	return &Clocks{
		Wall: func() time.Duration { return time.Since(start) },
		Thread: func() time.Duration {
			var t unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
				return 0 // no call is slow then
			}
			return time.Duration(t.Nano())
		},
	}
}

// watch times an instance's calls. It is on the packet path: no allocation, no lock.
type watch struct {
	clocks *Clocks // nil: nobody watches
	limit  time.Duration
	wait   int // calls until the next one that is timed; below 1 without clocks
	armed  int // calls that are still timed one by one
	slow   int // of those
	began  time.Duration
}

func newWatch(c *Clocks, fuel int64) watch {
	w := watch{clocks: c, limit: time.Duration(nsPerUnit * float64(fuel))}
	if c != nil {
		w.wait = 1
	}
	return w
}

// due counts a call and reports whether it is to be timed.
func (w *watch) due() bool {
	w.wait--
	return w.wait == 0
}

// timed calls fn, whose parameters are on the stack, and times it. An error means
// that the instance is to be thrown away.
func (in *instance) timed(fn api.Function, name string) error {
	w := &in.watch
	w.start()
	err := fn.CallWithStack(context.Background(), in.stack[:])
	took := w.stop()
	switch {
	case err != nil:
		return in.tank.explain(name, in.tank.pick, err)
	case w.slow < watchMost:
		return nil
	}
	return &Failure{CauseTime, fmt.Errorf("%s took %v within its fuel, and is slow again and again: loads that miss the cache take long, make fewer of them or raise %s, of which a unit may take %v ns",
		name, took, in.tank.pick.key, nsPerUnit)}
}

func (w *watch) start() {
	if w.armed > 0 {
		runtime.LockOSThread()
		w.began = w.clocks.Thread()
		return
	}
	w.began = w.clocks.Wall()
}

func (w *watch) stop() (took time.Duration) {
	if w.armed > 0 {
		took = w.clocks.Thread() - w.began
		runtime.UnlockOSThread()
		w.armed--
		if took > w.limit {
			w.slow++
		}
	} else if took = w.clocks.Wall() - w.began; took > w.limit {
		w.armed, w.slow = watchAfter, 0
	}
	w.wait = 1
	if w.armed == 0 {
		w.wait += rand.IntN(2*watchEvery - 1)
	}
	return took
}
