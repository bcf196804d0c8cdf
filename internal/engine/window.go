package engine

import (
	"math"
	"slices"
	"time"
)

// The window over which rates and quantiles are taken.
const (
	WindowLength = time.Minute
	windowStep   = 5 * time.Second // between the points that are kept
	leastSpan    = 5 * time.Second // a shorter one tells no rate
)

// Window turns the counters and histograms of one server's readings into rates
// and quantiles over the last minute. The zero value is empty.
type Window struct {
	counters   map[Measure][]point1
	histograms map[Measure][]pointN
}

type point1 struct {
	at    time.Time
	value float64
}

type pointN struct {
	at time.Time
	Buckets
}

// Add takes a reading into the window. A counter that went back, or a
// histogram whose bounds changed, starts anew; that is counted in the reading's
// flaws.
func (w *Window) Add(r Reading, now time.Time) {
	if w.counters == nil {
		w.counters, w.histograms = map[Measure][]point1{}, map[Measure][]pointN{}
	}
	for m, v := range r.Counters {
		points := w.counters[m]
		if n := len(points); n > 0 && v < points[n-1].value {
			r.Flaws[FlawReset]++
			points = nil
		}
		w.counters[m] = slide(points, point1{now, v}, func(p point1) time.Time { return p.at }, now)
	}
	for m, b := range r.Histograms {
		points := w.histograms[m]
		if n := len(points); n > 0 && !follows(points[n-1].Buckets, b) {
			r.Flaws[FlawReset]++
			points = nil
		}
		w.histograms[m] = slide(points, pointN{now, b}, func(p pointN) time.Time { return p.at }, now)
	}
}

// Reset empties the window, as when the server was started anew.
func (w *Window) Reset() { *w = Window{} }

// slide appends a point and drops those that are not needed any more. Of
// points closer than the step the last replaces the one before.
func slide[P any](points []P, p P, at func(P) time.Time, now time.Time) []P {
	if n := len(points); n >= 2 && now.Sub(at(points[n-2])) < windowStep {
		points = points[:n-1]
	}
	points = append(points, p)
	// One point at or before the start of the window is its start.
	for len(points) > 2 && now.Sub(at(points[1])) >= WindowLength {
		points = slices.Delete(points, 0, 1)
	}
	return points
}

// follows says whether b can be a later state of the histogram a.
func follows(a, b Buckets) bool {
	if !slices.Equal(a.Bounds, b.Bounds) {
		return false
	}
	for i := range a.Counts {
		if b.Counts[i] < a.Counts[i] {
			return false
		}
	}
	return true
}

// Rate is how much a counter grew per second. It is not known until there are
// points far enough apart, nor when the last is too old.
func (w *Window) Rate(m Measure, now time.Time) (float64, bool) {
	points := w.counters[m]
	if len(points) < 2 {
		return 0, false
	}
	first, last := points[0], points[len(points)-1]
	span := last.at.Sub(first.at)
	if span < leastSpan || now.Sub(last.at) > WindowLength {
		return 0, false
	}
	return (last.value - first.value) / span.Seconds(), true
}

// Quantile is the q-quantile, 0 to 1, of what a histogram counted in the
// window, in seconds: linear within a bucket, and the last finite bound beyond
// it, as Prometheus' histogram_quantile has it. It is not known if nothing was
// counted.
func (w *Window) Quantile(m Measure, q float64, now time.Time) (float64, bool) {
	points := w.histograms[m]
	if len(points) < 2 {
		return 0, false
	}
	first, last := points[0], points[len(points)-1]
	n := len(last.Counts)
	total := last.Counts[n-1] - first.Counts[n-1]
	if total <= 0 || now.Sub(last.at) > WindowLength {
		return 0, false
	}
	rank := q * total
	lower, below := 0.0, 0.0
	for i := range n {
		count, bound := last.Counts[i]-first.Counts[i], last.Bounds[i]
		if count < rank || count == 0 {
			lower, below = bound, count
			continue
		}
		switch {
		case math.IsInf(bound, 1) && i == 0:
			return 0, false // a histogram without finite bounds tells nothing
		case math.IsInf(bound, 1):
			return max(0, last.Bounds[i-1]), true
		case i == 0 || count == below:
			lower = min(0, bound) // buckets start at zero
			if count == below {
				return max(0, bound), true
			}
		}
		return max(0, lower+(bound-lower)*(rank-below)/(count-below)), true
	}
	return 0, false
}
