// Package authn says who has connected to a listener, by what they prove: a certificate, in a TLS handshake. It knows nothing of what they may do.
package authn
