package liveness

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/datapath"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/protocol"
)

// userspace is a fast path that is off.
type userspace struct{}

func (userspace) Kernel() *fastpath.Balancer { return nil }
func (userspace) Hold() (release func())     { return func() {} }

// bench is a tracker with one backend, web1, which is asked and answers by hand.
type bench struct {
	*Tracker
	snap    *core.Snapshot
	asked   []protocol.Report
	told    []datapath.Word
	counted int // times that a backend was asked for its count
}

var web1 = core.NewHandle(0, 1)

func newBench(t *testing.T) *bench {
	svc := &core.Service{Name: "web"}
	pool := core.NewPool(svc, 1, []core.Member{{Backend: core.Backend{Name: "web1", Tells: true}, Handle: web1}})
	b := &bench{snap: &core.Snapshot{Pools: core.NewPoolSet().With(map[core.ServiceID]*core.Pool{0: pool})}}
	b.Tracker = New(Config{
		Snapshot: func() *core.Snapshot { return b.snap }, Fast: userspace{},
		Ask: func(backend string, about []protocol.Report) bool {
			if backend != "web1" {
				t.Errorf("asked %s", backend)
			}
			b.asked = append(b.asked, about...)
			return true
		},
		Count: func(backend string) bool { b.counted++; return backend == "web1" },
		Tell:  func(words []datapath.Word) { b.told = append(b.told, words...) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

func keyOf(n uint32) (k core.FlowKey) {
	binary.BigEndian.PutUint32(k.Src[12:], n)
	k.SrcPort, k.Proto = 1, core.ProtoTCP
	return k
}

// settle lets time pass, and all that is due be done.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// answer answers the questions that came since the last call.
func (b *bench) answer(state protocol.ConnState) {
	reports := b.asked
	b.asked = nil
	for i := range reports {
		reports[i].Value = uint16(state)
	}
	b.Told("web1", protocol.AnswerFrame, reports)
}

// words returns what the workers were told since the last call.
func (b *bench) words() (out []string) {
	for _, w := range b.told {
		out = append(out, fmt.Sprint(w.Key.Src[15], " ", []string{"unknown", "ended", "gone", "alive"}[w.State], " ", w.Ago.Round(time.Second)))
	}
	b.told = nil
	return out
}

// What is seen of a client is a reason to ask, and no more.
func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name       string
		signs      datapath.Signs
		asks, over bool
	}{
		{"nothing", datapath.Signs{Idle: time.Hour, Proven: true}, false, false},
		{"not proven, and silent", datapath.Signs{Idle: unproven + 1}, true, false},
		{"not proven yet", datapath.Signs{Idle: unproven}, false, false},
		{"silent", datapath.Signs{Silent: true}, true, false},
		{"closed", datapath.Signs{Closed: true, Idle: closing + 1}, true, false},
		{"just closed", datapath.Signs{Closed: true, Idle: closing}, false, false},
		{"draining", datapath.Signs{Drains: true, Idle: closing + 1}, true, false},
		{"draining and busy", datapath.Signs{Drains: true, Idle: time.Second}, false, false},
		{"crowded", datapath.Signs{Crowded: true}, true, false},
		{"crowded, but proven", datapath.Signs{Crowded: true, Proven: true}, false, false},
		{"ended", datapath.Signs{Ended: true, Idle: linger}, false, false},
		{"ended and quiet", datapath.Signs{Ended: true, Idle: linger + 1}, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				tt.signs.Key, tt.signs.Backend = keyOf(1), web1
				for range 3 {
					if over := b.Judge(&tt.signs); over != tt.over {
						t.Errorf("over %v", over)
					}
				}
				settle(time.Second)
				if asked := len(b.asked); (asked == 1) != tt.asks || asked > 1 {
					t.Errorf("%d questions", asked)
				}
			})
		})
	}
}

// Who does not answer, or cannot tell, leaves the flow to its timeouts.
func TestUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		silent := &datapath.Signs{Key: keyOf(1), Backend: web1, Silent: true}
		closed := &datapath.Signs{Key: keyOf(2), Backend: web1, Closed: true, Idle: time.Minute}
		judge := func(what string, s *datapath.Signs, want bool) {
			t.Helper()
			if b.Judge(s) != want {
				t.Errorf("%s: over %v", what, !want)
			}
		}
		judge("asked", silent, false)
		judge("asked", closed, false)
		settle(patience)
		judge("patience", silent, false)
		settle(time.Second)
		judge("no answer", silent, true)
		judge("no answer, and its time is not up", closed, false)

		silent.Key, silent.Silent = keyOf(3), false
		silent.Drains, silent.Idle = true, time.Minute
		judge("asked", silent, false)
		settle(time.Second)
		b.answer(protocol.ConnUnknown)
		silent.Silent = true
		settle(time.Second)
		judge("it cannot tell", silent, true)
		settle(3 * patience)
		b.asked = nil
		judge("nobody has asked for long", silent, true)
		judge("asked once more", silent, false)
		settle(time.Second)
		if len(b.asked) != 1 {
			t.Errorf("%d questions", len(b.asked))
		}
	})
}

func TestTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		k1, k2 := keyOf(1), keyOf(2)
		b.Told("web1", protocol.EndedFrame, []protocol.Report{{Key: k1, Value: 2000}, {Key: k2, Value: 0}})
		if got := b.words(); !slices.Equal(got, []string{"1 ended 2s", "2 ended 0s"}) {
			t.Errorf("told %q", got)
		}
		b.Doubt(0, web1, &k2)
		settle(time.Second)
		b.asked = nil
		b.Told("web2", protocol.AnswerFrame, []protocol.Report{{Key: k2, Value: uint16(protocol.ConnGone)}})
		if got := b.words(); got != nil {
			t.Errorf("another backend answered: %q", got)
		}
		b.Told("web1", protocol.AnswerFrame, []protocol.Report{{Key: k1, Value: uint16(protocol.ConnGone)}})
		if got := b.words(); got != nil {
			t.Errorf("an answer to no question: %q", got)
		}
		for i, want := range []string{"1 gone 3s", "1 alive 3s", "1 alive 3s", "1 unknown 3s"} {
			state := []protocol.ConnState{protocol.ConnGone, protocol.ConnAlive, protocol.ConnOpening, protocol.ConnUnknown}[i]
			b.Doubt(0, web1, &k1)
			settle(3 * time.Second)
			b.answer(state)
			if got := b.words(); !slices.Equal(got, []string{want}) {
				t.Errorf("told %q, want %q", got, want)
			}
		}
	})
}

// An agent that has missed ends is asked about all flows that were silent since.
func TestMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.Told("web1", protocol.LostFrame, nil)
		settle(10 * time.Second)
		b.Judge(&datapath.Signs{Key: keyOf(1), Backend: web1, Idle: 11 * time.Second})
		b.Judge(&datapath.Signs{Key: keyOf(2), Backend: web1, Idle: 9 * time.Second, Proven: true})
		settle(time.Second)
		if len(b.asked) != 1 || b.asked[0].Key != keyOf(1) {
			t.Errorf("asked about %v", b.asked)
		}
	})
}

// A backend that resets a connection cannot tell the client's port: all that the
// client has there is asked about.
func TestResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		k := keyOf(1)
		k.SrcPort, k.DstPort = 0, 80
		b.Told("web1", protocol.EndedFrame, []protocol.Report{{Key: k, Value: 500}})
		for n := range uint32(3) {
			k := keyOf(n)
			k.SrcPort, k.DstPort = 7, 80
			b.Judge(&datapath.Signs{Key: k, Backend: web1, Idle: 500 * time.Millisecond})
			k.SrcPort = 8 // it has sent something since
			b.Judge(&datapath.Signs{Key: k, Backend: web1, Idle: 400 * time.Millisecond})
			k.DstPort = 81
			b.Judge(&datapath.Signs{Key: k, Backend: web1, Idle: 500 * time.Millisecond})
		}
		settle(time.Second)
		if len(b.asked) != 1 || b.asked[0].Key.Src != k.Src {
			t.Errorf("asked about %+v", b.asked)
		}
		settle(3 * resetTime)
		b.Judge(&datapath.Signs{Key: k, Backend: web1, Idle: time.Second})
		for n := range uint32(maxResets + 1) {
			k := keyOf(n)
			k.SrcPort = 0
			b.Told("web1", protocol.EndedFrame, []protocol.Report{{Key: k}})
		}
		settle(2 * time.Second)
		k = keyOf(1 << 20)
		k.SrcPort = 9
		b.Judge(&datapath.Signs{Key: k, Backend: web1, Idle: 3 * time.Second})
		settle(time.Second)
		if len(b.asked) != 2 {
			t.Errorf("%d questions, want one more for more resets than fit", len(b.asked))
		}
	})
}

// A flood of doubts is bounded.
func TestManyDoubts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for n := range uint32(maxAsked + 1000) {
			k := keyOf(n)
			b.Doubt(0, web1, &k)
		}
		settle(time.Second)
		if len(b.asked) != maxAsked {
			t.Errorf("%d questions", len(b.asked))
		}
		b.asked = nil
		settle(5 * patience)
		k := keyOf(7)
		b.Doubt(0, web1, &k)
		settle(time.Second)
		if len(b.asked) != 1 {
			t.Error("what was never answered keeps others from being asked")
		}
	})
}

// A backend is asked how many connections it has at most once a second, and only
// while somebody wants to know. Without an answer it has one, for some seconds.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		live := func(want int, what string) {
			t.Helper()
			if n := b.Live("web1"); n != want {
				t.Errorf("%s: %d live, want %d", what, n, want)
			}
		}
		answer := func(values ...uint16) {
			for _, v := range values {
				b.Told("web1", protocol.CountFrame, []protocol.Report{{Value: v}})
			}
			b.Told("web1", protocol.CountFrame, nil)
		}
		if n := b.Live("web2"); n != 0 {
			t.Errorf("a backend that cannot be asked: %d", n)
		}
		b.counted = 0
		answer(9) // nobody asked
		live(1, "not answered")
		live(1, "asked twice at once")
		if b.counted != 1 {
			t.Errorf("asked %d times", b.counted)
		}
		answer(65535, 3)
		live(65538, "counted")
		settle(countEvery)
		live(65538, "asked again")
		answer()
		live(0, "all have ended")
		settle(time.Minute)
		live(1, "much later")
		for range 6 {
			settle(time.Second)
			b.Live("web1")
		}
		live(0, "it does not answer")
	})
}
