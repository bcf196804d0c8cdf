package forecast

import "math"

// history is the newest values of an evenly spaced series, in a ring, with
// running sums so that the mean over any window costs two look-ups. A hole is
// in the ring but in no mean.
type history struct {
	sum   []float64 // of all values up to this one
	count []float64 // of the values that were there
	n     int       // values ever added; the newest is n-1
	lap   int       // the value that stands first in the ring
}

func newHistory(size int) *history {
	return &history{sum: make([]float64, size), count: make([]float64, size)}
}

// add appends a value; NaN is a hole.
func (h *history) add(v float64) {
	s, c := 0.0, 0.0
	if h.n > 0 {
		at := h.at(h.n - 1)
		s, c = h.sum[at], h.count[at]
	}
	if !math.IsNaN(v) {
		s, c = s+v, c+1
	}
	if h.n-h.lap == len(h.sum) {
		h.lap = h.n
	}
	at := h.at(h.n)
	h.sum[at], h.count[at] = s, c
	h.n++
}

// at is where in the ring value i stands, one of those that are there. It is
// asked for twenty times a step, and a division takes as long as all the rest.
func (h *history) at(i int) int {
	if i -= h.lap; i < 0 {
		i += len(h.sum)
	}
	return i
}

// mean is the mean of the width values that end with value i, holes left out;
// ok is false when none of them is there any more, or yet.
func (h *history) mean(i, width int) (v float64, ok bool) {
	oldest := max(h.n-len(h.sum), -1)
	lo := max(i-width, oldest)
	if i <= lo || i >= h.n {
		return 0, false
	}
	at := h.at(i)
	s, c := h.sum[at], h.count[at]
	if lo >= 0 {
		at = h.at(lo)
		s, c = s-h.sum[at], c-h.count[at]
	}
	if c < 0.5 {
		return 0, false
	}
	return max(s/c, 0), true
}
