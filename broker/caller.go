package broker

// A Caller is the workload that asks, as the transport authenticated it. The zero value is nobody, and is allowed nothing.
type Caller struct {
	// Identity names the workload, for people and for policy: "local" for a caller on this machine.
	Identity string
	// Local is set for callers that reached the broker over loopback or its Unix socket.
	Local bool
}
