package engine_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

func TestASecretPrintsAsNothing(t *testing.T) {
	const value = "hunter2-value"
	type inner struct{ hidden broker.Secret }
	type document struct{ S broker.Secret }
	type outer struct {
		Shown  broker.Secret
		Inside inner
		Ptr    *broker.Secret
		List   []broker.Secret
		Map    map[string]broker.Secret
	}
	s := broker.NewSecret(value)
	o := outer{s, inner{s}, &s, []broker.Secret{s}, map[string]broker.Secret{"k": s}}
	var out []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p"} {
		for _, x := range []any{s, &s, o, &o, o.Inside, o.List, o.Map, broker.Credential{Secrets: map[string]broker.SecretInput{"a": {Value: s, Former: s}}}, broker.Issued{Values: o.Map}} {
			out = append(out, fmt.Sprintf(verb, x))
		}
	}
	j, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(map[string]any{"a": s})
	if err != nil {
		t.Fatal(err)
	}
	x, err := xml.Marshal(document{s})
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, string(j), string(y), string(x), fmt.Sprint(broker.NewPairs(map[string]string{"p": value})), fmt.Sprintf("%+v", broker.Selection{Parameters: broker.NewPairs(map[string]string{"p": value})}))
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s, "o", o, "p", &o)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s, "o", o)
	out = append(out, log.String())
	for _, text := range out {
		if strings.Contains(text, value) || strings.Contains(text, fmt.Sprintf("%x", value)) {
			t.Errorf("%q shows the secret", text)
		}
	}
	if !strings.Contains(string(j), "[redacted]") {
		t.Errorf("got %s", j)
	}
	if !s.Equal(broker.NewSecret(value)) || s.Equal(broker.NewSecret("x")) || !broker.NewSecret("").IsZero() || s.Reveal() != value {
		t.Error("a secret does not compare or reveal as it should")
	}
}

