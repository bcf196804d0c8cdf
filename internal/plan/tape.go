package plan

import (
	"math"
	"time"
)

// tape is what the replayed pools are shown: all that is the same for several
// of them. Each pool is played over an hour of it at once, and then the next
// one, which is faster than a step of every pool after a step of every pool:
// what a pool does is much what it did the step before.
type tape struct {
	first  int       // step that the tape begins with
	load   []float64 // units needed in each step; NaN in a hole
	weight []float64
	scored []bool
	turn   []int // of each step: index of its decision, or -1

	turns   int         // decisions on the tape
	center  []float64   // of each decision: [situation.center]
	arrives [][]float64 // of each manner and decision: [situation.ahead]
	may     [][]float64
	need    [][]float64 // of each target and decision: units for it
	out     [][]int     // replicas for that
	keep    [][]int     // of each target and hold, and decision: most of these within the hold time
}

// stepSeconds is the length of a step, s.
const stepSeconds = float64(step) / float64(time.Second)

// tapeSteps is how many steps a tape has, and how often a candidate is chosen.
const tapeSteps = int(time.Hour / step)

func newTape(p *replay) tape {
	turns := tapeSteps/p.decideEach + 1
	t := tape{
		load: make([]float64, 0, tapeSteps), weight: make([]float64, 0, tapeSteps), scored: make([]bool, 0, tapeSteps), turn: make([]int, 0, tapeSteps),
		center: make([]float64, turns), arrives: rows[float64](len(p.ways), turns), may: rows[float64](len(p.ways), turns),
		need: rows[float64](len(p.targets), turns), out: rows[int](len(p.targets), turns), keep: rows[int](len(p.targets)*len(p.holds), turns),
	}
	return t
}

func rows[T any](n, long int) [][]T {
	all := make([][]T, n)
	for i := range all {
		all[i] = make([]T, long)
	}
	return all
}

// show puts one step on the tape, in which v units were needed: p.planned is
// what the targets are then.
func (p *replay) show(v float64, s situation, score bool) {
	t, turn := &p.tape, -1
	if len(t.load) == 0 {
		t.first = p.k
	}
	if p.k%p.decideEach == 0 {
		turn = t.turns
		t.turns++
		t.center[turn] = s.center
		for i, m := range p.ways {
			t.arrives[i][turn], t.may[i][turn] = s.ahead(p.rules, m)
		}
	}
	r := &p.rules
	for i, units := range p.planned {
		need := units / r.Utilization
		out := replicas(need, r)
		p.most[i].add(max(min(out, r.Max), r.Min))
		if turn < 0 {
			continue
		}
		t.need[i][turn], t.out[i][turn] = need, out
		for h := range p.holds {
			t.keep[i*len(p.holds)+h][turn] = p.most[i].max(h)
		}
	}
	t.load, t.weight = append(t.load, v), append(t.weight, p.weight)
	t.scored, t.turn = append(t.scored, score), append(t.turn, turn)
	if score && !math.IsNaN(v) {
		p.all += p.weight * v
		p.steps += p.weight
	}
}

// catchUp plays every candidate's pool to the end of the tape and begins
// another.
func (p *replay) catchUp() {
	for i, c := range p.candidates {
		p.play(&p.pools[i], c, 0)
	}
	t := &p.tape
	t.turns = 0
	t.load, t.weight, t.scored, t.turn = t.load[:0], t.weight[:0], t.scored[:0], t.turn[:0]
}

// pool is one replayed pool.
type pool struct {
	ready    int
	starting int
	aged     float64 // replica-seconds since their start, of those starting
	due      []int   // ring: replicas that become ready at each step
	delay    int     // steps from the decision to the one that a replica is ready at
	backlog  float64 // unit-seconds
	waited   int     // last step at which the queue was long

	// called is the most replicas called for in this part of the hold time
	// and in the one before, which begin anew at every two thirds of it.
	called [2]int
	since  int // step at which this part began

	late, billed, starts float64 // weighted sums
}

func newPool(lead int) pool {
	return pool{due: make([]int, ring(lead+2)), delay: lead + 1, waited: math.MinInt32}
}

// play lets candidate c run pool w over the tape, from its i-th step on.
func (p *replay) play(w *pool, c candidate, i int) {
	d := p.decider(c)
	load, first := p.tape.load, p.tape.first
	n := len(load)
	weight, scored, turns := p.tape.weight[:n], p.tape.scored[:n], p.tape.turn[:n]
	serves, count := p.capacity(w)
	d.look(w)
	for ; i < n; i++ {
		if !(load[i] <= serves) || w.backlog > 0 {
			w.serve(p, i)
		} else if scored[i] { // all is served as it comes
			w.billed += weight[i] * count
		}
		if w.starting > 0 {
			w.advance(first + i)
			serves, count = p.capacity(w)
			d.look(w)
		}
		if turn := turns[i]; turn >= 0 && d.decide(w, first+i, turn, weight[i]) {
			serves, count = p.capacity(w)
			d.look(w)
		}
	}
}

