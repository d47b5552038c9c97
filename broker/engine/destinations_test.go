package engine_test

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// to are destinations of token requests.
func to(places ...string) []broker.Destination {
	var all []broker.Destination
	for _, p := range places {
		all = append(all, broker.Destination{Use: broker.Requests, Place: p})
	}
	return all
}

// leading is an upstream whose definition leads where it is told to.
func leading(place *string, f broker.Facts) *upstream {
	up := &upstream{answer: issues(time.Minute), facts: f}
	up.destinations = func(broker.Credential) []broker.Destination { return to(*place) }
	return up
}

func TestARecordOfBeforeIsCompletedWhenItIsUsed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		place := "https://here"
		w := newWorld(t, leading(&place, broker.Facts{Obtains: true}))
		w.create("main", nil)
		c, err := w.store.Credential(t.Context(), "main")
		if err != nil {
			t.Fatal(err)
		}
		former := c.Clone()
		former.Destinations, former.Etag = nil, broker.NewID()
		if err := w.store.SaveCredential(t.Context(), c.Etag, former, nil); err != nil {
			t.Fatal(err)
		}
		w.mustGet("main")
		if c, err = w.store.Credential(t.Context(), "main"); err != nil || !slices.Equal(c.Destinations, to("https://here")) {
			t.Fatalf("got %v, %v", c.Destinations, err)
		}
		if c.Version != former.Version || !c.UpdateTime.Equal(former.UpdateTime) {
			t.Errorf("got %+v, want the credential as it was", c)
		}
		w.wantExchanges(1)
		place = "https://there"
		w.up.revision.Add(1)
		_, err = w.get("main")
		wantKind(t, err, broker.CredentialHeld)
		w.wantExchanges(1)
	})
}

// TestARecordOfBeforeIsHeldAgainstWhatItSays, and completed by the rest: which secrets go where, and how.
func TestARecordOfBeforeIsHeldAgainstWhatItSays(t *testing.T) {
	said := append(to("https://here", "https://there"), broker.Destination{Use: broker.Callers, Place: "shown"})
	now := append(slices.Clone(said), broker.Destination{Use: broker.Carried, Place: "https://here: key"}, broker.Destination{Use: broker.How, Place: "by 1"})
	for name, c := range map[string]struct {
		more broker.Destination
		held bool
	}{
		"nothing more":      {now[0], false},
		"a place":           {to("https://elsewhere")[0], true},
		"an input":          {broker.Destination{Use: broker.Callers, Place: "key"}, true},
		"a place of an API": {broker.Destination{Use: broker.API, Place: "https://here"}, true},
	} {
		for words, more := range map[string][]broker.Destination{
			"none": nil, "others": {{Use: "token from", Place: "token, as RFC 6749 has it"}, {Use: "sent", Place: "https://here: key in the header K"}, {Use: broker.Carried, Place: "https://here: key, by other words"}},
		} {
			t.Run(name+", words: "+words, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					var log bytes.Buffer
					up := &upstream{answer: issues(time.Minute), facts: broker.Facts{Obtains: true}}
					all := broker.SortDestinations(append(slices.Clone(now), c.more))
					up.destinations = func(broker.Credential) []broker.Destination { return all }
					w := newWorld(t, up, func(s *engine.Settings) { s.Log = slog.New(slog.NewTextHandler(&log, nil)) })
					w.create("main", nil)
					there, err := w.store.Credential(t.Context(), "main")
					if err != nil {
						t.Fatal(err)
					}
					log.Reset()
					former := there.Clone()
					former.Destinations, former.Etag = broker.SortDestinations(append(slices.Clone(said), more...)), broker.NewID()
					if err := w.store.SaveCredential(t.Context(), there.Etag, former, nil); err != nil {
						t.Fatal(err)
					}
					_, err = w.get("main")
					if c.held {
						wantKind(t, err, broker.CredentialHeld)
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					if there, err = w.store.Credential(t.Context(), "main"); err != nil || len(there.Unaccepted(all)) > 0 {
						t.Errorf("got %v, %v, want it completed", there.Destinations, err)
					}
					if log.Len() > 0 {
						t.Errorf("got the log %s", &log)
					}
					all = broker.SortDestinations(append(all, broker.Destination{Use: broker.Carried, Place: "https://there: key"}))
					w.up.revision.Add(1)
					_, err = w.get("main")
					wantKind(t, err, broker.CredentialHeld)
				})
			})
		}
	}
}