func TestNamesAndSets(t *testing.T) {
	for _, good := range []string{"a", "officernd-main", "a.b_c-9", strings.Repeat("a", 63)} {
		if !broker.IsCredentialName(good) {
			t.Errorf("%q: got no name", good)
		}
	}
	for _, bad := range []string{"", "A", "-a", "a-", "a b", "a/b", "a\n", "ä", strings.Repeat("a", 64), "a\x00", "..", "{a}"} {
		if broker.IsCredentialName(bad) {
			t.Errorf("%q: got a name", bad)
		}
	}
	s, err := broker.ParseSet("scopes", []string{"b", "a", "b"})
	if err != nil || s.String() != "a b" || len(s.List()) != 2 || s.Empty() {
		t.Errorf("got %v %v", s, err)
	}
	sub, _ := broker.ParseSet("scopes", []string{"a"})
	if !s.Contains(sub) || sub.Contains(s) || !s.Contains(broker.Set{}) {
		t.Error("containment is wrong")
	}
	for _, bad := range []string{"", "a\x1fb", "a\nb", "\x7f"} {
		if _, err := broker.ParseSet("scopes", []string{"x", bad}); !errors.Is(err, broker.RequestInvalid) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
	if _, err := broker.ParseEtag("zz"); err == nil {
		t.Error("a wrong etag was read")
	}
	id := broker.NewID()
	if back, err := broker.ParseEtag(id.String()); err != nil || back != id {
		t.Errorf("got %v %v", back, err)
	}
}

func TestACredentialsLife(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour), facts: broker.Facts{
			HostInputs: []string{"server"}, PlaceInputs: []string{"server"},
			Inputs: map[string]broker.InputFacts{
				"server": {}, "note": {Optional: true}, "client_secret": {Secret: true}, "extra": {Secret: true, Optional: true},
			},
		}}
		w := newWorld(t, up)
		ctx := context.Background()
		draft := engine.Draft{Provider: "scripted", Inputs: map[string]string{"server": "a"}, Secrets: secretMap(map[string]string{"client_secret": "s", "extra": "e"})}
		write := func(ch engine.Change, d engine.Draft) (broker.Credential, error) {
			ch.Edit = func(to *engine.Draft) error { *to = d; return nil }
			return w.CreateCredential(ctx, local, ch)
		}
		_, err := write(engine.Change{Name: "main"}, engine.Draft{Provider: "nobody"})
		wantKind(t, err, broker.RequestInvalid)
		f := wantKind(t, second(write(engine.Change{Name: "main"}, engine.Draft{
			Provider: "scripted", Inputs: map[string]string{"serverr": "x", "client_secret": "oops"}, Secrets: secretMap(map[string]string{"server": "x", "client_secret": ""}),
		})), broker.RequestInvalid)
		if len(f.Violations) != 4 || strings.Contains(f.Error(), "oops") {
			t.Errorf("got %v, want all four", f)
		}
		if _, err := write(engine.Change{Name: "main", ValidateOnly: true}, draft); err != nil {
			t.Fatal(err)
		}
		_, err = w.Credential(ctx, local, "main")
		wantKind(t, err, broker.NotFound)
		made, err := write(engine.Change{Name: "main", RequestID: "r1"}, draft)
		if err != nil || made.Number != 1 {
			t.Fatalf("got %+v %v", made, err)
		}
		if again, err := write(engine.Change{Name: "main", RequestID: "r1"}, draft); err != nil || again.Etag != made.Etag {
			t.Errorf("got %v: the same request within an hour has the effect of one", err)
		}
		if again, err := write(engine.Change{Name: "main", AllowExisting: true}, draft); err != nil || again.Etag != made.Etag {
			t.Errorf("got %v", err)
		}
		_, err = write(engine.Change{Name: "main"}, draft)
		wantKind(t, err, broker.AlreadyExists)
		sleep(2 * time.Hour)
		_, err = write(engine.Change{Name: "main", RequestID: "r1"}, draft)
		wantKind(t, err, broker.AlreadyExists)

		edit := func(ch engine.Change, f func(*engine.Draft)) (broker.Credential, error) {
			ch.Name, ch.Edit = "main", func(d *engine.Draft) error { f(d); return nil }
			return w.UpdateCredential(ctx, local, ch)
		}
		f = wantKind(t, second(edit(engine.Change{}, func(d *engine.Draft) { d.Inputs["server"] = "evil" })), broker.SecretsRequired)
		if len(f.Violations) != 2 {
			t.Errorf("got %v, want every secret that has to be given again", f.Violations)
		}
		moved, err := edit(engine.Change{Etag: made.Etag}, func(d *engine.Draft) {
			d.Inputs["server"], d.Secrets = "b", secretMap(map[string]string{"client_secret": "s", "extra": "e"})
		})
		if err != nil || moved.Version == made.Version {
			t.Fatalf("got %v", err)
		}
		_, err = edit(engine.Change{Etag: made.Etag}, func(d *engine.Draft) { d.Labels = map[string]string{"a": "b"} })
		wantKind(t, err, broker.EtagMismatch)
		same, err := edit(engine.Change{}, func(*engine.Draft) {})
		if err != nil || same.Etag != moved.Etag {
			t.Errorf("got %v: an update that changes nothing gives no new etag", err)
		}
		less, err := edit(engine.Change{}, func(d *engine.Draft) { d.Secrets = map[string]broker.Secret{"extra": {}} })
		if err != nil || len(less.SecretNames()) != 1 {
			t.Errorf("got %v %v, want the optional secret removed", less.SecretNames(), err)
		}
		_, err = w.UpdateCredential(ctx, local, engine.Change{Name: "other", Edit: func(*engine.Draft) error { return nil }})
		wantKind(t, err, broker.NotFound)
		if _, err := w.UpdateCredential(ctx, local, engine.Change{Name: "other", AllowMissing: true, Edit: func(d *engine.Draft) error { *d = draft; return nil }}); err != nil {
			t.Error(err)
		}
		page, err := w.Credentials(ctx, local, "", 1)
		if err != nil || len(page.Credentials) != 1 || page.Next != "main" {
			t.Errorf("got %v, %v", page, err)
		}
		page, err = w.Credentials(ctx, local, page.Next, 10)
		if err != nil || len(page.Credentials) != 1 || page.Credentials[0].Name != "other" || page.Next != "" {
			t.Errorf("got %v, %v", page, err)
		}
		wantKind(t, w.DeleteCredential(ctx, local, "main", made.Etag), broker.EtagMismatch)
		if err := w.DeleteCredential(ctx, local, "main", less.Etag); err != nil {
			t.Error(err)
		}
		wantKind(t, w.DeleteCredential(ctx, local, "main", broker.ID{}), broker.NotFound)
	})
}

