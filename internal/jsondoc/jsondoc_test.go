package jsondoc

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestADocumentIsReadAsItIsSpelled(t *testing.T) {
	got, err := Read([]byte("\xef\xbb\xbf" + `{"n": 12345678901234567890, "l": [1.50, null, true], "o": {"s": "x"}}`))
	want := map[string]any{"n": json.Number("12345678901234567890"), "l": []any{json.Number("1.50"), nil, true}, "o": map[string]any{"s": "x"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestWhatIsNoDocumentIsRefused(t *testing.T) {
	for _, s := range []string{
		``, `{`, `nothing`, `{"a": 1, "a": 2}`, `{} {}`, `{}x`, `[1,]`, "\"\xff\"", strings.Repeat("[", deepest+2) + strings.Repeat("]", deepest+2),
	} {
		if got, err := Read([]byte(s)); err == nil {
			t.Errorf("%.40q: got %v, want an error", s, got)
		}
	}
}

func TestAValueAsText(t *testing.T) {
	for want, v := range map[string]any{"": nil, "s": "s", "1.50": json.Number("1.50"), "true": true, `["a",1]`: []any{"a", json.Number("1")}} {
		if got := Text(v); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
