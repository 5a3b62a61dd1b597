package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
)

// AgentControl is where an agent's control socket is by default.
const AgentControl = "/var/run/caplance.sock"

// conflicts finds values that are valid each, but not together.
func (v *validator) conflicts(s *Server) {
	for i, svc := range s.Services {
		if svc.VIP.IsValid() && svc.VIP == s.Registry.Listen.Addr().Unmap() {
			v.failf(fmt.Sprintf("service[%d].vip", i),
				"%v is the address of registry.listen: agents could not reach the registry (give the service an address of its own)", svc.VIP)
		}
	}
	v.metricsConflict(s)
	v.pathConflicts(s)
}

func (v *validator) metricsConflict(s *Server) {
	at, err := netip.ParseAddrPort(s.Metrics)
	if err != nil { // empty, or reported already
		return
	}
	if sameListener(at, s.Registry.Listen) {
		v.failf("metrics", "%v is taken by registry.listen = %v (set another port)", at, s.Registry.Listen)
	}
	for _, svc := range s.Services {
		if svc.VIP == at.Addr().Unmap() {
			v.failf("metrics", "%v is the VIP of service %q, which is there only while it is balanced (set an address of this machine's own)", at.Addr(), svc.Name)
		}
	}
}

// sameListener reports whether one process cannot listen on both.
func sameListener(a, b netip.AddrPort) bool {
	x, y := a.Addr().Unmap(), b.Addr().Unmap()
	all := x == netip.IPv6Unspecified() || y == netip.IPv6Unspecified() || // takes IPv4, too
		(x.IsUnspecified() || y.IsUnspecified()) && x.Is4() == y.Is4()
	return a.Port() == b.Port() && (x == y || all)
}

// longestSocket is the length of the longest path of a unix socket, bytes
// (sun_path of unix(7), less its final zero).
const longestSocket = 107

func (v *validator) pathConflicts(s *Server) {
	control := resolved(s.Control)
	switch {
	case len(s.Control) > longestSocket:
		v.failf("control", "%q is longer than a socket's path can be (%d bytes)", s.Control, longestSocket)
	case control == resolved(AgentControl):
		v.failf("control", "%s is where an agent on this machine is asked (set another path, like /var/run/caplance-server.sock)", s.Control)
	case control == resolved(s.StateDir):
		v.failf("control", "%s is the state_dir (set a path in it, like %s)", s.Control, filepath.Join(s.StateDir, "server.sock"))
	case s.Log.File != "" && control == resolved(s.Log.File):
		v.failf("control", "%s is the log's file, too (set another path)", s.Control)
	}
}

// resolved returns a path without the symlinks of its directory: /var/run is
// /run.
func resolved(path string) string {
	path = filepath.Clean(path)
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path))
	}
	return path
}
