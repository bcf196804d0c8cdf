package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// past starts a real Prometheus (Debian package prometheus) that remembers the
// text, in the OpenMetrics format, and returns its URL.
func past(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	file, data, config := filepath.Join(dir, "past"), filepath.Join(dir, "data"), filepath.Join(dir, "prometheus.yml")
	for name, content := range map[string]string{file: text, config: ""} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("promtool", "tsdb", "create-blocks-from", "openmetrics", file, data).CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v (make tools PACKAGES=test installs it)\n%s", err, out)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	var log strings.Builder
	cmd := exec.Command("prometheus", "--config.file", config, "--storage.tsdb.path", data, "--web.listen-address", address)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get("http://" + address + "/-/ready")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return "http://" + address
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("prometheus did not start")
		}
	}
}

// Two days of two GPUs: embed has a fifth of one and works a quarter of the
// time, train fills the other. What agents export and what is asked for go
// together.
func TestAdviseSizesGPUs(t *testing.T) {
	var b strings.Builder
	series := func(name string, value func(i int) float64) {
		begin := time.Now().Add(-48 * time.Hour).Truncate(time.Minute)
		for i := range 48*12 - 2 {
			fmt.Fprintf(&b, "%s %g %d\n", name, value(i), begin.Add(time.Duration(i)*5*time.Minute).Unix())
		}
	}
	always := func(v float64) func(int) float64 { return func(int) float64 { return v } }
	family := func(name string) { fmt.Fprintf(&b, "# TYPE %s gauge\n", name) }
	const gib = 1 << 30
	family("gpupool_gpu_memory_total_bytes")
	series(`gpupool_gpu_memory_total_bytes{gpu="GPU-a"}`, always(80*gib))
	series(`gpupool_gpu_memory_total_bytes{gpu="GPU-b"}`, always(80*gib))
	family("gpupool_allocation_gpu_memory_bytes")
	series(`gpupool_allocation_gpu_memory_bytes{gpu="GPU-a",alloc_id="1",task="embed"}`, func(i int) float64 { return float64(8+i%9) * gib })
	series(`gpupool_allocation_gpu_memory_bytes{gpu="GPU-b",alloc_id="2",task="train"}`, func(i int) float64 { return float64(20+i%50) * gib })
	family("gpupool_gpu_busy_ratio")
	series(`gpupool_gpu_busy_ratio{gpu="GPU-a"}`, func(i int) float64 { return 0.15 + 0.1*float64(i%2) })
	series(`gpupool_gpu_busy_ratio{gpu="GPU-b"}`, always(0.97))
	b.WriteString("# EOF\n")

	out, err := gpupool(t, "advise", "--agents", past(t, b.String()), "--agents-range", "72h", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var got advice
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Findings) != 1 {
		t.Fatalf("%s", out)
	}
	f := got.Findings[0]
	contains(t, "the finding", f.What, "task embed", "20% of its GPU's 80 GiB", "20% of the time (95th percentile 25%)")
	contains(t, "the change", f.Change, "let 3 of them share a GPU")
	for _, figure := range f.Figures {
		if figure.Name == "held" && (figure.Value < 47 || figure.Value > 49) {
			t.Errorf("held for %g GPU-hours", figure.Value)
		}
	}
}

func TestAdviseSizesSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--agents", "http://127.0.0.1:1"}, "--agents: prometheus http://127.0.0.1:1"},
		{[]string{"--agents", "http://127.0.0.1:1", "--agents-range", "1s"}, "--agents-range 1s: want 1h to 2160h"},
	} {
		t.Setenv(logEnv, "")
		if _, err := gpupool(t, append([]string{"advise"}, c.args...)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.args, err)
		}
	}
}
