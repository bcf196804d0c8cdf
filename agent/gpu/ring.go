package gpu

import (
	"time"

	"github.com/gpupool/gpupool/internal/fleet"
)

// ring keeps the newest samples of one value in fixed memory.
type ring struct {
	samples []sample
	next    int // where the next one goes
	n       int // how many there are
}

type sample struct {
	at    time.Time
	value float64
}

func newRing(size int) ring { return ring{samples: make([]sample, size)} }

func (r *ring) add(at time.Time, value float64) {
	r.samples[r.next] = sample{at, value}
	r.next = (r.next + 1) % len(r.samples)
	r.n = min(r.n+1, len(r.samples))
}

// window sums up the samples of the last span before now, of which there
// would be span/period if none were missed. It is false if there are none.
func (r *ring) window(now time.Time, span, period time.Duration) (fleet.Window, bool) {
	var n, sum, most float64
	for i := 1; i <= r.n; i++ {
		s := r.samples[(r.next-i+len(r.samples))%len(r.samples)]
		if now.Sub(s.at) >= span {
			break
		}
		n++
		sum += s.value
		most = max(most, s.value)
	}
	if n == 0 {
		return fleet.Window{}, false
	}
	return fleet.Window{
		Seconds:  span.Seconds(),
		Mean:     sum / n,
		Max:      most,
		Coverage: min(1, n*period.Seconds()/span.Seconds()),
	}, true
}
