package storetest

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

// A meanwhile is what happens to a credential while a flight runs, and what becomes of the flight's commit.
type meanwhile struct {
	happens func(b *bench, c broker.Credential, k broker.TokenKey)
	want    broker.Committed
	// refreshToken and token are what is there in the end; gone: there is no credential.
	refreshToken, token string
	gone                bool
}

var meanwhiles = map[string]meanwhile{
	"nothing": {
		happens: func(*bench, broker.Credential, broker.TokenKey) {},
		want:    broker.Committed{Token: true, Grant: true}, refreshToken: "rotated", token: "new",
	},
	"labels change": {
		happens: func(b *bench, c broker.Credential, _ broker.TokenKey) { b.saved(c, changed(c, false), nil) },
		want:    broker.Committed{Token: true, Grant: true}, refreshToken: "rotated", token: "new",
	},
	"a secret changes": {
		happens: func(b *bench, c broker.Credential, _ broker.TokenKey) { b.saved(c, changed(c, true), nil) },
		want:    broker.Committed{Grant: true}, refreshToken: "rotated",
	},
	"another seed": {
		happens: func(b *bench, c broker.Credential, _ broker.TokenKey) {
			b.saved(c, changed(c, true), seedOf("another"))
		},
		want: broker.Committed{}, refreshToken: "another",
	},
	"all is invalidated": {
		happens: func(b *bench, c broker.Credential, _ broker.TokenKey) {
			b.dropped(c.Name, broker.Match{Epoch: broker.NewID()})
		},
		want: broker.Committed{Grant: true}, refreshToken: "rotated",
	},
	"the old token is rejected": {
		happens: func(b *bench, c broker.Credential, _ broker.TokenKey) {
			b.dropped(c.Name, broker.Match{TokenID: "old"})
		},
		want: broker.Committed{Token: true, Grant: true}, refreshToken: "rotated", token: "new",
	},
	"the selection is dropped": {
		happens: func(b *bench, c broker.Credential, k broker.TokenKey) {
			b.dropped(c.Name, broker.Match{Selection: &k.Selection})
		},
		want: broker.Committed{Token: true, Grant: true}, refreshToken: "rotated", token: "new",
	},
	"another key commits": {
		happens: func(b *bench, c broker.Credential, _ broker.TokenKey) {
			other := plain(c.Name, 9)
			b.committed(b.acquired(other, false), broker.Outcome{Token: issued("other")})
		},
		want: broker.Committed{Token: true, Grant: true}, refreshToken: "rotated", token: "new",
	},
	"deleted": {
		happens: func(b *bench, c broker.Credential, _ broker.TokenKey) {
			b.want("delete", b.DeleteCredential(ctx, c.Name, broker.ID{}), nil)
		},
		want: broker.Committed{}, gone: true,
	},
	"deleted and created again": {
		happens: func(b *bench, c broker.Credential, _ broker.TokenKey) {
			b.want("delete", b.DeleteCredential(ctx, c.Name, broker.ID{}), nil)
			b.created(c.Name, "of the next")
		},
		want: broker.Committed{}, refreshToken: "of the next",
	},
	"deleted and created with the same ids but the incarnation": {
		happens: func(b *bench, c broker.Credential, _ broker.TokenKey) {
			b.want("delete", b.DeleteCredential(ctx, c.Name, broker.ID{}), nil)
			c.Incarnation = broker.NewID()
			b.want("create", b.CreateCredential(ctx, c, seedOf("of the next")), nil)
		},
		want: broker.Committed{}, refreshToken: "of the next",
	},
}

