package sim

import (
	"math"
	"math/bits"
	"math/rand/v2"
)

// requests serves every request by itself: it arrives at its own instant,
// holds one slot of one replica for its own service time, and waits in one
// first-in-first-out queue while no slot is free. A replica that drains takes
// nothing new and is billed until its last request ends.
type requests struct {
	w        *World
	score    *score
	source   *rand.PCG
	rng      *rand.Rand          // draws from source
	table    *[tableSize]float64 // quantiles of the service time, in means
	arrived  float64             // requests since the start, as an amount
	counted  float64             // of them, as whole requests
	replicas []replica
	ready    int
	drains   int
	free     []int32 // replicas, one entry for each free slot
	busy     wheel   // ends of service
	queue    []request
	head     int
	did      served
	at       []float64 // instants of a tick
	service  []float64 // and service times
	last     float64   // time until which busy slots are added up, s
}

type replica struct {
	up   bool
	busy int
}

type request struct {
	at, service float64
	tick        int // in which it arrived
}

const tableSize = 4096

func newRequests(w *World, s *score) *requests {
	source := rand.NewPCG(w.cfg.Seed, 0x7265717565737473)
	return &requests{w: w, score: s, busy: newWheel(w.service, w.cfg.Peak*float64(w.cfg.Slots)), source: source, rng: rand.New(source), table: lognormal(w.cfg.ServiceCV)}
}

// lognormal returns the middle of each of tableSize slices of the lognormal
// distribution with mean 1 and the given coefficient of variation. Drawing
// from slices bounds the longest service, at about the 99.99th percentile.
func lognormal(cv float64) *[tableSize]float64 {
	t := new([tableSize]float64)
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

// begin serves a request that waited in a free slot from at on.
func (q *requests) begin(r request, at float64) {
	q.scoreWait(r, at)
	q.serve(r, at)
}

// serve puts a request in a free slot from at on.
func (q *requests) serve(r request, at float64) {
	i := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	q.count(at)
	q.replicas[i].busy++
	q.busy.push(ending{q.until(r, i, at), i})
}

func (q *requests) scoreWait(r request, at float64) { q.score.one(r.tick, at-r.at) }

// until is when the service of a request that begins at at on replica i ends.
func (q *requests) until(r request, i int32, at float64) float64 {
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
	for q.busy.soonest <= at {
		e := q.busy.pop()
		q.did.completions++
		r := &q.replicas[e.replica]
		if r.up && q.head < len(q.queue) { // the slot goes on to the next
			w := q.pop()
			q.scoreWait(w, e.at)
			q.busy.push(ending{q.until(w, e.replica, e.at), e.replica})
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
	end := begin + tickSeconds
	at := q.instants(int(n))
	service := q.services(int(n), mean)
	prompt := 0 // requests that need not wait
	for i := range at {
		t := begin + at[i]*tickSeconds
		q.ends(t)
		r := request{t, service[i], now}
		if t >= end { // by the rounding of sums
			r.tick = int(t / tickSeconds)
		}
		switch {
		case len(q.free) > 0 && q.head == len(q.queue) && r.tick == now:
			prompt++
			q.serve(r, t)
		case len(q.free) > 0 && q.head == len(q.queue):
			q.begin(r, t)
		default:
			if q.head == len(q.queue) {
				q.queue, q.head = q.queue[:0], 0
			}
			q.queue = append(q.queue, r)
		}
	}
	q.score.wait(now, float64(prompt), 0, 0)
	q.ends(end)
	q.count(end)
	return q.did
}

// services returns n service times of the given mean.
func (q *requests) services(n int, mean float64) []float64 {
	q.service = q.service[:0]
	for range n {
		q.service = append(q.service, mean*q.table[q.source.Uint64()%tableSize])
	}
	return q.service
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
		q.scoreWait(r, float64(end)*tickSeconds)
	}
}

// ending is when a replica's slot becomes free.
type ending struct {
	at      float64
	replica int32
}

// wheel holds endings in buckets of time, fewer than one in each, and a bit for
// each bucket that has any, so that the next is mostly found in one word of bits
// and alone in its bucket.
type wheel struct {
	buckets float64  // a second
	first   []int32  // of each bucket: index of a node, or -1
	taken   []uint64 // one bit for each bucket that is not empty
	nodes   []node
	unused  int32   // first of the nodes that hold nothing, or -1
	least   int32   // the node with the earliest ending; of equal ones the newest
	soonest float64 // when that is; infinite where there is none
	size    int     // endings held
}

type node struct {
	ending
	next   int32
	bucket int // counted through all turns
}

// newWheel makes a wheel for so many endings at once, each mean seconds ahead.
// An ending further ahead than a turn just waits in its bucket for a later one.
func newWheel(mean, endings float64) wheel {
	const turn = 12 // means; few services are longer
	n := 256
	for float64(n) < 4*turn*endings && n < 1<<20 {
		n *= 2
	}
	w := wheel{buckets: float64(n) / (turn * mean), first: make([]int32, n), taken: make([]uint64, n/64), unused: -1, soonest: math.Inf(1)}
	for i := range w.first {
		w.first[i] = -1
	}
	return w
}

func (w *wheel) push(e ending) {
	i := w.unused
	if i >= 0 {
		w.unused = w.nodes[i].next
	} else {
		i = int32(len(w.nodes))
		w.nodes = append(w.nodes, node{})
	}
	bucket := int(e.at * w.buckets)
	b := bucket & (len(w.first) - 1)
	w.nodes[i] = node{e, w.first[b], bucket}
	w.first[b] = i
	w.taken[b/64] |= 1 << (b % 64)
	w.size++
	if e.at <= w.soonest {
		w.least, w.soonest = i, e.at
	}
}

// pop takes out the earliest ending, which must be there.
func (w *wheel) pop() ending {
	i := w.least
	n := &w.nodes[i]
	b := n.bucket & (len(w.first) - 1)
	p := &w.first[b]
	for *p != i {
		p = &w.nodes[*p].next
	}
	*p = n.next
	if w.first[b] < 0 {
		w.taken[b/64] &^= 1 << (b % 64)
	}
	n.next, w.unused = w.unused, i
	w.size--
	w.find(n.bucket)
	return n.ending
}

// find looks for the earliest ending, which is in the given bucket or later.
func (w *wheel) find(bucket int) {
	w.soonest = math.Inf(1)
	if w.size == 0 {
		return
	}
	for end := bucket + len(w.first); bucket < end; bucket++ {
		b := bucket & (len(w.first) - 1)
		left := w.taken[b/64] >> (b % 64)
		if left == 0 {
			bucket |= 63
			continue
		}
		bucket += bits.TrailingZeros64(left)
		for i := w.first[bucket&(len(w.first)-1)]; i >= 0; i = w.nodes[i].next {
			if n := &w.nodes[i]; n.bucket == bucket && n.at < w.soonest {
				w.least, w.soonest = i, n.at
			}
		}
		if !math.IsInf(w.soonest, 1) {
			return
		}
	}
	// All are more than a turn ahead.
	for _, i := range w.first {
		for ; i >= 0; i = w.nodes[i].next {
			if at := w.nodes[i].at; at < w.soonest {
				w.least, w.soonest = i, at
			}
		}
	}
}