func second[T any](_ T, err error) error { return err }

func TestRotationsThatAreWrong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Hour)
		w := seeded(t, r, broker.Facts{})
		ctx := context.Background()
		rotate := func(secrets map[string]string, etag broker.ID) (broker.Credential, error) {
			return w.RotateSecret(ctx, local, engine.Rotation{Name: "main", Secrets: secretMap(secrets), Etag: etag, KeepFormer: time.Hour, RequestID: "r"})
		}
		f := wantKind(t, second(rotate(map[string]string{"refresh_token": "x", "nobody": "y", "client_secret": ""}, broker.ID{})), broker.RequestInvalid)
		if len(f.Violations) != 3 {
			t.Errorf("got %v", f.Violations)
		}
		_, err := rotate(map[string]string{"client_secret": "x"}, broker.NewID())
		wantKind(t, err, broker.EtagMismatch)
		one, err := rotate(map[string]string{"client_secret": "x"}, broker.ID{})
		if err != nil {
			t.Fatal(err)
		}
		if two, err := rotate(map[string]string{"client_secret": "x"}, broker.ID{}); err != nil || two.Etag != one.Etag {
			t.Errorf("got %v: the same request has the effect of one", err)
		}
		// Another request under the same id is not the same one: it must not seem to be done.
		_, err = rotate(map[string]string{"client_secret": "y"}, broker.ID{})
		wantKind(t, err, broker.AlreadyExists)
		_, err = w.CreateCredential(ctx, local, engine.Change{Name: "other", RequestID: "c", Edit: func(d *engine.Draft) error {
			*d = engine.Draft{Provider: "scripted", Secrets: secretMap(map[string]string{"refresh_token": "x", "client_secret": "x"})}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.RotateSecret(ctx, local, engine.Rotation{Name: "other", Secrets: secretMap(map[string]string{"client_secret": "z"}), RequestID: "c"})
		wantKind(t, err, broker.AlreadyExists)
		_, err = w.RetireSecret(ctx, local, "main", []string{"nobody"})
		wantKind(t, err, broker.RequestInvalid)
		_, err = w.RetireSecret(ctx, local, "missing", nil)
		wantKind(t, err, broker.NotFound)
	})
}

