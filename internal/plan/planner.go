package plan

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/forecast"
)

// Planner makes decisions for one pool and keeps what it learned of the series
// between them, which saves reading fifteen days again each minute. All that it
// keeps follows from the series alone: a new Planner that is shown the same
// series decides the same. It is not safe for concurrent use.
type Planner struct {
	// Brief leaves out of predictive decisions the reason and all terms but
	// those that others read: a simulation makes decisions by the thousand, and
	// the words would take longer than the rest of it. All else is the same.
	Brief bool

	rules   Rules
	invalid error
	holds   []time.Duration // to choose from, in the time of a day

	flow   bool         // the signal is Input.Load, not Input.Demand
	last   demand.Point // newest point taken in
	hole   time.Time    // where the newest hole in what was taken in ended
	seen   int          // points taken in
	bucket bucket
	zeros  zeros
	zone   *time.Location // nil for UTC
	mixed  bool           // the signal has short work in it that runs and that waits
	passed lately         // the signal without what waits, where it is mixed
	model  *forecast.Model
	replay *replay

	weights []string // names of the terms for the experts' weights
}

// step is the distance of the values that forecasts are made from, where the
// season is a day.
const step = 30 * time.Second

// day is the length of a day, and the longest season.
const day = 24 * time.Hour

// steps is d in steps, rounded up.
func steps(d time.Duration) int { return int((d + step - 1) / step) }

// quantiles that candidates may plan for.
var quantiles = []float64{0.3, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.995}

// target is the capacity that a candidate plans for when nothing waits.
type target struct {
	quantile    int     // index in quantiles of the forecast; -1 for none
	utilization float64 // of the recent load, where there is no quantile
	probability float64 // of the quantile
	beyond      float64 // share of the way to the next quantile
	words       string  // what is planned for
}

// targets are all of them, from bold to cautious within each kind. The plain
// ones are the rule that needs no forecast: where forecasting does not pay, the
// replay finds that out.
var targets = func() (all []target) {
	for _, u := range []float64{1, 0.9, 0.8, 0.7, 0.6, 0.45, 0.3, 0.2} {
		all = append(all, target{quantile: -1, utilization: u, words: fmt.Sprintf("the load now at %g %% utilization", 100*u)})
	}
	for i, q := range quantiles {
		all = append(all, atQuantile(i, q))
	}
	return all
}()

// atQuantile is the target of that probability, which is at or beyond the i-th
// quantile.
func atQuantile(i int, probability float64) target {
	return target{quantile: i, probability: probability, words: fmt.Sprintf("with probability %.4g no more", probability)}
}

// defaultTarget is planned for until the replay has something to say: the 0.95
// quantile.
const defaultTarget = 13

// units is the target now, when the load is recent.
func (t target) units(recent float64, m *forecast.Model) float64 {
	if t.quantile >= 0 {
		v := m.Quantiles()[t.quantile]
		if t.beyond > 0 {
			v += t.beyond * (m.Quantiles()[t.quantile+1] - v)
		}
		return v
	}
	return recent / t.utilization
}

// NewPlanner returns a planner that has seen nothing.
func NewPlanner(r Rules) *Planner {
	p := &Planner{rules: r.withDefaults(), invalid: r.Validate()}
	if p.invalid == nil {
		p.invalid = p.rules.Validate()
	}
	for _, hold := range holds {
		hold = p.rules.stretched(min(hold, p.rules.Season/8, longestHold(p.rules.Lead)))
		if n := len(p.holds); n == 0 || hold > p.holds[n-1] {
			p.holds = append(p.holds, hold)
		}
	}
	if r.ScaleInAfter > 0 { // the operator chose
		p.holds = []time.Duration{p.rules.stretched(min(r.ScaleInAfter, p.rules.Season))}
	}
	if p.invalid == nil && r.Zone != "" && p.rules.Season == day {
		p.zone, p.invalid = location(r.Zone)
	}
	p.reset()
	return p
}

