// Package policy decides which caller may do what with which credential, by the rules of a file. It knows nothing of transports, stores and
// upstreams, nor of how a caller was authenticated. docs/policy.md says the file's form for operators.
package policy
