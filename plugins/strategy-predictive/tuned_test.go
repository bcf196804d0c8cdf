package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/strategy"
	"github.com/gpupool/gpupool/internal/tune"
)

// What gpupool tune writes the plugin takes, and understands as it was meant.
func TestWhatIsTunedIsTaken(t *testing.T) {
	for _, p := range tune.Params() {
		for _, v := range []float64{p.Low, (p.Low + p.High) / 2, p.High} {
			rules := plan.Rules{Units: 8, Max: 10, Lead: 5 * time.Minute, Interval: time.Minute, SLO: 0.99}
			p.Set(&rules, v)
			config := map[string]string{"units": "8", "max": "10", p.Key: p.Text(rules)}
			s, err := strategy.Read(nil, config)
			if err != nil {
				t.Errorf("%s: %v", p.Key, err)
				continue
			}
			// What it understood it would write the same.
			if got := p.Text(s.Rules); got != config[p.Key] {
				t.Errorf("%s = %q was understood as %s", p.Key, config[p.Key], got)
			}
			if err := s.Rules.Validate(); err != nil {
				t.Errorf("%s: %v", fmt.Sprint(config), err)
			}
		}
	}
}
