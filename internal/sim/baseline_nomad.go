package sim

import (
	"cmp"
	"strconv"
	"time"

	"github.com/hashicorp/nomad-autoscaler/plugins/strategy"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"github.com/gpupool/gpupool/internal/plan"
)

// Defaults of the Nomad Autoscaler agent.
const (
	nomadCooldown    = 5 * time.Minute // agent/config/config.go, defaultPolicyCooldown; also on scale-up
	nomadQueryWindow = time.Minute     // policy/source.go, DefaultQueryWindow
	nomadStep        = time.Second     // of a query to Prometheus: plugins/builtin/apm/prometheus
)

// nomadAgent is what the agent of Nomad Autoscaler v0.5.0 does with a policy
// around its strategy plugins, which are the real ones. It follows
// policy/check.go (queryMetrics, runCheckAndCapCount) and policy/handler.go
// (Run, pickWinnerActionFromGroups, waitAndScale):
//
//   - The metric is queried from a Prometheus over the last minute in steps of
//     a second. Without one point in it the evaluation is given up.
//   - All checks are of one group, without which a threshold policy could
//     never scale in.
//   - count is what the target reports. That includes replicas which do not
//     serve yet: the nomad target counts running allocations, loading ones
//     among them, and the targets of clouds the desired capacity.
//   - After an action nothing is done for the cooldown.
//
// In its favor: the query averages the metric over two minutes; the default
// evaluation interval of 10 s is cut to the
// simulator's, and an action is possible at the very instant at which the
// cooldown ends; targets stay ready while replicas start, which those of clouds
// do not.
type nomadAgent struct {
	name     string
	setup    Setup
	metric   nomadMetric
	checks   []nomadCheck
	cooldown time.Duration // 0 is the agent's default
	busy     time.Time     // until when the policy is in cooldown
	points   sdk.TimestampedMetrics
}

// nomadMetric is what the query says of the sample at t, 1 being all of the
// ready replicas' slots; ok is false where it has no point there.
type nomadMetric func(o Observation, slots int, t time.Time) (v float64, ok bool)

type nomadCheck struct {
	strategy strategy.Strategy
	check    *sdk.ScalingPolicyCheck
}

func newNomadCheck(name string, s strategy.Strategy, config map[string]string) nomadCheck {
	return nomadCheck{s, &sdk.ScalingPolicyCheck{Name: name,
		Strategy: &sdk.ScalingPolicyStrategy{Name: name, Config: config}}}
}

func (a *nomadAgent) Name() string { return a.name }

func (a *nomadAgent) Decide(now time.Time, o Observation) plan.Decision {
	stay := func(why string) plan.Decision {
		return plan.Decision{Count: o.Wanted, Rule: "nomad", Reason: why}
	}
	a.query(now, o)
	if len(a.points) == 0 {
		return stay("no metrics available")
	}
	var winner *sdk.ScalingAction
	for _, c := range a.checks {
		action, err := c.run(a.points, int64(o.Wanted))
		if err != nil {
			return stay(err.Error())
		}
		action.CapCount(int64(a.setup.Min), int64(a.setup.Max))
		if action.Direction != sdk.ScaleDirectionNone {
			winner = sdk.PreemptScalingAction(winner, &action)
		}
	}
	switch {
	case winner == nil || winner.Count == int64(o.Wanted):
		return stay("no action needed")
	case now.Before(a.busy):
		return stay("policy still on cooldown")
	}
	a.busy = now.Add(cmp.Or(a.cooldown, nomadCooldown))
	return plan.Decision{Count: int(winner.Count), Rule: "nomad", Reason: winner.Reason}
}

// query fills points with the last query window of the metric, in percent.
func (a *nomadAgent) query(now time.Time, o Observation) {
	a.points = a.points[:0]
	samples, from := o.ReadyCount, now.Add(-nomadQueryWindow)
	samples = samples[max(len(samples.Window(time.Time{}, from))-1, 0):]
	for i, p := range samples {
		v, ok := a.metric(o, a.setup.Slots, p.At)
		if !ok {
			continue
		}
		until := now // or the next sample
		if i+1 < len(samples) {
			until = samples[i+1].At.Add(-nomadStep)
		}
		if stale := p.At.Add(lookback); stale.Before(until) {
			until = stale
		}
		first := p.At
		if first.Before(from) {
			first = from
		}
		for t := first; !t.After(until); t = t.Add(nomadStep) {
			a.points = append(a.points, sdk.TimestampedMetric{Timestamp: t, Value: 100 * v})
		}
	}
}

// run asks the plugin. A nil answer, which the built-in plugins give where
// they have nothing to say, is no action.
func (c nomadCheck) run(points sdk.TimestampedMetrics, count int64) (sdk.ScalingAction, error) {
	eval := &sdk.ScalingCheckEvaluation{Check: c.check, Metrics: points, Action: &sdk.ScalingAction{Meta: map[string]any{}}}
	eval, err := c.strategy.Run(eval, count)
	if err != nil || eval == nil {
		return sdk.ScalingAction{}, err
	}
	return *eval.Action, nil
}

func decimal(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
