package sim

import (
	"math"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
)

// Defaults of a KEDA ScaledObject.
const (
	kedaPolling  = 30 * time.Second // pollingInterval: how often it looks whether to wake from zero
	kedaCooldown = 5 * time.Minute  // cooldownPeriod: from the last activity to zero
)

// keda is KEDA scaling on the length of a queue. It follows kedacore/keda v2:
// pkg/scaling/executor/scale_scaledobjects.go (RequestScale, scaleToZeroOrIdle)
// between zero and one, and from one up the HorizontalPodAutoscaler that
// controllers/keda/hpa.go creates, on an External metric with target type
// AverageValue (GetExternalPerPodMetricReplicas of the Kubernetes controller).
//
// The length counts messages in flight too, as the SQS and RabbitMQ scalers do
// by default, and the target is what one replica handles at once, as their
// pages advise; the knob is a factor on it. Counting waiting messages only, as
// a Redis list does, is far worse: a queue is then a command to start replicas
// again at each sync until it is gone. activationValue is 0, the default.
//
// In its favor: it runs at its own periods inside the simulator's interval.
type keda struct {
	hpaController
	setup  Setup
	target float64 // requests of a replica
	poll   periodic
	active time.Time // when the queue was last seen not empty
}

func newKEDA(s Setup) Policy {
	return &keda{
		hpaController: newHPAController(s), setup: s, target: s.Knob * float64(s.Slots),
		poll: periodic{period: kedaPolling},
	}
}

func (k *keda) Name() string { return "keda" }

func (k *keda) Decide(now time.Time, o Observation) plan.Decision {
	current, why := o.Wanted, "no sync is due"
	for t := range k.until(now) {
		current, why = k.sync(t, current, func() (int, bool) {
			queue, ok := k.length(o, t)
			return podsForTotal(current, queue/k.target), ok
		})
	}
	for t := range k.poll.until(now) {
		if queue, ok := k.length(o, t); ok {
			current, why = k.zero(t, current, queue, why)
		}
	}
	return plan.Decision{Count: current, Rule: "keda", Reason: k.reason(why)}
}

// length is the queue's length, messages in flight included.
func (k *keda) length(o Observation, t time.Time) (float64, bool) {
	busy, ok := newest(o.InService, t, k.setup.Delay)
	waiting, _ := newest(o.Waiting, t, k.setup.Delay)
	return busy + waiting, ok
}

// podsForTotal is the number of pods that shares a total out at its target a
// pod; total is in units of that target.
func podsForTotal(current int, total float64) int {
	if math.Abs(1-total/float64(current)) <= hpaTolerance {
		return current
	}
	return ceil(total)
}

// zero does KEDA's own part: from zero to one and back.
func (k *keda) zero(now time.Time, current int, queue float64, why string) (int, string) {
	if k.active.IsZero() || queue > 0 {
		k.active = now
	}
	switch {
	case queue > 0 && current == 0:
		return max(k.setup.Min, 1), "activated"
	case queue == 0 && current > 0 && k.setup.Min == 0 && now.After(k.active.Add(kedaCooldown)):
		return 0, "cooled down"
	}
	return current, why
}
