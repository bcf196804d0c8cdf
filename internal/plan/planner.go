package plan

import (
	"fmt"
	"math"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/forecast"
)

// Planner makes decisions for one pool and keeps what it learned of the series
// between them, which saves reading fifteen days again each minute. All that it
// keeps follows from the series alone: a new Planner that is shown the same
// series decides the same. It is not safe for concurrent use.
type Planner struct {
	rules   Rules
	invalid error

	flow   bool // the signal is Input.Load, not Input.Demand
	first  demand.Point
	last   demand.Point // newest point taken in
	seen   int          // points taken in
	bucket bucket
	model  *forecast.Model
	replay *replay
}

// step is the distance of the values that forecasts are made from.
const step = 30 * time.Second

// steps is d in steps, rounded up.
func steps(d time.Duration) int { return int((d + step - 1) / step) }

// quantiles that candidates may plan for.
var quantiles = []float64{0.3, 0.5, 0.65, 0.8, 0.9, 0.95, 0.975, 0.99, 0.997}

// NewPlanner returns a planner that has seen nothing.
func NewPlanner(r Rules) *Planner {
	p := &Planner{rules: r.withDefaults(), invalid: r.Validate()}
	p.reset()
	return p
}

// reset forgets everything.
func (p *Planner) reset() {
	r := p.rules
	p.first, p.last, p.seen, p.bucket = demand.Point{}, demand.Point{}, 0, bucket{}
	if p.invalid != nil {
		return
	}
	minute := int(time.Minute / step)
	p.model = forecast.New(forecast.Config{
		Day: int(24 * time.Hour / step), Hour: int(time.Hour / step),
		Ahead: steps(r.Lead) + steps(min(r.Interval, time.Minute)) + 1,
		Long:  steps(max(r.Interval-time.Minute, 0)), Every: minute, Width: 2 * minute,
		Quantiles: quantiles,
	})
	p.replay = newReplay(r)
}

// Decide answers how many replicas are needed now, like the function of the
// same name. The series of in may begin later than those of the call before;
// where they tell the past otherwise, the planner begins anew.
func (p *Planner) Decide(in Input) Decision {
	if p.invalid != nil {
		return simple(in, p.rules)
	}
	flow := len(in.Load) > 0 && in.Service > 0
	signal := in.Demand
	if flow {
		signal = in.Load
	}
	if why := unusable(signal, in.Now, p.rules); why != "" {
		return hold(in, p.rules, why)
	}
	p.take(signal.Window(time.Time{}, in.Now), flow)
	if p.model.Matured() < enough {
		return simple(in, p.rules)
	}
	return p.predict(in, signal)
}

// enough is the number of forecasts that must have matured before one is
// believed: three hours.
const enough = int(3 * time.Hour / step)

// take feeds what is new in the series to the model and the replay.
func (p *Planner) take(s demand.Series, flow bool) {
	news := s
	if p.seen > 0 {
		at := s.Window(p.last.At.Add(-1), p.last.At)
		if flow != p.flow || len(at) != 1 || at[0] != p.last {
			p.reset()
		} else {
			news = s.Window(p.last.At, s[len(s)-1].At)
		}
	}
	p.flow = flow
	for _, v := range news {
		if p.seen == 0 {
			p.first = v
		}
		p.bucket.add(v, p.rules.StaleAfter, p.value)
		p.last = v
		p.seen++
	}
}

// value takes in the next value of the evenly spaced series.
func (p *Planner) value(v float64) {
	p.model.Add(v)
	p.replay.add(v, p.model)
}

// bucket turns samples into values at even distances.
type bucket struct {
	end  time.Time // of the bucket being filled
	sum  float64
	n    int
	last float64
}

// longestHole bounds the work that one sample can make.
const longestHole = 60 * 24 * time.Hour

