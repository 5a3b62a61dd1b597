package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/e2e/cluster"
)

// scenario is something that happens, and what it may cost.
type scenario struct {
	name   string
	what   string             // happens; for the table
	why    string             // it costs what it costs; "": nothing to explain
	before func(l *lab) error // what has to be there; uncounted
	do     func(l *lab) error
	watch  time.Duration // what it does, before undo
	undo   func(l *lab) error
	skip   func(l *lab) bool
	short  string // datapath type that it runs on in the short form

	bound     bound
	userspace *bound // where it costs more without a kernel that forwards
}

func (s *scenario) limit(kind string) bound {
	if kind == "userspace" && s.userspace != nil {
		return *s.userspace
	}
	return s.bound
}

const second = time.Second

// nothing is the bound of what nobody may notice, but for a busy machine's own delays.
var nothing = bound{gap: 2 * second, stall: 2 * second, recovery: 3 * second}

// standstill is that of a time in which nobody forwards, of some 5 s.
var standstill = bound{failed: 500, moved: 16, lost: 2400, gap: 8 * second, stall: 15 * second, recovery: 9 * second}

// withoutAgent is that of an agent that starts again, in userspace, where it takes the
// packets out of the tunnel: until it has registered, which may wait for something.
var withoutAgent = bound{failed: 50, lost: 1500, gap: 2 * second, stall: 6 * second, recovery: 6 * second}

