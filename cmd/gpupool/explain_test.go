package main

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/record"
)

var logBegin = time.Date(2026, time.March, 2, 9, 0, 0, 0, time.UTC)

// writeLog is a decision log of so many minutes of two pools, one decision a
// minute, made by the live code.
func writeLog(t *testing.T, minutes int, pools ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	l := record.Open(record.Config{Path: path, Queue: minutes * len(pools), Report: func(err error) { t.Error(err) }})
	for _, pool := range pools {
		rules := plan.Rules{Units: 2, Max: 6, Lead: 5 * time.Minute, Interval: time.Minute}
		var s demand.Series
		count := 0
		for i := range minutes {
			at := logBegin.Add(time.Duration(i) * time.Minute)
			s = append(s, demand.Point{At: at, Value: math.Round(5 * (1 - math.Cos(float64(i)/60)))})
			e := record.Entry{Stream: record.Stream{Pool: pool, Check: "demand"}, Rules: rules,
				Input: plan.Input{Now: at.Add(time.Second), Count: count, Demand: s[max(0, i-40):len(s):len(s)]}}
			e.Decision = plan.Decide(e.Input, e.Rules)
			count = e.Decision.Count
			l.Add(e)
		}
	}
	l.Close()
	return path
}

// run runs a command as typed.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := newRoot()
	var b bytes.Buffer
	root.SetOut(&b)
	root.SetErr(&b)
	root.SetArgs(args)
	err := root.Execute()
	return b.String(), err
}

func TestExplainShowsTheDecisionInForce(t *testing.T) {
	path := writeLog(t, 120, "h100", "l40s")
	out, err := run(t, "explain", "h100", "--log", path, "--at", "2026-03-02T10:00:30Z")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"h100: 1 by the rule \"simple\", decided at 2026-03-02T10:00:01Z, 29s before 2026-03-02T10:00:30Z",
		"demand  2      units     what is needed now",
		"units 2, max 6, lead 5m0s, interval 1m0s",
		"41 samples of demand over 40m00s, the last one 2 units, 1s old",
		"replay  the same decision, to the byte",
		path + ":62, by gpupool",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

// TestExplainSaysWhenItWouldDecideOtherwise: the log of another version, whose
// answer was another.
func TestExplainSaysWhenItWouldDecideOtherwise(t *testing.T) {
	path := writeLog(t, 61, "h100")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.ReplaceAll(string(text), `{"name":"out","value":1,`, `{"name":"out","value":5,`)
	other = strings.ReplaceAll(other, `"program":"gpupool`, `"program":"gpupool v0.0.9`)
	if other == string(text) {
		t.Fatal("nothing was replaced")
	}
	out, err := run(t, "explain", "--log", write(t, "d.jsonl", other))
	if err != nil || !strings.Contains(out, "NOT the same: now 1") || !strings.Contains(out, "out was 5, is 1") || !strings.Contains(out, "decided by gpupool v0.0.9") {
		t.Errorf("error %v, output:\n%s", err, out)
	}
}

func TestExplainSaysWhatIsWrong(t *testing.T) {
	t.Setenv(logEnv, "")
	path := writeLog(t, 5, "h100", "l40s")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{}, "--log: which decision log?"},
		{[]string{"--log", "/no/such/file"}, "--log: open /no/such/file"},
		{[]string{"--log", path}, "has decisions of (pool h100, check demand), (pool l40s, check demand): say which"},
		{[]string{"a100", "--log", path}, `no decision of --pool "a100"`},
		{[]string{"h100", "--pool", "h100", "--log", path}, "give one"},
		{[]string{"h100", "--log", path, "--at", "2026-03-02T08:00:00Z"}, "the log begins at 2026-03-02T09:00:01Z"},
		{[]string{"h100", "--log", path, "--at", "yesterday"}, `--at "yesterday": write`},
		{[]string{"--log", write(t, "bad", "x\n")}, "bad:1: invalid decision log"},
	} {
		if _, err := run(t, append([]string{"explain"}, c.args...)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want one with %q", c.args, err, c.want)
		}
	}
}

func TestParseAt(t *testing.T) {
	zone := time.FixedZone("", 3600)
	now := time.Date(2026, time.March, 2, 12, 0, 0, 0, zone)
	for text, want := range map[string]time.Time{
		"": now, "-2h": now.Add(-2 * time.Hour), "2026-03-01 10:00": time.Date(2026, time.March, 1, 10, 0, 0, 0, zone),
		"2026-03-01T10:00:00Z": time.Date(2026, time.March, 1, 10, 0, 0, 0, time.UTC),
	} {
		if got, err := parseAt(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %s, %v", text, got, err)
		}
	}
}

// TestSimulateReplaysADecisionLog at the size of its pool: at most 10 units,
// five replicas of two.
func TestSimulateReplaysADecisionLog(t *testing.T) {
	path := writeLog(t, 800, "h100")
	out, err := run(t, "simulate", "--trace", path, "--policy", "tracking-queue")
	if err != nil || !strings.Contains(out, "a replica starts in 5m and serves 2 requests at once, 1s each; the p99.9 minute keeps 5 busy") {
		t.Errorf("error %v, output:\n%s", err, out)
	}
}
