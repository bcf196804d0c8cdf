// Package logtrace makes a trace of a decision log, so that what a pool really
// met can be replayed through every policy.
package logtrace

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/record"
	"github.com/gpupool/gpupool/internal/sim"
)

// Pool is what the log says of the pool besides its demand.
type Pool struct {
	Stream record.Stream
	Rules  plan.Rules // of the last decision
	Peak   float64    // replicas that the p99.9 minute keeps busy
}

// FromSeries returns demand as a trace; name stands for its source. The trace
// counts seconds of one unit of work as requests, which makes the figures of
// any pool comparable: so many units for a minute are sixty times as many.
//
// The offered load is taken where the log has it. Otherwise it is the work
// present, running and queued: for jobs that hold their units until they end
// that is the capacity needed. For short requests it counts what waited once
// for each minute that it waited, which [sim.Trace.Notes] says.
func FromSeries(name string, s record.Series, r plan.Rules) (sim.Trace, Pool, error) {
	signal, note := s.Load, "A request of this trace is one second of one unit of the offered load in the decision log."
	if len(signal) == 0 {
		signal = s.Demand
		note = "A request of this trace is one second of one unit of the demand in the decision log, running and queued: " +
			"work that waited counts again for each minute that it waited."
	}
	rows := sim.NewRows(name)
	minutes := signal.Resample(time.Minute, demand.MeanOf)
	for _, p := range minutes {
		if err := rows.Add(p.At.Sub(minutes[0].At).Seconds(), p.Value*60); err != nil {
			return sim.Trace{}, Pool{}, fmt.Errorf("%w, at %s", err, p.At.UTC().Format(time.RFC3339))
		}
	}
	t, err := rows.Trace()
	if err != nil {
		return sim.Trace{}, Pool{}, err
	}
	t.Start = minutes[0].At.Add(-time.Minute).UTC()
	t.Notes = append(t.Notes, note)
	return t, Pool{Rules: r, Peak: peak(t, r)}, nil
}

// peak is the replicas that the p99.9 minute keeps busy.
func peak(t sim.Trace, r plan.Rules) float64 {
	sorted := slices.Clone(t.Arrivals)
	slices.Sort(sorted)
	top := sorted[min(int(0.999*float64(len(sorted))), len(sorted)-1)] / 60
	if top == 0 {
		top = sorted[len(sorted)-1] / 60
	}
	if r.Units <= 0 {
		return top
	}
	return top / r.Units
}

// Apply puts the pool's own size and times into a world's config, where given
// does not say that the operator chose them by the flag of that name.
func (p Pool) Apply(c *sim.Config, given func(flag string) bool) {
	r := p.Rules
	if !given("peak") && p.Peak > 0 {
		c.Peak = p.Peak
	}
	if lead := r.Lead.Round(5 * time.Second); !given("lead") && lead > 0 { // the world's tick
		c.Lead = lead
	}
	if slots := int(math.Round(r.Units)); !given("slots") && slots > 0 {
		c.Slots = slots
	}
	if !given("min") {
		c.Min = r.Min
		if r.Min == 0 {
			c.Min = -1 // none
		}
	}
	if !given("max") && r.Max > 0 {
		c.Max = r.Max
	}
	if !given("slo") && r.SLO > 0 {
		c.SLO = r.SLO
	}
	if wait := r.Wait.Round(5 * time.Second); !given("slo-wait") && wait > 0 {
		c.SLOWait = wait
	}
}

// ReadFile reads the decision log at path, and the older files beside it. Where
// it has several pools, pool names the one that is meant.
func ReadFile(path, pool string) (sim.Trace, Pool, error) {
	rules := map[record.Stream]plan.Rules{}
	var meant []record.Stream
	contents, err := record.ReadFile(path, func(r record.Read) error {
		if pool == "" || r.Name() == pool {
			if _, ok := rules[r.Stream]; !ok {
				meant = append(meant, r.Stream)
			}
			rules[r.Stream] = r.Rules
		}
		return nil
	})
	switch {
	case err != nil:
		return sim.Trace{}, Pool{}, err
	case len(meant) == 0:
		return sim.Trace{}, Pool{}, fmt.Errorf("%s: the log has no decision of pool %q", path, pool)
	case len(meant) > 1:
		return sim.Trace{}, Pool{}, fmt.Errorf("%s: the log has decisions of %d pools, (%s) and (%s) among them: name one", path, len(meant), meant[0], meant[1])
	}
	key := meant[0]
	t, p, err := FromSeries(path, contents.Series[key], rules[key])
	p.Stream = key
	t.Notes = append(t.Notes, contents.Notes...)
	return t, p, err
}
