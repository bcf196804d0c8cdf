package main

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/agent/nvmltest"
	"github.com/gpupool/gpupool/internal/fleet"
)

// BenchmarkFootprint is what the agent takes from its host. One operation is
// one second of an agent that samples eight GPUs with a process on each, is
// scraped once and answers its snapshot once; -benchtime 60x is a minute of
// it. The processor time has that of the fake library in it, which reads its
// file at every call.
func BenchmarkFootprint(b *testing.B) {
	state := nvmltest.State{"count": "8"}
	for i := range 8 {
		state[nvmltest.GPU(i, "util")] = "90"
		state[nvmltest.GPU(i, "procs")] = fmt.Sprintf("%d:70000", os.Getpid())
	}
	h := on(b, state)
	h.trace = os.DevNull
	h.args = []string{"-period", "1s", "-consul", "off"}
	h.start()
	h.sees("eight GPUs", func(s fleet.Snapshot) bool { return s.Usable() == 8 })
	before := processorTime(b, h.cmd.Process.Pid)
	second := time.NewTicker(time.Second)
	defer second.Stop()
	began := time.Now()
	for b.Loop() {
		<-second.C
		h.snapshot()
		h.metrics()
	}
	used := processorTime(b, h.cmd.Process.Pid) - before
	b.ReportMetric(100*used.Seconds()/time.Since(began).Seconds(), "%-of-a-core")
	b.ReportMetric(kilobytes(b, h.cmd.Process.Pid, "VmRSS")/1024, "MiB-RSS")
	b.ReportMetric(kilobytes(b, h.cmd.Process.Pid, "VmHWM")/1024, "MiB-peak-RSS")
	b.ReportMetric(float64(threads(b, h.cmd.Process.Pid)), "threads")
	size, err := http.Get("http://" + h.addr + fleet.SnapshotPath)
	if err != nil {
		b.Fatal(err)
	}
	size.Body.Close()
	b.ReportMetric(float64(size.ContentLength), "B-snapshot")
}

// processorTime is what a process used of all processors; see proc(5).
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
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
