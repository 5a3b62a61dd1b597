package control

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/rpc"
	"sync"

	"github.com/caplance/caplance/core/api"
)

// Op is what an agent can be asked for; the method Client.<Op> of net/rpc.
type Op string

// The operations.
const (
	Pause      Op = "Pause"
	Resume     Op = "Resume"
	Drain      Op = "Drain"
	Deregister Op = "Deregister"
	GetState   Op = "GetState"
)

// WeightFunc makes another share of new flows hold and returns the agent's state
// afterwards, as CommandFunc does.
type WeightFunc func(ctx context.Context, weight uint32) (string, error)

// CommandFunc carries out op and returns what the caller reads: the agent's state
// afterwards. It may be called concurrently and must return when ctx ends.
type CommandFunc func(ctx context.Context, op Op) (string, error)

// AgentServer is the agent's control socket. It speaks net/rpc behind the HTTP
// handshake of rpc.HandleHTTP, so rpc.DialHTTP("unix", path) opens it.
type AgentServer struct {
	socket
	name     string
	run      CommandFunc
	status   func() api.AgentStatus // nil: not shown
	handover HandoverFunc           // nil: not offered
	weigh    WeightFunc             // nil: not offered
}

// NewAgentServer prepares the socket of the agent of the named backend.
func NewAgentServer(o Options, name string, run CommandFunc) *AgentServer {
	s := &AgentServer{name: name, run: run}
	s.init(o)
	return s
}

// Run serves, after Listen if that was not called, until ctx ends, which is no
// error, and removes the socket.
func (s *AgentServer) Run(ctx context.Context) (err error) {
	if err := s.Listen(); err != nil {
		return err
	}
	l := s.listener
	sessions := &hijacked{conns: map[net.Conn]struct{}{}}
	mux := http.NewServeMux()
	mux.Handle(rpc.DefaultRPCPath, sessions.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.answer(ctx, w, r)
	})))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: requestTimeout, IdleTimeout: idleTimeout, ConnContext: withCaller}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	close(s.ready)
	select {
	case <-ctx.Done():
		err = nil
		srv.Close()
		<-served
	case err = <-served:
		err = fmt.Errorf("control socket: %w", err)
	}
	sessions.close()
	return err
}

// answer serves one connection until its caller hangs up.
func (s *AgentServer) answer(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	c, calls := &client{ctx: ctx, s: s, caller: callerOf(r.Context())}, rpc.NewServer()
	if err := calls.RegisterName("Client", c); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	calls.ServeHTTP(w, r)
	c.hungUp()
}

// client holds the methods that net/rpc finds by reflection, for one connection.
// The request is the backend's name, or empty.
type client struct {
	ctx context.Context
	s   *AgentServer
	caller

	mu    sync.Mutex
	leave func() // nil: no handover
}

func (c *client) Pause(req, reply *string) error      { return c.do(Pause, req, reply) }
func (c *client) Resume(req, reply *string) error     { return c.do(Resume, req, reply) }
func (c *client) Drain(req, reply *string) error      { return c.do(Drain, req, reply) }
func (c *client) Deregister(req, reply *string) error { return c.do(Deregister, req, reply) }
func (c *client) GetState(req, reply *string) error   { return c.do(GetState, req, reply) }

func (c *client) do(op Op, req, reply *string) (err error) {
	if op == GetState {
		if err := c.refuse(*req, reader); err != nil {
			return err
		}
		*reply, err = c.s.run(c.ctx, op)
		return err
	}
	return c.order(string(op), *req, func() error {
		*reply, err = c.s.run(c.ctx, op)
		return err
	})
}

// order carries out what changes something, and notes who ordered it.
func (c *client) order(what, name string, do func() error) error {
	if err := c.refuse(name, operator); err != nil {
		if c.level < operator {
			c.s.audit.refused(c.caller, what)
		}
		return err
	}
	err := do()
	c.s.audit.done(c.caller, what, err)
	return err
}

// refuse returns an error for who may not, and for the name of another backend.
func (c *client) refuse(name string, need level) error {
	if err := c.s.access.refuse(c.caller, need); err != nil {
		return err
	}
	if name != "" && name != c.s.name {
		return fmt.Errorf("backend %q is not this agent's (%s)", name, c.s.name)
	}
	return nil
}

// AskAgent carries out op at the agent behind the socket and returns its
// answer. name is the backend's, or empty; the agent refuses another one.
func AskAgent(ctx context.Context, path string, op Op, name string) (string, error) {
	return askAgent[string](ctx, path, string(op), name)
}

// askAgent calls a method of Client.
func askAgent[T any](ctx context.Context, path, method string, request any) (reply T, err error) {
	conn, err := rpc.DialHTTP("unix", path)
	if err != nil {
		return reply, fmt.Errorf("agent at %s: %w (%s)", path, err, remedy(err, "is it running? try: sudo systemctl status caplance-agent"))
	}
	defer conn.Close()
	answer := new(T) // a late one is written here
	call := conn.Go("Client."+method, request, answer, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		if call.Error != nil {
			return reply, fmt.Errorf("agent at %s: %w", path, call.Error)
		}
		return *answer, nil
	case <-ctx.Done():
		return reply, fmt.Errorf("agent at %s: no answer: %w", path, context.Cause(ctx))
	}
}
