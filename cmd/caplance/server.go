package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/caplance/caplance/core/agent"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/daemon"
)

func server(ctx context.Context, e env) error {
	fs := flag.NewFlagSet("server", flag.ContinueOnError)
	file := fs.String("c", "/etc/caplance/caplance.toml", "configuration `file`; caplance.example.toml explains every key")
	test := fs.Bool("t", false, "check the configuration and its policies, then exit")
	if err := flags(e, fs); err != nil {
		return err
	}
	cfg, err := config.LoadServer(*file)
	if err != nil {
		return err
	}
	if *test {
		if err := daemon.Check(ctx, cfg); err != nil {
			return err
		}
		fmt.Fprintf(e.stdout, "%s is valid: %d service(s)\n", *file, len(cfg.Services))
		return nil
	}
	return withLog(ctx, e, cfg.Log, func(log *slog.Logger) (run, reload func(context.Context) error) {
		srv := daemon.New(cfg, log)
		return srv.Run, func(ctx context.Context) error {
			cfg, err := config.LoadServer(*file)
			if err != nil {
				return err
			}
			return srv.Reload(ctx, cfg)
		}
	})
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
		fmt.Fprintf(e.stdout, "%s is valid\n", *file)
		return nil
	}
	return withLog(ctx, e, cfg.Log, func(log *slog.Logger) (run, reload func(context.Context) error) {
		return agent.New(cfg, log).Run, func(context.Context) error { return nil }
	})
}

// withLog runs a daemon with its log. SIGHUP reopens the log and has the
// daemon reload what it can.
func withLog(ctx context.Context, e env, cfg config.Log, daemon func(*slog.Logger) (run, reload func(context.Context) error)) error {
	log, sink, err := cfg.Open()
	if err != nil {
		return err
	}
	defer sink.Close()
	run, reload := daemon(log)
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
					log.Error("not all of the configuration was reloaded", "err", err)
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
func version(_ context.Context, e env) error {
	v, revision := "unknown", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		v = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value
			}
		}
	}
	fmt.Fprintf(e.stdout, "caplance %s%s\n", v, revision)
	return nil
}
