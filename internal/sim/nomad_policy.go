package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	targetvalue "github.com/hashicorp/nomad-autoscaler/plugins/builtin/strategy/target-value/plugin"
	threshold "github.com/hashicorp/nomad-autoscaler/plugins/builtin/strategy/threshold/plugin"
	"github.com/hashicorp/nomad-autoscaler/plugins/strategy"
	"github.com/hashicorp/nomad-autoscaler/sdk"
)

// NomadCheck is one check of a scaling policy whose strategy is one of Nomad
// Autoscaler's own.
type NomadCheck struct {
	Name     string
	Strategy string            // one of NomadStrategies
	Config   map[string]string // of the strategy block
}

// nomadStrategies are the autoscaler's own strategies that the simulator runs.
var nomadStrategies = map[string]func() strategy.Strategy{
	"target-value": func() strategy.Strategy { return targetvalue.NewTargetValuePlugin(hclog.NewNullLogger()) },
	"threshold":    func() strategy.Strategy { return threshold.NewThresholdPlugin(hclog.NewNullLogger()) },
}

// NomadStrategies are the names that [NomadCheck.Strategy] may have, sorted.
func NomadStrategies() []string { return slices.Sorted(maps.Keys(nomadStrategies)) }

// NomadPolicy is a scaling policy as Nomad Autoscaler would run it, with its
// own plugins. The metric of all its checks is the utilization of the ready
// replicas in percent. Zero Min, Max and Cooldown are those of the world and of
// the autoscaler.
type NomadPolicy struct {
	Checks   []NomadCheck
	Min, Max int
	Cooldown time.Duration
}

// New returns the policy in a world.
func (p NomadPolicy) New(s Setup) Policy {
	a := &nomadAgent{name: "nomad", setup: s, metric: utilization, cooldown: p.Cooldown}
	if p.Max > 0 {
		a.setup.Min, a.setup.Max = max(s.Min, p.Min), min(s.Max, p.Max)
	}
	for _, c := range p.Checks {
		a.checks = append(a.checks, newNomadCheck(c.Name, nomadStrategies[c.Strategy](), c.Config))
	}
	return a
}

// onePoint is the least that a plugin looks at its configuration for.
var onePoint = sdk.TimestampedMetrics{{Timestamp: time.Unix(0, 0), Value: 50}}

// Check asks each plugin once, so that what it refuses in its configuration is
// known before anything is simulated.
func (p NomadPolicy) Check() error {
	for _, c := range p.Checks {
		plugin, ok := nomadStrategies[c.Strategy]
		if !ok {
			return fmt.Errorf("check %q: no strategy %q", c.Name, c.Strategy)
		}
		if _, err := newNomadCheck(c.Name, plugin(), c.Config).run(onePoint, 1); err != nil {
			return fmt.Errorf("check %q: %w", c.Name, err)
		}
	}
	return nil
}
