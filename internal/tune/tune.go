// Package tune searches the settings of strategy-predictive on demand that was,
// in the simulator's world, and says what each would have cost and how late it
// would have been.
//
// What it answers is a front: the settings that no other beats in both cost and
// lateness, beside the policy as it comes, tracking with a queue, and a pool of
// a fixed size. It says when the last of these is the best that can be had, and
// when a choice does not carry over to days that it was not made by.
//
// The search itself knows nothing of simulators: it calls a function. The same
// seed gives the same answer, whatever the number of processors.
package tune

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/sim"
)

// Options is how to search.
type Options struct {
	Budget int // settings to try; 128
	// Progress is called, never by two at once, after each piece of work.
	Progress func(done, all int, what string)
}

const maxBudget = 100_000

// Tune searches over all traces together. Where ctx ends before the work does
// it returns the best until then, marked as interrupted, or the context's error
// where nothing is known yet.
func Tune(ctx context.Context, cfg sim.Config, traces []sim.Trace, o Options) (*Report, error) {
	if o.Budget == 0 {
		o.Budget = 128
	}
	if o.Budget < 0 || o.Budget > maxBudget {
		return nil, fmt.Errorf("budget %d: must be 1 to %d", o.Budget, maxBudget)
	}
	t, err := newTuner(cfg, traces)
	if err != nil {
		return nil, err
	}
	s := &Search{Params: params, Budget: o.Budget, Seed: t.config.Seed, Aim: t.aim, Spans: t.spans(), Evaluate: t.evaluate}
	show := t.progress(o.Progress, s.Replays())
	s.Progress = func() { show("settings") }
	r := t.report(o.Budget)
	if err := t.beside(ctx, r, show); err != nil {
		return nil, err
	}
	found, err := s.Run(ctx)
	if err != nil && (!errors.Is(err, ctx.Err()) || len(found.Candidates) == 0) {
		return nil, err
	}
	r.Interrupted = err != nil
	t.judge(r, found)
	return r, nil
}

// tuner is the worlds that settings are tried in.
type tuner struct {
	config sim.Config // with defaults
	aim    Aim
	worlds []*sim.World
	traces []sim.Trace
	rules  plan.Rules // of the policy as it comes
}

func newTuner(cfg sim.Config, traces []sim.Trace) (*tuner, error) {
	if len(traces) == 0 {
		return nil, errors.New("no trace to tune on")
	}
	cfg.Timeline = 0
	t := &tuner{traces: traces}
	for _, trace := range traces {
		w, err := sim.NewWorld(cfg, trace)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", trace.Name, err)
		}
		t.worlds = append(t.worlds, w)
	}
	t.config = t.worlds[0].Config()
	t.aim = Aim{SLO: t.config.SLO, Price: t.config.Price, CyclePrice: t.config.CyclePrice}
	if t.aim.SLO >= 1 {
		return nil, fmt.Errorf("slo %g: must be below 1: no pool of a finite size keeps every request on time", t.aim.SLO)
	}
	t.rules = t.worlds[0].PredictiveRules()
	return t, nil
}

// spans is the scored days of each trace.
func (t *tuner) spans() []Span {
	var out []Span
	for _, w := range t.worlds {
		out = append(out, Span{int(w.Config().Warmup / (24 * time.Hour)), w.Days()})
	}
	return out
}

// evaluate replays a setting. A part of a trace is led in by as many days as
// the warm-up takes.
func (t *tuner) evaluate(s Setting, trace, first, end int) ([]sim.Day, error) {
	w, offset := t.worlds[trace], 0
	if whole := t.spans()[trace]; whole != (Span{first, end}) {
		const day = 24 * time.Hour
		offset = max(first-int((w.Config().Warmup+day-1)/day), 0)
		part, err := w.Part(offset, end)
		if err != nil {
			return nil, err
		}
		w = part
	}
	var days []sim.Day
	for _, d := range w.Run(sim.Predictive(func(r *plan.Rules) { s.apply(params, r) }), 1).Days {
		if d.Day += offset; d.Day >= first {
			days = append(days, d)
		}
	}
	return days, nil
}

// progress counts the pieces of work.
func (t *tuner) progress(f func(done, all int, what string), replays int) func(what string) {
	done, all := 0, replays+len(t.worlds)*(len(queueRule().Knob.Sweep)+1)
	var mu sync.Mutex
	return func(what string) {
		mu.Lock()
		defer mu.Unlock()
		if done++; f != nil {
			f(done, all, what)
		}
	}
}

// queueRule is the strongest rule that needs no forecast.
func queueRule() sim.Spec {
	s, _ := sim.Lookup("tracking-queue")
	return s
}

// beside tries what settings are compared with.
func (t *tuner) beside(ctx context.Context, r *Report, show func(string)) error {
	queue := queueRule()
	sweep := queue.Knob.Sweep
	days := make([][][]sim.Day, len(sweep)) // of each value and trace
	for k := range days {
		days[k] = make([][]sim.Day, len(t.worlds))
	}
	hold := make([]int, len(t.worlds))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	run := func(what string, f func()) {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			f()
			show(what)
			return nil
		})
	}
	for i, w := range t.worlds {
		run("a pool of a fixed size", func() { hold[i] = t.least(w) })
		for k, v := range sweep {
			run(queue.Name, func() { days[k][i] = w.Run(queue, v).Days })
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for k, v := range sweep {
		r.TrackingQueue = append(r.TrackingQueue, Point{
			Settings: map[string]string{queue.Knob.Name: strconv.FormatFloat(v, 'g', -1, 64)}, Figures: t.aim.figures(days[k])})
	}
	if n := slices.Max(hold); slices.Min(hold) >= 0 {
		r.Static = t.static(n)
	}
	return nil
}

// least is the smallest count that keeps the SLO when it never changes; -1
// where not even the largest does.
func (t *tuner) least(w *sim.World) int {
	c := w.Config()
	keeps := func(n int) bool { return t.aim.keeps(t.aim.figures([][]sim.Day{w.Run(holding(n), 0).Days})) }
	lo, hi := max(c.Min, 0)-1, c.Max // hi keeps it, lo does not
	if !keeps(hi) {
		return -1
	}
	for hi-lo > 1 {
		if n := (lo + hi) / 2; keeps(n) {
			hi = n
		} else {
			lo = n
		}
	}
	return hi
}

// static is a pool of n on every trace.
func (t *tuner) static(n int) *Static {
	var days [][]sim.Day
	for _, w := range t.worlds {
		days = append(days, w.Run(holding(n), 0).Days)
	}
	return &Static{Count: n, Figures: t.aim.figures(days)}
}

// holding is the policy that never changes its count.
func holding(n int) sim.Spec {
	return sim.Spec{Name: "hold", New: func(sim.Setup) sim.Policy { return hold(n) }}
}

type hold int

func (h hold) Name() string { return "hold" }

func (h hold) Decide(time.Time, sim.Observation) plan.Decision {
	return plan.Decision{Count: int(h), Rule: plan.RuleHold, Reason: fmt.Sprintf("always %d", int(h))}
}
