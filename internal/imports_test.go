// Package internal_test keeps the house's import directions true.
package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/gpupool/gpupool/"

// pure packages decide. They may import the standard library, gonum and each
// other, and nothing that has a clock of its own, chance, or a way out.
var pure = []string{"internal/demand", "internal/forecast", "internal/history", "internal/plan", "internal/pool"}

// forbidden in pure packages. Package time is allowed for its types; that no
// pure package asks it for the time is TestPureAsksNoClock.
var forbidden = []string{"os", "net", "context", "log", "log/slog", "math/rand", "math/rand/v2", "syscall", "sync"}

// directions says what a package of the project may import of the project. A
// package that is not named may import nothing of it.
var directions = map[string][]string{
	"internal/demand":       nil,
	"internal/forecast":     {"internal/demand"},
	"internal/history":      {"internal/demand"},
	"internal/plan":         {"internal/demand", "internal/forecast"},
	"internal/pool":         nil,
	"internal/control":      {"internal/pool"},
	"internal/power":        {"internal/pool"},
	"internal/nomad":        {"internal/pool", "internal/httplimit"},
	"internal/consul":       {"internal/pool", "internal/history", "internal/httplimit"},
	"internal/engine":       nil,
	"internal/fleet":        {"internal/httplimit", "internal/mtls"},
	"internal/mtls":         nil,
	"internal/record":       {"internal/plan", "internal/demand", "internal/pool", "internal/jsonl", "internal/version", "internal/digits"},
	"internal/digits":       nil,
	"internal/version":      nil,
	"internal/jsonl":        nil,
	"internal/inventory":    {"internal/plainhcl", "internal/setting", "internal/secret"},
	"internal/plainhcl":     {"internal/setting"},
	"internal/queue":        {"internal/plainhcl", "internal/setting", "internal/secret"},
	"internal/setting":      {"internal/secret"},
	"internal/secret":       nil,
	"internal/pluginconfig": {"internal/setting"},
	"internal/pluginhost":   nil,
	"internal/httplimit":    nil,
}

type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

// look looks at the project's files, which the tests here read by other programs:
// go test would answer from its cache when one of them has changed.
func look(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") {
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	look(t)
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Imports,Deps"}, args...)...)
	cmd.Dir = ".."
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, errs.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestPure(t *testing.T) {
	found := 0
	for _, p := range list(t, "./internal/...") {
		rel := strings.TrimPrefix(p.ImportPath, module)
		if !slices.Contains(pure, rel) {
			continue
		}
		found++
		for _, imp := range p.Imports {
			if slices.Contains(forbidden, imp) {
				t.Errorf("%s imports %s: a decision takes what it needs as arguments", rel, imp)
			}
		}
		for _, dep := range p.Deps {
			first, _, _ := strings.Cut(dep, "/")
			outside := strings.Contains(first, ".")
			ours := strings.HasPrefix(dep, module)
			switch {
			case ours && !slices.Contains(pure, strings.TrimPrefix(dep, module)):
				t.Errorf("%s depends on %s, which is not pure", rel, dep)
			case outside && !ours && !strings.HasPrefix(dep, "gonum.org/"):
				t.Errorf("%s depends on %s: pure packages use the standard library and gonum", rel, dep)
			}
		}
	}
	if found < 3 {
		t.Fatalf("found %d pure packages: the list in this test is out of date", found)
	}
}

func TestDirections(t *testing.T) {
	for _, p := range list(t, "./...") {
		rel := strings.TrimPrefix(p.ImportPath, module)
		allowed, listed := directions[rel]
		for _, imp := range p.Imports {
			target, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			for _, top := range []string{"plugins/", "cmd/"} {
				if strings.HasPrefix(target, top) && !strings.HasPrefix(rel, target) && !strings.HasPrefix(rel, top) {
					t.Errorf("%s imports %s: nothing imports a program", rel, target)
				}
			}
			if listed && !slices.Contains(allowed, target) {
				t.Errorf("%s imports %s: see the directions in ARCHITECTURE.md", rel, target)
			}
		}
	}
}

// TestPureAsksNoClock: time.Now and its kin are nowhere in pure packages.
func TestPureAsksNoClock(t *testing.T) {
	look(t)
	for _, dir := range pure {
		out, err := exec.Command("grep", "-rnE", `\btime\.(Now|Since|Until|Sleep|After|Tick|NewTimer|NewTicker|AfterFunc)\(`, "--include=*.go", "--exclude=*_test.go", "../"+dir).Output()
		var exit *exec.ExitError
		switch {
		case err == nil:
			t.Errorf("a clock in a pure package:\n%s", out)
		case errors.As(err, &exit) && exit.ExitCode() == 1: // nothing found
		case errors.As(err, &exit) && exit.ExitCode() == 2: // no such folder yet
		default:
			t.Fatal(err)
		}
	}
}
