package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// folder has two traces, of five hours and of three days.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, minutes := range map[string]int{"short": 300, "long": 3 * 24 * 60} {
		var b strings.Builder
		for i := range minutes {
			fmt.Fprintf(&b, "%d,%d\n", i*60, 40+i%50)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".csv"), []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTables(t *testing.T) {
	dir := folder(t)
	for _, c := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"### Lead 5 min, peak 4\n", "--lead 5m --peak 4; done", "| trace | days | bound, GPU-h | tracking | static-peak |",
			"| long | 3 |", "| short | 0.208 |", "| **longer than 2 days: mean cost, worst on time** | | |"}},
		{[]string{"--equal", "0.99"}, []string{", cost at 99.00 % on time", "--front; done", "| **mean of the traces longer than 2 days** | | |"}},
	} {
		var out strings.Builder
		args := append([]string{"--traces", dir, "--leads", "5m", "--peaks", "4", "--policies", "tracking,static-peak"}, c.args...)
		if err := run(args, &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%v: lacks %q:\n%s", c.args, want, out.String())
			}
		}
		if columns := strings.Count(out.String(), "|\n"); columns != 5 {
			t.Errorf("%v: %d rows:\n%s", c.args, columns, out.String())
		}
	}
}

func TestTablesSayWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "--traces: which folder?"},
		{[]string{"--traces", t.TempDir()}, "no *.csv in"},
		{[]string{"--traces", folder(t), "--leads", "soon"}, "--leads: "},
		{[]string{"--traces", folder(t), "--peaks", "high"}, "--peaks: "},
		{[]string{"--traces", folder(t), "--policies", "magic"}, `there is no "magic"`},
	} {
		if err := run(c.args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want one with %q", c.args, err, c.want)
		}
	}
}
