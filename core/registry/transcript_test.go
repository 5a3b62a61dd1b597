package registry

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
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
			bubble(t, func(t *testing.T, w *world) { play(t, w, lines) })
		})
	}
}

func play(t *testing.T, w *world, lines []string) {
	var p *peer
	nonce := ""
	for _, line := range lines {
		actor, text, _ := strings.Cut(line, ":")
		text = strings.ReplaceAll(strings.TrimSpace(text), "<nonce>", nonce)
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
			p.expect(text)
		case word[0] == "datagram":
			nonce = w.nonce(word[2])
		case actor == "flows":
			n, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			w.active.Store(int64(n))
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
