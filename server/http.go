package server

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

const (
	// httpConnections bounds the connections of an HTTP listener: the rest wait, in the kernel, and take no descriptor from the calls.
	httpConnections = 32
	// httpWithin is how long a request may take to come, its answer to be taken, and the next one to follow.
	httpWithin = 20 * time.Second
)

// ServeHTTP answers on the listener until ctx ends, by h, for the few who look after a broker: it bounds connections and how long each may take.
// The log gets what net/http has to say. A handler that takes longer moves the deadlines of its answer (http.ResponseController).
func ServeHTTP(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler: h, ReadTimeout: httpWithin, WriteTimeout: httpWithin, IdleTimeout: httpWithin, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(netutil.LimitListener(l, httpConnections)); ctx.Err() == nil {
		return err
	}
	return nil
}
