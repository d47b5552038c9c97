package authn_test

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
)

// TestNobodyElseIsDisturbed: while callers ask without a pause, on connections that stay and on new ones, the broker's certificate, the authorities and the
// rules change again and again. No call of those who may fails, and none of those who may not any more passes once a change was seen.
func TestNobodyElseIsDisturbed(t *testing.T) {
	r := newRig(t)
	serving := must[*devcerts.Authority](t)(devcerts.NewAuthority("serving", "", time.Hour))
	r.write("serving.pem", slices.Concat(must[[]byte](t)(readAll(r, "serving.pem")), serving.PEM()))
	next := must[*devcerts.Authority](t)(devcerts.NewAuthority("next", trustDomain, time.Hour))
	both := slices.Concat(r.ca.PEM(), next.PEM())
	changed := r.auth["services"].Changes()
	r.write("ca.pem", both)
	within(t, changed, "the file is not read again")

	var asked, failed, passed atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range 6 {
		p := issue(t, next, time.Hour, uris("spiffe://corp.example/stays/"+strconv.Itoa(i)))
		conn := r.dial("services", r.config(&p))
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				at := conn
				if n%50 == 49 {
					at = r.dial("services", r.config(&p))
				}
				asked.Add(1)
				call, done := context.WithTimeout(context.Background(), 20*time.Second)
				_, err := tokenbrokerv1.NewTokenBrokerServiceClient(at).GetToken(call, &tokenbrokerv1.GetTokenRequest{Credential: "main"})
				done()
				if err != nil {
					failed.Add(1)
					t.Errorf("a call that may pass: %v", err)
					return
				}
				if at != conn {
					_ = at.Close()
				}
			}
		})
	}
	goes := issue(t, r.ca, time.Hour, uris("spiffe://corp.example/goes"))
	for round := range 6 {
		// Its authority goes and comes back.
		conn := r.dial("services", r.config(&goes))
		if err := getToken(t, conn); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		watched := watch(t, conn)
		r.write("ca.pem", next.PEM())
		within(t, watched, "a watch goes on whose authority is trusted no more")
		if err := getToken(t, r.dial("services", r.config(&goes))); status.Code(err) != codes.Unavailable {
			passed.Add(1)
			t.Errorf("round %d: an authority that is gone: %v", round, err)
		}
		changed := r.auth["services"].Changes()
		r.write("ca.pem", both)
		within(t, changed, "the file is not read again")
		// Its right goes and comes back.
		r.rules.set(func(a broker.Access) bool { return a.Caller.Name != "goes" })
		if err := getToken(t, r.dial("services", r.config(&goes))); status.Code(err) != codes.PermissionDenied {
			passed.Add(1)
			t.Errorf("round %d: a right that is gone: %v", round, err)
		}
		r.rules.set(func(broker.Access) bool { return true })
		// The broker shows another certificate.
		changed = r.auth["services"].Changes()
		own := must[devcerts.Pair](t)(serving.Issue(time.Hour, devcerts.Loopback))
		r.write("tls.key", own.Key)
		r.write("tls.crt", own.Certificate)
		within(t, changed, "the broker's certificate is not read again")
	}
	cancel()
	all.Wait()
	t.Logf("%d calls while everything changed six times: %d failed that may pass, %d passed that may not", asked.Load(), failed.Load(), passed.Load())
	if n := strings.Count(r.log.String(), "trusted no more"); n < 6 {
		t.Errorf("the log speaks of %d connections that were closed", n)
	}
}
