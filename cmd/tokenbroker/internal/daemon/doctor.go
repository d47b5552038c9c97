package daemon

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/doctor"
	"github.com/tokenbroker/tokenbroker/server/authn"
)

// handleDoctor answers what is unsafe. Nothing is changed and no secret is told, so that there is no line of it in the audit log, as of a list of keys.
func (r *Running) handleDoctor(mux *http.ServeMux) {
	mux.HandleFunc("GET /doctor", func(w http.ResponseWriter, req *http.Request) {
		lasting(w)
		r.answerJSON(w, doctor.Look(req.Context(), r.asItRuns(), time.Now()), nil)
	})
}

// asItRuns is this broker for whoever looks for what is unsafe.
func (r *Running) asItRuns() doctor.Broker {
	b := doctor.Broker{Settings: r.settings, Alone: os.Getpid() == 1}
	b.TCP = slices.DeleteFunc(slices.Clone(r.Addresses), func(a string) bool { return strings.HasPrefix(a, "unix:") })
	if r.policy != nil {
		b.Policy = &doctor.Policy{Status: r.policy.Status(), Grants: r.policy.Grants()}
	}
	for i, c := range r.certificates {
		d := doctor.Door{Name: r.doors[i].Name}
		d.Own, d.Trusted = c.Shown()
		is := c.Status()
		d.Stale, d.ListBegan, d.ListEnds = is.Stale, is.ListBegan, is.ListEnds
		if t := r.tokens[d.Name]; t != nil {
			d.Stale = d.Stale || slices.ContainsFunc(t.Status(), func(s authn.IssuerStatus) bool { return s.Stale })
		}
		b.Doors = append(b.Doors, d)
	}
	if r.audit != nil {
		s := r.audit.Status()
		b.Audit = &doctor.Audit{Away: s.Away, Lost: s.Lost, Problem: s.Problem}
	}
	if r.redis != nil {
		b.Redis = r.redis.Exposed
	}
	return b
}
