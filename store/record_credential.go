package store

import (
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// credentialRecord is a broker.Credential.
type credentialRecord struct {
	Provider        string                 `json:"provider"`
	Inputs          map[string]string      `json:"inputs,omitzero"`
	Secrets         map[string]inputRecord `json:"secrets,omitzero"`
	Seeds           map[string]seedRecord  `json:"seeds,omitzero"`
	DefaultScopes   []string               `json:"default_scopes,omitzero"`
	DefaultAudience string                 `json:"default_audience,omitzero"`
	Labels          map[string]string      `json:"labels,omitzero"`
	Disabled        bool                   `json:"disabled,omitzero"`
	Incarnation     id                     `json:"incarnation"`
	Version         id                     `json:"version"`
	Epoch           id                     `json:"epoch"`
	Etag            id                     `json:"etag"`
	Number          int64                  `json:"number"`
	CreateTime      instant                `json:"create_time,omitzero"`
	UpdateTime      instant                `json:"update_time,omitzero"`
	Requests        map[string]instant     `json:"requests,omitzero"`
}

type inputRecord struct {
	Value          secret  `json:"value,omitzero"`
	SetTime        instant `json:"set_time,omitzero"`
	Former         secret  `json:"former,omitzero"`
	FormerUntil    instant `json:"former_until,omitzero"`
	FormerUsedTime instant `json:"former_used_time,omitzero"`
}

type seedRecord struct {
	Hash    id      `json:"hash"`
	SetTime instant `json:"set_time,omitzero"`
}

func fromCredential(c broker.Credential) credentialRecord {
	r := credentialRecord{
		Provider: c.Provider, Inputs: c.Inputs, DefaultScopes: c.DefaultScopes.List(), DefaultAudience: c.DefaultAudience,
		Labels: c.Labels, Disabled: c.Disabled, Incarnation: id(c.Incarnation), Version: id(c.Version), Epoch: id(c.Epoch),
		Etag: id(c.Etag), Number: c.Number, CreateTime: at(c.CreateTime), UpdateTime: at(c.UpdateTime),
	}
	if c.Secrets != nil {
		r.Secrets = make(map[string]inputRecord, len(c.Secrets))
	}
	for name, s := range c.Secrets {
		r.Secrets[name] = inputRecord{
			Value: reveal(s.Value), SetTime: at(s.SetTime), Former: reveal(s.Former), FormerUntil: at(s.FormerUntil),
			FormerUsedTime: at(s.FormerUsedTime),
		}
	}
	if c.Requests != nil {
		r.Requests = make(map[string]instant, len(c.Requests))
	}
	for request, t := range c.Requests {
		r.Requests[request] = at(t)
	}
	if c.Seeds != nil {
		r.Seeds = make(map[string]seedRecord, len(c.Seeds))
	}
	for name, s := range c.Seeds {
		r.Seeds[name] = seedRecord{Hash: id(s.Hash), SetTime: at(s.SetTime)}
	}
	return r
}

// credential: the name is not in the record; the place that it opened in says it.
func (r credentialRecord) credential(name broker.CredentialName) (broker.Credential, error) {
	scopes, err := broker.ParseSet("scopes", r.DefaultScopes)
	if err != nil || r.Incarnation.IsZero() {
		return broker.Credential{}, errRecordDamaged
	}
	c := broker.Credential{
		Name: name, Provider: r.Provider, Inputs: r.Inputs, DefaultScopes: scopes, DefaultAudience: r.DefaultAudience,
		Labels: r.Labels, Disabled: r.Disabled, Incarnation: r.Incarnation.id(), Version: r.Version.id(),
		Epoch: r.Epoch.id(), Etag: r.Etag.id(), Number: r.Number, CreateTime: r.CreateTime.time(), UpdateTime: r.UpdateTime.time(),
	}
	if r.Secrets != nil {
		c.Secrets = make(map[string]broker.SecretInput, len(r.Secrets))
	}
	for name, s := range r.Secrets {
		c.Secrets[name] = broker.SecretInput{
			Value: s.Value.secret(), SetTime: s.SetTime.time(), Former: s.Former.secret(), FormerUntil: s.FormerUntil.time(),
			FormerUsedTime: s.FormerUsedTime.time(),
		}
	}
	if r.Requests != nil {
		c.Requests = make(map[string]time.Time, len(r.Requests))
	}
	for request, t := range r.Requests {
		c.Requests[request] = t.time()
	}
	if r.Seeds != nil {
		c.Seeds = make(map[string]broker.Seed, len(r.Seeds))
	}
	for name, s := range r.Seeds {
		c.Seeds[name] = broker.Seed{Hash: s.Hash.id(), SetTime: s.SetTime.time()}
	}
	return c, nil
}
