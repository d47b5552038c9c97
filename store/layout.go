package store

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/tokenbroker/tokenbroker/broker"
)

// The stored form, schema 1. Store keys are built in this file and nowhere else.
//
//	group                      kind        id               lives        holds
//	c:<hash of name>           credential  -                for ever     inputs, secrets, ids
//	                           health      -                for ever     failure of the credential; whether the former secret worked
//	                           history     -                for ever     last 20 attempts, last success; receipts of former brokers
//	                           grant       - or Grant       for ever     a refresh token: the credential's own (-), or a key's
//	                           token       Token            to expiry    an access token
//	                           failure     Token            retry + 1 d  failure of one token key
//	                           grantlease  - or Grant       lease        owner, and the ids that the lease was taken for
//	                           keylease    Token            lease        the same, where no grant is spent
//	                           suspended   -                to a resume  no grant is spent since an export (see suspend.go)
//	u:<hash of upstream>       backoff     -                until + 1 d  backoff of one upstream
//	meta                       check       -                for ever     ids of the keys, and a record only they open (see check.go)
//	                           suspended   -                to a resume  when the store was exported
//	                           keyring     -                for ever     the keys, wrapped by a KEK, where there is one (see keyring.go)
//	                           reader      instance         30 s         a broker that holds the keys, and which state of them
//	                           rewrap      -                for ever     how far it is that all is sealed with the primary key (see rewrap.go)
//
//	index: (name, incarnation) -> group
//
// Hashes are fingerprints: keyed, so that without the key file a name cannot even be guessed at. Grant and Token are those
// of broker.TokenKey. The index alone holds names as they are, because paging in order of name needs an order.
//
// Those of check, keyring, reader and rewrap are JSON in the clear. Every other value is sealed. Its plaintext is one byte, the record version (1), and then JSON as the record structs say; secrets
// are base64 in it, because they need not be UTF-8. Fields may be added within a version if leaving them out does no harm;
// any other change is a new version, which older brokers refuse.
//
// A value is bound to its place by the associated data: "tokenbroker row 1", kind, name of the credential or upstream,
// incarnation (but for the credential row, which tells it), id of the row; each with its length before it.
const (
	schema         = 1
	recordVersion  = 1
	associatedText = "tokenbroker row 1"
)

// The kinds of rows.
const (
	kindCredential      = IndexedKind
	kindHealth     Kind = "health"
	kindHistory    Kind = "history"
	kindGrant      Kind = "grant"
	kindToken      Kind = "token"
	kindFailure    Kind = "failure"
	kindGrantLease Kind = "grantlease"
	kindKeyLease   Kind = "keylease"
	kindBackoff    Kind = "backoff"
	kindCheck      Kind = "check"
	kindSuspended  Kind = "suspended"
	kindKeyring    Kind = "keyring"
	kindReader     Kind = "reader"
	kindRewrap     Kind = "rewrap"
)

const metaGroup Group = "meta"

var (
	credentialKey = Key{Kind: kindCredential}
	healthKey     = Key{Kind: kindHealth}
	historyKey    = Key{Kind: kindHistory}
	ownGrantKey   = Key{Kind: kindGrant}
	backoffKey    = Key{Kind: kindBackoff}
	checkKey      = Key{Kind: kindCheck}
	suspendedKey  = Key{Kind: kindSuspended}
	keyringKey    = Key{Kind: kindKeyring}
	rewrapKey     = Key{Kind: kindRewrap}
)

func readerKey(instance broker.ID) (k Key) {
	k.Kind = kindReader
	copy(k.ID[:], instance[:])
	return k
}

func grantKey(k broker.TokenKey) Key   { return Key{kindGrant, k.Grant} }
func tokenKey(k broker.TokenKey) Key   { return Key{kindToken, k.Token} }
func failureKey(k broker.TokenKey) Key { return Key{kindFailure, k.Token} }

// flightRows are the rows that decide about an exchange for a key, and that its end writes: what is read with the view is not read again.
func flightRows(k broker.TokenKey) []Key {
	return []Key{grantKey(k), tokenKey(k), failureKey(k), healthKey, historyKey, leaseKey(k), suspendedKey}
}

// leaseKey: a lease is on whatever would be spent, the grant or else the key.
func leaseKey(k broker.TokenKey) Key {
	if k.Spends {
		return Key{kindGrantLease, k.Grant}
	}
	return Key{kindKeyLease, k.Token}
}

// credentialGroup is empty while there are no keys: of such a group nothing is asked (see reach.go).
func (s *Store) credentialGroup(name broker.CredentialName) Group {
	k := s.keys()
	if k == nil {
		return ""
	}
	h := k.Fingerprint("store: group of a credential", string(name))
	return Group("c:" + hex.EncodeToString(h[:]))
}

// GroupOf is where a credential's rows are, for tests of backends; empty: there are no keys yet.
func (s *Store) GroupOf(name broker.CredentialName) Group { return s.credentialGroup(name) }

// upstreamGroup is empty while there are no keys.
func (s *Store) upstreamGroup(upstream string) Group {
	k := s.keys()
	if k == nil {
		return ""
	}
	h := k.Fingerprint("store: group of an upstream", upstream)
	return Group("u:" + hex.EncodeToString(h[:]))
}

// A binding is what a sealed value is bound to.
type binding struct {
	key Key
	// subject is the name of the credential or upstream.
	subject string
	// incarnation is zero for rows that are read before it is known.
	incarnation broker.ID
}

func (p binding) associated() []byte {
	parts := [...]string{associatedText, string(p.key.Kind), p.subject, string(p.incarnation[:]), string(p.key.ID[:])}
	var b []byte
	for _, s := range parts {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}
