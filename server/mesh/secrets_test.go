package mesh

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

func secretsOf(b Broker) *secrets { return &secrets{broker: b, clock: broker.NewClock(nil)} }

type play = func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error

// A watched is a Broker whose watches see what a test plays, by the credential's name, and which answers by that.
type watched struct {
	double
	plays map[string]play

	mu  sync.Mutex
	now map[string]played
}

// played is how things are: there is a token, or a failure, or neither yet. more is closed when they are otherwise.
type played struct {
	token  *tokenbrokerv1.Token
	failed broker.Kind // Internal: it has not
	more   chan struct{}
}

func (w *watched) WatchFor(ctx context.Context, r *tokenbrokerv1.WatchTokenRequest, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
	return w.plays[r.GetCredential()](ctx, func(e *tokenbrokerv1.WatchTokenResponse) error {
		w.happens(r.GetCredential(), e)
		return send(e)
	})
}

// happens is what a watch tells, or does not tell.
func (w *watched) happens(name string, e *tokenbrokerv1.WatchTokenResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	is := w.now[name]
	if is.more != nil {
		close(is.more)
	}
	is.more, is.failed = make(chan struct{}), broker.Internal
	switch {
	case e.GetToken() != nil:
		is.token = e.GetToken()
	case e.GetInvalidatedTokenId() != "":
		is.token = nil
	case !e.GetState().GetDegraded():
		is.failed = broker.KindNamed(strings.ToLower(e.GetState().GetReason()))
	}
	if w.now == nil {
		w.now = map[string]played{}
	}
	w.now[name] = is
}

func (w *watched) CurrentFor(ctx context.Context, r *tokenbrokerv1.WatchTokenRequest) (*tokenbrokerv1.Token, time.Duration, error) {
	for {
		w.mu.Lock()
		is := w.now[r.GetCredential()]
		w.mu.Unlock()
		switch {
		case is.failed != broker.Internal:
			return nil, 0, &broker.Failure{Kind: is.failed}
		case is.token != nil:
			return is.token, time.Until(is.token.GetExpireTime().AsTime()), nil
		}
		select {
		case <-is.more:
		case <-ctx.Done():
			return nil, 0, &broker.Failure{Kind: broker.UpstreamSlow}
		}
	}
}

// A discovery is an Envoy's stream, which a test sends on.
type discovery struct {
	grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
	ctx context.Context
	in  chan []string
	// version is what it has when the stream begins.
	version string
	sent    []string // "NAME=VALUE at SECONDS"
	at      time.Time
}

func (d *discovery) Context() context.Context { return d.ctx }

func (d *discovery) Recv() (*discoveryv3.DiscoveryRequest, error) {
	select {
	case names, ok := <-d.in:
		if !ok {
			return nil, io.EOF
		}
		return &discoveryv3.DiscoveryRequest{ResourceNames: names, VersionInfo: d.version}, nil
	case <-d.ctx.Done():
		return nil, d.ctx.Err()
	}
}

func (d *discovery) Send(m *discoveryv3.DiscoveryResponse) error {
	s := &tlsv3.Secret{}
	if err := m.GetResources()[0].UnmarshalTo(s); err != nil {
		return err
	}
	d.sent = append(d.sent, s.GetName()+"="+s.GetGenericSecret().GetSecret().GetInlineString()+" after "+time.Since(d.at).String())
	return nil
}

func token(value string, life time.Duration) *tokenbrokerv1.WatchTokenResponse {
	return &tokenbrokerv1.WatchTokenResponse{Event: &tokenbrokerv1.WatchTokenResponse_Token{Token: &tokenbrokerv1.Token{
		TokenId: value, ExpireTime: timestamppb.New(time.Now().Add(life)), Headers: []*tokenbrokerv1.Header{{Name: "Authorization", Value: value}, {Name: "X-Account", Value: "7"}},
	}}}
}

func state(reason string, degraded bool) *tokenbrokerv1.WatchTokenResponse {
	return &tokenbrokerv1.WatchTokenResponse{Event: &tokenbrokerv1.WatchTokenResponse_State{State: &tokenbrokerv1.TokenState{Reason: reason, Degraded: degraded}}}
}

