// Package control is how caplancectl talks to what runs: net/rpc with the
// agent, whose first generation spoke it, and JSON over HTTP with the
// balancer. Both use unix sockets; who may do what is decided by
// the kernel's word on who has connected, see Access.
//
//	srv := control.NewServer(control.Options{Path: "/var/run/caplance-server.sock", Log: log}, source, policies, orders)
//	err := srv.Run(ctx)
//
//	c := control.Dial("/var/run/caplance-server.sock")
//	rows, err := c.Backends(ctx)
package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/caplance/caplance/core/api"
)

// Server is the balancer's control socket.
type Server struct {
	socket
	mux *http.ServeMux
}

// NewServer prepares a socket that shows src, steers policies and takes orders.
func NewServer(o Options, src api.Source, policies Policies, orders Orders) *Server {
	s := &Server{mux: http.NewServeMux()}
	s.init(o)
	s.mux.Handle("GET /v1/", api.Handler(src))
	s.offerPolicies(policies)
	s.offerOrders(orders)
	return s
}

// Run serves, after Listen if that was not called, until ctx ends, which is no
// error, and removes the socket.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	srv := &http.Server{Handler: s.guard(s.mux), ReadHeaderTimeout: requestTimeout, IdleTimeout: idleTimeout, BaseContext: func(net.Listener) context.Context { return ctx }, ConnContext: withCaller}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		srv.Close()
	})
	close(s.ready)
	err := srv.Serve(s.listener)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("control socket: %w", err)
}
