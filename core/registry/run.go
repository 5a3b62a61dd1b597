package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sweepInterval bounds how late leases and drains end.
const sweepInterval = 200 * time.Millisecond

// Listen takes the port. Agents that connect wait until Run serves them. The
// second call does nothing.
func (r *Registry) Listen(ctx context.Context) error {
	r.binding.Lock()
	defer r.binding.Unlock()
	if r.listener != nil {
		return nil
	}
	return r.bind(ctx, r.cfg.Addr)
}

// bind makes addr the address that is listened on. binding is held.
func (r *Registry) bind(ctx context.Context, addr netip.AddrPort) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr.String())
	if err != nil {
		return fmt.Errorf("registry: %w (%s)", err, hint(err))
	}
	r.listener, r.bound = l, addr
	return nil
}

// hint returns what to do about an address that is not to be had.
func hint(err error) string {
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return "ip address lists what this machine has"
	}
	return "what else listens there? ss -ltnp"
}

// Move listens on another address from now on; sessions that there are go on.
// On an error the address stays. Where the two overlap, like 0.0.0.0 and one of
// the machine's own, nobody listens for a moment, and agents try again.
func (r *Registry) Move(ctx context.Context, addr netip.AddrPort) error {
	r.binding.Lock()
	defer r.binding.Unlock()
	if addr == r.bound {
		return nil
	}
	old, was := r.listener, r.bound
	err := r.bind(ctx, addr)
	if errors.Is(err, unix.EADDRINUSE) && int(addr.Port()) == old.Addr().(*net.TCPAddr).Port {
		_ = old.Close()
		if err = r.bind(ctx, addr); err != nil {
			return errors.Join(err, r.bind(ctx, was))
		}
		return nil
	}
	if err == nil {
		_ = old.Close()
	}
	return err
}

// current returns the listener in use.
func (r *Registry) current() net.Listener {
	r.binding.Lock()
	defer r.binding.Unlock()
	return r.listener
}

// Addr returns the address that is listened on, the zero value before Listen.
func (r *Registry) Addr() netip.AddrPort {
	r.binding.Lock()
	defer r.binding.Unlock()
	if r.listener == nil {
		return netip.AddrPort{}
	}
	return r.listener.Addr().(*net.TCPAddr).AddrPort()
}

// Close releases the port of a Listen that no Run followed. After Run it does
// nothing.
func (r *Registry) Close() error {
	r.binding.Lock()
	defer r.binding.Unlock()
	if r.listener == nil {
		return nil
	}
	if err := r.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("registry: %w", err)
	}
	return nil
}

// Run serves agents, after Listen if that was not called, until ctx ends or the
// listener fails. Then it hangs up and waits for the sessions. The end of ctx
// changes no backend, and Apply is not called for it: their flows go on.
func (r *Registry) Run(ctx context.Context) error {
	if err := r.Listen(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { r.current().Close() })
	defer func() {
		cancel()
		stop()
		r.current().Close()
		r.wg.Wait()
	}()
	r.wg.Go(func() { r.sweepLeases(ctx) })
	close(r.ready)
	for {
		l := r.current()
		if err := r.acceptAll(ctx, l); err == nil || l == r.current() {
			return err
		} // else it has moved
	}
}

func (r *Registry) acceptAll(ctx context.Context, l net.Listener) error {
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			r.accept(ctx, conn)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("registry: %w", err)
		default: // out of files or memory: others may give some back
			r.quiet.warn(netip.Addr{}, "", "agent not accepted", "err", err)
			sleep(ctx, 100*time.Millisecond)
		}
	}
}

// sleep returns early when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// sweepLeases ends leases and drains, and what has come to be refused.
func (r *Registry) sweepLeases(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.recheck:
			r.evict(ctx)
		case now := <-tick.C:
			expired, drained := r.leases.sweep(ctx, now)
			for _, name := range expired {
				r.cfg.Log.Warn("lost backend removed: its agent did not come back", "backend", name)
			}
			for _, name := range drained {
				r.cfg.Log.Info("backend drained", "backend", name)
			}
		}
	}
}
