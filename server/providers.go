package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// Providers shows definitions. Safe for concurrent use.
type Providers interface {
	// Providers returns all definitions, those that do not load with their problems. Any order.
	Providers() []Provider
	// Explain returns the requests that would be sent, for people, and what is wrong with the inputs; secrets are named, never
	// given. It fails with NotFound or ProviderInvalid.
	Explain(name string, inputs map[string]string, sel broker.Selection) (requests, problems []string, err error)
}

// A Provider is a definition, as it is shown.
type Provider struct {
	Name, Title, DocsURL string
	Origin               tokenbrokerv1.Origin
	Revision             string
	Problems             []string
	// Definition is the text as written.
	Definition string
}

// providers is ProviderService.
type providers struct {
	tokenbrokerv1.UnimplementedProviderServiceServer
	from      Providers
	authorize broker.Authorizer
	audit     broker.Auditor
	// key is engine.Broker.PageKey.
	key func(parts ...string) [32]byte
}

func (s *providers) pageKey(ctx context.Context, filter string) [32]byte {
	return s.key("providers", callerOf(ctx).String(), filter)
}

func (s *providers) allow(ctx context.Context) error {
	if s.authorize.Decide(broker.Access{Caller: callerOf(ctx), Operation: broker.ReadProvider}).Effect != broker.Allowed {
		denied := &broker.Failure{Kind: broker.CallerNotAllowed}
		s.audit.Note(ctx, broker.AuditRecord{Event: broker.AuditDenied, Outcome: denied, Caller: callerOf(ctx), Operation: broker.ReadProvider})
		return denied
	}
	return nil
}

func (p Provider) message(text bool) *tokenbrokerv1.Provider {
	m := &tokenbrokerv1.Provider{
		Name: p.Name, Title: p.Title, DocsUrl: p.DocsURL, Origin: p.Origin, Revision: p.Revision, Problems: p.Problems,
	}
	if text {
		m.Definition = p.Definition
	}
	return m
}

func (s *providers) ListProviders(ctx context.Context, r *tokenbrokerv1.ListProvidersRequest) (*tokenbrokerv1.ListProvidersResponse, error) {
	if err := s.allow(ctx); err != nil {
		return nil, err
	}
	f, err := parseFilter(r.GetFilter())
	if err != nil {
		return nil, err
	}
	for _, c := range f {
		if c.field != "name" {
			return nil, broker.Invalid(broker.Violation{Field: "filter", Description: "providers are filtered by name only, as in name = docuware*"})
		}
	}
	after, err := readPageToken(r.GetPageToken(), s.pageKey(ctx, r.GetFilter()))
	if err != nil {
		return nil, err
	}
	all := s.from.Providers()
	slices.SortFunc(all, func(a, b Provider) int { return cmp.Compare(a.Name, b.Name) })
	out := &tokenbrokerv1.ListProvidersResponse{}
	size := pageSize(r.GetPageSize())
	for _, p := range all {
		if p.Name <= after || !f.matches(&tokenbrokerv1.Credential{Name: p.Name}) {
			continue
		}
		if len(out.Providers) == size {
			out.NextPageToken = writePageToken(out.Providers[size-1].GetName(), s.pageKey(ctx, r.GetFilter()))
			break
		}
		out.Providers = append(out.Providers, p.message(false))
	}
	return out, nil
}

func (s *providers) GetProvider(ctx context.Context, r *tokenbrokerv1.GetProviderRequest) (*tokenbrokerv1.GetProviderResponse, error) {
	if err := s.allow(ctx); err != nil {
		return nil, err
	}
	for _, p := range s.from.Providers() {
		if p.Name == r.GetName() {
			return &tokenbrokerv1.GetProviderResponse{Provider: p.message(true)}, nil
		}
	}
	return nil, noProvider(r.GetName())
}

// noProvider says that there is no definition of a name, and where to find those that there are.
func noProvider(name string) error {
	return &broker.Failure{Kind: broker.NotFound, Provider: name, Detail: fmt.Sprintf("there is no definition %.80q; `tokenbroker provider list` shows those that there are", name)}
}

func (s *providers) ExplainProvider(ctx context.Context, r *tokenbrokerv1.ExplainProviderRequest) (*tokenbrokerv1.ExplainProviderResponse, error) {
	if err := s.allow(ctx); err != nil {
		return nil, err
	}
	sel, err := selection(r)
	if err != nil {
		return nil, err
	}
	requests, problems, err := s.from.Explain(r.GetName(), r.GetInputs(), sel)
	if broker.KindOf(err) == broker.NotFound {
		err = noProvider(r.GetName())
	}
	if err != nil {
		return nil, err
	}
	return &tokenbrokerv1.ExplainProviderResponse{Requests: requests, Problems: problems}, nil
}
