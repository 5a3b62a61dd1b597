package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/e2e/fleet"
)

// crowd is how many agents reconnect at once, of a service of their own.
const crowd = 500

// crowdAddr is where they are: 10.79.1.0/24 and so on, behind one host.
func crowdAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 79, byte(1 + i/250), byte(i%250 + 1)})
}

// gather has the crowd register, on a host that is made once.
func gather(l *lab) (err error) {
	const gateway = "10.77.0.67"
	if l.crowd == nil {
		pair := auth.NewKeyPair()
		l.crowdKey = pair.Public()
		host, err := l.Net.Host("crowd")
		if err != nil {
			return err
		}
		if err := l.Switch.Attach(host, "eth0", netip.MustParsePrefix(gateway+"/24")); err != nil {
			return err
		}
		if err := l.LB.Route(netip.MustParsePrefix("10.79.0.0/16"), netip.MustParseAddr(gateway)); err != nil {
			return err
		}
		l.crowd, err = fleet.New(host, fleet.Options{
			Balancer: netip.MustParseAddrPort("10.77.0.1:1338"), Agents: crowd, Addr: crowdAddr, Prefix: "crowd-",
			Secure: func(c net.Conn) (net.Conn, error) {
				secure := auth.Client(c, pair, func(*auth.Identity) error { return nil })
				ctx, cancel := context.WithTimeout(l.ctx, scaled(30*second))
				defer cancel()
				_, err := secure.Prove(ctx)
				return secure, err
			},
		})
		if err != nil {
			return err
		}
		var all [][]string
		for range crowd {
			all = append(all, []string{"crowd"})
		}
		l.crowd.Add(all...)
	}
	toml := l.config() + fmt.Sprintf(`[[service]]
name = "crowd"
vip = "10.77.0.201"
protocol = "tcp"
ports = [80]
mode = "tunnel"
[[agent]]
name = "crowd"
keys = [%q]
allow = ["10.79.0.0/16"]
services = ["crowd"]
max_names = %d
`, l.crowdKey, crowd)
	if err := l.reload(strings.Replace(toml, "agents = []", `agents = ["10.77.0.0/24", "fd77::/64", "10.79.0.0/16"]`, 1)); err != nil {
		return err
	}
	return l.join()
}

// join connects the whole crowd and waits until all of it is active.
func (l *lab) join() error {
	ctx, cancel := context.WithTimeout(l.ctx, scaled(30*second))
	defer cancel()
	return errors.Join(l.crowd.Connect(ctx, l.crowd.All()), l.crowd.Await(ctx, crowd))
}

// rejoin breaks all sessions of the crowd at once, and begins them again.
func rejoin(l *lab) error {
	l.crowd.HangUp(l.crowd.All())
	return l.join()
}

// disperse ends the crowd, and its service.
func disperse(l *lab) error {
	l.crowd.HangUp(l.crowd.All())
	return l.reload(l.config())
}

// scatter ends what gather has begun, with the lab.
func (l *lab) scatter() {
	if l.crowd != nil {
		l.crowd.Close()
	}
}
