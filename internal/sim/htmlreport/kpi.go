package htmlreport

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/sim"
)

// ladder is the policies' costs as bars, from cheap to dear, with those that
// miss the goal after those that keep it. A bar is cut into what kept slots
// busy, what was paid beside that, and the wear of starts.
type ladder struct {
	Rungs []rung
	Bound float64 // per cent of the width; 0 for none
	Wear  bool
	Torn  bool // one bar at least is longer than there is room

	BoundSays string
}

type rung struct {
	Name   string
	Best   bool
	Met    bool
	Busy   float64 // per cent of the width
	Idle   float64
	Wear   float64
	Torn   bool
	Cost   string
	OnTime string
	Title  string
}

func newLadder(r *sim.Report, v verdict) ladder {
	bound := r.Bound.GPUHours * r.Config.LeastPrice()
	top := ladderTop(r, bound)
	width := func(cost float64) float64 { return round2(100 * max(cost, 0) / top) }
	l := ladder{Bound: width(bound), BoundSays: fmt.Sprintf("%s, for %s GPU-hours", amount(bound), amount(r.Bound.GPUHours))}
	for _, i := range ranked(r) {
		p := r.Policies[i]
		wear := min(float64(p.PowerCycles)*r.Config.CyclePrice, p.Cost)
		busy := (p.Cost - wear) * min(max(p.Utilization, 0), 1)
		out := rung{
			Name: p.Name, Best: i == v.Best, Met: meets(r, p), Torn: p.Cost > top*1.0001,
			Busy: width(busy), Idle: width(p.Cost - wear - busy), Wear: width(wear),
			Cost: amount(p.Cost), OnTime: percent(p.Attainment),
			Title: fmt.Sprintf("%s: %s, of it %s for busy slots, %s for idle ones, %s for starts",
				p.Name, amount(p.Cost), amount(busy), amount(p.Cost-wear-busy), amount(wear)),
		}
		if out.Torn {
			out.Busy = min(out.Busy, 100)
			out.Idle = round2(100 - out.Busy)
			out.Wear = 0
		}
		l.Wear = l.Wear || out.Wear > 0
		l.Torn = l.Torn || out.Torn
		l.Rungs = append(l.Rungs, out)
	}
	return l
}

// ladderTop is the cost at the right edge: the greatest, unless it would leave
// no room to tell the others apart.
func ladderTop(r *sim.Report, bound float64) float64 {
	costs := make([]float64, 0, len(r.Policies))
	for _, p := range r.Policies {
		costs = append(costs, p.Cost)
	}
	slices.Sort(costs)
	top := max(costs[len(costs)-1], bound)
	if middle := costs[len(costs)/2]; middle > 0 && top > 4*middle {
		top = max(2.5*middle, bound)
	}
	if top <= 0 {
		return 1
	}
	return top
}

// kpiTable has every figure of every policy.
type kpiTable struct {
	Columns []column
	Rows    []row
}

type column struct {
	Name  string
	About string
}

type row struct {
	Name  string
	Met   bool
	Best  bool
	Cells []cell
}

type cell struct {
	Text string
	Sort float64
	Best bool // best of those that keep the goal
}

// kpi is a column: how to read it from a report, to write it, and whether
// less is better (-1), more is (1), or neither (0).
type kpi struct {
	column
	value  func(sim.PolicyReport) float64
	format func(float64) string
	better int
}

