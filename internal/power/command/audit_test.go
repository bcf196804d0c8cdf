package command

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/gpupool/gpupool/internal/power"
)

func TestAudit(t *testing.T) {
	program := filepath.Join(t.TempDir(), "power")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{Host: "a", State: []string{program, "state"}, On: []string{program, "on"}, OffSoft: []string{"/bin/true"}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, step := range []struct {
		before func() error
		want   power.Level
	}{
		{func() error { return os.Chmod(program, 0o755) }, power.Good},
		{func() error { return os.Chmod(program, 0o775) }, power.Wrong},
		{func() error { return os.Chmod(program, 0o757) }, power.Wrong},
		{func() error { return os.Remove(program) }, power.Wrong},
	} {
		if err := step.before(); err != nil {
			t.Fatal(err)
		}
		found := d.Audit(t.Context())
		if len(found) != 2 { // it, once, and /bin/true
			t.Fatalf("got %+v", found)
		}
		worst := max(found[0].Level, found[1].Level)
		if worst != step.want {
			t.Errorf("got %+v, want %s", found, step.want)
		}
	}
}
