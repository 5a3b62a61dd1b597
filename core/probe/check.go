package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/sockdiag"
)

// errCannotTell is the result of a check that finds nothing to look at.
var errCannotTell = errors.New("cannot tell")

// what names the check.
func (j *job) what() string {
	switch j.spec.Kind {
	case Script:
		return "script " + j.spec.Command[0]
	default:
		return string(j.spec.Kind)
	}
}

// check is one attempt.
func (r *Runner) check(ctx context.Context, j *job) error {
	switch s := &j.spec; s.Kind {
	case Listen:
		return r.listens(j)
	case TCP:
		return connects(ctx, j)
	case HTTP, HTTPS:
		return get(ctx, j)
	case Script:
		return run(ctx, j)
	case DNS:
		return resolve(ctx, j)
	case UDP:
		return refused(ctx, j)
	}
	return nil
}

// address returns what to ask, "" when the target has no port of its own.
func (j *job) address() string {
	if j.spec.Address != "" {
		return j.spec.Address
	}
	ports := j.target.firsts()
	if len(ports) == 0 {
		return ""
	}
	at := j.target.VIP
	if j.target.Addr.IsValid() {
		at = j.target.Addr
	}
	return netip.AddrPortFrom(at, ports[0]).String()
}

// asker is a socket for all checks of who listens.
type asker struct {
	mu   sync.Mutex
	conn *sockdiag.Asker
}

func (a *asker) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn != nil {
		a.conn.Close()
		a.conn = nil
	}
}

// listens reports whether somebody does at an address.
func (a *asker) listens(proto uint8, at netip.AddrPort) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn == nil {
		conn, err := sockdiag.Open()
		if err != nil {
			return false, err
		}
		a.conn = conn
	}
	return a.conn.Listens(proto, at)
}

// listens checks that a socket takes what comes to the VIP, at one of the service's
// ports and by one of its protocols: a service has both protocols when it names none,
// and gets another port before its servers do.
func (r *Runner) listens(j *job) error {
	at, err := j.sockets()
	if err != nil {
		return err
	}
	protos := j.target.Protos
	if protos == nil {
		protos = []uint8{core.ProtoTCP}
	}
	var words []string
	for _, a := range at {
		for _, proto := range protos {
			ok, err := r.asker.listens(proto, a)
			if err != nil {
				r.cannotSee(err)
				return errCannotTell
			}
			if ok {
				return nil
			}
			words = append(words, fmt.Sprintf("%s/%s", a, core.ProtoName(proto)))
		}
	}
	return fmt.Errorf("nothing listens at %s", strings.Join(words, ", "))
}

// cannotSee says once that this kernel does not tell who listens.
func (r *Runner) cannotSee(err error) {
	r.blind.Do(func() {
		r.log.Warn("checks of type listen see nothing, and take services to be well (give them another type)", "err", err)
	})
}

// sockets returns the addresses at which somebody should listen.
func (j *job) sockets() (out []netip.AddrPort, err error) {
	if j.spec.Address != "" {
		at, err := netip.ParseAddrPort(j.spec.Address)
		return []netip.AddrPort{at}, err
	}
	for _, port := range j.target.firsts() {
		out = append(out, netip.AddrPortFrom(j.target.VIP, port))
	}
	if len(out) == 0 {
		return nil, errCannotTell
	}
	return out, nil
}

func connects(ctx context.Context, j *job) error {
	at := j.address()
	if at == "" {
		return errCannotTell
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", at)
	if err != nil {
		return err
	}
	return conn.Close()
}

// refused sends an empty datagram and waits for an ICMP error, half of the time limit.
func refused(ctx context.Context, j *job) error {
	at := j.address()
	if at == "" {
		return errCannotTell
	}
	conn, err := new(net.Dialer).DialContext(ctx, "udp", at)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(j.spec.Timeout / 2)); err != nil {
		return err
	}
	if _, err = conn.Write(nil); err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// maxBody is how much of a page is read.
const maxBody = 64 << 10

// get asks for a page. Redirects count as they are: where they lead is not what is
// asked about.
func get(ctx context.Context, j *job) error {
	at := j.address()
	if at == "" {
		return errCannotTell
	}
	s := &j.spec
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, string(s.Kind)+"://"+at+s.Path, nil)
	if err != nil {
		return err
	}
	req.Host = s.Host
	req.Header.Set("User-Agent", "caplance")
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: !s.VerifyServer, ServerName: s.Host},
	}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	switch {
	case resp.StatusCode < s.Status.First || resp.StatusCode > s.Status.Last:
		return fmt.Errorf("%s answers %s", s.Path, resp.Status)
	case s.Body == "":
		return nil
	case err != nil:
		return err
	case !bytes.Contains(body, []byte(s.Body)):
		return fmt.Errorf("%s answers without %q", s.Path, s.Body)
	}
	return nil
}