func kpis(r *sim.Report) []kpi {
	waste := func(p sim.PolicyReport) float64 { return p.GPUHours * (1 - p.Utilization) }
	per1000 := func(p sim.PolicyReport) float64 {
		if p.Requests <= 0 {
			return math.NaN()
		}
		return p.Cost / p.Requests * 1000
	}
	ratio := func(v float64) string { return fmt.Sprintf("%.2f×", v) }
	whole := func(v float64) string { return fmt.Sprintf("%.1f%%", 100*v) }
	count := func(v float64) string { return number(v, 0) }
	goal := seconds(r.SLOWaitS)
	all := []kpi{
		{column{"Cost", "GPU-hours and starts at their prices"}, func(p sim.PolicyReport) float64 { return p.Cost }, amount, -1},
		{column{"GPU-hours", "from start command to the end of the drain"}, func(p sim.PolicyReport) float64 { return p.GPUHours }, amount, -1},
		{column{ratioColumn, "GPU-hours over those of the lower bound"}, func(p sim.PolicyReport) float64 { return p.CostRatio }, ratio, -1},
		{column{"On time", "share of requests that waited at most " + goal}, func(p sim.PolicyReport) float64 { return p.Attainment }, percent, 1},
		{column{"Worst day", "the same, of the day with the least"}, func(p sim.PolicyReport) float64 { return p.WorstDay }, percent, 1},
		{column{"Wait p50", "half waited no longer"}, func(p sim.PolicyReport) float64 { return p.WaitP50S }, seconds, -1},
		{column{"p95", "of a hundred requests 95 waited no longer"}, func(p sim.PolicyReport) float64 { return p.WaitP95S }, seconds, -1},
		{column{"p99", "of a hundred requests 99 waited no longer"}, func(p sim.PolicyReport) float64 { return p.WaitP99S }, seconds, -1},
		{column{"Utilisation", "busy share of the slots that are paid for"}, func(p sim.PolicyReport) float64 { return p.Utilization }, whole, 1},
		{column{"Waste", "GPU-hours paid for slots that were not busy"}, waste, amount, -1},
		{column{"Power cycles", "start commands, each a cold start"}, func(p sim.PolicyReport) float64 { return float64(p.PowerCycles) }, count, -1},
		{column{"Energy, kWh", "idle, busy and starting"}, func(p sim.PolicyReport) float64 { return p.EnergyKWh }, amount, -1},
		{column{"Longest queue", "most requests that waited at once"}, func(p sim.PolicyReport) float64 { return p.MaxBacklog }, short, -1},
		{column{"Cost per 1000", "cost of a thousand requests"}, per1000, amount, -1},
	}
	if r.Bound.GPUHours <= 0 {
		all = slices.DeleteFunc(all, func(k kpi) bool { return k.Name == ratioColumn })
	}
	return all
}

const ratioColumn = "× bound"

func newKPITable(r *sim.Report, v verdict) kpiTable {
	columns := kpis(r)
	var t kpiTable
	for _, c := range columns {
		t.Columns = append(t.Columns, c.column)
	}
	for _, i := range ranked(r) {
		p := r.Policies[i]
		out := row{Name: p.Name, Met: meets(r, p), Best: i == v.Best}
		for _, c := range columns {
			x := c.value(p)
			if math.IsNaN(x) {
				out.Cells = append(out.Cells, cell{Text: "–", Sort: math.MaxFloat32})
				continue
			}
			out.Cells = append(out.Cells, cell{Text: c.format(x), Sort: figures(x, 6)})
		}
		t.Rows = append(t.Rows, out)
	}
	t.markBest(columns)
	return t
}

// markBest marks the best of each column among the policies that keep the
// goal, where there are two to choose from and not all are alike.
func (t *kpiTable) markBest(columns []kpi) {
	for k, c := range columns {
		best, kept, texts := "", 0, map[string]bool{}
		var top float64
		for _, r := range t.Rows {
			if !r.Met {
				continue
			}
			kept++
			texts[r.Cells[k].Text] = true
			if v := r.Cells[k].Sort * float64(c.better); kept == 1 || v > top {
				top, best = v, r.Cells[k].Text
			}
		}
		if kept < 2 || len(texts) < 2 {
			continue
		}
		for i := range t.Rows {
			t.Rows[i].Cells[k].Best = t.Rows[i].Met && t.Rows[i].Cells[k].Text == best
		}
	}
}

