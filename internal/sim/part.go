package sim

import (
	"fmt"
	"time"
)

// Days is the number of days of the trace, a last one that is not whole
// included.
func (w *World) Days() int { return (len(w.arrivals) + ticksPerDay - 1) / ticksPerDay }

// Part is the world of the days from first up to, not including, end. Its
// requests are those of the whole, arrive in the same ticks and make as much
// work; its warm-up is as long and lies within it.
func (w *World) Part(first, end int) (*World, error) {
	from, to := first*24*60, min(end*24*60, len(w.trace.Arrivals))
	if first < 0 || from >= to || (to-from)*ticksPerMinute <= w.scored {
		return nil, fmt.Errorf("days %d to %d of %s: there are %d, and the warm-up of %s must leave some", first, end, w.trace.Name, w.Days(), w.cfg.Warmup)
	}
	p := *w
	p.trace.Start = w.trace.Start.Add(time.Duration(from) * time.Minute)
	p.trace.Arrivals = w.trace.Arrivals[from:to]
	if w.trace.Tokens != nil {
		p.trace.Tokens = w.trace.Tokens[from:to]
	}
	p.work = w.work[from:to]
	p.arrivals = w.arrivals[from*ticksPerMinute : to*ticksPerMinute]
	return &p, nil
}
