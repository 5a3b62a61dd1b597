package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
)

const (
	pace          = 8 * time.Millisecond // between two requests of one kind
	answerTimeout = 3 * time.Second      // for an answer: a lost SYN is sent again after one
	atOnce        = 64                   // requests of one kind under way
)

// load is the client: it asks through every VIP by HTTP and UDP, each request
// a flow of its own.
type load struct {
	client *topology.Host
	web    *http.Client
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	answered int
	failures []failure
	windows  []window // in which requests may fail
}

// failure is a request that was not answered, window a span of time.
type failure struct {
	window
	err error
}
type window struct{ from, to time.Time }

func (w window) overlaps(v window) bool { return !w.to.Before(v.from) && !v.to.Before(w.from) }

func newLoad(client *topology.Host) *load {
	return &load{client: client, cancel: func() {}, web: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // or requests would share flows
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return client.Dial(ctx, network, addr)
		},
	}}}
}

// run starts to ask; stop ends it and waits for the last answers.
func (l *load) run(ctx context.Context) {
	running, cancel := context.WithCancel(ctx)
	l.cancel = cancel
	for _, vip := range []netip.Addr{cluster.VIP4, cluster.VIP6} {
		for _, ask := range []func(context.Context, netip.Addr) (string, error){l.askHTTP, l.askUDP} {
			l.wg.Go(func() { l.repeat(running, func() { l.note(ctx, vip, ask) }) })
		}
	}
}

func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}

// repeat starts a request at every tick, unless too many are under way.
func (l *load) repeat(ctx context.Context, ask func()) {
	free := make(chan struct{}, atOnce)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case free <- struct{}{}:
			l.wg.Go(func() {
				ask()
				<-free
			})
		default:
		}
	}
}

// note asks and counts the outcome.
func (l *load) note(ctx context.Context, vip netip.Addr, ask func(context.Context, netip.Addr) (string, error)) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	begin := time.Now()
	_, err := ask(ctx, vip)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.answered++
	} else {
		l.failures = append(l.failures, failure{window{begin, time.Now()}, err})
	}
}

// askHTTP gets the VIP's page, which starts with the backend's name.
func (l *load) askHTTP(ctx context.Context, vip netip.Addr) (backend string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/", netip.AddrPortFrom(vip, cluster.HTTPPort)), nil)
	if err != nil {
		return "", err
	}
	resp, err := l.web.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("http answer from %v: %w", vip, err)
	}
	return answerer(vip, body)
}

// askUDP sends a datagram; the socket takes answers from the VIP alone.
func (l *load) askUDP(ctx context.Context, vip netip.Addr) (backend string, err error) {
	conn, err := l.client.Dial(ctx, "udp", netip.AddrPortFrom(vip, cluster.UDPPort).String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("who is there?")); err != nil {
		return "", err
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetReadDeadline(deadline); err != nil {
		return "", err
	}
	buf := make([]byte, 512)
	n, err := conn.Read(buf)
	if err != nil {
		return "", fmt.Errorf("udp answer: %w", err)
	}
	return answerer(vip, buf[:n])
}

// answerer returns the name that an answer starts with.
func answerer(vip netip.Addr, answer []byte) (backend string, err error) {
	backend, _, ok := strings.Cut(string(answer), " ")
	if !ok {
		return "", fmt.Errorf("answer from %v: %q names no backend", vip, answer)
	}
	return backend, nil
}

// excuse says when requests may have failed: the dead do not answer.
func (l *load) excuse(from, to time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.windows = append(l.windows, window{from, to})
}

// outcome sums up the requests.
type outcome struct {
	answered, excused, failed int
	first                     error     // of those that failed without excuse
	began                     time.Time // when its request began
}

func (l *load) sum() (o outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o.answered = l.answered
	for _, f := range l.failures {
		if l.excused(f) {
			o.excused++
			continue
		}
		if o.failed++; o.first == nil {
			o.first, o.began = f.err, f.from
		}
	}
	return o
}

func (l *load) excused(f failure) bool {
	for _, w := range l.windows {
		if w.overlaps(f.window) {
			return true
		}
	}
	return false
}
