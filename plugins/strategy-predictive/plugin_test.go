package main

import (
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"github.com/gpupool/gpupool/internal/pluginconfig"
	"github.com/gpupool/gpupool/internal/setting"
	"github.com/gpupool/gpupool/internal/strategy"
)

func run(t *testing.T, p *plugin, config map[string]string, count int64, values ...float64) (*sdk.ScalingAction, error) {
	t.Helper()
	eval := &sdk.ScalingCheckEvaluation{
		Check:  &sdk.ScalingPolicyCheck{Name: "demand", Strategy: &sdk.ScalingPolicyStrategy{Config: config}},
		Action: &sdk.ScalingAction{},
	}
	// One sample every ten seconds, the last one now.
	start := time.Now().Add(-time.Duration(len(values)-1) * 10 * time.Second)
	for i, v := range values {
		eval.Metrics = append(eval.Metrics, sdk.TimestampedMetric{Timestamp: start.Add(time.Duration(i) * 10 * time.Second), Value: v})
	}
	out, err := p.Run(eval, count)
	if err != nil {
		return nil, err
	}
	return out.Action, nil
}

func repeat(v float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = v
	}
	return out
}

func TestRun(t *testing.T) {
	rules := map[string]string{"units": "2", "min": "0", "max": "3"}
	for _, tt := range []struct {
		name   string
		count  int64
		demand []float64
		want   int64
		dir    sdk.ScaleDirection
	}{
		{"three GPUs are asked for, two a host", 0, repeat(3, 10), 2, sdk.ScaleDirectionUp},
		{"more than there are", 0, repeat(99, 10), 3, sdk.ScaleDirectionUp},
		{"enough", 2, repeat(4, 10), 2, sdk.ScaleDirectionNone},
		{"surplus for longer than a minute", 2, repeat(0, 10), 0, sdk.ScaleDirectionDown},
		{"surplus only lately", 2, append(repeat(4, 8), 0, 0), 2, sdk.ScaleDirectionNone},
		{"the count is beyond the policy's max", 7, repeat(8, 10), 3, sdk.ScaleDirectionDown},
		{"no sample at all", 2, nil, 2, sdk.ScaleDirectionNone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlugin(hclog.NewNullLogger())
			if err := p.SetConfig(map[string]string{"scale_in_after": "1m", "nomad_address": "http://127.0.0.1:4646"}); err != nil {
				t.Fatal(err)
			}
			got, err := run(t, p, rules, tt.count, tt.demand...)
			if err != nil {
				t.Fatal(err)
			}
			if got.Count != tt.want || got.Direction != tt.dir {
				t.Errorf("got %d %s (%s), want %d %s", got.Count, got.Direction, got.Reason, tt.want, tt.dir)
			}
			if got.Reason == "" || got.Meta["gpupool.rule"] == "" || got.Meta["gpupool.want"] != float64(tt.want) {
				t.Errorf("the decision does not explain itself: %q %v", got.Reason, got.Meta)
			}
		})
	}
}

func TestMistakesAreToldTogether(t *testing.T) {
	p := newPlugin(hclog.NewNullLogger())
	_, err := run(t, p, map[string]string{"unit": "2", "min": "4", "max": "3", "lead_time": "300"}, 1, 1)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, part := range []string{"units", `did you mean "units"?`, "max", "below min", "lead_time", `"300s"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
	if err := p.SetConfig(map[string]string{"scale_in": "10m"}); err == nil || !strings.Contains(err.Error(), "scale_in_after") {
		t.Errorf("an unknown default: %v", err)
	}
}

func TestSeason(t *testing.T) {
	for _, c := range []struct {
		given string
		want  time.Duration
	}{{"", 0}, {"24h", 0}, {"8h", 8 * time.Hour}} { // 0 is a day, and in no decision log
		check := map[string]string{"units": "2", "max": "9"}
		if c.given != "" {
			check["season"] = c.given
		}
		if s, err := strategy.Read(nil, check); err != nil || s.Rules.Season != c.want {
			t.Errorf("season %q: %s, %v", c.given, s.Rules.Season, err)
		}
	}
	for _, wrong := range []string{"30s", "168h"} {
		if _, err := strategy.Read(nil, map[string]string{"units": "2", "max": "9", "season": wrong}); err == nil || !strings.Contains(err.Error(), "season") {
			t.Errorf("season %q: %v", wrong, err)
		}
	}
}

var update = flag.Bool("update", false, "rewrite the generated part of the reference page")

func TestReferencePage(t *testing.T) {
	r := pluginconfig.Read(strategy.Plugin, nil)
	strategy.Declare(r)
	if err := setting.CheckPage("../../docs/reference/strategy-predictive.md", r.Doc(), *update); err != nil {
		t.Error(err)
	}
}

func TestShadowOnlySays(t *testing.T) {
	p := newPlugin(hclog.NewNullLogger())
	config := map[string]string{"units": "2", "max": "9", "mode": "shadow"}
	got, err := run(t, p, config, 1, repeat(8, 10)...)
	if err != nil {
		t.Fatal(err)
	}
	if got.Count != 1 || got.Direction != sdk.ScaleDirectionNone {
		t.Errorf("it acted: %d %s", got.Count, got.Direction)
	}
	if got.Meta["gpupool.shadow"] != 4.0 || !strings.Contains(got.Reason, "would be scaling out from 1 to 4") {
		t.Errorf("it does not say what it would have done: %q %v", got.Reason, got.Meta)
	}
	if _, err := run(t, p, map[string]string{"units": "2", "max": "9", "mode": "shade"}, 1, 8); err == nil || !strings.Contains(err.Error(), "mode") {
		t.Errorf("an unknown mode: %v", err)
	}
}
