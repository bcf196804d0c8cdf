package nvmltest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestState(t *testing.T) {
	got, err := ParseState(strings.NewReader(`
# two GPUs
count 2
gpu0.name  NVIDIA L40S
gpu0.util 10
gpu0.util 20
  gpu1.lost	1
`))
	if err != nil {
		t.Fatal(err)
	}
	want := State{"count": "2", "gpu0.name": "NVIDIA L40S", "gpu0.util": "20", GPU(1, "lost"): "1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parsed state differs (-want +got):\n%s", diff)
	}

	path := filepath.Join(t.TempDir(), "state")
	if err := want.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err = ParseState(f); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("state that was written and read differs (-want +got):\n%s", diff)
	}
}

func TestStateRefusesEndlessLine(t *testing.T) {
	if _, err := ParseState(strings.NewReader(strings.Repeat("x", maxLineBytes+1))); err == nil {
		t.Error("a line above the limit was accepted")
	}
}

func TestNoCompilerNamesTheMend(t *testing.T) {
	t.Setenv("CC", "/nonexistent/cc")
	_, err := BuildTo(t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "apt install gcc") {
		t.Errorf("BuildTo without a compiler: %v, want a hint to install one", err)
	}
}

func TestBuild(t *testing.T) {
	if _, err := os.Stat(Build(t)); err != nil {
		t.Error(err)
	}
}
