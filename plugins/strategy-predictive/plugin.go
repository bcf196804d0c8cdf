package main

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins/base"
	host "github.com/hashicorp/nomad-autoscaler/plugins/strategy"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/strategy"
)

// pluginName must equal the file name of the binary and the driver in the
// autoscaler's configuration.
const pluginName = strategy.Plugin

var _ host.Strategy = (*plugin)(nil)

// plugin maps the autoscaler's calls to plan.Planner.Decide. What it keeps
// between calls but its configuration follows from what it was shown.
type plugin struct {
	log      hclog.Logger
	defaults atomic.Pointer[map[string]string]
	logs     decisionLogs
	memories *memories
	leads    *leads
}

func newPlugin(log hclog.Logger) *plugin {
	return &plugin{log: log, logs: decisionLogs{log: log}, memories: newMemories(), leads: newLeads(log)}
}

// PluginInfo names the plugin.
func (p *plugin) PluginInfo() (*base.PluginInfo, error) {
	return &base.PluginInfo{Name: pluginName, PluginType: sdk.PluginTypeStrategy}, nil
}

// SetConfig takes defaults for all policies. It may be called again while
// decisions are being made; each decision uses one configuration throughout.
func (p *plugin) SetConfig(config map[string]string) error {
	if err := strategy.CheckDefaults(config); err != nil {
		return err
	}
	own := maps.Clone(config)
	p.defaults.Store(&own)
	return nil
}

// Run decides. The count that it is given includes what is still starting.
func (p *plugin) Run(eval *sdk.ScalingCheckEvaluation, count int64) (*sdk.ScalingCheckEvaluation, error) {
	var defaults, check map[string]string
	if d := p.defaults.Load(); d != nil {
		defaults = *d
	}
	if eval.Check != nil && eval.Check.Strategy != nil {
		check = eval.Check.Strategy.Config
	}
	s, err := strategy.Read(defaults, check)
	if err != nil {
		return nil, err
	}
	s.Rules.Lead = p.leads.lead(s.Lead, s.Rules.Lead)
	in, d, other := p.memories.evaluate(eval.Check, s.Rules, eval.Metrics, input(s, time.Now(), count), !s.Act)
	p.logs.add(s, eval.Check, in, d)
	if !s.Act {
		d = shadow(d, count, other, s.Rules.ReplicaPrice)
	}
	answer(eval.Action, d, count)
	p.log.Debug("decided", "check", checkName(eval), "count", count, "want", d.Count, "rule", string(d.Rule), "reason", d.Reason)
	return eval, nil
}

func checkName(eval *sdk.ScalingCheckEvaluation) string {
	if eval.Check == nil {
		return ""
	}
	return eval.Check.Name
}

// input is what a decision knows beside the demand.
func input(s strategy.Settings, now time.Time, count int64) plan.Input {
	in := plan.Input{Now: now, Count: int(count)}
	s.Bound(&in, s.Rules.Lead)
	return in
}

// shadow keeps the count and says what would have been done, and what it would
// have cost until now against what was paid.
func shadow(d plan.Decision, count int64, c counterfactual, price float64) plan.Decision {
	d.Terms = append(slices.Clip(d.Terms),
		plan.Term{Name: "shadow", Value: float64(d.Count), Unit: "replicas", Note: "would have been wanted"},
		plan.Term{Name: "shadow_count", Value: float64(c.count), Unit: "replicas", Note: "would be there by now, had it acted from the first advice on"},
		plan.Term{Name: "shadow_hours", Value: c.would, Unit: "replica-hours", Note: "that would have been paid for since " + c.since.Format(time.RFC3339)},
		plan.Term{Name: "paid_hours", Value: c.paid, Unit: "replica-hours", Note: "that were"})
	d.Reason = fmt.Sprintf("shadow, the count stays %d: would be %s", count, d.Reason)
	if hours := c.last.Sub(c.since).Hours(); hours >= 1 {
		d.Reason += fmt.Sprintf("; in %.0f h %.1f replica-hours instead of %.1f", hours, c.would, c.paid)
		if price > 0 {
			d.Reason += fmt.Sprintf(", %.2f instead of %.2f", c.would*price, c.paid*price)
		}
	}
	d.Count = int(count)
	return d
}

// answer writes the decision into the action, all of its terms with it: the
// autoscaler logs them, and the target gets them with Scale.
func answer(a *sdk.ScalingAction, d plan.Decision, count int64) {
	a.Count = int64(d.Count)
	a.Reason = d.Reason
	switch {
	case a.Count > count:
		a.Direction = sdk.ScaleDirectionUp
	case a.Count < count:
		a.Direction = sdk.ScaleDirectionDown
	default:
		a.Direction = sdk.ScaleDirectionNone
	}
	a.Canonicalize()
	a.Meta["gpupool.rule"] = string(d.Rule)
	for _, t := range d.Terms {
		a.Meta[fmt.Sprintf("gpupool.%s", t.Name)] = t.Value
	}
}
