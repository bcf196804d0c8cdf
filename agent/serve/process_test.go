package serve_test

import (
	"math"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// TestProcess holds the metrics of the process against those of Prometheus' own
// collector, which is asked a moment later.
func TestProcess(t *testing.T) {
	got := scrape(t, handler(busyHost(), ""))
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	theirs := map[string]float64{}
	for _, f := range families {
		theirs[f.GetName()] = value(f.GetType(), f.Metric[0])
	}
	for name, tolerance := range map[string]float64{
		"process_cpu_seconds_total": 1, "process_resident_memory_bytes": 16 << 20, "process_start_time_seconds": 2,
		"process_open_fds": 8, "process_max_fds": 0,
	} {
		mine, there := got[name+"{}"]
		if want, known := theirs[name]; !there || !known || math.Abs(mine-want) > tolerance {
			t.Errorf("%s is %g (%t), want %g (%t)", name, mine, there, want, known)
		}
	}
}