func invalidated(id string) *tokenbrokerv1.WatchTokenResponse {
	return &tokenbrokerv1.WatchTokenResponse{Event: &tokenbrokerv1.WatchTokenResponse_InvalidatedTokenId{InvalidatedTokenId: id}}
}

// TestWhatAnEnvoyHas: a secret is the token as it is now, and nothing once that must not be used any more and there is no other.
func TestWhatAnEnvoyHas(t *testing.T) {
	over := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	for name, c := range map[string]struct {
		secret string
		play   play
		want   []string
		fails  broker.Kind // Internal: it does not
	}{
		"a successor": {"a", func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			<-time.After(time.Minute)
			_ = send(token("two", time.Hour))
			<-time.After(time.Minute)
			return over(ctx)
		}, []string{"a=one after 0s", "a=two after 1m0s", "a= after 1h1m0s"}, broker.Internal},
		"invalidated, and replaced in time": {"a", func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			_ = send(invalidated("one"))
			<-time.After(time.Second)
			_ = send(token("two", time.Hour))
			return over(ctx)
		}, []string{"a=one after 0s", "a=two after 1s", "a= after 1h0m1s"}, broker.Internal},
		"invalidated, and nothing else": {"a?header=x-account", func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			<-time.After(time.Minute)
			_ = send(invalidated("one"))
			return over(ctx)
		}, []string{"a?header=x-account=7 after 0s", "a?header=x-account= after 1m2s"}, broker.Internal},
		"taken": {"a", func(_ context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			<-time.After(time.Minute)
			return &broker.Failure{Kind: broker.CallerNotAllowed}
		}, []string{"a=one after 0s", "a= after 1m0s"}, broker.CallerNotAllowed},
		"invalidated, and then no more": {"a", func(_ context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			_ = send(invalidated("one"))
			return &broker.Failure{Kind: broker.CredentialMisconfigured}
		}, []string{"a=one after 0s", "a= after 0s"}, broker.CredentialMisconfigured},
		"there is none, and one from before counts no more": {"a", func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(state("UPSTREAM_UNAVAILABLE", false))
			return over(ctx)
		}, []string{"a= after 0s"}, broker.Internal},
		"what it has from before was invalidated, and there is no other yet": {"a", func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(invalidated(fromBefore))
			return over(ctx)
		}, []string{"a= after 2s"}, broker.Internal},
		"the broker does not know, or has one that it cannot refresh": {"a", func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(state("STORE_UNAVAILABLE", false))
			_ = send(token("one", time.Hour))
			_ = send(state("RECORD_UNREADABLE", false))
			_ = send(state("UPSTREAM_UNAVAILABLE", true))
			_ = send(state("CALLER_LIMITED", false))
			_ = send(state("", false))
			return over(ctx)
		}, []string{"a=one after 0s", "a= after 1h0m0s"}, broker.Internal},
		"it does not know whether there is another": {"a", func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Minute))
			_ = send(state("STORE_UNAVAILABLE", false))
			return over(ctx)
		}, []string{"a=one after 0s", "a= after 1m0s"}, broker.Internal},
		"there was none for a while": {"a", func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			_ = send(state("UPSTREAM_RATE_LIMITED", false))
			<-time.After(3 * time.Second)
			_ = send(state("", false)) // a watch has told of this token
			return over(ctx)
		}, []string{"a=one after 0s", "a= after 0s", "a=one after 3s", "a= after 1h0m0s"}, broker.Internal},
		"invalidated, and then much is said": {"a", func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			_ = send(invalidated("one"))
			for n := range 6 {
				<-time.After(1500 * time.Millisecond)
				_ = send(state([]string{"STORE_UNAVAILABLE", "CALLER_LIMITED"}[n%2], false))
			}
			return over(ctx)
		}, []string{"a=one after 0s", "a= after 2s"}, broker.Internal},
		"its successor is shown otherwise": {"a", func(_ context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			_ = send(invalidated("one"))
			<-time.After(time.Second)
			e := token("two", time.Hour)
			e.GetToken().Headers = []*tokenbrokerv1.Header{{Name: "X-Api-Key", Value: "two"}}
			return send(e)
		}, []string{"a=one after 0s", "a= after 1s"}, broker.RequestInvalid},
		"over when it is told of": {"a", func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", -time.Hour))
			return over(ctx)
		}, []string{"a= after 0s"}, broker.Internal},
		"invalidated, and the broker stops": {"a", func(_ context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			_ = send(invalidated("one"))
			return &broker.Failure{Kind: broker.ShuttingDown}
		}, []string{"a=one after 0s", "a= after 0s"}, broker.ShuttingDown},
		"what is stored cannot be read": {"a", func(_ context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			return &broker.Failure{Kind: broker.RecordUnreadable}
		}, []string{"a=one after 0s"}, broker.RecordUnreadable},
		"the definition does not load": {"a", func(context.Context, func(*tokenbrokerv1.WatchTokenResponse) error) error {
			return &broker.Failure{Kind: broker.ProviderInvalid}
		}, nil, broker.ProviderInvalid},
		"the definition wants other words": {"a", func(_ context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			return &broker.Failure{Kind: broker.RequestInvalid}
		}, []string{"a=one after 0s", "a= after 0s"}, broker.RequestInvalid},
		"the store is away": {"a", func(_ context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			return &broker.Failure{Kind: broker.StoreUnavailable}
		}, []string{"a=one after 0s"}, broker.StoreUnavailable},
		"the broker stops": {"a", func(_ context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			<-time.After(time.Minute)
			return &broker.Failure{Kind: broker.ShuttingDown}
		}, []string{"a=one after 0s"}, broker.ShuttingDown},
		"no such header": {"a?header=x-api-key", func(_ context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			return send(token("one", time.Hour))
		}, []string{"a?header=x-api-key= after 0s"}, broker.RequestInvalid},
		"no such word": {"a?scope=x", nil, nil, broker.RequestInvalid},
		"a word twice": {"a?audience=x&audience=y", nil, nil, broker.RequestInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &discovery{ctx: t.Context(), in: make(chan []string, 3), at: time.Now()}
				d.in <- []string{c.secret}
				d.in <- []string{c.secret} // it acknowledges
				ended := make(chan error, 1)
				go func() {
					ended <- secretsOf(&watched{plays: map[string]play{"a": func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
						return c.play(ctx, func(e *tokenbrokerv1.WatchTokenResponse) error {
							defer synctest.Wait() // until it is found out what that means
							return send(e)
						})
					}}}).StreamSecrets(d)
				}()
				<-time.After(2 * time.Hour)
				close(d.in)
				if err := <-ended; broker.KindOf(err) != c.fails {
					t.Errorf("it ended with %v, want %v", err, c.fails)
				}
				if !slices.Equal(d.sent, c.want) {
					t.Errorf("it had %q, want %q", d.sent, c.want)
				}
			})
		})
	}
}

