package sim

import (
	"testing"
	"time"
)

// A case worked through Scale of pkg/autoscaler/scaling/autoscaler.go by hand,
// with a target of 7 (ten slots at 70 %).
func TestKPAScale(t *testing.T) {
	k := newKnative(pool(0.7)).(*knative)
	at := func(after time.Duration, ready int, stable, fast float64) int {
		return k.scale(noon.Add(after), ready, stable, fast)
	}
	mustCount(t, "ceil(70/7)", at(0, 10, 70, 70), 10)
	mustCount(t, "one more", at(2*time.Second, 10, 71, 71), 11)
	// ceil(139/7) is 20, twice what is ready: panic, and the panic window counts.
	mustCount(t, "panic", at(4*time.Second, 10, 80, 139), 20)
	mustCount(t, "never down in panic", at(30*time.Second, 10, 75, 70), 20)
	mustCount(t, "on up in panic, by the stable window too", at(40*time.Second, 15, 150, 140), 22)
	// Over the threshold last at 4 s: stable again after 64 s.
	mustCount(t, "still", at(64*time.Second, 22, 14, 14), 22)
	// ceil(14/7) is 2, but no more than half of the ready go in a tick.
	mustCount(t, "down by half", at(66*time.Second, 22, 14, 14), 11)
	mustCount(t, "and on", at(68*time.Second, 11, 14, 14), 5)
}

// Starting pods are not ready: what starts prolongs the panic.
func TestKPAPanicsUntilPodsAreReady(t *testing.T) {
	k := newKnative(pool(0.7)).(*knative)
	mustCount(t, "panic", k.scale(noon, 5, 70, 70), 10)
	mustCount(t, "two minutes on", k.scale(noon.Add(2*time.Minute), 5, 70, 70), 10)
	if k.panicking.IsZero() {
		t.Error("left panic with half of the pods ready")
	}
}

func TestKPACountsTheQueue(t *testing.T) {
	o := steady(10, 10, sample{busy: 60, waiting: 17})
	mustCount(t, "ceil(77/7)", newKnative(pool(0.7)).Decide(noon, o).Count, 11)
}

// Within a minute there are thirty ticks, so half each tick is no limit.
func TestKPAScalesInWithinAMinute(t *testing.T) {
	k := newKnative(pool(0.7))
	m := metrics{at: noon.Add(-5 * time.Minute)}
	m.until(noon.Add(5*time.Minute), sample{ready: 100, busy: 7})
	// It begins in panic, as over any running revision, and stays for the
	// stable window.
	mustCount(t, "begins in panic", k.Decide(noon, m.see(100, 100)).Count, 100)
	mustCount(t, "still in it", k.Decide(noon.Add(time.Minute), m.see(100, 100)).Count, 100)
	mustCount(t, "then all at once", k.Decide(noon.Add(2*time.Minute), m.see(100, 100)).Count, 1)
}

func TestKPAToZero(t *testing.T) {
	s := pool(0.7)
	s.Min = 0
	k := newKnative(s).(*knative)
	mustCount(t, "grace period", k.bound(noon, 0), 1)
	mustCount(t, "grace period", k.bound(noon.Add(29*time.Second), 0), 1)
	mustCount(t, "over", k.bound(noon.Add(30*time.Second), 0), 0)
	mustCount(t, "wanted again", k.bound(noon.Add(32*time.Second), 1), 1)
	mustCount(t, "anew", k.bound(noon.Add(34*time.Second), 0), 1)
	// From zero: ready counts as one, and the first request is enough.
	mustCount(t, "from zero", k.scale(noon.Add(time.Minute), 0, 0.5, 1), 1)
}
