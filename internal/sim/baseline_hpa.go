package sim

import (
	"fmt"
	"math"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
)

// Defaults of the Kubernetes controller manager and of autoscaling/v2.
const (
	hpaPeriod    = 15 * time.Second // --horizontal-pod-autoscaler-sync-period
	hpaTolerance = 0.1              // --horizontal-pod-autoscaler-tolerance
	hpaStabilize = 5 * time.Minute  // behavior.scaleDown.stabilizationWindowSeconds
	hpaUpPods    = 4                // behavior.scaleUp.policies, of which the larger counts
	hpaUpFactor  = 2
)

// hpa is the Kubernetes HorizontalPodAutoscaler, autoscaling/v2, on the mean
// utilization of the pods' slots (a Pods metric with target type AverageValue,
// as with DCGM or a model server's busy slots). It follows
// pkg/controller/podautoscaler: replica_calculator.go (calcPlainMetricReplicas)
// and horizontal.go (stabilizeRecommendationWithBehaviors,
// convertDesiredReplicasWithBehaviorRate), with the scaling behavior that the
// user guide documents as default (pkg/apis/autoscaling/v2/defaults.go).
//
// In its favor: it runs at its own 15 s inside the simulator's interval; the
// utilization and the number of pods that it is of come from the same instant;
// pods that start are Pending, as they are while a host boots for them, so that
// they do not hold up a scale-down as pods without metrics would.
//
// The metric saturates: at a target of 0.8 no sync asks for more than a quarter
// more than the ready pods, and at 0.91 and above the tolerance keeps even a
// pool that is all busy from growing. KEDA is the same controller on a metric
// that does not saturate.
type hpa struct {
	hpaController
	setup  Setup
	target float64
}

func newHPA(s Setup) Policy {
	return &hpa{hpaController: newHPAController(s), setup: s, target: s.Knob}
}

func (h *hpa) Name() string { return "hpa" }

func (h *hpa) Decide(now time.Time, o Observation) plan.Decision {
	current, why := o.Wanted, "no sync is due"
	for t := range h.until(now) {
		current, why = h.sync(t, current, func() (int, bool) {
			mean, ok := newest(o.Utilization, t, h.setup.Delay)
			pods, _ := newest(o.ReadyCount, t, h.setup.Delay)
			return podsForMean(current, int(pods), mean/h.target), ok && pods > 0
		})
	}
	return plan.Decision{Count: current, Rule: "hpa", Reason: h.reason(why)}
}

// podsForMean is the number of pods that brings the mean of a per-pod metric to
// its target, where it is ratio times that now. Of the current pods, measured
// have the metric; the others are unready, and for a scale-up are taken to use
// nothing.
func podsForMean(current, measured int, ratio float64) int {
	measured = min(measured, current)
	if measured == current || ratio <= 1 {
		if math.Abs(1-ratio) <= hpaTolerance {
			return current
		}
		return ceil(ratio * float64(measured))
	}
	rebalanced := ratio * float64(measured) / float64(current)
	if rebalanced < 1 || rebalanced-1 <= hpaTolerance {
		return current
	}
	return ceil(rebalanced * float64(current))
}

// hpaController is the part of the HorizontalPodAutoscaler that does not
// depend on the kind of metric.
type hpaController struct {
	periodic
	min, max int
	advice   []wanted // of the last hpaStabilize, oldest first
	asked    int      // by the metric, at the last sync that had it
}

func newHPAController(s Setup) hpaController {
	// A HorizontalPodAutoscaler does not scale to zero (HPAScaleToZero is alpha).
	return hpaController{periodic: periodic{period: hpaPeriod}, min: max(s.Min, 1), max: s.Max}
}

// sync is one reconciliation: it returns the new number of replicas. metric
// proposes one; ok is false where the metric cannot be had, which changes
// nothing.
func (c *hpaController) sync(now time.Time, current int, metric func() (desired int, ok bool)) (int, string) {
	switch {
	case current == 0:
		return 0, "scaling is disabled at zero replicas"
	case current > c.max:
		return c.max, "above maxReplicas"
	case current < c.min:
		return c.min, "below minReplicas"
	}
	if c.advice == nil {
		c.advice = []wanted{{now, current}}
	}
	desired, ok := metric()
	if !ok {
		return current, "the metric is missing"
	}
	c.asked = desired
	return c.limit(current, c.stabilize(now, current, desired)), "by the metric"
}

func (c *hpaController) reason(why string) string {
	return fmt.Sprintf("%s, which last asked for %d", why, c.asked)
}

// stabilize notes what is desired and, on the way down, returns the most that
// was over the window. On the way up the default window is nil.
func (c *hpaController) stabilize(now time.Time, current, desired int) int {
	keep := c.advice[:0]
	for _, a := range c.advice {
		if a.at.After(now.Add(-hpaStabilize)) {
			keep = append(keep, a)
		}
	}
	c.advice = append(keep, wanted{now, desired})
	if desired >= current {
		return desired
	}
	for _, a := range c.advice {
		desired = max(desired, a.count)
	}
	return desired
}

// limit applies the scaling policies and min and max. Up: four pods or 100 %
// in 15 s, whichever is more; syncs are as far apart as the period, so what was
// added earlier never counts. Down: 100 %, which is no limit.
func (c *hpaController) limit(current, desired int) int {
	if desired > current {
		desired = min(desired, max(current+hpaUpPods, current*hpaUpFactor))
	}
	return max(min(desired, c.max), c.min)
}

// ceil rounds up, forgiving the last digits of a product.
func ceil(v float64) int { return int(math.Ceil(v - 1e-9)) }
