package sim

import (
	"math"
	"math/rand/v2"
)

// requests serves every request by itself: it arrives at its own instant,
// holds one slot of one replica for its own service time, and waits in one
// first-in-first-out queue while no slot is free. A replica that drains takes
// nothing new and is billed until its last request ends.
type requests struct {
	w        *World
	score    *score
	rng      *rand.Rand
	table    []float64 // quantiles of the service time, in means
	arrived  float64   // requests since the start, as an amount
	counted  float64   // of them, as whole requests
	replicas []replica
	ready    int
	drains   int
	free     []int32 // replicas, one entry for each free slot
	busy     wheel   // ends of service
	queue    []request
	head     int
	did      served
	at       []float64 // instants of a tick
	last     float64   // time until which busy slots are added up, s
}

type replica struct {
	up   bool
	busy int
}

type request struct{ at, service float64 }

const tableSize = 4096

func newRequests(w *World, s *score) *requests {
	return &requests{w: w, score: s, busy: newWheel(w.service, w.cfg.Peak*float64(w.cfg.Slots)), rng: rand.New(rand.NewPCG(w.cfg.Seed, 0x7265717565737473)), table: lognormal(w.cfg.ServiceCV)}
}

// lognormal returns the middle of each of tableSize slices of the lognormal
// distribution with mean 1 and the given coefficient of variation. Drawing
// from slices bounds the longest service, at about the 99.99th percentile.
func lognormal(cv float64) []float64 {
	t := make([]float64, tableSize)
	sigma := math.Sqrt(math.Log1p(cv * cv))
	sum := 0.0
	for i := range t {
		p := (float64(i) + 0.5) / tableSize
		t[i] = math.Exp(sigma * math.Sqrt2 * math.Erfinv(2*p-1))
		sum += t[i]
	}
	for i := range t {
		t[i] *= tableSize / sum
	}
	return t
}

func (q *requests) waiting() float64     { return float64(len(q.queue) - q.head) }
func (q *requests) draining(now int) int { return q.drains }

func (q *requests) resize(now, ready int) {
	at := float64(now) * tickSeconds
	for ; q.ready < ready; q.ready++ {
		i := q.newReplica()
		q.replicas[i].up = true
		for range q.w.cfg.Slots {
			q.release(i)
		}
	}
	for ; q.ready > ready; q.ready-- {
		q.drain(q.idlest())
	}
	q.fill(at)
}

// newReplica finds a place that no replica holds, not even a draining one.
func (q *requests) newReplica() int32 {
	for i, r := range q.replicas {
		if !r.up && r.busy == 0 {
			return int32(i)
		}
	}
	q.replicas = append(q.replicas, replica{})
	return int32(len(q.replicas) - 1)
}

func (q *requests) idlest() int32 {
	best := int32(-1)
	for i, r := range q.replicas {
		if r.up && (best < 0 || r.busy < q.replicas[best].busy) {
			best = int32(i)
		}
	}
	return best
}

func (q *requests) drain(i int32) {
	q.replicas[i].up = false
	if q.replicas[i].busy > 0 {
		q.drains++
	}
	keep := q.free[:0]
	for _, f := range q.free {
		if f != i {
			keep = append(keep, f)
		}
	}
	q.free = keep
}

func (q *requests) release(i int32) { q.free = append(q.free, i) }

// fill gives free slots to those who wait.
func (q *requests) fill(at float64) {
	for q.head < len(q.queue) && len(q.free) > 0 {
		q.begin(q.pop(), at)
	}
}

func (q *requests) pop() request {
	r := q.queue[q.head]
	q.head++
	if q.head > 4096 && q.head*2 > len(q.queue) {
		q.queue = q.queue[:copy(q.queue, q.queue[q.head:])]
		q.head = 0
	}
	return r
}

// begin serves a request in a free slot from at on.
func (q *requests) begin(r request, at float64) {
	i := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	q.count(at)
	q.replicas[i].busy++
	q.busy.push(ending{q.until(r, i, at), i})
}

// until scores the wait of a request that begins at at on replica i, and
// returns when its service ends.
func (q *requests) until(r request, i int32, at float64) float64 {
	wait := at - r.at
	q.score.wait(int(r.at/tickSeconds), 1, wait, wait)
	service := r.service
	if s := q.w.cfg.SlowDown; s > 0 {
		// A batch that is not full serves each of its requests faster.
		service *= 1 - s*(1-float64(q.replicas[i].busy)/float64(q.w.cfg.Slots))
	}
	return at + service
}

// count adds the busy slots up until at.
func (q *requests) count(at float64) {
	q.did.busy += float64(q.busy.size) * (at - q.last)
	q.last = at
}

