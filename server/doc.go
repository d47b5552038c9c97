// Package server carries RPCs to the broker and its failures back as statuses: validation, the error table, limits, logs,
// health and metrics. It decides nothing about tokens, and knows no store and no provider.
package server
