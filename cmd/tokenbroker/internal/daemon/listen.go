package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/server"
)

// A listener is an address that is open, with what will answer there.
type listener struct {
	net.Listener
	serve func(net.Listener) error
}

// listen opens all addresses. None is answered yet; they are closed with the rest.
func (r *Running) listen(ctx context.Context) error {
	opened := func(l net.Listener, serve func(net.Listener) error) {
		r.listeners = append(r.listeners, listener{l, serve})
		r.cleanup = append(r.cleanup, func() { _ = l.Close() }) // if nobody has served it
	}
	serve := func(l net.Listener) error { return r.server.Serve(l) }
	for _, a := range r.settings.Listen {
		l, err := listenTCP(ctx, a, "listen")
		if err != nil {
			return err
		}
		opened(l, serve)
		r.Addresses = append(r.Addresses, l.Addr().String())
	}
	r.Doors = map[string][]string{}
	for _, d := range r.doors {
		for _, a := range r.settings.Named()[d.Name].Addresses {
			l, err := openTCP(ctx, a, d.Name+".listen")
			if err != nil {
				return err
			}
			opened(l, func(l net.Listener) error { return r.server.ServeDoor(d.Name, l) })
			r.Doors[d.Name] = append(r.Doors[d.Name], l.Addr().String())
		}
	}
	if path := r.settings.SocketPath(); path != "" {
		l, err := listenUnix(ctx, path)
		if err != nil {
			return err
		}
		opened(l, serve)
		r.Addresses = append(r.Addresses, "unix:"+path)
	}
	if a := r.settings.MetricsListen; a != "" && a != "none" {
		l, err := listenTCP(ctx, a, "metrics_listen")
		if err != nil {
			return err
		}
		opened(l, func(l net.Listener) error { return r.server.ServeMetrics(ctx, l) })
		r.Metrics = l.Addr().String()
	}
	if a := r.settings.ProbesListen; a != "" && a != "none" {
		l, err := openTCP(ctx, a, "probes_listen")
		if err != nil {
			return err
		}
		opened(l, func(l net.Listener) error { return r.server.ServeProbes(ctx, l) })
		r.Probes = l.Addr().String()
	}
	admin, err := listenUnix(ctx, filepath.Join(r.settings.DataDir, settings.AdminSocket))
	if err != nil {
		return err
	}
	opened(admin, func(l net.Listener) error { return r.serveAdmin(ctx, l) })
	return nil
}

// answer begins to answer on all addresses that are open.
func (r *Running) answer(ctx context.Context) {
	for _, l := range r.listeners {
		r.background.Go(func() {
			if err := l.serve(l.Listener); err != nil && ctx.Err() == nil {
				r.failed <- fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
		})
	}
	r.background.Go(func() {
		if err := r.catalog.Watch(ctx); err != nil {
			r.log.Warn("definitions are not watched", "error", err.Error())
		}
	})
}

// listenTCP listens on a loopback address; setting is what names it.
func listenTCP(ctx context.Context, address, setting string) (net.Listener, error) {
	l, err := openTCP(ctx, address, setting)
	if err != nil {
		return nil, err
	}
	if err := server.CheckLocal(l.Addr()); err != nil {
		return nil, console.WrongInput(errors.Join(err, l.Close()))
	}
	return l, nil
}

// openTCP listens on any address.
func openTCP(ctx context.Context, address, setting string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on %s: another process has this port: another broker? Stop that one, or set %s to another port", address, setting)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s (%s): %w", address, setting, err)
	}
	return l, nil
}

// listenUnix listens on a socket that only this user may open. A socket that a dead broker left is replaced, that of a living
// one is not.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if i, err := os.Lstat(path); err == nil {
		if i.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("listen on %s: there is a file that is not a socket", path)
		}
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
		if err == nil {
			_ = c.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) { // a busy one may not answer, but refuses nobody
			return nil, fmt.Errorf("listen on %s: another process has it open", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
	}
	old := syscall.Umask(0o177) // so that at no moment anybody else may open it
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func (r *Running) banner() string {
	var b strings.Builder
	fmt.Fprintf(&b, "answering on %s", strings.Join(r.Addresses, ", "))
	for _, name := range slices.Sorted(maps.Keys(r.Doors)) {
		fmt.Fprintf(&b, "; %s on %s", name, strings.Join(r.Doors[name], ", "))
	}
	if r.Metrics != "" {
		fmt.Fprintf(&b, "; metrics on http://%s/metrics", r.Metrics)
	}
	if r.Probes != "" {
		fmt.Fprintf(&b, "; probes on http://%s", r.Probes)
	}
	return b.String()
}
