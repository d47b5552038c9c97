package provider

import (
	"fmt"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestWhichRefusalsMayBeOfTheSecret: then a former one is tried. What says that it is something else spares the upstream a second question.
func TestWhichRefusalsMayBeOfTheSecret(t *testing.T) {
	const code = `{"error": %q}`
	chosen := oauth + "scopes: {}\n"
	ruled := oauth + "error: {rules: [{status: 400, means: request}]}\n"
	for name, c := range map[string]struct {
		definition      string
		status          int
		body            string
		obtain, refresh bool
	}{
		"invalid_client":                        {oauth, 401, fmt.Sprintf(code, "invalid_client"), true, true},
		"inside a 200":                          {oauth, 200, fmt.Sprintf(code, "invalid_client"), true, true},
		"a wrong password":                      {oauth, 400, fmt.Sprintf(code, "invalid_grant"), true, false},
		"as Keycloak says it":                   {oauth, 401, fmt.Sprintf(code, "unauthorized_client"), true, true},
		"as Auth0 says it":                      {oauth, 401, fmt.Sprintf(code, "access_denied"), true, true},
		"a client that may not":                 {oauth, 400, fmt.Sprintf(code, "unauthorized_client"), false, false},
		"a grant type that is not there":        {oauth, 400, fmt.Sprintf(code, "unsupported_grant_type"), false, false},
		"a scope":                               {oauth, 400, fmt.Sprintf(code, "invalid_scope"), false, false},
		"a scope that a caller chose":           {chosen, 400, fmt.Sprintf(code, "invalid_scope"), false, false},
		"a status alone":                        {oauth, 403, `{}`, true, true},
		"a status alone, where callers choose":  {chosen, 400, `{}`, true, true},
		"a code of its own, where callers do":   {chosen, 422, fmt.Sprintf(code, "bad_secret"), true, true},
		"a request that a rule knows to be bad": {ruled, 400, `{}`, false, false},
		"no such address":                       {oauth, 404, `{}`, false, false},
		"too many requests":                     {oauth, 429, `{}`, false, false},
		"an upstream that fails":                {oauth, 503, `{}`, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVendor(t, says(c.status, "application/json", c.body))
			d := v.define(c.definition)
			_, obtain := v.obtain(d, credential(client), broker.Selection{})
			_, refresh := v.refresh(d, credential(client), "r", nil)
			if got := upstreamError(t, obtain).InvalidClient; got != c.obtain {
				t.Errorf("obtain: got %v", got)
			}
			if got := upstreamError(t, refresh).InvalidClient; got != c.refresh {
				t.Errorf("refresh: got %v", got)
			}
		})
	}
}
