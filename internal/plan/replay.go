package plan

import (
	"math"
	"time"

	"github.com/gpupool/gpupool/internal/forecast"
)

// candidate is one way to decide, of those that are tried on the past.
type candidate struct {
	quantile int           // index in quantiles: what is planned for
	drain    time.Duration // a backlog shall be gone within
	hold     time.Duration // what was surplus for so long goes
	holds    int           // index of hold
}

// situation is what a decision, in earnest or in replay, rests on.
type situation struct {
	recent, center, quantile float64 // units: load now, its expected value and quantile one lead time ahead
	backlog                  float64 // unit-seconds that wait now
	ready                    float64 // replicas
	aged                     float64 // replica-seconds that those starting will have served one lead time ahead
}

// out is the replicas that forecast and queue call for, and the units in it
// that drain the backlog.
func (s situation) out(r Rules, c candidate) (n int, drain float64) {
	lead := r.Lead.Seconds()
	work := s.backlog + lead*(s.recent+s.center)/2 - r.Units*(s.ready*lead+s.aged)
	if work > 0 {
		drain = work / max(c.drain, r.Interval).Seconds()
	}
	need := max(s.quantile/r.Utilization, s.center+drain)
	if drain == 0 {
		need = s.quantile / r.Utilization
	}
	return ceil(need / r.Units), drain
}

// replay tries every candidate on the demand that came, in pools that exist in
// arithmetic only, and knows which would have been the cheapest of those that
// kept the promise.
type replay struct {
	rules      Rules
	candidates []candidate
	pools      []pool
	base       []int    // replicas for each quantile
	most       []window // of base, for each quantile and hold
	holds      []time.Duration
	k          int
	weight     float64
	grow       float64
	choice     int
	decideEach int
}

// pool is one replayed pool.
type pool struct {
	ready    int
	starting int
	aged     float64 // replica-seconds since their start, of those starting
	due      []int   // ring: replicas that become ready at each step
	backlog  float64 // unit-seconds
	waited   int     // last step at which the queue was long

	late, all, billed, starts float64 // weighted sums
}

const (
	halfLife = 7 * 24 * time.Hour // of what the replay remembers
	safety   = 0.6                // share of the lateness allowed that the replay may use up
)

func newReplay(r Rules) *replay {
	p := &replay{rules: r, weight: 1, grow: math.Exp2(float64(step) / float64(halfLife)), decideEach: max(int(r.Interval/step), 1)}
	p.holds = []time.Duration{r.ScaleInAfter, 2 * r.ScaleInAfter}
	for q := range quantiles {
		for _, drain := range []time.Duration{r.Wait, 3 * r.Wait, max(r.Lead, 6*r.Wait)} {
			for h, hold := range p.holds {
				p.candidates = append(p.candidates, candidate{q, drain, hold, h})
			}
		}
	}
	p.pools = make([]pool, len(p.candidates))
	lead := steps(r.Lead) + 2
	for i := range p.pools {
		p.pools[i].due = make([]int, lead)
		p.pools[i].waited = math.MinInt32
	}
	p.base = make([]int, len(quantiles))
	for range quantiles {
		for _, h := range p.holds {
			p.most = append(p.most, newWindow(steps(h)))
		}
	}
	for i, c := range p.candidates {
		if quantiles[c.quantile] == 0.95 && c.drain == 3*r.Wait && c.holds == 0 {
			p.choice = i
		}
	}
	return p
}

func (p *replay) chosen() candidate { return p.candidates[p.choice] }

// keep is the most replicas that the forecast called for within the hold time.
func (p *replay) keep(c candidate) int { return p.most[c.quantile*len(p.holds)+c.holds].max() }

// add replays one step, in which v units were needed, in every pool; m has
// already made its forecast from v.
func (p *replay) add(v float64, m *forecast.Model) {
	r := p.rules
	for i, q := range m.Quantiles() {
		p.base[i] = clamp(ceil(q/(r.Units*r.Utilization)), r)
		for h := range p.holds {
			p.most[i*len(p.holds)+h].add(p.base[i])
		}
	}
	s := situation{recent: m.Recent(int(2 * time.Minute / step)), center: m.Center()}
	score := m.Matured() >= enough
	for i := range p.pools {
		c, w := p.candidates[i], &p.pools[i]
		if score || w.backlog > 0 {
			w.serve(p, v, score)
		}
		w.advance(p.k)
		if p.k%p.decideEach == 0 {
			s.quantile = m.Quantiles()[c.quantile]
			p.decide(w, c, s)
		}
	}
	p.k++
	if p.weight *= p.grow; p.weight > 1e12 {
		p.rescale()
	}
	if p.k%steps(time.Hour) == 0 {
		p.choose()
	}
}

