package pool

import "time"

// Times are how long hosts of one class really took, learned from what the
// loop saw happen.
type Times struct {
	Boot  Took `json:"boot"`  // from power-on to in service
	Drain Took `json:"drain"` // from made ineligible to drained
	Stop  Took `json:"stop"`  // from soft off to a chassis that reads off
}

// Took sums up the latest durations of one kind.
type Took struct {
	// Last are the latest durations, oldest first, in seconds; at most
	// [MaxTook] of them.
	Last []float64 `json:"last_s,omitempty"`
}

// MaxTook is how many durations are kept: enough for a p95, few enough that a
// change of firmware is learned within days.
const MaxTook = 64

// Add returns what is known after one more. Durations that cannot be are left
// out.
func (t Took) Add(d time.Duration) Took {
	if d <= 0 {
		return t
	}
	last := append(append([]float64(nil), t.Last...), d.Seconds())
	return Took{Last: last[max(0, len(last)-MaxTook):]}
}
