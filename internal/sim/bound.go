package sim

import (
	"math"
	"slices"
	"time"
)

// Bound returns the least GPU-hours that any policy can pay in this world's
// scored part for the given share of requests on time, even one that knows the
// whole trace beforehand.
//
// # The relaxed problem
//
// Time goes in steps of length g, at whose ends alone the world changes its
// number of ready replicas n (g divides the interval between decisions and the
// lead time). Work is measured in replica-steps, in units of an eighth. Each
// choice of n for all steps, and of work to give up, costs
//
//	Σ n  +  (lead/g) · Σ max(0, n − n before)  +  λ · work given up
//
// and must keep the backlog at the end of each step within the work that
// arrived in the last d = ⌈wait/g⌉ steps. Dynamic programming over (n,
// backlog) finds the least cost, D(λ).
//
// # Why no policy does better
//
// Take any policy with the share a of requests late and give up, in the
// relaxed problem, just their work. What is left is served by the same n:
//
//   - Within a step the relaxed problem lets work be served before it arrives,
//     so its backlog at the end of a step is never larger. Late requests need
//     no capacity at all.
//   - A request on time has started, at the end of the step that is d after
//     its own, so what is left at the end of a step has arrived in the last d.
//   - A replica is billed from its start command, at least one lead time (of
//     the jitter, the shortest) before it is ready. For those that become ready
//     sooner than that after the scored part began, only the time since then
//     is charged. Replicas ready at its begin are free to take over.
//     Failed and cancelled starts, drains, empty places on hosts, and requests
//     from before the scored part cost a policy and are left out here.
//   - Units: arrivals, added up, are rounded down to whole units, and so is
//     what is given up. Either moves a backlog, which is a difference of sums,
//     by less than a unit. The limit on the backlog is therefore two units
//     wider than the above; with it every real solution has a counterpart.
//
// So D(λ) ≤ cost of the policy + λ·(late work), for every λ ≥ 0, and
//
//	GPU-hours ≥ D(λ) − λ·(share that may be late)·(all work).
//
// The right side is concave in λ; any λ gives a true bound and the search for
// the best one need not be exact. Where minutes differ in work per request, λ
// is weighted by the least requests per work among those that may wait.
//
// The proof is for the fluid engine. In the requests engine a slot that is
// free takes a request at once, however long it will last, so that a burst can
// be met with less capacity within its first service time; there the figure is
// a yardstick, tight where the service time is short against the wait.
func (w *World) Bound(attainment float64) Bound {
	late := max(1-attainment, 0)
	coarse, fine := newProgram(w, 1), newProgram(w, boundUnits)
	var best float64
	value := func(p *program) func(float64) float64 {
		return func(logLambda float64) float64 {
			lambda := math.Exp(logLambda)
			v := p.solve(lambda) - lambda*late*p.all
			best = max(best, v)
			return v
		}
	}
	if late == 0 {
		value(fine)(math.Log(1e6))
	} else {
		// Coarse units find about where λ is best, in a twelfth of the time.
		at := climb(value(coarse), math.Log(0.05), math.Log(1e5), 9)
		climb(value(fine), at-math.Log(3), at+math.Log(3), 5)
	}
	return Bound{GPUHours: best * boundStep(w.cfg).Hours() * w.cfg.GPUs, Attainment: attainment}
}

// boundUnits is the number of units in a replica-step.
const boundUnits = 8

// climb finds the argument of the largest value of a concave function by
// golden section, with n evaluations.
func climb(f func(float64) float64, lo, hi float64, n int) float64 {
	const g = 0.6180339887498949
	a, b := hi-g*(hi-lo), lo+g*(hi-lo)
	fa, fb := f(a), f(b)
	for range n - 2 {
		if fa >= fb {
			hi, b, fb = b, a, fa
			a = hi - g*(hi-lo)
			fa = f(a)
		} else {
			lo, a, fa = a, b, fb
			b = lo + g*(hi-lo)
			fb = f(b)
		}
	}
	if fa >= fb {
		return a
	}
	return b
}

// boundStep is the step of the bound: all changes of capacity fall on it.
func boundStep(c Config) time.Duration {
	a := c.Interval
	for _, b := range []time.Duration{c.Lead, c.Hosts.Boot} {
		for b > 0 {
			a, b = b, a%b
		}
	}
	return a
}

// program is the dynamic program of one world at one resolution.
type program struct {
	units  int       // in a replica-step
	arrive []int     // units of work of each step
	limit  []int     // units that may be left at the end of each step
	weight []float64 // of λ, for work given up in the step
	top    []int     // most replicas worth having in each step
	min    int
	lead   float64 // steps
	all    float64 // work of the scored part, in replica-steps

	cost, next [][]float64 // by replicas and backlog
}

func newProgram(w *World, units int) *program {
	c := w.cfg
	g := boundStep(c)
	per := ticks(g)
	first := w.scored / per
	if first*per < w.scored {
		first++ // a part of a step is left out
	}
	n := max(len(w.arrivals)/per-first, 1)
	p := &program{units: units, arrive: make([]int, n), limit: make([]int, n), weight: make([]float64, n), top: make([]int, n),
		min: c.Min, lead: shortestLead(c).Seconds() / g.Seconds()}

	work, requests := make([]float64, n+1), make([]float64, n+1) // the last is the rest that is no whole step
	all := 0.0
	for t := w.scored; t < len(w.arrivals); t++ {
		m := n
		if i := t/per - first; i >= 0 && i < n {
			m = i
		}
		v := w.arrivals[t] * w.work[t/ticksPerMinute] / g.Seconds()
		work[m] += v
		requests[m] += w.arrivals[t]
		p.all += v
		all += w.arrivals[t]
	}
	sum, before := 0.0, 0
	for m := range n {
		sum += work[m]
		whole := int(math.Floor(sum*float64(units) + 1e-9))
		p.arrive[m], before = whole-before, whole
	}
	d := int(math.Ceil(c.SLOWait.Seconds()/g.Seconds() - 1e-9))
	p.limits(work[:n], requests[:n], d, all/max(p.all, 1e-12))
	p.tops(c)
	return p
}