// reset forgets everything.
func (p *Planner) reset() {
	r := p.rules
	p.last, p.hole, p.seen, p.bucket, p.zeros, p.passed = demand.Point{}, time.Time{}, 0, bucket{}, zeros{}, lately{}
	if p.invalid != nil || p.far() {
		return
	}
	r = r.onDays()
	minute := int(time.Minute / step)
	p.model = forecast.New(forecast.Config{
		Day: int(24 * time.Hour / step), Hour: int(time.Hour / step),
		Ahead: steps(r.Lead) + steps(min(r.Interval, time.Minute)) + 1,
		Long:  steps(max(r.Interval-time.Minute, 0)), Every: minute, Width: 2 * minute,
		Quantiles: quantiles,
	})
	p.replay = newReplay(r, p.holds, p.flow)
}

// far says whether the lead time, or the time between decisions, is beyond what
// is forecast.
func (p *Planner) far() bool {
	return p.rules.Lead > p.rules.Season || p.rules.Interval > p.rules.Season
}

// location is the zone of that name.
func location(name string) (*time.Location, error) {
	z, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("time zone: %w", err)
	}
	return z, nil
}

// Decide answers how many replicas are needed now, like the function of the
// same name. The series of in may begin later than those of the call before;
// where they tell the past otherwise, the planner begins anew.
func (p *Planner) Decide(in Input) Decision {
	r := in.within(p.rules)
	if p.invalid != nil {
		return simple(in, r)
	}
	if p.far() {
		d := simple(in, r)
		d.Reason += "; nothing is forecast more than " + r.cycle() + " ahead"
		return d
	}
	flow := len(in.Load) > 0 && in.Service > 0
	signal := in.Demand
	if flow {
		signal = in.Load
	}
	p.mixed = !flow && r.Service > 0
	if why := stale(signal, in.Now, r); why != "" {
		return hold(in, r, why)
	}
	if p.mixed {
		in.Service, in.Queue = r.Service, waiting(signal, in, r.Of(p.replay.longest()), r)
		flow = true
	}
	p.take(signal.Window(time.Time{}, in.Now), flow)
	switch {
	case p.zeros.doubted():
		return hold(in, r, p.zeros.why(r))
	case p.model.Matured() < enough:
		d := simple(in, r)
		d.Reason += "; too little history for a forecast yet"
		return d
	case !flow && capped(signal, in, r):
		r.Utilization *= cappedRoom
		d := simple(in, r)
		d.Reason += "; demand lies flat at what can be served, which looks like a limit of what is measured: measure what waits too"
		return d
	}
	return p.predict(in, signal, r)
}

// enough is the number of forecasts that must have matured before one is
// believed: three hours.
const enough = int(3 * time.Hour / step)

// take feeds what is new in the series to the model and the replay.
func (p *Planner) take(s demand.Series, flow bool) {
	news := s
	if p.seen > 0 && flow == p.flow {
		news = s.Window(p.last.At, s[len(s)-1].At)
		if known, _ := s[:len(s)-len(news)].Last(); known != p.last {
			p.reset()
			news = s
		}
	}
	if flow != p.flow {
		p.flow = flow
		p.reset()
	}
	for _, v := range news {
		p.bucket.add(v, p.rules, p.value)
		if p.seen > 0 && v.At.Sub(p.last.At) > p.rules.StaleAfter {
			p.hole = v.At
		}
		p.last = v
		p.seen++
	}
}

// value takes in the next value of the evenly spaced series.
func (p *Planner) value(v float64) {
	if p.zone != nil {
		p.model.Periods(p.period(day), p.period(7*day))
	}
	v = p.zeros.see(v, p.model)
	if p.mixed {
		v = p.passed.pass(v, p.rules.Units)
	}
	p.model.Add(v)
	p.replay.add(v, p.model)
}

// period is how long ago it was the same time of day, about so long ago, in
// steps.
func (p *Planner) period(about time.Duration) int {
	now := p.bucket.end.In(p.zone)
	_, is := now.Zone()
	_, was := now.Add(-about).Zone()
	return int((about - time.Duration(is-was)*time.Second) / step)
}

// bucket turns samples into values at even distances.
type bucket struct {
	end  time.Time // of the bucket being filled
	sum  float64
	n    int
	last float64
}

