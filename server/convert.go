package server

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// selected is what GetToken, Invalidate, WatchToken and TestCredential share: fields 1 to 5.
type selected interface {
	GetScopes() []string
	GetAudience() string
	GetParameters() map[string]string
}

func selection(r selected) (broker.Selection, error) {
	scopes, err := broker.ParseSet("scopes", r.GetScopes())
	if err != nil {
		return broker.Selection{}, err
	}
	s := broker.Selection{Scopes: scopes, Audience: r.GetAudience(), Parameters: broker.NewPairs(r.GetParameters())}
	if w, ok := r.(interface{ GetResources() []string }); ok {
		if s.Resources, err = broker.ParseSet("resources", w.GetResources()); err != nil {
			return broker.Selection{}, err
		}
	}
	return s, nil
}

// stamp is nil for the zero time: absent, not 1970 or year 1.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
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

// credentialMessage shows a credential without its secrets.
func credentialMessage(c broker.Credential, state engine.State) *tokenbrokerv1.Credential {
	m := &tokenbrokerv1.Credential{
		Name: string(c.Name), Provider: c.Provider, Inputs: c.Inputs, DefaultScopes: c.DefaultScopes.List(),
		DefaultAudience: c.DefaultAudience, Labels: c.Labels, Disabled: c.Disabled, State: states[state],
		Etag: c.Etag.String(), Version: c.Number, CreateTime: stamp(c.CreateTime), UpdateTime: stamp(c.UpdateTime),
	}
	for _, name := range c.SecretNames() {
		if seed, ok := c.Seeds[name]; ok {
			m.Secrets = append(m.Secrets, &tokenbrokerv1.SecretInput{Name: name, SetTime: stamp(seed.SetTime)})
			continue
		}
		s := c.Secrets[name]
		m.Secrets = append(m.Secrets, &tokenbrokerv1.SecretInput{
			Name: name, SetTime: stamp(s.SetTime), FormerKept: !s.Former.IsZero(), FormerUsedTime: stamp(s.FormerUsedTime),
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
}

func attemptMessages(attempts []broker.Attempt) []*tokenbrokerv1.Exchange {
	var out []*tokenbrokerv1.Exchange
	for _, a := range attempts {
		x := &tokenbrokerv1.Exchange{
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

func secretsOf(m map[string]string) map[string]broker.Secret {
	out := make(map[string]broker.Secret, len(m))
	for k, v := range m {
		out[k] = broker.NewSecret(v)
	}
	return out
}

// parseName is a credential's name where the request calls its field so.
func parseName(field, s string) (broker.CredentialName, error) {
	name, err := broker.ParseCredentialName(s)
	return name, inField(field, err)
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

// tooMuch holds what the contract does not annotate against the limits that it has for GetToken.
func tooMuch(prefix string, scopes []string, audience string, parameters map[string]string) error {
	if len(scopes) > mostScopes {
		return broker.Invalid(broker.Violation{Field: prefix + "scopes", Description: fmt.Sprintf("more than %d", mostScopes)})
	}
	for i, s := range scopes {
		if len(s) > scopeBytes {
			return broker.Invalid(broker.Violation{Field: fmt.Sprintf("%sscopes[%d]", prefix, i), Description: fmt.Sprintf("more than %d bytes", scopeBytes)})
		}
	}
	if len(audience) > audienceBytes {
		return broker.Invalid(broker.Violation{Field: prefix + "audience", Description: fmt.Sprintf("more than %d bytes", audienceBytes)})
	}
	return tooLarge(prefix+"parameters", parameters, parameterPairs, parameterBytes)
}

func tooLarge(field string, m map[string]string, pairs, bytes int) error {
	if len(m) > pairs {
		return broker.Invalid(broker.Violation{Field: field, Description: fmt.Sprintf("more than %d entries", pairs)})
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if len(k) > 128 || len(m[k]) > bytes {
			return broker.Invalid(broker.Violation{Field: field, Description: fmt.Sprintf("an entry has a name of more than 128 bytes or a value of more than %d", bytes)})
		}
	}
	return nil
}
