package sim

import (
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
)

// Every member of the JSON form is described where operators look it up.
func TestJSONIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/reference/simulate.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range members(reflect.TypeFor[Report]()) {
		if !strings.Contains(string(doc), "`"+name) {
			t.Errorf("docs/reference/simulate.md does not mention %q", name)
		}
	}
}

func members(t reflect.Type) (names []string) {
	switch {
	case t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer:
		return members(t.Elem())
	case t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]():
		return nil
	}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
		names = append(names, members(f.Type)...)
	}
	return names
}

func TestTextOfAReport(t *testing.T) {
	trace := Generate(Shape{Name: "demo", Days: 0.25, Mean: 100, Day: 0.5, Noise: 2}, 3)
	r, err := Simulate(Config{Peak: 5, Warmup: time.Hour}, trace, Options{Policies: []Spec{mustSpec(t, "static-peak"), mustSpec(t, "tracking")}, Front: true})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for _, want := range []string{"demo: ", "lower bound", "static-peak", "tracking", "tracking by utilization:", "on time: 99.00% of requests wait at most 1m"} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks %q:\n%s", want, got)
		}
	}
	for i := range r.Policies {
		if p := r.Policies[i]; p.CostRatio < 1 && p.Attainment >= r.SLO {
			t.Errorf("%s costs %v of the bound at %v", p.Name, p.CostRatio, p.Attainment)
		}
		if len(r.Policies[i].Front) != len(mustSpec(t, r.Policies[i].Name).Knob.Sweep) {
			t.Errorf("%s: front of %d points", r.Policies[i].Name, len(r.Policies[i].Front))
		}
	}
}

func TestCostAtEqualAttainment(t *testing.T) {
	p := PolicyReport{Front: []FrontPoint{
		{CostRatio: 1.6, Attainment: 0.999},
		{CostRatio: 1.2, Attainment: 0.98},
		{CostRatio: 1.3, Attainment: 0.97}, // dearer and worse: does not count
		{CostRatio: 1.4, Attainment: 0.99},
	}}
	for _, c := range []struct{ at, want float64 }{{0.9, 1.2}, {0.98, 1.2}, {0.985, 1.3}, {0.99, 1.4}, {0.9945, 1.5}, {0.999, 1.6}} {
		if got, ok := p.CostAt(c.at); !ok || math.Abs(got-c.want) > 1e-9 {
			t.Errorf("cost at %v is %v, %v; want %v", c.at, got, ok, c.want)
		}
	}
	if got, ok := p.CostAt(0.9999); ok {
		t.Errorf("an attainment that no point reaches costs %v", got)
	}
}

func TestPercentIsNeverRoundedUp(t *testing.T) {
	for v, want := range map[float64]string{1: "100.00%", 0.99999: "99.99%", 0.99: "99.00%", 0.57: "57.00%", 0: "0.00%"} {
		if got := percent(v); got != want {
			t.Errorf("percent(%v) = %s, want %s", v, got, want)
		}
	}
}

func TestConfigReportsAllMistakes(t *testing.T) {
	_, err := NewWorld(Config{Engine: "steam", Peak: -1, SLO: 2, Lead: 7 * time.Second, Warmup: 100 * time.Hour, Jitter: -1, Tokens: true}, flat(repeat(1, 120)...))
	for _, want := range []string{`engine "steam"`, "peak -1", "slo 2", "lead 7s: must be a multiple of 5s", "warmup 100h0m0s: must be shorter than the trace", "jitter -1", "no tokens"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
}

func TestTimelineCoversTheTrace(t *testing.T) {
	trace := Generate(Shape{Days: 0.5, Mean: 100, Day: 0.5, Noise: 2}, 3)
	w := mustWorld(t, Config{Peak: 5, Timeline: 10 * time.Minute}, trace)
	l := w.Run(mustSpec(t, "tracking"), 0.8).Timeline
	if l.StepS != 600 || len(l.Need) != 72 || len(l.Ready) != 72 || len(l.Billed) != 72 || len(l.Waiting) != 72 {
		t.Errorf("step %v s, %d steps", l.StepS, len(l.Need))
	}
	mean := 0.0
	for _, v := range l.Need {
		mean += v / 72
	}
	want := 0.0
	for _, v := range w.need() {
		want += v / 720
	}
	near(t, "mean need", mean, want, 0.01)
}

// A policy that knows what comes is scored as such: at the quantile that it
// claims, all of its forecasts cover.
func TestForecastsAreScored(t *testing.T) {
	w := mustWorld(t, Config{Peak: 5, Warmup: time.Hour, Lead: 5 * time.Minute}, flat(repeat(100, 600)...))
	for _, c := range []struct {
		value, pinball, coverage float64
	}{{40, 0, 1}, {50, 1, 1}, {30, 9, 0}} {
		r := w.Run(Spec{New: func(Setup) Policy { return claims(c.value) }}, 0)
		if r.Forecast == nil {
			t.Fatal("no score")
		}
		near(t, "quantile", r.Forecast.Quantile, 0.9, 1e-9)
		near(t, "pinball loss", r.Forecast.Pinball, c.pinball, 1e-6)
		near(t, "coverage", r.Forecast.Coverage, c.coverage, 1e-9)
	}
}

// claims is a policy that forecasts one value for ever.
type claims float64

func (c claims) Name() string { return "claims" }

func (c claims) Decide(time.Time, Observation) plan.Decision {
	return plan.Decision{Count: 5, Terms: []plan.Term{
		{Name: plan.TermForecast, Value: float64(c) + 1e-9, Unit: "units"},
		{Name: plan.TermQuantile, Value: 0.9},
	}}
}
