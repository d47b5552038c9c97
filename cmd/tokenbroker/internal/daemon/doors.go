package daemon

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/policy"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/authn"
)

// agentWithin is how long a start waits for a SPIFFE Workload API.
const agentWithin = 20 * time.Second

// authorizer is who decides: the policy, which is followed, or without one where callers are.
func (r *Running) authorizer(bg context.Context) (broker.Authorizer, error) {
	if r.settings.PolicyFile == "" {
		return broker.LocalOnly{}, nil
	}
	var err error
	if r.policy, err = policy.New(r.settings.PolicyFile, r.log); err != nil {
		return nil, console.WrongInput(err)
	}
	r.background.Go(func() { r.policy.Watch(bg) })
	return r.policy, nil
}

// tellEvery is how often metrics are told how the policy, the audit log, the certificates and the issuers' keys are.
const tellEvery = 5 * time.Second

// tell tells the metrics until ctx ends.
func (r *Running) tell(ctx context.Context) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		if r.policy != nil {
			r.metrics.PolicyStale(r.policy.Status().Problem != nil)
		}
		if r.audit != nil {
			s := r.audit.Status()
			r.metrics.Audit(s.Away, s.Lost)
		}
		for i, c := range r.certificates {
			is := c.Status()
			if t := r.tokens[r.doors[i].Name]; t != nil {
				is.Stale = is.Stale || slices.ContainsFunc(t.Status(), func(s authn.IssuerStatus) bool { return s.Stale })
			}
			r.metrics.Certificates(r.doors[i].Name, is)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// openDoors makes what authenticates the callers of each listener. It waits for a Workload API until ctx ends.
func (r *Running) openDoors(ctx, bg context.Context) error {
	r.tokens = map[string]*authn.Tokens{}
	for _, name := range slices.Sorted(maps.Keys(r.settings.Named())) {
		of := r.settings.Authn(name)
		of.Log = r.log
		waiting, cancel := context.WithTimeout(ctx, agentWithin)
		certificates, err := authn.New(waiting, of)
		cancel()
		if err != nil {
			return console.WrongInput(err)
		}
		r.cleanup = append(r.cleanup, certificates.Close)
		r.background.Go(func() { certificates.Follow(bg) })
		r.certificates = append(r.certificates, certificates)
		proxies, err := r.settings.Forwarders(name)
		if err != nil {
			return console.WrongInput(err)
		}
		d := server.Door{Name: name, TokensOnly: name == settings.Services, Authenticate: certificates, Forwarders: proxies}
		if issuers := r.settings.Tokens(name); len(issuers.Issuers) > 0 {
			issuers.Log = r.log
			tokens, err := authn.NewTokens(issuers)
			if err != nil {
				return console.WrongInput(err)
			}
			r.background.Go(func() { tokens.Follow(bg) })
			r.tokens[name], d.Tokens = tokens, tokens
		}
		r.doors = append(r.doors, d)
	}
	return nil
}