var scenarios = []scenario{
	{name: "nothing", what: "nothing happens", do: quiet, watch: 2 * second, bound: nothing},

	{name: "backend added", what: "a fourth agent starts, and stops with a drain", do: func(l *lab) error {
		if err := l.Backends[members].StartAgent(l.ctx); err != nil {
			return err
		}
		return l.AwaitActive(l.ctx, members+1)
	}, watch: second, undo: func(l *lab) error { return l.Backends[members].StopAgent() }, bound: nothing},
	{name: "backend drained", what: "`drain`, after 2 s `resume`", do: steer("drain", "draining"), watch: 2 * second, undo: steer("resume", "active"), bound: nothing, short: "xdp"},
	{name: "backend paused", what: "`pause`, after 2 s `resume`", do: steer("pause", "paused"), watch: 2 * second, undo: steer("resume", "active"), bound: bound{failed: 20, lost: 800, gap: 2 * second, stall: 8 * second, recovery: 5 * second},
		why: "a pause drops what comes for the backend, by contract: its connections stand still, those that were just beginning may give up, its datagrams are lost, and nothing is reset. `drain` costs nothing"},
	{name: "backend killed", what: "agent and services killed, after 6 s started again", do: func(l *lab) error {
		l.victim.Agent.Kill()
		l.victim.EndServices()
		return nil
	}, watch: 6 * second, undo: comeBack, bound: bound{failed: 20, reset: 42, lost: 2000, gap: 2 * second, stall: 2 * second, recovery: 9 * second},
		why: "its kernel resets the connections that it had. New ones go elsewhere at once, for the session has ended. UDP flows wait for the agent to come back, up to `registry.rejoin` (30 s): nobody can tell a service that starts again from one that does not"},
	{name: "backend frozen", what: "agent and services stopped, go on after 6 s", do: func(l *lab) error {
		l.victim.Agent.Signal(syscall.SIGSTOP)
		l.victim.Freeze()
		return nil
	}, watch: 6 * second, undo: func(l *lab) error {
		l.victim.Agent.Signal(syscall.SIGCONT)
		l.victim.Thaw()
		return nil
	}, bound: bound{failed: 250, reset: 42, moved: 58, lost: 1500, gap: 2 * second, stall: 12 * second, recovery: 7 * second},
		why: "its kernel goes on, so that only silence tells: new flows go elsewhere after lease and grace, 4 s, and established ones are placed anew then; connections that the client says nothing on until it goes on again are not lost"},
	{name: "backend cut off", what: "its link is down for 6 s", do: func(l *lab) error { return l.victim.SetUp("eth0", false) }, watch: 6 * second, undo: reconnect, bound: bound{failed: 250, reset: 42, moved: 58, lost: 1500, gap: 2 * second, stall: 12 * second, recovery: 7 * second},
		why: "as a frozen one: 4 s of silence. What has asked meanwhile and asks again within its 3 s goes elsewhere"},
	{name: "backend flapping", what: "its link is down and up at 2 Hz, six times", do: func(l *lab) (err error) {
		for range 6 {
			err = errors.Join(err, l.victim.SetUp("eth0", false))
			l.pass(250 * time.Millisecond)
			err = errors.Join(err, reconnect(l))
			l.pass(250 * time.Millisecond)
		}
		return err
	}, watch: second, bound: bound{failed: 80, lost: 800, gap: 2 * second, stall: 6 * second, recovery: 6 * second},
		why: "no flow is given up for a link that comes back within the lease; what met it while it was down was sent in vain"},
	{name: "service dead", what: "its services are killed, its agent goes on; started again after 5 s", do: func(l *lab) error { l.victim.EndServices(); return nil }, watch: 5 * second,
		undo: func(l *lab) error { return l.victim.Serve() }, bound: bound{failed: 100, reset: 42, lost: 2000, gap: 2 * second, stall: 2 * second, recovery: 8 * second},
		why: "its kernel resets the connections that it had and refuses new ones for up to a second, until the agent's check sees it. UDP flows stay where they are while the backend lives"},

	{name: "agent restarted", what: "`kill -9`, started again at once", do: func(l *lab) error {
		l.victim.Agent.Kill()
		return l.victim.StartAgent(l.ctx)
	}, watch: second, bound: nothing, userspace: &bound{lost: 200, gap: 2 * second, stall: 3 * second, recovery: 3 * second},
		why: "in userspace the agent itself takes packets out of the tunnel: those of the gap are lost"},
	{name: "agent upgraded", what: "`caplancectl handover`, the next one starts", do: func(l *lab) error {
		if _, err := control.HandoverAgent(l.ctx, l.victim.Socket(), l.victim.Name); err != nil {
			return err
		}
		<-l.victim.Agent.Done()
		return l.victim.StartAgent(l.ctx)
	}, watch: second, bound: nothing, userspace: &bound{lost: 200, gap: 2 * second, stall: 3 * second, recovery: 3 * second}, short: "userspace"},

	{name: "balancer killed", what: "`kill -9`, after 4 s started again", do: func(l *lab) error { l.Server.Kill(); return nil }, watch: 4 * second,
		undo: func(l *lab) error { return l.StartServer(l.ctx) }, bound: bound{failed: 20, gap: 4 * second, stall: 2 * second, recovery: 6 * second}, userspace: &standstill,
		why: "the kernel goes on with all flows, and places new ones after 2 s without the daemon; a SYN that comes before is sent again by its client, seldom too late for the 3 s that it has here. In userspace nobody forwards until the next start, which places flows where they were as far as the policy repeats itself", short: "xdp"},
	{name: "balancer frozen", what: "stopped for 5 s", do: signal(syscall.SIGSTOP), watch: 5 * second, undo: signal(syscall.SIGCONT), bound: bound{failed: 20, gap: 4 * second, stall: 2 * second, recovery: 6 * second}, userspace: &standstill, short: "tc"},
	{name: "balancer upgraded", what: "`caplancectl handover`, the next one starts (on userspace: stopped, the next one starts)", do: upgrade, watch: second, bound: nothing, userspace: &bound{failed: 50, reset: 42, moved: 58, lost: 800, gap: 4 * second, stall: 6 * second, recovery: 5 * second},
		why: "in userspace there is no handover: a stop takes the VIPs away, and the machine resets what comes for them until the next start", short: "tc"},
	{name: "balancer reloaded", what: "20 reloads that change keys of every section, the datapath type and back", do: reloadKeys, watch: second, bound: bound{gap: 2 * second, stall: 2 * second, recovery: 9 * second},
		why: "another datapath type, other queues: a SYN that waits in a queue that ends is sent again by its client"},
	{name: "out of descriptors", what: "the balancer gets no more for 3 s; 50 peers connect, an agent is killed and starts", do: exhaust, watch: 3 * second,
		undo: func(l *lab) error { return l.descriptors(1 << 20) }, bound: nothing, userspace: &withoutAgent},
	{name: "disk full", what: "state and log have no room for 3 s; an agent is killed and starts, an operator orders", do: fullDisk, watch: 3 * second, undo: func(l *lab) error {
		return errors.Join(os.Remove(filepath.Join(l.stateDir(), "full")), l.reload(l.config()))
	}, bound: nothing, userspace: &withoutAgent},
	{name: "policies swapped", what: "20 times in 2 s, on every service", do: swap, watch: second, undo: backTo, bound: nothing},
	{name: "policy traps", what: "one that traps at one flow in four once a backend drains; it passes its trial before", do: misbehave(0x00), watch: 2 * second, undo: behave, bound: nothing, short: "userspace"},
	{name: "policy loops", what: "one that never ends at one flow in four, likewise", do: misbehave(0x03, 0x40, 0x0c, 0, 0x0b, 0x00), watch: 2 * second, undo: behave, bound: nothing},

	{name: "SYN flood", what: "20 000 a second from addresses that nobody has, 3 s", do: attack(floodRate, segment(packet.SYN)), bound: nothing},
	{name: "ACK flood", what: "likewise", do: attack(floodRate, segment(packet.ACK)), bound: nothing},
	{name: "UDP flood", what: "likewise", do: attack(floodRate, datagram), bound: bound{lost: 150, gap: 2 * second, stall: 2 * second, recovery: 6 * second},
		why: "the backends' services take part of the flood as well, in the same socket buffers"},
	{name: "malformed packets", what: "likewise: cut off, and with bytes at random", do: attack(floodRate, malformed), bound: nothing},

	{name: "500 agents at once", what: "all sessions of 500 more backends break, and begin again at once", before: gather, do: rejoin, watch: second, undo: disperse, bound: nothing},

	{name: "balancer's link flaps", what: "down and up at 2 Hz, six times", do: func(l *lab) (err error) {
		for range 6 {
			err = errors.Join(err, flap(l))
			l.pass(500 * time.Millisecond)
		}
		return err
	}, watch: second, bound: bound{lost: 200, gap: 3 * second, stall: 4 * second, recovery: 6 * second},
		why: "what comes in the moments without a link is lost"},
	{name: "loss", what: "of one packet in 128, to the balancer and to the client, for 4 s", do: lose, bound: bound{lost: 100, gap: 2 * second, stall: 4 * second, recovery: 9 * second},
		why: "the network loses it, nobody else; TCP sends it again"},
	{name: "reordering", what: "one packet in 16 from the client comes 3 ms later, for 4 s", do: disorder, bound: nothing},
}

