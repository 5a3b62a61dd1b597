package registry

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/protocol"
)

// TestTranscripts runs every transcript of docs/protocol.md, each against its
// own registry. In "<nonce>" stands whatever the last datagram said.
func TestTranscripts(t *testing.T) {
	text, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```transcript\n")[1:]
	if len(blocks) < 6 {
		t.Fatalf("%d transcripts found", len(blocks))
	}
	for _, b := range blocks {
		script, _, _ := strings.Cut(b, "```")
		lines := strings.Split(strings.TrimSpace(script), "\n")
		t.Run(lines[1], func(t *testing.T) {
			bubble(t, func(t *testing.T, w *testbed) { play(t, w, lines) })
		})
	}
}

func play(t *testing.T, w *testbed, lines []string) {
	var p *peer
	nonce, token := "", ""
	for _, line := range lines {
		actor, text, _ := strings.Cut(line, ":")
		text = strings.ReplaceAll(strings.TrimSpace(text), "<nonce>", nonce)
		if token != "" {
			text = strings.ReplaceAll(text, "<token>", token)
		}
		switch word := strings.Fields(actor); {
		case line == "agent connects":
			p = w.connect()
		case line == "agent hangs up":
			p.Close()
			synctest.Wait()
		case line == "balancer hangs up":
			if got, err := p.ReadLine(); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
				t.Fatalf("got %q, %v, want the end", got, err)
			}
		case word[0] == "after":
			d, err := time.ParseDuration(word[1])
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(d) // the bubble's clock
			synctest.Wait()
		case actor == "agent":
			p.send(text)
		case actor == "balancer":
			got, err := p.ReadLine()
			if _, value, ok := strings.Cut(got, " connections="); ok {
				token, _, _ = strings.Cut(value, " ")
				text = strings.ReplaceAll(text, "<token>", token)
			}
			if err != nil || got != text {
				t.Fatalf("got %q, %v, want %q", got, err, text)
			}
			synctest.Wait()
		case actor == "agent's frame":
			kind, reports := frameOf(t, text)
			if err := p.WriteFrames(protocol.AppendFrames(nil, kind, reports)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		case actor == "question":
			_, reports := frameOf(t, "question "+text+" 0")
			if !w.r.Ask("web1", reports) {
				t.Fatal("not asked")
			}
		case actor == "question after how many":
			if !w.r.AskCount("web1") {
				t.Fatal("not asked")
			}
		case actor == "balancer's frame":
			kind, reports := frameOf(t, text)
			if got, read, err := p.ReadFrame(nil); err != nil || got != kind || !slices.Equal(read, reports) {
				t.Fatalf("got %d %v, %v, want %q", got, read, err, text)
			}
		case actor == "told":
			if got := w.heard(); got != "web1 "+text {
				t.Fatalf("told %q, want %q", got, text)
			}
		case word[0] == "datagram":
			kind, _, _ := strings.Cut(strings.TrimSpace(text), " ")
			nonce = w.datagram(word[2], kind)
		case actor == "flows":
			n, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			w.active.Store(int64(n))
		case actor == "offer":
			w.setOffer(text)
		case actor == "offer at once":
			w.setOffer(text)
			w.r.Offers()
			synctest.Wait()
		case actor == "ready":
			if got := joinAddrs(w.backend(strings.Fields(text)[0]).VIPs); got != strings.Join(strings.Fields(text)[1:], ",") {
				t.Fatalf("%s has %q, want %q", strings.Fields(text)[0], got, text)
			}
		case actor == "down":
			name, want, _ := strings.Cut(text, " ")
			var got []string
			for _, d := range w.backend(name).Down {
				got = append(got, d.Service+" ("+d.Why+")")
			}
			if strings.Join(got, ", ") != want {
				t.Fatalf("down are %q, want %q", got, want)
			}
		case actor == "why":
			name, want, _ := strings.Cut(text, " ")
			if got := w.backend(name).Reason; got != want {
				t.Fatalf("reason %q, want %q", got, want)
			}
		case actor == "pool":
			if got := w.seen(); got != text {
				t.Fatalf("pool is %q, want %q", got, text)
			}
		default:
			t.Fatalf("transcript line %q is not understood", line)
		}
	}
	p.Close()
}

// frameOf reads "ended <client> <VIP> <value>", or "lost".
func frameOf(t *testing.T, text string) (kind protocol.FrameKind, reports []protocol.Report) {
	t.Helper()
	words := strings.Fields(text)
	for k, name := range frameNames {
		if name == words[0] {
			kind = k
		}
	}
	if kind == 0 || len(words) == 1 {
		return kind, nil
	}
	client, vip := netip.MustParseAddrPort(words[1]), netip.MustParseAddrPort(words[2])
	value, err := strconv.ParseUint(words[3], 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	key := core.FlowKey{Src: client.Addr().As16(), Dst: vip.Addr().As16(), SrcPort: client.Port(), DstPort: vip.Port(), Proto: core.ProtoTCP}
	return kind, []protocol.Report{{Key: key, Value: uint16(value)}}
}

// setOffer changes the options that text names.
func (w *testbed) setOffer(text string) {
	w.t.Helper()
	defer w.r.offers.Add(1) // the next heartbeat carries it
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "vips":
			w.offer.VIPs = parseAddrs(value)
		case "balancers":
			w.offer.Balancers = parseAddrs(value)
		case "mtu":
			w.offer.MTU, _ = strconv.Atoi(value)
		case "mode":
			w.offer.Direct = value == "direct"
		default:
			w.t.Fatalf("option %q is not understood", word)
		}
	}
}

func parseAddrs(list string) (out []netip.Addr) {
	for word := range strings.SplitSeq(list, ",") {
		if word != "" {
			out = append(out, netip.MustParseAddr(word))
		}
	}
	return out
}
