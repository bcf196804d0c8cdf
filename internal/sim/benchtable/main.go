// Command benchtable tries policies on every trace in a folder, at several
// lead times and sizes, and writes the tables of docs/benchmarks.md. Every
// policy has its one default configuration for all of them; nothing is tuned.
//
//	go run ./internal/sim/benchtable --traces DIR > tables.md
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/sim"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "benchtable:", err)
		os.Exit(1)
	}
}

// options is the flags.
type options struct {
	traces   string
	leads    []time.Duration
	peaks    []float64
	policies []sim.Spec
	equal    float64 // attainment to compare at; 0 compares default configurations
}

func run(args []string, out, progress io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	traces, err := read(o.traces)
	if err != nil {
		return err
	}
	for _, lead := range o.leads {
		for _, peak := range o.peaks {
			reports := make([]*sim.Report, len(traces))
			for i, t := range traces {
				_, _ = fmt.Fprintf(progress, "lead %s, peak %g, %s\n", lead, peak, t.Name)
				if reports[i], err = sim.Simulate(sim.Config{Lead: lead, Peak: peak}, t, sim.Options{Policies: o.policies, Front: o.equal > 0}); err != nil {
					return fmt.Errorf("%s: %w", t.Name, err)
				}
			}
			if err := table(out, o, lead, peak, reports); err != nil {
				return err
			}
		}
	}
	return nil
}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("benchtable", flag.ContinueOnError)
	fs.StringVar(&o.traces, "traces", "", "folder of traces, *.csv")
	leads := fs.String("leads", "1m,5m,15m", "lead times")
	peaks := fs.String("peaks", "4,8,40", "replicas that the p99.9 minute keeps busy")
	fs.Float64Var(&o.equal, "equal", 0, "compare at this attainment, each policy's knob chosen in hindsight for each trace; 0 compares default configurations")
	policies := fs.String("policies", "all", "names, or all")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.traces == "" {
		return o, errors.New("--traces: which folder?")
	}
	for s := range strings.SplitSeq(*leads, ",") {
		d, err := time.ParseDuration(s)
		if err != nil {
			return o, fmt.Errorf("--leads: %w", err)
		}
		o.leads = append(o.leads, d)
	}
	for s := range strings.SplitSeq(*peaks, ",") {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return o, fmt.Errorf("--peaks: %w", err)
		}
		o.peaks = append(o.peaks, v)
	}
	if *policies == "all" {
		o.policies = sim.Policies()
		return o, nil
	}
	for name := range strings.SplitSeq(*policies, ",") {
		s, ok := sim.Lookup(name)
		if !ok {
			return o, fmt.Errorf("--policies: there is no %q", name)
		}
		o.policies = append(o.policies, s)
	}
	return o, nil
}

func read(dir string) ([]sim.Trace, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.csv"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("--traces: no *.csv in %s", dir)
	}
	var traces []sim.Trace
	for _, name := range names {
		t, err := sim.ReadTraceFile(name)
		if err != nil {
			return nil, err
		}
		t.Name = strings.TrimSuffix(t.Name, ".csv")
		traces = append(traces, t)
	}
	return traces, nil
}

// table writes one lead time and size: a row for each trace, a column for each
// policy, and under them what they reach on the traces longer than two days.
func table(w io.Writer, o options, lead time.Duration, peak float64, reports []*sim.Report) error {
	b := &strings.Builder{}
	fmt.Fprintf(b, "### Lead %d min, peak %g", int(lead.Minutes()), peak)
	if o.equal > 0 {
		fmt.Fprintf(b, ", cost at %s %% on time", share(o.equal))
	}
	fmt.Fprintf(b, "\n\n`for t in TRACES/*.csv; do gpupool simulate --trace $t --lead %dm --peak %g%s; done`\n\n", int(lead.Minutes()), peak,
		map[bool]string{true: " --front"}[o.equal > 0])
	b.WriteString("| trace | days | bound, GPU-h |")
	for _, p := range o.policies {
		fmt.Fprintf(b, " %s |", p.Name)
	}
	b.WriteString("\n|---|--:|--:|" + strings.Repeat("--:|", len(o.policies)) + "\n")
	means := make([]mean, len(o.policies))
	for _, r := range reports {
		fmt.Fprintf(b, "| %s | %.3g | %.0f |", r.Trace.Name, r.Trace.Days, r.Bound.GPUHours)
		for i, p := range r.Policies {
			if o.equal > 0 {
				b.WriteString(equalCell(&p, o.equal))
			} else {
				b.WriteString(cell(p, r.SLO))
			}
			if r.Trace.Days > 2 {
				means[i].add(p)
			}
		}
		b.WriteString("\n")
	}
	if o.equal > 0 {
		b.WriteString("| **mean of the traces longer than 2 days** | | |")
	} else {
		b.WriteString("| **longer than 2 days: mean cost, worst on time** | | |")
	}
	for _, m := range means {
		b.WriteString(m.cell(o.equal))
	}
	b.WriteString("\n\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// cell is cost over the bound and the share on time; struck out where the
// promise was not kept.
func cell(p sim.PolicyReport, slo float64) string {
	s := fmt.Sprintf("%.2f (%s)", p.CostRatio, share(p.Attainment))
	if p.Attainment < slo {
		s = "~~" + s + "~~"
	}
	return " " + s + " |"
}

// equalCell is the cost at an attainment, which replaces the policy's own.
func equalCell(p *sim.PolicyReport, attainment float64) string {
	cost, ok := p.CostAt(attainment)
	p.CostRatio, p.Attainment = cost, attainment
	if !ok {
		p.Attainment = 0
		return " none |"
	}
	return fmt.Sprintf(" %.2f |", cost)
}

// share is a percentage that never rounds up.
func share(v float64) string { return fmt.Sprintf("%.2f", float64(int(v*1e4+1e-6))/100) }

// cell is the mean; at equal attainment there is none where a trace has none.
func (m mean) cell(equal float64) string {
	switch {
	case equal > 0 && m.worst < equal:
		return " none |"
	case equal > 0:
		return fmt.Sprintf(" %.2f |", m.cost/max(m.n, 1))
	}
	return fmt.Sprintf(" %.2f (%s) |", m.cost/max(m.n, 1), share(m.worst))
}

// mean adds up what a policy reached.
type mean struct{ n, cost, worst float64 }

func (m *mean) add(p sim.PolicyReport) {
	if m.n == 0 || p.Attainment < m.worst {
		m.worst = p.Attainment
	}
	m.n++
	m.cost += p.CostRatio
}
