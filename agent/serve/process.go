package serve

import (
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// The metrics of the process, named as Prometheus' clients name them. Their
// collector for Go is not used: at each scrape it reads the counters of the
// host's network and of its processors besides, in about as much time as the rest of
// the page takes.
var (
	processCPU = Metric{"process_cpu_seconds_total", prometheus.CounterValue, nil,
		"Processor time that the process used, user and system."}
	processMemory = Metric{"process_resident_memory_bytes", prometheus.GaugeValue, nil,
		"Resident memory of the process."}
	processStart = Metric{"process_start_time_seconds", prometheus.GaugeValue, nil,
		"When the process was started, in seconds since 1970."}
	processFiles = Metric{"process_open_fds", prometheus.GaugeValue, nil,
		"Open file descriptors."}
	processMostFiles = Metric{"process_max_fds", prometheus.GaugeValue, nil,
		"Most file descriptors that may be open."}

	processMetrics = []Metric{processCPU, processMemory, processStart, processFiles, processMostFiles}
)

var started = time.Now()

// collectProcess sends what the kernel says of this process.
func collectProcess(send func(m Metric, value float64, labels ...string)) {
	send(processStart, float64(started.UnixMilli())/1000)
	var used unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &used) == nil {
		send(processCPU, time.Duration(used.Utime.Nano()+used.Stime.Nano()).Seconds())
	}
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		send(processMostFiles, float64(files.Cur))
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		send(processFiles, float64(len(open)-1)) // one was there to read it
	}
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, resident int64
		if _, err := fmt.Sscan(string(text), &size, &resident); err == nil {
			send(processMemory, float64(resident*int64(os.Getpagesize())))
		}
	}
}
