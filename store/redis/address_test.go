package redis_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/store/redis"
)

func TestParseAddress(t *testing.T) {
	for text, want := range map[string]string{
		"redis://h":                          "redis://h:6379",
		"redis://h:1":                        "redis://h:1",
		"redis://h:1/3":                      "redis://h:1/3",
		"redis://h:1/":                       "redis://h:1",
		"rediss://u:p%40ss@h":                "rediss://h:6379",
		"redis://:p@ss@h":                    "redis://h:6379",
		"redis://[::1]:5":                    "redis://[::1]:5",
		"redis://[::1]":                      "redis://[::1]:6379",
		"redis+cluster://a,b:2,c":            "redis+cluster://a:6379,b:2,c:6379",
		"rediss+cluster://a/0":               "rediss+cluster://a:6379",
		"redis+sentinel://a,b:2/mymaster":    "redis+sentinel://a:26379,b:2/mymaster",
		"rediss+sentinel://u:p@a/mymaster/2": "rediss+sentinel://a:26379/mymaster/2",
		"":                                   "not an address",
		"embedded":                           "not an address",
		"http://h":                           "not an address",
		"redis:/h":                           "not an address",
		"redis+other://h":                    "not an address",
		"redis://":                           "names no host",
		"redis://h:":                         "not host:port",
		"redis://:pw@[bad":                   "not host:port",
		"redis://bad]":                       "not host:port",
		"redis://h:0":                        "not host:port",
		"redis://h:65536":                    "not host:port",
		"redis://a,b":                        "several hosts",
		"redis://h/x":                        "database is not a number",
		"redis://h/-1":                       "database is not a number",
		"redis://h/1/2":                      "more after its host",
		"redis+cluster://h/1":                "no database but 0",
		"redis+sentinel://h":                 "does not name the master",
		"redis://h?timeout=1":                "no parameters",
		"redis://u:%zz@h":                    "not well-formed",
		"redis+cluster://a,,b":               "names no host",
	} {
		a, err := redis.ParseAddress(text)
		got := a.String()
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != want || err != nil && !strings.Contains(got, want) {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

// FuzzParseAddress: nothing panics, no error shows the password, and what an address prints as is read as the same.
func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{"redis://u:secret@h:1/2", "rediss+sentinel://:secret@a,b/m/1", "redis+cluster://secret@a", "redis://h:x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := redis.ParseAddress(strings.ReplaceAll(text, "secret", "s3cr3t-plant"))
		shown := fmt.Sprintf("%v %+v %#v", a, a, a)
		if err != nil {
			shown = err.Error()
		}
		user, rest, ok := strings.Cut(text, "@") // what follows is shown
		if ok && strings.Contains(user, "secret") && !strings.Contains(rest, "secret") && strings.Contains(shown, "s3cr3t-plant") {
			t.Errorf("%q shows the password: %s", text, shown)
		}
		if err != nil || strings.Contains(text, "@") {
			return
		}
		b, err := redis.ParseAddress(a.String())
		if err != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%q is %v, which is read as %v, %v", text, a, b, err)
		}
	})
}
