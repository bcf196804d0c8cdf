package tune

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/sim"
)

// smallWorld is a small pool, for a day and a half of generated demand.
var smallWorld = sim.Config{Peak: 6, Warmup: 6 * time.Hour}

func somedays(seed uint64) sim.Trace {
	return sim.Generate(sim.Shape{Name: "some days", Days: 1.5, Mean: 100, Day: 0.7, Noise: 3, Bursts: 1}, seed)
}

func tuneIn(t *testing.T, cfg sim.Config, budget int, traces ...sim.Trace) *Report {
	t.Helper()
	r, err := Tune(context.Background(), cfg, traces, Options{Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTuneFindsAFront(t *testing.T) {
	r := tuneIn(t, smallWorld, 4, somedays(1), somedays(2))
	if r.Interrupted || r.Tried != 4 || r.TriedWhole != 4 || len(r.Front) == 0 || len(r.TrackingQueue) == 0 || r.Static == nil || r.HeldOut == nil {
		t.Fatalf("%+v", r)
	}
	for i, p := range r.Front {
		if i > 0 && (p.Cost <= r.Front[i-1].Cost || p.Attainment <= r.Front[i-1].Attainment) {
			t.Errorf("point %d is no better than the one before: %+v", i, r.Front)
		}
	}
	// What is reported of a setting is what the simulator says of it.
	w, err := sim.NewWorld(smallWorld, somedays(1))
	if err != nil {
		t.Fatal(err)
	}
	other, err := sim.NewWorld(smallWorld, somedays(2))
	if err != nil {
		t.Fatal(err)
	}
	spec, _ := sim.Lookup("predictive")
	a, b := w.Run(spec, 1), other.Run(spec, 1)
	if d := r.Default; math.Abs(d.Cost-a.Cost-b.Cost) > 1e-6 || math.Abs(d.Attainment-min(a.Attainment, b.Attainment)) > 1e-9 || d.PowerCycles != a.PowerCycles+b.PowerCycles ||
		d.WorstDay != min(a.WorstDay, b.WorstDay) {
		t.Errorf("the policy as it comes: %+v, the simulator says %g and %g, %g and %g on time", d, a.Cost, b.Cost, a.Attainment, b.Attainment)
	}
	if diff := cmp.Diff(r, tuneIn(t, smallWorld, 4, somedays(1), somedays(2)), cmp.AllowUnexported(Report{}, Fold{})); diff != "" {
		t.Errorf("the same seed gives another answer:\n%s", diff)
	}
}

func TestPartsAreOfTheSameDemand(t *testing.T) {
	trace := sim.Generate(sim.Shape{Days: 5.5, Mean: 100, Day: 0.7, Noise: 3}, 1)
	tuner, err := newTuner(sim.Config{Peak: 6, Warmup: 30 * time.Hour}, []sim.Trace{trace})
	if err != nil {
		t.Fatal(err)
	}
	span := tuner.spans()[0]
	if span != (Span{1, 6}) {
		t.Fatalf("scored: %+v", span)
	}
	whole, err := tuner.evaluate(nil, 0, span.First, span.End)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []Span{{3, 5}, {5, 6}, {1, 2}} {
		part, err := tuner.evaluate(nil, 0, p.First, p.End)
		if err != nil || len(part) != p.End-p.First {
			t.Fatalf("%+v: error %v, days %+v", p, err, part)
		}
		for i, d := range part {
			if w := whole[p.First-span.First+i]; d.Day != w.Day || math.Abs(d.Requests-w.Requests) > 1e-6*w.Requests {
				t.Errorf("%+v: day %+v, in the whole %+v", p, d, w)
			}
		}
	}
}

// A flat line with a burst at times that nobody can know, and starts that take
// longer than the burst: nothing that scales is of any use.
func TestWhereAutoscalingCannotPay(t *testing.T) {
	trace := sim.Trace{Name: "bursts", Start: sim.DefaultStart}
	for m := range 24 * 60 {
		v := 10.0
		if m%97 < 8 {
			v = 100
		}
		trace.Arrivals = append(trace.Arrivals, v)
	}
	r := tuneIn(t, sim.Config{Peak: 6, Lead: 20 * time.Minute, Warmup: 2 * time.Hour, SLO: 0.999}, 4, trace)
	if r.Advice.Do != DoHold || r.Advice.Count < 5 || r.Advice.Count != r.Static.Count || !strings.Contains(r.Advice.Why, "autoscaling cannot pay here at this cold start of 20m") {
		t.Fatalf("advice %+v, front %+v, static %+v", r.Advice, r.Front, r.Static)
	}
	// One fewer does not keep it.
	w, err := sim.NewWorld(sim.Config{Peak: 6, Lead: 20 * time.Minute, Warmup: 2 * time.Hour, SLO: 0.999}, trace)
	if err != nil {
		t.Fatal(err)
	}
	if less := w.Run(holding(r.Static.Count-1), 0); less.Attainment >= 0.999 || r.Static.Attainment < 0.999 {
		t.Errorf("%d keep %g, one fewer %g", r.Static.Count, r.Static.Attainment, less.Attainment)
	}
}

func TestAdvice(t *testing.T) {
	tuner := &tuner{aim: aim}
	f := func(cost, attainment float64) Figures { return Figures{Cost: cost, Attainment: attainment} }
	set := map[string]string{"utilization": "0.8"}
	for _, c := range []struct {
		name   string
		report Report
		want   Do
		why    string
	}{
		{"cheaper", Report{Default: Point{Figures: f(100, 0.995)}, Chosen: Point{set, f(90, 0.99)}, Static: &Static{9, f(200, 1)}}, DoTune, "10.0 % less"},
		{"the defaults are late", Report{Default: Point{Figures: f(80, 0.985)}, Chosen: Point{set, f(90, 0.99)}}, DoTune, "98.50% on time, short of 99.00%"},
		{"nothing to gain", Report{Default: Point{Figures: f(100, 0.995)}, Chosen: Point{Figures: f(100, 0.995)}}, DoDefaults, "more than 1 % cheaper"},
		{"static is cheaper", Report{Chosen: Point{set, f(90, 0.99)}, Static: &Static{9, f(85, 0.995)}}, DoHold, "costs 90; hold 9, for 85"},
		{"but not than tracking", Report{Default: Point{Figures: f(100, 0.995)}, Chosen: Point{set, f(90, 0.99)}, Static: &Static{9, f(85, 0.995)}, TrackingQueue: []Point{{set, f(80, 0.99)}}}, DoTune, "10.0 %"},
		{"only static keeps it", Report{Chosen: Point{set, f(50, 0.98)}, Static: &Static{9, f(850, 0.995)}}, DoHold, "nothing that scales kept 99.00%"},
		{"nothing keeps it", Report{Chosen: Point{set, f(50, 0.98)}}, DoNothing, "the closest reached 98.00%"},
	} {
		got := tuner.advice(&c.report, true)
		if got.Do != c.want || !strings.Contains(got.Why, c.why) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// Two settings, each made for one week: neither is any good in the other.
func TestWhatDoesNotCarryOverIsNotChosen(t *testing.T) {
	late := func(a, b float64) []float64 { return append(many(a, 7), many(b, 7)...) }
	all := candidates(week(1, 100, late(8, 8)...), week(1, 80, late(0, 20)...), week(1, 80, late(20, 0)...))
	for i := range all[1:] {
		all[i+1].Setting = Setting{1, math.NaN(), math.NaN(), math.NaN(), 0.8 + 0.1*float64(i)}
	}
	tuner := &tuner{aim: aim, rules: plan.Rules{Units: 8, Max: 9, SLO: 0.99}}
	r := &Report{}
	tuner.judge(r, Outcome{Candidates: all, Tried: 2, Whole: true})
	if len(r.Chosen.Settings) > 0 || r.Advice.Do != DoDefaults || !strings.Contains(r.Advice.Why, "does not carry over to weeks") || len(r.Warnings) == 0 {
		t.Errorf("chosen %+v, advice %+v, warnings %v", r.Chosen, r.Advice, r.Warnings)
	}
	if len(r.Front) == 0 || r.Front[0].Cost >= r.Default.Cost {
		t.Errorf("front %+v", r.Front)
	}
	// Where the defaults do not keep the SLO there is nothing to go back to.
	all[0].Days[0] = week(1, 100, late(30, 30)...)
	all[0].Figures = aim.figures(all[0].Days)
	r = &Report{}
	tuner.judge(r, Outcome{Candidates: all, Tried: 2, Whole: true})
	if len(r.Chosen.Settings) == 0 || r.Advice.Do != DoTune || len(r.Warnings) == 0 {
		t.Errorf("chosen %+v, advice %+v, warnings %v", r.Chosen, r.Advice, r.Warnings)
	}
}

func TestInterruptedReportSaysSo(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	r, err := Tune(ctx, smallWorld, []sim.Trace{somedays(1)}, Options{Budget: 8, Progress: func(done, all int, what string) {
		if what == "settings" && done == all-3 {
			stop()
		}
	}})
	if err != nil || !r.Interrupted || len(r.Warnings) == 0 || !strings.Contains(r.Warnings[0], "interrupted: of the 8 settings") {
		t.Fatalf("error %v, %+v", err, r)
	}
	// What was tried on all days does not stand beside what was not.
	r.Default.Days--
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil || strings.Contains(text.String(), "hold ") || strings.Contains(text.String(), "  tracking-queue") {
		t.Errorf("error %v:\n%s", err, text.String())
	}
	ctx, stop = context.WithCancel(context.Background())
	stop()
	if r, err := Tune(ctx, smallWorld, []sim.Trace{somedays(1)}, Options{}); err == nil {
		t.Errorf("nothing was tried, and yet: %+v", r)
	}
}

func TestPolicyFile(t *testing.T) {
	r := tuneIn(t, smallWorld, 4, somedays(1))
	r.Chosen = Point{Setting{0.5, math.NaN(), 900, 1.5, 0.72}.texts(params, r.rules), r.Chosen.Figures}
	r.Warnings = append(r.Warnings, "a warning\nof two lines")
	var b bytes.Buffer
	if err := r.WritePolicy(&b, "gpupool tune --trace 'a\nb.csv'"); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	file, diags := hclsyntax.ParseConfig(b.Bytes(), "x.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatalf("%v\n%s", diags, text)
	}
	blocks := file.Body.(*hclsyntax.Body).Blocks
	if len(blocks) != 1 || blocks[0].Type != "strategy" {
		t.Fatal(text)
	}
	got := map[string]string{}
	for k, a := range blocks[0].Body.Attributes {
		v, diags := a.Expr.Value(nil)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		got[k] = v.AsString()
	}
	want := map[string]string{"units": "8", "min": "1", "max": "12", "interval": "1m", "slo_wait": "1m", "lead_time": "7m30s", "utilization": "72%", "scale_in_after": "15m", "slo": "99.5%"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, part := range []string{PolicyHeader, "# gpupool tune --trace 'a b.csv'\n", "# Warning: a warning of two lines.", "GPU-hours", "As it comes"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in:\n%s", part, text)
		}
	}
}

func TestParamsReachFromOneEndToTheOther(t *testing.T) {
	base := plan.Rules{Units: 8, Max: 10, Lead: 5 * time.Minute, Interval: time.Minute, SLO: 0.99}
	want := map[string][2]string{"slo": {"99.8%", "95%"}, "wear": {"1m", "2h"}, "scale_in_after": {"2m", "2h"}, "lead_time": {"5m", "10m"}, "utilization": {"70%", "100%"}}
	got := map[string][2]string{}
	for i, p := range params {
		ends := [2]string{}
		for k, u := range []float64{p.Alone, 1 - 1.0/(1<<32)} {
			r := base
			p.Set(&r, p.at(u))
			if err := r.Validate(); err != nil {
				t.Errorf("%s at %g: %v", p.Key, u, err)
			}
			ends[k] = p.Text(r)
		}
		got[p.Key] = ends
		if p.Alone > 0 && !math.IsNaN(p.at(p.Alone/2)) {
			t.Errorf("%s is never left alone", p.Key)
		}
		alone := slices.Repeat([]float64{math.NaN()}, i+1)
		if texts := Setting(alone).texts(params, base); len(texts) > 0 {
			t.Errorf("left alone, and written as %v", texts)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(params) > maxDims {
		t.Errorf("%d parameters, and the sequence has %d dimensions", len(params), maxDims)
	}
}

func TestReportForPeopleAndPrograms(t *testing.T) {
	r := tuneIn(t, smallWorld, 4, somedays(1))
	var text, machine bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"some days", "chosen: predictive", "tracking-queue", "hold ", "Chosen by all but one day", "4 settings tried, 4 of them on all days"} {
		if !strings.Contains(text.String(), part) {
			t.Errorf("%q is not in:\n%s", part, text.String())
		}
	}
	if err := r.WriteJSON(&machine); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/reference/tune.md")
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(machine.Bytes(), &members); err != nil {
		t.Fatal(err)
	}
	for name := range members {
		if !strings.Contains(string(page), "`"+name+"`") && !strings.Contains(string(page), "`"+name+"[]`") {
			t.Errorf("the member %s is not on the reference page", name)
		}
	}
}

func TestBadInput(t *testing.T) {
	for _, c := range []struct {
		cfg    sim.Config
		traces []sim.Trace
		budget int
		want   string
	}{
		{smallWorld, nil, 1, "no trace"},
		{smallWorld, []sim.Trace{somedays(1)}, -1, "budget -1: must be 1 to"},
		{sim.Config{SLO: 1}, []sim.Trace{somedays(1)}, 1, "slo 1: must be below 1"},
		{sim.Config{Warmup: 99 * time.Hour}, []sim.Trace{somedays(1)}, 1, "some days: warmup 99h"},
	} {
		if _, err := Tune(context.Background(), c.cfg, c.traces, Options{Budget: c.budget}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one with %q", err, c.want)
		}
	}
}
