package control

import (
	"context"
	"fmt"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
)

// Plan is a tick that does nothing and needs no lease: what the loop would
// decide now. Where nothing was ever wanted, the report has no actions. If the
// decision would break a law, the report has it and the error wraps
// pool.ErrUnsafe: the loop would do nothing of it.
func (l *Loop) Plan(ctx context.Context) (Report, error) {
	snapshot, err := l.see(ctx)
	if err != nil {
		return Report{}, err
	}
	want, known, err := l.cfg.Store.Want(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("read the wanted count: %w", err)
	}
	r := Report{At: time.Now(), Want: want, WantKnown: known, Snapshot: snapshot}
	r.Decision = pool.Reconcile(r.At, want, snapshot, l.cfg.Limits)
	if !known {
		r.Decision.Actions = nil
		return r, nil
	}
	return r, pool.Check(r.At, want, snapshot, r.Decision.Actions, l.cfg.Limits)
}