// run runs the operator's command, with what it is about in its environment. What it
// writes first is the reason.
func run(ctx context.Context, j *job) error {
	cmd := exec.CommandContext(ctx, j.spec.Command[0], j.spec.Command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 100 * time.Millisecond // for the output of a child that stays
	cmd.Env = append(os.Environ(), "CAPLANCE_SERVICE="+j.target.Service, "CAPLANCE_ADDRESS="+j.address())
	if j.target.Backend != "" {
		cmd.Env = append(cmd.Env, "CAPLANCE_BACKEND="+j.target.Backend)
	}
	if j.target.VIP.IsValid() {
		cmd.Env = append(cmd.Env, "CAPLANCE_VIP="+j.target.VIP.String())
	}
	out := &head{}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind
	}
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if line, _, _ := strings.Cut(strings.TrimSpace(out.String()), "\n"); line != "" {
		return fmt.Errorf("%w: %s", err, line)
	}
	return err
}

// head keeps the first kilobyte that is written to it.
type head struct{ bytes.Buffer }

func (h *head) Write(b []byte) (int, error) {
	h.Buffer.Write(b[:min(len(b), max(0, 1024-h.Len()))])
	return len(b), nil
}

// resolve asks one question, by TCP where the service has no UDP.
func resolve(ctx context.Context, j *job) error {
	at := j.address()
	if at == "" {
		return errCannotTell
	}
	network := "udp"
	if p := j.target.Protos; len(p) == 1 && p[0] == core.ProtoTCP {
		network = "tcp"
	}
	name, err := dnsmessage.NewName(strings.TrimSuffix(j.spec.Query, ".") + ".")
	if err != nil {
		return fmt.Errorf("query %q: %w", j.spec.Query, err)
	}
	return ask(ctx, network, at, name)
}

// ask sends a question of type A and reads the answer (RFC 1035, §4).
func ask(ctx context.Context, network, at string, name dnsmessage.Name) error {
	conn, err := new(net.Dialer).DialContext(ctx, network, at)
	if err != nil {
		return err
	}
	defer conn.Close()
	if until, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(until); err != nil {
			return err
		}
	}
	q := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	b, err := q.Pack()
	if err != nil {
		return err
	}
	b, err = exchange(conn, network, b)
	if err != nil {
		return err
	}
	var p dnsmessage.Parser
	h, err := p.Start(b)
	switch {
	case err != nil:
		return fmt.Errorf("answer: %w", err)
	case !h.Response || h.ID != q.ID:
		return errors.New("answer to another question")
	case h.RCode != dnsmessage.RCodeSuccess:
		return fmt.Errorf("answer %s", strings.TrimPrefix(h.RCode.String(), "RCode"))
	}
	return nil
}

// exchange sends a message and reads one; over TCP each has its length before it (RFC
// 1035, §4.2.2).
func exchange(conn net.Conn, network string, b []byte) ([]byte, error) {
	if network == "udp" {
		if _, err := conn.Write(b); err != nil {
			return nil, err
		}
		in := make([]byte, 4096)
		n, err := conn.Read(in)
		return in[:n], err
	}
	if _, err := conn.Write(append([]byte{byte(len(b) >> 8), byte(len(b))}, b...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	in := make([]byte, int(length[0])<<8|int(length[1]))
	_, err := io.ReadFull(conn, in)
	return in, err
}

// Address reports whether s is host:port.
func Address(s string) bool {
	host, port, err := net.SplitHostPort(s)
	n, err2 := strconv.ParseUint(port, 10, 16)
	return err == nil && err2 == nil && host != "" && n > 0
}

// Name reports whether s is a name that DNS can be asked for (RFC 1035, §2.3.4).
func Name(s string) bool {
	name, err := dnsmessage.NewName(strings.TrimSuffix(s, ".") + ".")
	if err != nil {
		return false
	}
	q := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	_, err = q.Pack()
	return err == nil
}