func TestABuiltInDefinitionIsFollowedAndTheLogSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		place := "https://here"
		var log bytes.Buffer
		up := leading(&place, broker.Facts{Obtains: true, Builtin: true})
		release := broker.Destination{Use: broker.Release, Place: "built in"}
		up.destinations = func(broker.Credential) []broker.Destination {
			return broker.SortDestinations(append(to(place), release))
		}
		w := newWorld(t, up, func(s *engine.Settings) { s.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		w.create("main", nil)
		w.mustGet("main")
		place = "https://there"
		w.up.revision.Add(1)
		w.mustGet("main") // the stored token is still good
		sleep(2 * time.Minute)
		w.mustGet("main")
		c, err := w.store.Credential(t.Context(), "main")
		if err != nil || !slices.Equal(c.Destinations, broker.SortDestinations(append(to("https://here", "https://there"), release))) {
			t.Errorf("got %v, %v", c.Destinations, err)
		}
		if !strings.Contains(log.String(), "it goes to a new host: https://there") || !strings.Contains(log.String(), "https://there") {
			t.Errorf("got log %s", &log)
		}
	})
}

// TestPeopleAreToldWhatIsNew: another host is something else than another request to the same one.
func TestPeopleAreToldWhatIsNew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		place, how := "https://here", "by 1"
		var log bytes.Buffer
		up := leading(&place, broker.Facts{Obtains: true})
		up.destinations = func(broker.Credential) []broker.Destination {
			return broker.SortDestinations(append(to(place), broker.Destination{Use: broker.How, Place: how}))
		}
		w := newWorld(t, up, func(s *engine.Settings) { s.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		w.create("main", nil)
		for _, c := range [][3]string{{"https://here", "by 2", "it goes to the same hosts; what is sent, taken or shown there has changed"}, {"https://there", "by 3", "it goes to a new host: https://there"}} {
			place, how = c[0], c[1]
			w.up.revision.Add(1)
			_, err := w.get("main")
			wantKind(t, err, broker.CredentialHeld)
			status, _ := w.CredentialStatus(t.Context(), local, "main")
			for where, got := range map[string]string{"callers": err.Error(), "the log": log.String(), "status": status.Failure.Detail} {
				if !strings.Contains(got, c[2]) {
					t.Errorf("%s: got %s, want %s", where, got, c[2])
				}
			}
		}
	})
}

// TestBrokersThatHaveNotReadTheNewFileGoOn: while a file is rolled out, one broker has it and another has not.
func TestBrokersThatHaveNotReadTheNewFileGoOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		place := "https://here"
		w := newWorld(t, leading(&place, broker.Facts{Obtains: true}))
		w.create("main", nil)
		place = "https://there"
		w.up.revision.Add(1)
		_, err := w.get("main")
		wantKind(t, err, broker.CredentialHeld)
		if _, err := w.AcceptCredential(t.Context(), local, engine.Acceptance{Name: "main", Destinations: to("https://there")}); err != nil {
			t.Fatal(err)
		}
		w.mustGet("main")
		place = "https://here"
		w.up.revision.Add(1)
		w.mustGet("main")
		if again, err := w.AcceptCredential(t.Context(), local, engine.Acceptance{Name: "main"}); err != nil || len(again.Destinations) != 2 {
			t.Errorf("got %v, %v", again.Destinations, err)
		}
	})
}
