package server

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// selected is what GetToken, Invalidate, WatchToken and TestCredential share, and ExplainProvider.
type selected interface {
	GetScopes() []string
	GetAudience() string
	GetParameters() map[string]string
	GetResources() []string
}

func selection(r selected) (broker.Selection, error) {
	scopes, err := broker.ParseSet("scopes", r.GetScopes())
	if err != nil {
		return broker.Selection{}, err
	}
	resources, err := broker.ParseSet("resources", r.GetResources())
	if err != nil {
		return broker.Selection{}, err
	}
	if err := broker.CheckText("audience", r.GetAudience()); err != nil {
		return broker.Selection{}, err
	}
	for name, v := range r.GetParameters() {
		if err := cmp.Or(broker.CheckText("parameters", name), broker.CheckText("parameters."+name, v)); err != nil {
			return broker.Selection{}, err
		}
	}
	return broker.Selection{Scopes: scopes, Audience: r.GetAudience(), Parameters: broker.NewPairs(r.GetParameters()), Resources: resources}, nil
}

// latest is the last moment that a Timestamp can say, whatever an upstream's zone makes of it.
var latest = time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)

// stamp is nil for the zero time: absent, not 1970 or year 1.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	if t.After(latest) {
		t = latest
	}
	return timestamppb.New(t)
}

var expirySources = map[broker.ExpirySource]tokenbrokerv1.ExpirySource{
	broker.ExpiryUnknown:    tokenbrokerv1.ExpirySource_EXPIRY_SOURCE_ASSUMED,
	broker.ExpiryUpstream:   tokenbrokerv1.ExpirySource_EXPIRY_SOURCE_UPSTREAM,
	broker.ExpiryToken:      tokenbrokerv1.ExpirySource_EXPIRY_SOURCE_TOKEN,
	broker.ExpiryDefinition: tokenbrokerv1.ExpirySource_EXPIRY_SOURCE_DEFINITION,
	broker.ExpiryNone:       tokenbrokerv1.ExpirySource_EXPIRY_SOURCE_NONE,
}

// credentialMessage shows a credential without its secrets, and where it goes.
func credentialMessage(c broker.Credential, r engine.Report, to []broker.Destination, now time.Time) *tokenbrokerv1.Credential {
	m := &tokenbrokerv1.Credential{
		Name: string(c.Name), Provider: c.Provider, Inputs: c.Inputs, DefaultScopes: c.DefaultScopes.List(),
		DefaultAudience: c.DefaultAudience, Labels: c.Labels, Disabled: c.Disabled, State: states[r.State],
		Etag: c.Etag.String(), Version: c.Number, CreateTime: stamp(c.CreateTime), UpdateTime: stamp(c.UpdateTime),
	}
	if r.Credential.Provider == c.Provider { // it is of what is stored, which a change that is only validated may not be
		m.DefinitionRevision = r.Definition
	}
	for _, d := range broker.SortDestinations(slices.Concat(to, c.Destinations)) {
		if _, known := uses[d.Use]; !known {
			continue // a broker of another version has named it
		}
		m.Destinations = append(m.Destinations, &tokenbrokerv1.Destination{
			Use: uses[d.Use], Place: d.Place, Current: slices.Contains(to, d), Accepted: slices.Contains(c.Destinations, d),
		})
	}
	for _, name := range c.SecretNames() {
		if seed, ok := c.Seeds[name]; ok {
			m.Secrets = append(m.Secrets, &tokenbrokerv1.SecretInput{Name: name, SetTime: stamp(seed.SetTime)})
			continue
		}
		s := c.Secrets[name]
		m.Secrets = append(m.Secrets, &tokenbrokerv1.SecretInput{
			Name: name, SetTime: stamp(s.SetTime), FormerKept: s.FormerKept(now), FormerUsedTime: stamp(s.FormerUsedTime),
		})
	}
	return m
}

