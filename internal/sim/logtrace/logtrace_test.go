package logtrace_test

import (
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/record"
	"github.com/gpupool/gpupool/internal/sim"
	"github.com/gpupool/gpupool/internal/sim/logtrace"
)

var t0 = time.Date(2026, time.March, 2, 9, 0, 0, 0, time.UTC)

// every is samples at one distance, the first one that long after t0.
func every(d time.Duration, values ...float64) demand.Series {
	var s demand.Series
	for i, v := range values {
		s = append(s, demand.Point{At: t0.Add(time.Duration(i+1) * d), Value: v})
	}
	return s
}

var rules = plan.Rules{Units: 2, Max: 6, Lead: 7 * time.Minute}

// TestFromSeries: two samples a minute, of 1 and 3 units, then 4 and 8: means
// 2 and 6, which are 120 and 360 seconds of a unit. The peak is 6 units, three
// replicas of two.
func TestFromSeries(t *testing.T) {
	got, pool, err := logtrace.FromSeries("log", record.Series{Demand: every(30*time.Second, 1, 3, 4, 8)}, rules)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]float64{120, 360}, got.Arrivals); diff != "" || !got.Start.Equal(t0) || pool.Peak != 3 {
		t.Errorf("start %s, peak %g: %s", got.Start, pool.Peak, diff)
	}
	if !strings.Contains(strings.Join(got.Notes, " "), "running and queued") {
		t.Errorf("what is assumed is not said: %q", got.Notes)
	}
	load, _, err := logtrace.FromSeries("log", record.Series{Demand: every(30*time.Second, 1, 3, 4, 8), Load: every(time.Minute, 5, 7)}, rules)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]float64{300, 420}, load.Arrivals); diff != "" {
		t.Errorf("the offered load comes first: %s", diff)
	}
	if _, _, err := logtrace.FromSeries("log", record.Series{}, rules); !errors.Is(err, sim.ErrTrace) {
		t.Errorf("an empty log: %v", err)
	}
}

// TestThePoolIsReplayedAtItsOwnSize, except where the operator says otherwise.
func TestThePoolIsReplayedAtItsOwnSize(t *testing.T) {
	p := logtrace.Pool{Rules: rules, Peak: 3}
	var c sim.Config
	p.Apply(&c, func(string) bool { return false })
	if want := (sim.Config{Peak: 3, Lead: 7 * time.Minute, Slots: 2, Min: -1, Max: 6}); !reflect.DeepEqual(c, want) {
		t.Errorf("%+v", c)
	}
	c = sim.Config{Peak: 40, Lead: time.Minute}
	p.Apply(&c, func(string) bool { return true })
	if want := (sim.Config{Peak: 40, Lead: time.Minute}); !reflect.DeepEqual(c, want) {
		t.Errorf("%+v", c)
	}
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	l := record.Open(record.Config{Path: path, Report: func(err error) { t.Error(err) }})
	s := every(time.Minute, 1, 2, 3, 4)
	for _, pool := range []string{"h100", "l40s"} {
		for n := range s {
			l.Add(record.Entry{Stream: record.Stream{Pool: pool}, Rules: rules,
				Input: plan.Input{Now: s[n].At, Demand: s[:n+1]}, Decision: plan.Decision{Count: 1, Rule: plan.RuleHold}})
		}
	}
	l.Close()
	got, pool, err := logtrace.ReadFile(path, "l40s")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]float64{60, 120, 180, 240}, got.Arrivals); diff != "" || pool.Stream.Pool != "l40s" || pool.Rules != rules {
		t.Errorf("%+v: %s", pool, diff)
	}
	if _, _, err := logtrace.ReadFile(path, ""); err == nil || !strings.Contains(err.Error(), "2 pools") {
		t.Errorf("two pools: %v", err)
	}
	if _, _, err := logtrace.ReadFile(path, "a100"); err == nil || !strings.Contains(err.Error(), `no decision of pool "a100"`) {
		t.Errorf("no such pool: %v", err)
	}
}
