package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gpupool/gpupool/internal/sim"
	"github.com/gpupool/gpupool/internal/tune"
)

// tuneFlags is what the operator asked of gpupool tune: the world is described
// as to gpupool simulate.
type tuneFlags struct {
	simulateFlags
	traces []string
	budget int
	write  string
}

func newTune() *cobra.Command {
	var f tuneFlags
	cmd := &cobra.Command{
		Use:   "tune",
		Short: "Search the strategy's settings on demand that was, and show cost against lateness",
		Long: `Search the settings of strategy-predictive on demand that was, in the world of
gpupool simulate, and show what each would have cost and how late it would have
been: the settings that no other beats in both, beside the defaults, tracking
with a queue, and the smallest pool of a fixed size.

It says so where autoscaling cannot pay, and where the choice does not carry over
to days that it was not made by. Nothing is contacted or changed.`,
		Example: `  gpupool tune
  gpupool tune --trace october.csv --trace november.csv --lead 8m --peak 12
  gpupool tune --trace november.csv --slo 0.995 --budget 256 --write strategy.hcl`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			context.AfterFunc(ctx, stop) // a second one ends the process
			return f.run(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f.registerWorld(cmd)
	fl := cmd.Flags()
	fl.StringArrayVar(&f.traces, "trace", nil, "demand to tune on, may be repeated: CSV offset_s,arrivals[,input_tokens,output_tokens] or JSON lines; - is stdin (default: a generated week)")
	fl.IntVar(&f.budget, "budget", 128, "settings to try: all on a quarter of the days, the better half on half of them, the best quarter on all")
	fl.BoolVar(&f.json, "json", false, "write JSON, the stable form in docs/reference/tune.md")
	fl.StringVar(&f.write, "write", "", "write the chosen settings to `FILE`, as a strategy block")
	return cmd
}

func (f *tuneFlags) run(ctx context.Context, out, progress io.Writer) error {
	if err := f.check(); err != nil {
		return err
	}
	traces, err := f.readAll(ctx)
	if err != nil {
		return err
	}
	show := newProgress(progress)
	report, err := tune.Tune(ctx, f.config, traces, tune.Options{Budget: f.budget, Progress: show.step})
	show.clear()
	if err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted before anything was known")
		}
		return err
	}
	if f.write != "" {
		if err := writePolicy(f.write, report); err != nil {
			return err
		}
	}
	if f.json {
		err = report.WriteJSON(out)
	} else {
		err = report.WriteText(out)
	}
	if err == nil && report.Interrupted {
		err = errors.New("interrupted: this is the best so far")
	}
	return err
}

func (f *tuneFlags) check() error {
	if err := f.checkWorld(); err != nil {
		return err
	}
	if len(f.classes) > 0 {
		return errors.New("--class: tune weighs all GPU-hours at one --price")
	}
	if f.budget < 1 {
		return fmt.Errorf("--budget %d: must be at least 1", f.budget)
	}
	if f.write == "" {
		return nil
	}
	return replaceable(f.write)
}

// readAll reads every trace, or the one that comes without a file.
func (f *tuneFlags) readAll(ctx context.Context) ([]sim.Trace, error) {
	names := f.traces
	if len(names) == 0 {
		names = []string{""}
	}
	var traces []sim.Trace
	for _, name := range names {
		f.trace = name
		t, err := f.read(ctx)
		if err != nil {
			return nil, err
		}
		traces = append(traces, t)
	}
	return traces, nil
}

// replaceable refuses to lose a file that somebody wrote by hand.
func replaceable(name string) error {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("--write: %w", err)
	}
	defer func() { _ = file.Close() }() // read only: there is nothing to lose
	head := make([]byte, len(tune.PolicyHeader))
	if n, err := io.ReadFull(file, head); n > 0 && (err != nil || string(head) != tune.PolicyHeader) {
		return fmt.Errorf("--write: %s is there already and was not written by gpupool tune: name another file", name)
	}
	return nil
}

// writePolicy writes the chosen settings, whole or not at all.
func writePolicy(name string, r *tune.Report) error {
	var text bytes.Buffer
	if err := r.WritePolicy(&text, commandLine(os.Args)); err != nil {
		return fmt.Errorf("--write: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".strategy-*.hcl")
	if err != nil {
		return fmt.Errorf("--write: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // after the rename it is not there any more
	_, err = f.Write(text.Bytes())
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("--write: %w", err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("--write: %w", err)
	}
	return nil
}
