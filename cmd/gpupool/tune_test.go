package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tuned runs the command as typed.
func tuned(ctx context.Context, t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	cmd := newTune()
	var b, e bytes.Buffer
	cmd.SetOut(&b)
	cmd.SetErr(&e)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(ctx)
	if e.Len() > 0 {
		t.Errorf("stderr, which is no terminal, got %q", e.String())
	}
	return b.String(), err
}

// hours is a trace of some hours with a wave in it.
func hours(t *testing.T, n int) string {
	var rows strings.Builder
	for i := range n * 60 {
		fmt.Fprintf(&rows, "%d,%d\n", i*60, 50+i%60)
	}
	return write(t, "mine.csv", rows.String())
}

func TestTuneShowsAndWrites(t *testing.T) {
	trace, file := hours(t, 12), filepath.Join(t.TempDir(), "strategy.hcl")
	args := []string{"--trace", trace, "--trace", trace, "--peak", "4", "--budget", "2"}
	out, err := tuned(context.Background(), t, append(args, "--write", file)...)
	if err != nil || !strings.Contains(out, "chosen: predictive") || strings.Count(out, "mine.csv: ") != 2 {
		t.Errorf("error %v, output:\n%s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), `strategy "gpupool" {`) {
		t.Errorf("error %v, file:\n%s", err, text)
	}
	// What it wrote itself it may write again; and the JSON is all of stdout.
	out, err = tuned(context.Background(), t, append(args, "--write", file, "--json")...)
	var got struct {
		Traces []struct{ Name string }
		Chosen struct{ Cost float64 }
		Advice struct{ Do string }
	}
	if err != nil || json.Unmarshal([]byte(out), &got) != nil || len(got.Traces) != 2 || got.Chosen.Cost <= 0 || got.Advice.Do == "" {
		t.Errorf("error %v, %+v from:\n%s", err, got, out)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".strategy-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTuneSaysWhatIsWrong(t *testing.T) {
	mine := write(t, "mine.hcl", "strategy \"gpupool\" {}\n")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--budget", "0"}, "--budget 0: must be at least 1"},
		{[]string{"--price", "0"}, "--price and --cycle-price: must be above 0"},
		{[]string{"--write", mine}, "was not written by gpupool tune: name another file"},
		{[]string{"--trace", "/no/such/file"}, "--trace: open /no/such/file"},
		{[]string{"--trace", hours(t, 3), "--slo", "1", "--budget", "1"}, "slo 1: must be below 1"},
		{[]string{"--tier", "rack"}, `--tier "rack"`},
		{[]string{"--policy", "hpa"}, "unknown flag: --policy"},
		{[]string{"stray"}, "unknown command"},
	} {
		_, err := tuned(context.Background(), t, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want one with %q", c.args, err, c.want)
		}
	}
	if text, err := os.ReadFile(mine); err != nil || string(text) != "strategy \"gpupool\" {}\n" {
		t.Errorf("error %v, the file is now %q", err, text)
	}
}

func TestTuneInterruptedAtOnce(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	out, err := tuned(ctx, t, "--trace", hours(t, 3))
	if err == nil || err.Error() != "interrupted before anything was known" || out != "" {
		t.Errorf("error %v, output %q", err, out)
	}
}
