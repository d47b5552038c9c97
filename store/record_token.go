package store

import (
	"github.com/tokenbroker/tokenbroker/broker"
)

// tokenRecord is a broker.Issued.
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
	SameCount   int               `json:"same_count,omitzero"`
	AskAgainAt  instant           `json:"ask_again_at,omitzero"`
	Rejected    bool              `json:"rejected,omitzero"`
	Incarnation id                `json:"incarnation"`
	Version     id                `json:"version"`
	Epoch       id                `json:"epoch"`
	// Owner is of the exchange that brought it: a commit whose answer was lost finds itself. Zero in records of a former version.
	Owner id `json:"owner,omitzero"`
}

type fieldRecord struct {
	Name  string `json:"name"`
	Value secret `json:"value"`
}

type selectionRecord struct {
	Scopes     []string          `json:"scopes,omitzero"`
	Audience   string            `json:"audience,omitzero"`
	Parameters map[string]string `json:"parameters,omitzero"`
	Resources  []string          `json:"resources,omitzero"`
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
		ID: t.ID, Values: revealAll(t.Values), TokenType: t.TokenType, SelectionID: hash(t.SelectionID), Granted: t.Granted,
		Selection: selectionRecord{
			Scopes: t.Selection.Scopes.List(), Audience: t.Selection.Audience,
			Parameters: t.Selection.Parameters.Map(), Resources: t.Selection.Resources.List(),
		},
		SentAt: at(t.SentAt), ExpireAt: at(t.ExpireAt), RefreshAt: at(t.RefreshAt), Source: sourceNames[t.Source],
		SameCount: t.SameCount, AskAgainAt: at(t.AskAgainAt), Rejected: t.Rejected,
		Incarnation: id(t.Incarnation), Version: id(t.Version), Epoch: id(t.Epoch),
	}
	for _, h := range t.Headers {
		r.Headers = append(r.Headers, fieldRecord{h.Name, reveal(h.Value)})
	}
	return r
}

func (r tokenRecord) token() (broker.Issued, error) {
	scopes, err := broker.ParseSet("scopes", r.Selection.Scopes)
	if err != nil {
		return broker.Issued{}, errRecordDamaged
	}
	resources, err := broker.ParseSet("resources", r.Selection.Resources)
	if err != nil {
		return broker.Issued{}, errRecordDamaged
	}
	t := broker.Issued{
		ID: r.ID, Values: secretsOf(r.Values), TokenType: r.TokenType, SelectionID: r.SelectionID, Granted: r.Granted,
		Selection: broker.Selection{
			Scopes: scopes, Audience: r.Selection.Audience,
			Parameters: broker.NewPairs(r.Selection.Parameters), Resources: resources,
		},
		SentAt: r.SentAt.time(), ExpireAt: r.ExpireAt.time(), RefreshAt: r.RefreshAt.time(), Source: sourceNamed(r.Source),
		SameCount: r.SameCount, AskAgainAt: r.AskAgainAt.time(), Rejected: r.Rejected,
		Incarnation: r.Incarnation.id(), Version: r.Version.id(), Epoch: r.Epoch.id(),
	}
	for _, h := range r.Headers {
		t.Headers = append(t.Headers, broker.Field{Name: h.Name, Value: h.Value.secret()})
	}
	return t, nil
}