// figures rounds to n figures.
func figures(v float64, n int) float64 {
	if v == 0 {
		return 0
	}
	scale := math.Pow(10, float64(n-1)-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// forecastRow says how good a policy's forecasts were.
type forecastRow struct {
	Name, Asked, Came, Pinball, Count string
}

func forecastRows(r *sim.Report) []forecastRow {
	var out []forecastRow
	for _, p := range r.Policies {
		if f := p.Forecast; f != nil && finite(f.Quantile, f.Coverage, f.Pinball) {
			out = append(out, forecastRow{p.Name, percent(f.Quantile), percent(f.Coverage), amount(f.Pinball), number(float64(f.Count), 0)})
		}
	}
	return out
}

// fact is one setting of the world.
type fact struct{ Name, Value string }

// world lists all settings of the simulated world.
func world(r *sim.Report) []fact {
	f := []fact{
		{"Demand", r.Trace.Name},
		{"Length", days(r.Trace.Days) + ", from " + r.Trace.Start.UTC().Format("2006-01-02 15:04") + " UTC"},
		{"World", r.World},
		{"Lead time", seconds(r.LeadS)},
		{"On time", "waits at most " + seconds(r.SLOWaitS)},
		{"Goal", percentShort(r.SLO) + " on time"},
		{"Peak", short(r.Peak) + " replicas busy at the p99.9 minute"},
		{"Slots", number(float64(r.Slots), 0) + " a replica"},
		{"Service", seconds(r.ServiceS) + " a request, in the mean"},
		{"Not scored", "the first " + seconds(r.WarmupS)},
		{"Seed", fmt.Sprint(r.Seed)},
	}
	c := r.Config
	if c.Engine == "" { // a report without it
		return f
	}
	f = append(f,
		fact{"Replicas", fmt.Sprintf("%d to %d, of %s each", c.Min, c.Max, gpus(c.GPUs))},
		fact{"Decisions", "every " + say(c.Interval)},
		fact{"Metrics", fmt.Sprintf("every %s, %s late, %s lost", say(c.Sample), say(c.Delay), percentShort(c.Loss))},
		fact{"Prices", prices(c)},
		fact{"Power of a GPU", fmt.Sprintf("%g W idle, %g W busy, %g W starting", c.IdleWatts, c.BusyWatts, c.BootWatts)},
		fact{"Arrivals", fmt.Sprintf("variance over mean %.3g in 5 s", c.Dispersion)},
		fact{"Service times", fmt.Sprintf("coefficient of variation %.3g", c.ServiceCV)},
		fact{"Full batches", slower(c.SlowDown)},
		fact{"Start times", jitter(c.Jitter)},
		fact{"Failed starts", percentShort(c.StartFailure)},
		fact{"Work of a request", work(c)},
		fact{"Hosts beneath", hosts(c.Hosts)},
	)
	return f
}

// prices are those of a GPU-hour, by class where there are several, and of a
// start.
func prices(c sim.Config) string {
	hours := amount(c.Price) + " a GPU-hour"
	if len(c.Classes) > 0 {
		var of []string
		for _, k := range c.Classes {
			of = append(of, k.Name+" "+amount(k.Price))
		}
		hours = strings.Join(of, ", ") + " a GPU-hour"
	}
	return hours + ", " + amount(c.CyclePrice) + " a start"
}

func say(d time.Duration) string { return seconds(d.Seconds()) }

func gpus(n float64) string {
	if n == 1 {
		return "1 GPU"
	}
	return short(n) + " GPUs"
}

func slower(share float64) string {
	if share == 0 {
		return "serve as fast as empty ones"
	}
	return "an empty one serves in " + percentShort(1-share) + " of the time"
}

func jitter(v float64) string {
	if v == 0 {
		return "always the lead time"
	}
	return fmt.Sprintf("p95 is %.2f times the median", 1+v)
}

func work(c sim.Config) string {
	if !c.Tokens {
		return "the same mean in all minutes"
	}
	return fmt.Sprintf("by its tokens: %g a second in, %g out", c.PrefillRate, c.DecodeRate)
}

func hosts(h sim.Hosts) string {
	if h.Instances == 0 {
		return "none: replicas start by themselves"
	}
	return fmt.Sprintf("%d instances each, %s to boot, %s empty before power-off, %d spare", h.Instances, say(h.Boot), say(h.Hold), h.Spare)
}
