package store

import (
	"github.com/tokenbroker/tokenbroker/broker"
)

// tokenRecord is a broker.Issued, and what it was issued for.
type tokenRecord struct {
	ID          string            `json:"id"`
	Values      map[string]secret `json:"values"`
	Headers     []fieldRecord     `json:"headers,omitzero"`
	TokenType   string            `json:"token_type,omitzero"`
	Selection   selectionRecord   `json:"selection,omitzero"`
	SelectionID hash              `json:"selection_id"`
	Granted     []string          `json:"granted,omitzero"`
	SentAt      instant           `json:"sent_at,omitzero"`
	ExpireAt    instant           `json:"expire_at"`
	RefreshAt   instant           `json:"refresh_at,omitzero"`
	Source      string            `json:"source"`
	Unread      string            `json:"unread,omitzero"`
	SameCount   int               `json:"same_count,omitzero"`
	AskAgainAt  instant           `json:"ask_again_at,omitzero"`
	Rejected    bool              `json:"rejected,omitzero"`
	// RejectedCount and ReplaceAt are zero in records of a former version.
	RejectedCount int     `json:"rejected_count,omitzero"`
	ReplaceAt     instant `json:"replace_at,omitzero"`
	Incarnation   id      `json:"incarnation"`
	Version       id      `json:"version"`
	Epoch         id      `json:"epoch"`
	// Owner is of the exchange that brought it: a commit whose answer was lost finds itself. Zero in records of a former version.
	Owner id `json:"owner,omitzero"`
}

type fieldRecord struct {
	Name  string `json:"name"`
	Value secret `json:"value"`
}

// selectionRecord is what people see of a selection.
type selectionRecord struct {
	Audience string `json:"audience,omitzero"`
}

// The sources are stored by name: numbers change.
var sourceNames = map[broker.ExpirySource]string{
	broker.ExpiryUnknown: "unknown", broker.ExpiryUpstream: "upstream", broker.ExpiryToken: "token",
	broker.ExpiryDefinition: "definition", broker.ExpiryNone: "none",
}

// sourceNamed gives ExpiryUnknown, the most careful one, for a name that nobody has.
func sourceNamed(name string) broker.ExpirySource {
	for source, n := range sourceNames {
		if n == name {
			return source
		}
	}
	return broker.ExpiryUnknown
}

func fromToken(t broker.Issued) tokenRecord {
	r := tokenRecord{
		ID: t.ID, Values: revealAll(t.Values), TokenType: t.TokenType, Granted: t.Granted, Selection: selectionRecord{t.Audience},
		SentAt: at(t.SentAt), ExpireAt: at(t.ExpireAt), RefreshAt: at(t.RefreshAt), Source: sourceNames[t.Source], Unread: t.Unread,
		SameCount: t.SameCount, AskAgainAt: at(t.AskAgainAt), Rejected: t.Rejected,
		RejectedCount: t.RejectedCount, ReplaceAt: at(t.ReplaceAt),
	}
	for _, h := range t.Headers {
		r.Headers = append(r.Headers, fieldRecord{h.Name, reveal(h.Value)})
	}
	return r
}

func (r tokenRecord) token() broker.Issued {
	t := broker.Issued{
		ID: r.ID, Values: secretsOf(r.Values), TokenType: r.TokenType, Granted: r.Granted, Audience: r.Selection.Audience,
		SentAt: r.SentAt.time(), ExpireAt: r.ExpireAt.time(), RefreshAt: r.RefreshAt.time(), Source: sourceNamed(r.Source), Unread: r.Unread,
		SameCount: r.SameCount, AskAgainAt: r.AskAgainAt.time(), Rejected: r.Rejected,
		RejectedCount: r.RejectedCount, ReplaceAt: r.ReplaceAt.time(),
	}
	for _, h := range r.Headers {
		t.Headers = append(t.Headers, broker.Field{Name: h.Name, Value: h.Value.secret()})
	}
	return t
}

// of reports whether the token is of the credential as it is.
func (r tokenRecord) of(c broker.Credential) bool {
	return r.Incarnation.id() == c.Incarnation && r.Version.id() == c.Version && r.Epoch.id() == c.Epoch
}
