// Package product tests the whole product: a broker of real parts, asked over gRPC by clients, with the hostile upstream behind
// the vendors' own names. It decides what callers, operators and vendors have to see, and knows nothing of how any package comes
// to it: whatever is asked here a client could ask.
package product
