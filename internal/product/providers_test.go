package product

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

func TestProvidersAreListedByName(t *testing.T) {
	r := newRig(t, rigOptions{})
	type list = tokenbrokerv1.ListProvidersRequest
	all := func(req *list) []string {
		t.Helper()
		var names []string
		for {
			page := do(t, r.providers.ListProviders, req)
			for _, p := range page.GetProviders() {
				names = append(names, p.GetName())
				if p.GetRevision() == "" || p.GetTitle() == "" || p.GetDefinition() != "" || len(p.GetProblems()) > 0 {
					t.Errorf("got %v, want title and revision, and no text", p)
				}
			}
			if req.PageToken = page.GetNextPageToken(); req.GetPageToken() == "" {
				return names
			}
		}
	}
	names := all(&list{})
	if !slices.IsSorted(names) {
		t.Errorf("got %q, want them by name", names)
	}
	for _, s := range upstreamsim.Systems() {
		if !slices.Contains(names, string(s)) {
			t.Errorf("%s is not listed", s)
		}
	}
	if pages := all(&list{PageSize: 2}); !slices.Equal(pages, names) {
		t.Errorf("got %q by pages, want %q", pages, names)
	}
	if got := all(&list{Filter: "name = docuware*", PageSize: 1}); strings.Join(got, " ") != "docuware docuware-cookie" {
		t.Errorf("got %q", got)
	}
	next := do(t, r.providers.ListProviders, &list{PageSize: 2}).GetNextPageToken()
	refuse(t, r.providers.ListProviders, &list{PageToken: next, Filter: "name = a*"}).wantFields(t, "page_token")
}

func TestAProviderIsShownAsWritten(t *testing.T) {
	r := newRig(t, rigOptions{definitions: own})
	for name, text := range own {
		if p := do(t, r.providers.GetProvider, &tokenbrokerv1.GetProviderRequest{Name: name}).GetProvider(); p.GetDefinition() != text {
			t.Errorf("%s: got %q, want %q", name, p.GetDefinition(), text)
		}
	}
}

func TestAnExplanationSendsNothingAndShowsNoSecret(t *testing.T) {
	r := newRig(t, rigOptions{})
	for _, a := range r.sim.Accounts() {
		res := do(t, r.providers.ExplainProvider, &tokenbrokerv1.ExplainProviderRequest{Name: string(a.System), Inputs: a.Inputs, Scopes: a.Scopes})
		text := strings.Join(res.GetRequests(), "\n")
		if len(res.GetProblems()) > 0 || !strings.Contains(text, "https://") {
			t.Errorf("%s: got %q and problems %q", a.System, text, res.GetProblems())
		}
		if !strings.Contains(text, "<client_secret>") && !strings.Contains(text, "<password>") && !strings.Contains(text, "<provider_secret>") {
			t.Errorf("%s: no secret is named in %q", a.System, text)
		}
		if n := r.sim.SystemStats(a.System).Total(); n != 0 {
			t.Errorf("%s: %d requests were sent", a.System, n)
		}
	}
	res := do(t, r.providers.ExplainProvider, &tokenbrokerv1.ExplainProviderRequest{Name: "docuware", Inputs: map[string]string{"serer": "x"}, Scopes: []string{"y"}})
	for _, want := range []string{"server", "username", "serer", "scopes"} {
		if !strings.Contains(strings.Join(res.GetProblems(), "\n"), want) {
			t.Errorf("got problems %q, want one about %s", res.GetProblems(), want)
		}
	}
	refuse(t, r.providers.ExplainProvider, &tokenbrokerv1.ExplainProviderRequest{Name: "nothing"}).want(t, codes.NotFound, "NOT_FOUND")
}
