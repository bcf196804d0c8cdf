package gpu

import (
	"math/bits"
	"time"

	"github.com/gpupool/gpupool/internal/fleet"
)

// ring keeps the newest samples of one value in fixed memory.
type ring struct {
	period  time.Duration // from one sample to the next, if none is missed
	samples []sample
	next    int // where the next one goes
	n       int // how many there are
}

type sample struct {
	at    time.Time
	value float64
}

// newRing makes a ring for all samples of the longest window.
func newRing(period time.Duration) ring {
	return ring{period: period, samples: make([]sample, max(1, int(history/period)))}
}

func (r *ring) add(at time.Time, value float64) {
	r.samples[r.next] = sample{at, value}
	r.next = (r.next + 1) % len(r.samples)
	r.n = min(r.n+1, len(r.samples))
}

// each visits the samples of the last span before now, the newest first.
func (r *ring) each(now time.Time, span time.Duration, visit func(value float64)) {
	for i := 1; i <= r.n; i++ {
		s := r.samples[(r.next-i+len(r.samples))%len(r.samples)]
		if now.Sub(s.at) >= span {
			break
		}
		visit(s.value)
	}
}

// window sums up the samples of the last span before now, of which there
// would be span/period if none were missed. It is false if there are none.
func (r *ring) window(now time.Time, span time.Duration) (fleet.Window, bool) {
	var n, sum, most float64
	r.each(now, span, func(value float64) {
		n++
		sum += value
		most = max(most, value)
	})
	if n == 0 {
		return fleet.Window{}, false
	}
	return fleet.Window{
		Seconds:  span.Seconds(),
		Mean:     rounded(sum / n),
		Max:      most,
		Coverage: min(1, rounded(n*r.period.Seconds()/span.Seconds())),
	}, true
}

// windows are those of several spans that have any sample.
func (r *ring) windows(now time.Time, spans []time.Duration) (all []fleet.Window) {
	for _, span := range spans {
		if w, ok := r.window(now, span); ok {
			all = append(all, w)
		}
	}
	return all
}

// shares are, for each reason in the masks of the last span before now, the
// share of the samples that have it.
func (r *ring) shares(now time.Time, span time.Duration) map[string]float64 {
	n := 0.0
	var held [64]float64 // samples, by bit
	r.each(now, span, func(mask float64) {
		n++
		for left := uint64(mask); left != 0; left &= left - 1 {
			held[bits.TrailingZeros64(left)]++
		}
	})
	found := map[string]float64{}
	for bit, samples := range held {
		if samples > 0 {
			found[reasonNames[bit]] = rounded(samples / n)
		}
	}
	return found
}
