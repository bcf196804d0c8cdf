package sim

import (
	"math"
)

// instant is a time, in seconds, too short to tell from the rounding of sums.
const instant = 1e-9

// fluid serves requests as an amount. Each tick brings a cohort whose requests
// arrive evenly over the tick; they are served in order at the rate of the
// ready replicas. Both curves, arrived and served, are piecewise linear, so
// the wait of every part of a cohort is known exactly.
//
// Service takes no time here beyond the capacity that it uses: what a long
// request does to a slot, and what slots that are free by chance are worth,
// only the requests engine shows.
type fluid struct {
	w     *World
	score *score
	ready int

	queue []cohort // ring: head is the oldest
	head  int
	left  float64 // requests in the queue

	drains []int   // ticks at which draining replicas end
	usage  float64 // busy share of the replicas in the last tick
}

// cohort is the requests of one tick.
type cohort struct {
	tick  int
	all   float64 // requests
	left  float64 // of them, not yet served
	share float64 // replica-seconds of one request
}

func newFluid(w *World, s *score) *fluid { return &fluid{w: w, score: s} }

// resize lets replicas go at once, as far as capacity goes; they are billed
// until their last request ends: the mean residual of a service time, times
// the harmonic number of the requests that must end.
func (f *fluid) resize(now, ready int) {
	for ; f.ready > ready; f.ready-- {
		busy := f.usage * float64(f.w.cfg.Slots)
		cv := f.w.cfg.ServiceCV
		residual := f.w.service * (1 + cv*cv) / 2
		if long := int(math.Round(residual * harmonic(busy) / tickSeconds)); long > 0 {
			f.drains = append(f.drains, now+long)
		}
	}
	f.ready = ready
}

// harmonic continues the harmonic numbers 0, 1, 3/2, 11/6 … between integers.
func harmonic(n float64) float64 {
	if n < 1 {
		return max(n, 0)
	}
	return math.Log(n) + 0.57721566 + 1/(2*n) - 1/(12*n*n)
}

func (f *fluid) draining(now int) int {
	keep := f.drains[:0]
	for _, end := range f.drains {
		if end > now {
			keep = append(keep, end)
		}
	}
	f.drains = keep
	return len(keep)
}

func (f *fluid) waiting() float64 { return f.left }

func (f *fluid) step(now int) served {
	c := cohort{tick: now, all: f.w.arrivals[now], share: f.w.work[now/ticksPerMinute]}
	c.left = c.all
	rate := float64(f.ready) // replica-seconds a second
	var did served
	if len(f.queue) == f.head && c.all*c.share <= rate*tickSeconds {
		// Nobody waits and everybody finds room.
		f.score.wait(now, c.all, 0, 0)
		did.completions, did.busy = c.all, c.all*c.share
	} else {
		f.push(c)
		did = f.serve(now, rate)
	}
	did.busy *= float64(f.w.cfg.Slots)
	f.usage = 0
	if f.ready > 0 {
		f.usage = did.busy / (rate * tickSeconds * float64(f.w.cfg.Slots))
	}
	return did
}

func (f *fluid) push(c cohort) {
	if f.head > 1024 && f.head*2 > len(f.queue) {
		f.queue = f.queue[:copy(f.queue, f.queue[f.head:])]
		f.head = 0
	}
	if c.all > 0 {
		f.queue = append(f.queue, c)
		f.left += c.all
	}
}

// serve works the queue off in order for one tick. Within it, at counts the
// seconds from the tick's begin.
func (f *fluid) serve(now int, rate float64) (did served) {
	at := 0.0
	for f.head < len(f.queue) && rate > 0 && at < tickSeconds-instant {
		c := &f.queue[f.head]
		per := rate / c.share // requests a second that the replicas take of this cohort
		age := float64(now-c.tick) * tickSeconds
		// The next request of the cohort arrived at this time on the
		// tick's own clock, and the others follow one by one.
		next := -age + tickSeconds*(1-c.left/c.all)
		flow := c.all / tickSeconds // requests a second that arrived
		var n, w1, w2 float64       // served in this stretch, and the waits at its ends
		switch {
		case next < at-instant: // behind: serve at full rate until done, caught up, or the tick ends
			n = min(c.left, per*(tickSeconds-at))
			if c.tick == now && per > flow {
				n = min(n, per*(at-next)/(per/flow-1))
			}
			w1 = at - next
			w2 = at + n/per - (next + n/flow)
			at += n / per
		case per >= flow: // caught up: they find room as they come
			n = c.left
			at = tickSeconds
		default: // caught up, and more come than find room
			at = max(at, next)
			n = min(c.left, per*(tickSeconds-at))
			w2 = n/per - n/flow
			at += n / per
		}
		f.score.wait(c.tick, n, max(w1, 0), max(w2, 0))
		did.completions += n
		did.busy += n * c.share
		c.left -= n
		f.left -= n
		if c.left <= 1e-9*c.all {
			f.left = max(f.left-c.left, 0)
			f.head++
		} else if n < 1e-9*c.all {
			break // so little capacity that it is none
		}
	}
	if f.head == len(f.queue) {
		f.queue, f.head, f.left = f.queue[:0], 0, 0
	}
	return did
}

// finish scores those that still wait: late if they were so already.
func (f *fluid) finish(end int) {
	for _, c := range f.queue[f.head:] {
		oldest := (float64(end-c.tick) - (1 - c.left/c.all)) * tickSeconds
		youngest := float64(end-c.tick-1) * tickSeconds
		f.score.wait(c.tick, c.left, oldest, youngest)
	}
}
