// Former writes what a tokenbroker of its time stores: the embedded store's file, a dump of a Redis, and the key. It is kept
// beside what it wrote; README.md says how it was run.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
	"github.com/tokenbroker/tokenbroker/store/redis"
)

// far is when everything ends that ends.
var far = time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// lasting is a store in which what ends does so in 2090.
type lasting struct{ *store.Store }

func (s lasting) Commit(ctx context.Context, l broker.Lease, o broker.Outcome) (broker.Committed, error) {
	if o.Token != nil {
		t := *o.Token
		t.ExpireAt, t.RefreshAt = far, far.Add(-time.Hour)
		o.Token = &t
	}
	return s.Store.Commit(ctx, l, o)
}

func (s lasting) Fail(ctx context.Context, l broker.Lease, r *broker.FailureRecord) error {
	if r != nil {
		r.Failure.RetryAt = far
	}
	return s.Store.Fail(ctx, l, r)
}

func (s lasting) SaveBackoff(ctx context.Context, upstream string, b broker.Backoff) error {
	if strings.Contains(upstream, "away") { // the other one is only to have failed
		b.Until, b.Last.RetryAt = far, far
	}
	return s.Store.SaveBackoff(ctx, upstream, b)
}

// upstream has three definitions, and answers by the name of the credential.
type upstream struct{ hangs chan string }

var definitions = map[string]*broker.Facts{
	"client":   {Obtains: true},
	"rotating": {Refreshes: true},
	"keyed":    {Obtains: true, Refreshes: true, RefreshSendsScopes: true, Reuse: broker.Reuse{Within: 100 * 365 * 24 * time.Hour}},
}

type definition struct {
	*upstream
	facts *broker.Facts
}

func (u *upstream) Revision() uint64 { return 1 }
func (u *upstream) Definition(name string) (broker.Definition, error) {
	f := *definitions[name]
	f.Name, f.Digest, f.Requests, f.HostInputs = name, "digest of "+name, 1, []string{"host"}
	f.Inputs = map[string]broker.InputFacts{"host": {}, "client_secret": {Secret: true, Optional: true}}
	if name == "rotating" {
		f.Inputs["refresh_token"] = broker.InputFacts{Secret: true, Seed: true}
	}
	return &definition{u, &f}, nil
}
func (d *definition) Facts() *broker.Facts                       { return d.facts }
func (d *definition) Host(c broker.Credential) string            { return c.Inputs["host"] }
func (d *definition) Check(broker.Credential) []broker.Violation { return nil }
func (d *definition) Select(_ broker.Credential, s broker.Selection) (broker.Selection, error) {
	return s, nil
}
func (d *definition) Present(_ broker.Credential, _ broker.Selection, t broker.Issued) (broker.Presentation, error) {
	return broker.Presentation{Headers: []broker.Field{{Name: "Authorization", Value: t.Values["token"]}}}, nil
}

func (d *definition) Exchange(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
	check(x.BeforeSend(d.Host(x.Credential)))
	attempts := []broker.Attempt{{Start: time.Now(), Duration: time.Millisecond, Host: d.Host(x.Credential), Status: 200}}
	fail := func(e broker.UpstreamError) (broker.Answer, error) {
		e.Attempts = attempts
		e.Attempts[0].Status, e.Attempts[0].UpstreamError, e.Attempts[0].Reason = e.Status, e.Code, e.Kind().Name()
		return broker.Answer{}, &e
	}
	name := string(x.Credential.Name)
	switch {
	case x.Selection.Scopes.String() == "too-much":
		return fail(broker.UpstreamError{Level: broker.LevelScope, Status: 400, Code: "invalid_scope"})
	case name == "refused":
		return fail(broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true})
	case name == "away":
		return fail(broker.UpstreamError{Level: broker.LevelUpstream, Status: 503})
	case name == "uncertain":
		return fail(broker.UpstreamError{Level: broker.LevelUpstream, Lost: true})
	case strings.HasPrefix(name, "marked") && x.Run == broker.Refresh:
		d.hangs <- name
		select {}
	}
	line, n := name+strings.ReplaceAll("/"+x.Selection.Scopes.String(), "/", "."), 0
	if x.Run == broker.Refresh {
		i := strings.LastIndex(x.RefreshToken.Reveal(), "#")
		line = x.RefreshToken.Reveal()[:i]
		_, err := fmt.Sscan(x.RefreshToken.Reveal()[i+1:], &n)
		check(err)
		n++
	}
	life := time.Hour
	a := broker.Answer{
		Values: map[string]broker.Secret{"token": broker.NewSecret(fmt.Sprintf("access of %s#%d", line, n))}, Attempts: attempts,
		Expiry: broker.Expiry{In: &life, SentAt: attempts[0].Start},
	}
	if d.facts.Refreshes {
		a.RefreshToken = broker.NewSecret(fmt.Sprintf("%s#%d", line, n))
	}
	return a, nil
}

var local = broker.Caller{Identity: "local", Local: true}

