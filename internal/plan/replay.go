package plan

import (
	"math"
	"slices"
	"time"

	"github.com/gpupool/gpupool/internal/forecast"
)

// candidate is one way to decide, of those that are tried on the past.
type candidate struct {
	target int // index in targets: what is planned for
	manner
	way   int           // index of manner
	hold  time.Duration // what was surplus for so long goes
	holds int           // index of hold
}

// manner is how a candidate meets more than it planned for.
type manner struct {
	name  string
	drain float64 // a backlog beyond the slack shall be gone within so many times the allowed wait; 0 where what waits is in the demand
	slack float64 // that much of the allowed wait may be in the queue one lead time ahead; below 0 capacity is added before there is one
	rise  float64 // how much of the rise of the last minutes is expected to go on
	keeps bool    // capacity added in this way stays for the hold time too
}

// manners are all of them, from patient to alarmed. Where demand comes in
// bursts, the last two are cheaper than a reserve: what begins to rise mostly
// rises on, and the first minute of it is answered by more than it shows.
var manners = []manner{
	{"patient", 3, 0.9, 0, false},
	{"calm", 1, 0.5, 0, false},
	{"brisk", 1, -0.5, 1, true},
	{"alarmed", 1, -1, 1, true},
}

// drainTime is in what time a backlog shall be gone.
func (c candidate) drainTime(r *Rules) time.Duration {
	return max(time.Duration(c.drain*float64(r.Wait)), r.Interval)
}

// situation is what a decision, in earnest or in replay, rests on.
type situation struct {
	recent, center, target float64 // units: load now, its expected value one lead time ahead, and what is planned for
	rise                   float64 // units: the load of the last minute over that of the last five
	backlog                float64 // unit-seconds that wait now
	ready                  float64 // replicas
	aged                   float64 // replica-seconds that those starting will have served one lead time ahead
}

// out is the replicas that forecast and queue call for, and the units in it
// that drain the backlog.
func (s situation) out(r *Rules, c candidate) (n int, drain float64) {
	need := s.target / r.Utilization
	arrives, may := s.ahead(r, c.manner)
	if work := s.backlog + arrives - r.Units*(s.ready*r.Lead.Seconds()+s.aged) - may; work > 0 && c.drain > 0 {
		drain = work / c.drainTime(r).Seconds()
		need = max(need, s.center+drain)
	}
	return replicas(need, r), drain
}

// ahead is what will arrive within the lead time, and what of it may wait at its
// end, both in unit-seconds.
func (s situation) ahead(r *Rules, m manner) (arrives, may float64) {
	return r.Lead.Seconds() * (s.recent + m.rise*s.rise + s.center) / 2, s.center * r.Wait.Seconds() * m.slack
}

// replicas is how many have so many units, and the spares. A hundredth of one
// starts no other: a forecast has tails, however steady demand is.
func replicas(units float64, r *Rules) int { return ceil(units/r.Units-0.01) + r.Spare }

// replay tries every candidate on the demand that came, in pools that exist in
// arithmetic only, and knows which would have been the cheapest of those that
// kept the promise.
type replay struct {
	rules      Rules
	wait       float64 // the allowed wait, s
	flow       bool    // what is replayed is load, not demand that includes what waits
	targets    []target
	ways       []manner
	holds      []time.Duration
	candidates []candidate
	pools      []pool    // one for each candidate, and one that follows the choices as they are made
	planned    []float64 // units for each target, now
	tape       tape
	all, steps float64 // weighted sums of what was needed, in unit-steps, and of the steps
	k          int
	weight     float64
	grow       float64
	choice     int
	peaks      [peakDays]float64 // largest two-minute mean of each day, units
	still      pool              // one that always has what the largest of them needs
	day        int
	decideEach int
	prior      []float64 // of each candidate: share of a day's work that the prior surge makes late
}

const (
	halfLife = 14 * 24 * time.Hour // of what the replay remembers

	// mostOfBudget is the share of the promised lateness that a candidate may
	// use up in the replay. What is chosen with hindsight does worse in future.
	mostOfBudget = 0.75
	// allowance is what the share that a candidate may use up and the share that
	// the pool which followed the choices did use up are together: the first is
	// cut as soon as the second is beyond 0.65, before the promise is broken.
	allowance = 1.4
	// worthwhile is how much cheaper than the choice so far another must be.
	worthwhile = 0.98
	// bolder is how much cheaper a less cautious candidate must be.
	bolder = 0.99
	// certain is how much cheaper it must be to hold still, where that is so for
	// what the others made late: one jump can make the difference, and is held
	// for two weeks then.
	certain = 0.9
	// peakDays is for how many days the largest demand is remembered.
	peakDays = 14
)

