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
	first   int       // step that the tape begins with
	load    []float64 // units needed in each step; NaN in a hole
	highest []float64 // of each step: the largest load from it to the end, once the tape is full
	weight  []float64
	bill    []float64 // of each step: its weight where it is scored, 0 otherwise
	turn    []int     // of each step: how many decisions come before it

	at      []int       // the steps that have a decision, ascending
	center  []float64   // of each of these: [situation.center]
	arrives [][]float64 // of each manner and each of these: [situation.ahead]
	may     [][]float64
	calls   []calls // of each target
}

// calls is what one target calls for over the tape. It is worked out up to where
// it is asked for, which is the whole tape at once for all targets but the one
// that is decided by.
type calls struct {
	planned []float64 // units, in each step
	known   int       // steps, from the first on, that the rest is known of
	need    []float64 // units, at the utilization asked for
	out     []int     // replicas for these
	within  []int     // the same within min and max
	keep    [][]int   // of each hold time and step: the most of them within it
	most    []window  // of each hold time
}

// stepSeconds is the length of a step, s.
const stepSeconds = float64(step) / float64(time.Second)

// tapeSteps is how many steps a tape has, and how often a candidate is chosen.
const tapeSteps = int(time.Hour / step)

func newTape(p *replay) tape {
	t := tape{
		load: make([]float64, 0, tapeSteps), highest: make([]float64, 0, tapeSteps), weight: make([]float64, 0, tapeSteps),
		bill: make([]float64, 0, tapeSteps), turn: make([]int, 0, tapeSteps), at: make([]int, 0, tapeSteps),
		center: make([]float64, tapeSteps), arrives: rows[float64](len(p.ways)), may: rows[float64](len(p.ways)),
		calls: make([]calls, len(p.targets)),
	}
	for i := range t.calls {
		t.calls[i] = calls{
			planned: make([]float64, 0, tapeSteps), need: make([]float64, tapeSteps),
			out: make([]int, tapeSteps), within: make([]int, tapeSteps), keep: rows[int](len(p.holds)),
		}
		for _, hold := range p.holds {
			t.calls[i].most = append(t.calls[i].most, newWindow(hold))
		}
	}
	return t
}

func rows[T any](n int) [][]T {
	all := make([][]T, n)
	for i := range all {
		all[i] = make([]T, tapeSteps)
	}
	return all
}

// show puts one step on the tape, in which v units were needed: p.planned is
// what the targets are then.
func (p *replay) show(v float64, s situation, score bool) {
	t, bill := &p.tape, 0.0
	if len(t.load) == 0 {
		t.first = p.k
	}
	if score && !math.IsNaN(v) {
		bill = p.weight
		p.all += p.weight * v
		p.steps += p.weight
	}
	t.turn = append(t.turn, len(t.at))
	if p.k%p.decideEach == 0 {
		p.showDecision(s)
	}
	for i, units := range p.planned {
		t.calls[i].planned = append(t.calls[i].planned, units)
	}
	t.load, t.highest = append(t.load, v), append(t.highest, v)
	t.weight, t.bill = append(t.weight, p.weight), append(t.bill, bill)
}

// showDecision puts on the tape that the next step has a decision.
func (p *replay) showDecision(s situation) {
	t, at := &p.tape, len(p.tape.load)
	t.at = append(t.at, at)
	t.center[at] = s.center
	for i, m := range p.ways {
		t.arrives[i][at], t.may[i][at] = s.ahead(&p.rules, m)
		if m.drain == 0 { // what waits is in the demand
			t.arrives[i][at] = math.Inf(-1)
		}
	}
}

// workOut brings what a target calls for up to the end of the tape.
func (p *replay) workOut(target int) {
	r, c := &p.rules, &p.tape.calls[target]
	from, to := c.known, len(c.planned)
	for i := from; i < to; i++ {
		c.need[i] = c.planned[i] / r.Utilization
		c.out[i] = replicas(c.need[i], r)
		c.within[i] = clamp(c.out[i], r)
	}
	for h := range c.most {
		c.most[h].slide(c.within[from:to], c.keep[h][from:to])
	}
	c.known = to
}

// decides says whether the i-th step has a decision.
func (t *tape) decides(i int) bool {
	turn := t.turn[i]
	return turn < len(t.at) && t.at[turn] == i
}

