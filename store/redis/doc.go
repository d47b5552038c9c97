// Package redis is the store.Backend that any number of brokers share: a Redis server, a master with Sentinels, or a Cluster.
//
// It decides how rows lie in Redis, in which script each change is made, and what has to be true of a Redis that may hold
// credentials. It sees sealed rows and knows nothing of what is in them. Rows end by Redis's own clock. Every script may be
// repeated; reads go to masters.
package redis
