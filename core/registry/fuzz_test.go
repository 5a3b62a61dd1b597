package registry

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/protocol"
)

// silent is a communicator that nobody reads.
type silent struct{ protocol.Communicator }

func (silent) WriteLine(string) error         { return nil }
func (silent) SetTimeouts(_, _ time.Duration) {}
func (silent) Close() error                   { return nil }
func (silent) ReadLine() (string, error)      { return "", errors.New("nobody writes") }
func (silent) WriteFrames([]byte) error       { return nil }
func isLine(s string) bool                    { return utf8.ValidString(s) && !strings.ContainsFunc(s, control) }
func control(r rune) bool                     { return unicode.IsControl(r) && r != '\t' }

// FuzzSession: whatever an agent sends, line after line, every answer is a line, short
// enough for who gets it, and there is its own backend and no other, once its path is
// proven and until it is gone. "<nonce>" stands for the
// one that its datagram has.
func FuzzSession(f *testing.F) {
	text, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range strings.Split(string(text), "```transcript\n")[1:] {
		script, _, _ := strings.Cut(b, "```")
		var lines []string
		for line := range strings.Lines(script) {
			if line, ok := strings.CutPrefix(line, "agent: "); ok {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		f.Add(strings.Join(lines, "\n"))
	}
	f.Fuzz(func(t *testing.T, script string) {
		set := testSettings()
		set.Limits = Limits{Changes: 1 << 20, Lines: 1 << 20, Sanity: 1 << 20}
		r := New(Config{
			Settings: set, Log: slog.New(slog.DiscardHandler),
			Sanity: func(netip.Addr, []byte) error { return nil },
			Offer: func(core.Backend) Offer {
				return Offer{VIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, MTU: 1472, TunnelMTU: 1472}
			},
			Active: func(core.Backend) int { return 0 },
			Apply:  func([]core.Backend) uint64 { return 0 },
		})
		s := r.newSession(silent{}, netip.MustParseAddrPort("127.0.0.1:9"))
		ctx, cancel := context.WithCancel(t.Context())
		s.unprove, s.expiry = func() {}, time.AfterFunc(time.Hour, func() {})
		defer func() {
			cancel()
			s.expiry.Stop()
			s.prover.Wait()
			s.pusher.Wait()
		}()
		for i, line := range strings.Split(script, "\n") {
			if i == 64 || len(line) > protocol.MaxRequest || !isLine(line) {
				return // no communicator hands out such a line
			}
			line = strings.ReplaceAll(line, "<nonce>", s.nonce)
			a, done := s.handle(ctx, line)
			s.writing.Lock()
			answer := a.line + s.tell(ctx, a.tell)
			s.writing.Unlock()
			most := protocol.MaxRequest
			if s.req.Version >= 2 {
				most = protocol.MaxReply
			}
			if !isLine(answer) || len(answer) > most {
				t.Fatalf("%q is answered by %q", line, answer)
			}
			list := r.Backends()
			if len(list) > 1 || len(list) == 1 && (list[0].Name != s.name || list[0].Addr != s.addr) || s.name == "" && len(list) > 0 {
				t.Fatalf("after %q there are %v; the session's is %q", line, list, s.name)
			}
			if done {
				if len(list) != 0 {
					t.Fatalf("after its end by %q there is %v", line, list)
				}
				return
			}
		}
	})
}
