package explore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// lifetime is how long a token of the upstream lives. Everything in a schedule is short, so that little time has to pass.
const lifetime = 30 * time.Second

// An issued is a token that the upstream gave.
type issued struct {
	sent, ends time.Time
	order      int
}

// A family is a line of refresh tokens. Each but the last is spent, and one that comes again revokes all of them.
type family struct {
	name    string
	last    int
	revoked bool
	// holder is who was given the last one, and when; at zero: nobody was.
	holder holder
	// given says who was given which, by its number. back is the one that a failover has brought back last, and when.
	given  map[int]life
	back   int
	backAt time.Time
	// stored: the last one was acknowledged by the store, at that time.
	stored   bool
	storedAt time.Time
	// marked is whose exchange spent the one before.
	marked marking
	// early: nobody may take over before.
	early time.Time
}

// A marking is when a broker marked a refresh token as presented.
type marking struct {
	broker int
	at     time.Time
}

type holder struct {
	broker, life int
	at           time.Time
	// free: it had time to store it since.
	free bool
}

// A vendor is the upstream: strict about refresh tokens, and a judge of who presents them.
type vendor struct {
	s        *scenario
	families map[string]*family
	issued   map[string]issued
	downTo   time.Time
}

func (v *vendor) seed(n int) (name, token string) {
	name = fmt.Sprintf("f%d", n)
	v.families[name] = &family{name: name, stored: true, given: map[int]life{}}
	return name, name + ".0"
}

// issue gives an access token.
func (v *vendor) issue() string {
	now := time.Now()
	name := fmt.Sprintf("token-%d", len(v.issued)+1)
	v.issued[name] = issued{now, now.Add(lifetime), len(v.issued)}
	return name
}

// An upstream is the vendor as one life of one broker sees it: sending and being answered are steps.
type upstream struct {
	w    *world
	b    int
	life int
}

var (
	_ broker.Upstream   = (*upstream)(nil)
	_ broker.Definition = (*upstream)(nil)
)

// Definition implements broker.Upstream.
func (u *upstream) Definition(string) (broker.Definition, error) { return u, nil }

// Revision implements broker.Upstream.
func (u *upstream) Revision() uint64 { return 1 }

// Facts implements broker.Definition.
func (u *upstream) Facts() *broker.Facts { return &u.w.s.facts }

// Check implements broker.Definition.
func (u *upstream) Check(broker.Credential, []string) []broker.Violation { return nil }

// Select implements broker.Definition.
func (u *upstream) Select(_ broker.Credential, s broker.Selection) (broker.Selection, error) {
	return s, nil
}

// Destinations implements broker.Definition.
func (u *upstream) Destinations(broker.Credential) []broker.Destination { return nil }

// Host implements broker.Definition.
func (u *upstream) Host(broker.Credential, broker.Selection) string { return host }

const host = "upstream.example:443"

// Present implements broker.Definition.
func (u *upstream) Present(_ broker.Credential, _ broker.Selection, t broker.Issued) (broker.Presentation, error) {
	return broker.Presentation{Headers: []broker.Field{{Name: "Authorization", Value: t.Values["token"]}}}, nil
}

// Exchange implements broker.Definition.
func (u *upstream) Exchange(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
	sending := u.w.park(ctx, u.b, u.life, stepSend)
	switch {
	case sending.outcome == gone, ctx.Err() != nil, x.BeforeSend(host) != nil:
		return broker.Answer{}, &broker.UpstreamError{Refused: true}
	case sending.outcome == failed:
		return broker.Answer{}, u.failed(broker.UpstreamError{}, 0)
	case sending.outcome == busy:
		return broker.Answer{}, u.failed(broker.UpstreamError{Status: 503}, 503)
	}
	sent, wall := time.Now(), u.w.wall(u.b)
	a, refused := u.w.asked(u.b, u.life, x)
	switch answering := u.w.park(ctx, u.b, u.life, stepAnswer); {
	case refused == nil && answering.outcome == busy:
		if x.Run == broker.Obtain { // it can be made again
			return broker.Answer{}, u.failed(broker.UpstreamError{Status: 503}, 503)
		}
		u.w.answered(u.b, u.life, a.RefreshToken.Reveal())
		return broker.Answer{RefreshToken: a.RefreshToken}, u.failed(broker.UpstreamError{Status: 503}, 503)
	case answering.outcome != goesOn && answering.outcome != busy:
		if answering.outcome == failed && x.Run == broker.Refresh && refused == nil {
			u.w.judgeGivenUp(u.b, u.life, time.Since(sent))
		}
		e := u.failed(broker.UpstreamError{Lost: true}, 0)
		return broker.Answer{}, e
	case refused != nil:
		return broker.Answer{}, u.failed(*refused, refused.Status)
	}
	u.w.answered(u.b, u.life, a.RefreshToken.Reveal())
	life := lifetime
	a.Expiry = broker.Expiry{SentAt: wall, In: &life}
	a.Attempts = []broker.Attempt{{Start: sent, Host: host, Status: 200}}
	return a, nil
}

func (u *upstream) failed(e broker.UpstreamError, status int) *broker.UpstreamError {
	e.Attempts = []broker.Attempt{{Start: time.Now(), Host: host, Status: status, UpstreamError: e.Code, Reason: e.Kind().Name()}}
	return &e
}

// asked is what the vendor makes of a request.
func (w *world) asked(b, life int, x broker.Exchange) (broker.Answer, *broker.UpstreamError) {
	token, known := w.stored()
	w.mu.Lock()
	defer w.mu.Unlock()
	v := w.vendor
	a := broker.Answer{Values: map[string]broker.Secret{}}
	if x.Run == broker.Refresh {
		presented := x.RefreshToken.Reveal()
		name, number, _ := strings.Cut(presented, ".")
		f := v.families[name]
		switch {
		case f == nil, f.revoked:
			return a, refusal
		case number != fmt.Sprint(f.last):
			w.judgeReuse(b, life, f, presented, token, known)
			f.revoked = true
			return a, refusal
		}
		f.last++
		f.marked = marking{b, w.acquired[b]}
		f.holder, f.stored, f.early = holder{}, false, w.acquired[b].Add(exchangeTimeout+2*time.Second+takeoverGrace-2*beat)
		a.RefreshToken = broker.NewSecret(fmt.Sprintf("%s.%d", name, f.last))
	} else if v.s.facts.Refreshes {
		name, first := v.seed(len(v.families) + 1)
		v.families[name].stored = false
		a.RefreshToken = broker.NewSecret(first)
	}
	a.Values["token"] = broker.NewSecret(v.issue())
	return a, nil
}

var refusal = &broker.UpstreamError{Level: broker.LevelGrant, Status: 400, Code: "invalid_grant"}

// answered notes that a broker has the answer in its hands, in one of its lives.
func (w *world) answered(b, in int, refresh string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name, number, _ := strings.Cut(refresh, ".")
	if f := w.vendor.families[name]; f != nil && number == fmt.Sprint(f.last) {
		f.holder, f.given[f.last] = holder{broker: b, life: in, at: time.Now()}, life{b, in}
	}
}
