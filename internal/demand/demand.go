// Package demand holds how much work there is over time: what was seen, when,
// and nothing that was not seen.
//
// A missing sample is absent. It is never a zero: a pool that scales in on a
// broken metric loses running work, so every function here keeps a hole a
// hole. The package is pure; it takes times as arguments and reads no clock.
package demand

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Point is one sample: at At, demand was Value units (GPUs, slots, requests a
// second: the series' owner says which).
type Point struct {
	At    time.Time
	Value float64
}

// Series is samples in strictly ascending time with finite, non-negative
// values. The nil Series is the empty one and also says "not known". Slices
// of a Series are windows onto the same memory: treat all as read-only.
type Series []Point

// ErrInvalid marks samples that cannot be demand.
var ErrInvalid = errors.New("invalid demand series")

// New returns points as a Series, or an error that wraps [ErrInvalid] and
// names the first point that is not finite, is negative, or is not later than
// the one before it. It does not copy.
func New(points []Point) (Series, error) {
	for i, p := range points {
		if err := check(p.Value); err != nil {
			return nil, fmt.Errorf("%w: point %d at %s: %w", ErrInvalid, i, p.At.Format(time.RFC3339), err)
		}
		if i > 0 && !p.At.After(points[i-1].At) {
			return nil, fmt.Errorf("%w: point %d at %s is not after the point before it (%s)", ErrInvalid, i,
				p.At.Format(time.RFC3339Nano), points[i-1].At.Format(time.RFC3339Nano))
		}
	}
	return points, nil
}

func check(v float64) error {
	switch {
	case math.IsNaN(v), math.IsInf(v, 0):
		return fmt.Errorf("value %v is not a number of units", v)
	case v < 0:
		return fmt.Errorf("value %v is negative", v)
	}
	return nil
}

// Clean makes a Series of samples from a source that promises nothing: any
// order, duplicates, NaN. Values that New refuses are dropped and counted. Of
// several samples at one instant the largest stays, so the answer does not
// depend on the order of the input.
func Clean(points []Point) (s Series, dropped int) {
	s = make(Series, 0, len(points))
	for _, p := range points {
		if check(p.Value) != nil {
			dropped++
			continue
		}
		s = append(s, p)
	}
	slices.SortFunc(s, func(a, b Point) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		switch { // larger first, so that compaction keeps it
		case a.Value > b.Value:
			return -1
		case a.Value < b.Value:
			return 1
		}
		return 0
	})
	n := len(s)
	s = slices.CompactFunc(s, func(a, b Point) bool { return a.At.Equal(b.At) })
	return s, dropped + n - len(s)
}

// Window returns the samples with from < At ≤ to, without copying.
func (s Series) Window(from, to time.Time) Series {
	lo := s.after(from)
	hi := s.after(to)
	if lo >= hi {
		return nil
	}
	return s[lo:hi:hi]
}

// after returns the index of the first sample later than t. Callers ask about
// the newest part of long series, so it looks there first.
func (s Series) after(t time.Time) int {
	lo, hi := 0, len(s)
	switch {
	case hi == 0 || s[0].At.After(t):
		return 0
	case !s[hi-1].At.After(t):
		return hi
	}
	for step := 1; hi > 0; step *= 2 {
		if i := hi - step; i <= 0 || !s[i].At.After(t) {
			lo = max(i, 0)
			break
		}
		hi -= step
	}
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if s[mid].At.After(t) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// Last returns the newest sample; ok is false for an empty series.
func (s Series) Last() (p Point, ok bool) {
	if len(s) == 0 {
		return Point{}, false
	}
	return s[len(s)-1], true
}

// Max returns the first of the largest samples; ok is false for an empty series.
func (s Series) Max() (p Point, ok bool) {
	if len(s) == 0 {
		return Point{}, false
	}
	p = s[0]
	for _, q := range s[1:] {
		if q.Value > p.Value {
			p = q
		}
	}
	return p, true
}

// Mean returns the mean of the samples, each with the same weight; ok is false
// for an empty series.
func (s Series) Mean() (v float64, ok bool) {
	if len(s) == 0 {
		return 0, false
	}
	for _, p := range s {
		v += p.Value
	}
	return v / float64(len(s)), true
}

// Span is the time from the first sample to the last.
func (s Series) Span() time.Duration {
	if len(s) < 2 {
		return 0
	}
	return s[len(s)-1].At.Sub(s[0].At)
}

// Step returns the usual distance between samples, their median; 0 with fewer
// than two samples.
func (s Series) Step() time.Duration {
	if len(s) < 2 {
		return 0
	}
	d := make([]time.Duration, len(s)-1)
	for i := range d {
		d[i] = s[i+1].At.Sub(s[i].At)
	}
	slices.Sort(d)
	return d[len(d)/2]
}

// Gap is a stretch without samples between two that are there.
type Gap struct{ From, To time.Time }

// Length is how long the gap is.
func (g Gap) Length() time.Duration { return g.To.Sub(g.From) }

// Gaps returns the stretches in [from, to] longer than longest that have no
// sample, the ends of the interval included: a series that begins late or ends
// early has a gap there.
func (s Series) Gaps(from, to time.Time, longest time.Duration) []Gap {
	var gaps []Gap
	last := from
	note := func(t time.Time) {
		if t.Sub(last) > longest {
			gaps = append(gaps, Gap{last, t})
		}
		last = t
	}
	for _, p := range s.Window(from, to) {
		note(p.At)
	}
	note(to)
	return gaps
}

// Reduce turns the samples of one bucket, never none, into one value.
type Reduce func(Series) float64

// MeanOf and MaxOf are the usual reductions.
var (
	MeanOf Reduce = func(s Series) float64 { v, _ := s.Mean(); return v }
	MaxOf  Reduce = func(s Series) float64 { p, _ := s.Max(); return p.Value }
)

// Resample returns one sample for each bucket of step that has any: the
// samples with k·step < At ≤ (k+1)·step, counted from the Unix epoch, become a
// sample at (k+1)·step. The last bucket may be unfinished. Buckets that hold
// no sample stay absent. A step of zero or less returns s itself.
func (s Series) Resample(step time.Duration, reduce Reduce) Series {
	if step <= 0 || len(s) == 0 {
		return s
	}
	out := make(Series, 0, min(len(s), int(s.Span()/step)+2))
	for lo := 0; lo < len(s); {
		end := bucketEnd(s[lo].At, step)
		hi := lo + 1
		for hi < len(s) && !s[hi].At.After(end) {
			hi++
		}
		out = append(out, Point{end, reduce(s[lo:hi])})
		lo = hi
	}
	return out
}

// bucketEnd is the end of the bucket that t falls in.
func bucketEnd(t time.Time, step time.Duration) time.Time {
	past := time.Duration(t.UnixNano() % int64(step))
	switch {
	case past == 0:
		return t
	case past < 0: // before 1970
		past += step
	}
	return t.Add(step - past)
}

// Scale returns the series with every value multiplied by f, which must be
// finite and not negative.
func (s Series) Scale(f float64) Series {
	out := make(Series, len(s))
	for i, p := range s {
		out[i] = Point{p.At, p.Value * f}
	}
	return out
}
