// Command floor prints how little a rule could cost that cannot see the future:
// one that sets the count for each five minutes from what it knows one lead time
// before they begin, and whose answer to each class of what it knows is picked
// in hindsight for the whole trace.
//
//	go run ./internal/sim/floor --lead 5m TRACES/nab_tweets_amzn.csv
//
// It is generous: what is known are whole five minutes, capacity comes and goes
// at no cost, each five minutes begin with an empty queue, and the more classes
// there are the more of them know by heart what came. No rule that goes by the
// same classes costs less; one that knows something else may.
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
	"time"

	"github.com/gpupool/gpupool/internal/sim"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	fl := flag.NewFlagSet("floor", flag.ContinueOnError)
	lead := fl.Duration("lead", 5*time.Minute, "from start command to first request served; a multiple of 5m, up to 12h")
	peak := fl.Float64("peak", 40, "replicas that the p99.9 minute keeps busy")
	slo := fl.Float64("slo", 0.99, "share of requests that shall be on time")
	if err := fl.Parse(args); err != nil {
		return err
	}
	if *lead < block*time.Minute || *lead%(block*time.Minute) != 0 || *lead > longest {
		return fmt.Errorf("--lead is %s: must be a multiple of 5m, up to %s", *lead, longest)
	}
	if *peak <= 0 {
		return fmt.Errorf("--peak is %v: must be above 0", *peak)
	}
	fmt.Fprintln(out, "| trace | goes by | classes | x bound |\n|---|---|--:|--:|")
	for _, name := range fl.Args() {
		t, err := sim.ReadTraceFile(name)
		if err != nil {
			return err
		}
		if len(t.Arrivals) < 2*perDay*block {
			return fmt.Errorf("%s is shorter than two days, of which the first is not scored", name)
		}
		w, err := sim.NewWorld(sim.Config{Lead: *lead, Peak: *peak, SLO: *slo}, t)
		if err != nil {
			return err
		}
		b := newBlocks(t.Arrivals, *peak, int(*lead/(block*time.Minute)))
		bound := w.Bound(*slo).GPUHours
		for _, k := range knowledge {
			hours, classes := b.floor(k, 1-*slo)
			fmt.Fprintf(out, "| %s | %s | %d | %.2f |\n", strings.TrimSuffix(filepath.Base(name), ".csv"), k.name, classes, hours/bound)
		}
	}
	return nil
}

// knows is what a rule goes by, in how many classes each.
type knows struct {
	name             string
	load, most, time int // last five minutes, largest five of the last two hours, time of day
}

var knowledge = []knows{
	{"nothing: one count", 1, 1, 1},
	{"the load now", 20, 1, 1},
	{"and the largest of two hours", 20, 5, 1},
	{"and the quarter of the day", 20, 5, 4},
}

const (
	block   = 5               // minutes for which a count holds
	history = 2 * 60 / block  // blocks of which the largest is known
	perDay  = 24 * 60 / block // the first day is not scored
	counts  = 120             // tried in each class, evenly to twice the peak and finer below

	longest = 12 * time.Hour // lead time: what is known must lie within the first day
)

// blocks is a trace in pieces of five minutes.
type blocks struct {
	work  []float64   // replica-minutes that arrive
	late  [][]float64 // of them late, for each count, from an empty queue
	grid  []float64   // counts
	first int         // first that is scored
	back  int         // from what is known to what is served
}

func newBlocks(arrivals []float64, peak float64, back int) *blocks {
	sorted := slices.Sorted(slices.Values(arrivals))
	unit := peak / sorted[int(0.999*float64(len(sorted)))]
	b := &blocks{first: perDay, back: back}
	for i := 1; i <= counts; i++ { // quadratic: the small ones matter
		b.grid = append(b.grid, 2*peak*math.Pow(float64(i)/counts, 2))
	}
	for at := 0; at+block <= len(arrivals); at += block {
		sum, late := 0.0, make([]float64, counts)
		for _, v := range arrivals[at : at+block] {
			sum += v * unit
		}
		for i, n := range b.grid {
			late[i] = lateWork(arrivals[at:at+block], unit, n)
		}
		b.work, b.late = append(b.work, sum), append(b.late, late)
	}
	return b
}

// lateWork is the work that waits for more than a minute where n replicas serve,
// first in first out, from an empty queue.
func lateWork(arrivals []float64, unit, n float64) (late float64) {
	queue := 0.0
	for _, v := range arrivals {
		before := queue / n
		queue = max(queue+v*unit-n, 0)
		lo, hi := min(before, queue/n), max(before, queue/n)
		switch {
		case lo >= 1:
			late += v * unit
		case hi > 1:
			late += v * unit * (hi - 1) / (hi - lo)
		}
	}
	return late
}

// class is what the blocks of one class come to.
type class struct {
	blocks float64
	late   []float64
}

// floor is the least replica-hours at which no more than that share of the work
// is late, and the number of classes that there are.
func (b *blocks) floor(k knows, share float64) (hours float64, n int) {
	classes := b.classes(k)
	all := 0.0
	for _, v := range b.work[b.first:] {
		all += v
	}
	// The price of lateness at which the promise is just kept: each class then
	// takes its cheapest count (Lagrange).
	lo, hi := 1.0, 1e6
	for range 60 {
		price := math.Sqrt(lo * hi)
		paid, late := 0.0, 0.0
		for _, c := range classes {
			best := 0
			for i := range b.grid {
				if c.cost(b.grid, i, price) < c.cost(b.grid, best, price) {
					best = i
				}
			}
			paid += c.blocks * b.grid[best] * block / 60
			late += c.late[best]
		}
		// The line from too late to on time is the least: dual and primal.
		if hours = paid + price*(late-share*all)/60; late > share*all {
			lo = price
		} else {
			hi = price
		}
	}
	return hours, len(classes)
}

func (c *class) cost(grid []float64, i int, price float64) float64 {
	return c.blocks*grid[i]*block + price*c.late[i]
}

// classes are the blocks by what is known of them beforehand.
func (b *blocks) classes(k knows) map[[3]int]*class {
	n := len(b.work)
	now, most := make([]float64, 0, n), make([]float64, 0, n)
	for i := b.first; i < n; i++ {
		now = append(now, b.work[i-b.back])
		most = append(most, slices.Max(b.work[i-b.back-history:i-b.back]))
	}
	edgesNow, edgesMost := edges(now, k.load), edges(most, k.most)
	classes := map[[3]int]*class{}
	for j, v := range now {
		i := j + b.first
		key := [3]int{of(v, edgesNow), of(most[j], edgesMost), i % perDay * k.time / perDay}
		c := classes[key]
		if c == nil {
			c = &class{late: make([]float64, counts)}
			classes[key] = c
		}
		c.blocks++
		for g, late := range b.late[i] {
			c.late[g] += late
		}
	}
	return classes
}

// edges cut values into n classes of equal size.
func edges(values []float64, n int) (cut []float64) {
	s := slices.Sorted(slices.Values(values))
	for i := 1; i < n; i++ {
		cut = append(cut, s[len(s)*i/n])
	}
	return cut
}

func of(v float64, cut []float64) int {
	i, found := slices.BinarySearch(cut, v)
	if found {
		i++
	}
	return i
}
