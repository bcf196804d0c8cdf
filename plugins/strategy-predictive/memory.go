package main

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad-autoscaler/sdk"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
)

const (
	// keepHistory is how much of a check's demand decisions rest on: a
	// fortnight of weeks to compare, and a day; of shorter seasons as many.
	keepHistory = 15 * 24 * time.Hour
	// trimAfter is how much more may gather before the oldest is let go. The
	// planner then begins anew, beside the decisions.
	trimAfter = 24 * time.Hour
	// mostSamples bounds the history of one check, 32 bytes each.
	mostSamples = 160_000
	// mostChecks bounds the checks that are remembered; the one that was not
	// asked for the longest is forgotten first.
	mostChecks = 256
)

// memories is what is remembered of each check between its evaluations: the
// demand that was seen, and a planner that has read it. It follows from what
// the source answered alone: a plugin that is started anew and shown the same
// decides the same. A source that shows less than a fortnight at once, as the
// built-in Prometheus plugin mostly does, is remembered from window to window.
//
// It is safe for concurrent use; different checks do not wait for each other.
type memories struct {
	keep, trim time.Duration
	mu         sync.Mutex
	of         map[string]*memory
}

// memory is what is remembered of one check.
type memory struct {
	used time.Time // guarded by memories.mu

	mu      sync.Mutex
	rules   plan.Rules
	series  demand.Series
	planner *plan.Planner
	renewed chan renewal // of the planner being made anew; nil for none
	other   counterfactual
}

// counterfactual is what was paid for while the strategy only advised, and what
// would have been, had it acted from the first advice on.
type counterfactual struct {
	since, last time.Time
	count       int     // that there would be now
	paid, would float64 // replica-hours
}

// longestStep bounds the time that one evaluation stands for: a plugin that was
// not asked saw nothing.
const longestStep = 10 * time.Minute

// advise makes the decision that would follow from what would have been done,
// and counts both on.
func (c *counterfactual) advise(p *plan.Planner, in plan.Input) {
	if c.since.IsZero() || in.Now.Before(c.last) {
		*c = counterfactual{since: in.Now, last: in.Now, count: in.Count}
	}
	hours := min(in.Now.Sub(c.last), longestStep).Hours()
	c.paid += hours * float64(in.Count)
	c.would += hours * float64(c.count)
	c.last = in.Now
	in.Count, in.Starting = c.count, nil
	c.count = p.Decide(in).Count
}

// renewal is a planner that has read series.
type renewal struct {
	planner *plan.Planner
	series  demand.Series
}

func newMemories() *memories {
	return &memories{keep: keepHistory, trim: trimAfter, of: map[string]*memory{}}
}

// decide makes the decision of one evaluation, and returns what it rested on:
// [plan.Decide] answers the same to that input.
func (s *memories) decide(check *sdk.ScalingPolicyCheck, r plan.Rules, metrics sdk.TimestampedMetrics, in plan.Input) (plan.Input, plan.Decision) {
	in, d, _ := s.evaluate(check, r, metrics, in, false)
	return in, d
}

// evaluate is decide, and where the strategy only advises also what its advice
// would have come to.
func (s *memories) evaluate(check *sdk.ScalingPolicyCheck, r plan.Rules, metrics sdk.TimestampedMetrics, in plan.Input, advise bool) (plan.Input, plan.Decision, counterfactual) {
	m := s.get(key(check), in.Now)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.planner == nil || m.rules != r {
		m.rules, m.planner, m.renewed = r, plan.NewPlanner(r), nil
	}
	keep, trim := r.Of(s.keep), r.Of(s.trim)
	if keep < s.keep { // more was never looked at: reading it would take long
		metrics = since(metrics, in.Now.Add(-keep-trim))
	}
	m.take(metrics, in.Now)
	m.forget(keep, trim, in.Now)
	in.Demand = m.series
	if advise {
		m.other.advise(m.planner, in)
	}
	return in, m.planner.Decide(in), m.other
}

