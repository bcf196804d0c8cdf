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
	// It takes so many seconds for what it has begun.
	work := filepath.Join(dir, "work")
	must(t, os.WriteFile(work, []byte(`#!/bin/sh
trap 'echo INT >$1.end; exit 1' INT
trap 'sleep $2; echo TERM >$1.new; mv $1.new $1.end; exit 0' TERM
touch $1.begin
while :; do sleep 0.05; done
`), 0o700))

	for _, test := range []struct {
		job, before string
		purged      bool
		told        string
	}{
		{"workers", "exec", false, "TERM\n"},
		{"serve", "exec", false, "TERM\n"},
		{"train", "exec", true, "TERM\n"},
		{"workers", "echo begin;", false, ""},
	} {
		name := filepath.Join(dir, fmt.Sprintf("%s-%.4s", test.job, test.before))
		seconds := 1
		if test.purged {
			seconds = 4 // for a look at it meanwhile, on a busy machine
		}
		text, err := os.ReadFile(filepath.Join("../../jobs", test.job+".nomad.hcl"))
		must(t, err)
		j, err := server.API().Jobs().ParseHCLOpts(&api.JobsParseRequest{
			JobHCL: string(text), Canonicalize: true,
			Variables: fmt.Sprintf("command = %q", fmt.Sprintf("%s %s %s %d; true", test.before, work, name, seconds)),
		})
		must(t, err)
		count := 1
		j.TaskGroups[0].Count = &count
		j.TaskGroups[0].ShutdownDelay = nil // who sends requests is not here
		submit(t, server, j)
		eventually(t, name+" runs", func() bool { return is(name + ".begin") })
		if asked := *j.TaskGroups[0].Tasks[0].KillTimeout; asked < DefaultMaxKillTimeout {
			t.Errorf("%s asks for %s to end", test.job, asked)
		}
		_, _, err = server.API().Jobs().Deregister(test.job, test.purged, nil)
		must(t, err)
		if test.purged {
			// Its allocations are gone with it, while its task still has its time. If
			// Nomad shows them, docs/reference/nomad.md needs its warning no more.
			if work := one(t, c, "gpu-1").Work; len(work) != 0 || is(name+".end") {
				t.Errorf("%s is purged: Nomad has %v, and it is over: %t", name, work, is(name+".end"))
			}
			eventually(t, name+" ends in order", func() bool { return is(name + ".end") })
		}
		eventually(t, name+" is stopped", func() bool { return len(one(t, c, "gpu-1").Work) == 0 })
		told, _ := os.ReadFile(name + ".end")
		if string(told) != test.told {
			t.Errorf("%s, with %q before its work, was told %q, want %q", test.job, test.before, told, test.told)
		}
	}
}

func is(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
