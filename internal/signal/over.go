package signal

import (
	"slices"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
)

// Windowed makes the points of the query's window out of the samples of its
// base: for each sample later than from, one value of the samples in the
// window that ends with it. Without a window they are the samples themselves.
func (q Query) Windowed(s demand.Series, from time.Time) demand.Series {
	newest, ok := s.Last()
	if !ok {
		return nil
	}
	points := s.Window(from, newest.At)
	if q.Window <= 0 || len(points) == 0 {
		return points
	}
	first := len(s) - len(points)
	lo := first
	for lo > 0 && s[lo-1].At.After(s[first].At.Add(-q.Window)) {
		lo--
	}
	out := make(demand.Series, 0, len(points))
	var w sliding
	for i := lo; i < len(s); i++ {
		w.push(s[i].Value)
		for !s[lo].At.After(s[i].At.Add(-q.Window)) {
			w.pop(s[lo].Value)
			lo++
		}
		if i >= first {
			out = append(out, demand.Point{At: s[i].At, Value: w.value(q.Over)})
		}
	}
	return out
}

// sliding is the values of a window, sorted, and their sum.
type sliding struct {
	sorted []float64
	sum    float64
}

func (w *sliding) push(v float64) {
	i, _ := slices.BinarySearch(w.sorted, v)
	w.sorted = slices.Insert(w.sorted, i, v)
	w.sum += v
}

func (w *sliding) pop(v float64) {
	if i, found := slices.BinarySearch(w.sorted, v); found {
		w.sorted = slices.Delete(w.sorted, i, i+1)
	}
	if w.sum -= v; len(w.sorted) == 0 {
		w.sum = 0 // without what rounding left
	}
}

// value is never asked of an empty window: its newest sample is in it.
func (w *sliding) value(r reduction) float64 {
	n := len(w.sorted)
	least, most := w.sorted[0], w.sorted[n-1]
	switch r.how {
	case Count:
		return float64(n)
	case Min:
		return least
	case Max:
		return most
	case Quantile:
		return quantile(r.phi, w.sorted)
	case Avg:
		return min(max(w.sum/float64(n), least), most) // rounding adds up
	}
	if least >= 0 {
		return max(w.sum, 0)
	}
	return w.sum
}