// since is the samples that are no older.
func since(metrics sdk.TimestampedMetrics, oldest time.Time) sdk.TimestampedMetrics {
	var news sdk.TimestampedMetrics
	for _, v := range metrics {
		if !v.Timestamp.Before(oldest) {
			news = append(news, v)
		}
	}
	return news
}

// get is the memory under that name.
func (s *memories) get(name string, now time.Time) *memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.of[name]
	if m == nil {
		if len(s.of) >= mostChecks {
			oldest := slices.MinFunc(slices.Collect(maps.Keys(s.of)), func(a, b string) int { return s.of[a].used.Compare(s.of[b].used) })
			delete(s.of, oldest)
		}
		m = &memory{}
		s.of[name] = m
	}
	m.used = now
	return m
}

// key tells checks apart by all that makes their series and their rules. Two
// that are alike in all of it share a memory, and may.
func key(c *sdk.ScalingPolicyCheck) string {
	if c == nil {
		return ""
	}
	parts := []string{c.Name, c.Group, c.Source, c.Query, c.QueryWindow.String(), c.QueryWindowOffset.String()}
	if c.Strategy != nil {
		for _, k := range slices.Sorted(maps.Keys(c.Strategy.Config)) {
			parts = append(parts, k, c.Strategy.Config[k])
		}
	}
	return strings.Join(parts, "\x00")
}

// take adds what is new in the window. Where the window tells what is known
// otherwise, or the clock was set back, it is believed instead.
func (m *memory) take(metrics sdk.TimestampedMetrics, now time.Time) {
	last, known := m.series.Last()
	if known && (last.At.After(now) || contradicts(metrics, m.series)) {
		m.series, m.planner, m.renewed, known = nil, plan.NewPlanner(m.rules), nil, false
	}
	var news []demand.Point
	for i := len(metrics) - 1; i >= 0; i-- {
		v := metrics[i]
		if known && !v.Timestamp.After(last.At) {
			if i == 0 || metrics[i-1].Timestamp.Before(v.Timestamp) { // in order: all before it is older still
				break
			}
			continue
		}
		if !v.Timestamp.After(now) {
			news = append(news, demand.Point{At: v.Timestamp, Value: v.Value})
		}
	}
	clean, _ := demand.Clean(news)
	m.series = append(m.series, clean...)
}

// contradicts says whether a window tells the past otherwise than the series:
// of some samples that both have, most differ. One that was corrected since is
// no reason to begin anew.
func contradicts(metrics sdk.TimestampedMetrics, s demand.Series) bool {
	const looks = 64
	both, other := 0, 0
	for i := range looks {
		if len(metrics) == 0 {
			break
		}
		v := metrics[i*len(metrics)/looks]
		at := s.Window(v.Timestamp.Add(-1), v.Timestamp)
		if len(at) == 0 {
			continue
		}
		both++
		if at[0].Value != v.Value {
			other++
		}
	}
	return other > both/2
}

// forget lets the oldest samples go, once a day: a planner that never saw them
// is made beside the decisions, and takes over when it has caught up.
func (m *memory) forget(keep, trim time.Duration, now time.Time) {
	if len(m.series) == 0 {
		return
	}
	if m.renewed != nil {
		select {
		case n := <-m.renewed:
			end := n.series[len(n.series)-1].At
			m.series = append(n.series, m.series.Window(end, now)...)
			m.planner, m.renewed = n.planner, nil
		default:
		}
		return
	}
	if now.Sub(m.series[0].At) <= keep+trim && len(m.series) <= mostSamples {
		return
	}
	rest := m.series.Window(now.Add(-keep), now)
	if most := mostSamples * 3 / 4; len(rest) > most {
		rest = rest[len(rest)-most:]
	}
	if len(rest) == 0 {
		rest = m.series[len(m.series)-1:]
	}
	rest, done, rules := slices.Clone(rest), make(chan renewal, 1), m.rules
	m.renewed = done
	go func() {
		p := plan.NewPlanner(rules)
		p.Decide(plan.Input{Now: rest[len(rest)-1].At, Demand: rest})
		done <- renewal{p, rest}
	}()
}
