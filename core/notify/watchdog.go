package notify

import (
	"context"
	"os"
	"strconv"
	"time"
)

// Watchdog returns a task that tells the service manager that the service is alive, as
// WatchdogSec= of its unit demands, as long as alive returns no error: a few times in
// the interval. Without an interval in the environment it only waits for ctx to end.
func Watchdog(alive func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		every := watchdogInterval() / 3
		if every <= 0 {
			<-ctx.Done()
			return nil
		}
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			once, cancel := context.WithTimeout(ctx, every)
			if alive(once) == nil {
				_ = send("WATCHDOG=1") // a manager that is gone ends nobody
			}
			cancel()
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}
}

// watchdogInterval returns how often the manager wants to hear of this process, 0 for
// never (sd_watchdog_enabled(3)).
func watchdogInterval() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || us <= 0 {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}
