package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/VictoriaMetrics/metricsql"

	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/setting"
)

// signal is one series that can be asked for.
type signal struct {
	name string
	unit string
	doc  string
	of   func(nomad.Demand) float64
}

// signals is every signal, in the order of the reference page.
var signals = []signal{
	{"demand_gpus", "GPUs", "GPUs held by allocations plus GPUs that blocked evaluations wait for. Not capped by what is on; works with no node at all.",
		func(d nomad.Demand) float64 { return float64(d.Allocated + d.Queued) }},
	{"allocated_gpus", "GPUs", "GPUs held by allocations on the pool's nodes.",
		func(d nomad.Demand) float64 { return float64(d.Allocated) }},
	{"queued_gpus", "GPUs", "GPUs that blocked evaluations wait for.",
		func(d nomad.Demand) float64 { return float64(d.Queued) }},
}

// query is a parsed query: one signal of one pool.
type query struct {
	signal signal
	pool   string
}

// maxQuery bounds a query, in bytes.
const maxQuery = 1 << 10

// parse reads a query, which has the form of a PromQL selector:
//
//	demand_gpus{pool="h100"}
func parse(text string, pools []string) (query, error) {
	fail := func(format string, args ...any) (query, error) {
		return query{}, fmt.Errorf("query %.80q: %s; write one such as %s", text, fmt.Sprintf(format, args...), example(pools))
	}
	if len(text) > maxQuery {
		return fail("longer than %d bytes", maxQuery)
	}
	expr, err := metricsql.Parse(text)
	if err != nil {
		return fail("not a PromQL selector: %v", err)
	}
	m, ok := expr.(*metricsql.MetricExpr)
	if !ok || len(m.LabelFilterss) != 1 {
		return fail("only a selector of one signal is understood, without functions, operators or a window")
	}
	var q query
	for _, f := range m.LabelFilterss[0] {
		if f.IsRegexp || f.IsNegative {
			return fail("label %s: only = is understood", f.Label)
		}
		switch f.Label {
		case "__name__":
			i := slices.IndexFunc(signals, func(s signal) bool { return s.name == f.Value })
			if i < 0 {
				return fail("no signal %q: %s", f.Value, setting.Suggest(f.Value, names()))
			}
			q.signal = signals[i]
		case "pool":
			if !slices.Contains(pools, f.Value) {
				return fail("no pool %q in the inventory: %s", f.Value, setting.Suggest(f.Value, pools))
			}
			q.pool = f.Value
		default:
			return fail("no label %q: the label is pool", f.Label)
		}
	}
	switch {
	case q.signal.name == "":
		return fail("no signal is named: %s", setting.Suggest("", names()))
	case q.pool == "":
		return fail("no pool is named")
	}
	return q, nil
}

func names() []string {
	var out []string
	for _, s := range signals {
		out = append(out, s.name)
	}
	return out
}

func example(pools []string) string {
	pool := "h100"
	if len(pools) > 0 {
		pool = pools[0]
	}
	return fmt.Sprintf("demand_gpus{pool=%q}", pool)
}

// signalsPage is the generated part of the reference page.
func signalsPage() string {
	var b strings.Builder
	b.WriteString("| Signal | Unit | What it is |\n|---|---|---|\n")
	for _, s := range signals {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.name, s.unit, s.doc)
	}
	return b.String()
}
