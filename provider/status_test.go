package provider

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// TestAStatusOfADefinitionIsOne: a rule of another would never hold.
func TestAStatusOfADefinitionIsOne(t *testing.T) {
	for status, good := range map[string]bool{
		"100": true, "401": true, "599": true, "[401, 403]": true, "{not: [401]}": true, "{not: 200}": true,
		"99": false, "600": false, "99999": false, "[401, 99999]": false, "{not: 99999}": false, "0401": false, "4xx": false, "~": false, "-1": false,
	} {
		rules := "error: {rules: [{status: " + status + ", means: grant}]}"
		for _, text := range []string{rules + "\nobtain: {get: 'https://example.com', take: {token: t}}", "obtain: {get: 'https://example.com', " + rules + ", take: {token: t}}"} {
			found := yamldoc.Errors(Check("", []byte("name: x\n"+text)))
			if (len(found) == 0) != good {
				t.Errorf("%s: got %v", status, found)
			}
		}
	}
}

// TestAStatusThatIsNoneIsTold: of it alone nobody would know what to look at.
func TestAStatusThatIsNoneIsTold(t *testing.T) {
	for _, status := range []string{"099", "101", "600", "999"} {
		v := newVendor(t, func(w http.ResponseWriter, _ *http.Request) {
			conn, b, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintf(b, "HTTP/1.1 %s Some\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status)
			b.Flush()
			conn.Close()
		})
		_, err := v.obtain(v.define("obtain: {oauth2: 'https://example.com/t', auth: none}"), credential(nil), broker.Selection{})
		e := upstreamError(t, err)
		if want := "the answer has status " + strings.TrimPrefix(status, "0") + ", with which no token endpoint answers"; e.Level != broker.LevelUpstream || !strings.Contains(e.Detail, want) {
			t.Errorf("%s: got %+v", status, e)
		}
	}
}
