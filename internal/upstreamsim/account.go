package upstreamsim

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// AccountID names an account within one Sim, such as "officernd-1". It is no secret, and no login.
type AccountID string

// Account is what a customer of a system knows: the inputs of a credential for the catalog's definition of that name. It is a
// snapshot; a later change of the account does not show in it.
type Account struct {
	ID      AccountID
	System  System            // also the name of the definition
	Inputs  map[string]string // by the names of the definition's inputs
	Secrets map[string]string // those inputs that are secret
	Scopes  []string          // a sensible set to ask for; empty where the definition takes none
	APIURL  string            // GET this with the token to see whether it works
}

// String is the account's ID, so that a printed account shows no secret.
func (a Account) String() string { return string(a.ID) }

// GoString is [Account.String].
func (a Account) GoString() string { return a.String() }

// account is guarded by Sim.mu.
type account struct {
	id         AccountID
	system     System
	login      string // client ID, provider ID or user name
	secret     string
	inputs     map[string]string
	secretName string // the input that secret is
	scopes     []string
	allowed    []string // nil: any
	apiURL     string
	lifetime   time.Duration
	disabled   bool
	policy     GrantPolicy

	families []*family
	seed     string      // RefreshToken only: the newest seed
	wrong    int         // DocuWare: wrong logins in a row
	locked   time.Time   // and the end of the lockout
	window   []time.Time // snov.io: the token requests of the last minute
	counters *counters
	ledger   []Event
}

func (a *account) snapshot() Account {
	secrets := map[string]string{a.secretName: a.secret}
	if a.system == RefreshToken {
		secrets["refresh_token"] = a.seed
	}
	return Account{
		ID: a.id, System: a.system, Inputs: maps.Clone(a.inputs), Secrets: secrets, Scopes: slices.Clone(a.scopes), APIURL: a.apiURL,
	}
}

// Accounts returns every account, the one that [New] made of each system first.
func (s *Sim) Accounts() []Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	accounts := make([]Account, 0, len(s.accounts))
	for _, a := range s.accounts {
		accounts = append(accounts, a.snapshot())
	}
	return accounts
}

// Account returns an account as it is now.
func (s *Sim) Account(id AccountID) (Account, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, err := s.find(id)
	if err != nil {
		return Account{}, err
	}
	return a.snapshot(), nil
}

// Default returns the account of a system that [New] made. It fails on an unknown system.
func (s *Sim) Default(system System) (Account, error) {
	return s.Account(AccountID(fmt.Sprintf("%s-1", system)))
}

// AddAccount makes another account of a system, independent of all others. It fails on an unknown system.
func (s *Sim) AddAccount(system System) (Account, error) {
	if !system.known() {
		return Account{}, fmt.Errorf("system %q is not simulated", system)
	}
	s.mu.Lock()
	a := s.addAccount(system).snapshot()
	s.mu.Unlock()
	s.emit()
	return a, nil
}

func (s *Sim) find(id AccountID) (*account, error) {
	if a := s.byID[id]; a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("account %q is unknown", id)
}

// addAccount makes an account with fresh identifiers and secrets; s.mu is held, or nobody else has s yet.
func (s *Sim) addAccount(system System) *account {
	number := 1
	for _, a := range s.accounts {
		if a.system == system {
			number++
		}
	}
	a := &account{
		id:         AccountID(fmt.Sprintf("%s-%d", system, number)),
		system:     system,
		login:      randomHex(16),
		secret:     newSecret(system),
		secretName: "client_secret",
		lifetime:   time.Hour,
		counters:   newCounters(),
	}
	a.inputs = map[string]string{}
	loginName := "client_id"
	switch system {
	case OcctooDestination:
		destination := randomUUID()
		a.login = randomUUID()
		a.inputs["destination_id"] = destination
		a.apiURL = "https://" + hostOcctooAPI + "/acme/" + destination + "/v1/products"
	case OcctooIngest:
		a.login = randomUUID()
		loginName, a.secretName = "provider_id", "provider_secret"
		a.apiURL = "https://" + hostOcctooIngest + "/dataProviders/sources"
	case OfficeRnD:
		a.scopes = []string{"officernd.api.read", "officernd.api.write"}
		a.allowed = a.scopes
		a.apiURL = "https://" + hostOfficeRnDAPI + "/api/v1/organizations/acme/members"
	case OchnoOperated:
		a.inputs["redirect_uri"] = "https://app.example.com/oauth/callback?tenant=" + randomHex(3) + "&from=ochno"
		a.scopes = []string{"accounts:read", "email", "hubs:read", "sub"}
		a.allowed = []string{"accounts:read", "email", "hubs:read", "hubs:write", "sub"}
		a.apiURL = "https://" + hostOchno + "/api/v1/hubs"
	case Snov, SnovGet:
		a.apiURL = "https://" + hostSnov + "/v1/get-balance"
	case DocuWareCookie, DocuWare:
		a.login = "Jörg.Müller+" + randomHex(4) + "@acme.example"
		loginName, a.secretName = "username", "password"
		a.inputs["server"] = "https://" + hostDocuWare
		if system == DocuWareCookie {
			a.inputs["organization"] = "Müller & Söhne " + randomHex(2)
			a.lifetime = 24 * time.Hour
		}
		a.apiURL = "https://" + hostDocuWare + pathDocuWare + "/Organizations"
	case ClientCredentials:
		a.inputs["token_url"] = "https://" + hostAuth + "/oauth/token"
		a.scopes = []string{"items:read", "items:write"}
		a.allowed = a.scopes
		a.apiURL = "https://" + hostAuth + "/api/v1/items"
	case ClientBasic:
		a.login = "svc:" + randomHex(8) + "+ %41" // the colon alone breaks a Basic header that is not form-encoded
		a.inputs["issuer"] = "https://" + hostIssuer
		a.apiURL = "https://" + hostIssuer + "/api/v1/items"
	case RefreshToken:
		a.inputs["token_url"] = "https://" + hostLogin + "/oauth2/token"
		a.apiURL = "https://" + hostLogin + "/api/v1/me"
	}
	a.inputs[loginName] = a.login
	s.accounts = append(s.accounts, a)
	s.byID[a.id] = a
	if system == RefreshToken {
		s.plantSeed(a)
	}
	return a
}
