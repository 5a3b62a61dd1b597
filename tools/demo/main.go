// Command demo shows a balancer at work, in network namespaces on this
// machine: three backends and a client with real TCP and UDP requests, a
// policy in WebAssembly that schedules every one of them, and a backend that
// dies and comes back.
//
//	sudo make demo          # about ten seconds, ends with a table
//	sudo make demo HOLD=1   # stays up to be played with
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/caplance/caplance/e2e/cluster"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run runs the program and returns the exit code: 0 when all went as it should, 1
// when something failed, 2 for wrong usage, 130 when interrupted.
func run(args []string, in io.Reader, out *os.File, complaints io.Writer) int {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(complaints)
	bin := flags.String("bin", "bin", "directory of the built programs")
	hold := flags.Bool("hold", false, "stay up until Ctrl-C, with commands to try")
	policy := flags.String("policy", "round-robin", "bundled policy, or a .wasm file")
	if flags.Parse(args) != nil || flags.NArg() > 0 {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := show(ctx, options{*bin, *policy, *hold}, in, newDisplay(out))
	switch {
	case ctx.Err() != nil && !*hold:
		fmt.Fprintln(complaints, "demo: interrupted; everything is taken down again")
		return 130
	case err != nil:
		fmt.Fprintln(complaints, "demo:", err)
		return 1
	}
	return 0
}

type options struct {
	bin, policy string
	hold        bool
}

// show brings the cluster up, runs the script and takes everything down again,
// whatever happens.
func show(ctx context.Context, o options, in io.Reader, s *display) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root: sudo make demo")
	}
	dir, warnings, err := newDirectory()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := cluster.New(cluster.Options{Bin: o.bin, Dir: dir, Backends: 3, Policy: o.policy, Timeout: lease.String()})
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()

	for _, w := range append(warnings, c.Net.Leftovers()...) {
		s.printf("warning: %v\n", w)
	}
	d := newDemo(c, s, o.policy)
	if err := d.play(ctx); err != nil {
		return d.explain(ctx, err)
	}
	if o.hold {
		d.table()
		d.hold(ctx, o.bin, in)
		return d.stop()
	}
	if err := d.stop(); err != nil {
		return err
	}
	d.table()
	return nil
}
