package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/caplance/caplance/core/agent"
	"github.com/caplance/caplance/core/auth"
)

// join has a balancer enrol this machine's key by a token, and writes the agent's
// configuration.
func join(ctx context.Context, e env) error {
	fs := flag.NewFlagSet("join", flag.ContinueOnError)
	file := fs.String("c", "/etc/caplance/agent.toml", "the agent's configuration `FILE`; one that is there is kept")
	key := fs.String("key", "/etc/caplance/agent.key", "this machine's key `FILE`, made if it is not there")
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), `Usage: caplance join [-c FILE] [-key FILE] TOKEN

Makes this machine's key, has the balancer enrol it, and writes the agent's
configuration. TOKEN is what caplancectl token create prints on the balancer; it
works once. "-" reads it from standard input.

`)
		fs.PrintDefaults()
	}
	text, err := operand(e, fs, "1 token is needed (caplancectl token create prints one on the balancer)")
	if err != nil {
		return err
	}
	if text == "-" {
		if _, err := fmt.Fscan(os.Stdin, &text); err != nil {
			return fmt.Errorf("token: %w", err)
		}
	}
	token, err := auth.ParseToken(text)
	if err != nil {
		return err
	}
	pair, err := keyFor(*key)
	if err != nil {
		return err
	}
	out, err := reserve(*file) // before the token is used up
	if err != nil {
		return err
	}
	name, err := agent.Join(ctx, token, pair)
	if err != nil {
		return errors.Join(err, release(out))
	}
	fmt.Fprintf(e.stdout, "%s knows this machine as %s from now on\n", token.Server, name)
	return configure(e, out, *file, *key, name, token)
}

// reserve makes a file to be written; nil: it is there already, and is kept.
func reserve(file string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil, nil
	}
	return out, err
}

// release takes back what reserve made.
func release(out *os.File) error {
	if out == nil {
		return nil
	}
	return errors.Join(out.Close(), os.Remove(out.Name()))
}

// keyFor returns the key in a file, and makes it if there is none.
func keyFor(file string) (*auth.KeyPair, error) {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return auth.LoadKeyPair(file)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	pair := auth.NewKeyPair()
	return pair, pair.Save(file)
}

// configure writes the agent's configuration, or prints what a file that is kept has
// to say.
func configure(e env, out *os.File, file, key, name string, token auth.Token) error {
	key, err := filepath.Abs(key)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("name = %q\nserver = %q\nkey = %q\nbalancer_keys = [%q]\n", name, token.Server, key, token.Key)
	if out != nil {
		_, err = out.WriteString("# Written by caplance join. agent.example.toml explains every key.\n" + text)
		if err = errors.Join(err, out.Sync(), out.Close()); err == nil {
			fmt.Fprintf(e.stdout, "%s was written; start the agent: caplance agent -c %[1]s\n", file)
			return nil
		}
	}
	why := "is there and was kept"
	if err != nil {
		why = "could not be written"
	}
	fmt.Fprintf(e.stdout, "%s %s; it has to say:\n\n  %s\n", file, why, strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  "))
	return err
}
