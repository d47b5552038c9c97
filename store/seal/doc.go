// Package seal encrypts and decrypts what the store keeps, names the keys, and computes keyed fingerprints.
//
// It decides how keys are made, where a key file may lie and who may read it. It knows nothing of records: what a
// ciphertext belongs to is the associated data that the caller gives.
//
// A key file holds two Tink keysets. The sealing keyset encrypts (XAES-256-GCM: AES-256-GCM with a key derived for each
// ciphertext, so that random nonces never run out) and can be rotated. The fingerprint keyset (HMAC-SHA-256) never is:
// ids of tokens and of seeds, and the keys of rows, must stay the same for ever.
package seal
