package nomad

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/nomad/nomadtest"
)

// The jobs that people copy: what is to end in its own time hears SIGTERM, and
// is let. Where the shell has not made place for it, it is not, which is why
// their commands begin with exec.
func TestJobsEndInOrder(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	server.GPUClient("gpu-1", "count 8")
	dir := t.TempDir()
	// It takes a second for what it has begun.
	work := filepath.Join(dir, "work")
	must(t, os.WriteFile(work, []byte(`#!/bin/sh
trap 'echo INT >$1.end; exit 1' INT
trap 'sleep 1; echo TERM >$1.end; exit 0' TERM
touch $1.begin
while :; do sleep 0.05; done
`), 0o700))

	for _, test := range []struct{ job, before, told string }{
		{"workers", "exec", "TERM\n"},
		{"serve", "exec", "TERM\n"},
		{"train", "exec", "TERM\n"},
		{"workers", "echo begin;", ""},
	} {
		name := filepath.Join(dir, fmt.Sprintf("%s-%.4s", test.job, test.before))
		text, err := os.ReadFile(filepath.Join("../../jobs", test.job+".nomad.hcl"))
		must(t, err)
		j, err := server.API().Jobs().ParseHCLOpts(&api.JobsParseRequest{
			JobHCL: string(text), Canonicalize: true,
			Variables: fmt.Sprintf("command = %q", fmt.Sprintf("%s %s %s; true", test.before, work, name)),
		})
		must(t, err)
		count := 1
		j.TaskGroups[0].Count = &count
		j.TaskGroups[0].ShutdownDelay = nil // who sends requests is not here
		submit(t, server, j)
		eventually(t, name+" runs", func() bool {
			_, err := os.Stat(name + ".begin")
			return err == nil
		})
		if asked := *j.TaskGroups[0].Tasks[0].KillTimeout; asked < DefaultMaxKillTimeout {
			t.Errorf("%s asks for %s to end", test.job, asked)
		}
		_, _, err = server.API().Jobs().Deregister(test.job, false, nil)
		must(t, err)
		eventually(t, name+" is stopped", func() bool { return len(one(t, c, "gpu-1").Work) == 0 })
		told, _ := os.ReadFile(name + ".end")
		if string(told) != test.told {
			t.Errorf("%s, with %q before its work, was told %q, want %q", test.job, test.before, told, test.told)
		}
	}
}

// A job that is purged takes its allocations with it, while their tasks still
// have their time to end: nothing of them is seen. If Nomad shows them again,
// docs/reference/nomad.md needs its warning no more.
func TestPurgedWorkIsNotSeen(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	server.Client("gpu-1", "")
	end := filepath.Join(t.TempDir(), "end")
	j := job("slow", "batch", group1("g", 1, 10))
	j.TaskGroups[0].Tasks[0].Config = map[string]any{"command": "/bin/sh", "args": []string{"-c", fmt.Sprintf("trap 'sleep 2; touch %s; exit 0' INT; while :; do sleep 0.05; done", end)}}
	submit(t, server, j)
	eventually(t, "it runs", func() bool { return running(server, "slow") == 1 && len(one(t, c, "gpu-1").Work) == 1 })
	_, _, err := server.API().Jobs().Deregister("slow", true, nil)
	must(t, err)
	work := one(t, c, "gpu-1").Work
	if _, err := os.Stat(end); err == nil {
		t.Fatal("the task is over already: this tests nothing")
	}
	if len(work) != 0 {
		t.Errorf("Nomad has %+v", work)
	}
	eventually(t, "the task ends in order", func() bool {
		_, err := os.Stat(end)
		return err == nil
	})
}
