// Package doctor says what is unsafe about a broker as it runs, in sentences for who looks after it. It decides what counts as unsafe, and what comes first. It changes
// nothing, and knows nothing of how it is asked or printed.
package doctor
