package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/gpupool/gpupool/internal/record"
	"github.com/gpupool/gpupool/internal/sim"
	"github.com/gpupool/gpupool/internal/sim/htmlreport"
	"github.com/gpupool/gpupool/internal/sim/logtrace"
	"github.com/gpupool/gpupool/internal/sim/policyfile"
	"github.com/gpupool/gpupool/internal/sim/promtrace"
)

// simulateFlags is what the operator asked of gpupool simulate.
type simulateFlags struct {
	trace    string
	generate string
	server   promtrace.Config
	policies []string
	tier     string
	json     bool
	html     string
	front    bool
	timeline time.Duration
	config   sim.Config
	classes  []string
	pool     string
	given    func(flag string) bool
}

func newSimulate() *cobra.Command {
	var f simulateFlags
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Replay demand through scaling policies and compare them with the true optimum",
		Long: `Replay demand through scaling policies, in a model of a GPU pool, and measure
what each would have cost and how late it would have been. The policy called
predictive is the very code that runs in strategy-predictive.

Without arguments it replays a generated week. Nothing is contacted or changed.`,
		Example: `  gpupool simulate
  gpupool simulate --trace last-month.csv --lead 10m --peak 12
  gpupool simulate --policy predictive --policy tracking-queue --front
  gpupool simulate --policy predictive --policy my-policy.hcl
  gpupool simulate --class owned=0.4,max=12 --class spot=0.9,max=20,interrupt=0.05 --class on-demand=2.5
  gpupool simulate --trace last-month.csv --json > result.json`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f.register(cmd)
	return cmd
}

func (f *simulateFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.trace, "trace", "", "demand to replay: CSV offset_s,arrivals[,input_tokens,output_tokens], JSON lines, or a decision log; - is stdin (default: a generated week)")
	fl.StringArrayVar(&f.policies, "policy", []string{"all"}, "policy to try, may be repeated: all, a scaling policy `FILE.hcl`, "+strings.Join(policyNames(), ", "))
	f.registerWorld(cmd)
	fl.BoolVar(&f.json, "json", false, "write JSON, the stable form in docs/reference/simulate.md")
	fl.StringVar(&f.html, "html", "", "write a self-contained report to `FILE`")
	fl.BoolVar(&f.front, "front", false, "sweep each policy's knob: cost against attainment")
	fl.DurationVar(&f.timeline, "timeline", 0, "record demand and capacity in steps of this length, in --json")
}

