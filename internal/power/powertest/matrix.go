package powertest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
)

// Update is the flag -update of the tests of drivers: write what tests compare
// with.
var Update = flag.Bool("update", false, "rewrite what the tests compare with")

// RowFile is the file in a driver's folder that says which cases its rigs pass,
// and why they lack the others: its row of the matrix of driver and case.
const RowFile = "testdata/contract.txt"

// What a row says of a case.
const (
	Passing = "passes"
	Lacking = "does not apply: " // and why
)

// Case is a case as a driver's row has it.
type Case struct {
	Name   string
	Passes bool
	Why    string // it does not apply
}

// row is what a rig says of each case.
func row(rig Rig) string {
	var b strings.Builder
	for _, c := range cases {
		says := Passing
		if why, ok := rig.Lacks[c.name]; ok {
			says = Lacking + why
		}
		fmt.Fprintf(&b, "%s: %s\n", c.name, says)
	}
	return b.String()
}

// checkRow compares a rig with its driver's row, or writes that.
func checkRow(rig Rig, update bool) error {
	want := row(rig)
	if update {
		if err := os.MkdirAll(filepath.Dir(RowFile), 0o755); err != nil {
			return err
		}
		return os.WriteFile(RowFile, []byte(want), 0o644)
	}
	got, err := os.ReadFile(RowFile)
	if err != nil {
		return fmt.Errorf("the driver's row of the matrix: %w; run the test with -update", err)
	}
	if string(got) != want {
		return fmt.Errorf("%s is not what this rig says; run the test with -update, and then that of package drivers\ngot:\n%swant:\n%s", RowFile, got, want)
	}
	return nil
}

// ReadRow reads the row of the driver in a folder.
func ReadRow(folder string) ([]Case, error) {
	text, err := os.ReadFile(filepath.Join(folder, RowFile))
	if err != nil {
		return nil, err
	}
	var out []Case
	for line := range strings.Lines(string(text)) {
		name, says, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch why, lacks := strings.CutPrefix(says, Lacking); {
		case lacks:
			out = append(out, Case{Name: name, Why: why})
		case says == Passing:
			out = append(out, Case{Name: name, Passes: true})
		default:
			return nil, fmt.Errorf("%s: %q is no line of a row", filepath.Join(folder, RowFile), line)
		}
	}
	return out, nil
}

// results are what became of each case in this run.
type results struct {
	mu sync.Mutex
	of map[string]string // by case
}

func newResults() *results { return &results{of: make(map[string]string)} }

func (r *results) set(name, result string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of[name] = result
}

func result(t *testing.T) string {
	if t.Failed() {
		return "FAILS"
	}
	return Passing
}

// String is a table.
func (r *results) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 2, 0, 2, ' ', 0)
	for _, c := range cases {
		says, ok := r.of[c.name]
		if !ok {
			says = "was not run"
		}
		fmt.Fprintf(t, "  %s\t%s\n", c.name, says)
	}
	_ = t.Flush() // to memory
	return b.String()
}
