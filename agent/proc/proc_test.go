package proc

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const alloc = "7a5b3c1d-0e2f-4a6b-8c9d-0123456789ab"

// start runs a shell script with an environment and returns the number that
// the script prints first, or the shell's own PID if that is 0.
func start(t *testing.T, env []string, script string) int {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = env
	stdin, err := cmd.StdinPipe() // the scripts end when it is closed
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestOwnerOfRealProcesses(t *testing.T) {
	path := "PATH=" + os.Getenv("PATH")
	mine := []string{path, "NOMAD_TASK_NAME=train", "NOMAD_ALLOC_ID=" + alloc}
	for _, tt := range []struct {
		name        string
		pid         int
		alloc, task string
	}{
		{"in an allocation", start(t, mine, "echo $$; read x"), alloc, "train"},
		{"child that cleared its environment", start(t, mine, `env -i PATH="$PATH" sh -c 'echo $$; read x'; true`), alloc, "train"},
		{"in no allocation", start(t, []string{path}, "echo $$; read x"), "", ""},
		{"claims what is no allocation", start(t, []string{path, "NOMAD_ALLOC_ID=../../etc"}, "echo $$; read x"), "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := New("/proc").Owner(tt.pid)
			if got.Err != nil || got.Alloc != tt.alloc || got.Task != tt.task || got.Comm == "" {
				t.Errorf("Owner = %+v, want allocation %q, task %q and a name", got, tt.alloc, tt.task)
			}
		})
	}
}

func TestOwnerThatCannotBeKnown(t *testing.T) {
	t.Run("no such process", func(t *testing.T) {
		if got := New("/proc").Owner(1 << 30); got.Err == nil || got.Alloc != "" {
			t.Errorf("Owner = %+v, want an error", got)
		}
	})
	t.Run("environment cannot be read", func(t *testing.T) {
		root := t.TempDir()
		write(t, root, 7, "stat", statLine(7, "python3", 1, 100))
		write(t, root, 7, "cgroup", "0::/user.slice\n")
		if got := New(root).Owner(7); got.Err == nil || got.Alloc != "" || got.Comm != "python3" {
			t.Errorf("Owner = %+v, want an error and the name", got)
		}
	})
}

func TestOwnerIsKeptWhileTheProcessExits(t *testing.T) {
	root := t.TempDir()
	write(t, root, 7, "stat", statLine(7, "python3", 1, 100))
	write(t, root, 7, "environ", "NOMAD_ALLOC_ID="+alloc+"\x00")
	table := New(root)
	table.Owner(7)

	os.RemoveAll(filepath.Join(root, "7"))
	if got := table.Owner(7); got.Alloc != alloc {
		t.Errorf("Owner of a process that just ended = %+v, want allocation %s", got, alloc)
	}

	write(t, root, 7, "stat", statLine(7, "miner", 1, 200)) // the PID is used again
	write(t, root, 7, "environ", "HOME=/root\x00")
	if got := table.Owner(7); got.Alloc != "" || got.Comm != "miner" {
		t.Errorf("Owner of a new process with an old PID = %+v, want no allocation", got)
	}
}

func TestAncestorsAreBounded(t *testing.T) {
	root := t.TempDir()
	for pid := 10; pid < 20; pid++ { // a ring of parents, which no kernel makes
		write(t, root, pid, "stat", statLine(pid, "ring", 10+(pid+1)%10, 1))
		write(t, root, pid, "environ", "A=b\x00")
	}
	if got := New(root).Owner(10); got.Alloc != "" || got.Err != nil {
		t.Errorf("Owner = %+v, want none", got)
	}
}

func TestParseCgroup(t *testing.T) {
	for _, tt := range []struct{ name, text, alloc, task string }{
		{"v2 share", "0::/nomad.slice/share.slice/" + alloc + ".train.scope\n", alloc, "train"},
		{"v2 reserve", "0::/nomad.slice/reserve.slice/" + alloc + ".my-task.v2.scope\n", alloc, "my-task.v2"},
		{"v2 under another group", "0::/system.slice/nomad.slice/share.slice/" + alloc + ".train.scope/inner\n", alloc, "train"},
		{"v1", "5:freezer:/nomad/" + alloc + ".train\n4:cpuset:/nomad/share/" + alloc + ".train\n", alloc, "train"},
		{"docker", "0::/system.slice/docker-" + strings.Repeat("ab", 32) + ".scope\n", "", ""},
		{"the Nomad client", "0::/system.slice/nomad.service\n", "", ""},
		{"not Nomad's", "0::/user.slice/" + alloc + ".train.scope\n", "", ""},
		{"empty", "", "", ""},
		{"garbage", "::\n:\n\x00", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			alloc, task, ok := parseCgroup(tt.text)
			if alloc != tt.alloc || task != tt.task || ok != (tt.alloc != "") {
				t.Errorf("parseCgroup = %q, %q, %t, want %q, %q", alloc, task, ok, tt.alloc, tt.task)
			}
		})
	}
}

func TestParseEnviron(t *testing.T) {
	for _, tt := range []struct{ name, text, alloc, task string }{
		{"both", "A=b\x00NOMAD_ALLOC_ID=" + alloc + "\x00NOMAD_TASK_NAME=t\x00", alloc, "t"},
		{"cut off", "A=b\x00NOMAD_ALLOC_ID=" + alloc, "", ""},
		{"task of no allocation", "NOMAD_TASK_NAME=t\x00", "", ""},
		{"hostile task", "NOMAD_TASK_NAME=\x1b[2J\n\xff\x00NOMAD_ALLOC_ID=" + alloc + "\x00", alloc, "?[2J??"},
		{"another variable", "XNOMAD_ALLOC_ID=" + alloc + "\x00", "", ""},
		{"empty", "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parseEnviron([]byte(tt.text))
			if got.Alloc != tt.alloc || got.Task != tt.task || ok != (tt.alloc != "") {
				t.Errorf("parseEnviron = %+v, %t, want %q, %q", got, ok, tt.alloc, tt.task)
			}
		})
	}
}

func TestParseStat(t *testing.T) {
	got, err := parseStat(statLine(7, "a) R (b", 42, 99))
	if want := (stat{"a) R (b", 42, "99"}); err != nil || got != want {
		t.Errorf("parseStat = %+v, %v, want %+v", got, err, want)
	}
	for _, line := range []string{"", "7 (x", "7 (x) R", ")(", "7 (x) R " + strings.Repeat("x ", 30)} {
		if got, err := parseStat(line); err == nil {
			t.Errorf("parseStat(%q) = %+v, want an error", line, got)
		}
	}
}

func statLine(pid int, comm string, parent, started int) string {
	return fmt.Sprintf("%d (%s) S %d %s%d 0 0\n", pid, comm, parent, strings.Repeat("0 ", 17), started)
}

func write(t *testing.T, root string, pid int, name, text string) {
	t.Helper()
	dir := filepath.Join(root, strconv.Itoa(pid))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
