package upstreamsim

import (
	"encoding/json"
	"net/url"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var hostileText = []string{
	"", "plain", `"&+%41 {{x}}=%zz\'<:;/?#$` + "`", "Åß€語", "a=b&c=d", "a+b=c%20d", "a", "=a", "a=%", "%ff=1", "a=b;c=d", "a\x00b", "\xff",
	`{"a":"b"}`, `{"a":"b","a":"c"}`, `{"a":1}`, `{"a":{"b":"c"}}`, `{"a":"b"} {}`, `["a"]`, `{"a":"\ud800"}`, "{", "null",
}

// What an encoder wrote is read as it was meant; whatever else comes in, nothing is guessed.
func FuzzParseForm(f *testing.F) {
	for _, text := range hostileText {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if values, invalid := parseForm(text); invalid == "" {
			want, err := url.ParseQuery(text)
			if err != nil {
				t.Fatalf("accepted what net/url refuses: %v", err)
			}
			if diff := cmp.Diff(map[string][]string(want), values); diff != "" {
				t.Errorf("(-net/url +ours):\n%s", diff)
			}
		}
		if !utf8.ValidString(text) || text == "" {
			return
		}
		encoded := url.Values{"name": {text, "x"}, text: {"y"}}
		values, invalid := parseForm(encoded.Encode())
		if invalid != "" {
			t.Fatalf("refused what net/url wrote: %s", invalid)
		}
		if diff := cmp.Diff(map[string][]string(encoded), values); diff != "" {
			t.Errorf("(-written +read):\n%s", diff)
		}
	})
}

func FuzzParseJSON(f *testing.F) {
	for _, text := range hostileText {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if values, invalid := parseJSON([]byte(text)); invalid == "" {
			var want map[string]string
			if err := json.Unmarshal([]byte(text), &want); err != nil {
				t.Fatalf("accepted what encoding/json refuses: %v", err)
			}
			for name, value := range want {
				if got := values[name]; len(got) == 0 || got[len(got)-1] != value {
					t.Errorf("%q: got %q, want %q last", name, got, value)
				}
			}
		}
		if !utf8.ValidString(text) {
			return
		}
		encoded, err := json.Marshal(map[string]string{"name": text, text: text})
		if err != nil {
			t.Fatal(err)
		}
		values, invalid := parseJSON(encoded)
		if invalid != "" {
			t.Fatalf("refused what encoding/json wrote: %s", invalid)
		}
		if diff := cmp.Diff([]string{text}, values["name"]); diff != "" {
			t.Errorf("(-written +read):\n%s", diff)
		}
	})
}

func FuzzFormDecode(f *testing.F) {
	for _, text := range hostileText {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, ok := formDecode(url.QueryEscape(text)); !ok || got != text {
			t.Errorf("got %q, %v, want %q", got, ok, text)
		}
		if value, ok := formDecode(text); ok {
			if want, err := url.QueryUnescape(text); err != nil || value != want {
				t.Errorf("got %q, want %q, %v", value, want, err)
			}
		}
	})
}