// catchUp plays every candidate's pool to the end of the tape and begins
// another.
func (p *replay) catchUp() {
	t := &p.tape
	for i := len(t.load) - 2; i >= 0; i-- {
		if !(t.highest[i] >= t.highest[i+1]) { // a hole is none
			t.highest[i] = t.highest[i+1]
		}
	}
	for i := range p.targets {
		p.workOut(i)
	}
	for i, c := range p.candidates {
		p.play(&p.pools[i], c, 0)
	}
	t.load, t.highest, t.weight, t.bill = t.load[:0], t.highest[:0], t.weight[:0], t.bill[:0]
	t.turn, t.at = t.turn[:0], t.at[:0]
	for i := range t.calls {
		t.calls[i].planned, t.calls[i].known = t.calls[i].planned[:0], 0
	}
}

// pool is one replayed pool.
type pool struct {
	ready    int
	starting int
	aged     int     // replica-steps since their start, of those starting
	due      []int   // ring: replicas that become ready at each step
	delay    int     // steps from the decision to the one that a replica is ready at
	backlog  float64 // unit-seconds
	waited   int     // last step at which the queue was long

	// called is the most replicas called for in this part of the hold time
	// and in the one before, which begin anew at every two thirds of it.
	called [2]int
	since  int  // step at which this part began
	notes  bool // what is called for; otherwise there is nobody who asks

	late, billed, starts float64 // weighted sums
}

func newPool(lead int, notes bool) pool {
	return pool{due: make([]int, ring(lead+2)), delay: lead + 1, waited: math.MinInt32, notes: notes}
}

// rescale makes the weights of what it sums smaller by f.
func (w *pool) rescale(f float64) {
	w.late, w.billed, w.starts = w.late*f, w.billed*f, w.starts*f
}

// play lets candidate c run pool w over the tape, from its i-th step on.
func (p *replay) play(w *pool, c candidate, i int) {
	d := p.decider(c)
	for i = d.rest(w, i); i < len(d.load); i = d.rest(w, i+1) {
		w.serve(p, i)
		w.advance(d.first + i)
		if d.decides(i) {
			d.decide(w, i)
		}
	}
}

// serves is the units that a pool serves without a queue.
func (w *pool) serves(r *Rules) float64 {
	if r.Wait < 0 { // all is late
		return -1
	}
	return float64(w.ready) * r.Units
}

// serve takes the load of a step and, where it is scored, notes what was late
// and what is paid for. What arrives waits as long as the queue before it
// takes: Little's law on a queue served first in, first out.
func (w *pool) serve(p *replay, i int) {
	v, bill := p.tape.load[i], p.tape.bill[i]
	if math.IsNaN(v) || bill == 0 && w.backlog <= 0 {
		return
	}
	if w.backlog <= 0 && v <= w.serves(&p.rules) { // all is served as it comes
		w.billed += bill * float64(w.ready+w.starting)
		return
	}
	serve := float64(w.ready) * p.rules.Units
	before := w.backlog / max(serve, 1e-9)
	w.backlog = max(w.backlog+(v-serve)*stepSeconds, 0)
	if !p.flow && v <= serve { // v includes what waits: all of it has its unit
		w.backlog = 0
	}
	after := w.backlog / max(serve, 1e-9)
	if after > waitedPart*p.wait {
		w.waited = p.tape.first + i
	}
	w.billed += bill * float64(w.ready+w.starting)
	if max(before, after) > p.wait {
		share := 1.0
		if lo, hi := min(before, after), max(before, after); lo < p.wait {
			share = (hi - p.wait) / (hi - lo)
		}
		w.late += bill * v * share
	}
}

// advance makes ready what is due at step k.
func (w *pool) advance(k int) {
	at := k & (len(w.due) - 1)
	if n := w.due[at]; n > 0 {
		w.due[at] = 0
		w.ready += n
		w.starting -= n
		w.aged -= n * (w.delay - 1)
	}
	w.aged += w.starting
}

// untilDue is how many steps from step k on no start becomes ready, where any
// does.
func (w *pool) untilDue(k int) int {
	for i := range w.due {
		if w.due[(k+i)&(len(w.due)-1)] > 0 {
			return i
		}
	}
	return len(w.due)
}

