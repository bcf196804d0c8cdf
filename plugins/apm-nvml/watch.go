package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/gpupool/gpupool/internal/nomad"
)

// sample is the demand at one moment.
type sample struct {
	at time.Time // when the reading began
	nomad.Demand
}

// demandReader reads a pool's demand; *nomad.Client is one.
type demandReader interface {
	Demand(ctx context.Context, spec nomad.PoolSpec) (nomad.Demand, error)
}

// watch samples one pool's demand in the background, so that queries answer
// from memory: the autoscaler puts no limit on how long a query takes, and one
// that hangs freezes its policy.
type watch struct {
	spec    nomad.PoolSpec
	from    demandReader
	every   time.Duration
	keep    time.Duration
	hold    time.Duration
	log     hclog.Logger
	timeout time.Duration

	mu      sync.Mutex
	samples []sample // ascending
	err     error    // why the last reading failed; nil if it did not
}

func (w *watch) run(ctx context.Context) {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		w.read(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *watch) read(ctx context.Context) {
	at := time.Now()
	d, err := w.readSafely(ctx)
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		if w.err == nil || w.err.Error() != err.Error() {
			w.log.Warn("cannot read demand", "pool", w.spec.Name, "error", err)
		}
		w.err = err
		return
	}
	if w.err != nil {
		w.log.Info("reading demand again", "pool", w.spec.Name)
	}
	w.err = nil
	w.samples = append(w.samples, sample{at, d})
	old := 0
	for old < len(w.samples) && at.Sub(w.samples[old].at) > w.keep {
		old++
	}
	w.samples = append(w.samples[:0], w.samples[old:]...)
}

// readSafely keeps a bug from ending the plugin, which nothing starts again.
func (w *watch) readSafely(ctx context.Context) (d nomad.Demand, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	return w.from.Demand(ctx, w.spec)
}

// between returns the samples in [from, to], ascending and at least one. Where
// none falls into it, as with an instant, it is the last one before to. It is
// an error if the newest sample is older than hold: then nobody knows the
// demand, and no number stands for that.
func (w *watch) between(from, to time.Time) ([]sample, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	end := len(w.samples)
	for end > 0 && w.samples[end-1].at.After(to) {
		end--
	}
	if end == 0 {
		return nil, w.unknown("has not been read yet")
	}
	if age := to.Sub(w.samples[end-1].at); age > w.hold {
		return nil, w.unknown(fmt.Sprintf("was last read %s ago, longer than hold (%s)", age.Round(time.Second), w.hold))
	}
	start := end - 1
	for start > 0 && !w.samples[start-1].at.Before(from) {
		start--
	}
	return append([]sample(nil), w.samples[start:end]...), nil
}

func (w *watch) unknown(what string) error {
	if w.err != nil {
		return fmt.Errorf("demand of pool %s %s: %w", w.spec.Name, what, w.err)
	}
	return fmt.Errorf("demand of pool %s %s", w.spec.Name, what)
}
