package main

import (
	"fmt"
	"io"
	"strings"
)

func help(w io.Writer) {
	fmt.Fprint(w, "caplancectl asks and steers the Caplance that runs on this machine.\n\nUsage: caplancectl COMMAND [flags]\n")
	for _, s := range sections {
		fmt.Fprintf(w, "\n%s\n", s.heading)
		for _, c := range s.commands {
			fmt.Fprintf(w, "  %-29s %s\n", strings.TrimSpace(c.name+" "+c.takes), c.summary)
			if c.name == "policy" {
				fmt.Fprint(w, policyHelp)
			}
		}
	}
	fmt.Fprint(w, `
Flags, before or after the command:
  -o table|json        how to print (table)
  -timeout DURATION    give up after (10s; reload: 1m)
  -agent PATH          the agent's socket (/var/run/caplance.sock)
  -server PATH         the balancer's socket (/var/run/caplance-server.sock)
at the balancer, for pause, drain, resume, weight, disable, enable:
  -service NAME        in this service only; else in every one
  -for DURATION        take it back by itself after
  -reason TEXT         is kept and shown; for kick, too, in the log
for backends and flows:
  -service, -backend   only those of this service, of this backend
and for flows:
  -limit N             at most N (100); 0 is all
  -top                 those with the most bytes, in that order
  -client PREFIX       of this client, or of these (192.0.2.7, 192.0.2.0/24)
  -state STATE         pending, established, closing or ended
  -older DURATION      that began before
for events:
  -f                   go on until interrupted

Exit codes: 0 done, 1 refused, failed, or (status) not well, 2 usage.

Take a backend out for maintenance, and in again:
  caplancectl drain && watch caplancectl getstate   (until it says Drained)
  caplancectl resume

The same from the balancer, for ten minutes at most:
  caplancectl drain web1 -for 10m -reason "new kernel"
  caplancectl backends -backend web1                (until it says drained)
  caplancectl resume web1

Change the configuration file and make it hold:
  caplancectl reload -n && caplancectl reload

Replace the binary, of a balancer or an agent, without losing a connection:
  caplancectl handover && systemctl restart caplance   (caplance-agent; or start it by hand)
`)
}