// registerWorld declares what says where demand comes from, besides a file, and
// what world it meets.
func (f *simulateFlags) registerWorld(cmd *cobra.Command) {
	c, fl := &f.config, cmd.Flags()
	f.given = fl.Changed
	fl.StringVar(&f.pool, "pool", "", "where --trace is a decision log of several pools: which one")
	fl.StringVar(&f.generate, "generate", "week", "without --trace: week (a chat service) or shop (a shop's recommender)")
	fl.StringVar(&f.server.URL, "prometheus", "", "ask this server for the demand instead, by --query and --range")
	fl.StringVar(&f.server.Query, "query", "", "with --prometheus: expression that gives the requests of one minute, as one series")
	fl.DurationVar(&f.server.Range, "range", 14*24*time.Hour, "with --prometheus: how far back")
	fl.DurationVar(&c.Lead, "lead", 5*time.Minute, "from start command to first request served")
	fl.Float64Var(&c.Peak, "peak", 40, "replicas that the p99.9 minute keeps busy; sets the service rate")
	fl.DurationVar(&c.SLOWait, "slo-wait", time.Minute, "longest wait of a request that is on time")
	fl.Float64Var(&c.SLO, "slo", 0.99, "share of requests that shall be on time")
	fl.DurationVar(&c.Warmup, "warmup", 0, "not scored at the start (default 24h; of traces up to a day 1h)")
	fl.Uint64Var(&c.Seed, "seed", 1, "of everything random")
	fl.IntVar(&c.Slots, "slots", 8, "requests that a replica serves at once")
	fl.IntVar(&c.Min, "min", 1, "fewest replicas; -1 for none")
	fl.IntVar(&c.Max, "max", 0, "most replicas (default twice the peak)")
	fl.DurationVar(&c.Interval, "interval", time.Minute, "between decisions")
	fl.Float64Var(&c.Jitter, "jitter", 0, "spread of the lead time: its p95 is 1+jitter times the median")
	fl.Float64Var(&c.StartFailure, "start-failure", 0, "share of starts that fail")
	fl.Float64Var(&c.Dispersion, "dispersion", 0, "variance over mean of the arrivals in five seconds (default: that of the trace's minutes; 1 is Poisson)")
	fl.BoolVar(&c.Tokens, "tokens", false, "let the work of a request follow the trace's tokens")
	fl.StringVar((*string)(&c.Engine), "engine", string(sim.Fluid), "fluid (amounts; fast) or requests (each request in its slot)")
	fl.StringVar(&f.tier, "tier", "instance", "instance, or host,instance for hosts that must boot beneath the instances")
	fl.Float64Var(&c.Price, "price", 2, "of a GPU-hour, in any currency")
	fl.Float64Var(&c.CyclePrice, "cycle-price", 0.1, "of a start, beyond the hours it is billed: wear")
	fl.StringArrayVar(&f.classes, "class", nil, "price class, most preferred first, may be repeated: `NAME=PRICE[,max=REPLICAS][,interrupt=PER_HOUR]`")
	fl.IntVar(&c.Hosts.Instances, "instances-per-host", 8, "with --tier host,instance")
	fl.DurationVar(&c.Hosts.Boot, "host-boot", 5*time.Minute, "with --tier host,instance: from power-on until instances can start")
}

func policyNames() []string {
	var names []string
	for _, s := range sim.Policies() {
		names = append(names, s.Name)
	}
	return names
}

func (f *simulateFlags) run(ctx context.Context, out, progress io.Writer) error {
	specs, err := f.specs()
	if err != nil {
		return err
	}
	if err := f.checkWorld(); err != nil {
		return err
	}
	trace, err := f.read(ctx)
	if err != nil {
		return err
	}
	f.config.Timeline = f.timeline
	if f.html != "" && f.timeline == 0 {
		f.config.Timeline = timelineStep(trace.Duration())
	}
	show := newProgress(progress)
	report, err := sim.Simulate(f.config, trace, sim.Options{Policies: specs, Front: f.front, Progress: show.step})
	show.clear()
	if err != nil {
		return err
	}
	if f.html != "" {
		if err := writeHTML(f.html, report); err != nil {
			return err
		}
		if f.timeline == 0 { // recorded for the drawing only
			for i := range report.Policies {
				report.Policies[i].Timeline = nil
			}
		}
	}
	if f.json {
		return report.WriteJSON(out)
	}
	return report.WriteText(out)
}

// checkWorld looks at what flags alone can have wrong, and settles the tiers.
func (f *simulateFlags) checkWorld() error {
	switch f.tier {
	case "instance":
		f.config.Hosts = sim.Hosts{}
	case "host,instance":
	default:
		return fmt.Errorf("--tier %q: must be instance or host,instance", f.tier)
	}
	for _, text := range f.classes {
		class, err := sim.ParseClass(text)
		if err != nil {
			return fmt.Errorf("--%w", err)
		}
		f.config.Classes = append(f.config.Classes, class)
	}
	if !(f.config.Price > 0) || !(f.config.CyclePrice > 0) {
		return errors.New("--price and --cycle-price: must be above 0")
	}
	if c := f.config; c.Lead == 0 || c.Peak == 0 || c.SLO == 0 || c.SLOWait == 0 || c.Slots == 0 || c.Interval == 0 {
		return errors.New("--lead, --peak, --slo, --slo-wait, --slots and --interval: must not be 0")
	}
	return nil
}

// timelineStep is a round step that keeps a recording under ninety thousand
// points. Up to two months it is the minute: the report thins the whole run by
// itself, and shows the hardest hours from near.
func timelineStep(d time.Duration) time.Duration {
	for _, s := range []time.Duration{time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute} {
		if d/s <= 90_000 {
			return s
		}
	}
	return time.Hour
}