// holds are for how long surplus is kept, to choose from. Each is three times the
// one before, so that one of them is near to what is right. Where bursts come
// one after the other, hours are: two starts of three are saved by them.
var holds = []time.Duration{5 * time.Minute, 15 * time.Minute, 45 * time.Minute, 135 * time.Minute}

// longestHold is beyond how long none goes: where a start is short there is
// little to be saved by hours.
func longestHold(lead time.Duration) time.Duration { return max(30*time.Minute, 27*lead) }

// newReplay returns a replay of candidates that differ in what they plan for, in
// how fast they drain and in how long they hold.
func newReplay(r Rules, holds []time.Duration, flow bool) *replay {
	p := &replay{rules: r, wait: r.Wait.Seconds(), flow: flow, weight: 1, grow: math.Exp2(float64(step) / float64(halfLife)), decideEach: max(int(r.Interval/step), 1)}
	p.holds = holds
	p.targets = targets
	p.ways = manners
	if !flow {
		p.ways = []manner{{name: "as demanded"}}
	}
	if r.RequestCost > 0 { // it says what reserve is worth
		p.targets = []target{newsvendor(r)}
		if flow {
			p.ways = manners[1:2]
		}
		i := (len(p.holds) - 1) / 2 // the usual one
		p.holds = p.holds[i : i+1]
	}
	for q := range p.targets {
		for w, m := range p.ways {
			for h, hold := range p.holds {
				p.candidates = append(p.candidates, candidate{q, m, w, hold, h})
			}
		}
	}
	p.fill()
	for i, c := range p.candidates {
		if len(p.targets) > 1 && c.target == defaultTarget && (c.name == "calm" || !flow) && c.holds == (len(p.holds)-1)/2 {
			p.choice = i
		}
	}
	return p
}

// fill makes the pools of the candidates, and one more.
func (p *replay) fill() {
	p.pools = make([]pool, len(p.candidates)+1)
	lead := steps(p.rules.Lead)
	for i := range p.pools {
		p.pools[i] = newPool(lead, i == len(p.candidates) || p.candidates[i].keeps)
	}
	p.still = newPool(lead, false)
	p.planned = make([]float64, len(p.targets))
	p.tape = newTape(p)
}

// own is the pool that follows the choices as they are made.
func (p *replay) own() *pool { return &p.pools[len(p.candidates)] }

// newsvendor is the quantile at which one more replica costs as much as it
// saves: too few for a lead time make late what the missing would have served
// in half of it, too many stand idle for as long as surplus stays.
func newsvendor(r Rules) target {
	idle := r.ReplicaPrice * max(r.Lead, 15*time.Minute).Hours()
	late := r.RequestCost * r.Units * (r.Lead / 2).Seconds() / r.Service.Seconds()
	q := min(max(late/(late+idle), quantiles[0]), quantiles[len(quantiles)-1])
	i := 0
	for i+2 < len(quantiles) && quantiles[i+1] <= q {
		i++
	}
	t := atQuantile(i, q)
	t.beyond = (q - quantiles[i]) / (quantiles[i+1] - quantiles[i])
	return t
}

// longest is the longest hold time.
func (p *replay) longest() time.Duration { return slices.Max(p.holds) }

// chosen is the candidate to decide by.
func (p *replay) chosen() candidate { return p.candidates[p.choice] }

// keep is the most replicas that the forecast called for within the hold time
// and, where the candidate keeps what it added for more, what w called for.
func (p *replay) keep(w *pool, c candidate) int {
	n := p.tape.calls[c.target].most[c.holds].max()
	if c.keeps {
		n = max(n, w.called[0], w.called[1])
	}
	return n
}

// add replays one step, in which v units were needed, in every pool; m has
// already made its forecast from v.
func (p *replay) add(v float64, m *forecast.Model) {
	s := p.seen(m)
	for i, t := range p.targets {
		p.planned[i] = t.units(s.recent, m)
	}
	p.show(v, s, m.Matured() >= enough)
	p.workOut(p.chosen().target)
	p.play(p.own(), p.chosen(), len(p.tape.load)-1)
	p.peaks[p.day%peakDays] = max(p.peaks[p.day%peakDays], s.recent)
	p.stay(len(p.tape.load) - 1)
	p.k++
	if p.k%steps(day) == 0 {
		p.day++
		p.peaks[p.day%peakDays] = 0
	}
	if p.k%tapeSteps == 0 {
		p.catchUp()
	}
	if p.weight *= p.grow; p.weight > 1e12 {
		p.catchUp()
		p.rescale()
	}
	if p.k%tapeSteps == 0 {
		p.choose()
	}
}

