package policyfile

import (
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/setting"
	"github.com/gpupool/gpupool/internal/sim"
)

// try is what a policy costs in a small world, and how late it is.
func try(t *testing.T, spec sim.Spec, cfg sim.Config) sim.PolicyReport {
	t.Helper()
	cfg.Peak = 8
	w, err := sim.NewWorld(cfg, sim.Week(1))
	if err != nil {
		t.Fatal(err)
	}
	return w.Run(spec, spec.Knob.Default)
}

func parse(t *testing.T, text string) sim.Spec {
	t.Helper()
	spec, err := Parse("mine.hcl", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func same(a, b sim.PolicyReport) bool {
	return a.GPUHours == b.GPUHours && a.Attainment == b.Attainment && a.PowerCycles == b.PowerCycles
}

// A strategy block that states nothing is the policy called predictive, whatever
// its pool's units are.
func TestWhatIsNotStatedIsTheWorlds(t *testing.T) {
	predictive, _ := sim.Lookup("predictive")
	got := try(t, parse(t, "strategy \"gpupool\" {\n  units = 2\n  max = 500\n}\n"), sim.Config{})
	if want := try(t, predictive, sim.Config{}); !same(got, want) {
		t.Errorf("%.0f GPU-hours, %.4f on time, %d starts; predictive has %.0f, %.4f, %d", got.GPUHours, got.Attainment, got.PowerCycles, want.GPUHours, want.Attainment, want.PowerCycles)
	}
	if got.Name != "mine.hcl" {
		t.Errorf("it is called %q", got.Name)
	}
}

func TestWhatIsStatedHolds(t *testing.T) {
	rules := plan.Rules{Min: 3, Max: 5, Lead: 9 * time.Minute, SLO: 0.9, Wait: 30 * time.Second, Wear: time.Hour}
	world := plan.Rules{Units: 8, Interval: time.Minute, Min: 1, Max: 4, Lead: 5 * time.Minute, SLO: 0.99, Wait: time.Minute}
	all := map[string]setting.Given{"lead_time": {}, "slo": {}, "slo_wait": {}}
	got := over(world, rules, all)
	want := plan.Rules{Units: 8, Interval: time.Minute, Min: 3, Max: 4, Lead: 9 * time.Minute, SLO: 0.9, Wait: 30 * time.Second, Wear: time.Hour}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	got = over(world, rules, nil)
	want.Lead, want.SLO, want.Wait = world.Lead, world.SLO, world.Wait
	if got != want {
		t.Errorf("nothing stated: got %+v\nwant %+v", got, want)
	}
	if got := over(world, plan.Rules{Min: 9, Max: 20}, nil); got.Min != 4 || got.Max != 4 {
		t.Errorf("beyond the world: %d to %d, want 4 to 4", got.Min, got.Max)
	}
}

// A schedule of the file holds in the simulated time.
func TestASchedule(t *testing.T) {
	spec := parse(t, "strategy \"gpupool\" {\n  max = 12\n  schedule = \"0 0 * * * for 24h: min 10\"\n}\n")
	got := try(t, spec, sim.Config{Max: 12})
	if hours := 144.0 * 10; got.GPUHours < hours {
		t.Errorf("%.0f GPU-hours with never fewer than ten, want %.0f at least", got.GPUHours, hours)
	}
}

func TestAWholeScalingPolicy(t *testing.T) {
	spec := parse(t, `
scaling "gpu-hosts" {
  enabled = true
  min     = 0
  max     = 9
  policy {
    cooldown = "1m"
    check "demand" {
      source = "gpupool"
      query  = "demand_gpus{pool=\"h100\"}"
      strategy "gpupool" {
        units = 2
        max   = 6
        wear  = "1h"
      }
    }
    target "gpupool" { pool = "h100" }
  }
}`)
	if got := try(t, spec, sim.Config{}); got.Attainment < 0.5 || got.PowerCycles == 0 {
		t.Errorf("%+v", got)
	}
}

// The autoscaler's own strategies run as the policies of the table that have
// the same settings.
func TestNomadsOwn(t *testing.T) {
	target, _ := sim.Lookup("nomad-target-value")
	got := try(t, parse(t, "strategy \"target-value\" {\n  target = 70\n}\n"), sim.Config{})
	if want := try(t, target, sim.Config{}); !same(got, want) {
		t.Errorf("target-value: %v, %v", got, want)
	}
	threshold, _ := sim.Lookup("nomad-threshold")
	spec := parse(t, `
scaling "x" {
  policy {
    check "high" { 
      strategy "threshold" {
        lower_bound = 70
        percentage  = 30
      }
    }
    check "low" {
      strategy "threshold" {
        upper_bound = 50
        percentage  = -10
      }
    }
  }
}`)
	if got, want := try(t, spec, sim.Config{}), try(t, threshold, sim.Config{}); !same(got, want) {
		t.Errorf("threshold: %v, %v", got, want)
	}
	slow := parse(t, "policy {\n  cooldown = \"1h\"\n  check \"a\" {\n    strategy \"target-value\" {\n      target = 70\n    }\n  }\n}\n")
	if got, want := try(t, slow, sim.Config{}), try(t, target, sim.Config{}); got.PowerCycles*2 > want.PowerCycles {
		t.Errorf("with a cooldown of an hour %d starts, without %d", got.PowerCycles, want.PowerCycles)
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "no strategy block"},
		{"no such strategy", "strategy \"gpupol\" {\n}\n", `mine.hcl:1: strategy "gpupol": the simulator does not have it; did you mean "gpupool"?`},
		{"unknown key", "strategy \"gpupool\" {\n  slo_wiat = \"1s\"\n}\n", `mine.hcl:2: strategy "gpupool": slo_wiat: there is no such setting; did you mean "slo_wait"?`},
		{"no unit", "strategy \"gpupool\" {\n  lead_time = \"10\"\n}\n", "mine.hcl:2: strategy \"gpupool\": lead_time"},
		{"two of ours", "strategy \"gpupool\" {\n}\nstrategy \"gpupool\" {\n}\n", "mine.hcl:3: strategy: is the second one"},
		{"an expression", "strategy \"gpupool\" {\n  slo = 1 - 2\n}\n", "has an expression"},
		{"not HCL", "strategy {{", "mine.hcl:1"},
		{"what the plugin refuses", "strategy \"target-value\" {\n}\n", "missing required field `target`"},
		{"a bad cooldown", "policy {\n cooldown = \"soon\"\n check \"a\" {\n strategy \"target-value\" {\n target = 1\n}\n}\n}\n", `cooldown: "soon" is no duration`},
		{"a bad max", "scaling \"x\" {\n max = -1\n policy {\n}\n}\n", `max: "-1" is no count`},
		{"half a count", "scaling \"x\" {\n max = \"12abc\"\n policy {\n}\n}\n", `max: "12abc" is no count`},
		{"huge", strings.Repeat("#", maxFile+1), "is larger than"},
	} {
		if _, err := Parse("mine.hcl", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("strategy \"gpupool\" {\n  slo = \"99 %\"\n}\n")
	f.Add("scaling \"x\" {\n max = 3\n policy {\n cooldown = \"1m\"\n check \"a\" {\n strategy \"threshold\" {\n lower_bound = 1\n}\n}\n}\n}\n")
	f.Fuzz(func(t *testing.T, text string) {
		spec, err := Parse("f.hcl", []byte(text))
		if (err == nil) != (spec.New != nil) {
			t.Errorf("error %v, policy %v", err, spec.New != nil)
		}
		if err == nil {
			spec.New(sim.Setup{Slots: 8, Min: 1, Max: 4, Lead: time.Minute, Interval: time.Minute, SLO: 0.99, SLOWait: time.Minute, Knob: 1})
		}
	})
}
