package probe

import (
	"net"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
)

// A service that stays down for one reason says the same each time: a check's own port
// would make each result news to the balancer.
func TestSameReason(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			_ = c.(*net.TCPConn).SetLinger(0) // a reset
			_ = c.Close()
		}
	}()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := u.LocalAddr().String()
	_ = u.Close()
	for _, tt := range []struct {
		spec Spec
		want string
	}{
		{Spec{Kind: HTTP, Address: l.Addr().String(), Path: "/", Status: Status{200, 299}}, "read tcp " + l.Addr().String() + ": read: connection reset by peer"},
		{Spec{Kind: DNS, Address: closed, Query: "example.org", Timeout: time.Second}, "read udp " + closed + ": read: connection refused"},
	} {
		to := target(53, core.ProtoUDP)
		for range 2 {
			if got := once(t, tt.spec, to); got != tt.want {
				t.Errorf("%s: %q, want %q", tt.spec.Kind, got, tt.want)
			}
		}
	}
}
