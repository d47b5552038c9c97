package product

import (
	"net/http"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// requestsOf is how often one exchange asks each of a system's endpoints.
var requestsOf = map[upstreamsim.System]int{
	upstreamsim.DocuWare: 3, upstreamsim.ClientBasic: 2,
}

func TestEverySystemEndToEnd(t *testing.T) {
	r := newRig(t, rigOptions{})
	accounts := r.sim.Accounts()
	if len(accounts) < 11 {
		t.Fatalf("got %d accounts, want one for each named system", len(accounts))
	}
	for _, a := range accounts {
		t.Run(string(a.System), func(t *testing.T) {
			name := string(a.System)
			r.create(name, a)
			const callers = 200
			ids, errs := make([]string, callers), make([]error, callers)
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() {
					tok, err := r.get(name, a.Scopes...)
					ids[i], errs[i] = tok.GetTokenId(), err
				})
			}
			wg.Wait()
			for i := range callers {
				if errs[i] != nil || ids[i] != ids[0] {
					t.Fatalf("got %q %v, want %q for all", ids[i], errs[i], ids[0])
				}
			}
			tok := r.mustGet(name, a.Scopes...)
			if got := r.works(a, tok); got != http.StatusOK {
				t.Errorf("the API answers %d to the token, want 200", got)
			}
			if tok.GetExpireTime() == nil || !tok.GetExpireTime().AsTime().After(tok.GetRefreshTime().AsTime()) {
				t.Errorf("got expiry %v and refresh %v, want both, in this order", tok.GetExpireTime(), tok.GetRefreshTime())
			}
			want := max(requestsOf[a.System], 1)
			// Requests that name no account, such as discovery, are counted for the system.
			s := r.sim.SystemStats(a.System)
			if n := s.Total(); n != want {
				t.Errorf("got %d requests (%v), want %d", n, s.Requests, want)
			}
			if bad := r.sim.Refusals(a.System); len(bad) > 0 {
				t.Errorf("the simulator refused %+v", bad)
			}
		})
	}
}
