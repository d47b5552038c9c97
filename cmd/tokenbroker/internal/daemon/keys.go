package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/store"
)

// keysMost bounds what is done with keys, but for a rewrap: it may look at all that is stored.
const keysMost = 10 * time.Minute

// orderMost bounds an order in bytes.
const orderMost = 4 << 10

// handleKeys answers what is asked of the keys, and does what is ordered.
func (r *Running) handleKeys(mux *http.ServeMux) {
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, req *http.Request) {
		keys, err := r.store.Keys(req.Context())
		r.answerJSON(w, settings.KeysOf(keys), err)
	})
	for name, order := range map[string]struct {
		event broker.AuditEvent
		do    func(ctx context.Context, id string) (string, error)
	}{
		"rotate":  {broker.AuditKeysRotated, func(ctx context.Context, _ string) (string, error) { return r.store.RotateKey(ctx) }},
		"promote": {broker.AuditKeysPromoted, func(ctx context.Context, _ string) (string, error) { return r.store.PromoteKey(ctx) }},
		"retire":  {broker.AuditKeysRetired, func(ctx context.Context, id string) (string, error) { return id, r.store.RetireKey(ctx, id) }},
		"restore": {broker.AuditKeysRestored, func(ctx context.Context, id string) (string, error) { return id, r.store.RestoreKey(ctx, id) }},
		"destroy": {broker.AuditKeysDestroyed, func(ctx context.Context, id string) (string, error) { return id, r.store.DestroyKey(ctx, id) }},
	} {
		mux.HandleFunc("POST /keys/"+name, func(w http.ResponseWriter, req *http.Request) {
			o, err := orderOf(req)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			lasting(w)
			ctx, cancel := context.WithTimeout(req.Context(), keysMost)
			defer cancel()
			id := ""
			err = r.audited(ctx, order.event, o.ID, func() (err error) {
				id, err = order.do(ctx, o.ID)
				return err
			})
			r.answerJSON(w, settings.KeyChanged{ID: id}, err)
		})
	}
	mux.HandleFunc("POST /keys/rewrap", r.rewrap)
}

// audited does what is ordered once the audit log has it. Whoever may open the socket is this user or root.
func (r *Running) audited(ctx context.Context, event broker.AuditEvent, id string, do func() error) error {
	if r.audit == nil {
		return do()
	}
	is := broker.AuditRecord{Event: event, Listener: "admin", Peer: "unix"}
	if settings.IsKeyID(id) {
		is.Fields = []string{id}
	}
	done, err := r.audit.Intend(ctx, is)
	if err != nil {
		return err
	}
	err = do()
	done(0, err)
	return err
}

func orderOf(req *http.Request) (o settings.KeysOrder, err error) {
	data, err := io.ReadAll(io.LimitReader(req.Body, orderMost+1))
	if err != nil || len(data) > orderMost || json.Unmarshal(data, &o) != nil || o.Rate < 0 {
		return o, errors.New("that is no order")
	}
	return o, nil
}

// lasting lets an answer take longer than others.
func lasting(w http.ResponseWriter) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Time{}) // its end would be taken for that of the caller
	_ = c.SetWriteDeadline(time.Time{})
}

// statusOf is how an order that was not done is answered.
func statusOf(err error) int {
	var refused *store.Refused
	switch {
	case errors.As(err, &refused):
		return http.StatusConflict
	case errors.Is(err, broker.StoreUnavailable), errors.Is(err, broker.AuditUnavailable):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func (r *Running) answerJSON(w http.ResponseWriter, answer any, err error) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(takeMost))
	if err != nil {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // whoever asked may be gone
}

// rewrap answers with a line for each second, and a last one that says what became of it. Who goes away stops it; it goes on when it is ordered again.
func (r *Running) rewrap(w http.ResponseWriter, req *http.Request) {
	o, err := orderOf(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	lasting(w)
	ctx, stop := context.WithCancel(req.Context())
	defer stop()
	w.Header().Set("Content-Type", "application/jsonl")
	to := json.NewEncoder(&taken{w: w})
	line := func(l settings.RewrapLine) {
		if to.Encode(l) != nil || http.NewResponseController(w).Flush() != nil {
			stop()
		}
	}
	err = r.audited(ctx, broker.AuditKeysRewrapped, "", func() error {
		_, err := r.store.Rewrap(ctx, o.Rate, func(is store.Rewrap) { line(settings.RewrapLine{Rewrap: settings.RewrapOf(is)}) })
		return err
	})
	if err != nil {
		line(settings.RewrapLine{Status: statusOf(err), Error: err.Error()})
	}
}