// mostUnits bounds a sample, so that no sum leaves what numbers hold.
const mostUnits = 1e12

// longestHole bounds the work that one sample can make.
const longestHole = 60 * 24 * time.Hour

// add takes in one sample and passes on each value that it finishes. A bucket
// that no sample fell in repeats the one before, unless nothing came for
// longer than StaleAfter: then it is a hole.
func (b *bucket) add(v demand.Point, r Rules, pass func(float64)) {
	step := r.Of(step)
	if b.end.IsZero() || v.At.Sub(b.end) > r.Of(longestHole) {
		*b = bucket{end: v.At.Truncate(step).Add(step)}
		if v.At.Equal(v.At.Truncate(step)) {
			b.end = v.At
		}
	}
	missing := int((v.At.Sub(b.end) + step - 1) / step)
	for range missing {
		switch {
		case b.n > 0:
			b.flush(pass)
		case time.Duration(missing)*step > r.StaleAfter:
			pass(math.NaN())
		default:
			pass(b.last)
		}
		b.end = b.end.Add(step)
	}
	b.sum += min(v.Value, mostUnits)
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

// predict is the decision with a forecast; r is the rules as they are now.
func (p *Planner) predict(in Input, signal demand.Series, r Rules) Decision {
	m, c := p.model, p.replay.chosen()
	c.hold = r.Of(c.hold)
	s := p.replay.seen(m)
	s.target = p.replay.targets[c.target].units(s.recent, m)
	age := 0.0
	for _, at := range in.Starting {
		age += max(r.Lead.Seconds()-max(at.Sub(in.Now).Seconds(), 0), 0)
	}
	s.aged = age
	s.ready = float64(max(in.Count-len(in.Starting), 0))
	waiting := 0.0
	if p.flow {
		waiting = p.queue(in)
	}
	s.backlog = waiting * in.Service.Seconds()
	out, drain := s.out(&r, c)
	if !p.flow { // work that holds its unit until it ends needs one of its own
		if last, ok := signal.Last(); ok {
			out = max(out, ceil(last.Value/(r.Units*r.Utilization))+r.Spare)
		}
	}
	keep := p.replay.keep(p.replay.own(), c)
	want, rule, why := out, RulePredictive, ""
	if out < in.Count {
		want = min(in.Count, max(out, keep))
		if why = p.whyKeep(in, signal, c); why != "" {
			want = in.Count
		}
	}
	if n, better := p.replay.static(); better && want <= n {
		want, rule = n, RuleStatic
	}
	d := Decision{Count: bounded(want, in, r), Rule: rule}
	if p.Brief {
		d.Terms = p.forecastTerms(s, c)
		return d
	}
	d.Terms = p.terms(s, c, waiting, drain)
	d.Terms = append(d.Terms,
		Term{"out", float64(out), "replicas", "for the forecast and the queue"},
		Term{"keep", float64(keep), "replicas", "most that forecasts asked for in the last " + short(c.hold)},
		Term{"count", float64(in.Count), "replicas", "wanted until now"},
		Term{"want", float64(d.Count), "replicas", ""})
	d.Reason = p.sentence(in, r, d, s, c, want, out, keep, drain, why)
	return d
}

// recentSteps is the two minutes over which the load now is averaged.
const recentSteps = int(2 * time.Minute / step)

// terms are the numbers that the forecast and the replay put in.
func (p *Planner) terms(s situation, c candidate, waiting, drain float64) []Term {
	own := p.replay.own()
	weights := p.model.Weights()
	terms := make([]Term, 0, 14+len(weights))
	terms = append(terms,
		Term{"recent", s.recent, "units", "mean of the last " + p.rules.recently()},
		Term{"expected", s.center, "units", "the experts' mix, one lead time ahead"})
	terms = append(terms, p.forecastTerms(s, c)...)
	terms = append(terms, []Term{
		{"target", s.target, "units", p.replay.targets[c.target].words},
		{"waiting", waiting, "units", "in the queue now"},
		{"drain", drain, "units", "capacity to be rid of the backlog one lead time ahead"},
		{"drain_time", c.drainTime(&p.rules).Seconds(), "s", "in which it shall be gone"},
		{"hold", c.hold.Seconds(), "s", "how long surplus stays"},
		{"replayed_late", own.late / max(p.replay.all, 1e-9), "", "share that was late in the replay"},
	}...)
	for i, w := range weights {
		if i == len(p.weights) {
			p.weights = append(p.weights, "weight_"+w.Expert)
		}
		terms = append(terms, Term{p.weights[i], w.Share, "", "of the expert in the mix"})
	}
	return terms
}

// forecastTerms are the terms that others read.
func (p *Planner) forecastTerms(s situation, c candidate) []Term {
	q := p.replay.targets[c.target]
	if q.quantile < 0 {
		q = targets[defaultTarget]
	}
	return []Term{
		{TermForecast, q.units(s.recent, p.model), "units", "upper quantile one lead time ahead"},
		{TermQuantile, q.probability, "", "of that forecast"},
	}
}

// whyKeep says why nothing may be let go now; "" when it may.
func (p *Planner) whyKeep(in Input, signal demand.Series, c candidate) string {
	r := p.rules
	r.ScaleInAfter = c.hold
	// Most of the time all of the hold time is known, and that is told by two
	// looks instead of one at each sample.
	if from := in.Now.Add(-c.hold); signal[0].At.After(from) || p.hole.After(from) {
		past := signal.Window(in.Now.Add(-r.ScaleInAfter-r.StaleAfter-r.Smooth), in.Now)
		if why := unknown(past, in.Now, r); why != "" {
			return why
		}
	}
	if p.flow && p.waited(in, c) {
		return fmt.Sprintf("work waited within the last %s", short(c.hold))
	}
	return ""
}

// sentence says what was decided in words that need no legend.
func (p *Planner) sentence(in Input, r Rules, d Decision, s situation, c candidate, want, out, keep int, drain float64, why string) string {
	queue := ""
	if drain > 0 {
		queue = " and " + number(drain) + " to drain the queue"
	}
	need := number(s.target) + " will be needed in " + short(r.Lead) + " (" + p.replay.targets[c.target].words + ")" + queue + " of " + number(r.Units*r.Utilization) + " a replica"
	var text string
	switch {
	case d.Rule == RuleStatic:
		text = fmt.Sprintf("holding %d: demand cannot be followed at a lead time of %s, scaling would cost as much as this always being on", d.Count, short(r.Lead))
	case d.Count > in.Count:
		text = fmt.Sprintf("scaling out from %d to %d: %s", in.Count, d.Count, need)
	case d.Count < in.Count:
		text = fmt.Sprintf("scaling in from %d to %d: %s, no more was foreseen in the last %s", in.Count, d.Count, need, short(c.hold))
	case out < d.Count && why != "":
		text = fmt.Sprintf("keeping %d though %d would do: %s", d.Count, out, why)
	case out < d.Count && keep >= d.Count:
		text = "keeping " + strconv.Itoa(d.Count) + ": " + need + ", more was foreseen in the last " + short(c.hold)
	default:
		text = "keeping " + strconv.Itoa(d.Count) + ": " + need
	}
	return text + limits(in, r, d.Count, want)
}

// queue is the units that wait now; 0 where that is not known.
func (p *Planner) queue(in Input) float64 {
	last, _ := in.Queue.Window(in.Now.Add(-p.rules.StaleAfter-1), in.Now).Last()
	return last.Value
}

// waited says whether any waited for a good part of the allowed time within the
// hold time: then nothing is let go.
func (p *Planner) waited(in Input, c candidate) bool {
	r := p.rules
	long := waitedPart * r.Wait.Seconds() * max(p.model.Recent(recentSteps), r.Units)
	service := in.Service.Seconds()
	for _, v := range in.Queue.Window(in.Now.Add(-c.hold), in.Now) {
		if v.Value*service > long {
			return true
		}
	}
	return false
}

// waitedPart is the share of the allowed wait from which a queue counts as one
// that must be gone before anything is let go.
const waitedPart = 0.25
