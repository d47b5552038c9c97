// Package project holds the tests of what the whole repository promises: who imports whom, that the contract stays what
// callers have built against, and that documents name what is there. It has no code of its own.
package project
