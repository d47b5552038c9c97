// Package authn says who is asking at a listener, by what they prove: a certificate, in a TLS handshake, or a signed token (JWT), with a call. It knows nothing of
// what they may do.
package authn