func (w *pool) serve(p *replay, v float64, score bool) {
	if math.IsNaN(v) {
		return
	}
	r, dt := p.rules, step.Seconds()
	serve := float64(w.ready) * r.Units
	before := w.backlog / max(serve, 1e-9)
	w.backlog = max(w.backlog+(v-serve)*dt, 0)
	after := w.backlog / max(serve, 1e-9)
	if after > waitedPart*r.Wait.Seconds() {
		w.waited = p.k
	}
	if !score {
		return
	}
	w.all += p.weight * v
	w.billed += p.weight * float64(w.ready+w.starting)
	if limit := r.Wait.Seconds(); max(before, after) > limit {
		share := 1.0
		if lo, hi := min(before, after), max(before, after); lo < limit {
			share = (hi - limit) / (hi - lo)
		}
		w.late += p.weight * v * share
	}
}

// advance makes ready what is due.
func (w *pool) advance(k int) {
	if n := w.due[k%len(w.due)]; n > 0 {
		w.due[k%len(w.due)] = 0
		w.ready += n
		w.starting -= n
		w.aged -= float64(n*(len(w.due)-2)) * step.Seconds()
	}
	w.aged += float64(w.starting) * step.Seconds()
}

func (p *replay) decide(w *pool, c candidate, s situation) {
	s.backlog, s.ready, s.aged = w.backlog, float64(w.ready), w.aged
	out, _ := s.out(p.rules, c)
	count := w.ready + w.starting
	want := out
	if out < count {
		want = min(count, max(out, p.keep(c)))
		if p.k-w.waited <= steps(c.hold) {
			want = count
		}
	}
	want = clamp(want, p.rules)
	if n := want - count; n > 0 {
		w.due[(p.k+len(w.due)-1)%len(w.due)] += n
		w.starting += n
		w.starts += p.weight * float64(n)
		return
	}
	// The youngest starts are given up first.
	for back := 1; back < len(w.due) && w.ready+w.starting > want && w.starting > 0; back++ {
		at := (p.k + len(w.due) - back) % len(w.due)
		n := min(w.due[at], w.ready+w.starting-want)
		w.due[at] -= n
		w.starting -= n
		w.aged -= float64(n*(back-1)) * step.Seconds()
	}
	w.ready = min(w.ready, want-w.starting)
}

func (p *replay) rescale() {
	f := 1 / p.weight
	for i := range p.pools {
		w := &p.pools[i]
		w.late, w.all, w.billed, w.starts = w.late*f, w.all*f, w.billed*f, w.starts*f
	}
	p.weight = 1
}

// choose takes the cheapest candidate that would have kept the promise; or
// the one that came closest.
func (p *replay) choose() {
	if p.pools[0].all == 0 {
		return
	}
	allowed := safety * (1 - p.rules.SLO)
	best, least := -1, -1
	for i := range p.pools {
		w := &p.pools[i]
		if least < 0 || w.late < p.pools[least].late {
			least = i
		}
		if w.late <= allowed*w.all && (best < 0 || p.cost(i) < p.cost(best)) {
			best = i
		}
	}
	if best < 0 {
		best = least
	}
	now := &p.pools[p.choice]
	if now.late <= allowed*now.all && p.cost(p.choice) <= 1.005*p.cost(best) {
		return
	}
	p.choice = best
}

// cost is in replica-steps.
func (p *replay) cost(i int) float64 {
	return p.pools[i].billed + p.pools[i].starts*p.rules.Wear.Seconds()/step.Seconds()
}

// window is the largest of the last size values, each in constant time: the
// values that a later and larger one did not yet overtake.
type window struct {
	value, at []int
	head, n   int
	k         int
	size      int
}

func newWindow(size int) window {
	return window{value: make([]int, size+1), at: make([]int, size+1), size: size}
}

func (w *window) add(v int) {
	c := len(w.value)
	for w.n > 0 && w.value[(w.head+w.n-1)%c] <= v {
		w.n--
	}
	w.value[(w.head+w.n)%c], w.at[(w.head+w.n)%c] = v, w.k
	w.n++
	if w.at[w.head] <= w.k-w.size-1 {
		w.head = (w.head + 1) % c
		w.n--
	}
	w.k++
}

func (w *window) max() int {
	if w.n == 0 {
		return 0
	}
	return w.value[w.head]
}