// TestWhatIsInvalidatedAtOnce: a token that was invalidated before the Envoy could have it may be the one that it has from before.
func TestWhatIsInvalidatedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watched{plays: map[string]play{"a": func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", time.Hour))
			_ = send(invalidated("one"))
			<-ctx.Done()
			return ctx.Err()
		}}}
		d := &discovery{ctx: t.Context(), in: make(chan []string, 1), at: time.Now()}
		d.in <- []string{"a"}
		ended := make(chan error, 1)
		go func() { ended <- secretsOf(w).StreamSecrets(d) }()
		<-time.After(time.Minute)
		close(d.in)
		<-ended
		if len(d.sent) == 0 || d.sent[len(d.sent)-1] != "a= after 2s" {
			t.Errorf("it had %q", d.sent)
		}
	})
}

// TestATokenThatLivesOn: an upstream that hands out the same token with a new life has a watch say nothing.
func TestATokenThatLivesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watched{}
		w.plays = map[string]play{"a": func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", 30*time.Second))
			for range 9 {
				<-time.After(24 * time.Second)
				w.happens("a", token("one", 30*time.Second))
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		d := &discovery{ctx: t.Context(), in: make(chan []string, 1), at: time.Now()}
		d.in <- []string{"a"}
		ended := make(chan error, 1)
		go func() { ended <- secretsOf(w).StreamSecrets(d) }()
		<-time.After(time.Hour)
		close(d.in)
		<-ended
		if len(d.sent) < 2 || slices.Contains(d.sent[:len(d.sent)-1], "") {
			t.Fatalf("it had %q", d.sent)
		}
		for i, s := range d.sent {
			if last := i == len(d.sent)-1; last && s != "a= after 4m6s" || !last && !strings.HasPrefix(s, "a=one ") {
				t.Errorf("it had %q", d.sent)
			}
		}
	})
}

