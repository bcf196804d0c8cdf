package sim

import (
	"iter"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
)

// lookback is how long the newest sample stands for a metric that has no newer
// one: Prometheus's default, query.lookback-delta.
const lookback = 5 * time.Minute

// newest is what a metric store answers at t: the newest sample that had
// reached it by then, unless that is older than lookback.
func newest(s demand.Series, t time.Time, delay time.Duration) (float64, bool) {
	visible := t.Add(-delay)
	p, ok := s.Window(visible.Add(-lookback), visible).Last()
	return p.Value, ok
}

// periodic runs a controller at its own period inside the simulator's interval
// between decisions. Controllers that limit their rate a period, or hold what
// they advised for some time, would be slower than they are if they ran only
// once in an interval. What they decide between takes effect at its end.
type periodic struct {
	period time.Duration
	next   time.Time
}

// until yields the times at which the controller runs, up to now; the first of
// all is the first now.
func (p *periodic) until(now time.Time) iter.Seq[time.Time] {
	if p.next.IsZero() {
		p.next = now
	}
	return func(yield func(time.Time) bool) {
		for !p.next.After(now) {
			t := p.next
			p.next = t.Add(p.period)
			if !yield(t) {
				return
			}
		}
	}
}
