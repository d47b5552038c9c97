package upstreamsim

import "net/http"

// occtooDestination issues destination tokens:
// https://docs.occtoo.com/docs/get-started/call-custom-destination/get-a-destination-token. The page names no expiry but an
// hour; the vendor's C# sample reads expiresIn, in seconds.
func (s *Sim) occtooDestination(x *exchange) answer {
	f, bad := x.fields(fieldSet{required: []string{"clientId", "clientSecret"}})
	if bad != nil {
		return *bad
	}
	if bad := s.client(x, f["clientId"], f["clientSecret"], OcctooDestination); bad != nil {
		return *bad
	}
	if x.id != x.account.inputs["destination_id"] {
		return x.refuse(http.StatusNotFound, "", ReasonValue, "destination")
	}
	t := s.issueAccess(x, nil, "")
	body := map[string]any{"accessToken": t.value}
	x.stateExpiry(body, "expiresIn", s.left(t), true)
	return tokenAnswer(body)
}

// occtooIngest issues tokens for data providers, inside "result" and without an expiry.
func (s *Sim) occtooIngest(x *exchange) answer {
	f, bad := x.fields(fieldSet{required: []string{"id", "secret"}})
	if bad != nil {
		return *bad
	}
	if bad := s.client(x, f["id"], f["secret"], OcctooIngest); bad != nil {
		return *bad
	}
	t := s.issueAccess(x, nil, "")
	result := map[string]any{"accessToken": t.value}
	x.stateExpiry(result, "expiresIn", s.left(t), false)
	return tokenAnswer(map[string]any{"result": result})
}
