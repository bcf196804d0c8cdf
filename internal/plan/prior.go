package plan

import (
	"math"
	"time"
)

// A pool that has seen no burst yet knows nothing about bursts, and what is
// cheapest on calm days is what a burst hits hardest. So each candidate is
// judged as if one more day had been seen: one with a surge in it, of the kind
// that every service meets one day. As days come, it counts for less.
const (
	priorDays = 1

	surgeReplicas = 20                           // the load before it
	surgeHeight   = 1                            // at its top the load is so much more, as a share
	surgeSteps    = int(30 * time.Minute / step) // its length
	surgeSpread   = 0.08                         // how far a forecast is off in it, as a share
)

// surge tries each candidate on a load that is steady but for one half wave
// and returns what share of a day's work would have been late.
func (p *replay) surge() []float64 {
	q := &replay{rules: p.rules, wait: p.wait, flow: p.flow, targets: p.targets, ways: p.ways, candidates: p.candidates, holds: p.holds, decideEach: p.decideEach, weight: 1}
	q.rules.Min, q.rules.Max, q.rules.Spare = 0, math.MaxInt32, 0
	q.fill()
	level := surgeReplicas * q.rules.Units
	for i, c := range q.candidates {
		q.pools[i].ready = ceil(surgeReplicas * q.targets[c.target].margin() / q.rules.Utilization)
	}
	before, after := int(30*time.Minute/step), int(2*time.Hour/step)+steps(q.rules.Lead)
	load := make([]float64, before+surgeSteps+after)
	for k := range load {
		load[k] = level
		if at := k - before; at >= 0 && at < surgeSteps {
			load[k] += surgeHeight * level * math.Sin(math.Pi*(float64(at)+0.5)/float64(surgeSteps))
		}
	}
	minute := recentSteps / 2
	for q.k = 10; q.k < len(load); q.k++ {
		now := mean(load[q.k+1-recentSteps : q.k+1])
		s := situation{recent: now, center: now, rise: mean(load[q.k+1-minute:q.k+1]) - mean(load[q.k+1-5*minute:q.k+1])}
		for i, t := range q.targets {
			q.planned[i] = now * t.margin()
		}
		if q.show(load[q.k], s, true); len(q.tape.load) == tapeSteps {
			q.catchUp()
		}
	}
	q.catchUp()
	late := make([]float64, len(q.pools))
	for i := range q.candidates {
		late[i] = q.pools[i].late / (level * float64(steps(day)))
	}
	return late
}

// margin is what the target plans for over the load, in the prior surge: it
// is steady before, so a quantile is as far above it as forecasts mostly are
// off.
func (t target) margin() float64 {
	if t.quantile < 0 {
		return 1 / t.utilization
	}
	return math.Exp(surgeSpread * math.Sqrt2 * math.Erfinv(2*t.probability-1))
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}
