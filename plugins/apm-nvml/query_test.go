package main

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	pools := []string{"a100", "h100"}
	for _, tt := range []struct {
		text, signal, pool string
		wrong              string // part of the error
	}{
		{text: `demand_gpus{pool="h100"}`, signal: "demand_gpus", pool: "h100"},
		{text: ` queued_gpus { pool = 'a100' } `, signal: "queued_gpus", pool: "a100"},
		{text: `{__name__="allocated_gpus",pool="a100"}`, signal: "allocated_gpus", pool: "a100"},
		{text: `demand_gpu{pool="h100"}`, wrong: `did you mean "demand_gpus"?`},
		{text: `demand_gpus{pool="h10"}`, wrong: `did you mean "h100"?`},
		{text: `demand_gpus`, wrong: "no pool is named"},
		{text: `{pool="h100"}`, wrong: "no signal is named"},
		{text: `demand_gpus{pool="h100",host="x"}`, wrong: `no label "host"`},
		{text: `demand_gpus{pool=~"h.*"}`, wrong: "only = is understood"},
		{text: `sum(demand_gpus{pool="h100"})`, wrong: "without functions"},
		{text: `demand_gpus{pool="h100"}[5m]`, wrong: "without functions"},
		{text: `demand_gpus{pool="h100"} or queued_gpus{pool="h100"}`, wrong: "without functions"},
		{text: `demand_gpus{`, wrong: "not a PromQL selector"},
		{text: ``, wrong: "not a PromQL selector"},
		{text: strings.Repeat("x", 2000), wrong: "longer than"},
	} {
		q, err := parse(tt.text, pools)
		switch {
		case tt.wrong == "" && err != nil:
			t.Errorf("%s: %v", tt.text, err)
		case tt.wrong == "" && (q.signal.name != tt.signal || q.pool != tt.pool):
			t.Errorf("%s: got %s of %s", tt.text, q.signal.name, q.pool)
		case tt.wrong != "" && (err == nil || !strings.Contains(err.Error(), tt.wrong)):
			t.Errorf("%.50s: got %v, want %q", tt.text, err, tt.wrong)
		case tt.wrong != "" && !strings.Contains(err.Error(), `demand_gpus{pool="a100"}`):
			t.Errorf("%.50s: the error has no example: %v", tt.text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`demand_gpus{pool="h100"}`)
	f.Add(`sum(x) by (y)`)
	f.Fuzz(func(t *testing.T, text string) {
		q, err := parse(text, []string{"h100"})
		if err == nil && (q.signal.of == nil || q.pool != "h100") {
			t.Errorf("%q was accepted as %+v", text, q)
		}
	})
}
