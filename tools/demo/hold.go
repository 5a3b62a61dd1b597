package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/caplance/caplance/e2e/cluster"
)

const invitation = `
It stays up until Ctrl-C. Press Enter here to send %[1]d requests and see who answers, or try, as root in another terminal:

  %[2]s backends -server %[3]s
  %[2]s flows -server %[3]s
  %[2]s pause -agent %[4]s
  %[2]s resume -agent %[4]s
  nsenter --net=/run/netns/%[5]s curl -s http://%[6]s/ http://[%[7]s]/
  nsenter --net=/run/netns/%[5]s bash -c 'head -1 </dev/tcp/%[6]s/%[8]d'    # without curl
  nsenter --net=/run/netns/%[9]s bash      # a shell on the balancer: nft list ruleset, ip addr

`

// round is how many requests Enter sends.
const round = 30

// hold keeps everything up until ctx ends.
func (d *demo) hold(ctx context.Context, bin string, in io.Reader) {
	ctl, err := filepath.Abs(filepath.Join(bin, "caplancectl"))
	if err != nil {
		ctl = "caplancectl"
	}
	c := d.cluster
	d.display.printf(invitation, round, ctl, c.ServerSocket(), d.victim.Socket(), c.Client.NS,
		cluster.VIP4, cluster.VIP6, cluster.LinePort, c.LB.NS)
	enter := make(chan struct{})
	go func() { // ends with the program: a terminal's read cannot be called off
		for s := bufio.NewScanner(in); s.Scan(); {
			enter <- struct{}{}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			d.display.printf("\ntaking everything down\n")
			return
		case <-enter:
			d.display.printf("%s\n", d.round(ctx))
		}
	}
}

// round asks a number of times and says who answered.
func (d *demo) round(ctx context.Context) string {
	by := map[string]int{}
	for range round {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		name, err := d.load.askHTTP(ctx, cluster.VIP4)
		cancel()
		if err != nil {
			return "no answer: " + err.Error()
		}
		by[name]++
	}
	var parts []string
	for _, b := range d.cluster.Backends {
		parts = append(parts, fmt.Sprintf("%s answered %d", b.Name, by[b.Name]))
	}
	return strings.Join(parts, ", ")
}
