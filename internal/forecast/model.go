// Package forecast says how large demand will be one lead time from now, and
// how sure that is.
//
// A [Model] takes a series in evenly spaced values, one after the other, and
// keeps all that it learns in memory of fixed size. What it forecasts is the
// largest two-minute mean within one interval that begins one lead time ahead:
// what capacity that is ordered now must serve.
//
// Several experts forecast; none of them is right everywhere. They are mixed by
// how well each did lately (Herbster and Warmuth, Tracking the best expert,
// Machine Learning 32, 1998: fixed share). The mix is turned into quantiles by
// how it was wrong before, scaled by how unsteady demand is now, and adaptive
// conformal inference (Gibbs and Candès, NeurIPS 2021) keeps each quantile true
// to its name whatever the series does.
//
// The package is pure: the same values give the same forecasts, everywhere.
package forecast

import (
	"math"
)

// Config is what a model forecasts. All are in steps of the series.
type Config struct {
	Day   int // steps of a day
	Hour  int // steps of an hour
	Ahead int // from the newest value to the end of the first window that counts
	Long  int // how many more steps the windows that count end within
	Every int // distance between the ends of windows that count; at least 1
	Width int // of a window: two minutes

	Quantiles []float64 // ascending, 0 to 1
}

// Model is the experts, their weights and the calibration of their mix. Make
// one with [New].
type Model struct {
	cfg  Config
	past *history

	day, week int // steps since it was the same time of day

	experts []expert
	weight  []float64
	said    ring       // experts' forecasts, waiting for what comes
	seen    []features // that the regression used, as many
	upper   ring       // the quantiles as they were given
	mixed   ring       // {mix, spread}
	learner *regression

	scale  float64 // slow mean, that makes features and losses free of units
	spread float64 // how far the mix is off lately, as a share
	resid  *residuals
	shift  []float64 // the probability asked for in place of each quantile

	center    float64
	quantiles []float64
	ratios    []float64
	asked     []float64
	features  features
	repeats   bool // there was a day before
	matured   int
	alive     int // values that were there
}

// ring holds rows of fixed width for as many steps as forecasts take to mature.
type ring struct {
	rows  []float64
	width int
	steps int
}

func newRing(steps, width int) ring { return ring{make([]float64, steps*width), width, steps} }

func (r *ring) at(i int) []float64 {
	i %= r.steps
	return r.rows[i*r.width : (i+1)*r.width]
}

// expert forecasts the target from the past; k is the index of the newest value.
type expert struct {
	name string
	say  func(m *Model, k int, level float64) float64
}

// experts is every one, in the order of the features that they share.
var experts = []expert{
	{"now", func(m *Model, k int, level float64) float64 { return m.lag(k, m.cfg.Width, level) }},
	{"level", func(m *Model, k int, level float64) float64 { return level }},
	theDay: {"day", func(m *Model, k int, level float64) float64 { return m.seasonal(k, m.day, level) }},
	{"week", func(m *Model, k int, level float64) float64 { return m.seasonal(k, m.week, level) }},
	{"regression", func(m *Model, k int, level float64) float64 {
		v := m.learner.predict(&m.features) * m.scale
		return min(max(v, 0), 4*level+m.scale)
	}},
}

// theDay is which expert goes by the day before.
const theDay = 2

const (
	learningRate  = 0.3   // of the experts' weights, per step and unit of scaled loss
	believed      = 0.5   // share of the day's expert when there is a day before
	share         = 0.002 // of the weights that moves to all experts each step
	conformalRate = 0.004 // of the quantiles' correction, per step
	mostRatio     = 3     // logarithm of the largest quantile over the mix
	recount       = 4     // steps between two looks at the residuals' distribution
)

// New returns a model that has seen nothing.
func New(cfg Config) *Model {
	cfg.Every, cfg.Width = max(cfg.Every, 1), max(cfg.Width, 1)
	cfg.Ahead, cfg.Long = max(cfg.Ahead, 1), max(cfg.Long, 0)
	steps := cfg.Ahead + cfg.Long + 1
	q := len(cfg.Quantiles)
	m := &Model{
		cfg: cfg, past: newHistory(7*cfg.Day + 3*cfg.Hour + steps), day: cfg.Day, week: 7 * cfg.Day, experts: experts,
		said: newRing(steps, len(experts)), seen: make([]features, steps), upper: newRing(steps, q), mixed: newRing(steps, 2),
		learner: newRegression(features{0.5, 0.3, 0.2}, 1, 1-1/(7*float64(cfg.Day))),
		resid:   newResiduals(2 * float64(cfg.Day)), shift: make([]float64, q),
		quantiles: make([]float64, q), ratios: make([]float64, q), asked: make([]float64, q),
	}
	for range experts {
		m.weight = append(m.weight, 1/float64(len(experts)))
	}
	return m
}

