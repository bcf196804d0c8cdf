package forecast

import "math"

// history is the newest values of an evenly spaced series, in a ring, with
// running sums so that the mean over any window costs two look-ups. A hole is
// in the ring but in no mean.
type history struct {
	sum   []float64 // of all values up to this one
	count []float64 // of the values that were there
	n     int       // values ever added; the newest is n-1
}

func newHistory(size int) *history {
	return &history{sum: make([]float64, size), count: make([]float64, size)}
}

// add appends a value; NaN is a hole.
func (h *history) add(v float64) {
	s, c := 0.0, 0.0
	if h.n > 0 {
		s, c = h.sum[(h.n-1)%len(h.sum)], h.count[(h.n-1)%len(h.sum)]
	}
	if !math.IsNaN(v) {
		s, c = s+v, c+1
	}
	h.sum[h.n%len(h.sum)], h.count[h.n%len(h.sum)] = s, c
	h.n++
}

// mean is the mean of the width values that end with value i, holes left out;
// ok is false when none of them is there any more, or yet.
func (h *history) mean(i, width int) (v float64, ok bool) {
	oldest := max(h.n-len(h.sum), -1)
	lo := max(i-width, oldest)
	if i <= lo || i >= h.n {
		return 0, false
	}
	s, c := h.sum[i%len(h.sum)], h.count[i%len(h.sum)]
	if lo >= 0 {
		s, c = s-h.sum[lo%len(h.sum)], c-h.count[lo%len(h.sum)]
	}
	if c < 0.5 {
		return 0, false
	}
	return max(s/c, 0), true
}
