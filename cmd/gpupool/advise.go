package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpupool/gpupool/internal/advise"
	"github.com/gpupool/gpupool/internal/board"
	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/record"
	"github.com/gpupool/gpupool/internal/sim"
	"github.com/gpupool/gpupool/internal/sim/logtrace"
)

// adviseFlags is what the operator asked of gpupool advise. The world in which
// scaling is compared with a fixed pool is described as to gpupool simulate.
type adviseFlags struct {
	simulateFlags
	log         string
	check       string
	since       time.Duration
	agents      string
	agentsRange time.Duration
}

// advice is what gpupool advise found. Its JSON form is described in
// docs/reference/advise.md: members are added, never renamed or removed.
type advice struct {
	Pool     string           `json:"pool"`
	From     time.Time        `json:"from"`
	To       time.Time        `json:"to"`
	KnownS   float64          `json:"known_s"` // of that time, how much the decisions cover; 0 without a decision log
	Findings []advise.Finding `json:"findings"`
	Verdict  *advise.Verdict  `json:"verdict,omitempty"`
	Notes    []string         `json:"notes"`
}

func newAdvise() *cobra.Command {
	var f adviseFlags
	cmd := &cobra.Command{
		Use:   "advise [POOL]",
		Short: "Say what a pool's past calls for: which setting to change, to what, and why",
		Long: `Read what a pool decided, or the demand that it met, and say what it calls for:
overload, idle replicas, turning to and fro, a lead time that is not the real
one, whether scaling pays at all, and whether GPUs have the right size for their
tasks. Each finding has its figures and the change
to make. Nothing is contacted or changed.`,
		Example: `  gpupool advise h100 --log /var/lib/gpupool/decisions.jsonl
  gpupool advise h100 --log /var/lib/gpupool/decisions.jsonl --since 168h
  gpupool advise --trace last-month.csv --lead 8m --peak 12
  gpupool advise --agents http://prometheus.example:9090`,
		Args:          cobra.MaximumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := poolArgument(args, &f.pool); err != nil {
				return err
			}
			return f.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f.registerWorld(cmd)
	fl := cmd.Flags()
	fl.Lookup("pool").Usage = "the pool, as the log calls it"
	fl.StringVar(&f.log, "log", "", "the decision log, strategy-predictive's decision_log (default $"+logEnv+"); older files beside it are read too")
	fl.StringVar(&f.check, "check", "", "the check, by its name in the policy")
	fl.StringVar(&f.trace, "trace", "", "instead of a log, demand alone: CSV offset_s,arrivals or JSON lines; - is stdin")
	fl.DurationVar(&f.since, "since", 0, "only the newest part of the log of this length (default all)")
	fl.StringVar(&f.agents, "agents", "", "`URL` of the Prometheus that scrapes the agents: whether tasks' GPUs have the right size")
	fl.DurationVar(&f.agentsRange, "agents-range", 7*24*time.Hour, "with --agents: how far back")
	fl.BoolVar(&f.json, "json", false, "write JSON, the stable form in docs/reference/advise.md")
	return cmd
}

func (f *adviseFlags) run(ctx context.Context, out io.Writer) error {
	if err := f.checkWorld(); err != nil {
		return err
	}
	if len(f.classes) > 0 {
		return errors.New("--class: advise weighs all GPU-hours at one --price")
	}
	var a *advice
	var err error
	switch demandOnly := f.trace != "" || f.server.URL != ""; {
	case demandOnly && f.log != "":
		return errors.New("--log, --trace and --prometheus: give one")
	case demandOnly:
		a, err = f.ofDemand(ctx)
	case f.agents != "" && f.log == "" && os.Getenv(logEnv) == "":
		a = &advice{Findings: []advise.Finding{}, Notes: []string{}}
	default:
		a, err = f.ofLog()
	}
	if err != nil {
		return err
	}
	if f.agents != "" {
		if err := f.sizes(ctx, a); err != nil {
			return err
		}
	}
	if f.json {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(a)
	}
	return a.print(out)
}

// ofDemand compares scaling with a fixed pool: a trace shows no more.
func (f *adviseFlags) ofDemand(ctx context.Context) (*advice, error) {
	t, err := f.read(ctx)
	if err != nil {
		return nil, err
	}
	a := &advice{Pool: t.Name, From: t.Start, To: t.Start.Add(t.Duration()), Findings: []advise.Finding{}, Notes: append([]string{}, t.Notes...)}
	a.Notes = append(a.Notes, "this is demand alone: what the pool did about it, and so overload, idle time, cycling and lead time, is in a decision log")
	a.judge(f.config, t)
	return a, nil
}

// ofLog also judges what the pool did.
func (f *adviseFlags) ofLog() (*advice, error) {
	var all advise.History
	var rules plan.Rules
	lf := logFlags{f.log, f.pool, f.check}
	stream, contents, err := lf.read(func(r record.Read) {
		all = append(all, advise.FromRecord(r))
		rules = r.Rules
	})
	if err != nil {
		return nil, err
	}
	from := all[0].At
	if f.since > 0 {
		from = all[len(all)-1].At.Add(-f.since)
		for len(all) > 0 && all[0].At.Before(from) {
			all = all[1:]
		}
	}
	_, known := all.Span()
	a := &advice{Pool: stream.Name(), From: all[0].At, To: all[len(all)-1].At, KnownS: known.Seconds(), Notes: append([]string{}, contents.Notes...)}
	found, notes := advise.Advise(all)
	a.Findings = append([]advise.Finding{}, found...)
	a.Notes = append(a.Notes, notes...)
	s := contents.Series[stream]
	s = record.Series{Demand: s.Demand.Window(from, a.To), Load: s.Load.Window(from, a.To), Queue: s.Queue.Window(from, a.To)}
	t, pool, err := logtrace.FromSeries(a.Pool, s, rules)
	if err != nil {
		a.Notes = append(a.Notes, fmt.Sprintf("whether scaling pays is not known: %v", err))
		return a, nil
	}
	pool.Apply(&f.config, f.given)
	a.Notes = append(a.Notes, t.Notes...)
	a.judge(f.config, t)
	return a, nil
}

// judge adds whether scaling pays.
func (a *advice) judge(c sim.Config, t sim.Trace) {
	v, err := advise.Compare(c, t)
	if err != nil {
		a.Notes = append(a.Notes, fmt.Sprintf("whether scaling pays is not known: %v", err))
		return
	}
	a.Verdict = v
	if f, ok := v.Finding(); ok {
		a.Findings = append(a.Findings, f)
	}
}

func (a *advice) print(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s from %s\n", a.Pool, board.Age(a.To.Sub(a.From)), a.From.UTC().Format(time.RFC3339))
	for i, f := range a.Findings {
		fmt.Fprintf(&b, "\n%d. %s: %s\n   change: %s\n", i+1, f.Kind, f.What, f.Change)
	}
	if len(a.Findings) == 0 {
		b.WriteString("\nnothing to change was found\n")
	}
	if a.Verdict != nil {
		if f, bad := a.Verdict.Finding(); !bad {
			fmt.Fprintf(&b, "\n%s\n", f.What)
		}
	}
	if len(a.Notes) > 0 {
		b.WriteByte('\n')
	}
	for _, n := range a.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	_, err := io.WriteString(out, b.String())
	return err
}