// Periods says how many steps ago it was the same time of day yesterday, and a
// week ago, where that is not Day and seven times Day: after the clocks were
// changed. It holds for the next Add on.
func (m *Model) Periods(day, week int) {
	about := func(n, usual int) int { return min(max(n, usual-2*m.cfg.Hour), usual+2*m.cfg.Hour) }
	m.day, m.week = about(day, m.cfg.Day), about(week, 7*m.cfg.Day)
}

// Add takes the next value; NaN is a hole.
func (m *Model) Add(v float64) {
	m.past.add(v)
	k := m.past.n - 1
	if !math.IsNaN(v) {
		m.alive++
		rate := max(1/float64(m.alive), 1/(2*float64(m.cfg.Day)))
		m.scale += rate * (v - m.scale)
	}
	m.mature(k)
	m.forecast(k)
}

// target is the largest mean over a window that counts, for a forecast made at
// value k; ok is false while it has not come.
func (m *Model) target(k int) (v float64, ok bool) {
	for end := k + m.cfg.Ahead; end <= k+m.cfg.Ahead+m.cfg.Long; end += m.cfg.Every {
		if w, there := m.past.mean(end, m.cfg.Width); there {
			v, ok = max(v, w), true
		}
	}
	return v, ok
}

// mature compares the forecast whose time has come with what came.
func (m *Model) mature(k int) {
	made := k - m.cfg.Ahead - m.cfg.Long
	if made < 0 || m.scale <= 0 {
		return
	}
	came, ok := m.target(made)
	mixed, upper := m.mixed.at(made), m.upper.at(made)
	mix, spread := mixed[0], mixed[1]
	if !ok || mix < 0 {
		return
	}
	m.matured++
	// Experts: absolute loss, in units of the demand now.
	unit := max(came, 0.1*m.scale)
	sum := 0.0
	for i, f := range m.said.at(made) {
		m.weight[i] *= math.Exp(-learningRate * min(math.Abs(came-f)/unit, 4))
		sum += m.weight[i]
	}
	for i := range m.weight {
		m.weight[i] = (1-share)*m.weight[i]/sum + share/float64(len(m.weight))
	}
	m.learner.learn(&m.seen[made%len(m.seen)], came/m.scale)

	// The residual, as so many spreads.
	m.resid.add(m.ratio(came, mix) / spread)
	for i, q := range m.cfg.Quantiles {
		miss := 0.0
		if came > upper[i] {
			miss = 1
		}
		m.shift[i] += conformalRate * (miss - (1 - q))
		m.shift[i] = min(max(m.shift[i], -q), 1-q)
	}
	off := math.Abs(m.ratio(came, mix))
	m.spread += (off - m.spread) / min(float64(m.matured), 2*float64(m.cfg.Hour))
}

// ratio is the logarithm of what came over what was forecast, both lifted by a
// little so that an idle pool's first request is not infinitely far off.
func (m *Model) ratio(came, mix float64) float64 {
	lift := 0.02 * m.scale
	return math.Log((came + lift) / (mix + lift))
}

// forecast makes the forecast at value k.
func (m *Model) forecast(k int) {
	said, keep := m.said.at(k), m.mixed.at(k)
	level, ok := m.past.mean(k, 5*m.cfg.Hour/60)
	if !ok {
		if level, ok = m.past.mean(k, m.cfg.Hour); !ok {
			keep[0] = -1
			return
		}
	}
	m.look(k, level)
	m.seen[k%len(m.seen)] = m.features
	if !m.repeats {
		if _, ok := m.repeat(k, m.day); ok {
			m.believe()
		}
	}
	m.center = 0
	for i, e := range m.experts {
		said[i] = e.say(m, k, level)
		m.center += m.weight[i] * said[i]
	}
	spread := max(m.spread, 0.01)
	keep[0], keep[1] = m.center, spread
	for i, q := range m.cfg.Quantiles {
		m.asked[i] = min(max(q+m.shift[i], 0.001), 0.9995)
		if i > 0 {
			m.asked[i] = max(m.asked[i], m.asked[i-1])
		}
	}
	if k%recount == 0 || m.matured < recount {
		m.resid.quantiles(m.asked, m.ratios)
	}
	lift := 0.02 * m.scale
	for i, r := range m.ratios {
		m.quantiles[i] = max((m.center+lift)*math.Exp(min(r*spread, mostRatio))-lift, 0)
	}
	copy(m.upper.at(k), m.quantiles)
}

