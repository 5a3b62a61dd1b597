package main

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/agent"
	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/config"
)

//go:embed units/*.service
var units embed.FS

const initHelp = `Usage: caplance init server|agent [flags]

Writes what a first start needs: the configuration, this machine's key, and with
-units the unit for systemd. What the flags leave out is asked for, if the
standard input is a terminal. Nothing that is there is overwritten. For a
backend whose balancer has made a token, caplance join is shorter.
`

// initialise carries out init.
func initialise(ctx context.Context, e env) error {
	if len(e.args) == 0 {
		fmt.Fprint(e.stderr, initHelp)
		return errUsage
	}
	name := e.args[0]
	e.args = e.args[1:]
	switch name {
	case "server":
		return initServer(ctx, e)
	case "agent":
		return initAgent(ctx, e)
	case "help", "-h", "--help", "-help":
		fmt.Fprint(e.stdout, initHelp)
		return nil
	}
	fmt.Fprintf(e.stderr, "caplance init: %q is neither server nor agent\n\n%s", name, initHelp)
	return errUsage
}

// setup is what both have in common.
type setup struct {
	env
	fs    *flag.FlagSet
	dir   string
	units string
	in    *bufio.Reader // nil: nobody can be asked
}

func newSetup(e env, name string) *setup {
	s := &setup{env: e, fs: flag.NewFlagSet("init "+name, flag.ContinueOnError)}
	s.fs.Usage = func() { fmt.Fprint(s.fs.Output(), initHelp+"\nFlags:\n"); s.fs.PrintDefaults() }
	s.fs.StringVar(&s.dir, "dir", "/etc/caplance", "`directory` for configuration and key")
	s.fs.StringVar(&s.units, "units", "", "`directory` for the unit of systemd (like /etc/systemd/system); empty: none")
	if _, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS); err == nil { // it is a terminal
		s.in = bufio.NewReader(os.Stdin)
	}
	return s
}

func (s *setup) parse() (err error) {
	if err = flags(s.env, s.fs); err == nil {
		s.dir, err = filepath.Abs(s.dir)
	}
	return err
}

// ask asks for what a flag has left out.
func (s *setup) ask(value *string, flag, question string) error {
	if *value != "" {
		return nil
	}
	if s.in == nil {
		return fmt.Errorf("-%s is missing: %s", flag, question)
	}
	fmt.Fprintf(s.stdout, "%s ", question)
	line, err := s.in.ReadString('\n')
	if *value = strings.TrimSpace(line); *value == "" {
		return errors.Join(fmt.Errorf("no answer"), err)
	}
	return nil
}

// write writes files, all or none: a map from their names to what is in them.
func (s *setup) write(files map[string]string) (err error) {
	var made []string
	defer func() {
		if err != nil {
			for _, name := range made {
				err = errors.Join(err, os.Remove(name))
			}
		}
	}()
	for name, text := range files {
		out, err := reserve(name)
		if err != nil {
			return err
		}
		if out == nil {
			return fmt.Errorf("%s is there already and was kept: nothing was written (remove it, or change it by hand)", name)
		}
		made = append(made, name)
		_, err = out.WriteString(text)
		if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
			return err
		}
	}
	return nil
}

