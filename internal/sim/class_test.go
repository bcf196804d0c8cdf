package sim

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

var threeClasses = []Class{{Name: "owned", Max: 2, Price: 0.5}, {Name: "spot", Max: 3, Price: 1}, {Name: "on-demand", Price: 3}}

func TestClassesFillInOrderAndEmptyFromTheLast(t *testing.T) {
	w := mustWorld(t, Config{Peak: 4, Max: 20, Lead: time.Minute, Warmup: tick, Classes: threeClasses}, flat(repeat(10, 200)...))
	f := newFleet(w.cfg)
	f.begin(1)
	f.want(0, 7)
	for now := range ticks(2 * time.Minute) {
		f.advance(now)
	}
	if got := f.kinds.ready; !slices.Equal(got, []int{2, 3, 2}) {
		t.Errorf("seven are %v, want 2 owned, 3 spot, 2 on demand", got)
	}
	f.want(ticks(2*time.Minute), 4)
	if got := f.kinds.ready; !slices.Equal(got, []int{2, 2, 0}) {
		t.Errorf("four are %v, want 2 owned, 2 spot", got)
	}
	f.want(ticks(3*time.Minute), 6)
	f.want(ticks(3*time.Minute), 4) // given up before they were ready
	if got := f.kinds.starting; !slices.Equal(got, []int{0, 0, 0}) {
		t.Errorf("starting %v", got)
	}
}

func TestNoClassHasRoom(t *testing.T) {
	w := mustWorld(t, Config{Peak: 4, Max: 20, Lead: time.Minute, Warmup: tick, Classes: threeClasses[:2]}, flat(repeat(10, 200)...))
	f := newFleet(w.cfg)
	f.begin(1)
	f.want(0, 9)
	if n := f.ready + len(f.starting); n != 5 {
		t.Errorf("%d of the 5 that there are", n)
	}
}

// The cost is each class's hours at its price, and they add up to all hours.
func TestClassesAreBilledApart(t *testing.T) {
	cfg := Config{Peak: 8, Max: 16, Classes: threeClasses}
	r := mustWorld(t, cfg, Week(1)).Run(mustSpec(t, "tracking"), 0.85)
	hours, cost := 0.0, float64(r.PowerCycles)*0.1
	for i, c := range r.Classes {
		hours += c.GPUHours
		cost += c.GPUHours * threeClasses[i].Price
	}
	near(t, "GPU-hours of all classes", hours, r.GPUHours, 1e-6*r.GPUHours)
	near(t, "cost", r.Cost, cost, 1e-9*cost)
	scored := Week(1).Duration().Hours() - 24
	if r.Classes[0].GPUHours > 2*scored+1e-6 || r.Classes[1].GPUHours > 3*scored+3 || r.Classes[0].GPUHours < r.Classes[2].GPUHours {
		t.Errorf("%+v of %g hours", r.Classes, scored)
	}
	cfg.Classes = nil
	one := mustWorld(t, cfg, Week(1)).Run(mustSpec(t, "tracking"), 0.85)
	if one.Classes != nil || one.GPUHours != r.GPUHours {
		t.Errorf("classes changed what is on: %g GPU-hours with them, %g without", r.GPUHours, one.GPUHours)
	}
}

// Interruptions come at the stated rate, are made good, and cost work on time.
func TestSpotIsTakenAway(t *testing.T) {
	cfg := Config{Peak: 8, Max: 16, Classes: []Class{{Name: "spot", Price: 1, Interruptions: 0.5}}}
	spec := Spec{Name: "fixed", New: func(Setup) Policy { return &script{counts: []int{7}} }}
	w := mustWorld(t, cfg, Week(1))
	r := w.Run(spec, 0)
	ready := 7 * (Week(1).Duration().Hours() - 24)
	got, want := float64(r.Classes[0].Interruptions), 0.5*ready
	if math.Abs(got-want) > 5*math.Sqrt(want)+0.05*want { // a part of the time one of them starts
		t.Errorf("%g interruptions of %g expected", got, want)
	}
	if r.PowerCycles < r.Classes[0].Interruptions {
		t.Errorf("%d starts after %d interruptions", r.PowerCycles, r.Classes[0].Interruptions)
	}
	again := w.Run(spec, 0)
	if again.Classes[0] != r.Classes[0] || again.Attainment != r.Attainment {
		t.Error("the same seed took others away")
	}
	cfg.Classes = nil
	if calm := mustWorld(t, cfg, Week(1)).Run(spec, 0); r.Attainment >= calm.Attainment {
		t.Errorf("%.4f on time with interruptions, %.4f without", r.Attainment, calm.Attainment)
	}
}

func TestParseClass(t *testing.T) {
	got, err := ParseClass("spot=0.9,max=20,interrupt=0.05")
	if want := (Class{Name: "spot", Max: 20, Price: 0.9, Interruptions: 0.05}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for text, want := range map[string]string{
		"":                     `"" is not of the form KEY=VALUE`,
		"spot":                 `"spot" is not of the form KEY=VALUE`,
		"spot=NaN":             `"NaN" is no number`,
		"spot=-1":              `"-1" is no number`,
		"spot=1,max=1.5":       "max is no count",
		"spot=1,max=0":         "max is no count",
		"spot=1,interrupt=9e3": "interrupt is more than once a minute",
		"spot=1,mx=3":          `there is no key "mx"`,
	} {
		if _, err := ParseClass(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParseClass(f *testing.F) {
	f.Add("spot=0.9,max=20,interrupt=0.05")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseClass(text)
		if err == nil && (c.Name == "" || c.Max < 0 || !(c.Price >= 0) || !(c.Interruptions >= 0)) {
			t.Errorf("%q is %+v", text, c)
		}
	})
}
