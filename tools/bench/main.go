// Command bench measures the figures that the documentation gives, each
// against its baseline in the same run, in turns, because only ratios hold from
// one machine to the next. Medians go to the terminal and to bin/bench.json.
//
//	sudo make bench
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
	profile string // file for a CPU profile of our loop, "" for none
}

// measurements in the order in which they run.
var measurements = []struct {
	name string
	run  func(context.Context, *bench) error
}{
	{"flows", benchFlows},
	{"pick", benchPick},
	{"table", benchTable},
	{"expiry", benchExpiry},
	{"throughput", benchThroughput},
}

// run is the program; it returns the exit code.
func run(args []string, out, progress io.Writer) int {
	b := &bench{report: newReport(progress)}
	testing.Init() // its flags are those of testing.Benchmark
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&b.bin, "bin", "bin", "directory of the built programs; bench.json goes there")
	flags.IntVar(&b.rounds, "rounds", 5, "rounds, of which the median counts")
	flags.StringVar(&b.profile, "profile", "", "file for a CPU profile of the verdict loop's rounds")
	only := flags.String("only", "", "measure what this regular expression matches: flows, pick, table, expiry, throughput")
	if flags.Parse(args) != nil || flags.NArg() > 0 || b.rounds < 1 {
		return 2
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(progress, "bench: -only:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.all(ctx, wanted); err != nil {
		fmt.Fprintln(progress, "\nbench:", err)
		return 1
	}
	b.print(out)
	if *only != "" {
		return 0 // half a file would pass for a whole one
	}
	if err := b.write(filepath.Join(b.bin, "bench.json")); err != nil {
		fmt.Fprintln(progress, "bench:", err)
		return 1
	}
	return 0
}

func (b *bench) all(ctx context.Context, wanted *regexp.Regexp) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root: sudo make bench")
	}
	if b.dir, err = os.MkdirTemp("", "caplance-bench-"); err != nil {
		return fmt.Errorf("directory for sockets: %w", err)
	}
	defer os.RemoveAll(b.dir)
	// Five rounds of a fifth of the default second.
	if err := flag.Set("test.benchtime", "200ms"); err != nil {
		return err
	}
	for _, m := range measurements {
		if !wanted.MatchString(m.name) {
			continue
		}
		if err := m.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
	}
	return nil
}
