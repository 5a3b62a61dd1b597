package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/caplance/caplance/core/auth"
)

// keygen makes a machine's key, and prints the public half.
func keygen(_ context.Context, e env) error {
	fs := flag.NewFlagSet("keygen", flag.ContinueOnError)
	public := fs.Bool("public", false, "print the public half of a key that is there")
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), `Usage: caplance keygen [-public] FILE

Makes a machine's key (Ed25519) in FILE, which nobody else can read, and prints
its public half. An agent's is listed in [[agent]] keys of its balancers, a
balancer's in balancer_keys of its agents. A key that is there is kept.

`)
		fs.PrintDefaults()
	}
	file, err := operand(e, fs, "1 file is needed (like /etc/caplance/agent.key)")
	if err != nil {
		return err
	}
	if *public {
		pair, err := auth.LoadKeyPair(file)
		if err == nil {
			fmt.Fprintln(e.stdout, pair.Public())
		}
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	pair := auth.NewKeyPair()
	if err := pair.Save(file); errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there already and was kept (caplance keygen -public %[1]s prints its public half)", file)
	} else if err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, pair.Public())
	return nil
}
