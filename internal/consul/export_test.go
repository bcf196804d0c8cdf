package consul

// NewShortLease makes a lease with exactly the given times, so that tests need
// not wait for Consul's usual floor of 10 s.
func NewShortLease(p *Pool, cfg LeaseConfig) *Lease { return newLease(p, cfg) }

// Fence is what a write of the lease is fenced with.
func (l *Lease) Fence() (session string, gen uint64) { return l.current() }
