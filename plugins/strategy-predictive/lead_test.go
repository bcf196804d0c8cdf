package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/strategy"
)

func boots(seconds ...float64) map[string]pool.Times {
	return map[string]pool.Times{"": {Boot: pool.Took{Last: seconds}}, "fast": {Boot: pool.Took{Last: []float64{1, 1, 1, 1, 1}}}}
}

func TestLeadIsLearned(t *testing.T) {
	l := newLeads(hclog.NewNullLogger())
	var answer map[string]pool.Times
	var fails error
	l.read = func(context.Context, strategy.LeadSource) (map[string]pool.Times, error) { return answer, fails }
	src := strategy.LeadSource{Pool: "h100"}
	l.of[src] = &lead{} // the test looks by itself
	const configured = 5 * time.Minute
	for _, c := range []struct {
		name   string
		answer map[string]pool.Times
		fails  error
		want   time.Duration
	}{
		{"nothing learned", nil, nil, configured},
		{"too few boots", map[string]pool.Times{"": {Boot: pool.Took{Last: []float64{400, 400}}}}, nil, configured},
		{"slower than thought", boots(380, 390, 400, 410, 420), nil, 7 * time.Minute},
		{"hardly another", boots(390, 400, 410, 420, 430), nil, 7 * time.Minute},
		{"Consul is away", nil, errors.New("no route"), 7 * time.Minute},
		{"never beyond four times", boots(5000, 5000, 5000, 5000, 5000), nil, 20 * time.Minute},
		{"never below half", boots(10, 10, 10, 10, 10), nil, 150 * time.Second},
	} {
		answer, fails = c.answer, c.fails
		l.look(src)
		if got := l.lead(src, configured); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := l.lead(strategy.LeadSource{}, configured); got != configured {
		t.Errorf("without a pool: %s", got)
	}
}
