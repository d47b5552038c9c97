package provider

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestNoPieceOfASecretIsShown, however an upstream spells it.
func TestNoPieceOfASecretIsShown(t *testing.T) {
	v := newValues(nil)
	v.set("client_secret", "ab+c/d=é&x", true)
	v.set("password", "correct-horse-battery", true)
	v.set("client_id", "not-a-secret-at-all", false)
	for _, s := range []string{
		"ab+c/d=é&x", "ab%2bc%2fd%3d%c3%a9%26x", `ab+c\/d=\u00e9&x`, `ab\u002bc/d=é&x`, "AB+C/D=É&X", "ab c/d=é&x", "61622b632f643dc3a92678", "b+c/d=é&x",
		"ab+c/d=é&amp;x", "ab+c/d=&#233;&amp;x", "correct-horse", "CORRECT HORSE BATTERY", "horse-battery", "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5",
		strings.ToLower("Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"), base64.StdEncoding.EncodeToString([]byte("me:correct-horse-battery")), hex.EncodeToString([]byte("xcorrect-horse")),
	} {
		got := v.conceal("the upstream says " + s + " to that")
		if strings.Contains(got, s) || !strings.Contains(got, "client_secret") && !strings.Contains(got, "password") {
			t.Errorf("%s: got %q", s, got)
		}
	}
	for _, s := range []string{"invalid client not-a-secret-at-all: the password is wrong", "AADSTS7000215: Invalid client secret provided", ""} {
		if got := v.conceal(s); got != s {
			t.Errorf("got %q, want %q", got, s)
		}
	}
}

// TestACodeIsToldOnlyIfItIsKnown: another may be a secret in disguise. What the definition's rules name is known to its readers.
func TestACodeIsToldOnlyIfItIsKnown(t *testing.T) {
	for code, want := range map[string]string{
		"S3cr3t-Value-12345": "", "S3cr3t-Value-1234": "", "s3cr3t-value-12345": "", "UzNjcjN0LVZhbHVlLTEyMzQ1": "", "5333637233742d56616c75652d3132333435": "",
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln": "", "vendor_mood": "", "E4711": "E4711", "e4711": "", "login_required": "login_required", "invalid_scope": "invalid_scope",
	} {
		v := newVendor(t, says(400, "application/json", `{"error": "`+code+`"}`))
		d := v.define(oauth + "error: {rules: [{code: [E4711, E4712], means: credential}, {code: {not: [vendor_mood]}, status: 599, means: grant}]}")
		_, err := v.obtain(d, credential(map[string]string{"client_id": "id", "!client_secret": "S3cr3t-Value-12345"}), broker.Selection{})
		e := upstreamError(t, err)
		if e.Code != want || e.Attempts[0].UpstreamError != want || want == "" && strings.Contains(e.Error(), code) {
			t.Errorf("%s: got %q and %v, want %q", code, e.Code, e, want)
		}
	}
}
