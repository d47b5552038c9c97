package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

const (
	defaultPage = 50
	largestPage = 1000
)

// credentials is CredentialService.
type credentials struct {
	tokenbrokerv1.UnimplementedCredentialServiceServer
	broker *engine.Broker
}

// message shows the credential with how it is doing.
func (s *credentials) message(ctx context.Context, c broker.Credential) *tokenbrokerv1.Credential {
	r := engine.Report{}
	if all, err := s.broker.CredentialStatuses(ctx, callerOf(ctx), []broker.CredentialName{c.Name}); err == nil && all[0].Err == nil { // else it is validated only, or gone meanwhile
		r = all[0]
	}
	return credentialMessage(c, r, s.broker.Destinations(c), time.Now())
}

func (s *credentials) CreateCredential(ctx context.Context, r *tokenbrokerv1.CreateCredentialRequest) (*tokenbrokerv1.CreateCredentialResponse, error) {
	m := r.GetCredential()
	name := broker.CredentialName(m.GetName())
	scopes, err := broker.ParseSet("credential.default_scopes", m.GetDefaultScopes())
	if err != nil {
		return nil, err
	}
	if err := broker.CheckText("credential.default_audience", m.GetDefaultAudience()); err != nil {
		return nil, err
	}
	c, err := s.broker.CreateCredential(ctx, callerOf(ctx), engine.Change{
		Name: name, ValidateOnly: r.GetValidateOnly(), AllowExisting: r.GetAllowExisting(), RequestID: r.GetRequestId(),
		Edit: func(d *engine.Draft) error {
			*d = engine.Draft{
				Provider: m.GetProvider(), Inputs: maps.Clone(m.GetInputs()), DefaultScopes: scopes,
				DefaultAudience: m.GetDefaultAudience(), Labels: maps.Clone(m.GetLabels()), Disabled: m.GetDisabled(),
				Secrets: secretsOf(r.GetSecrets()),
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return &tokenbrokerv1.CreateCredentialResponse{Credential: s.message(ctx, c)}, nil
}

func (s *credentials) GetCredential(ctx context.Context, r *tokenbrokerv1.GetCredentialRequest) (*tokenbrokerv1.GetCredentialResponse, error) {
	name := broker.CredentialName(r.GetName())
	c, err := s.broker.Credential(ctx, callerOf(ctx), name)
	if err != nil {
		return nil, err
	}
	return &tokenbrokerv1.GetCredentialResponse{Credential: s.message(ctx, c)}, nil
}

func (s *credentials) ListCredentials(ctx context.Context, r *tokenbrokerv1.ListCredentialsRequest) (*tokenbrokerv1.ListCredentialsResponse, error) {
	filter, err := parseFilter(r.GetFilter())
	if err != nil {
		return nil, err
	}
	after, err := readPageToken(r.GetPageToken(), s.pageKey(ctx, r.GetFilter()))
	if err != nil {
		return nil, err
	}
	size := pageSize(r.GetPageSize())
	page, err := s.broker.Credentials(ctx, callerOf(ctx), broker.CredentialName(after), size)
	if err != nil {
		return nil, err
	}
	shown, last, err := s.messages(ctx, page.Credentials, filter)
	if err != nil {
		return nil, err
	}
	next := page.Next
	if last != "" {
		next = last
	}
	return &tokenbrokerv1.ListCredentialsResponse{Credentials: shown, NextPageToken: writePageToken(string(next), s.pageKey(ctx, r.GetFilter()))}, nil
}

// pageKey is of the caller's lists with a filter.
func (s *credentials) pageKey(ctx context.Context, filter string) [32]byte {
	return s.broker.PageKey("credentials", callerOf(ctx).String(), filter)
}

// pageBytes is how large a page is, about: a client takes 4 MiB, and one credential can have a quarter of that in places alone.
const pageBytes = 1 << 20

// messages shows those of a page that the filter lets through, up to pageBytes; last is where it ended for that, and empty where it did not. How they
// are doing is asked of the store once, and only for those that may be shown.
func (s *credentials) messages(ctx context.Context, page []broker.Credential, f filter) (out []*tokenbrokerv1.Credential, last broker.CredentialName, err error) {
	now, plain := time.Now(), f.withoutState()
	var names []broker.CredentialName
	var left []broker.Credential
	for _, c := range page {
		if plain.matches(credentialMessage(c, engine.Report{}, nil, now)) {
			names, left = append(names, c.Name), append(left, c)
		}
	}
	if len(names) == 0 {
		return nil, "", nil
	}
	reports, err := s.broker.CredentialStatuses(ctx, callerOf(ctx), names)
	if err != nil {
		return nil, "", err
	}
	size := 0
	for i, r := range reports {
		if broker.KindOf(r.Err) == broker.NotFound {
			continue // deleted since the page was read
		}
		c := r.Credential // as of the same moment as its state
		if r.Err != nil {
			c = left[i]
		}
		m := credentialMessage(c, r, s.broker.Destinations(c), now)
		if r.Err != nil {
			m.State = tokenbrokerv1.CredentialState_CREDENTIAL_STATE_UNSPECIFIED
		}
		if !f.matches(m) {
			continue
		}
		out = append(out, m)
		if size += proto.Size(m); size >= pageBytes && i < len(reports)-1 {
			return out, names[i], nil
		}
	}
	return out, "", nil
}

func pageSize(asked int32) int {
	if asked == 0 {
		return defaultPage
	}
	return min(int(asked), largestPage)
}

func (s *credentials) UpdateCredential(ctx context.Context, r *tokenbrokerv1.UpdateCredentialRequest) (*tokenbrokerv1.UpdateCredentialResponse, error) {
	m := r.GetCredential()
	name := broker.CredentialName(m.GetName())
	etag, err := parseEtag("credential.etag", m.GetEtag())
	if err != nil {
		return nil, err
	}
	c, err := s.broker.UpdateCredential(ctx, callerOf(ctx), engine.Change{
		Name: name, Etag: etag, AllowMissing: r.GetAllowMissing(), ValidateOnly: r.GetValidateOnly(),
		Edit: func(d *engine.Draft) error { return edit(d, m, r.GetSecrets(), r.GetUpdateMask().GetPaths()) },
	})
	if err != nil {
		return nil, err
	}
	return &tokenbrokerv1.UpdateCredentialResponse{Credential: s.message(ctx, c)}, nil
}

// edit changes what the mask names; without one, the fields that are set.
func edit(d *engine.Draft, m *tokenbrokerv1.Credential, secrets map[string]string, mask []string) error {
	d.Secrets = secretsOf(secrets)
	if len(mask) == 0 {
		mask = setFields(m)
	}
	if slices.Contains(mask, "*") {
		mask = append(mask, "provider", "inputs", "default_scopes", "default_audience", "labels", "disabled")
	}
	var wrong []broker.Violation
	for _, path := range mask {
		head, key, keyed := strings.Cut(path, ".")
		switch {
		case path == "*", path == "secrets", path == "name", path == "etag":
		case path == "provider":
			d.Provider = m.GetProvider()
		case path == "default_audience":
			if err := broker.CheckText("credential.default_audience", m.GetDefaultAudience()); err != nil {
				return err
			}
			d.DefaultAudience = m.GetDefaultAudience()
		case path == "disabled":
			d.Disabled = m.GetDisabled()
		case path == "default_scopes":
			scopes, err := broker.ParseSet("credential.default_scopes", m.GetDefaultScopes())
			if err != nil {
				return err
			}
			d.DefaultScopes = scopes
		case path == "inputs":
			d.Inputs = maps.Clone(m.GetInputs())
		case path == "labels":
			d.Labels = maps.Clone(m.GetLabels())
		case head == "inputs" && keyed:
			d.Inputs = setOrRemove(d.Inputs, m.GetInputs(), key)
		case head == "labels" && keyed:
			d.Labels = setOrRemove(d.Labels, m.GetLabels(), key)
		case head == "secrets" && keyed:
			if _, given := secrets[key]; !given {
				d.Secrets[key] = broker.Secret{} // named and not given: removed
			}
		default:
			wrong = append(wrong, broker.Violation{Field: "update_mask", Code: broker.CodeUnknown, Description: fmt.Sprintf(
				"%.80q is not a field that can be changed; there are: provider, inputs, inputs.NAME, default_scopes, default_audience, labels, labels.KEY, disabled, secrets.NAME, *", path)})
		}
	}
	return broker.Invalid(wrong...)
}

// setFields names the fields that a message sets; a map's entries one by one, so that the others stay.
func setFields(m *tokenbrokerv1.Credential) []string {
	var mask []string
	add := func(set bool, path string) {
		if set {
			mask = append(mask, path)
		}
	}
	add(m.GetProvider() != "", "provider")
	add(len(m.GetDefaultScopes()) > 0, "default_scopes")
	add(m.GetDefaultAudience() != "", "default_audience")
	add(m.GetDisabled(), "disabled")
	for k := range m.GetInputs() {
		add(true, "inputs."+k)
	}
	for k := range m.GetLabels() {
		add(true, "labels."+k)
	}
	return mask
}

func setOrRemove(there, wanted map[string]string, key string) map[string]string {
	v, ok := wanted[key]
	if !ok {
		delete(there, key)
		return there
	}
	if there == nil {
		there = map[string]string{}
	}
	there[key] = v
	return there
}

func (s *credentials) DeleteCredential(ctx context.Context, r *tokenbrokerv1.DeleteCredentialRequest) (*tokenbrokerv1.DeleteCredentialResponse, error) {
	name := broker.CredentialName(r.GetName())
	etag, err := parseEtag("etag", r.GetEtag())
	if err != nil {
		return nil, err
	}
	err = s.broker.DeleteCredential(ctx, callerOf(ctx), name, etag)
	if err != nil && (!r.GetAllowMissing() || broker.KindOf(err) != broker.NotFound) {
		return nil, err
	}
	return &tokenbrokerv1.DeleteCredentialResponse{}, nil
}

func (s *credentials) RotateSecret(ctx context.Context, r *tokenbrokerv1.RotateSecretRequest) (*tokenbrokerv1.RotateSecretResponse, error) {
	name := broker.CredentialName(r.GetName())
	etag, err := parseEtag("etag", r.GetEtag())
	if err != nil {
		return nil, err
	}
	c, err := s.broker.RotateSecret(ctx, callerOf(ctx), engine.Rotation{
		Name: name, Secrets: secretsOf(r.GetSecrets()), KeepFormer: r.GetKeepFormer().AsDuration(), Etag: etag, RequestID: r.GetRequestId(),
	})
	if err != nil {
		return nil, err
	}
	return &tokenbrokerv1.RotateSecretResponse{Credential: s.message(ctx, c)}, nil
}

func (s *credentials) RetireSecret(ctx context.Context, r *tokenbrokerv1.RetireSecretRequest) (*tokenbrokerv1.RetireSecretResponse, error) {
	name := broker.CredentialName(r.GetName())
	c, err := s.broker.RetireSecret(ctx, callerOf(ctx), name, r.GetSecrets())
	if err != nil {
		return nil, err
	}
	return &tokenbrokerv1.RetireSecretResponse{Credential: s.message(ctx, c)}, nil
}

func (s *credentials) AcceptCredential(ctx context.Context, r *tokenbrokerv1.AcceptCredentialRequest) (*tokenbrokerv1.AcceptCredentialResponse, error) {
	etag, err := parseEtag("etag", r.GetEtag())
	if err != nil {
		return nil, err
	}
	c, err := s.broker.AcceptCredential(ctx, callerOf(ctx), engine.Acceptance{
		Name: broker.CredentialName(r.GetName()), Destinations: destinationsOf(r.GetDestinations()), Etag: etag, ForgetFormer: r.GetForgetFormer(),
	})
	if err != nil {
		return nil, err
	}
	return &tokenbrokerv1.AcceptCredentialResponse{Credential: s.message(ctx, c)}, nil
}

func (s *credentials) TestCredential(ctx context.Context, r *tokenbrokerv1.TestCredentialRequest) (*tokenbrokerv1.TestCredentialResponse, error) {
	name := broker.CredentialName(r.GetName())
	sel, err := selection(r)
	if err != nil {
		return nil, err
	}
	t, err := s.broker.TestCredential(ctx, callerOf(ctx), name, sel, r.GetKeep())
	if err != nil {
		return nil, err
	}
	out := &tokenbrokerv1.TestCredentialResponse{Attempts: attemptMessages(t.Attempts), ExpireTime: stamp(t.ExpireTime), FormerSecret: t.Former}
	out.Exchanges = exchangeMessages(out.GetAttempts()) //nolint:staticcheck // deprecated for clients
	if f := t.Failure; f != nil {
		out.Reason, out.Code, out.Message = reasonOf(f.Kind), int32(outcomes[f.Kind].code), f.Summary() //nolint:gosec // codes are few
	}
	return out, nil
}

func (s *credentials) GetCredentialStatus(ctx context.Context, r *tokenbrokerv1.GetCredentialStatusRequest) (*tokenbrokerv1.GetCredentialStatusResponse, error) {
	name := broker.CredentialName(r.GetName())
	rep, err := s.broker.CredentialStatus(ctx, callerOf(ctx), name)
	if err != nil {
		return nil, err
	}
	out := &tokenbrokerv1.GetCredentialStatusResponse{
		State: states[rep.State], Advice: rep.Advice, LastSuccessTime: stamp(rep.LastSuccess), NextAttemptTime: stamp(rep.NextAttempt),
		Attempts: attemptMessages(rep.Attempts), RefreshTokenExpireTime: stamp(rep.RefreshTokenExpires),
	}
	out.Exchanges = exchangeMessages(out.GetAttempts()) //nolint:staticcheck // deprecated for clients
	if f := rep.Failure; f != nil {
		out.Reason, out.Message = reasonOf(f.Kind), f.Summary()
	}
	for _, t := range rep.Tokens {
		out.Tokens = append(out.Tokens, &tokenbrokerv1.HeldToken{
			TokenId: t.ID, Scopes: t.Granted, Audience: t.Audience, ExpireTime: stamp(t.ExpireAt), RefreshTime: stamp(t.RefreshAt),
		})
	}
	return out, nil
}