// look fills the regression's features.
func (m *Model) look(k int, level float64) {
	hour := m.cfg.Hour
	to := k + m.cfg.Ahead
	wide := max(10*hour/60, 1)
	f := &m.features
	f[0] = m.lag(k, m.cfg.Width, level)
	f[1] = level
	f[2] = m.lag(k, 15*hour/60, level)
	f[3] = m.lag(k, hour, level)
	f[4], f[5] = m.then(to+wide/2-m.day, wide, level), m.then(k+wide/2-m.day, wide, level)
	f[6], f[7] = m.then(to+wide/2-m.week, wide, level), m.then(k+wide/2-m.week, wide, level)
	f[8] = m.scale
	for i := range f {
		f[i] /= max(m.scale, 1e-9)
	}
}

// lag is the mean of the newest values, or otherwise what is given.
func (m *Model) lag(k, width int, otherwise float64) float64 {
	if v, ok := m.past.mean(k, max(width, 1)); ok {
		return v
	}
	return otherwise
}

func (m *Model) then(i, width int, otherwise float64) float64 {
	if i < 0 {
		return otherwise
	}
	if v, ok := m.past.mean(i, width); ok {
		return v
	}
	return otherwise
}

// believe gives the day's expert its share, the first time that there is a day to
// go by. Until then it said what the level is and earned what that is worth; and
// after a quiet night, in which all experts are right, nothing would tell it from
// them before the morning is there.
func (m *Model) believe() {
	m.repeats = true
	rest := 1 - m.weight[theDay]
	for i := range m.weight {
		m.weight[i] *= (1 - believed) / rest
	}
	m.weight[theDay] = believed
}

// seasonal is what is said by the period before, or otherwise the level.
func (m *Model) seasonal(k, period int, level float64) float64 {
	if v, ok := m.repeat(k, period); ok {
		return v
	}
	return level
}

// repeat is what came at this time one period ago, times how today compares; ok
// is false where one of them is not there.
func (m *Model) repeat(k, period int) (v float64, ok bool) {
	wide, recent := max(10*m.cfg.Hour/60, 1), m.cfg.Hour/2
	then, ok1 := m.past.mean(k-period, recent)
	today, ok2 := m.past.mean(k, recent)
	at := k + m.cfg.Ahead - period + wide/2
	soon, ok3 := m.past.mean(at, wide)
	if k < period || !ok1 || !ok2 || !ok3 {
		return 0, false
	}
	lift := 0.05 * m.scale
	return soon * min(max((today+lift)/(then+lift), 0.25), 4), true
}

// Center is the mix of the experts, in the units of the series.
func (m *Model) Center() float64 { return m.center }

// Quantiles are the forecast's quantiles at the probabilities of
// [Config.Quantiles]. The slice is valid until the next Add.
func (m *Model) Quantiles() []float64 { return m.quantiles }

// Recent is the mean of the newest steps values.
func (m *Model) Recent(steps int) float64 { return m.lag(m.past.n-1, steps, 0) }

// Matured is the number of forecasts that were compared with what came.
func (m *Model) Matured() int { return m.matured }

// Scale is the slow mean of the series, in its units.
func (m *Model) Scale() float64 { return m.scale }

// Spread is how far the mix was off lately, as a share.
func (m *Model) Spread() float64 { return m.spread }

// Weight is an expert's share in the mix.
type Weight struct {
	Expert   string
	Share    float64
	Forecast float64
}

// Weights are the experts' shares and what each of them says now.
func (m *Model) Weights() []Weight {
	if m.past.n == 0 {
		return nil
	}
	out := make([]Weight, len(m.experts))
	for i, e := range m.experts {
		out[i] = Weight{e.name, m.weight[i], m.said.at(m.past.n - 1)[i]}
	}
	return out
}
