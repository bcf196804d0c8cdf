package plan

import (
	"math"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
)

// Where work is short and only one series is known, work that runs and work
// that waits together, a queue makes it many times what arrives: a minute's
// queue of requests that take three seconds counts twenty times. Planning for
// that would start twenty times too much. What arrives is told from it by what
// it can do: it seldom grows by half within five minutes, and a queue does.

const (
	latelySteps = int(5 * time.Minute / step)
	latelyGrows = 1.5 // at most, over the largest of the five minutes before these
	latelyUnits = 2   // replicas' worth that may come on top
)

// lately is the last values of a series that passed as what arrives.
type lately struct {
	values [2 * latelySteps]float64
	n      int
}

// pass returns the part of v that may have arrived.
func (l *lately) pass(v, units float64) float64 {
	if math.IsNaN(v) {
		return v
	}
	if l.n >= latelySteps {
		most := 0.0
		for i := max(l.n-2*latelySteps, 0); i <= l.n-latelySteps; i++ {
			most = max(most, l.values[i%len(l.values)])
		}
		v = min(v, latelyGrows*most+latelyUnits*units)
	}
	l.values[l.n%len(l.values)] = v
	l.n++
	return v
}

// waiting is the part of the series that the replicas there are now could not
// have been working on, since so long ago.
func waiting(s demand.Series, in Input, since time.Duration, r Rules) demand.Series {
	busy := float64(max(in.Count-len(in.Starting), 0)) * r.Units
	window := s.Window(in.Now.Add(-max(since, r.StaleAfter)), in.Now)
	q := make(demand.Series, len(window))
	for i, p := range window {
		q[i] = demand.Point{At: p.At, Value: max(p.Value-busy, 0)}
	}
	return q
}