func (f *simulateFlags) specs() ([]sim.Spec, error) {
	var specs []sim.Spec
	seen := map[string]bool{}
	add := func(s sim.Spec) {
		if !seen[s.Name] {
			specs = append(specs, s)
		}
		seen[s.Name] = true
	}
	for _, name := range f.policies {
		s, known := sim.Lookup(name)
		switch {
		case name == "all":
			for _, s := range sim.Policies() {
				add(s)
			}
		case known:
			add(s)
		case strings.HasSuffix(name, ".hcl"):
			s, err := policyfile.Load(name)
			if err != nil {
				return nil, fmt.Errorf("--policy: %w", err)
			}
			add(s)
		default:
			return nil, fmt.Errorf("--policy %q: there is no such policy; there are all, FILE.hcl, %s", name, strings.Join(policyNames(), ", "))
		}
	}
	if len(specs) == 0 {
		return nil, errors.New("--policy: none given")
	}
	return specs, nil
}

func (f *simulateFlags) read(ctx context.Context) (sim.Trace, error) {
	switch {
	case f.server.URL != "" && f.trace != "":
		return sim.Trace{}, errors.New("--trace and --prometheus: give one")
	case f.server.URL != "":
		f.server.End = time.Now()
		return promtrace.Fetch(ctx, f.server)
	case f.server.Query != "":
		return sim.Trace{}, errors.New("--query: which server? give --prometheus URL")
	}
	switch f.trace {
	case "":
		switch f.generate {
		case "week":
			return sim.Week(max(f.config.Seed, 1)), nil
		case "shop":
			return sim.Shop(max(f.config.Seed, 1)), nil
		}
		return sim.Trace{}, fmt.Errorf("--generate %q: must be week or shop", f.generate)
	case "-":
		return sim.ReadTrace(os.Stdin, "stdin")
	}
	file, err := os.Open(f.trace)
	if err != nil {
		return sim.Trace{}, fmt.Errorf("--trace: %w", err)
	}
	defer func() { _ = file.Close() }() // read only: there is nothing to lose
	text := bufio.NewReader(file)
	if begin, _ := text.Peek(64); record.IsLog(begin) {
		return f.readLog()
	}
	return sim.ReadTrace(text, filepath.Base(f.trace))
}

// readLog reads a decision log, whose pool is replayed at its own size unless
// flags say otherwise.
func (f *simulateFlags) readLog() (sim.Trace, error) {
	t, pool, err := logtrace.ReadFile(f.trace, f.pool)
	if err != nil {
		return sim.Trace{}, fmt.Errorf("--trace: %w", err)
	}
	pool.Apply(&f.config, f.given)
	return t, nil
}

// progress is a line on a terminal that is gone when the work is done. Work
// that takes less than half a second shows nothing.
type progress struct {
	w     io.Writer
	on    bool
	begin time.Time
	shown bool
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, on: ok && term.IsTerminal(int(f.Fd())), begin: time.Now()}
}

func (p *progress) step(done, all int, what string) {
	if p.on && time.Since(p.begin) > 500*time.Millisecond {
		p.shown = true
		_, _ = fmt.Fprintf(p.w, "\r\x1b[K%d of %d: %s", done, all, what)
	}
}

func (p *progress) clear() {
	if p.shown {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// writeHTML writes the report as one self-contained file, whole or not at all.
func writeHTML(name string, r *sim.Report) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("--html: %w", err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(name), ".report-*.html")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // after the rename it is not there any more
	err = htmlreport.Write(f, r, htmlreport.Options{Command: commandLine(os.Args)})
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// commandLine is what to type to get the same report.
func commandLine(args []string) string {
	words := []string{"gpupool"}
	for _, a := range args[min(1, len(args)):] {
		if a == "" || strings.ContainsAny(a, " \t\n\"'`$&|;<>()*?[]#~!\\{}") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}