func init() {
	for _, d := range drifts {
		d.watch = 3 * second / 2
		if d.bound == (bound{}) {
			d.bound = nothing
		}
		scenarios = append(scenarios, d)
	}
}

func quiet(*lab) error { return nil }

// steer has the operator give an order about the victim.
func steer(verb, state string) func(l *lab) error {
	return func(l *lab) error {
		if _, err := l.Control().Steer(l.ctx, api.AdminOrder{Verb: verb, Backend: l.victim.Name}); err != nil {
			return err
		}
		return l.awaitState(state)
	}
}

// awaitState waits until the victim is in a state in all services.
func (l *lab) awaitState(want string) error {
	return cluster.Await(l.ctx, l.victim.Name+" to be "+want, func() error {
		rows, err := l.Control().BackendsOf(l.ctx, api.BackendFilter{Backend: l.victim.Name})
		for _, r := range rows {
			if r.State.String() != want {
				err = fmt.Errorf("it is %s", r.State)
			}
		}
		return err
	})
}

// comeBack starts what the victim has.
func comeBack(l *lab) error { return errors.Join(l.victim.Serve(), l.victim.StartAgent(l.ctx)) }

// reconnect has the victim's link up, with the IPv6 address that went with it.
func reconnect(l *lab) error {
	return errors.Join(l.victim.SetUp("eth0", true), giveBack(l.victim.Host, "eth0", fmt.Sprintf("fd77::%x/64", l.victim.Data.As4()[3])))
}

func signal(s syscall.Signal) func(l *lab) error {
	return func(l *lab) error { l.Server.Signal(s); return nil }
}

