package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpupool/gpupool/internal/board"
	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/record"
)

// logEnv names the decision log where no --log does.
const logEnv = "GPUPOOL_DECISION_LOG"

// logFlags say which decisions of which log are meant.
type logFlags struct{ log, pool, check string }

func (f *logFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.log, "log", "", "the decision log, strategy-predictive's decision_log (default $"+logEnv+"); older files beside it are read too")
	fl.StringVar(&f.pool, "pool", "", "the pool, as the log calls it")
	fl.StringVar(&f.check, "check", "", "the check, by its name in the policy")
}

func (f *logFlags) path() (string, error) {
	if f.log != "" {
		return f.log, nil
	}
	if p := os.Getenv(logEnv); p != "" {
		return p, nil
	}
	return "", fmt.Errorf("--log: which decision log? It is kept where strategy-predictive's decision_log says; %s is looked at too", logEnv)
}

// read reads the log and calls each for the decisions that are meant. All must
// be of one stream.
func (f *logFlags) read(each func(record.Read)) (record.Stream, *record.Contents, error) {
	path, err := f.path()
	if err != nil {
		return record.Stream{}, nil, err
	}
	var meant, others []record.Stream
	contents, err := record.ReadFile(path, func(r record.Read) error {
		into := &others
		if r.Matches(f.pool, f.check) {
			into = &meant
			each(r)
		}
		if !slices.Contains(*into, r.Stream) {
			*into = append(*into, r.Stream)
		}
		return nil
	})
	switch {
	case err != nil:
		return record.Stream{}, nil, fmt.Errorf("--log: %w", err)
	case len(meant) == 0 && len(others) == 0:
		return record.Stream{}, nil, fmt.Errorf("--log: %s has no decision in it yet", path)
	case len(meant) == 0:
		return record.Stream{}, nil, fmt.Errorf("%s has no decision of --pool %q and --check %q; it has %s", path, f.pool, f.check, list(others))
	case len(meant) > 1:
		return record.Stream{}, nil, fmt.Errorf("%s has decisions of %s: say which by --pool or --check", path, list(meant))
	}
	return meant[0], contents, nil
}

// list is the first streams in words.
func list(all []record.Stream) string {
	var words []string
	for _, s := range all[:min(len(all), 8)] {
		words = append(words, "("+s.String()+")")
	}
	if more := len(all) - len(words); more > 0 {
		words = append(words, fmt.Sprintf("%d more", more))
	}
	return strings.Join(words, ", ")
}

func newExplain() *cobra.Command {
	var f logFlags
	var at string
	cmd := &cobra.Command{
		Use:   "explain [POOL]",
		Short: "Show the decision in force at a time, and make it again",
		Long: `Show the decision in force at a time, with each number that it was made of, and
make it again from what the decision log has: the answer must be the same to the
byte. Nothing is contacted or changed.`,
		Example: `  gpupool explain --log /var/lib/gpupool/decisions.jsonl
  gpupool explain h100 --at 2026-03-02T09:14:00Z
  gpupool explain h100 --at -2h`,
		Args:          cobra.MaximumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := poolArgument(args, &f.pool); err != nil {
				return err
			}
			when, err := parseAt(at, time.Now())
			if err != nil {
				return err
			}
			return explain(cmd.OutOrStdout(), &f, when)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&at, "at", "", "when: 2026-03-02T09:14:00Z, \"2026-03-02 09:14\" in local time, or -2h (default now)")
	return cmd
}