// decider is a candidate as it decides, with what it looks at on the tape.
type decider struct {
	*tape
	rules        *Rules
	lead         float64 // s
	drain        float64 // time in which a backlog shall be gone, s; 0 where none is looked at
	hold, part   int     // steps
	keeps        bool
	arrives, may []float64
	need         []float64
	out, keep    []int
}

func (p *replay) decider(c candidate) decider {
	t := &p.tape
	calls := &t.calls[c.target]
	d := decider{
		tape: t, rules: &p.rules, lead: p.rules.Lead.Seconds(), hold: steps(c.hold), part: max(steps(c.hold)*2/3, 1), keeps: c.keeps,
		arrives: t.arrives[c.way], may: t.may[c.way], need: calls.need, out: calls.out, keep: calls.keep[c.holds],
	}
	if c.drain > 0 {
		d.drain = c.drainTime(&p.rules).Seconds()
	}
	return d
}

// rest plays the steps from the i-th on in which a pool does nothing but cost:
// all that arrives is served as it comes, no start is due, and what is decided
// is what is there. Five of six are such. It returns the first that is not.
func (d *decider) rest(w *pool, i int) int {
	count := w.ready + w.starting
	if i == len(d.load) || w.backlog > 0 || count < d.rules.Min {
		return i
	}
	end := d.stays(w, count, i, d.clear(w, i))
	w.aged += w.starting * (end - i)
	billed, paid := w.billed, float64(count)
	for _, bill := range d.bill[i:end] {
		billed += bill * paid
	}
	w.billed = billed
	return end
}

// clear is the first step from the i-th on at which a start is due or more
// arrives than the pool serves.
func (d *decider) clear(w *pool, i int) int {
	end := len(d.load)
	if w.starting > 0 {
		end = min(i+w.untilDue(d.first+i), end)
	}
	serves := w.serves(d.rules)
	if d.highest[i] <= serves {
		return end
	}
	for i < end && !(d.load[i] > serves) {
		i++
	}
	return i
}

// stays is the first step from the i-th to end at which another count is decided
// than that of a pool at rest; end where there is none.
func (d *decider) stays(w *pool, count, i, end int) int {
	from, to := d.turn[i], len(d.at)
	if end < len(d.turn) {
		to = d.turn[end]
	}
	served := d.served(w, w.aged)
	for _, at := range d.at[from:to] {
		if w.starting > 0 {
			served = d.served(w, w.aged+w.starting*(at-i+1))
		}
		if d.out[at] > count || d.arrives[at]-served-d.may[at] > 0 {
			return at
		}
		most := d.keep[at]
		if w.notes {
			most = max(most, d.note(w, d.first+at, d.out[at]))
		}
		if count > most && d.first+at-w.waited > d.hold {
			return at
		}
	}
	return end
}

// served is the unit-seconds that a pool serves in the lead time, of which its
// starts are there for so many replica-steps.
func (d *decider) served(w *pool, aged int) float64 {
	return d.rules.Units * (float64(w.ready)*d.lead + float64(aged)*stepSeconds)
}

// note notes that out replicas are called for at step k, and returns how many
// are kept of those that were. To note the same twice is to note it once.
func (d *decider) note(w *pool, k, out int) (keep int) {
	if k-w.since >= d.part {
		w.called[1], w.called[0], w.since = w.called[0], 0, k
	}
	w.called[0] = max(w.called[0], out)
	if !d.keeps {
		return 0
	}
	return max(w.called[0], w.called[1])
}

// decide starts and stops replicas of a pool at the i-th step, as the decision in
// earnest does.
func (d *decider) decide(w *pool, i int) {
	k, out, count := d.first+i, d.out[i], w.ready+w.starting
	if work := w.backlog + d.arrives[i] - d.served(w, w.aged) - d.may[i]; work > 0 {
		if need := d.center[i] + work/d.drain; need > d.need[i] {
			out = replicas(need, d.rules)
		}
	}
	keep := d.keep[i]
	if w.notes {
		keep = max(keep, d.note(w, k, out))
	}
	want := out
	if out < count {
		want = min(count, max(out, keep))
		if k-w.waited <= d.hold {
			want = count
		}
	}
	if want = clamp(want, d.rules); want != count {
		w.resize(k, want, d.weight[i])
	}
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
		w.aged -= n * age
	}
	w.ready = min(w.ready, want-w.starting)
}
