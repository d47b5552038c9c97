// Package kek wraps and unwraps keysets by a key-encryption key that lies outside of the store: in a file, in the Transit engine of OpenBao or Vault,
// in AWS KMS or in Google Cloud KMS.
//
// It decides which keys there are, by their URIs; how a KMS is asked, for how long and over which connection; what the wrapped form looks like; and whose
// failure it is when something does not unwrap. It knows nothing of what is wrapped, of stores, and of when a key is asked: that is at start and at
// reload, never for an RPC.
//
// What is wrapped is sealed with a fresh data key, and the KEK wraps that data key alone, so that no KMS bounds its size and none sees it. The KMS
// binds the data key to its place as well, and asks for the same associated data when it unwraps.
//
// Nothing is asked but what the settings name: no metadata service unless they say so, no proxy of the environment unless they say so, no redirect is
// followed. Connections are not kept: a KEK that is not in use has none.
package kek
