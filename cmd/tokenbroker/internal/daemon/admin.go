package daemon

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/server"
)

// takeMost is how long whoever reads a backup may take nothing of it. A copy lies on the broker's disk until it is read.
const takeMost = time.Minute

// serveAdmin hands out backups, looks after keys, and says what is unsafe, for whoever may open the socket: the user that the broker runs as.
func (r *Running) serveAdmin(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /backup", func(w http.ResponseWriter, req *http.Request) {
		if r.db == nil {
			http.Error(w, "the data are in Redis", http.StatusConflict)
			return
		}
		r.answerBackup(w, func(to io.Writer) error {
			done, err := r.intendBackup(req.Context())
			if err != nil {
				return err
			}
			err = r.db.Backup(req.Context(), to)
			done(0, err)
			return err
		})
	})
	r.handleKeys(mux)
	r.handleDoctor(mux)
	return server.ServeHTTP(ctx, l, mux, r.log)
}

// intendBackup has a backup audited before anything is handed out. Whoever may open the socket is this user or root.
func (r *Running) intendBackup(ctx context.Context) (done func(int, error), err error) {
	if r.audit == nil {
		return func(int, error) {}, nil
	}
	return r.audit.Intend(ctx, broker.AuditRecord{Event: broker.AuditBackup, Listener: "admin", Peer: "unix"})
}

func (r *Running) answerBackup(w http.ResponseWriter, backup func(io.Writer) error) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", settings.BackupComplete)
	to := &taken{w: w}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // its end would be taken for that of the caller
	if err := backup(to); err != nil {
		r.log.Error("backup failed", "error", err.Error())
		if !to.any {
			w.Header().Del("Trailer")
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(takeMost)) // the copy has taken its time
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
		return
	}
	w.Header().Set(settings.BackupComplete, "yes")
}

// A taken is an answer that ends when nobody takes it.
type taken struct {
	w   http.ResponseWriter
	any bool
}

// Write implements io.Writer.
func (t *taken) Write(p []byte) (int, error) {
	t.any = true
	if err := http.NewResponseController(t.w).SetWriteDeadline(time.Now().Add(takeMost)); err != nil {
		return 0, err
	}
	return t.w.Write(p)
}