// seen is what the series says about now.
func (p *replay) seen(m *forecast.Model) situation {
	minute := recentSteps / 2
	return situation{recent: m.Recent(recentSteps), center: m.Center(), rise: m.Recent(minute) - m.Recent(5*minute)}
}

// rescale keeps the growing weights within what numbers hold.
func (p *replay) rescale() {
	f := 1 / p.weight
	p.all, p.steps = p.all*f, p.steps*f
	for i := range p.pools {
		p.pools[i].rescale(f)
	}
	p.still.rescale(f)
	p.weight = 1
}

// choose takes the candidate that would have been the cheapest. Candidates
// stand from bold to cautious, by what they plan for; a bolder one must be
// cheaper by a hundredth. This is how Autopilot's recommender chooses among
// models (Rzadca et al., EuroSys 2020): by what each would have cost.
func (p *replay) choose() {
	if p.all == 0 {
		return
	}
	if p.prior == nil {
		p.prior = make([]float64, len(p.candidates))
		if p.flow { // otherwise no manner could meet it
			p.prior = p.surge()
		}
	}
	allowed, daily := p.allowed(), p.daily()
	best := len(p.candidates) - 1
	least := p.cost(best, allowed, daily)
	for i := best - 1; i >= 0; i-- {
		if c := p.cost(i, allowed, daily); c < bolder*least {
			best, least = i, c
		}
	}
	if least < worthwhile*p.cost(p.choice, allowed, daily) {
		p.choice = best
	}
}

// largest is the count that the largest demand of the last days needs.
func (p *replay) largest() int {
	return clamp(ceil(slices.Max(p.peaks[:])/(p.rules.Units*p.rules.Utilization)), &p.rules)
}

// stay plays the pool that holds still over the i-th step of the tape.
func (p *replay) stay(i int) {
	w := &p.still
	w.serve(p, i)
	w.advance(p.k)
	if n := p.largest(); n != w.ready+w.starting {
		w.resize(p.k, n, p.weight)
	}
}

// static is the count that the largest demand of the last days needs, and whether
// it is better to have that always: scaling cannot pay at this lead time then. It
// takes three days to say so. It is better where it would have cost no more than
// what was done. It also is where a pool that had it, as far as it was known at
// each time, would have been cheaper than what was done and than the best of the
// replayed, with the price of what each made late.
func (p *replay) static() (n int, better bool) {
	own := p.own()
	n = p.largest()
	switch late := 1 - p.rules.SLO; {
	case p.day < 3:
		return n, false
	case float64(n)*p.steps <= p.paid(own):
		return n, true
	case p.rules.RequestCost > 0: // it says what lateness costs
		return n, false
	default:
		return n, p.priced(&p.still, 0, late) <= certain*min(p.priced(own, 0, late), p.priced(&p.pools[p.choice], 0, late))
	}
}

// paid is what a pool cost, in replica-steps: the capacity and the wear of its
// starts.
func (p *replay) paid(w *pool) float64 {
	return w.billed + w.starts*p.rules.Wear.Seconds()/step.Seconds()
}

// priced is what a pool cost, in unit-steps, with what was late beyond a share of
// all work, and with more that would have been late.
func (p *replay) priced(w *pool, more, allowed float64) float64 {
	return p.rules.Units*p.paid(w) + p.rules.LateCost*max(w.late+more-allowed*p.all, 0)
}

// cost is what a candidate would have cost, in unit-steps: the capacity it
// would have paid for, the wear of its starts, and what is late beyond the share
// that the promise allows. Without a price on lateness a jump that nobody could
// foresee would make the pool pay for ever for what no capacity could have
// prevented. To what was seen comes what the prior surge would have made late on
// days of so much work.
func (p *replay) cost(i int, allowed, daily float64) float64 {
	surge := max(p.prior[i]-allowed, 0) * daily * priorDays
	return p.priced(&p.pools[i], surge, allowed)
}

// allowed is the share of work that may be late in the replay of a candidate.
// It is less than the promise, and the less the more was late of late in the
// pool that followed the choices as they were made: what looks best afterwards
// is not what was chosen before. A day without lateness is put before the
// first, so that one early burst does not frighten the pool for a week.
func (p *replay) allowed() float64 {
	own := p.own()
	late := 1 - p.rules.SLO
	return late * min(max(allowance-own.late/max(p.all+p.daily(), 1e-9)/late, 0.1), mostOfBudget)
}

// daily is the work of a mean day, weighted like one of now.
func (p *replay) daily() float64 {
	return p.all / max(p.steps, 1e-9) * float64(steps(24*time.Hour)) * p.weight
}
