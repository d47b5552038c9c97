// Package broker has the words of the domain: credentials, tokens, grants, leases, failures, and what is asked of upstreams, stores and
// authorizers. What is done with them is package engine's.
//
// It knows no transport, no database and no provider's name.
package broker
