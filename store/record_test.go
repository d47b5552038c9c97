package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

func TestFutureRecordsAreRefused(t *testing.T) {
	for _, r := range records() {
		plain, err := encode(r)
		if err != nil {
			t.Fatal(err)
		}
		plain[0] = recordVersion + 1
		err = decode(plain, &r)
		if err == nil || !strings.Contains(err.Error(), "record version 2") || !strings.Contains(err.Error(), "newer") {
			t.Errorf("%T of a later version: got %v", r, err)
		}
	}
}

// TestKindsAreStoredByName: every kind comes back.
func TestKindsAreStoredByName(t *testing.T) {
	kinds := broker.Kinds()
	if len(kinds) == 0 {
		t.Fatal("there are no kinds")
	}
	for _, k := range kinds {
		if got := fromRemembered(broker.Remembered{Kind: k}).remembered().Kind; got != k {
			t.Errorf("%v came back as %v", k, got)
		}
	}
	for source, name := range sourceNames {
		if got := sourceNamed(name); got != source {
			t.Errorf("%s came back as %d", name, got)
		}
	}
	if got := sourceNamed("of the future"); got != broker.ExpiryUnknown {
		t.Errorf("an unknown source: got %d", got)
	}
}

func TestInstants(t *testing.T) {
	for _, want := range []time.Time{
		{}, time.Unix(0, 0), time.Unix(-1, 5), time.Unix(1<<40, 999_999_999), time.Date(2026, 2, 28, 23, 59, 59, 1, time.UTC),
	} {
		plain, err := encode(grantRecord{GivenAt: at(want)})
		if err != nil {
			t.Fatalf("%v: %v", want, err)
		}
		var r grantRecord
		if err := decode(plain, &r); err != nil || !r.GivenAt.time().Equal(want) {
			t.Errorf("got %v, %v, want %v", r.GivenAt.time(), err, want)
		}
	}
}

func TestHistoryIsBounded(t *testing.T) {
	var r historyRecord
	for n := range 100 {
		r.addAttempts([]broker.Attempt{{Host: fmt.Sprint(n)}})
	}
	if got := r.attempts(); len(got) != maxAttempts || got[0].Host != "99" || got[19].Host != "80" {
		t.Errorf("got %d attempts, the newest %q", len(got), got[0].Host)
	}
}

// TestPlacesDiffer: no two places have the same associated data.
func TestPlacesDiffer(t *testing.T) {
	seen := map[string]binding{}
	for _, kind := range []Kind{"", "a", "ab", kindGrant, kindGrantLease} {
		for _, subject := range []string{"", "a", "b", "ab", "\x00", "a\x00"} {
			for _, incarnation := range []broker.ID{{}, {1}, {15: 1}} {
				for _, rowID := range [][32]byte{{}, {1}, {31: 1}} {
					p := binding{Key{kind, rowID}, subject, incarnation}
					if other, ok := seen[string(p.associated())]; ok {
						t.Errorf("%+v and %+v have the same associated data", p, other)
					}
					seen[string(p.associated())] = p
				}
			}
		}
	}
}
