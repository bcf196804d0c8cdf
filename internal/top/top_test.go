package top

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gpupool/gpupool/internal/board"
	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/queue"
)

var update = flag.Bool("update", false, "rewrite the drawing in testdata")

func ok(v float64) fleet.Value { return fleet.Value{Quality: fleet.QualityOK, Value: &v} }

// rack is a view in which everything occurs.
func rack() View {
	running, oldest := 3.0, 90*time.Second
	busy := fleet.GPU{
		Index: 0, Name: "NVIDIA H100 80GB HBM3", State: fleet.StateOK, Health: fleet.Health{Verdict: "ok"},
		Busy: ok(0.87), MemoryUsed: ok(61 << 30), MemoryTotal: ok(80 << 30), Power: ok(612), Temperature: ok(64),
		Processes: fleet.Processes{Quality: fleet.QualityOK, Total: 2, Outside: 1, List: []fleet.Process{
			{PID: 7, Comm: "python"}, {PID: 8, Alloc: "1f0ac6d2-0000", Task: "llm"}}},
	}
	idle := fleet.GPU{Index: 1, State: fleet.StateLost, Processes: fleet.Processes{Quality: fleet.QualityLost},
		Busy: fleet.Value{Quality: fleet.QualityLost}}
	return View{
		At: time.Date(2026, 11, 22, 12, 0, 5, 0, time.UTC),
		Pools: []board.Pool{
			{Name: "h100", Want: &consul.Want{Count: 2}, Status: &consul.Status{Note: "1 more wanted", Hosts: []consul.HostStatus{{Phase: "ready"}, {Phase: "off"}, {Phase: "ready"}}}},
			{Name: "new"},
		},
		Agents: map[string]Agent{
			"gpu-1": {Snapshot: fleet.Snapshot{GPUs: []fleet.GPU{busy, idle}, Instances: &fleet.Instances{Known: true, List: []fleet.Instance{
				{Job: "chat", Engine: "vllm", Model: "llama", State: fleet.Serving, For: 125, Load: map[fleet.Signal]fleet.Value{fleet.Waiting: ok(2), fleet.Running: ok(31), fleet.KVUsed: ok(0.5)}},
				{Job: "chat", State: fleet.Cold, For: 3}}}}},
			"gpu-2": {Snapshot: fleet.Snapshot{Driver: fleet.Driver{State: fleet.DriverNone, Why: "no kernel module"}}},
			"gpu-3": {Err: errors.New("agent of node gpu-3 at 10.0.0.3:9109: no route")},
		},
		Queues: map[string]Queue{
			"tasks": {Depth: queue.Depth{Reading: queue.Reading{Waiting: 17, Running: &running, Oldest: &oldest}}},
			"mail":  {Err: errors.New("queue server unreachable: source \"redis\"")},
		},
		Notes: []string{"Nomad cannot be read"},
	}
}

// What is drawn is to be read: a change of it is to be looked at.
func TestDraw(t *testing.T) {
	var b strings.Builder
	if err := Draw(&b, rack(), 0); err != nil {
		t.Fatal(err)
	}
	const file = "testdata/rack.txt"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || b.String() != string(want) {
		t.Errorf("error %v, or another drawing (-update rewrites it):\n%s", err, b.String())
	}
}

func TestDrawIsCutToTheTerminal(t *testing.T) {
	var b strings.Builder
	if err := Draw(&b, rack(), 40); err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(b.String(), "\n") {
		if n := utf8.RuneCountInString(line); n > 40 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
}

// A job's name, or a process's, must not speak to the terminal.
func TestDrawObeysNobody(t *testing.T) {
	v := View{Agents: map[string]Agent{"gpu-1\x1b[2J": {Err: errors.New("a\tb\nc\x1b]0;owned\x07\u009b31m")}}}
	var b strings.Builder
	if err := Draw(&b, v, 0); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\x07\u009b\t") {
		t.Errorf("%q", b.String())
	}
	if n := strings.Count(b.String(), "\n"); n != 4 {
		t.Errorf("%d lines:\n%s", n, b.String())
	}
}

func TestNothingToShow(t *testing.T) {
	var b strings.Builder
	if err := Draw(&b, View{At: time.Date(2026, 11, 22, 12, 0, 5, 0, time.UTC)}, 80); err != nil || b.String() != "12:00:05   0 hosts, 0 GPUs, 0 in use, 0.0 kW\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}