func upgrade(l *lab) error {
	end := l.StopServer
	if l.Type != "userspace" {
		end = func() error {
			err := cluster.Await(l.ctx, "a handover", func() error { // refused until a takeover is over
				_, err := l.Control().Handover(l.ctx)
				return err
			})
			if err == nil {
				<-l.Server.Done()
			}
			return err
		}
	}
	if err := end(); err != nil {
		return err
	}
	return l.StartServer(l.ctx)
}

// exhaust takes the balancer's descriptors away while some are needed.
func exhaust(l *lab) error {
	if err := l.descriptors(2); err != nil {
		return err
	}
	var conns []net.Conn
	for range 50 {
		ctx, cancel := context.WithTimeout(l.ctx, second)
		if c, err := l.Client.Dial(ctx, "tcp", "10.77.0.1:1338"); err == nil {
			conns = append(conns, c)
		}
		cancel()
	}
	l.victim.Agent.Kill()
	err := errors.Join(l.victim.StartAgent(l.ctx), cluster.Await(l.ctx, "the balancer to be out of descriptors", func() error {
		if !strings.Contains(l.Server.Output(), "too many open files") {
			return errors.New("not in its log")
		}
		return nil
	}))
	for _, c := range conns {
		c.Close()
	}
	return err
}

// fullDisk has the balancer log to the file system of its state, and fills that.
func fullDisk(l *lab) error {
	logging := strings.Replace(l.config(), "[log]\n", fmt.Sprintf("[log]\nfile = %q\n", filepath.Join(l.Dir, "lb", "caplance.log")), 1)
	if err := errors.Join(l.reload(logging), l.fill()); err != nil {
		return err
	}
	if err := steer("drain", "draining")(l); err == nil {
		return errors.New("an order was taken that cannot be kept")
	}
	l.victim.Agent.Kill()
	return l.victim.StartAgent(l.ctx)
}

// services are the cluster's.
var services = []string{"web4", "echo4", "web6", "echo6"}

func swap(l *lab) error {
	policies := []string{"round-robin", "least-connections", "maglev", "random"}
	for i := range 20 {
		for _, s := range services {
			if err := l.Control().Swap(l.ctx, s, policies[i%len(policies)]); err != nil {
				return err
			}
		}
		l.pass(100 * time.Millisecond)
	}
	return nil
}

func backTo(l *lab) (err error) {
	for _, s := range services {
		err = errors.Join(err, l.Control().Swap(l.ctx, s, "hash"))
	}
	return err
}

// misbehave gives all services a policy that ends some picks like this as soon as a
// backend drains, which then happens.
func misbehave(body ...byte) func(l *lab) error {
	return func(l *lab) (err error) {
		file := filepath.Join(l.Dir, "faulty.wasm")
		if err := os.WriteFile(file, cluster.FaultyPolicy(body, members-1), 0o644); err != nil {
			return err
		}
		for _, s := range services {
			err = errors.Join(err, l.Control().Swap(l.ctx, s, file))
		}
		return errors.Join(err, steer("drain", "draining")(l))
	}
}

// behave wants to see that the policy has failed, and ends it.
func behave(l *lab) error {
	rows, err := l.Control().Policies(l.ctx)
	for _, r := range rows {
		if r.Service == "web4" && r.Failures == 0 {
			err = errors.Join(err, fmt.Errorf("the policy never failed: this proves nothing: %+v", r))
		}
	}
	return errors.Join(err, backTo(l), steer("resume", "active")(l))
}

// clientPort is the switch's port that the client is at, lbPort the balancer's.
const lbPort, clientPort = "port0", "port1"

func lose(l *lab) error {
	there, err := l.Switch.Lose(clientPort, 128)
	if err != nil {
		return err
	}
	back, err := l.Client.Lose("eth0", 128)
	if err != nil {
		return errors.Join(err, there.Close())
	}
	l.pass(4 * second)
	return errors.Join(there.Close(), back.Close())
}

func disorder(l *lab) error {
	if err := l.Client.Checksums("eth0", false); err != nil {
		return err
	}
	r, err := l.Switch.Reorder(clientPort, lbPort, 16)
	if err != nil {
		return err
	}
	l.pass(4 * second)
	err = r.Close()
	if l.Type != "xdp" {
		err = errors.Join(err, l.Client.Checksums("eth0", true))
	}
	return err
}
