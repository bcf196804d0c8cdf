package live

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/pool"
)

// LookConfig is what it takes to look at a pool that another process acts on.
type LookConfig struct {
	Pool   string
	Site   *Site
	Consul *consul.Client
	Limits pool.Limits
	// Want stands for the count in Consul, if it is not nil.
	Want *int
}

// Look is one tick that does nothing: what the loop would decide now, from what
// Consul, Nomad, the agents and those power controllers say that can be asked.
// It needs no lease, writes nothing and changes nothing. See
// [control.Loop.Plan] for its error.
func Look(ctx context.Context, cfg LookConfig) (control.Report, error) {
	loop := control.New(control.Config{
		World: still{cfg.Site}, Store: records{cfg, cfg.Consul.Pool(cfg.Pool)}, Limits: cfg.Limits,
		Lease: func(time.Time) (uint64, time.Time, bool) { return 0, time.Time{}, false },
	})
	return loop.Plan(ctx)
}

// errReadOnly: nothing may be changed here. That it is ever seen is a bug.
var errReadOnly = errors.New("this process only looks")

// still is a site that nothing can be done to.
type still struct{ *Site }

func (still) Act(context.Context, pool.View, pool.Verb) error { return errReadOnly }

// records are a pool's records without a lease.
type records struct {
	cfg     LookConfig
	records *consul.Pool
}

func (r records) Want(ctx context.Context) (int, bool, error) {
	if r.cfg.Want != nil {
		return min(*r.cfg.Want, r.cfg.Limits.Max), true, nil
	}
	w, err := r.records.Want(ctx)
	if errors.Is(err, consul.ErrNotFound) {
		return 0, false, nil
	}
	return min(w.Count, r.cfg.Limits.Max), err == nil, err
}

func (r records) Intents(ctx context.Context) (map[string]pool.Intent, error) {
	return r.records.Intents(ctx)
}

func (r records) Words(ctx context.Context) (map[string]pool.Said, error) {
	return r.records.Words(ctx)
}

func (r records) Times(ctx context.Context) (map[string]pool.Times, error) {
	t, err := r.records.Times(ctx)
	if errors.Is(err, consul.ErrCorrupt) {
		return nil, nil //nolint:nilerr // they are estimates, and who acts says so
	}
	return t, err
}

func (r records) Record(_ context.Context, host string, _ pool.Intent) (pool.Intent, error) {
	return pool.Intent{}, fmt.Errorf("intent for host %s: %w", host, errReadOnly)
}
