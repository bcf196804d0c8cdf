package main

import (
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"github.com/gpupool/gpupool/internal/record"
)

// TestDecisionsCanBeReplayedFromTheLog: what the autoscaler was answered is in
// the log, and follows again from it.
func TestDecisionsCanBeReplayedFromTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	p := newPlugin(hclog.NewNullLogger())
	if err := p.SetConfig(map[string]string{"decision_log": path}); err != nil {
		t.Fatal(err)
	}
	var answers []*sdk.ScalingAction
	count := int64(0)
	for i := range 8 {
		a, err := run(t, p, map[string]string{"units": "2", "max": "9", "pool": "h100"}, count, repeat(float64(i), 60)...)
		if err != nil {
			t.Fatal(err)
		}
		count = a.Count
		answers = append(answers, a)
	}
	p.logs.close()
	var got []record.Read
	if _, err := record.ReadFile(path, func(r record.Read) error { got = append(got, r); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(answers) {
		t.Fatalf("%d decisions of %d are in the log", len(got), len(answers))
	}
	for i, r := range got {
		again, err := r.Replay()
		if err != nil || !again.Same || !r.Exact {
			t.Errorf("%s: exact %v, recorded %+v, replayed %+v, %v", r.Place, r.Exact, r.Decision, again.Decision, err)
		}
		if r.Pool != "h100" || r.Check != "demand" || int64(again.Decision.Count) != answers[i].Count || again.Decision.Reason != answers[i].Reason {
			t.Errorf("%s: %+v, and the autoscaler was answered %+v", r.Place, r.Decision, answers[i])
		}
	}
}

// TestNoLogNoHarm: a log that cannot be written fails no decision.
func TestNoLogNoHarm(t *testing.T) {
	p := newPlugin(hclog.NewNullLogger())
	config := map[string]string{"units": "2", "max": "9", "decision_log": filepath.Join(t.TempDir(), "no", "such", "folder", "log")}
	for range 200 {
		if a, err := run(t, p, config, 0, repeat(3, 10)...); err != nil || a.Count != 2 {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	p.logs.close()
}
