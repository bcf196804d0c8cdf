package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gpupool/gpupool/agent/nvmltest"
	"github.com/gpupool/gpupool/internal/fleet"
)

// askEvery is how often the process is asked for all it knows.
var askEvery = flag.Duration("footprint.ask", time.Second, "in BenchmarkFootprint, `time` from one scrape to the next, whole seconds")

// BenchmarkFootprint is what the agent takes from its host. One operation is
// one second of an agent that samples eight GPUs, each with a process;
// -benchtime 60x is a minute of it, and 3600x an hour, in which it says each ten
// minutes what it takes. Once a second, or as often as -footprint.ask says, it is
// scraped and answers its snapshot. The processor time has that of the fake library
// in it, which looks at its file at every call.
//
// Beside it runs its nearest peer, where there is one: nvidia_gpu_exporter
// (github.com/utkuozdemir/nvidia_gpu_exporter) with its NVML backend, over the
// same library, sampling and scraped once a second too. It is looked for on the
// PATH, or where NVIDIA_GPU_EXPORTER says, and wants a build with cgo. NVIDIA's
// dcgm-exporter cannot run here: it talks to DCGM, which has no such library.
func BenchmarkFootprint(b *testing.B) {
	b.Run("agent", func(b *testing.B) {
		h := on(b, eightBusyGPUs())
		h.trace = "" // is no part of a driver
		h.args = []string{"-period", "1s", "-consul", "off", "-nomad", "off"}
		h.start()
		h.sees("eight GPUs", func(s fleet.Snapshot) bool { return s.Usable() == 8 })
		h.footprint()
		size, err := http.Get("http://" + h.addr + fleet.SnapshotPath)
		if err != nil {
			b.Fatal(err)
		}
		size.Body.Close()
		b.ReportMetric(float64(size.ContentLength), "B-snapshot")
		b.ReportMetric(float64(series(h.metrics())), "series")
	})
	name := os.Getenv("NVIDIA_GPU_EXPORTER")
	if name == "" {
		name = "nvidia_gpu_exporter"
	}
	peer, err := exec.LookPath(name)
	if err != nil {
		b.Logf("without the peer: %v", err)
		return
	}
	b.Run("nvidia_gpu_exporter", func(b *testing.B) {
		h := on(b, eightBusyGPUs())
		addr := freeAddress(b)
		cmd := exec.Command(peer, "--collect.backend=nvml", "--collect.interval=1s", "--collect.compute-apps", "--web.listen-address="+addr)
		cmd.Env = append(os.Environ(), nvmltest.FileEnv+"="+h.file, "LD_LIBRARY_PATH="+filepath.Dir(h.library))
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		h.addr = addr
		h.eventually("the peer sees eight GPUs", func() bool {
			text, err := read("http://" + addr + "/metrics")
			return err == nil && strings.Count(text, "\nnvidia_smi_utilization_gpu_ratio{") == 8
		})
		footprint(b, cmd.Process.Pid, "http://"+addr+"/metrics")
		b.ReportMetric(float64(series(h.metrics())), "series")
	})
}

// eightBusyGPUs have each a process of the test's own.
func eightBusyGPUs() nvmltest.State {
	state := nvmltest.State{"count": "8"}
	for i := range 8 {
		state[nvmltest.GPU(i, "util")] = "90"
		state[nvmltest.GPU(i, "gpm.sm")] = "40"
		state[nvmltest.GPU(i, "nvlinks")] = "18 18 0"
		state[nvmltest.GPU(i, "fabric")] = "3 0 1"
		state[nvmltest.GPU(i, "throttle")] = "0x4"
		state[nvmltest.GPU(i, "procs")] = fmt.Sprintf("%d:70000", os.Getpid())
	}
	return state
}

// footprint is that of the agent, with its goroutines.
func (h *host) footprint() {
	b := h.TB.(*testing.B)
	b.Helper()
	before := h.goroutines()
	footprint(b, h.cmd.Process.Pid, "http://"+h.addr+fleet.SnapshotPath, "http://"+h.addr+"/metrics")
	after := h.goroutines()
	b.ReportMetric(after, "goroutines")
	b.ReportMetric(after-before, "goroutines-grown")
}

func (h *host) goroutines() float64 {
	h.Helper()
	m := regexp.MustCompile(`(?m)^go_goroutines (\d+)$`).FindStringSubmatch(h.metrics())
	if m == nil {
		h.Fatal("no go_goroutines")
	}
	n, _ := strconv.ParseFloat(m[1], 64) // digits
	return n
}

// footprint lets a process be for a second an operation, asks it now and then, and
// reports what it took. What has grown is what it holds at the end more than a
// minute after the start, or than at the start of a shorter run.
func footprint(b *testing.B, pid int, urls ...string) {
	b.Helper()
	refused := 0 // as where the machine has no time for it
	ask := func() {
		for _, url := range urls {
			if _, err := read(url); err != nil {
				refused++
			}
		}
	}
	ask()
	first := taken(b, pid)
	before := processorTime(b, pid)
	second := time.NewTicker(time.Second)
	defer second.Stop()
	began := time.Now()
	for n := 1; b.Loop(); n++ {
		<-second.C
		if n%max(1, int(*askEvery/time.Second)) == 0 {
			ask()
		}
		if n == 60 {
			first = taken(b, pid)
		}
		if n%600 == 0 {
			used := processorTime(b, pid) - before
			b.Logf("after %d s: %s, %.2f %% of a core", n, taken(b, pid), 100*used.Seconds()/time.Since(began).Seconds())
		}
	}
	used := processorTime(b, pid) - before
	last := taken(b, pid)
	b.ReportMetric(100*used.Seconds()/time.Since(began).Seconds(), "%-of-a-core")
	b.ReportMetric(last.memory, "MiB-RSS")
	b.ReportMetric(kilobytes(b, pid, "VmHWM")/1024, "MiB-peak-RSS")
	b.ReportMetric(float64(last.threads), "threads")
	b.ReportMetric(last.memory-first.memory, "MiB-grown")
	b.ReportMetric(float64(last.files-first.files), "files-grown")
	b.ReportMetric(float64(last.threads-first.threads), "threads-grown")
	if refused > 0 {
		b.ReportMetric(float64(refused), "not-answered")
	}
}

// holdings are what a process holds.
type holdings struct {
	memory         float64 // resident, MiB
	files, threads int
}

func (h holdings) String() string {
	return fmt.Sprintf("%.1f MiB resident, %d open files, %d threads", h.memory, h.files, h.threads)
}

func taken(b *testing.B, pid int) holdings {
	b.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		b.Fatal(err)
	}
	return holdings{kilobytes(b, pid, "VmRSS") / 1024, len(files), threads(b, pid)}
}

// series counts the series in an exposition.
func series(text string) (n int) {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			n++
		}
	}
	return n
}

// read reads what is at a URL.
func read(url string) (string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", errors.New(resp.Status)
	}
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// freeAddress is one that nobody listens on.
func freeAddress(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// processorTime is what a process used of all processors, to the nanosecond; see
// clock_getcpuclockid(3). The times in /proc/PID/stat are counted at the ticks of
// a clock that also wakes the agent, which makes them several times too long or
// too short.
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	const scheduled = 2 // CPUCLOCK_SCHED
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Nano())
}

// kilobytes is a field of /proc/PID/status.
func kilobytes(b *testing.B, pid int, field string) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + field + `:\s+(\d+) kB$`).FindSubmatch(text)
	if m == nil {
		b.Fatalf("no %s in\n%s", field, text)
	}
	n, _ := strconv.ParseFloat(string(m[1]), 64) // digits
	return n
}
