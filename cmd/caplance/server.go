package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"time"

	"github.com/caplance/caplance/core/agent"
	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/daemon"
	"github.com/caplance/caplance/core/enrol"
	"github.com/caplance/caplance/core/notify"
	"github.com/caplance/caplance/core/privilege"
	"github.com/caplance/caplance/core/reload"
	"github.com/caplance/caplance/core/version"
)

func server(ctx context.Context, e env) error {
	fs := flag.NewFlagSet("server", flag.ContinueOnError)
	file := fs.String("c", "/etc/caplance/caplance.toml", "configuration `file`; caplance.example.toml explains every key")
	test := fs.Bool("t", false, "check the configuration and its policies, then exit")
	if err := flags(e, fs); err != nil {
		return err
	}
	cfg, warnings, err := loadServer(*file)
	if *test {
		return testServer(ctx, e, *file, cfg, warnings, err)
	}
	if err != nil {
		return err
	}
	return withLog(ctx, e, cfg.Log, func(log *slog.Logger, sink *config.LogSink) (run, reload func(context.Context) error) {
		warn(log, warnings)
		srv := daemon.New(func() (*config.Server, error) { return config.LoadServer(*file) }, cfg, log, sink)
		srv.Compiler = []string{"/proc/self/exe", compilerCommand} // this very program, though another one may be in its place by now
		srv.GiveUp = privilege.GiveUp
		return srv.Run, func(ctx context.Context) error {
			if err := notify.Reloading(); err != nil {
				log.Warn("service manager not told", "err", err)
			}
			defer func() { _ = notify.Ready() }() // also of one that is refused
			changes, err := srv.Reload(ctx, false)
			if err != nil {
				return err
			}
			for _, c := range changes {
				log.Info("configuration changed", "key", c.Key, "from", c.From, "to", c.To)
			}
			return nil
		}
	})
}

// loadServer reads a balancer's file and holds it against this machine.
func loadServer(file string) (cfg *config.Server, warnings []error, err error) {
	if cfg, err = config.LoadServer(file); err != nil {
		return nil, nil, err
	}
	machine, err := config.ThisMachine()
	if err != nil {
		return nil, nil, err
	}
	warnings, err = cfg.CheckMachine(machine)
	joined, err2 := enrol.Open(cfg.Registry.Enrolled)
	if err = errors.Join(err, err2); err2 != nil {
		return cfg, warnings, err
	}
	for _, d := range cfg.Doubts(len(joined.Agents()) > 0 || joined.Waiting(time.Now())) {
		warnings = append(warnings, errors.New(d))
	}
	return cfg, warnings, err
}

func warn(log *slog.Logger, warnings []error) {
	for _, w := range warnings {
		log.Warn("configuration", "err", w)
	}
}

// testServer carries out server -t after the load of the file.
func testServer(ctx context.Context, e env, file string, cfg *config.Server, warnings []error, err error) error {
	for _, w := range warnings {
		fmt.Fprintf(e.stderr, "caplance server: warning: %v\n", w)
	}
	if err != nil {
		return err
	}
	if err := reload.Check(ctx, cfg); err != nil {
		return err
	}
	if _, err := control.Dial(cfg.Control).Status(ctx); err != nil { // else its ports are in use, as they should be
		for _, w := range reload.Ports(cfg) {
			fmt.Fprintf(e.stderr, "caplance server: warning: %s: %v\n", file, w)
		}
	}
	fmt.Fprintf(e.stdout, "%s is valid: %d service(s)\n", file, len(cfg.Services))
	return nil
}

func runAgent(ctx context.Context, e env) error {
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	file := fs.String("c", "/etc/caplance/agent.toml", "configuration `file`; agent.example.toml explains every key")
	test := fs.Bool("t", false, "check the configuration, then exit")
	if err := flags(e, fs); err != nil {
		return err
	}
	cfg, err := agent.Load(*file)
	if err != nil {
		return err
	}
	if *test {
		for _, w := range auth.Expiring(cfg.Own, time.Now()) {
			fmt.Fprintf(e.stderr, "caplance agent: warning: %s\n", w)
		}
		fmt.Fprintf(e.stdout, "%s is valid\n", *file)
		return nil
	}
	return withLog(ctx, e, cfg.Log, func(log *slog.Logger, sink *config.LogSink) (run, reload func(context.Context) error) {
		a := agent.New(cfg, log)
		a.ControlLog(sink)
		a.DropPrivileges(privilege.GiveUp)
		return a.Run, func(context.Context) error {
			cfg, err := agent.Load(*file)
			if err != nil {
				return err
			}
			return a.Reload(cfg)
		}
	})
}

// withLog runs a daemon with its log. SIGHUP reopens the log and has the
// daemon reload its file.
func withLog(ctx context.Context, e env, cfg config.Log,
	daemon func(*slog.Logger, *config.LogSink) (run, reload func(context.Context) error)) error {
	log, sink, err := cfg.Open()
	if err != nil {
		return err
	}
	defer sink.Close()
	run, reload := daemon(log, sink)
	hangups, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-hangups.Done():
				return
			case <-e.hangup:
				if err := sink.Reopen(); err != nil {
					log.Error("log not reopened", "err", err)
				}
				if err := reload(hangups); err != nil {
					log.Error("reload failed", "err", err)
				} else {
					log.Info("reloaded")
				}
			}
		}
	}()
	defer func() { cancel(); <-done }()
	return run(ctx)
}

// version prints what the Go toolchain recorded about the build.
func printVersion(_ context.Context, e env) error {
	if err := flags(e, flag.NewFlagSet("version", flag.ContinueOnError)); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "caplance %s\n", version.String())
	return nil
}