var states = map[engine.State]tokenbrokerv1.CredentialState{
	engine.Unused:        tokenbrokerv1.CredentialState_CREDENTIAL_STATE_UNUSED,
	engine.Ready:         tokenbrokerv1.CredentialState_CREDENTIAL_STATE_READY,
	engine.Degraded:      tokenbrokerv1.CredentialState_CREDENTIAL_STATE_DEGRADED,
	engine.Misconfigured: tokenbrokerv1.CredentialState_CREDENTIAL_STATE_MISCONFIGURED,
	engine.Reauthorize:   tokenbrokerv1.CredentialState_CREDENTIAL_STATE_REAUTHORIZATION_REQUIRED,
	engine.Disabled:      tokenbrokerv1.CredentialState_CREDENTIAL_STATE_DISABLED,
	engine.Held:          tokenbrokerv1.CredentialState_CREDENTIAL_STATE_HELD,
}

var uses = map[broker.Use]tokenbrokerv1.Destination_Use{
	broker.Requests: tokenbrokerv1.Destination_USE_REQUESTS,
	broker.Carried:  tokenbrokerv1.Destination_USE_CARRIED,
	broker.How:      tokenbrokerv1.Destination_USE_HOW,
	broker.API:      tokenbrokerv1.Destination_USE_API,
	broker.Callers:  tokenbrokerv1.Destination_USE_CALLERS,
	broker.Release:  tokenbrokerv1.Destination_USE_RELEASE,
}

// destinationsOf reads what somebody accepts. A use that this broker does not know is nothing that it goes to.
func destinationsOf(all []*tokenbrokerv1.Destination) []broker.Destination {
	var out []broker.Destination
	for _, m := range all {
		d := broker.Destination{Place: m.GetPlace()}
		for use, shown := range uses {
			if shown == m.GetUse() {
				d.Use = use
			}
		}
		out = append(out, d)
	}
	return out
}

func attemptMessages(attempts []broker.Attempt) []*tokenbrokerv1.Attempt {
	var out []*tokenbrokerv1.Attempt
	for _, a := range attempts {
		x := &tokenbrokerv1.Attempt{
			StartTime: stamp(a.Start), Duration: durationpb.New(a.Duration), Host: a.Host, Status: int32(a.Status), //nolint:gosec // an HTTP status
			UpstreamError: a.UpstreamError, Taken: a.Taken,
		}
		if a.Reason != "" {
			x.Reason = reasonOf(broker.KindNamed(a.Reason))
		}
		out = append(out, x)
	}
	return out
}

// exchangeMessages are attempts for clients from before they were called so.
func exchangeMessages(attempts []*tokenbrokerv1.Attempt) []*tokenbrokerv1.Exchange { //nolint:staticcheck // deprecated for clients
	var out []*tokenbrokerv1.Exchange //nolint:staticcheck // deprecated for clients
	for _, a := range attempts {
		out = append(out, &tokenbrokerv1.Exchange{ //nolint:staticcheck // deprecated for clients
			StartTime: a.GetStartTime(), Duration: a.GetDuration(), Host: a.GetHost(), Status: a.GetStatus(),
			UpstreamError: a.GetUpstreamError(), Reason: a.GetReason(), Taken: a.GetTaken(),
		})
	}
	return out
}

func secretsOf(m map[string]string) map[string]broker.Secret {
	out := make(map[string]broker.Secret, len(m))
	for k, v := range m {
		out[k] = broker.NewSecret(v)
	}
	return out
}

// parseEtag is an etag where the request calls its field so.
func parseEtag(field, s string) (broker.ID, error) {
	etag, err := broker.ParseEtag(s)
	return etag, inField(field, err)
}

// inField says of a value's violation where in the request the value stands.
func inField(field string, err error) error {
	f, ok := err.(*broker.Failure) //nolint:errorlint // a Failure is never wrapped
	if !ok {
		return err
	}
	moved := *f
	moved.Violations = slices.Clone(f.Violations)
	for i := range moved.Violations {
		moved.Violations[i].Field = field
	}
	return &moved
}
