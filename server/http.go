package server

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// httpConnections bounds the connections of an HTTP listener: one more takes the place of another (httpRoom).
	httpConnections = 32
	// httpHeaderWithin is how long the header of a request may take to come.
	httpHeaderWithin = 5 * time.Second
	// httpWithin is how long a request may take to come, its answer to be taken, and the next one to follow.
	httpWithin = 20 * time.Second
)

// ServeHTTP answers on the listener until ctx ends, by h, for the few who look after a broker: it bounds connections and how long each may take.
// The log gets what net/http has to say. A handler that takes longer moves the deadlines of its answer (http.ResponseController).
func ServeHTTP(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	room := newHTTPRoom(l, httpConnections)
	srv := &http.Server{
		Handler: room.answering(h), ConnContext: room.context, ReadHeaderTimeout: httpHeaderWithin, ReadTimeout: httpWithin, WriteTimeout: httpWithin,
		IdleTimeout: httpWithin, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(room); ctx.Err() == nil {
		return err
	}
	return nil
}
