package forecast

import (
	"math"
	"sort"
)

// residuals is the distribution of how demand came out against its forecast,
// in units of its usual miss, with old ones forgotten. It is a histogram, so
// that its cost does not grow with what it remembers.
type residuals struct {
	bins   [residualBins]float64
	low    int // no bin below it, nor from high on, has anything
	high   int
	below  [residualBins + 1]float64 // of each bin: what those before it have
	summed int                       // below is known up to and with this one
	all    float64
	weight float64 // of the next one; grows instead of the old ones shrinking
	grow   float64
}

const (
	residualBins = 640
	residualSpan = 16.0 // the histogram reaches from -residualSpan to residualSpan usual misses
)

// newResiduals forgets half of what it saw within halfLife observations.
func newResiduals(halfLife float64) *residuals {
	return &residuals{weight: 1, low: residualBins, grow: math.Exp2(1 / halfLife)}
}

func (r *residuals) add(u float64) {
	x := (u + residualSpan) / (2 * residualSpan) * residualBins
	bin := int(max(min(x, residualBins-1), 0))
	r.bins[bin] += r.weight
	r.low, r.high, r.summed = min(r.low, bin), max(r.high, bin+1), min(r.summed, bin)
	r.all += r.weight
	if r.weight *= r.grow; r.weight > 1e12 {
		for i := range r.bins {
			r.bins[i] *= 1e-12
		}
		r.summed = 0
		r.all *= 1e-12
		r.weight *= 1e-12
	}
}

// quantiles writes the residual that each of the ascending probabilities q
// falls on to out; 0 while there is nothing to go by.
func (r *residuals) quantiles(q, out []float64) {
	clear(out)
	if r.all == 0 {
		return
	}
	r.sumUp()
	for k, q := range q {
		want := q * r.all
		i := r.low + sort.SearchFloat64s(r.below[r.low+1:r.high+1], want)
		if i == r.high { // by the rounding of sums
			out[k] = residualSpan
			continue
		}
		part := max((want-r.below[i])/r.bins[i], 0)
		out[k] = (float64(i)+part)/residualBins*2*residualSpan - residualSpan
	}
}

// sumUp makes all of below known. Mostly only bins in the middle have changed.
func (r *residuals) sumUp() {
	sum := r.below[r.summed]
	for i := r.summed; i < r.high; i++ {
		sum += r.bins[i]
		r.below[i+1] = sum
	}
	r.summed = r.high
}
