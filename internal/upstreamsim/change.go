package upstreamsim

import (
	"fmt"
	"slices"
	"time"
)

// change applies f to an account and reports it as an event.
func (s *Sim) change(id AccountID, detail string, f func(*account)) error {
	s.mu.Lock()
	a, err := s.find(id)
	if err == nil {
		f(a)
		s.record(Event{Kind: KindChanged, System: a.system, Account: a.id, Detail: detail})
	}
	s.mu.Unlock()
	s.emit()
	return err
}

// ChangeSecret gives the account a new secret and returns it so; the former one is wrong from then on. Tokens and grants
// stay.
func (s *Sim) ChangeSecret(id AccountID) (Account, error) {
	var after Account
	err := s.change(id, "secret", func(a *account) {
		a.secret = newSecret(a.system)
		after = a.snapshot()
	})
	return after, err
}

// Disable makes the account unusable, its access tokens included, until it is enabled again.
func (s *Sim) Disable(id AccountID) error {
	return s.change(id, "disabled", func(a *account) { a.disabled = true })
}

// Enable undoes [Sim.Disable].
func (s *Sim) Enable(id AccountID) error {
	return s.change(id, "enabled", func(a *account) { a.disabled = false })
}

// Unlock ends a DocuWare lockout and forgets the wrong logins.
func (s *Sim) Unlock(id AccountID) error {
	return s.change(id, "unlocked", func(a *account) { a.wrong, a.locked = 0, time.Time{} })
}

// SetLifetime sets how long access tokens that are issued from now on live. Systems that state an expiry state this one, in
// whole seconds. It fails on a lifetime that is not positive.
func (s *Sim) SetLifetime(id AccountID, lifetime time.Duration) error {
	if lifetime <= 0 {
		return fmt.Errorf("lifetime %v: not positive", lifetime)
	}
	return s.change(id, "lifetime", func(a *account) { a.lifetime = lifetime })
}

// RestrictScopes sets which scopes the account may have from now on; none: none at all. It does not change tokens that were
// issued, but a refresh of a grant with more scopes is refused.
func (s *Sim) RestrictScopes(id AccountID, scopes ...string) error {
	allowed := append([]string{}, scopes...)
	return s.change(id, "scopes", func(a *account) { a.allowed = allowed })
}

// SetGrantPolicy sets how the account's refresh tokens are treated from now on. It fails on a negative Grace, or one that
// cannot matter.
func (s *Sim) SetGrantPolicy(id AccountID, policy GrantPolicy) error {
	if policy.Grace < 0 || policy.Static && policy.Grace > 0 {
		return fmt.Errorf("grant policy: grace %v with static %v", policy.Grace, policy.Static)
	}
	return s.change(id, "grant policy", func(a *account) { a.policy = policy })
}

// RejectTokens ends the access tokens of an account, cookies included, and returns how many were valid. Refresh tokens stay.
func (s *Sim) RejectTokens(id AccountID) (int, error) {
	s.mu.Lock()
	a, err := s.find(id)
	n := 0
	if err == nil {
		n = s.endTokens(a, "rejected")
	}
	s.mu.Unlock()
	s.emit()
	return n, err
}

// RejectToken ends one access token or .DWPLATFORMAUTH cookie, and reports whether it was valid.
func (s *Sim) RejectToken(token string) bool {
	s.mu.Lock()
	t := s.access[token]
	valid := t != nil && s.valid(t)
	if valid {
		delete(s.access, token)
		s.record(Event{Kind: KindEnded, System: t.account.system, Account: t.account.id, Detail: "rejected"})
	}
	s.mu.Unlock()
	s.emit()
	return valid
}

func (s *Sim) rejectSystem(system System) int {
	s.mu.Lock()
	n := 0
	for _, a := range s.accounts {
		if system == "" || a.system == system {
			n += s.endTokens(a, "rejected")
		}
	}
	s.mu.Unlock()
	s.emit()
	return n
}

// endTokens ends every access token of an account and returns how many were valid; s.mu is held.
func (s *Sim) endTokens(a *account, detail string) int {
	n := 0
	for value, t := range s.access {
		if t.account == a {
			if s.valid(t) {
				n++
			}
			delete(s.access, value)
		}
	}
	if n > 0 {
		s.record(Event{Kind: KindEnded, System: a.system, Account: a.id, Detail: detail})
	}
	return n
}

// RevokeGrants revokes every refresh-token family of an account, as when a human withdraws consent, and returns how many were
// alive. Access tokens stay; see [Sim.RejectTokens].
func (s *Sim) RevokeGrants(id AccountID) (int, error) {
	s.mu.Lock()
	a, err := s.find(id)
	n := 0
	if err == nil {
		for _, f := range a.families {
			if s.revokeFamily(f, "withdrawn") {
				n++
			}
		}
	}
	s.mu.Unlock()
	s.emit()
	return n, err
}

// Reseed gives a [RefreshToken] account a new family, as when a human authorizes again, and returns the account with its
// first refresh token among the secrets. Older families stay as they are. It fails for accounts of other systems.
func (s *Sim) Reseed(id AccountID) (Account, error) {
	current, err := s.Account(id)
	if err != nil {
		return Account{}, err
	}
	if current.System != RefreshToken {
		return Account{}, fmt.Errorf("account %q: only %s has seeded refresh tokens", id, RefreshToken)
	}
	err = s.change(id, "seed", func(a *account) {
		s.plantSeed(a)
		current = a.snapshot()
	})
	return current, err
}

// mayHave reports whether the account may have all of the scopes.
func (a *account) mayHave(scopes []string) bool {
	if a.allowed == nil {
		return true
	}
	for _, scope := range scopes {
		if !slices.Contains(a.allowed, scope) {
			return false
		}
	}
	return true
}
