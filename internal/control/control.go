// Package control is the loop that makes a pool follow its wanted count:
// observe, reconcile, check, record the intent, act, record the outcome.
//
// A crash at any point of a tick is repaired by the next tick, on this machine
// or another, because nothing that matters is kept in memory.
package control

import (
	"context"

	"github.com/gpupool/gpupool/internal/pool"
)

// Observer sees the hosts of one pool.
type Observer interface {
	// Observe reads power, Nomad and the agents. A host that could not be
	// read is in the result with unknown parts: err is for the case that
	// nothing can be said at all, such as Nomad being down.
	Observe(ctx context.Context) (pool.Snapshot, error)
}

// Actor does what was decided.
type Actor interface {
	// Act carries out one action. It is safe to repeat. An error that wraps
	// power.ErrAmbiguous, or the end of ctx, means that the outcome is open.
	Act(ctx context.Context, v pool.View, do pool.Verb) error
}
