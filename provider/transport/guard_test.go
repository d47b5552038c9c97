package transport

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestMetadataServicesAreNeverAskedWhateverIsAllowed(t *testing.T) {
	for _, addr := range []string{"fd00:ec2::254", "100.100.100.200", "168.63.129.16", "169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"} {
		a := netip.MustParseAddr(addr)
		if a.Is4In6() || a.Is6() && strings.HasPrefix(addr, "64:") {
			continue
		}
		tr, err := New(Settings{AllowPrivate: []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}})
		if err != nil {
			continue // refused as a setting: as good
		}
		wide, err := New(Settings{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("100.64.0.0/10")}})
		if err != nil {
			t.Fatal(err)
		}
		for _, tr := range []*Transport{tr, wide} {
			u := &url.URL{Scheme: "https", Host: netip.AddrPortFrom(a, 443).String(), Path: "/"}
			ctx, cancel := context.WithCancel(t.Context())
			_, fail := tr.Send(ctx, &Request{Method: "GET", URL: u, Header: http.Header{}}, false, func(string) error { cancel(); return nil })
			if fail == nil || !strings.Contains(fail.Detail, "special address") {
				t.Errorf("%s: got %v", addr, fail)
			}
			cancel()
			tr.Close()
		}
	}
}

func TestASpecialAddressIsNotAskedThroughAProxyHoweverItIsSpelled(t *testing.T) {
	tr, err := New(Settings{})
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "localhost", "a.localhost", "2130706433", "127.1", "0x7f000001", "metadata.google.internal", "[fd00::1]", "[64:ff9b::7f00:1]", "169.254.169.254.", "localhost."} {
		u, err := url.Parse("https://" + host + "/")
		if err != nil {
			t.Fatal(err)
		}
		if tr.Allowed(u) == nil && tr.guardLiteral(u) == nil {
			t.Errorf("%s would be given to a proxy", host)
		}
	}
}

func TestConnectToAndAllowHTTPDoNotMindCase(t *testing.T) {
	tr, err := New(Settings{AllowHTTP: []string{"Plain.Example"}, ConnectTo: map[string]string{"Vendor.Example:443": "127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Allowed(&url.URL{Scheme: "http", Host: "plain.example", Path: "/x"}); err != nil {
		t.Error(err)
	}
	u, _ := url.Parse("https://vendor.example/")
	_, fail := tr.Send(t.Context(), &Request{Method: "GET", URL: u, Header: http.Header{}}, false, func(string) error { return nil })
	if fail == nil || fail.Detail != "the host refuses the connection: nobody listens there" {
		t.Errorf("got %v", fail)
	}
}

func TestSettingsThatAreWrongSayWhich(t *testing.T) {
	for want, s := range map[string]Settings{
		"upstream.allow_private": {AllowPrivate: []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16")}},
		"upstream.ca_file":       {CAFile: "/does/not/exist"},
		"connect_to: a name is":  {ConnectTo: map[string]string{"a": "127.0.0.1:1"}},
		"a:443: what":            {ConnectTo: map[string]string{"a:443": "b"}},
	} {
		_, err := New(s)
		var wrong *SettingError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), want) || err.Error() != wrong.Setting+": "+wrong.Err.Error() {
			t.Errorf("got %v, want one that says %s", err, want)
		}
	}
}
