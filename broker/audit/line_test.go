package audit

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/broker"
)

func set(t testing.TB, elements ...string) broker.Set {
	t.Helper()
	s, err := broker.SetOf(elements)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func full(t testing.TB) broker.AuditRecord {
	return broker.AuditRecord{
		Event: broker.AuditIssued, Caller: shop, Peer: "10.0.0.7:51123", Operation: broker.GetToken, Credential: "occtoo-main", Provider: "occtoo", Rule: "shop-occtoo",
		Selection: broker.Selection{Scopes: set(t, "b", "a"), Audience: "https://api.example.com", Parameters: broker.NewPairs(map[string]string{"tenant": "retail-7731", "source": "web-7731"}), Resources: set(t, "https://api.example.com/v1")},
		Granted:   []string{"a", "b", "c"}, TokenID: "t0", Fields: []string{"labels"}, Count: 3, Detail: "a sentence",
	}
}

// TestALineSaysWhatTheTableSays: the members of version 1, byte for byte. They are never renamed.
func TestALineSaysWhatTheTableSays(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("x", 3600))
	is := lineOf(full(t), "r1", "0af7", "sha256:00")
	is.Of = 11
	is.counts(4, at, at.Add(time.Minute))
	is.ends(&broker.Failure{Kind: broker.StoreUnavailable, Detail: "secret-detail"})
	got := string(append(head(at, "9f", 812), is.tail()...))
	want := `{"v":1,"time":"2026-03-01T11:00:00.123456Z","boot":"9f","seq":812,"event":"token.issued","outcome":"failed","of":11,"reason":"store_unavailable","detail":"a sentence",` +
		`"caller":{"id":"spiffe://corp.example/ns/shop/sa/cart","proof":"x509","listener":"services","peer":"10.0.0.7:51123"},` +
		`"operation":"get_token","credential":"occtoo-main","provider":"occtoo","rule":"shop-occtoo","policy":"sha256:00","scopes":["a","b"],"granted":["a","b","c"],` +
		`"audience":"https://api.example.com","resources":["https://api.example.com/v1"],"parameter_names":["source","tenant"],"token_id":"t0","fields":["labels"],"tokens":3,"count":4,` +
		`"first":"2026-03-01T11:00:00.123456Z","last":"2026-03-01T11:01:00.123456Z","request_id":"r1","trace_id":"0af7"}` + "\n"
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if strings.Contains(got, "7731") {
		t.Error("a parameter's value is in it")
	}
}

// TestWhatIsNotKnownIsLeftOut.
func TestWhatIsNotKnownIsLeftOut(t *testing.T) {
	is := lineOf(broker.AuditRecord{Event: broker.AuditExchange, Credential: "main"}, "", "", "")
	if got := string(is.tail()); got != `,"event":"exchange","outcome":"ok","credential":"main"}`+"\n" {
		t.Errorf("got %s", got)
	}
}

// TestEachFailureHasItsOutcomeAndReason.
func TestEachFailureHasItsOutcomeAndReason(t *testing.T) {
	for _, k := range broker.Kinds() {
		want := failed
		if k == broker.CallerNotAllowed || k == broker.CallerUnauthenticated {
			want = denied
		}
		if is := lineOf(broker.AuditRecord{Event: broker.AuditUpdated, Outcome: &broker.Failure{Kind: k}}, "", "", ""); is.Outcome != want || is.Reason != k.Name() {
			t.Errorf("%s: got %s, %s", k.Name(), is.Outcome, is.Reason)
		}
	}
	if is := lineOf(broker.AuditRecord{Event: broker.AuditUpdated, Outcome: errors.New("foreign text")}, "", "", ""); is.Reason != "internal" || strings.Contains(string(is.tail()), "foreign") {
		t.Errorf("got %+v", is)
	}
	if is := lineOf(broker.AuditRecord{Event: broker.AuditUnauthenticated}, "", "", ""); is.Outcome != denied {
		t.Errorf("got %+v", is)
	}
}

// TestALongRecordIsOneBoundedLineAndSaysWhoItWas: what is last is cut, and not who did what.
func TestALongRecordIsOneBoundedLineAndSaysWhoItWas(t *testing.T) {
	mega := strings.Repeat("\x00", 1<<20)
	var many []string
	for range 5000 {
		many = append(many, broker.NewID().String()+mega[:100])
	}
	r := full(t)
	r.Detail, r.Selection.Audience, r.Peer, r.Granted, r.Selection.Resources, r.Fields = mega, mega, mega, many, set(t, many...), many
	is := lineOf(r, mega, mega, mega)
	text := append(head(time.Now(), broker.NewID().String(), 1<<60), is.tail()...)
	if len(text) > lineMost {
		t.Errorf("got %d bytes", len(text))
	}
	got := readLine(t, string(text))
	if got.Caller.ID != shop.Identity || got.Credential != "occtoo-main" || got.Rule != "shop-occtoo" || !got.Clipped || !strings.HasSuffix(got.Audience, ellipsis) {
		t.Errorf("got %s", text)
	}
}