// ends completes the services that end until at, each slot going on to the
// next in the queue at once.
func (q *requests) ends(at float64) {
	for {
		e, ok := q.busy.pop(at)
		if !ok {
			return
		}
		q.did.completions++
		r := &q.replicas[e.replica]
		if r.up && q.head < len(q.queue) { // the slot goes on to the next
			q.busy.push(ending{q.until(q.pop(), e.replica, e.at), e.replica})
			continue
		}
		q.busy.size++ // until e.at it counted
		q.count(e.at)
		q.busy.size--
		r.busy--
		switch {
		case r.up:
			q.release(e.replica)
		case r.busy == 0:
			q.drains--
		}
	}
}

func (q *requests) step(now int) served {
	begin := float64(now) * tickSeconds
	q.did = served{}
	q.last = begin
	q.arrived += q.w.arrivals[now]
	n := math.Floor(q.arrived+1e-6) - q.counted
	q.counted += n
	mean := q.w.work[now/ticksPerMinute] * float64(q.w.cfg.Slots)
	for _, at := range q.instants(int(n)) {
		t := begin + at*tickSeconds
		q.ends(t)
		r := request{t, mean * q.table[q.rng.Uint64()%tableSize]}
		if len(q.free) > 0 && q.head == len(q.queue) {
			q.begin(r, t)
			continue
		}
		if q.head == len(q.queue) {
			q.queue, q.head = q.queue[:0], 0
		}
		q.queue = append(q.queue, r)
	}
	end := begin + tickSeconds
	q.ends(end)
	q.count(end)
	return q.did
}

// instants returns the places of n points thrown at random on [0, 1), in
// order: the partial sums of n+1 exponential gaps, over their sum.
func (q *requests) instants(n int) []float64 {
	q.at = q.at[:0]
	sum := 0.0
	for range n {
		sum += q.rng.ExpFloat64()
		q.at = append(q.at, sum)
	}
	sum += q.rng.ExpFloat64()
	for i := range q.at {
		q.at[i] /= sum
	}
	return q.at
}

func (q *requests) finish(end int) {
	for _, r := range q.queue[q.head:] {
		wait := float64(end)*tickSeconds - r.at
		q.score.wait(int(r.at/tickSeconds), 1, wait, wait)
	}
}

// ending is when a replica's slot becomes free.
type ending struct {
	at      float64
	replica int32
}

// wheel holds endings in buckets of time, about one in each, so that finding
// the next takes no more than a look into a bucket or two.
type wheel struct {
	width   float64 // of a bucket, s
	first   []int32 // of each bucket: index of a node, or -1
	nodes   []node
	unused  int32 // first of the nodes that hold nothing, or -1
	current int   // bucket before which all is empty; it only grows
	size    int   // endings held
}

type node struct {
	ending
	next int32
}

// newWheel makes a wheel for so many endings at once, each mean seconds ahead.
// An ending further ahead than a turn just waits in its bucket for a later one.
func newWheel(mean, endings float64) wheel {
	const turn = 12 // means; few services are longer
	n := 64
	for float64(n) < turn*endings && n < 1<<16 {
		n *= 2
	}
	w := wheel{width: turn * mean / float64(n), first: make([]int32, n), unused: -1}
	for i := range w.first {
		w.first[i] = -1
	}
	return w
}

func (w *wheel) bucket(at float64) int { return int(at / w.width) }

func (w *wheel) push(e ending) {
	i := w.unused
	if i >= 0 {
		w.unused = w.nodes[i].next
	} else {
		i = int32(len(w.nodes))
		w.nodes = append(w.nodes, node{})
	}
	b := &w.first[max(w.bucket(e.at), w.current)&(len(w.first)-1)]
	w.nodes[i] = node{e, *b}
	*b = i
	w.size++
}

// pop takes out the earliest ending that is not after at, if there is one.
func (w *wheel) pop(at float64) (e ending, ok bool) {
	for until := w.bucket(at); ; w.current++ {
		// The earliest in the bucket; those of later turns are after at.
		var least *int32
		for p := &w.first[w.current&(len(w.first)-1)]; *p >= 0; p = &w.nodes[*p].next {
			if v := w.nodes[*p].at; v <= at && (least == nil || v < w.nodes[*least].at) {
				least = p
			}
		}
		if least != nil {
			i := *least
			e = w.nodes[i].ending
			*least = w.nodes[i].next
			w.nodes[i].next = w.unused
			w.unused = i
			w.size--
			return e, true
		}
		if w.current >= until {
			return e, false
		}
	}
}
