package redis_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/leaktest"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// TestNothingLeaksIntoRedis plants secrets in every record, and looks for them in what Redis keeps, is sent, and logs. Nor do
// names stand anywhere but in the index and its entries.
func TestNothingLeaksIntoRedis(t *testing.T) {
	server := redistest.Start(t, redistest.Options{Args: []string{"--slowlog-log-slower-than", "0", "--loglevel", "debug"}})
	seen := server.Monitor()
	var planted []string
	plant := func(what string) broker.Secret {
		s := fmt.Sprintf("planted %s no. %d: /+&=%%\"é", what, len(planted))
		planted = append(planted, s)
		return broker.NewSecret(s)
	}
	keys, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.New(open(t, server.URL()), keys, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		storetest.Plant(t, s, broker.CredentialName(fmt.Sprint("credential-", n)), plant)
	}
	if err := s.DeleteCredential(t.Context(), "credential-1", broker.ID{}); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Do("SAVE"); err != nil {
		t.Fatal(err)
	}
	slow, err := server.Do("SLOWLOG", "GET", "1000")
	if err != nil {
		t.Fatal(err)
	}
	monitored := seen()
	for what, data := range map[string][]byte{
		"files": server.Dump(), "MONITOR": []byte(monitored), "log": []byte(server.Log()), "SLOWLOG": fmt.Append(nil, slow),
	} {
		if len(data) < 100 {
			t.Errorf("%s: only %d bytes to search", what, len(data))
		}
		for _, found := range leaktest.Find(data, planted) {
			t.Errorf("%s: %s", what, found)
		}
		for line := range bytes.Lines(data) {
			if times := bytes.Count(line, []byte("credential-")); what == "MONITOR" && times > 0 && !bytes.Contains(line, []byte(":index")) &&
				(times > 1 || !bytes.Contains(line, []byte(":listed"))) {
				t.Errorf("a name is sent: %.200q", line)
			}
		}
	}
	for i, p := range planted { // the search finds each where it is not hidden
		fixture := monitored[:50] + base64.StdEncoding.EncodeToString([]byte("x"+p))
		if leaktest.Find([]byte(fixture), planted[i:i+1]) == nil {
			t.Fatalf("the search does not find secret %d", i)
		}
	}
	if len(planted) < 20 || !strings.Contains(monitored, "evalsha") {
		t.Errorf("only %d secrets were planted, and %d bytes seen", len(planted), len(monitored))
	}
}

// TestNoErrorShowsWhatWasSent: a Redis error may quote its arguments.
func TestNoErrorShowsWhatWasSent(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	db := open(t, server.URL())
	k := store.Key{Kind: "token"}
	secret := "planted-value-of-a-row"
	row := store.Batch{Group: "c:a", Puts: []store.Put{{Key: k, Revision: store.Revision{1}, Value: []byte(secret)}}}
	if err := db.Apply(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	for what, arrange := range map[string][]string{
		"out of memory":  {"CONFIG", "SET", "maxmemory", "1"},
		"a replica":      {"REPLICAOF", "127.0.0.1", "1"},
		"too few follow": {"CONFIG", "SET", "min-replicas-to-write", "3"},
		"not authorized": {"CONFIG", "SET", "requirepass", "x"},
		"another type":   {"EVAL", "for _,k in ipairs(redis.call('KEYS','*')) do redis.call('DEL',k) redis.call('SADD',k,'" + secret + "') end return 1", "0"},
	} {
		t.Run(what, func(t *testing.T) {
			server := redistest.Start(t, redistest.Options{})
			db := open(t, server.URL())
			if err := db.Apply(t.Context(), row); err != nil {
				t.Fatal(err)
			}
			if _, err := server.Do(arrange...); err != nil {
				t.Fatal(err)
			}
			next := row
			next.Puts = []store.Put{{Key: k, Revision: store.Revision{2}, Value: []byte(secret), TTL: time.Hour}}
			err := db.Apply(t.Context(), next)
			if what == "not authorized" && err == nil {
				return // its connection was authorized before
			}
			if err == nil || strings.Contains(err.Error(), "planted") || !strings.Contains(err.Error(), "Redis") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestWhatWasBegunEndsWithoutRoom: a commit is stored by a Redis that has no memory left, which takes nothing new.
func TestWhatWasBegunEndsWithoutRoom(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	r := newRig(t, server.URL())
	k := r.create("main")
	v, err := r.Read(t.Context(), k, "")
	if err != nil {
		t.Fatal(err)
	}
	l, err := v.Acquire(t.Context(), time.Minute, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Do("CONFIG", "SET", "maxmemory", "1"); err != nil {
		t.Fatal(err)
	}
	if err := r.commit(l, "refresh-1"); err != nil {
		t.Errorf("commit: %v", err)
	}
	if got := r.grant(k); got != "refresh-1" {
		t.Errorf("got %q", got)
	}
	if err := r.refresh(k, "refresh-2"); err == nil || !strings.Contains(err.Error(), "out of memory") {
		t.Errorf("acquire: got %v, want that it has no memory", err)
	}
}
