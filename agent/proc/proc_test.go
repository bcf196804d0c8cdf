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
	"testing/synctest"
	"time"
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

// TestNobodyIsLookedAtAgain: a process of no allocation is not asked about all
// the time, and not for ever either.
func TestNobodyIsLookedAtAgain(t *testing.T) {
	root := t.TempDir()
	write(t, root, 7, "stat", statLine(7, "python3", 1, 100))
	write(t, root, 7, "environ", "HOME=/root\x00")
	synctest.Test(t, func(t *testing.T) {
		table := New(root)
		table.Owner(7)
		write(t, root, 7, "environ", "NOMAD_ALLOC_ID="+alloc+"\x00")
		time.Sleep(nobodyFor - time.Nanosecond)
		if got := table.Owner(7); got.Alloc != "" {
			t.Errorf("Owner = %+v, want what was found a moment before", got)
		}
		time.Sleep(time.Nanosecond)
		if got := table.Owner(7); got.Alloc != alloc {
			t.Errorf("Owner = %+v, want allocation %s", got, alloc)
		}
	})
}

// TestOwners finds the owners of the processes in testdata/owners.txt.
func TestOwners(t *testing.T) {
	text, err := os.ReadFile("testdata/owners.txt")
	if err != nil {
		t.Fatal(err)
	}
	type process struct {
		name, parent, want string
		files              map[string]string
	}
	var all []*process
	pids := map[string]int{"": 1}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.Trim(line, " \n"), " ")
		switch {
		case key == "" || key[0] == '#':
		case key == "process":
			all = append(all, &process{name: value, files: map[string]string{"cgroup": "", "environ": ""}})
			pids[value] = 100 + len(all)
		case key == "parent":
			all[len(all)-1].parent = value
		case key == "want":
			all[len(all)-1].want = value
		case key == "hidden":
			delete(all[len(all)-1].files, value)
		case key == "cgroup":
			all[len(all)-1].files[key] += value + "\n"
		case key == "environ":
			all[len(all)-1].files[key] += value + "\x00"
		default:
			t.Fatalf("testdata/owners.txt: there is no key %q", key)
		}
	}
	root := t.TempDir()
	for _, p := range all {
		write(t, root, pids[p.name], "stat", statLine(pids[p.name], "x", pids[p.parent], 1))
		for name, text := range p.files {
			write(t, root, pids[p.name], name, text)
		}
	}
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			o := New(root).Owner(pids[p.name])
			got := "nobody"
			switch {
			case o.Err != nil:
				got = "unknown"
			case o.Alloc != "":
				got = strings.TrimRight(strings.Join(append([]string{o.Alloc, o.Task}, o.Devices...), " "), " ")
			}
			if got != p.want {
				t.Errorf("belongs to %s, want %s", got, p.want)
			}
		})
	}
}

func TestForeign(t *testing.T) {
	const gpu, other, part = "GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa", "MIG-11111111-2222-3333-4444-555555555555"
	for _, tt := range []struct {
		name    string
		devices []string
		mig     string
		want    bool
	}{
		{"its own", []string{other, gpu}, "", false},
		{"another's", []string{other}, "", true},
		{"not known", nil, "", false},
		{"its own part", []string{part}, part, false},
		{"another part", []string{part}, "MIG-other", true},
		{"a part, and it is not known which the process is on", []string{part}, "", false},
		{"the whole of a divided GPU", []string{gpu}, part, false},
		{"a part, as older drivers name it", []string{"MIG-" + gpu + "/7/0"}, part, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := (Owner{Alloc: alloc, Devices: tt.devices}).Foreign(gpu, tt.mig); got != tt.want {
				t.Errorf("Foreign = %t, want %t", got, tt.want)
			}
		})
	}
	if (Owner{Devices: []string{other}}).Foreign(gpu, "") {
		t.Error("a process of no allocation is foreign")
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

func TestParseCgroup(t *testing.T) { // testdata/owners.txt has the good ones
	for _, text := range []string{"", "::\n:\n\x00", "0::/nomad.slice/share.slice/" + alloc + "\n", "0::nomad.slice/" + alloc + ".t.scope\n"} {
		if alloc, task, ok := parseCgroup(text); ok {
			t.Errorf("parseCgroup(%q) = %q, %q, want none", text, alloc, task)
		}
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
