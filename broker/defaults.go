package broker

// What a zero value of Settings stands for. Help and documents are made of these, or held against them.
const (
	DefaultExchangeTimeout     = defaultExchangeTimeout
	DefaultUpstreamConcurrency = defaultConcurrency
	DefaultCacheBound          = defaultCacheBound
)
