package sim

import (
	"testing"
	"time"
)

// From "Algorithm details" of the Kubernetes page on horizontal pod
// autoscaling: a metric at twice its target doubles the replicas, at half of
// it halves them, and within 10 % of it nothing is done; unready pods use
// nothing on the way up.
func TestPodsForMean(t *testing.T) {
	for _, c := range []struct {
		name              string
		current, measured int
		ratio             float64
		want              int
	}{
		{"200m of 100m", 4, 4, 2, 8},
		{"50m of 100m", 4, 4, 0.5, 2},
		{"rounded up", 10, 10, 1.11, 12},
		{"within the tolerance", 10, 10, 1.09, 10},
		{"within the tolerance below", 10, 10, 0.91, 10},
		{"out of it below", 10, 10, 0.89, 9},
		{"half unready: 1.5 of two is 0.75 of four", 4, 2, 1.5, 4},
		{"half unready: 2.1 of two is 1.05 of four", 4, 2, 2.1, 4},
		{"half unready: 3 of two is 1.5 of four", 4, 2, 3, 6},
		{"half unready on the way down: of the ready only", 4, 2, 0.5, 1},
		{"metrics of pods that went since", 3, 5, 2, 6},
	} {
		mustCount(t, c.name, podsForMean(c.current, c.measured, c.ratio), c.want)
	}
}

func TestHPAFollowsUtilization(t *testing.T) {
	mustCount(t, "all busy at 0.8: a quarter more", newHPA(pool(0.8)).Decide(noon, steady(8, 8, sample{busy: 80})).Count, 10)
	mustCount(t, "all busy at 0.95: within the tolerance", newHPA(pool(0.95)).Decide(noon, steady(8, 8, sample{busy: 80})).Count, 8)
	mustCount(t, "two of ten start", newHPA(pool(0.8)).Decide(noon, steady(10, 8, sample{busy: 80})).Count, 10)
}

// Four pods or 100 % in 15 s: three to 7, to 14, to 20 in three syncs.
func TestHPALimitsItsRate(t *testing.T) {
	c := newHPAController(pool(0))
	n := 3
	for i, want := range []int{7, 14, 20, 20} {
		n, _ = c.sync(noon.Add(time.Duration(i)*hpaPeriod), n, func() (int, bool) { return 20, true })
		mustCount(t, "sync", n, want)
	}
}

// The largest advice of the last 300 s counts on the way down.
func TestHPAStabilizesItsScaleDown(t *testing.T) {
	c := newHPAController(pool(0))
	n := 10
	for at := time.Duration(0); at <= 6*time.Minute; at += hpaPeriod {
		advice := 4
		if at == time.Minute {
			advice = 8 // falls out of the window five minutes later
		}
		n, _ = c.sync(noon.Add(at), n, func() (int, bool) { return advice, true })
		want := 10 // what was there at the start, until that is 300 s old
		switch {
		case at >= 6*time.Minute:
			want = 4
		case at >= 5*time.Minute:
			want = 8
		}
		if n != want {
			t.Fatalf("after %s: %d replicas, want %d", at, n, want)
		}
	}
}

func TestHPAKeepsMinAndMax(t *testing.T) {
	s := pool(0)
	s.Min, s.Max = 2, 10
	c := newHPAController(s)
	ask := func(current, desired int) int {
		n, _ := c.sync(noon, current, func() (int, bool) { return desired, true })
		return n
	}
	mustCount(t, "above max", ask(12, 5), 10)
	mustCount(t, "below min", ask(1, 5), 2)
	mustCount(t, "to max", ask(8, 30), 10)
	mustCount(t, "zero is off", ask(0, 5), 0)
}

// Of the four syncs of a minute the first see a sample that asks for 13 pods,
// the last one that asks for 10 again. All of them decide: 13, and 300 s of
// stabilization.
func TestHPARunsFourTimesAMinute(t *testing.T) {
	h := newHPA(pool(0.8))
	m := metrics{at: noon.Add(-5 * time.Minute)}
	m.until(noon, sample{ready: 10, busy: 80})
	mustCount(t, "at noon", h.Decide(noon, m.see(10, 10)).Count, 10)
	m.until(noon.Add(30*time.Second), sample{ready: 10, busy: 100})
	m.until(noon.Add(time.Minute), sample{ready: 10, busy: 80})
	mustCount(t, "after the minute", h.Decide(noon.Add(time.Minute), m.see(10, 10)).Count, 13)
}
