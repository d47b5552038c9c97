package leaktest_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/leaktest"
)

var secrets = []string{"first-secret-0123456789", "second secret/with+odd&chars=%\"<é>"}

// TestFindsEachForm: a search that finds nothing proves something only if it can find.
func TestFindsEachForm(t *testing.T) {
	for i, s := range secrets {
		fixtures := map[string]string{
			"in the clear":       "xx" + s + "yy",
			"hex":                hex.EncodeToString([]byte("ab" + s + "c")),
			"upper-case hex":     strings.ToUpper(hex.EncodeToString([]byte(s))),
			"query":              url.Values{"refresh_token": {s}}.Encode(),
			"lower-case percent": strings.ToLower(url.QueryEscape(s)),
			"path":               "/x/" + url.PathEscape(s),
		}
		quoted, err := json.Marshal(map[string]string{"token": s})
		if err != nil {
			t.Fatal(err)
		}
		fixtures["JSON"] = string(quoted)
		for _, before := range []string{"", "a", "ab", "abc", "abcd", "abcde"} {
			for _, after := range []string{"", "x", "xy", "xyz"} {
				name := fmt.Sprintf("base64 after %d and before %d bytes", len(before), len(after))
				fixtures[name] = base64.StdEncoding.EncodeToString([]byte(before + s + after))
				fixtures[name+", URL"] = base64.RawURLEncoding.EncodeToString([]byte(before + s + after))
			}
		}
		if len(fixtures) < 50 {
			t.Fatalf("only %d fixtures", len(fixtures))
		}
		for name, f := range fixtures {
			found := leaktest.Find([]byte("before "+f+" after"), secrets)
			if len(found) == 0 || found[0].Index != i {
				t.Errorf("secret %d, %s: got %v, want it found", i, name, found)
			}
			for _, f := range found {
				if strings.Contains(f.String(), s) {
					t.Errorf("a finding quotes the secret: %s", f)
				}
			}
		}
	}
}

func TestFindsNothingElsewhere(t *testing.T) {
	if found := leaktest.Find([]byte(strings.Repeat("first-secret-012345678 second secret", 100)), secrets); found != nil {
		t.Errorf("got %v, want nothing", found)
	}
}

func TestRefusesShortSecrets(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("got no panic for a secret that would be found by chance")
		}
	}()
	leaktest.Find(nil, []string{"short"})
}
