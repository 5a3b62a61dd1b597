// Command bench measures the figures that the documentation gives, each
// against its baseline in the same run, in turns, because only ratios hold from
// one machine to the next. Medians go to the terminal and to bin/bench.json,
// ratios to bin/bench.svg.
//
//	sudo make bench
//	go run ./tools/bench -only 'connections|latency' -systems 'tunnel|DNAT'
//	go run ./tools/bench -only flows -profile flows.pprof
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// bench is what every measurement gets.
type bench struct {
	*report
	bin     string // directory of the built programs
	dir     string // for configuration and sockets
	rounds  int
	profile string         // file for a CPU profile of our loop, "" for none
	only    *regexp.Regexp // the measurements and loads that are wanted
	systems *regexp.Regexp // the systems that are, besides the baselines
}

// measurements in the order in which they run.
var measurements = []struct {
	name string
	run  func(context.Context, *bench) error
}{
	{"flows", benchFlows},
	{"pick", benchPick},
	{"table", benchTable},
	{"program", benchProgram},
	{"expiry", benchExpiry},
	{"pool", benchPool},
}

// run runs the program and returns the exit code: 0 when all was measured, 1
// when something failed, 2 for wrong usage, 130 when interrupted.
func run(args []string, out, progress io.Writer) int {
	b := &bench{report: newReport(progress)}
	testing.Init() // its flags are those of testing.Benchmark
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&b.bin, "bin", "bin", "directory of the built programs; bench.json goes there")
	flags.IntVar(&b.rounds, "rounds", 5, "rounds, of which the median counts")
	flags.StringVar(&b.profile, "profile", "", "file for a CPU profile of the verdict loop's rounds")
	only := flags.String("only", "", "measure what this regular expression matches: "+strings.Join(names(), ", "))
	systems := flags.String("systems", "", "compare the systems that this regular expression matches with none")
	if flags.Parse(args) != nil || flags.NArg() > 0 || b.rounds < 1 {
		return 2
	}
	var err, err2 error
	b.only, err = regexp.Compile(*only)
	b.systems, err2 = regexp.Compile(*systems)
	if err := errors.Join(err, err2); err != nil {
		fmt.Fprintln(progress, "bench:", err)
		return 2
	}
	if !slices.ContainsFunc(names(), b.only.MatchString) {
		fmt.Fprintf(progress, "bench: -only %s matches none of %s\n", *only, strings.Join(names(), ", "))
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = b.all(ctx)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(progress, "\nbench: interrupted; everything is taken down again")
		return 130
	case err != nil:
		fmt.Fprintln(progress, "\nbench:", err)
		return 1
	}
	b.print(out)
	b.printGoals(out)
	if *only != "" || *systems != "" {
		return 0 // half a file would pass for a whole one
	}
	if err := errors.Join(b.write(filepath.Join(b.bin, "bench.json")), b.draw(filepath.Join(b.bin, "bench.svg"))); err != nil {
		fmt.Fprintln(progress, "bench:", err)
		return 1
	}
	return 0
}

// names returns what -only chooses from.
func names() (names []string) {
	for _, m := range measurements {
		names = append(names, m.name)
	}
	for _, l := range loads {
		names = append(names, l.name)
	}
	return names
}

func (b *bench) all(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root: sudo make bench")
	}
	if b.dir, err = os.MkdirTemp("", "caplance-bench-"); err != nil {
		return fmt.Errorf("directory for sockets: %w", err)
	}
	defer os.RemoveAll(b.dir)
	// Rounds of a twentieth of the default second.
	if err := flag.Set("test.benchtime", "50ms"); err != nil {
		return err
	}
	for _, m := range measurements {
		if !b.only.MatchString(m.name) {
			continue
		}
		if err := m.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := benchSystems(ctx, b); err != nil {
		return fmt.Errorf("systems: %w", err)
	}
	return nil
}
