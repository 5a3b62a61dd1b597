package agent

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caplance/caplance/core/protocol"
)

// What a balancer says is in the log, however long it is, by its begin.
func TestBrief(t *testing.T) {
	for _, line := range []string{
		"INVALID " + strings.Repeat("é", 100_000),
		"REGISTERED b1 10.0.0.11 mtu=" + strings.Repeat("9", 200_000),
		"REGISTERED b1 10.0.0.11 vips=" + strings.Repeat("x", 200_000),
	} {
		reply, err := protocol.ParseReply(line)
		if err != nil {
			t.Fatal(err)
		}
		if reply.Verb == protocol.Invalid {
			err = errors.New(reply.Text)
		} else {
			_, err = offer{}.with(reply.Options)
		}
		if err == nil || len(err.Error()) < 100_000 {
			t.Fatalf("this proves nothing: %v", err)
		}
		if got := brief(err); len(got) > maxBrief+4 || !utf8.ValidString(got) || !strings.HasSuffix(got, "…") {
			t.Errorf("%d bytes", len(got))
		}
	}
	if got := brief(errors.New("short")); got != "short" {
		t.Error(got)
	}
	list, at := []netip.Addr{}, netip.MustParseAddr("10.0.0.0")
	for range 10_000 {
		list, at = append(list, at), at.Next()
	}
	if got := few(list); len(got) > 2000 || !strings.HasSuffix(got, "10.0.0.63] and 9936 more") {
		t.Error(got)
	}
	if got := few(list[:2]); got != "[10.0.0.0 10.0.0.1]" {
		t.Error(got)
	}
}

// The agent's log has none of a balancer's long lists.
func TestLongListsOfABalancer(t *testing.T) {
	b := newBalancer(t, freePort(t))
	at := netip.MustParseAddr("2001:db8:1::1")
	for range 3_000 {
		b.offer.VIPs, at = append(b.offer.VIPs, at), at.Next()
	}
	cfg, log := b.config(), new(logged)
	cfg.VIPNetworks = []netip.Prefix{netip.PrefixFrom(vip4, 32)}
	a := startLogged(t, cfg, slog.NewTextHandler(log, nil))
	b.until("b1 active")
	a.eventually("192.0.2.1 at 1400 bytes", a.serves)
	mustReload(t, a, func(c *Config) { c.VIPNetworks = nil })
	a.eventually("yes", log.has("refused no more"))
	log.mu.Lock()
	defer log.mu.Unlock()
	if got := log.buf.String(); !strings.Contains(got, "and 2938 more") || !strings.Contains(got, "more vips refused") || len(got) > 20_000 {
		t.Errorf("%d bytes of log: %.3000s", len(got), got)
	}
}
