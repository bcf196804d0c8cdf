package sim

import (
	"testing"
	"time"
)

// The page of KEDA's SQS scaler: where one pod handles 10 messages and there
// are 30, visible and in flight, it scales to 3 pods.
func TestKEDASharesTheQueueOut(t *testing.T) {
	for _, c := range []struct {
		name          string
		wanted, ready int
		busy, waiting float64
		want          int
	}{
		{"the page's example", 2, 2, 20, 10, 3},
		{"33 are within the tolerance of three pods", 3, 3, 30, 3, 3},
		{"34 are not", 3, 3, 30, 4, 4},
		{"what starts is there already", 3, 1, 10, 20, 3},
		{"the HPA's rate: 100 % in 15 s", 5, 5, 50, 950, 10},
	} {
		mustCount(t, c.name, newKEDA(pool(1)).Decide(noon, steady(c.wanted, c.ready, sample{busy: c.busy, waiting: c.waiting})).Count, c.want)
	}
}

func TestKEDAToZeroAndBack(t *testing.T) {
	s := pool(1)
	s.Min = 0
	k := newKEDA(s)
	m := metrics{at: noon.Add(-5 * time.Minute)}
	m.until(noon, sample{ready: 1, busy: 1})
	mustCount(t, "one message", k.Decide(noon, m.see(1, 1)).Count, 1)
	m.until(noon.Add(6*time.Minute), sample{ready: 1})
	last := time.Duration(0)
	for at := time.Minute; at <= 6*time.Minute; at += time.Minute {
		if k.Decide(noon.Add(at), m.see(1, 1)).Count == 0 {
			last = at
			break
		}
	}
	// Active at noon for the last time; cooldownPeriod is over at the first
	// poll after 12:05.
	if last != 6*time.Minute {
		t.Errorf("to zero after %s, want 6m", last)
	}
	m.until(noon.Add(6*time.Minute+30*time.Second), sample{waiting: 1})
	mustCount(t, "activated", k.Decide(noon.Add(7*time.Minute), m.see(0, 0)).Count, 1)
}

func TestKEDAKeepsItsMin(t *testing.T) {
	mustCount(t, "idle", newKEDA(pool(1)).Decide(noon.Add(time.Hour), steady(1, 1, sample{})).Count, 1)
}