// TestASuccessorStays: one that comes as the former token ends is what the Envoy has then.
func TestASuccessorStays(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			w := &watched{plays: map[string]play{"a": func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
				_ = send(token("one", time.Minute))
				<-time.After(time.Minute)
				_ = send(token("two", time.Hour))
				<-ctx.Done()
				return ctx.Err()
			}}}
			d := &discovery{ctx: t.Context(), in: make(chan []string, 1), at: time.Now()}
			d.in <- []string{"a"}
			ended := make(chan error, 1)
			go func() { ended <- secretsOf(w).StreamSecrets(d) }()
			<-time.After(2 * time.Minute)
			close(d.in)
			<-ended
			if last := d.sent[len(d.sent)-1]; last != "a=two after 1m0s" {
				t.Errorf("it had %q", d.sent)
			}
		})
	}
}

// TestAnEnvoyComesAgain: it names what it has, which ends when it does, also where a broker knows nothing of it.
func TestAnEnvoyComesAgain(t *testing.T) {
	for name, c := range map[string]struct {
		left time.Duration
		ends broker.Kind // of the watch; Internal: it goes on
		want []string
	}{
		"and the store is away":  {time.Minute, broker.Internal, []string{"a= after 1m0s"}},
		"and it is over":         {-time.Minute, broker.Internal, []string{"a= after 0s"}},
		"to a broken definition": {time.Minute, broker.ProviderInvalid, nil},
		"to one, and it is over": {-time.Minute, broker.ProviderInvalid, []string{"a= after 0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &watched{plays: map[string]play{"a": func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
					if c.ends != broker.Internal {
						return &broker.Failure{Kind: c.ends}
					}
					_ = send(state("STORE_UNAVAILABLE", false))
					<-ctx.Done()
					return ctx.Err()
				}}}
				w.happens("a", state("STORE_UNAVAILABLE", false))
				d := &discovery{ctx: t.Context(), in: make(chan []string, 1), at: time.Now(), version: versionOf(token("one", c.left).GetToken())}
				d.in <- []string{"a"}
				ended := make(chan error, 1)
				go func() { ended <- secretsOf(w).StreamSecrets(d) }()
				<-time.After(time.Hour)
				close(d.in)
				<-ended
				if !slices.Equal(d.sent, c.want) {
					t.Errorf("it had %q, want %q", d.sent, c.want)
				}
			})
		})
	}
}

// A mute is a watched that cannot tell what an Envoy is to have, from a time until another.
type mute struct {
	*watched
	kind        broker.Kind
	from, until time.Time
}

func (m *mute) CurrentFor(ctx context.Context, r *tokenbrokerv1.WatchTokenRequest) (*tokenbrokerv1.Token, time.Duration, error) {
	if now := time.Now(); now.Before(m.from) || !now.Before(m.until) {
		return m.watched.CurrentFor(ctx, r)
	}
	if m.kind == broker.UpstreamSlow { // it does not answer
		<-ctx.Done()
	}
	return nil, 0, &broker.Failure{Kind: m.kind}
}

// values are the secrets that it has had.
func (d *discovery) values() (all []string) {
	for _, s := range d.sent {
		_, value, _ := strings.Cut(s, "=")
		value, _, _ = strings.Cut(value, " ")
		all = append(all, value)
	}
	return all
}

