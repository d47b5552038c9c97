package store

import "github.com/tokenbroker/tokenbroker/broker"

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
	Place           id                     `json:"place,omitzero"`
	Destinations    []destinationRecord    `json:"destinations,omitzero"`
	Etag            id                     `json:"etag"`
	Number          int64                  `json:"number"`
	CreateTime      instant                `json:"create_time,omitzero"`
	UpdateTime      instant                `json:"update_time,omitzero"`
	Requests        map[string]instant     `json:"requests,omitzero"`
	// RequestContents has an entry for each of Requests whose contents are known: former brokers wrote none.
	RequestContents map[string]id `json:"request_contents,omitzero"`
}

type destinationRecord struct {
	Use   broker.Use `json:"use"`
	Place string     `json:"place"`
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
	return credentialRecord{
		Provider: c.Provider, Inputs: c.Inputs, DefaultScopes: c.DefaultScopes.List(), DefaultAudience: c.DefaultAudience,
		Labels: c.Labels, Disabled: c.Disabled, Incarnation: id(c.Incarnation), Version: id(c.Version), Epoch: id(c.Epoch), Place: id(c.Place),
		Destinations: listed(c.Destinations, func(d broker.Destination) destinationRecord { return destinationRecord(d) }),
		Etag:         id(c.Etag), Number: c.Number, CreateTime: at(c.CreateTime), UpdateTime: at(c.UpdateTime),
		Requests:        mapped(c.Requests, func(q broker.Request) instant { return at(q.At) }),
		RequestContents: mapped(c.Requests, func(q broker.Request) id { return id(q.Contents) }),
		Secrets: mapped(c.Secrets, func(s broker.SecretInput) inputRecord {
			return inputRecord{reveal(s.Value), at(s.SetTime), reveal(s.Former), at(s.FormerUntil), at(s.FormerUsedTime)}
		}),
		Seeds: mapped(c.Seeds, func(s broker.Seed) seedRecord { return seedRecord{id(s.Hash), at(s.SetTime)} }),
	}
}

// credential: the name is not in the record; the place that it opened in says it.
func (r credentialRecord) credential(name broker.CredentialName) (broker.Credential, error) {
	scopes, err := broker.SetOf(r.DefaultScopes)
	if err != nil || r.Incarnation.IsZero() {
		return broker.Credential{}, errRecordDamaged
	}
	return broker.Credential{
		Name: name, Provider: r.Provider, Inputs: r.Inputs, DefaultScopes: scopes, DefaultAudience: r.DefaultAudience,
		Labels: r.Labels, Disabled: r.Disabled, Incarnation: r.Incarnation.id(), Version: r.Version.id(), Epoch: r.Epoch.id(), Place: r.Place.id(),
		Destinations: listed(r.Destinations, func(d destinationRecord) broker.Destination { return broker.Destination(d) }),
		Etag:         r.Etag.id(), Number: r.Number, CreateTime: r.CreateTime.time(), UpdateTime: r.UpdateTime.time(), Requests: r.requests(),
		Secrets: mapped(r.Secrets, func(s inputRecord) broker.SecretInput {
			return broker.SecretInput{
				Value: s.Value.secret(), SetTime: s.SetTime.time(), Former: s.Former.secret(), FormerUntil: s.FormerUntil.time(),
				FormerUsedTime: s.FormerUsedTime.time(),
			}
		}),
		Seeds: mapped(r.Seeds, func(s seedRecord) broker.Seed { return broker.Seed{Hash: s.Hash.id(), SetTime: s.SetTime.time()} }),
	}, nil
}

func (r credentialRecord) requests() map[string]broker.Request {
	if r.Requests == nil {
		return nil
	}
	all := map[string]broker.Request{}
	for name, at := range r.Requests {
		all[name] = broker.Request{At: at.time(), Contents: r.RequestContents[name].id()}
	}
	return all
}
