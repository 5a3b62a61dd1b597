// Command scale measures what a balancer costs with many services and many
// backends: the built binary in a network namespace, and agents that speak the
// real protocol from as many addresses of another one. No packet of a client is
// sent.
//
//	sudo make scale                     # every case, some minutes
//	go run ./tools/scale -case services # one
//	go run ./tools/scale -small         # tiny sizes
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/caplance/caplance/e2e/fleet"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run runs the program and returns the exit code: 0, 1 when something failed, 2
// for wrong usage.
func run(args []string, out, complaints io.Writer) int {
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	flags.SetOutput(complaints)
	var o options
	flags.StringVar(&o.bin, "bin", "bin", "directory of the built programs")
	flags.StringVar(&o.only, "case", "", "the only case: "+strings.Join(names(cases), ", "))
	flags.BoolVar(&o.small, "small", false, "a tenth of the sizes, and short")
	flags.DurationVar(&o.idle, "idle", 20*fleet.Heartbeat, "how long the idle balancer is watched")
	flags.StringVar(&o.log, "log", "", "write what the balancer prints to this file")
	if flags.Parse(args) != nil || flags.NArg() > 0 || o.only != "" && !slices.Contains(names(cases), o.only) {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measureAll(ctx, o, out); err != nil {
		fmt.Fprintln(complaints, "scale:", err)
		return 1
	}
	return 0
}

// options are the flags.
type options struct {
	bin, only, log string
	small          bool
	idle           time.Duration
}

func measureAll(ctx context.Context, o options, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root: sudo make scale")
	}
	var results []*result
	for _, c := range cases {
		if o.only != "" && c.name != o.only {
			continue
		}
		if o.small {
			c = c.small()
		}
		r, err := measure(ctx, o, c)
		if err != nil {
			return fmt.Errorf("case %s: %w", c.name, err)
		}
		results = append(results, r)
	}
	report(out, results)
	return nil
}