// unit returns a unit with the path of this program, for write; none without -units.
func (s *setup) unit(name string) (map[string]string, error) {
	if s.units == "" {
		return map[string]string{}, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := units.ReadFile("units/" + name)
	if err != nil {
		return nil, err
	}
	out := strings.NewReplacer("@BINDIR@", filepath.Dir(self), "@DOCDIR@", "/usr/share/doc/caplance", "/etc/caplance/", s.dir+"/").Replace(string(text))
	return map[string]string{filepath.Join(s.units, name): out}, nil
}

func initServer(_ context.Context, e env) error {
	s := newSetup(e, "server")
	service := s.fs.String("service", "web", "the first service's `name`")
	vip := s.fs.String("vip", "", "its virtual IP `address`")
	ports := s.fs.String("ports", "", "its `ports`, like 80,443 or 8000-8080")
	protocol := s.fs.String("protocol", "tcp", "its `protocol`: tcp, udp or both")
	if err := s.parse(); err != nil {
		return err
	}
	err := errors.Join(s.ask(vip, "vip", "Which address do clients connect to (the VIP, one that no machine has)?"))
	if err = errors.Join(err, s.ask(ports, "ports", "At which ports (like 80,443)?")); err != nil {
		return err
	}
	var list []string
	for _, p := range strings.Split(*ports, ",") {
		if p = strings.TrimSpace(p); strings.Contains(p, "-") {
			p = fmt.Sprintf("%q", p)
		}
		list = append(list, p)
	}
	file, key := filepath.Join(s.dir, "caplance.toml"), filepath.Join(s.dir, "balancer.key")
	text := fmt.Sprintf(`# Written by caplance init. caplance.example.toml explains every key.
[registry]
auth = "keys"
key = %q

[[service]]
name = %q
vip = %q
protocol = %q
ports = [%s]

# An [[agent]] for each backend, or a token: sudo caplancectl token create -name NAME
`, key, *service, *vip, *protocol, strings.Join(list, ", "))
	if _, err := config.ParseServer(file, []byte(text)); err != nil {
		return err
	}
	public, err := s.install(file, text, key, "caplance.service")
	if err != nil {
		return err
	}
	fmt.Fprintf(s.stdout, "%s and %s are written. This balancer's key, for balancer_keys of its agents:\n  %s\nNext: caplance server -t -c %[1]s, then %[4]s, then caplancectl token create -name NAME for each backend.\n",
		file, key, public, s.start("caplance", "caplance server -c "+file))
	return nil
}

// install writes configuration, unit and key, and returns the key's public half.
func (s *setup) install(file, text, key, unit string) (auth.PublicKey, error) {
	files, err := s.unit(unit)
	if err != nil {
		return auth.PublicKey{}, err
	}
	files[file] = text
	if err := s.write(files); err != nil {
		return auth.PublicKey{}, err
	}
	pair, err := keyFor(key)
	if err != nil {
		return auth.PublicKey{}, err
	}
	return pair.Public(), nil
}

// start returns the command that starts it.
func (s *setup) start(unit, command string) string {
	if s.units == "" {
		return command
	}
	return "systemctl enable --now " + unit
}

func initAgent(_ context.Context, e env) error {
	s := newSetup(e, "agent")
	server := s.fs.String("server", "", "`address` of the balancer's registry, like 10.0.0.1 or 10.0.0.1:1338")
	balancer := s.fs.String("balancer-key", "", "the balancer's public `key`")
	host, _ := os.Hostname()
	name := s.fs.String("name", strings.SplitN(host, ".", 2)[0], "this backend's `name`")
	if err := s.parse(); err != nil {
		return err
	}
	err := s.ask(server, "server", "Where is the balancer (its address)?")
	if err = errors.Join(err, s.ask(balancer, "balancer-key", "Which is its public key (caplance keygen -public there)?")); err != nil {
		return err
	}
	if _, err := auth.ParsePublicKey(*balancer); err != nil {
		return fmt.Errorf("-balancer-key: %w", err)
	}
	file, key := filepath.Join(s.dir, "agent.toml"), filepath.Join(s.dir, "agent.key")
	text := fmt.Sprintf("# Written by caplance init. agent.example.toml explains every key.\nname = %q\nserver = %q\nkey = %q\nbalancer_keys = [%q]\n", *name, *server, key, *balancer)
	if _, err := agent.Parse(file, []byte(text)); err != nil {
		return err
	}
	public, err := s.install(file, text, key, "caplance-agent.service")
	if err != nil {
		return err
	}
	fmt.Fprintf(s.stdout, "%s and %s are written. Add to the balancer's configuration, and reload it:\n\n[[agent]]\nname = %q\nkeys = [%q]\n\nThen: %s\n",
		file, key, *name, public, s.start("caplance-agent", "caplance agent -c "+file))
	return nil
}