// runInterleavings lets each thing happen before a commit reads, between what it reads and what it applies, and while the
// commit's answer is lost so that it is made again; and the same with failures.
func runInterleavings(t *testing.T, c Config) {
	for name, m := range meanwhiles {
		for when, commit := range map[string]func(*bench, broker.Lease, broker.Outcome, func()) broker.Committed{
			"before the commit": func(b *bench, l broker.Lease, o broker.Outcome, happens func()) broker.Committed {
				happens()
				return b.committed(l, o)
			},
			"amid the commit": func(b *bench, l broker.Lease, o broker.Outcome, happens func()) broker.Committed {
				b.beforeApply(happens)
				return b.committed(l, o)
			},
			"before the commit, made twice": func(b *bench, l broker.Lease, o broker.Outcome, happens func()) broker.Committed {
				happens()
				b.loseAnswer(func() { _, err := l.Commit(ctx, o); b.mayBeLost(err) })
				return b.committed(l, o)
			},
		} {
			c.run(t, "interleaved/"+when+"/"+name, func(t *testing.T, _ Config, backend store.Backend) {
				b, cred, k, l := flight(t, backend)
				marker := b.view(k).Grant.Marker
				got := commit(b, l, broker.Outcome{
					Token: issued("new"), RefreshToken: broker.NewSecret("rotated"), Attempts: []broker.Attempt{{Start: now(), Host: "once"}}, Now: now(),
				}, func() { m.happens(b, cred, k) })
				if diff := cmp.Diff(m.want, got); diff != "" {
					t.Errorf("committed (-want +got):\n%s", diff)
				}
				b.wantEnd(m, k, marker)
			})
		}
		c.run(t, "interleaved/before and amid a failure/"+name, func(t *testing.T, _ Config, backend store.Backend) {
			b, cred, k, l := flight(t, backend)
			before := b.view(k).Grant.Generation
			b.beforeApply(func() { m.happens(b, cred, k) })
			record := broker.FailureRecord{
				Level: broker.LevelGrant, Uncertain: true, Presented: true, Failure: remembered(1), Attempts: []broker.Attempt{{Start: now(), Host: "once"}}, Now: now(),
			}
			b.failed(l, record)
			b.failed(l, record)
			if m.gone {
				_, err := b.Credential(ctx, cred.Name)
				b.want("read", err, broker.NotFound)
				return
			}
			v := b.view(k)
			same := v.Grant.Generation == before
			if (v.Grant.Refused != nil) != same || v.Grant.Uncertain != same || v.LeaseLeft != 0 {
				t.Errorf("the same generation: %v; got %+v, %v left", same, v.Grant, v.LeaseLeft)
			}
		})
	}
	c.run(t, "interleaved/after the commit, which is made again", func(t *testing.T, _ Config, backend store.Backend) {
		b, cred, k, l := flight(t, backend)
		o := broker.Outcome{Token: issued("new"), RefreshToken: broker.NewSecret("rotated"), Now: now()}
		b.committed(l, o)
		b.dropped(cred.Name, broker.Match{Selection: &k.Selection})
		b.committed(b.acquired(k, true), broker.Outcome{RefreshToken: broker.NewSecret("rotated again")})
		if again := b.committed(l, o); again != (broker.Committed{}) {
			t.Errorf("repeated: got %+v, want that nothing of it is there", again)
		}
		b.wantToken(k, "")
		b.wantGrant(k, "rotated again")
	})
}

// flight has a credential with a token and a grant, and a lease that spends it.
func flight(t *testing.T, backend store.Backend) (*bench, broker.Credential, broker.TokenKey, broker.Lease) {
	b := newBench(t, backend, store.Options{})
	c := b.created("a", "seed")
	k := spending("a", 1)
	b.committed(b.acquired(k, false), broker.Outcome{Token: issued("old")})
	return b, c, k, b.acquired(k, true)
}

// beforeApply lets something happen before the next batch is applied.
func (b *bench) beforeApply(happens func()) {
	b.faults.Set(Hooks{BeforeApply: func(context.Context, store.Batch) error {
		b.faults.Set(Hooks{})
		happens()
		return nil
	}})
}

// loseAnswer loses the answer to the batch that call applies, if it applies one.
func (b *bench) loseAnswer(call func()) {
	b.faults.Set(Hooks{AfterApply: func(context.Context, store.Batch) error { return store.Unavailable("the answer was lost") }})
	call()
	b.faults.Set(Hooks{})
}

func (b *bench) mayBeLost(err error) {
	b.t.Helper()
	if err != nil {
		b.want("commit whose answer was lost", err, broker.StoreUnavailable)
	}
}

func (b *bench) wantEnd(m meanwhile, k broker.TokenKey, marker broker.ID) {
	b.t.Helper()
	if m.gone {
		_, err := b.Credential(ctx, k.Credential)
		b.want("read", err, broker.NotFound)
		rest, err := b.Credentials(ctx, "", 10)
		if err != nil || len(rest) != 0 {
			b.t.Errorf("credentials: got %d, %v", len(rest), err)
		}
		return
	}
	b.wantToken(k, m.token)
	b.wantGrant(k, m.refreshToken)
	v := b.view(k)
	if v.LeaseLeft != 0 || v.Grant.Marker == marker || v.Grant.MayBeSpent() {
		b.t.Errorf("in the end: %v left, grant %+v; want nobody to hold it", v.LeaseLeft, v.Grant)
	}
	once := 0
	for _, a := range b.status(k.Credential).Attempts {
		if a.Host == "once" {
			once++
		}
	}
	if want := 1; once > want || (m.want.Grant && once != want) {
		b.t.Errorf("the attempt is there %d times", once)
	}
}
