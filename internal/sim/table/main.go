// Command table replays many traces through some policies and prints one row
// for each, as Markdown: what a claim about a policy rests on.
//
//	go run ./internal/sim/table --lead 5m --policy predictive,tracking-queue traces/*.csv
//
// With --front, the other policies are compared with the first one at the share
// on time that the first one reached, along the line between the points of
// their fronts.
package main

import (
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gpupool/gpupool/internal/sim"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	fl := flag.NewFlagSet("table", flag.ContinueOnError)
	lead := fl.Duration("lead", 5*time.Minute, "from start command to first request served")
	peak := fl.Float64("peak", 40, "replicas that the p99.9 minute keeps busy")
	slo := fl.Float64("slo", 0.99, "share of requests that shall be on time")
	names := fl.String("policy", "predictive,tracking-queue,tracking", "policies, the first of which the others are compared with")
	front := fl.Bool("front", false, "compare at equal attainment")
	if err := fl.Parse(args); err != nil {
		return err
	}
	var specs []sim.Spec
	for _, n := range strings.Split(*names, ",") {
		s, ok := sim.Lookup(n)
		if !ok {
			return fmt.Errorf("there is no policy %q", n)
		}
		specs = append(specs, s)
	}
	t := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "| trace\t| policy\t| x bound\t| on time\t| worst day\t| starts\t| quantile\t| coverage\t| at equal attainment\t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	sums := make([]float64, len(specs))
	for _, name := range fl.Args() {
		reports, err := simulate(name, sim.Config{Lead: *lead, Peak: *peak, SLO: *slo}, specs, *front)
		if err != nil {
			return err
		}
		for i, p := range reports {
			sums[i] += p.CostRatio
			q, c := "", ""
			if f := p.Forecast; f != nil {
				q, c = fmt.Sprintf("%.3f", f.Quantile), fmt.Sprintf("%.3f", f.Coverage)
			}
			fmt.Fprintf(t, "| %s\t| %s\t| %.3f\t| %.2f %%\t| %.2f %%\t| %d\t| %s\t| %s\t| %s\t|\n", strings.TrimSuffix(filepath.Base(name), ".csv"),
				p.Name, p.CostRatio, 100*p.Attainment, 100*p.WorstDay, p.PowerCycles, q, c, equal(reports[0], p))
		}
	}
	for i, s := range specs {
		fmt.Fprintf(t, "| mean\t| %s\t| %.3f\t|\t|\t|\t|\t|\t|\t|\n", s.Name, sums[i]/float64(fl.NArg()))
	}
	return t.Flush()
}

// simulate tries the policies, and with front sweeps the knob of all but the first.
func simulate(name string, cfg sim.Config, specs []sim.Spec, front bool) ([]sim.PolicyReport, error) {
	t, err := sim.ReadTraceFile(name)
	if err != nil {
		return nil, err
	}
	w, err := sim.NewWorld(cfg, t)
	if err != nil {
		return nil, err
	}
	bound := w.Bound(w.Config().SLO).GPUHours
	var out []sim.PolicyReport
	for i, s := range specs {
		p := w.Run(s, s.Knob.Default)
		p.CostRatio = p.GPUHours / bound
		for _, k := range s.Knob.Sweep {
			if i > 0 && front {
				at := w.Run(s, k)
				p.Front = append(p.Front, sim.FrontPoint{Knob: k, GPUHours: at.GPUHours, CostRatio: at.GPUHours / bound, Attainment: at.Attainment, WorstDay: at.WorstDay})
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// equal says what p costs at the attainment of first, over what first costs.
func equal(first, p sim.PolicyReport) string {
	points := slices.Clone(p.Front)
	if len(points) == 0 || p.Name == first.Name {
		return ""
	}
	slices.SortFunc(points, func(a, b sim.FrontPoint) int { return int(math.Copysign(1, a.CostRatio-b.CostRatio)) })
	best := math.Inf(1)
	for i, b := range points {
		if b.Attainment >= first.Attainment {
			best = min(best, b.CostRatio)
		}
		for _, a := range points[:i] {
			if lo, hi := min(a.Attainment, b.Attainment), max(a.Attainment, b.Attainment); lo < first.Attainment && first.Attainment <= hi {
				share := (first.Attainment - a.Attainment) / (b.Attainment - a.Attainment)
				best = min(best, a.CostRatio+share*(b.CostRatio-a.CostRatio))
			}
		}
	}
	if math.IsInf(best, 1) {
		return "never reached"
	}
	return fmt.Sprintf("%+.1f %%", 100*(best/first.CostRatio-1))
}
