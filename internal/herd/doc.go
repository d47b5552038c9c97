// Package herd tries what many brokers and very many callers do together: broker processes that are killed and stopped, a real
// Redis, the hostile upstream. Its tests run at a small size with all others, and at their full size by `make herd`.
package herd