// add takes in one sample and passes on each value that it finishes. A bucket
// that no sample fell in repeats the one before, unless nothing came for
// longer than stale: then it is a hole.
func (b *bucket) add(v demand.Point, stale time.Duration, pass func(float64)) {
	if b.end.IsZero() || v.At.Sub(b.end) > longestHole {
		*b = bucket{end: v.At.Truncate(step).Add(step)}
		if v.At.Equal(v.At.Truncate(step)) {
			b.end = v.At
		}
	}
	missing := int((v.At.Sub(b.end) + step - 1) / step)
	for i := range missing {
		switch {
		case b.n > 0:
			b.flush(pass)
		case time.Duration(missing)*step > stale:
			pass(math.NaN())
		default:
			pass(b.last)
		}
		_ = i
		b.end = b.end.Add(step)
	}
	b.sum += v.Value
	b.n++
	if !v.At.Before(b.end) {
		b.flush(pass)
		b.end = b.end.Add(step)
	}
}

func (b *bucket) flush(pass func(float64)) {
	b.last = b.sum / float64(b.n)
	b.sum, b.n = 0, 0
	pass(b.last)
}

// predict is the decision with a forecast.
func (p *Planner) predict(in Input, signal demand.Series) Decision {
	r, m := p.rules, p.model
	c := p.replay.chosen()
	q := m.Quantiles()[c.quantile]
	s := situation{center: m.Center(), quantile: q, recent: m.Recent(2 * int(time.Minute/step))}
	d := Decision{Rule: RulePredictive}
	term := func(n string, v float64, unit, note string) {
		d.Terms = append(d.Terms, Term{n, v, unit, note})
	}
	starting, age := 0, 0.0
	for _, at := range in.Starting {
		starting++
		age += max(r.Lead.Seconds()-max(at.Sub(in.Now).Seconds(), 0), 0)
	}
	starting = min(starting, max(in.Count, 0))
	s.ready = float64(max(in.Count, 0) - starting)
	s.aged = age
	waiting, waited := 0.0, false
	if p.flow {
		waiting, waited = p.queue(in, signal, c)
	}
	s.backlog = waiting * in.Service.Seconds()
	out, drain := s.out(r, c)
	term("recent", s.recent, "units", "mean of the last two minutes")
	term("expected", s.center, "units", "the experts' mix, one lead time ahead")
	term(TermForecast, q, "units", "upper quantile of what comes one lead time ahead")
	term(TermQuantile, quantiles[c.quantile], "", "of that forecast")
	term("waiting", waiting, "units", "in the queue now")
	term("drain", drain, "units", "capacity to be rid of the backlog one lead time ahead")
	term("out", float64(out), "replicas", "for the forecast and the queue")
	keep := p.replay.keep(c)
	if !p.flow {
		if last, ok := signal.Last(); ok {
			out = max(out, ceil(last.Value/(r.Units*r.Utilization)))
		}
	}
	term("keep", float64(keep), "replicas", "most that forecasts asked for within the hold time")
	want := out
	if out < in.Count {
		want = min(in.Count, max(out, keep))
		if waited {
			want = in.Count
		}
	}
	d.Count = clamp(want, r)
	term("count", float64(in.Count), "replicas", "wanted until now")
	term("want", float64(d.Count), "replicas", "")
	d.Reason = fmt.Sprintf("want %d: forecast %s", d.Count, number(q))
	return d
}

// queue is the units that wait now, and whether any waited for a good part of
// the allowed time within the hold time: then nothing is let go.
func (p *Planner) queue(in Input, load demand.Series, c candidate) (waiting float64, waited bool) {
	r := p.rules
	recent := in.Queue.Window(in.Now.Add(-max(c.hold, r.StaleAfter)), in.Now)
	if len(recent) == 0 {
		return 0, false
	}
	last := recent[len(recent)-1]
	if in.Now.Sub(last.At) <= r.StaleAfter {
		waiting = last.Value
	}
	for _, v := range recent.Window(in.Now.Add(-c.hold), in.Now) {
		if v.Value*in.Service.Seconds() > waitedPart*r.Wait.Seconds()*max(p.model.Recent(4), r.Units) {
			return waiting, true
		}
	}
	return waiting, false
}

// waitedPart is the share of the allowed wait from which a queue counts as one
// that must be gone before anything is let go.
const waitedPart = 0.25
