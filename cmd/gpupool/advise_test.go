package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestAdviseFromADecisionLog(t *testing.T) {
	path := writeLog(t, 1500, "h100")
	out, err := run(t, "advise", "h100", "--log", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"h100, 24h59m from 2026-03-02T09:00:01Z", "autoscaling", "the lead time could not be measured", "running and queued"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
	out, err = run(t, "advise", "h100", "--log", path, "--since", "10h", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Pool     string
		KnownS   float64 `json:"known_s"`
		Findings []struct{ Kind, What, Change string }
		Verdict  *struct{}
		Notes    []string
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if got.Pool != "h100" || got.KnownS != 36000 || got.Findings == nil || got.Verdict != nil ||
		!strings.Contains(strings.Join(got.Notes, "\n"), "whether scaling pays is not known: 10h of demand are too little") {
		t.Errorf("%s", out)
	}
}

func TestAdviseFromDemandAlone(t *testing.T) {
	var rows strings.Builder
	for i := range 36 * 60 {
		fmt.Fprintf(&rows, "%d,600\n", i*60)
	}
	out, err := run(t, "advise", "--trace", write(t, "flat.csv", rows.String()), "--peak", "4", "--lead", "15m")
	if err != nil || !strings.Contains(out, "autoscaling cannot pay here: at a lead time of 15m") || !strings.Contains(out, "this is demand alone") {
		t.Errorf("error %v, output:\n%s", err, out)
	}
}

func TestAdviseSaysWhatIsWrong(t *testing.T) {
	t.Setenv(logEnv, "")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{}, "--log: which decision log?"},
		{[]string{"--log", "x", "--trace", "y"}, "give one"},
		{[]string{"--log", "/no/such/file"}, "--log: open /no/such/file"},
		{[]string{"a", "--pool", "b"}, "--pool and POOL: give one"},
		{[]string{"--trace", write(t, "bad.csv", "0,1\n60,x\n")}, "bad.csv:2: invalid trace"},
	} {
		if _, err := run(t, append([]string{"advise"}, c.args...)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want one with %q", c.args, err, c.want)
		}
	}
}