// parseAt reads a time as people give it.
func parseAt(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return now, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d <= 0 {
		return now.Add(d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--at %q: write 2026-03-02T09:14:00Z, \"2026-03-02 09:14\" or -2h", text)
}

func explain(out io.Writer, f *logFlags, at time.Time) error {
	var found *record.Read
	var first time.Time
	_, contents, err := f.read(func(r record.Read) {
		if first.IsZero() || r.Input.Now.Before(first) {
			first = r.Input.Now
		}
		if !r.Input.Now.After(at) && (found == nil || !r.Input.Now.Before(found.Input.Now)) {
			found = &r
		}
	})
	if err != nil {
		return err
	}
	if found == nil {
		return fmt.Errorf("--at: the log begins at %s, after %s", first.Format(time.RFC3339), at.Format(time.RFC3339))
	}
	again, err := found.Replay()
	if err != nil {
		return err
	}
	return printExplained(out, *found, again, contents.Notes, at)
}

// printExplained writes the decision as a small table.
func printExplained(out io.Writer, r record.Read, again record.Replayed, notes []string, at time.Time) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d by the rule %q, decided at %s, %s before %s\n", r.Name(), r.Decision.Count, r.Decision.Rule,
		r.Input.Now.In(at.Location()).Format(time.RFC3339), board.Age(at.Sub(r.Input.Now)), at.Format(time.RFC3339))
	fmt.Fprintf(&b, "  %s\n\n", r.Decision.Reason)
	t := tabwriter.NewWriter(&b, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  TERM\tVALUE\tUNIT\tWHAT IT IS")
	for _, v := range r.Decision.Terms {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", v.Name, strconv.FormatFloat(v.Value, 'g', 6, 64), v.Unit, v.Note)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	b.WriteByte('\n')
	t = tabwriter.NewWriter(&b, 2, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(t, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	line("rules", "%s", strings.Join(record.Words(r.Rules), ", "))
	line("saw", "%s", seen(r.Input))
	for _, v := range replayInWords(r, again) {
		line("replay", "%s", v)
	}
	line("log", "%s, by %s", r.Place, r.Program)
	if r.Lost > 0 {
		line("note", "%d decisions before this one were made and not written", r.Lost)
	}
	for _, n := range notes {
		line("note", "%s", n)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func replayInWords(r record.Read, again record.Replayed) []string {
	switch {
	case again.Same && r.Exact:
		return []string{"the same decision, to the byte"}
	case again.Same:
		return []string{"the same decision, to the byte, from samples that are only about those it saw"}
	}
	words := []string{fmt.Sprintf("NOT the same: now %d by the rule %q: %s", again.Decision.Count, again.Decision.Rule, again.Decision.Reason)}
	for _, d := range differences(r.Decision, again.Decision) {
		words = append(words, "  "+d)
	}
	if !r.Exact {
		words = append(words, "the log has only about the samples that it saw: their source tells the past anew at each query")
	}
	if len(r.Unknown) > 0 {
		words = append(words, "this version does not know the rules "+strings.Join(r.Unknown, ", "))
	}
	if r.Exact {
		words = append(words, fmt.Sprintf("it was decided by %s, and this is %s: another version may decide otherwise", r.Program, record.Program()))
	}
	return words
}

// differences are the terms that two decisions differ in.
func differences(was, is plan.Decision) []string {
	var out []string
	for _, w := range was.Terms {
		switch n, ok := is.Term(w.Name); {
		case !ok:
			out = append(out, fmt.Sprintf("%s was %g, is not there", w.Name, w.Value))
		case n.Value != w.Value:
			out = append(out, fmt.Sprintf("%s was %g, is %g", w.Name, w.Value, n.Value))
		}
	}
	for _, n := range is.Terms {
		if _, ok := was.Term(n.Name); !ok {
			out = append(out, fmt.Sprintf("%s was not there, is %g", n.Name, n.Value))
		}
	}
	return out
}

func seen(in plan.Input) string {
	words := []string{fmt.Sprintf("count %d", in.Count)}
	for _, s := range []struct {
		name string
		s    demand.Series
	}{{"demand", in.Demand}, {"load", in.Load}, {"queue", in.Queue}} {
		if last, ok := s.s.Last(); ok {
			words = append(words, fmt.Sprintf("%d samples of %s over %s, the last one %g units, %s old", len(s.s), s.name,
				board.Age(s.s.Span()), last.Value, board.Age(in.Now.Sub(last.At))))
		}
	}
	if len(words) == 1 {
		words = append(words, "no sample")
	}
	if n := len(in.Starting); n > 0 {
		words = append(words, fmt.Sprintf("%d starting", n))
	}
	return strings.Join(words, "; ")
}
