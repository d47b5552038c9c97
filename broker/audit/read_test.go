package audit

import (
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestWhatIsWrittenIsRead: lines as the log writes them, between what is torn, too long, of another version, or of somebody else.
func TestWhatIsWrittenIsRead(t *testing.T) {
	scopes, err := broker.ParseSet("scope", []string{"b", "a"})
	if err != nil {
		t.Fatal(err)
	}
	by := broker.NewForwarded("mesh", nil, "td", "a", "services")
	issued := lineOf(broker.AuditRecord{
		Event: broker.AuditIssued, Caller: by, Operation: broker.GetToken, Credential: "main", Granted: []string{"a"},
		Selection: broker.Selection{Scopes: scopes, Audience: "x", Parameters: broker.NewPairs(map[string]string{"p": "secret"})},
	}, "", "", "")
	refused := lineOf(broker.AuditRecord{Event: broker.AuditDenied, Outcome: broker.CallerNotAllowed, Caller: by, Operation: broker.InvalidateAll, Credential: "main"}, "", "", "")
	at := stamp(broker.NewClock(nil).Now().Wall)
	text := func(l line) string { return string(head(at, "b", 1)) + string(l.tail()) }
	in := text(issued) + "\n" + strings.Repeat("x", 3*lineMost) + "\n" + text(refused)[:40] + "\n" + `{"v":2,"event":"token.issued"}` + "\nplain text\n[1]\n" + text(refused) + text(issued)[:50]
	var got []Entry
	skipped, err := Read(iotest.HalfReader(strings.NewReader(in)), func(e Entry) error {
		got = append(got, e)
		return nil
	})
	want := []Entry{
		{Time: at, Event: broker.AuditIssued, Caller: "via:mesh/spiffe://td/a", Proof: "forwarded", Listener: "services", Operation: broker.GetToken, Credential: "main", Scopes: []string{"a", "b"}, Granted: []string{"a"}, Audience: "x", Parameters: []string{"p"}},
		{Time: at, Event: broker.AuditDenied, Caller: "via:mesh/spiffe://td/a", Proof: "forwarded", Listener: "services", Operation: broker.InvalidateAll, Denied: true, Credential: "main"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil || skipped != 7 {
		t.Errorf("skipped %d, %v\n%s", skipped, err, diff)
	}
	own := errors.New("own")
	if _, err := Read(strings.NewReader(in), func(Entry) error { return own }); !errors.Is(err, own) {
		t.Errorf("got %v", err)
	}
	if _, err := Read(iotest.ErrReader(own), func(Entry) error { return nil }); !errors.Is(err, own) {
		t.Errorf("got %v", err)
	}
}