// fill does what a broker does, with everything that it may leave behind.
func fill(s *store.Store) {
	ctx := context.Background()
	up := &upstream{hangs: make(chan string)}
	b := must(broker.New(broker.Settings{Upstream: up, Store: lasting{s}, Authorizer: broker.LocalOnly{}}))
	create := func(name, provider string) {
		must(b.CreateCredential(ctx, local, broker.Change{Name: broker.CredentialName(name), Edit: func(d *broker.Draft) error {
			d.Provider, d.Inputs = provider, map[string]string{"host": name + ".example:443"}
			d.Labels = map[string]string{"made": "by-the-former"}
			d.Secrets = map[string]broker.Secret{"client_secret": broker.NewSecret("secret of " + name)}
			if provider == "rotating" {
				d.Secrets["refresh_token"] = broker.NewSecret(name + ".#0")
			}
			return nil
		}}))
	}
	request := func(name, rejected string, scopes ...string) broker.Request {
		return broker.Request{
			Credential: broker.CredentialName(name), RejectedTokenID: rejected,
			Selection: broker.Selection{Scopes: must(broker.ParseSet("scopes", scopes))},
		}
	}
	get := func(name, rejected string, scopes ...string) string {
		return must(b.Token(ctx, local, request(name, rejected, scopes...))).Token.ID
	}
	fails := func(name string, scopes ...string) {
		if r, err := b.Token(ctx, local, request(name, "", scopes...)); err == nil {
			panic(r)
		}
	}
	hang := func(name, rejected string, scopes ...string) {
		go func() { _, _ = b.Token(ctx, local, request(name, rejected, scopes...)) }()
		if got := <-up.hangs; got != name {
			panic(got)
		}
	}

	create("suspended", "rotating")
	get("suspended", "")
	var copied bytes.Buffer
	check(s.Export(ctx, &copied, nil)) // suspends what there is by now

	create("plain", "client")
	must(b.RotateSecret(ctx, local, broker.Rotation{
		Name: "plain", Secrets: map[string]broker.Secret{"client_secret": broker.NewSecret("new secret of plain")},
	}))
	get("plain", "")
	create("rotated", "rotating")
	get("rotated", get("rotated", get("rotated", "")))
	create("keyed", "keyed")
	get("keyed", get("keyed", "", "a"), "a")
	get("keyed", "", "b")
	create("marked", "rotating")
	hang("marked", "")
	create("marked-keyed", "keyed")
	hang("marked-keyed", get("marked-keyed", "", "a"), "a")
	create("uncertain", "rotating")
	fails("uncertain")
	create("too-much", "client")
	fails("too-much", "too-much")
	create("refused", "client")
	fails("refused")
	create("away", "client")
	fails("away")
	create("rejected", "client")
	must(b.Invalidate(ctx, local, broker.Invalidation{Credential: "rejected", TokenID: get("rejected", "")}))
}

// seen is a file's backend that knows its groups.
type seen struct {
	*bolt.DB
	mu     sync.Mutex
	groups map[store.Group]bool
}

func (s *seen) Apply(ctx context.Context, b store.Batch) error {
	s.mu.Lock()
	s.groups[b.Group] = true
	s.mu.Unlock()
	return s.DB.Apply(ctx, b)
}

// last lets every row live for ever, but for leases, which are over.
func (s *seen) last() {
	ctx := context.Background()
	for g := range s.groups {
		for _, r := range must(s.List(ctx, g, "token", "failure", "backoff", "grantlease", "keylease")) {
			check(s.DB.Apply(ctx, store.Batch{Group: g, Deletes: []store.Key{r.Key}}))
			if !strings.HasSuffix(string(r.Key.Kind), "lease") {
				check(s.DB.Apply(ctx, store.Batch{Group: g, Puts: []store.Put{{Key: r.Key, Revision: r.Revision, Value: r.Value}}}))
			}
		}
	}
}

// dump does the same with a Redis, and writes it down.
func dump(address string) []byte {
	ctx := context.Background()
	c := goredis.NewClient(&goredis.Options{Addr: address})
	keys := must(c.Keys(ctx, "*").Result())
	slices.Sort(keys)
	for _, k := range keys {
		i := strings.LastIndex(k, "}:")
		if i < 0 || strings.HasSuffix(k, "}:rows") {
			continue
		}
		rows, member := k[:i]+"}:rows", k[i+2:]
		if strings.Contains(member, "lease") {
			check(c.Del(ctx, k).Err())
			check(c.ZRem(ctx, rows, member).Err())
			continue
		}
		check(c.Persist(ctx, k).Err())
		check(c.Do(ctx, "ZADD", rows, "+inf", member).Err())
	}
	var out bytes.Buffer
	for _, k := range keys {
		switch must(c.Type(ctx, k).Result()) {
		case "string":
			fmt.Fprintf(&out, "SET %s %s\n", k, base64.StdEncoding.EncodeToString([]byte(must(c.Get(ctx, k).Result()))))
		case "zset":
			for _, z := range must(c.ZRangeWithScores(ctx, k, 0, -1).Result()) {
				fmt.Fprintf(&out, "ZADD %s %v %s\n", k, z.Score, base64.StdEncoding.EncodeToString([]byte(z.Member.(string))))
			}
		}
	}
	return out.Bytes()
}

func main() {
	dir, address := os.Args[1], os.Args[2]
	ctx := context.Background()
	file := filepath.Join(dir, "tokenbroker.db")
	db := &seen{DB: must(bolt.Open(file, bolt.Options{})), groups: map[store.Group]bool{}}
	keys := must(store.LoadKeyring(ctx, db, filepath.Join(dir, "key.json")))
	fill(must(store.New(db, keys, store.Options{})))
	db.last()
	check(os.WriteFile(filepath.Join(dir, "embedded.db"), must(os.ReadFile(file)), 0o600))

	shared := must(redis.Open(redis.Options{Address: must(redis.ParseAddress("redis://" + address + "/0")), AcceptLoss: true}))
	fill(must(store.New(shared, keys, store.Options{})))
	check(os.WriteFile(filepath.Join(dir, "redis.txt"), dump(address), 0o600))
	// The exchanges that hang die with the process.
}
