package settings

import (
	"cmp"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestNoSettingIsGivenAndEmpty: each setting says what it is, and refuses to be nothing wherever it is given, so that nobody has less than they believe. A list or
// a mapping of nothing is written as one.
func TestNoSettingIsGivenAndEmpty(t *testing.T) {
	const (
		text, place, list, mapping = "text", "place", "list", "mapping"
		number, duration, yesNo    = "number", "duration", "yes or no"
		share                      = "share"
	)
	all := map[string]string{
		"data-dir": place, "listen": list, "socket": place, "metrics-listen": text, "probes-listen": text, "policy-file": place, "providers-dir": place, "key-file": place,
		"log-level": text, "log-format": text, "shutdown-timeout": duration, "shutdown-grace": duration, "exchange-timeout": duration,
		"store": text, "redis-username": text, "redis-password-file": place, "redis-sentinel-username": text, "redis-sentinel-password-file": place,
		"redis-ca-file": place, "redis-cert-file": place, "redis-key-file": place, "redis-prefix": text, "redis-wait-replicas": number, "redis-accept-loss": yesNo,
		"cache-bound": duration, "outage-grace": duration,
		"upstream-connect-to": mapping, "upstream-ca-file": place, "upstream-allow-http": list, "upstream-allow-private": list, "upstream-concurrency": number,
		"audit-file": place, "audit-stdout": yesNo, "audit-syslog": text, "audit-issuance": text,
		"traces-collector": text, "traces-ca-file": place, "traces-sample": share, "traces-propagate": yesNo,
		"keys-kek": text, "keys-timeout": duration, "keys-ca-file": place, "keys-cert-file": place, "keys-key-file": place, "keys-proxy": yesNo,
		"keys-transit-token-file": place, "keys-transit-token-env": text, "keys-transit-role": text, "keys-transit-login-mount": text, "keys-transit-jwt-file": place,
		"keys-aws-endpoint": text, "keys-aws-credentials-file": place, "keys-aws-role": text, "keys-aws-jwt-file": place, "keys-aws-sts-endpoint": text,
		"keys-aws-container-uri": text, "keys-aws-container-token-file": place, "keys-aws-metadata": text,
		"keys-gcp-endpoint": text, "keys-gcp-credentials-file": place, "keys-gcp-metadata": text,
		"limits-concurrent-streams": number, "limits-caller-rate": number, "limits-message-bytes": number, "limits-connection-age": duration,
	}
	refused := map[string]string{
		text: "it is empty: leave it out", place: "it is empty: leave it out", list: "it is empty: leave it out", mapping: "it is empty: leave it out",
		number: "write a whole number", share: "write a number", duration: "write a duration", yesNo: "write true or false",
	}
	good := map[string]string{
		text: "none", place: "a b/é", list: "10.0.0.0/8,10.1.0.0/16", mapping: "a:443=127.0.0.1:1,b:443=127.0.0.1:2", number: "1", share: "0.5", duration: "1s", yesNo: "true",
		"log-level": "debug", "log-format": "json", "audit-issuance": "required",
	}
	known := knownSettings()
	if got, want := slices.Sorted(maps.Keys(known)), slices.Sorted(maps.Keys(all)); !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v: say in this table what a new setting is", got, want)
	}
	for flag, what := range all {
		t.Run(flag, func(t *testing.T) {
			word := strings.ReplaceAll(flag, "-", "_")
			refuses := func(value, want string) {
				t.Helper()
				if _, err := parsed(t, File{}, "--"+flag+"="+value); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("--%s=%q: got %v, want %s", flag, value, err, want)
				}
				if what == mapping {
					return // in a file it is a mapping, or nothing
				}
				written := `"` + strings.NewReplacer("\n", `\n`, "\x1b", `\e`, "\x00", `\0`, "\u0085", `\N`).Replace(value) + `"`
				_, wrong, err := parseSettings("f", []byte(word+": "+written))
				if err != nil || len(wrong) != 1 || !strings.Contains(wrong[0].Message, want) || wrong[0].Line != 1 {
					t.Errorf("%s: %s: got %v, %v, want %s", word, written, wrong, err, want)
				}
			}
			for _, value := range []string{"", " ", "\t \n"} {
				refuses(value, refused[what])
			}
			name, value := known[flag].Tag.Envs[0], cmp.Or(good[flag], good[what])
			if _, err := parsed(t, File{}, "--"+flag+"="+value); err != nil {
				t.Errorf("--%s=%s: got %v", flag, value, err)
			}
			if what == mapping {
				value = "{'a:443': '127.0.0.1:1'}"
			}
			if _, wrong, err := parseSettings("f", []byte(word+": "+value)); err != nil || len(wrong) > 0 {
				t.Errorf("%s: %s: got %v, %v", word, value, wrong, err)
			}
			for _, value := range []string{"", " "} {
				t.Setenv(name, value)
				if _, err := parsed(t, File{}); err == nil || !strings.Contains(err.Error(), "the environment variable "+name+": it is empty: leave it out") {
					t.Errorf("%s=%q: got %v", name, value, err)
				}
				if _, err := parsed(t, File{set: map[string]fileSetting{flag: {value: "1"}}}); err == nil {
					t.Errorf("%s=%q: the file takes its place", name, value)
				}
			}
			switch what {
			case place:
				for _, value := range []string{" a", "a ", "a\n", "a\tb", "a\x1b[2J", "a\x00b", "a\u0085b"} {
					refuses(value, "it is no path: it begins or ends with a blank, or has a control character in it")
				}
			case list, mapping:
				_ = os.Unsetenv(name)
				f, wrong, err := parseSettings("f", []byte(word+": "+map[string]string{list: "[]", mapping: "{}"}[what]))
				if err != nil || len(wrong) > 0 {
					t.Fatalf("got %v %v", wrong, err)
				}
				if s, err := parsed(t, f); err != nil || len(s.Listen) > 0 && flag == "listen" {
					t.Errorf("got %v, %v", s.Listen, err)
				}
			}
			if off := known[flag].Tag.Get(offTag); off != "" {
				_ = os.Unsetenv(name)
				if _, err := parsed(t, File{}, "--"+flag+"="+off); err != nil {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

// parsed are the settings of a command line, a file and the environment, as main reads them.
func parsed(t *testing.T, f File, args ...string) (Settings, error) {
	t.Helper()
	var s struct{ Settings }
	k := kong.Must(&s, Options(t.TempDir()), kong.Exit(func(int) {}), kong.Resolvers(f.Resolver(map[string]Position{})))
	blank, err := DropBlank(k, args)
	if err != nil {
		return s.Settings, err
	}
	c, err := k.Parse(args)
	if err != nil {
		return s.Settings, err
	}
	if s.Blank = blank.Of(c); len(s.Blank) > 0 {
		return s.Settings, s.Check()
	}
	return s.Settings, nil
}

func TestNobodyListensWhereThereIsNone(t *testing.T) {
	f, wrong, err := parseSettings("f", []byte("listen: [none]"))
	if err != nil || len(wrong) > 0 {
		t.Fatalf("got %v %v", wrong, err)
	}
	for _, args := range [][]string{nil, {"--listen=none"}, {"--listen", "none", "--metrics-listen", "none"}} {
		if s, err := parsed(t, f, args...); err != nil || len(s.Listen) > 0 {
			t.Errorf("%v: got %v %v", args, s.Listen, err)
		}
	}
	if s, err := parsed(t, File{}); err != nil || !slices.Equal(s.Listen, []string{DefaultAddress}) {
		t.Errorf("got %v %v", s.Listen, err)
	}
}