// capacity is the units that a pool serves without a queue, and the replicas
// that are paid for.
func (p *replay) capacity(w *pool) (units, replicas float64) {
	units = float64(w.ready) * p.rules.Units
	if p.rules.Wait < 0 { // all is late
		units = -1
	}
	return units, float64(w.ready + w.starting)
}

// serve takes the load of a step and, where it is scored, notes what was late
// and what is paid for. What arrives waits as long as the queue before it
// takes: Little's law on a queue served first in, first out.
func (w *pool) serve(p *replay, i int) {
	r, v, score := &p.rules, p.tape.load[i], p.tape.scored[i]
	if math.IsNaN(v) || !score && w.backlog <= 0 {
		return
	}
	serve := float64(w.ready) * r.Units
	before := w.backlog / max(serve, 1e-9)
	w.backlog = max(w.backlog+(v-serve)*stepSeconds, 0)
	if !p.flow && v <= serve { // v includes what waits: all of it has its unit
		w.backlog = 0
	}
	after := w.backlog / max(serve, 1e-9)
	if after > waitedPart*r.Wait.Seconds() {
		w.waited = p.tape.first + i
	}
	if !score {
		return
	}
	weight := p.tape.weight[i]
	w.billed += weight * float64(w.ready+w.starting)
	if limit := r.Wait.Seconds(); max(before, after) > limit {
		share := 1.0
		if lo, hi := min(before, after), max(before, after); lo < limit {
			share = (hi - limit) / (hi - lo)
		}
		w.late += weight * v * share
	}
}

// advance makes ready what is due at step k.
func (w *pool) advance(k int) {
	at := k & (len(w.due) - 1)
	if n := w.due[at]; n > 0 {
		w.due[at] = 0
		w.ready += n
		w.starting -= n
		w.aged -= float64(n*(w.delay-1)) * stepSeconds
	}
	w.aged += float64(w.starting) * stepSeconds
}

// decider is a candidate as it decides, with what does not change on a tape at
// hand.
type decider struct {
	rules           *Rules
	units           float64
	lead            float64 // s
	drain           float64 // time in which a backlog shall be gone, s; 0 where none is looked at
	hold, part      int     // steps
	keeps           bool
	count           int     // replicas of the pool
	served          float64 // unit-seconds that they work off within the lead time
	center          []float64
	arrives, may    []float64
	need            []float64
	out, keep       []int
	least, greatest int
}

func (p *replay) decider(c candidate) decider {
	t, r := &p.tape, &p.rules
	d := decider{
		rules: r, units: r.Units, lead: r.Lead.Seconds(), hold: steps(c.hold), part: steps(c.hold) * 2 / 3, keeps: c.keeps,
		center: t.center, arrives: t.arrives[c.way], may: t.may[c.way], need: t.need[c.target], out: t.out[c.target],
		keep: t.keep[c.target*len(p.holds)+c.holds], least: r.Min, greatest: r.Max,
	}
	if c.drain > 0 {
		d.drain = c.drainTime(*r).Seconds()
	}
	return d
}

// look takes in what the pool has.
func (d *decider) look(w *pool) {
	d.count = w.ready + w.starting
	d.served = d.units * (float64(w.ready)*d.lead + w.aged)
}

// decide starts and stops replicas of a pool at step k, as the decision in
// earnest does, and says whether it did.
func (d *decider) decide(w *pool, k, turn int, weight float64) bool {
	out, count := d.out[turn], d.count
	if work := w.backlog + d.arrives[turn] - d.served - d.may[turn]; work > 0 && d.drain > 0 {
		if need := d.center[turn] + work/d.drain; need > d.need[turn] {
			out = replicas(need, d.rules)
		}
	}
	if k-w.since >= d.part {
		w.called[1], w.called[0], w.since = w.called[0], 0, k
	}
	if out > w.called[0] {
		w.called[0] = out
	}
	want := out
	if out < count {
		keep := d.keep[turn]
		if d.keeps {
			keep = max(keep, w.called[0], w.called[1])
		}
		want = min(count, max(out, keep))
		if k-w.waited <= d.hold {
			want = count
		}
	}
	if want = max(min(want, d.greatest), d.least); want == count {
		return false
	}
	w.resize(k, want, weight)
	return true
}

// resize starts or stops replicas until as many as are wanted are ready or
// start.
func (w *pool) resize(k, want int, weight float64) {
	mask := len(w.due) - 1
	if n := want - w.ready - w.starting; n > 0 {
		w.due[(k+w.delay)&mask] += n
		w.starting += n
		w.starts += weight * float64(n)
		return
	}
	// The youngest starts are given up first.
	for age := 0; age < w.delay && w.ready+w.starting > want && w.starting > 0; age++ {
		at := (k + w.delay - age) & mask
		n := min(w.due[at], w.ready+w.starting-want)
		w.due[at] -= n
		w.starting -= n
		w.aged -= float64(n*age) * stepSeconds
	}
	w.ready = min(w.ready, want-w.starting)
}
