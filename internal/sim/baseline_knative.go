package sim

import (
	"math"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
)

// Defaults of Knative's config-autoscaler ConfigMap, and the tick of
// pkg/autoscaler/scaling/multiscaler.go.
const (
	kpaTick       = 2 * time.Second
	kpaStable     = 60 * time.Second
	kpaPanic      = 2.0    // panic-threshold-percentage
	kpaMaxUp      = 1000.0 // max-scale-up-rate
	kpaMaxDown    = 2.0    // max-scale-down-rate
	kpaZeroGrace  = 30 * time.Second
	kpaPanicShare = 0.1 // panic-window-percentage, of the stable window
)

// knative is the Knative Pod Autoscaler (KPA) on concurrency, with
// containerConcurrency set to the slots of a replica. It follows
// knative/serving pkg/autoscaler/scaling/autoscaler.go (Scale) and, for zero,
// pkg/reconciler/autoscaling/kpa/scaler.go (handleScaleToZero); the knob is
// container-concurrency-target-percentage.
//
// Concurrency counts the requests that wait: with the default
// target-burst-capacity the activator stays in the path of a revision of this
// size and reports its queue. Unlike a KPA on real pods, this one sees all of
// the queue at once.
//
// In its favor: it runs at its own 2 s inside the simulator's interval, and a
// pod that it stops leaves the ready count at once, so that max-scale-down-rate
// hardly limits it. Against it: the simulator's samples are longer than the
// panic window of 6 s, so the newest sample stands for the panic metric.
type knative struct {
	periodic
	setup  Setup
	target float64 // concurrency of a replica

	panicking time.Time // when the panic threshold was last passed; zero in stable mode
	most      int       // replicas that a panic does not go below
	begun     bool
	idle      time.Time // since when zero is desired
}

func newKnative(s Setup) Policy {
	return &knative{periodic: periodic{period: kpaTick}, setup: s, target: s.Knob * float64(s.Slots)}
}

func (k *knative) Name() string { return "knative" }

func (k *knative) Decide(now time.Time, o Observation) plan.Decision {
	n, why := o.Wanted, "no tick is due"
	if !k.begun {
		k.begun = true
		if o.Ready > 1 { // an autoscaler that starts over a running revision starts in panic
			k.panicking, k.most = now, o.Ready
		}
	}
	for t := range k.until(now) {
		stable, fast, ok := k.concurrency(o, t)
		if !ok {
			why = "no data to scale on yet"
			continue
		}
		n = k.bound(t, k.scale(t, min(o.Ready, n), stable, fast))
		why = "in stable mode"
		if !k.panicking.IsZero() {
			why = "in panic mode"
		}
	}
	return plan.Decision{Count: n, Rule: "knative", Reason: why}
}

// concurrency is the mean of requests in the system over the stable and the
// panic window.
func (k *knative) concurrency(o Observation, t time.Time) (stable, fast float64, ok bool) {
	seen := t.Add(-k.setup.Delay)
	mean := func(window time.Duration) (float64, bool) {
		from := seen.Add(-window)
		busy, ok := o.InService.Window(from, seen).Mean()
		waiting, _ := o.Waiting.Window(from, seen).Mean()
		return busy + waiting, ok
	}
	if stable, ok = mean(kpaStable); !ok {
		return 0, 0, false
	}
	window := time.Duration(kpaPanicShare * float64(kpaStable))
	if fast, ok = mean(max(window, k.setup.Sample)); !ok {
		fast = stable
	}
	return stable, fast, true
}

// scale is one evaluation: the replicas desired for the mean concurrency over
// the stable and the panic window.
func (k *knative) scale(now time.Time, ready int, stable, fast float64) int {
	pods := math.Max(1, float64(ready))
	limit := func(v float64) int {
		return int(min(max(v, math.Floor(pods/kpaMaxDown)), math.Ceil(kpaMaxUp*pods)))
	}
	forPanic := math.Ceil(fast / k.target)
	desired := limit(math.Ceil(stable / k.target))
	switch {
	case forPanic/pods >= kpaPanic:
		k.panicking = now
	case !k.panicking.IsZero() && k.panicking.Add(kpaStable).Before(now):
		k.panicking, k.most = time.Time{}, 0
	}
	if !k.panicking.IsZero() {
		k.most = max(k.most, desired, limit(forPanic))
		desired = k.most
	}
	return desired
}

// bound applies min and max, and lets the last replica go one grace period
// after it is no longer desired.
func (k *knative) bound(now time.Time, desired int) int {
	n := max(min(desired, k.setup.Max), k.setup.Min)
	if n > 0 {
		k.idle = time.Time{}
		return n
	}
	if k.idle.IsZero() {
		k.idle = now
	}
	if now.Sub(k.idle) < kpaZeroGrace {
		return 1
	}
	return 0
}