// shortestLead is the least time between a start command and a ready replica.
func shortestLead(c Config) time.Duration {
	if c.Jitter == 0 {
		return c.Lead
	}
	step := boundStep(c)
	return time.Duration(math.Ceil(c.Lead.Seconds()/(1+c.Jitter)/step.Seconds())) * step
}

// limits sets how much may be left, and what giving up work is worth.
func (p *program) limits(work, requests []float64, d int, mean float64) {
	for m := range work {
		left, least := 0.0, math.Inf(1)
		for k := max(m-d+1, 0); k <= m; k++ {
			left += work[k]
		}
		for k := max(m-d, 0); k <= m; k++ {
			if work[k] > 0 {
				least = min(least, requests[k]/work[k])
			}
		}
		p.limit[m] = int(math.Floor(left*float64(p.units)+1e-9)) + 2
		p.weight[m] = 1
		if !math.IsInf(least, 1) && mean > 0 {
			p.weight[m] = least / mean
		}
	}
}

// tops bounds the replicas of each step: one that finds nothing to do within a
// lead time before or after is cheaper off, because starting it again costs no
// more than the lead time.
func (p *program) tops(c Config) {
	use := make([]int, len(p.arrive))
	before := p.limitBefore(0)
	for m := range use {
		use[m] = max(min((p.arrive[m]+before+p.units-1)/p.units, c.Max), c.Min)
		before = p.limit[m]
	}
	reach := int(math.Ceil(p.lead)) + 1
	for m := range use {
		p.top[m] = slices.Max(use[max(m-reach, 0):min(m+reach+1, len(use))])
	}
}

func (p *program) limitBefore(m int) int {
	if m == 0 {
		return 0
	}
	return p.limit[m-1]
}

// solve returns D(λ) in replica-steps.
func (p *program) solve(lambda float64) float64 {
	most, wide := slices.Max(p.top), slices.Max(p.limit)+1
	if p.cost == nil {
		p.cost, p.next = grid(most+1, wide), grid(most+1, wide)
	}
	cost, next := p.cost, p.next
	for n := range cost { // any number of replicas is there at the start, and no backlog
		fill(cost[n], math.Inf(1))
		if n >= p.min && n <= p.top[0] {
			cost[n][0] = 0
		}
	}
	wideBefore := 1
	topBefore := p.top[0]
	for m, a := range p.arrive {
		top := p.top[m]
		change(cost, p.min, topBefore, top, wideBefore, min(p.lead, float64(m)))
		wideNow := p.limit[m] + 1
		giveUp := lambda * p.weight[m] / float64(p.units)
		for n := p.min; n <= top; n++ {
			p.serve(next[n][:wideNow], cost[n][:wideBefore], a-n*p.units, float64(n), giveUp)
		}
		cost, next = next, cost
		wideBefore, topBefore = wideNow, top
	}
	best := math.Inf(1)
	for n := p.min; n <= topBefore; n++ {
		best = min(best, slices.Min(cost[n][:wideBefore]))
	}
	return best
}

// change lets the number of replicas go from any to any: down for nothing, up
// for price each.
func change(cost [][]float64, lo, hiBefore, hi, wide int, price float64) {
	for n := hiBefore + 1; n <= hi; n++ {
		fill(cost[n][:wide], math.Inf(1))
	}
	for n := max(hi, hiBefore) - 1; n >= lo; n-- {
		if n >= hiBefore {
			continue
		}
		to, from := cost[n][:wide], cost[n+1][:wide]
		for b, v := range from {
			if v < to[b] {
				to[b] = v
			}
		}
	}
	for n := lo + 1; n <= hi; n++ {
		to, from := cost[n][:wide], cost[n-1][:wide]
		for b, v := range from {
			if v += price; v < to[b] {
				to[b] = v
			}
		}
	}
}

// serve moves the backlog by shift units, down to none, at the price of the
// replicas; what is too much is given up, and what is not may be.
func (p *program) serve(next, cost []float64, shift int, price, giveUp float64) {
	wide := len(next)
	// What would be left over the limit, or lies beyond it, comes down the
	// ladder of giving up, one unit a rung.
	carry := math.Inf(1)
	top := len(cost) - 1 + shift
	if top < 0 { // all is served
		fill(next, math.Inf(1))
		next[0] = slices.Min(cost) + price
		return
	}
	for b := top; b >= wide; b-- {
		carry += giveUp
		if i := b - shift; i >= 0 && cost[i] < carry {
			carry = cost[i]
		}
	}
	for b := min(top, wide-1) + 1; b < wide; b++ {
		next[b] = math.Inf(1)
	}
	for b := min(top, wide-1); b >= 0; b-- {
		carry += giveUp
		if i := b - shift; i >= 0 && cost[i] < carry {
			carry = cost[i]
		}
		next[b] = carry + price
	}
	if shift < 0 { // several backlogs end at none
		for i := range cost[:min(-shift, len(cost))] {
			if v := cost[i] + price; v < next[0] {
				next[0] = v
			}
		}
	}
}

func grid(rows, columns int) [][]float64 {
	all := make([]float64, rows*columns)
	g := make([][]float64, rows)
	for i := range g {
		g[i] = all[i*columns : (i+1)*columns : (i+1)*columns]
	}
	return g
}

func fill(s []float64, v float64) {
	for i := range s {
		s[i] = v
	}
}
