// Package standing tells Nomad how the GPUs of a host stand, as metadata of its
// node, so that jobs can keep away from a host with a bad one.
package standing

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/gpupool/gpupool/internal/fleet"
)

// The keys of the metadata.
const (
	// KeyHealth is the worst verdict on any GPU of the host: ok, degraded or
	// failed.
	KeyHealth = "gpupool_gpu_health"
	// KeyFit is the number of GPUs that have not failed.
	KeyFit = "gpupool_gpus_fit"
	// KeyAdvice is the strongest advice: reset, cycle or repair. There is no
	// such key where nothing is to be done.
	KeyAdvice = "gpupool_gpu_advice"
)

// keys are all of them: what a host does not have is taken away.
var keys = []string{KeyHealth, KeyFit, KeyAdvice}

// Of is the metadata of a host, nil while too little is known: before each GPU
// was judged once.
func Of(s fleet.Snapshot) map[string]string {
	if s.Driver.State == fleet.DriverStarting {
		return nil
	}
	worst, advice, fit := fleet.HealthOK, fleet.ActionNone, 0
	for _, g := range s.GPUs {
		if g.Health.Verdict == fleet.HealthUnknown || g.Health.Verdict == "" {
			return nil
		}
		if g.Health.Verdict != fleet.HealthFailed {
			fit++
		}
		if slices.Index(fleet.Verdicts, g.Health.Verdict) > slices.Index(fleet.Verdicts, worst) {
			worst = g.Health.Verdict
		}
		if slices.Index(fleet.Actions, g.Health.Action) > slices.Index(fleet.Actions, advice) {
			advice = g.Health.Action
		}
	}
	if len(s.GPUs) == 0 {
		worst = fleet.HealthFailed // a GPU host without one
	}
	meta := map[string]string{KeyHealth: string(worst), KeyFit: strconv.Itoa(fit)}
	if advice != fleet.ActionNone {
		meta[KeyAdvice] = string(advice)
	}
	return meta
}

// Config is what a [Teller] needs.
type Config struct {
	Snapshot func() fleet.Snapshot
	// Tell sets these keys of the node's metadata, and takes those away whose
	// value is nil.
	Tell func(ctx context.Context, meta map[string]*string) error
	Log  *slog.Logger
}

// Times of the teller.
const (
	look = time.Second
	// settle is how long something must hold before it is told: each change of
	// a node's metadata is a write to all of Nomad's servers, and may start
	// evaluations.
	settle = 15 * time.Second
	// repeat is how long what was told stands before it is told again, for a
	// client that was installed anew meanwhile.
	repeat = 30 * time.Minute
	retry  = 10 * time.Second
)

// Teller tells Nomad what changes.
type Teller struct{ cfg Config }

// New makes a teller, which does nothing until Run.
func New(cfg Config) *Teller { return &Teller{cfg} }

// Run tells until ctx ends.
func (t *Teller) Run(ctx context.Context) {
	var told, seen map[string]string
	var toldAt, seenAt, tryAt time.Time
	failed := false
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		now := time.Now()
		if meta := Of(t.cfg.Snapshot()); meta != nil {
			if !maps.Equal(meta, seen) {
				seen, seenAt = meta, now
			}
			news := !maps.Equal(seen, told) || now.Sub(toldAt) >= repeat
			if news && now.Sub(seenAt) >= settle && !now.Before(tryAt) {
				err := t.tell(ctx, seen)
				switch {
				case err == nil:
					told, toldAt, failed = maps.Clone(seen), now, false
				case ctx.Err() == nil && !failed:
					failed = true
					t.cfg.Log.Warn("cannot tell Nomad how the GPUs stand, will try again", "error", err)
				}
				tryAt = now.Add(retry)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (t *Teller) tell(ctx context.Context, meta map[string]string) error {
	all := make(map[string]*string, len(keys))
	for _, k := range keys {
		all[k] = nil
		if v, ok := meta[k]; ok {
			all[k] = &v
		}
	}
	return t.cfg.Tell(ctx, all)
}
