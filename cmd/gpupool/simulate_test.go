package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// simulate runs the command as typed.
func simulate(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	cmd := newSimulate()
	var b, e bytes.Buffer
	cmd.SetOut(&b)
	cmd.SetErr(&e)
	cmd.SetArgs(args)
	err = cmd.Execute()
	if e.Len() > 0 {
		t.Errorf("stderr, which is no terminal, got %q", e.String())
	}
	return b.String(), err
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// fiveHours is a file with a small trace.
func fiveHours(t *testing.T) string {
	t.Helper()
	var rows strings.Builder
	for i := range 300 {
		fmt.Fprintf(&rows, "%d,%d\n", i*60, 50+i%60)
	}
	return write(t, "mine.csv", rows.String())
}

func TestSimulateWithoutArgumentsTellsAWeek(t *testing.T) {
	out, err := simulate(t, "--policy", "tracking-queue")
	if err != nil || !strings.Contains(out, "generated week") || !strings.Contains(out, "lower bound") || !strings.Contains(out, "tracking-queue") {
		t.Errorf("error %v, output:\n%s", err, out)
	}
}

func TestSimulateJSONHasTheDocumentedMembers(t *testing.T) {
	out, err := simulate(t, "--trace", fiveHours(t), "--policy", "tracking", "--policy", "predictive", "--policy", "tracking",
		"--peak", "8", "--json", "--front")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Trace    struct{ Name string }
		LeadS    float64 `json:"lead_s"`
		Peak     float64
		SLOWaitS float64 `json:"slo_wait_s"`
		Bound    struct {
			GPUHours float64 `json:"gpu_hours"`
		}
		Policies []struct {
			Name  string
			Front []struct{ Attainment float64 }
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if got.Trace.Name != "mine.csv" || got.LeadS != 300 || got.Peak != 8 || got.SLOWaitS != 60 || got.Bound.GPUHours <= 0 ||
		len(got.Policies) != 2 || got.Policies[1].Name != "predictive" || len(got.Policies[0].Front) == 0 {
		t.Errorf("%+v", got)
	}
}

// What gpupool tune writes, and what people copy from jobs/policies, can be
// simulated as it is, beside any other policy.
func TestSimulateTakesPolicyFiles(t *testing.T) {
	mine := write(t, "mine.hcl", "strategy \"gpupool\" {\n  wear = \"1h\"\n}\n")
	out, err := simulate(t, "--trace", fiveHours(t), "--policy", "tracking", "--policy", mine, "--policy", "../../jobs/policies/gpu-hosts.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tracking", "mine.hcl", "gpu-hosts.hcl"} {
		if !strings.Contains(out, name) {
			t.Errorf("%s is not in:\n%s", name, out)
		}
	}
	bad := write(t, "bad.hcl", "strategy \"gpupool\" {\n  slo = 99\n}\n")
	if _, err := simulate(t, "--policy", bad); err == nil || !strings.Contains(err.Error(), "--policy: bad.hcl:2: ") {
		t.Errorf("error %v", err)
	}
}

func TestSimulateBillsPriceClasses(t *testing.T) {
	out, err := simulate(t, "--trace", fiveHours(t), "--policy", "tracking", "--peak", "8", "--class", "owned=0.4,max=3", "--class", "spot=1,interrupt=0.1", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Policies []struct {
			GPUHours float64 `json:"gpu_hours"`
			Classes  []struct {
				Name     string
				GPUHours float64 `json:"gpu_hours"`
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if p := got.Policies[0]; len(p.Classes) != 2 || p.Classes[0].Name != "owned" || p.Classes[0].GPUHours <= 0 || p.Classes[1].GPUHours <= 0 {
		t.Errorf("%+v", p)
	}
}

func TestSimulateWritesAReport(t *testing.T) {
	name := filepath.Join(t.TempDir(), "report.html")
	if _, err := simulate(t, "--trace", fiveHours(t), "--policy", "tracking", "--html", name); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(name)
	if err != nil || !bytes.Contains(page, []byte("</html>")) {
		t.Errorf("%d bytes, error %v", len(page), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(name), ".report-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := simulate(t, "--trace", fiveHours(t), "--policy", "tracking", "--html", filepath.Join(name, "no", "such", "place")); err == nil || !strings.Contains(err.Error(), "--html") {
		t.Errorf("error %v", err)
	}
}

func TestSimulateSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--policy", "magic"}, `--policy "magic": there is no such policy; there are all, FILE.hcl, predictive, `},
		{[]string{"--trace", "/no/such/file"}, "--trace: open /no/such/file"},
		{[]string{"--trace", write(t, "bad.csv", "0,1\n60,x\n")}, `bad.csv:2: invalid trace: arrivals "x" is not a number`},
		{[]string{"--trace", "x", "--prometheus", "http://127.0.0.1:1"}, "give one"},
		{[]string{"--query", "x"}, "give --prometheus"},
		{[]string{"--generate", "moon"}, `--generate "moon": must be week or shop`},
		{[]string{"--tier", "rack"}, `--tier "rack": must be instance or host,instance`},
		{[]string{"--lead", "-1s"}, "lead -1s: must be 0 to 24h"},
		{[]string{"--lead", "0s"}, "must not be 0"},
		{[]string{"--price", "0"}, "--price and --cycle-price: must be above 0"},
		{[]string{"--class", "spot"}, `--class "spot": "spot" is not of the form KEY=VALUE`},
		{[]string{"--class", "spot=1", "--tier", "host,instance"}, "give one of the two"},
		{[]string{"--warmup", "999h"}, "warmup 999h0m0s: must be shorter than the trace"},
		{[]string{"stray"}, "unknown command"},
	} {
		_, err := simulate(t, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want one with %q", c.args, err, c.want)
		}
	}
}

func TestCommandLineCanBePasted(t *testing.T) {
	if got := commandLine([]string{"/tmp/x/gpupool", "simulate", "--query", "sum(increase(a{b='c'}[1m]))"}); got != `gpupool simulate --query 'sum(increase(a{b='\''c'\''}[1m]))'` {
		t.Error(got)
	}
}
