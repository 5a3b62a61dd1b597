package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/rpc"
	"time"
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

// Steer carries out op and returns what the caller reads: the agent's state
// afterwards. It may be called concurrently and must return when ctx ends.
type Steer func(ctx context.Context, op Op) (string, error)

// AgentServer is the agent's control socket. It speaks net/rpc behind the HTTP
// handshake of rpc.HandleHTTP, so rpc.DialHTTP("unix", path) opens it.
type AgentServer struct {
	path, name string
	steer      Steer
	ready      chan struct{}
}

// NewAgentServer prepares the socket of the agent of the named backend.
func NewAgentServer(path, name string, steer Steer) *AgentServer {
	return &AgentServer{path: path, name: name, steer: steer, ready: make(chan struct{})}
}

// Ready is closed when the socket answers.
func (s *AgentServer) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends, which is no error, and removes the socket.
func (s *AgentServer) Run(ctx context.Context) error {
	l, err := Listen(s.path)
	if err != nil {
		return err
	}
	calls := rpc.NewServer()
	if err := calls.RegisterName("Client", &client{ctx, s}); err != nil {
		return errors.Join(fmt.Errorf("control socket: %w", err), l.Close())
	}
	sessions := &hijacked{conns: map[net.Conn]struct{}{}}
	mux := http.NewServeMux()
	mux.Handle(rpc.DefaultRPCPath, sessions.wrap(calls))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
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

// client holds the methods that net/rpc finds by reflection. The request is
// the backend's name, or empty.
type client struct {
	ctx context.Context
	s   *AgentServer
}

func (c *client) Pause(req, reply *string) error      { return c.do(Pause, req, reply) }
func (c *client) Resume(req, reply *string) error     { return c.do(Resume, req, reply) }
func (c *client) Drain(req, reply *string) error      { return c.do(Drain, req, reply) }
func (c *client) Deregister(req, reply *string) error { return c.do(Deregister, req, reply) }
func (c *client) GetState(req, reply *string) error   { return c.do(GetState, req, reply) }

func (c *client) do(op Op, req, reply *string) (err error) {
	if *req != "" && *req != c.s.name {
		return fmt.Errorf("backend %q is not this agent's (%s)", *req, c.s.name)
	}
	*reply, err = c.s.steer(c.ctx, op)
	return err
}

// AskAgent carries out op at the agent behind the socket and returns its
// answer. name is the backend's, or empty; the agent refuses another one.
func AskAgent(ctx context.Context, path string, op Op, name string) (string, error) {
	conn, err := rpc.DialHTTP("unix", path)
	if err != nil {
		return "", fmt.Errorf("agent at %s: %w (is it running, and may you open its socket? try: sudo systemctl status caplance-agent)", path, err)
	}
	defer conn.Close()
	var reply string
	call := conn.Go("Client."+string(op), &name, &reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		if call.Error != nil {
			return "", fmt.Errorf("agent at %s: %w", path, call.Error)
		}
		return reply, nil
	case <-ctx.Done():
		return "", fmt.Errorf("agent at %s: no answer: %w", path, context.Cause(ctx))
	}
}