func TestHowACredentialIsDoing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour), facts: broker.Facts{RefreshTokenIdle: time.Hour, RefreshTokenAbsolute: 24 * time.Hour}}
		w := newWorld(t, up)
		w.create("main", map[string]string{"client_secret": "s"})
		state := func(want engine.State, advice string) engine.Report {
			t.Helper()
			rep, err := w.CredentialStatus(context.Background(), local, "main")
			if err != nil || rep.State != want || !strings.Contains(rep.Advice, advice) {
				t.Errorf("got %v %q %v, want %v and advice with %q", rep.State, rep.Advice, err, want, advice)
			}
			return rep
		}
		state(engine.Unused, "credential test")
		w.mustGet("main")
		if rep := state(engine.Ready, ""); len(rep.Tokens) != 1 || len(rep.Attempts) != 1 || rep.LastSuccess.IsZero() {
			t.Errorf("got %+v", rep)
		}
		up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503, RetryAfter: 50 * time.Second}
		}
		sleep(2 * time.Hour)
		_, _ = w.get("main")
		if rep := state(engine.Degraded, "by itself"); time.Until(rep.NextAttempt).Round(time.Second) < 50*time.Second {
			t.Errorf("it is asked again in %v, which the upstream does not want", time.Until(rep.NextAttempt))
		}
		up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client"}
		}
		sleep(time.Minute)
		_, _ = w.get("main")
		if rep := state(engine.Misconfigured, "set the secret"); rep.NextAttempt.IsZero() || rep.Failure.UpstreamError != "invalid_client" {
			t.Errorf("got %+v", rep)
		}
		up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{Values: map[string]broker.Secret{"token": broker.NewSecret("x")}}, nil
		}
		w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"client_secret": "new"}) })
		w.mustGet("main")
		state(engine.Ready, "ten minutes are assumed")
		up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{Values: map[string]broker.Secret{"token": broker.NewSecret("y")}, Expiry: broker.Expiry{SentAt: time.Now(), Unread: "expires_at"}}, nil
		}
		sleep(time.Hour)
		w.mustGet("main")
		state(engine.Ready, "expires_at cannot be read")
		up.check = func(broker.Credential) []broker.Violation { return []broker.Violation{{Field: "x", Description: "y"}} }
		state(engine.Misconfigured, "give the inputs")
		up.check = nil
		w.update("main", func(d *engine.Draft) { d.Disabled = true })
		state(engine.Disabled, "--enable")
		up.facts.Name = "renamed"
		w.up.revision.Add(1)
		_, err := w.CredentialStatus(context.Background(), local, "missing")
		wantKind(t, err, broker.NotFound)
	})
}

func TestStrangersAreAllowedNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		far, ctx := broker.NewCaller(broker.SPIFFE, "far.example", "far", broker.ProofX509, "services"), context.Background()
		ch := engine.Change{Name: "main", Edit: func(*engine.Draft) error { return nil }}
		for name, err := range map[string]error{
			"create": second(w.CreateCredential(ctx, far, ch)), "update": second(w.UpdateCredential(ctx, far, ch)), "delete": w.DeleteCredential(ctx, far, "main", broker.ID{}),
			"rotate": second(w.RotateSecret(ctx, far, engine.Rotation{Name: "main"})), "retire": second(w.RetireSecret(ctx, far, "main", nil)),
			"get": second(w.Credential(ctx, far, "main")), "status": second(w.CredentialStatus(ctx, far, "main")),
			"test": second(w.TestCredential(ctx, far, "main", broker.Selection{}, false)), "invalidate": second(w.Invalidate(ctx, far, engine.Invalidation{Credential: "main", All: true})),
			"watch": w.Watch(ctx, far, engine.Request{Credential: "main"}, "", func(engine.Event) error { return nil }),
		} {
			if !errors.Is(err, broker.CallerNotAllowed) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		if _, err := w.Credentials(ctx, far, "", 10); !errors.Is(err, broker.CallerNotAllowed) {
			t.Errorf("list: got %v", err)
		}
	})
}

func TestATokenThatHasExpiredWhenItComesIsNoToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(-time.Second)}
		w := newWorld(t, up)
		w.create("main", nil)
		_, err := w.get("main")
		wantKind(t, err, broker.UpstreamResponseInvalid)
		_, err = w.get("main")
		wantKind(t, err, broker.UpstreamResponseInvalid)
		w.wantExchanges(1)
	})
}

func TestAMinTTLThatNoTokenCanHaveIsNotAskedForAgainAndAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		for _, ttl := range []time.Duration{2 * time.Hour, time.Hour} {
			for range 100 {
				w.mustGet("main", func(r *engine.Request) { r.MinTTL = ttl })
				sleep(time.Second)
			}
		}
		w.wantExchanges(1)
		w.mustGet("main", func(r *engine.Request) { r.MinTTL = 59 * time.Minute })
		w.wantExchanges(2)
	})
}