// TestATextEndsWhereItsRoomDoes: at each boundary, before and after.
func TestATextEndsWhereItsRoomDoes(t *testing.T) {
	for _, c := range []struct {
		s, want string
		most    int
	}{
		{"", "", 0}, {"a", "", 0}, {"abcd", "abcd", 4}, {"abcde", "a…", 4}, {"abcdef", "ab…", 5}, {"\n\n", "\n\n", 12}, {"\x00a", "…", 6}, {"\x00a", "\x00a", 7}, {"ää", "ää", 4}, {"äää", "ä…", 5},
		{"\xffa", "\xffa", 7}, {"\xffa", "…", 6}, {"abc", "abc", 3}, {"abcd", "…", 3}, {"ab", "", 1}, {"a\U000e0001", "a…", 12}, {"a\U000e0001", "a\U000e0001", 13},
	} {
		k := clipper{left: c.most}
		if got := k.text(c.s, 1000); got != c.want || k.clipped != (c.want != c.s) || k.left < 0 {
			t.Errorf("%q in %d: got %q, %d left, %v", c.s, c.most, got, k.left, k.clipped)
		}
	}
}

// FuzzLine: whatever is in a record, the line is one JSON object of one line and of bounded size, which a terminal shows as it is, and its texts come back.
func FuzzLine(f *testing.F) {
	f.Add("spiffe://corp.example/ns/shop/sa/cart", "occtoo-main", "products.read", "10.0.0.7:1", "t0", "r1", "a sentence", uint64(1), 0)
	f.Add("a\n{\"v\":1}\n", "\u2028\u2029\u0085\x7f\u202e\u009b", "\x00\x1b[31m", "\xff\xfe\xc3", `"\",`, "\ufeff", "…", uint64(1)<<63, 7)
	f.Add(strings.Repeat("ä", 3000), strings.Repeat("\x00", 20_000), strings.Repeat("\"", 5000), strings.Repeat("\U000e0001", 900), "\ufffd", "<&>", strings.Repeat("a", 1<<20), uint64(0), 200)
	f.Fuzz(func(t *testing.T, id, name, scope, peer, token, request, detail string, seq uint64, many int) {
		list := []string{scope, id, detail}
		for i := range min(max(many, 0), 300) {
			list = append(list, name[:min(len(name), i)])
		}
		r := broker.AuditRecord{
			Event: broker.AuditEvent(request), Caller: &broker.Caller{Identity: id, Proof: broker.Proof(token), Listener: peer}, Peer: peer, Operation: broker.Operation(scope),
			Credential: broker.CredentialName(name), Provider: name, Rule: detail, Granted: list, Fields: list, TokenID: token, Detail: detail,
			Selection: broker.Selection{Audience: name, Parameters: broker.NewPairs(map[string]string{name: "planted-value-0451", scope: "planted-value-0451"})},
		}
		if s, err := broker.SetOf([]string{scope, name}); err == nil {
			r.Selection.Scopes, r.Selection.Resources = s, s
		}
		is := lineOf(r, request, detail, id)
		is.Of = seq
		is.counts(1<<60, time.Unix(int64(many), int64(many)), time.Now())
		raw := append(head(time.Now(), broker.NewID().String(), seq), is.tail()...)
		if len(raw) > lineMost {
			t.Errorf("%d bytes", len(raw))
		}
		if !utf8.Valid(raw) || strings.ContainsFunc(string(raw[:len(raw)-1]), func(r rune) bool { return !unicode.IsPrint(r) }) || raw[len(raw)-1] != '\n' {
			t.Errorf("not one line to read: %q", raw)
		}
		var got told
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatalf("%v: %q", err, raw)
		}
		cut := false
		comes := func(what, s, back string) {
			if s = string([]rune(s)); s == back { // what is no UTF-8 is U+FFFD for each byte
				return
			}
			cut = true
			if kept, clipped := strings.CutSuffix(back, ellipsis); back != "" && (!clipped || !strings.HasPrefix(s, kept)) {
				t.Errorf("%s: got %q of %q", what, back, s)
			}
		}
		comes("id", id, got.Caller.ID)
		comes("credential", name, got.Credential)
		comes("detail", detail, got.Detail)
		comes("token", token, got.TokenID)
		comes("peer", peer, got.Caller.Peer)
		comes("request", request, got.RequestID)
		for i, s := range got.Granted {
			comes("granted", list[i], s)
		}
		cut = cut || len(got.Granted) < len(list)
		if cut && !got.Clipped {
			t.Errorf("something is cut, and it does not say so: %q", raw)
		}
		if !strings.Contains(id+name+scope+peer+token+request+detail, "planted") && strings.Contains(string(raw), "planted-value") {
			t.Error("a parameter's value is in it")
		}
	})
}

// TestACallAddsItsIdsAndThePolicyThatDecided.
func TestACallAddsItsIdsAndThePolicyThatDecided(t *testing.T) {
	out := &page{}
	l := an(t, Settings{Stdout: out, Policy: func() string { return "sha256:01" }, Request: func(context.Context) (string, string) { return "r1", "t1" }})
	l.Note(t.Context(), denial(shop, "main"))
	l.Note(t.Context(), broker.AuditRecord{Event: broker.AuditExchange, Credential: "main"})
	intends(t, l)
	l.Close()
	all := out.lines(t)
	inOrder(t, all)
	events := []string{}
	for _, is := range all {
		events = append(events, string(is.Event)+" "+is.Outcome+" "+is.Policy+" "+is.RequestID+is.TraceID)
	}
	if want := []string{"access.denied denied sha256:01 r1t1", "exchange ok  r1t1", "credential.updated intent sha256:01 r1t1", "credential.updated ok sha256:01 r1t1"}; !slices.Equal(events, want) {
		t.Errorf("got %q", events)
	}
	if all[3].Of != all[2].Seq {
		t.Errorf("got the outcome of %d, and the intent is %d", all[3].Of, all[2].Seq)
	}
}
