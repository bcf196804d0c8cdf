// Command rcompare measures the forecaster against R's forecast package: on
// the same series, at the same origins, by pinball loss and by how many of the
// values that came lie in the 90 % interval, with the CPU time of each.
//
//	make bench-r TRACES="a.csv b.csv"
//
// installs R and its package and runs
//
//	go run ./internal/sim/rcompare --origins 40 a.csv b.csv
//
// Without traces it is the week that gpupool simulate makes for itself. R fits anew at each origin, which takes seconds, so only every so many
// minutes of the last half of a trace is an origin. What is forecast is the
// mean of two minutes.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gpupool/gpupool/internal/forecast"
	"github.com/gpupool/gpupool/internal/sim"
)

//go:embed compare.R
var script []byte

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "rcompare:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	fl := flag.NewFlagSet("rcompare", flag.ContinueOnError)
	origins := fl.Int("origins", 24, "forecasts of each method and trace")
	if err := fl.Parse(args); err != nil {
		return err
	}
	if _, err := exec.LookPath("Rscript"); err != nil {
		return errors.New("Rscript is missing: e2e/tools/packages.sh r installs it")
	}
	if *origins < 1 || *origins > 10_000 {
		return fmt.Errorf("--origins is %d: must be 1 to 10000", *origins)
	}
	traces, err := load(fl.Args())
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "| trace\t| minutes ahead\t| method\t| pinball, % of the mean\t| in the 90 % interval\t| CPU a forecast\t|")
	fmt.Fprintln(t, "|---\t|--:\t|---\t|--:\t|--:\t|--:\t|")
	for _, trace := range traces {
		values := trace.Arrivals
		at := spread(len(values), *origins)
		said, err := ask(values, at)
		if err != nil {
			return fmt.Errorf("%s: %w", trace.Name, err)
		}
		said = append(ours(values, at), said...)
		report(t, strings.TrimSuffix(trace.Name, ".csv"), values, said)
	}
	return t.Flush()
}

func load(names []string) ([]sim.Trace, error) {
	if len(names) == 0 {
		return []sim.Trace{sim.Week(1)}, nil
	}
	var traces []sim.Trace
	for _, name := range names {
		t, err := sim.ReadTraceFile(name)
		if err != nil {
			return nil, err
		}
		if len(t.Arrivals) < 4*24*60 {
			return nil, fmt.Errorf("%s is shorter than four days", name)
		}
		traces = append(traces, t)
	}
	return traces, nil
}

// longest is how far ahead is forecast, in minutes.
const longest = 30

var horizons = []int{5, 15, longest}

// probabilities of the quantiles that are scored, the outer two of which make
// the 90 % interval.
var probabilities = []float64{0.05, 0.5, 0.8, 0.95}

// spread is the origins: how many minutes are known at each, at even distances
// over the second half, at odd times of day.
func spread(minutes, n int) (at []int) {
	first := minutes / 2
	step := (minutes - first - longest - 1) / n
	for i := range n {
		at = append(at, first+i*step+i*7%max(step/2, 1))
	}
	return at
}

// said is one forecast.
type said struct {
	method    string
	origin    int // minutes known
	ahead     int // minutes
	seconds   float64
	quantiles [4]float64
}

// ours is what the model of the strategy says. Its time is that of all minutes
// read, over their number: a forecast is made at each.
func ours(values []float64, at []int) (all []said) {
	for _, h := range horizons {
		m := forecast.New(forecast.Config{Day: 1440, Hour: 60, Ahead: h, Every: 1, Width: 2, Quantiles: probabilities})
		begin, first := time.Now(), len(all)
		for i, v := range values {
			m.Add(v)
			if slices.Contains(at, i+1) {
				all = append(all, said{"gpupool", i + 1, h, 0, [4]float64(m.Quantiles())})
			}
		}
		each := time.Since(begin).Seconds() / float64(len(values))
		for i := range all[first:] {
			all[first+i].seconds = each
		}
	}
	return all
}

// ask has R forecast.
func ask(values []float64, at []int) ([]said, error) {
	dir, err := os.MkdirTemp("", "rcompare")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what is left is in the folder for temporary files
	lines := func(name string, n int, line func(i int) string) (err error) {
		var b bytes.Buffer
		for i := range n {
			b.WriteString(line(i) + "\n")
		}
		return os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o600)
	}
	err = errors.Join(os.WriteFile(filepath.Join(dir, "compare.R"), script, 0o600),
		lines("series", len(values), func(i int) string { return strconv.FormatFloat(values[i], 'g', -1, 64) }),
		lines("origins", len(at), func(i int) string { return strconv.Itoa(at[i]) }))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.Background(), "Rscript", "--vanilla", "compare.R", "series", "origins", "out")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("Rscript: %w", err)
	}
	f, err := os.Open(filepath.Join(dir, "out"))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("what R wrote: %w", err)
	}
	var all []said
	for _, r := range rows {
		s := said{method: r[0]}
		if len(r) != 8 {
			return nil, fmt.Errorf("what R wrote: a line of %d fields", len(r))
		}
		numbers := make([]float64, 8)
		for i, text := range r[1:] {
			if numbers[i], err = strconv.ParseFloat(text, 64); err != nil {
				return nil, fmt.Errorf("what R wrote: %w", err)
			}
		}
		s.origin, s.ahead, s.seconds = int(numbers[0]), int(numbers[1]), numbers[2]
		s.quantiles = [4]float64(numbers[3:7])
		all = append(all, s)
	}
	return all, nil
}

// report prints one row for each horizon and method, in the order in which
// they first appear.
func report(t io.Writer, trace string, values []float64, all []said) {
	mean := 0.0
	for _, v := range values {
		mean += v / float64(len(values))
	}
	var methods []string
	for _, s := range all {
		if !slices.Contains(methods, s.method) {
			methods = append(methods, s.method)
		}
	}
	for _, h := range horizons {
		for _, m := range methods {
			loss, within, seconds, n := 0.0, 0, 0.0, 0
			for _, s := range all {
				if s.method != m || s.ahead != h {
					continue
				}
				came := (values[s.origin+h-1] + values[s.origin+h-2]) / 2
				for i, q := range probabilities {
					loss += max(q*(came-s.quantiles[i]), (q-1)*(came-s.quantiles[i])) / float64(len(probabilities))
				}
				if came >= s.quantiles[0] && came <= s.quantiles[3] {
					within++
				}
				seconds += s.seconds
				n++
			}
			if n > 0 {
				k := float64(n)
				fmt.Fprintf(t, "| %s\t| %d\t| %s\t| %.2f\t| %.0f %%\t| %s\t|\n", trace, h, m, 100*loss/k/mean, 100*float64(within)/k,
					time.Duration(seconds/k*1e9).Round(100*time.Nanosecond))
			}
		}
	}
}