// TestWhatNobodyCouldTellIsAskedAgain: a watch tells of a token once, and what hinders the Envoy from having it then passes.
func TestWhatNobodyCouldTellIsAskedAgain(t *testing.T) {
	for _, kind := range []broker.Kind{broker.CallerLimited, broker.StoreUnavailable, broker.AuditUnavailable, broker.UpstreamSlow} {
		for name, c := range map[string]struct {
			from, until time.Duration
			want        []string
		}{
			"of the first":                            {0, time.Minute, []string{"one", "two"}},
			"of the successor":                        {time.Hour, time.Hour + time.Minute, []string{"one", "two"}},
			"of the successor, until after the end":   {time.Hour, 2 * time.Hour, []string{"one", "", "two"}},
			"of the first, until there is a next one": {0, time.Hour + time.Minute, []string{"two"}},
		} {
			t.Run(kind.Name()+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := &watched{plays: map[string]play{"a": func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
						_ = send(token("one", 90*time.Minute))
						<-time.After(time.Hour)
						_ = send(token("two", 12*time.Hour))
						<-ctx.Done()
						return ctx.Err()
					}}}
					d := &discovery{ctx: t.Context(), in: make(chan []string, 1), at: time.Now()}
					m := &mute{w, kind, d.at.Add(c.from), d.at.Add(c.until)}
					d.in <- []string{"a"}
					ended := make(chan error, 1)
					go func() { ended <- secretsOf(m).StreamSecrets(d) }()
					<-time.After(3 * time.Hour)
					close(d.in)
					<-ended
					if !slices.Equal(d.values(), c.want) {
						t.Errorf("it had %q, want %q", d.sent, c.want)
					}
				})
			})
		}
	}
}

// TestAMachineThatSleptTakesAnEndedTokenAway: timers and the monotonic clock stand meanwhile.
func TestAMachineThatSleptTakesAnEndedTokenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watched{plays: map[string]play{"a": func(ctx context.Context, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
			_ = send(token("one", 12*time.Hour))
			<-ctx.Done()
			return ctx.Err()
		}}}
		d := &discovery{ctx: t.Context(), in: make(chan []string, 1), at: time.Now()}
		m := &mute{w, broker.StoreUnavailable, d.at.Add(time.Second), d.at.Add(24 * time.Hour)}
		var slept atomic.Int64
		s := &secrets{broker: m, clock: broker.NewClock(func() (time.Time, time.Duration) {
			return time.Now().Add(time.Duration(slept.Load())), time.Since(d.at)
		})}
		d.in <- []string{"a"}
		ended := make(chan error, 1)
		go func() { ended <- s.StreamSecrets(d) }()
		<-time.After(10 * time.Minute)
		slept.Store(int64(12 * time.Hour))
		<-time.After(2 * time.Minute)
		close(d.in)
		<-ended
		if want := []string{"one", ""}; !slices.Equal(d.values(), want) {
			t.Errorf("it had %q, want %q", d.sent, want)
		}
	})
}

// TestAStreamHasOneSecret: what an Envoy has of the broker is counted by its streams.
func TestAStreamHasOneSecret(t *testing.T) {
	for _, all := range [][][]string{{nil}, {{"a", "b"}}, {{"a"}, {"b"}}, {{"a"}, {"a", "b"}}} {
		synctest.Test(t, func(t *testing.T) {
			w := &watched{plays: map[string]play{"a": func(ctx context.Context, _ func(*tokenbrokerv1.WatchTokenResponse) error) error {
				<-ctx.Done()
				return ctx.Err()
			}}}
			d := &discovery{ctx: t.Context(), in: make(chan []string, 3), at: time.Now()}
			for _, names := range all {
				d.in <- names
			}
			if err := secretsOf(w).StreamSecrets(d); broker.KindOf(err) != broker.RequestInvalid {
				t.Errorf("%v: it ended with %v", all, err)
			}
			close(d.in)
		})
	}
}

// TestWhatASecretsNameAsksFor has all the words that there are.
func TestWhatASecretsNameAsksFor(t *testing.T) {
	r, header, err := secretOf("main?scopes=read+write&audience=x&resources=https://a&parameters.tenant=t&header=X-Api-Key")
	want := `{"credential":"main", "scopes":["read", "write"], "audience":"x", "parameters":{"tenant":"t"}, "resources":["https://a"]}`
	w := &tokenbrokerv1.WatchTokenRequest{}
	if wrong := protojson.Unmarshal([]byte(want), w); wrong != nil {
		t.Fatal(wrong)
	}
	if err != nil || header != "x-api-key" || protojson.Format(r) != protojson.Format(w) {
		t.Errorf("got %v of %s, %v", r, header, err)
	}
}
